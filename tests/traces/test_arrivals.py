import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from inframind.traces.arrivals import Arrivals, Client, Clients, Gamma, Microburst, Poisson, Sustained

HEAVY_AND_LIGHT = (Client(share=3, cv=4), Client(share=1))
PROCESSES: list[Arrivals] = [
    Poisson(rate_per_min=60),
    Gamma(rate_per_min=60, cv=3),
    Microburst(rate_per_min=60),
    Sustained(rate_per_min=60),
    Clients(rate_per_min=60, clients=HEAVY_AND_LIGHT),
]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.kind)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@every_process
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), num=st.integers(1, 300))
def test_times_are_sorted_start_after_zero_and_repeat_with_the_seed(process: Arrivals, seed: int, num: int) -> None:
    times = process.times(rng(seed), num=num)

    assert len(times) == num
    assert times[0] >= 0
    assert (np.diff(times) >= 0).all()
    np.testing.assert_array_equal(times, process.times(rng(seed), num=num))


@every_process
def test_num_and_duration_cut_one_and_the_same_sequence(process: Arrivals) -> None:
    by_num = process.times(rng(), num=10_000)

    by_duration = process.times(rng(), duration_s=3000.0)

    assert 2000 < len(by_duration) < 10_000
    assert by_duration[-1] < 3000 <= by_num[len(by_duration)]
    np.testing.assert_allclose(by_duration, by_num[: len(by_duration)], rtol=1e-12)


@every_process
def test_exactly_one_of_num_and_duration_is_given(process: Arrivals) -> None:
    with pytest.raises(ValueError, match="give either num"):
        process.times(rng())
    with pytest.raises(ValueError, match="give either num"):
        process.times(rng(), num=1, duration_s=1.0)


@pytest.mark.parametrize("cv", [0.25, 1, 3])
def test_gamma_gaps_have_the_mean_and_the_variation_asked_for(cv: float) -> None:
    num = 200_000
    gaps = np.diff(Gamma(rate_per_min=30, cv=cv).times(rng(), num=num))

    assert gaps.mean() == pytest.approx(2.0, rel=4 * cv / num**0.5)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03)


def test_poisson_is_gamma_with_variation_one() -> None:
    poisson = Poisson(rate_per_min=30).times(rng(), num=1000)

    np.testing.assert_array_equal(poisson, Gamma(rate_per_min=30, cv=1).times(rng(), num=1000))


def test_poisson_counts_have_equal_mean_and_variance() -> None:
    times = Poisson(rate_per_min=60).times(rng(), duration_s=100_000)

    counts = np.bincount((times // 10).astype(int), minlength=10_000)

    assert counts.mean() == pytest.approx(10, rel=0.02)
    assert counts.var() == pytest.approx(10, rel=0.06)


def test_a_bursty_process_expects_the_same_number_in_its_first_seconds_as_later() -> None:
    """An ordinary renewal process would have (cv^2 - 1) / 2 = 7.5 more than these 30."""
    generator = rng()
    process = Gamma(rate_per_min=30, cv=4)

    counts = [len(process.times(generator, duration_s=60)) for _ in range(4000)]

    assert np.mean(counts) == pytest.approx(30, abs=4 * np.std(counts) / 4000**0.5)


def test_microburst_is_ten_times_the_base_rate_for_three_of_twenty_seconds() -> None:
    process = Microburst(rate_per_min=60)
    times = process.times(rng(), duration_s=40_000)

    in_burst = (times % 20) >= 17

    assert len(times) / 40_000 == pytest.approx(2.35, rel=0.02)
    assert in_burst.sum() / (2000 * 3) == pytest.approx(10, rel=0.02)
    assert (~in_burst).sum() / (2000 * 17) == pytest.approx(1, rel=0.03)


def test_sustained_is_three_times_the_base_rate_during_the_surge_and_back_after() -> None:
    generator = rng()
    runs = [Sustained(rate_per_min=60).times(generator, duration_s=300) for _ in range(400)]
    times = np.concatenate(runs)

    before, during, after = (
        ((times >= start) & (times < end)).sum() / (400 * (end - start))
        for start, end in ((0, 60), (60, 180), (180, 300))
    )

    assert before == pytest.approx(1, rel=0.03)
    assert during == pytest.approx(3, rel=0.03)
    assert after == pytest.approx(1, rel=0.03)


def test_changing_rates_map_the_unit_rate_arrivals_through_the_cumulative_rate() -> None:
    """At one a second the arrivals of Poisson are the expected counts at those of the others."""
    units = Poisson(rate_per_min=60).times(rng(), num=2000)
    micro = Microburst(rate_per_min=60).times(rng(), num=2000)
    surge = Sustained(rate_per_min=60).times(rng(), num=2000)

    micro_expected = micro // 20 * 47 + np.minimum(micro % 20, 17) + 10 * np.maximum(micro % 20 - 17, 0)
    surge_expected = surge + 2 * np.clip(surge - 60, 0, 120)

    np.testing.assert_allclose(micro_expected, units, rtol=1e-9)
    np.testing.assert_allclose(surge_expected, units, rtol=1e-9)


@pytest.mark.parametrize("kind", ["poisson", "gamma", "clients"])
def test_twice_the_rate_is_the_same_arrivals_in_half_the_time(kind: str) -> None:
    process = next(process for process in PROCESSES if process.kind == kind)
    twice = process.model_copy(update={"rate_per_min": 120})

    slow, fast = process.times(rng(), num=500), twice.times(rng(), num=500)

    np.testing.assert_allclose(fast, slow / 2, rtol=1e-12)


def test_clients_have_their_shares_and_their_own_burstiness() -> None:
    times, owners = PROCESSES[4].times_and_clients(rng(), duration_s=200_000)  # type: ignore[union-attr]

    assert len(times) / 200_000 == pytest.approx(1, rel=0.04)
    assert (owners == 0).mean() == pytest.approx(0.75, abs=0.02)
    for owner, cv in ((0, 4), (1, 1)):
        gaps = np.diff(times[owners == owner])
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_a_client_that_joins_leaves_the_arrivals_of_the_others() -> None:
    two = Clients(rate_per_min=60, clients=HEAVY_AND_LIGHT)
    three = Clients(rate_per_min=75, clients=(*HEAVY_AND_LIGHT, Client(share=1)))

    times, owners = three.times_and_clients(rng(), duration_s=600)

    np.testing.assert_allclose(times[owners < 2], two.times(rng(), duration_s=600), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Poisson(rate_per_min=0), "greater than 0"),
        (lambda: Microburst(rate_per_min=1, burst_s=20), r"burst_s \(20\) must be less than period_s \(20\)"),
        (lambda: Clients(rate_per_min=1, clients=()), "at least one entry"),
    ],
)
def test_impossible_processes_are_refused(make: object, rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        make()  # type: ignore[operator]
