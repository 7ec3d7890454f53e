"""Statistics of a check: by hand, against closed forms, by law."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inframind.calibration import STATISTICS, bootstrap, compare, repeat_spread, statistics
from inframind.calibration.check_statistics import block_length

Floats = NDArray[np.float64]
NAN = math.nan


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float64)


def independent(seed: int, num: int) -> Floats:
    return np.random.default_rng(seed).normal(10.0, 1.0, num)


def autoregressive(seed: int, num: int, correlation: float) -> Floats:
    """Mean 10, standard deviation 1."""
    noise = np.random.default_rng(seed).normal(0.0, math.sqrt(1 - correlation**2), num)
    values = np.zeros(num)
    for index in range(1, num):
        values[index] = correlation * values[index - 1] + noise[index]
    return 10 + values


# Comparing.


def test_two_times_of_four_requests_by_hand() -> None:
    comparison = compare(floats(2, 4, 1, 6), floats(2, 4.5, 1, 5.75))

    assert comparison.num_requests == 4
    assert comparison.observed == pytest.approx({"mean": 3.25, "p50": 3.0, "p90": 5.4, "p99": 5.94})
    assert comparison.predicted == pytest.approx({"mean": 3.3125, "p50": 3.25, "p90": 5.375, "p99": 5.7125})
    assert comparison.relative_error["mean"] == pytest.approx(0.0625 / 3.25)
    assert comparison.relative_error["p50"] == pytest.approx(0.25 / 3)
    assert comparison.bias_s == pytest.approx(0.0625)
    assert comparison.mean_abs_error_s == pytest.approx(0.75 / 4)
    assert comparison.mape == pytest.approx((0 + 1 / 8 + 0 + 1 / 24) / 4)
    assert comparison.median_ape == pytest.approx(1 / 48)
    assert comparison.rank_correlation == pytest.approx(1.0)


def test_only_requests_of_which_both_are_known_count() -> None:
    comparison = compare(floats(1, NAN, 3, 5), floats(2, 2, NAN, 5))

    assert (comparison.num_requests, comparison.observed["mean"], comparison.predicted["mean"]) == (2, 3.0, 3.5)


def test_of_no_requests_nothing_is_known() -> None:
    comparison = compare(floats(NAN), floats(1))

    assert comparison.num_requests == 0
    figures = [comparison.bias_s, comparison.mape, comparison.rank_correlation, *comparison.relative_error.values()]
    assert all(map(math.isnan, figures))


def test_the_rank_correlation_sees_the_order_only() -> None:
    observed = floats(1, 2, 3, 4)

    assert compare(observed, observed**3).rank_correlation == pytest.approx(1.0)
    assert compare(observed, -observed).rank_correlation == pytest.approx(-1.0)
    assert math.isnan(compare(observed, floats(1, 1, 1, 1)).rank_correlation)
    # 1 - 6 sum(d^2) / (n (n^2 - 1)) with d = 1, -1, 0, 0
    assert compare(observed, floats(2, 1, 3, 4)).rank_correlation == pytest.approx(0.8)


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=30),
    st.floats(0.1, 10.0),
)
def test_what_is_wrong_by_one_factor_is_so_in_every_figure(observed: list[float], factor: float) -> None:
    values = np.array(observed)

    comparison = compare(values, factor * values)

    assert comparison.relative_error == pytest.approx(dict.fromkeys(STATISTICS, factor - 1), abs=1e-9)
    assert comparison.mape == pytest.approx(abs(factor - 1), abs=1e-9)
    assert comparison.median_ape == pytest.approx(abs(factor - 1), abs=1e-9)


# Repeats.


def test_the_spread_of_two_runs_is_their_relative_difference() -> None:
    spread = repeat_spread([statistics(floats(9, 11)), statistics(floats(10, 12))])

    assert (spread.kind, spread.num_runs) == ("repeats", 2)
    assert spread.interval.high["mean"] == pytest.approx(1 / 10.5)
    assert spread.interval.low["mean"] == pytest.approx(-1 / 10.5)


def test_the_spread_of_three_runs_is_the_mean_over_the_pairs() -> None:
    spread = repeat_spread([statistics(floats(value)) for value in (1, 2, 3)])

    assert spread.interval.high["mean"] == pytest.approx((1 / 1.5 + 1 / 2.5 + 2 / 2) / 3)


def test_one_run_has_no_spread() -> None:
    with pytest.raises(ValueError, match="at least two runs, got 1"):
        repeat_spread([statistics(floats(1))])


# Bootstrap.


@pytest.mark.parametrize(("statistic", "factor"), [("mean", 1.0), ("p50", math.sqrt(math.pi / 2))])
def test_of_independent_values_the_sampling_error_is_the_textbooks(statistic: str, factor: float) -> None:
    """Normal values: standard error sigma / sqrt(n) of the mean, sqrt(pi / 2) times that of the median."""
    num = 2000
    widths = []
    for seed in range(5):
        values = independent(seed, num)
        spread, _ = bootstrap([(values, values)])
        assert spread.kind == "sampling"
        widths.append(spread.interval.high[statistic] - spread.interval.low[statistic])

    expected = 2 * 1.96 * factor / math.sqrt(num) / 10
    assert np.mean(widths) == pytest.approx(expected, rel=0.12)


def test_of_alike_neighbours_the_sampling_error_is_wider_as_theory_says() -> None:
    """First-order autoregression: the mean varies by sqrt((1 + r) / (1 - r)) times as much, here 3 times."""
    num = 2000
    widths = []
    for seed in range(8):
        values = autoregressive(seed, num, 0.8)
        spread, _ = bootstrap([(values, values)])
        widths.append(spread.interval.high["mean"] - spread.interval.low["mean"])

    of_independent = 2 * 1.96 / math.sqrt(num) / 10
    # A block bootstrap of finite length stays somewhat below; drawing single values would give 1.
    assert 2.3 < np.mean(widths) / of_independent < 3.3


def test_blocks_are_as_long_as_neighbours_are_alike() -> None:
    lengths = {r: np.mean([block_length(autoregressive(seed, 2000, r)) for seed in range(8)]) for r in (0.0, 0.5, 0.9)}

    assert lengths[0.0] <= 3
    assert lengths[0.0] < lengths[0.5] < lengths[0.9]
    # (2 G^2 / D)^(1/3) n^(1/3) with G = 2 r / (1 - r)^2 and D = 4/3 ((1 + r) / (1 - r))^2.
    best = (6 * 0.9**2 / (1 - 0.9**2) ** 2) ** (1 / 3) * 2000 ** (1 / 3)
    assert lengths[0.9] == pytest.approx(best, rel=0.4)


def test_a_prediction_that_follows_the_load_has_an_error_that_is_well_known() -> None:
    """Each request keeps its prediction: what is wrong by one factor is so in every resample."""
    observed = autoregressive(0, 300, 0.9)

    spread, errors = bootstrap([(observed, 1.05 * observed)])

    assert errors.low == pytest.approx(dict.fromkeys(STATISTICS, 0.05))
    assert errors.high == pytest.approx(dict.fromkeys(STATISTICS, 0.05))
    assert spread.interval.high["mean"] - spread.interval.low["mean"] > 0.01


def test_conditions_keep_their_share_of_the_requests() -> None:
    """Two constant conditions: drawn together their mean would vary by tens of percent."""
    strata = [(np.full(50, value), np.full(50, value)) for value in (1.0, 100.0)]

    spread, _ = bootstrap(strata)

    assert spread.interval.low == pytest.approx(dict.fromkeys(STATISTICS, 0.0))
    assert spread.interval.high == pytest.approx(dict.fromkeys(STATISTICS, 0.0))


def test_of_one_request_no_sampling_error_is_known() -> None:
    spread, errors = bootstrap([(floats(1, NAN), floats(1, 1))])

    assert spread.kind == "unknown"
    assert math.isnan(spread.interval.high["mean"])
    assert math.isnan(errors.high["mean"])


def test_the_same_log_gives_the_same_intervals() -> None:
    values = independent(0, 50)

    assert bootstrap([(values, values)]) == bootstrap([(values, values)])


@pytest.mark.parametrize("values", [floats(1, 1, 1, 1, 1), floats(1, 2), np.arange(300.0)])
def test_a_block_is_never_longer_than_the_log_allows(values: Floats) -> None:
    assert 1 <= block_length(values) <= max(1, len(values) // 2)
