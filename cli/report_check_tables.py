"""The tables of a check, as the page and the terminal show them."""

import math
from collections.abc import Sequence

from inframind.calibration import STATISTICS, Interval, LoadCheck, LogCheck, Spread

from .report_cells import UNKNOWN

SHORT = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}
KEY_FIGURES = (("ttft_s", "mean"), ("ttft_s", "p50"), ("tpot_s", "mean"), ("e2e_s", "mean"), ("e2e_s", "p99"))
"""The errors that stand for a load where it has one row."""
REQUEST_HEADS = ("requests", "bias", "mean |error|", "mean |error| %", "median |error| %", "rank correlation")


def statistic_heads(load: LoadCheck) -> list[str]:
    """Heads of the columns of `statistic_rows`."""
    is_measured = load.metrics["e2e_s"].spread.kind == "repeats"
    return ["observed", "predicted", "error", "95 % of the error", "own spread" if is_measured else "sampling error"]


def statistic_rows(load: LoadCheck, metric: str) -> list[list[str]]:
    """A row for each statistic of a latency: its name, and the columns of `statistic_heads`."""
    check = load.metrics[metric]
    comparison = check.comparison
    return [
        [
            statistic,
            time_cell(comparison.observed[statistic]),
            time_cell(comparison.predicted[statistic]),
            error_cell(comparison.relative_error[statistic]),
            interval_cell(check.error_interval, statistic),
            spread_cell(check.spread, statistic),
        ]
        for statistic in STATISTICS
    ]


def request_rows(load: LoadCheck) -> list[list[str]]:
    """A row for each latency: its name, and how far single requests are off."""
    return [
        [
            SHORT[metric],
            f"{comparison.num_requests:,}",
            time_cell(comparison.bias_s),
            time_cell(comparison.mean_abs_error_s),
            _percent(comparison.mape),
            _percent(comparison.median_ape),
            UNKNOWN if math.isnan(comparison.rank_correlation) else f"{comparison.rank_correlation:.3f}",
        ]
        for metric, comparison in ((metric, check.comparison) for metric, check in load.metrics.items())
    ]


def key_heads() -> list[str]:
    """Heads of the columns of `key_cells`."""
    return [*(f"{SHORT[metric]} {statistic}" for metric, statistic in KEY_FIGURES), "E2E mean: own spread"]


def key_cells(load: LoadCheck) -> list[str]:
    """The errors of a load in one row, and the spread of its mean E2E."""
    errors = (load.metrics[metric].comparison.relative_error[statistic] for metric, statistic in KEY_FIGURES)
    spread = load.metrics["e2e_s"].spread
    in_words = "" if spread.kind == "repeats" else f"{spread.kind} "
    return [*map(error_cell, errors), f"{in_words}{spread_cell(spread, 'mean')}"]


def spread_note(spread: Spread) -> str:
    """What a spread is, in a sentence."""
    match spread.kind:
        case "repeats":
            return (
                f"Own spread: the load was measured {spread.num_runs} times; mean relative difference of two of the "
                "measurements."
            )
        case "sampling":
            return (
                "The load was measured once, so the server's own run-to-run spread is not known. Sampling error, in "
                "its place, is not that: it says how far other requests of the same kind would move the observed "
                "statistic (95 %, moving block bootstrap over arrivals)."
            )
        case "unknown":
            return "With fewer than two measured requests, neither own spread nor sampling error is known."


def warnings(check: LogCheck) -> list[str]:
    """What limits the errors of a log as a proof."""
    in_sample = "In sample: the server file was fitted on this log, so its errors say little about other loads."
    beyond = "Extrapolation, beyond what the server file was fitted on:"
    return [*([in_sample] if check.in_sample else []), *(f"{beyond} {text}" for text in check.extrapolates)]


def marks(check: LogCheck) -> str:
    """The same in a word or two."""
    found: Sequence[str] = [
        word for is_so, word in ((check.in_sample, "in sample"), (check.extrapolates, "extrapolates")) if is_so
    ]
    return ", ".join(found)


def error_cell(error: float) -> str:
    """A relative error with its sign."""
    return UNKNOWN if math.isnan(error) else f"{_signed(error)} %"


def interval_cell(interval: Interval, statistic: str) -> str:
    """Both relative ends."""
    low, high = interval.low[statistic], interval.high[statistic]
    return UNKNOWN if math.isnan(low) or math.isnan(high) else f"{_signed(low)} to {_signed(high)} %"


def spread_cell(spread: Spread, statistic: str) -> str:
    """The size of a measured spread, or both ends of a sampling error."""
    if spread.kind == "repeats":
        return _percent(spread.interval.high[statistic])
    return interval_cell(spread.interval, statistic)


def time_cell(value_s: float) -> str:
    """A time with four digits, in milliseconds where it is short."""
    if math.isnan(value_s):
        return UNKNOWN
    value, unit = (value_s, "s") if abs(value_s) >= 1 else (1000 * value_s, "ms")
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 or not value else 3
    return _minus(f"{value:,.{digits}f} {unit}")


def _percent(share: float) -> str:
    return UNKNOWN if math.isnan(share) else f"{100 * share:.1f} %"


def _signed(share: float) -> str:
    text = f"{100 * share:+.1f}"
    return "0.0" if float(text) == 0 else _minus(text)


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
