import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from inframind.traces.lengths import Constant, Empirical, Length, LogNormal, Uniform

NUM = 200_000

LENGTHS: list[Length] = [
    Constant(tokens=7),
    Uniform(low=3, high=9),
    LogNormal(mean=200, sigma=1.2, max=1500),
    Empirical(values=(5, 50), weights=(1, 3)),
]


def sample(length: Length, num: int = NUM, seed: int = 0) -> np.ndarray:
    return length.sample(np.random.default_rng(seed), num)


def test_constant_and_uniform_have_the_support_they_name() -> None:
    assert set(sample(Constant(tokens=7), 10)) == {7}

    drawn = sample(Uniform(low=3, high=9))

    assert set(drawn) == {3, 4, 5, 6, 7, 8, 9}
    assert drawn.mean() == pytest.approx(6, abs=4 * 2 / NUM**0.5)


@pytest.mark.parametrize(
    ("mean", "sigma", "cut"),
    [(200, 1.0, 1500), (200, 1.5, 1500), (200, 0.3, 1500), (900, 1.0, 1000), (2000, 2.0, 32_000), (99, 4, 100)],
)
def test_the_mean_of_lognormal_lengths_is_met_after_the_cut(mean: float, sigma: float, cut: int) -> None:
    drawn = sample(LogNormal(mean=mean, sigma=sigma, max=cut))

    assert drawn.min() >= 1
    assert drawn.max() <= cut
    assert drawn.mean() == pytest.approx(mean, abs=4 * drawn.std() / NUM**0.5 + 0.01)


def test_a_cut_far_away_leaves_the_textbook_lognormal() -> None:
    drawn = sample(LogNormal(mean=1000, sigma=0.5, max=10**9))

    # Median of a log-normal: mean * exp(-sigma^2 / 2); its standard error is about 1.25 sigma / sqrt(n).
    assert np.median(drawn) == pytest.approx(1000 * np.exp(-0.125), rel=0.01)
    assert np.log(drawn).std() == pytest.approx(0.5, rel=0.01)


def test_a_hard_cut_gathers_at_the_longest_length() -> None:
    drawn = sample(LogNormal(mean=900, sigma=1.0, max=1000))

    assert (drawn == 1000).mean() > 0.5


def test_empirical_lengths_follow_their_weights() -> None:
    drawn = sample(Empirical(values=(5, 50, 9), weights=(1, 3, 0)))

    assert set(drawn) == {5, 50}
    assert (drawn == 50).mean() == pytest.approx(0.75, abs=0.005)
    assert (sample(Empirical(values=(5, 50))) == 50).mean() == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("length", LENGTHS, ids=lambda length: length.kind)
@given(num=st.integers(0, 50), seed=st.integers(0, 2**32))
def test_a_longer_sample_begins_with_the_shorter_one(length: Length, num: int, seed: int) -> None:
    drawn = sample(length, num, seed)

    assert drawn.dtype == np.int64
    np.testing.assert_array_equal(drawn, sample(length, 60, seed)[:num])


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"kind": "constant", "tokens": 0}, "greater than or equal to 1"),
        ({"kind": "uniform", "low": 5, "high": 4}, r"low \(5\) must be at most high \(4\)"),
        ({"kind": "lognormal", "mean": 100, "max": 100}, r"mean \(100\) must be less than max \(100\)"),
        ({"kind": "empirical", "values": [1, 2], "weights": [1]}, "weights has 1 entries where values has 2"),
        ({"kind": "empirical", "values": [1], "weights": [0]}, "weights must not all be 0"),
        ({"kind": "empirical", "values": []}, "at least one entry"),
    ],
)
def test_impossible_distributions_are_refused(fields: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        TypeAdapter(Length).validate_python(fields)
