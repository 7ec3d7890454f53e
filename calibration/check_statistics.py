"""Predicted beside observed: errors of statistics and of single requests, and how much the observed ones vary."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Figures = Mapping[str, float]
"""A figure for each of `STATISTICS`; NaN where there is none."""

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
STATISTICS = ("mean", *_QUANTILES)
NUM_RESAMPLES = 500
_TAILS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was predicted for some requests, beside what was observed of the same ones."""

    num_requests: int
    """Those of which both are known; nothing else counts in any of the figures."""
    observed: Figures
    """Seconds."""
    predicted: Figures
    """Seconds."""
    relative_error: Figures
    """predicted / observed - 1."""
    bias_s: float
    """Mean of predicted - observed."""
    mean_abs_error_s: float
    """Mean of \\|predicted - observed\\|."""
    mape: float
    """Mean of \\|predicted - observed\\| / observed over the requests with an observed time above 0."""
    median_ape: float
    """Median of the same."""
    rank_correlation: float
    """Spearman's, of the single requests; NaN if either side is constant."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Two ends for each of `STATISTICS`."""

    low: Figures
    high: Figures


@dataclass(frozen=True, slots=True)
class Spread:
    """How far from the observed statistics others would be, relative to them."""

    kind: Literal["repeats", "sampling", "unknown"]
    """``repeats``: the same load measured more than once. ``sampling``: other requests of the same kind in the same
    run; that says nothing of another run. ``unknown``: neither could be had."""
    num_runs: int
    """Measurements of the load."""
    interval: Interval
    """``repeats``: plus and minus the mean relative difference between two measurements. ``sampling``: 95 %."""


def statistics(values: Floats) -> dict[str, float]:
    """Return mean and quantiles (linear between two observations); NaN of nothing."""
    if not len(values):
        return dict.fromkeys(STATISTICS, math.nan)
    return dict(zip(STATISTICS, _statistics(values).tolist(), strict=True))


def compare(observed: Floats, predicted: Floats) -> Comparison:
    """Compare two times of each request, shape (n,), NaN where one is not known."""
    both = np.isfinite(observed) & np.isfinite(predicted)
    observed, predicted = observed[both], predicted[both]
    of_observed, of_predicted = statistics(observed), statistics(predicted)
    errors = predicted - observed
    shares = np.abs(errors[observed > 0]) / observed[observed > 0]
    return Comparison(
        num_requests=len(observed),
        observed=of_observed,
        predicted=of_predicted,
        relative_error={name: _relative(of_predicted[name], of_observed[name]) for name in STATISTICS},
        bias_s=_of_any(np.mean, errors),
        mean_abs_error_s=_of_any(np.mean, np.abs(errors)),
        mape=_of_any(np.mean, shares),
        median_ape=_of_any(np.median, shares),
        rank_correlation=_rank_correlation(observed, predicted),
    )


def repeat_spread(runs: Sequence[Figures]) -> Spread:
    """Return how much measurements of the same load differ: the mean over all pairs of \\|a - b\\| / ((a + b) / 2).

    For two runs it is their relative difference, and it does not grow with the number of runs, as a range would.
    """
    pairs = list(combinations(runs, 2))
    if not pairs:
        raise ValueError(f"a spread needs at least two runs, got {len(runs)}")
    differences = {
        name: float(np.mean([_relative_difference(a[name], b[name]) for a, b in pairs])) for name in STATISTICS
    }
    return Spread("repeats", len(runs), Interval({name: -value for name, value in differences.items()}, differences))


def bootstrap(strata: Sequence[tuple[Floats, Floats]], *, seed: int = 0) -> tuple[Spread, Interval]:
    """Return the sampling error of the observed statistics, and 95 % intervals of the relative errors.

    By the moving block bootstrap: requests that queue together are alike, so blocks of neighbours are drawn instead of
    single ones (Künsch 1989, The jackknife and the bootstrap for general stationary observations), as long as
    `block_length` says. The first result is how far the statistics of other requests of the same kind would be: it is
    no difference between two runs. In the second, each request keeps its prediction, which had the same arrivals and
    lengths, so it is narrower where the prediction follows the load.

    Parameters
    ----------
    strata
        Observed and predicted times in order of arrival, shape (n,) each, NaN where one is not known: a pair for each
        condition, of which each keeps its number of requests.
    seed
        Of the draws.
    """
    pairs = [np.stack(pair, axis=1) for pair in strata]
    pairs = [known for pair in pairs if len(known := pair[np.isfinite(pair).all(axis=1)])]
    if sum(map(len, pairs)) < 2:
        nothing = Interval(*[dict.fromkeys(STATISTICS, math.nan)] * 2)
        return Spread("unknown", 1, nothing), nothing
    rng = np.random.default_rng(seed)
    lengths = [block_length(pair[:, 0]) for pair in pairs]
    drawn = np.array(
        [
            _statistics(np.concatenate([_resample(*each, rng) for each in zip(pairs, lengths, strict=True)]))
            for _ in range(NUM_RESAMPLES)
        ]
    )
    observed, predicted = drawn[:, :, 0], drawn[:, :, 1]
    of_all = _statistics(np.concatenate(pairs))[:, 0]
    return Spread("sampling", 1, _interval(observed, of_all)), _interval(predicted, observed)


def block_length(values: Floats) -> int:
    """Return how long the blocks of a bootstrap of the mean should be: 1 for independent values, more for alike ones.

    Politis and White (2004), Automatic block-length selection for the dependent bootstrap, with the correction of
    Patton, Politis and White (2009); their rule for circular blocks, and their constants.
    """
    num = len(values)
    deviations = values - values.mean()
    variance = float(deviations @ deviations) / num
    if num < 4 or variance <= 1e-12 * float(values @ values) / num:
        return 1
    num_quiet = max(5, math.ceil(math.sqrt(math.log10(num))))
    max_lag = min(num - 1, math.ceil(math.sqrt(num)) + num_quiet)
    covariance = np.array([float(deviations[: num - lag] @ deviations[lag:]) / num for lag in range(max_lag + 1)])
    is_loud = np.abs(covariance[1:]) > 2 * math.sqrt(math.log10(num) / num) * variance
    bandwidth = min(2 * max(1, _last_before_quiet(is_loud, num_quiet)), max_lag)

    lags = np.arange(1, bandwidth + 1)
    window = np.minimum(1.0, 2 * (1 - lags / bandwidth))  # flat top: 1 up to half of it, then down to 0
    slope = 2 * float(np.sum(window * lags * covariance[lags]))
    spectrum = variance + 2 * float(np.sum(window * covariance[lags]))
    longest = math.ceil(min(3 * math.sqrt(num), num / 3))
    if spectrum <= 0:  # possible with this window; so strong a dependence wants the longest blocks
        return longest
    best = (2 * slope**2 / (4 / 3 * spectrum**2)) ** (1 / 3) * num ** (1 / 3)
    return int(min(longest, max(1, round(best))))


def _last_before_quiet(is_loud: NDArray[np.bool_], num_quiet: int) -> int:
    """The lag after which the next ones are all quiet; the last loud one if there is no such stretch."""
    loud = np.flatnonzero(is_loud) + 1
    for lag, following in zip([0, *loud], [*loud, len(is_loud) + 1], strict=True):
        if following - lag > num_quiet:
            return int(lag)
    return int(loud[-1]) if len(loud) else 0


def _resample(values: Floats, length: int, rng: np.random.Generator) -> Floats:
    """As many rows as there are, in blocks."""
    starts = rng.integers(0, len(values) - length + 1, size=-(-len(values) // length))
    drawn: Floats = values[(starts[:, None] + np.arange(length)).ravel()[: len(values)]]
    return drawn


def _statistics(values: Floats) -> Floats:
    """Of each column, in the order of `STATISTICS`."""
    return np.concatenate([[values.mean(axis=0)], np.quantile(values, list(_QUANTILES.values()), axis=0)])


def _interval(drawn: Floats, of: Floats) -> Interval:
    """The middle 95 % of the relative differences, for each column of ``drawn``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.quantile(drawn / of - 1, _TAILS, axis=0)
    low, high = (dict(zip(STATISTICS, end.tolist(), strict=True)) for end in ends)
    return Interval(low, high)


def _of_any(statistic: Callable[[Floats], np.floating], values: Floats) -> float:
    return float(statistic(values)) if len(values) else math.nan


def _relative(value: float, of: float) -> float:
    return value / of - 1 if of > 0 else math.nan


def _relative_difference(a: float, b: float) -> float:
    return abs(a - b) / ((a + b) / 2) if a + b > 0 else math.nan


def _rank_correlation(observed: Floats, predicted: Floats) -> float:
    ranks = np.array([pd.Series(side).rank().to_numpy() for side in (observed, predicted)])
    if len(observed) < 2 or not ranks.std(axis=1).all():
        return math.nan
    return float(np.corrcoef(ranks)[0, 1])
