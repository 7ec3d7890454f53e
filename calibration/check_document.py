"""A check in words and numbers: the sentence on top, and the JSON document."""

import math
from collections.abc import Sequence
from typing import Any

from inframind.sim import ServerSection

from .check import LoadCheck, LogCheck, MetricCheck
from .check_statistics import Figures, Interval

SCHEMA_VERSION = 1
"""Of `as_document`: it changes with each change that breaks a reader."""


def as_document(checks: Sequence[LogCheck], server: ServerSection) -> dict[str, Any]:
    """Return the checks as JSON values; a figure that does not exist is null.

    The keys are stable: readers of ``schema_version`` 1 find each of them in later releases of that version.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "headline": headline(checks),
        "server": {"name": server.name, "model": server.model},
        "logs": [
            {
                "log": str(check.path),
                "in_sample": check.in_sample,
                "extrapolates": list(check.extrapolates),
                "notes": list(check.notes),
                **_load_document(check.whole),
                "conditions": [_load_document(condition) for condition in check.conditions],
            }
            for check in checks
        ],
    }


def headline(checks: Sequence[LogCheck]) -> str:
    """Say in one sentence how good the server file is: the worst mean E2E of the logs that are no part of the fit."""
    unseen = [check for check in checks if not check.in_sample] or checks
    worst = max(unseen, key=_size_of_error)
    error, spread = _e2e(worst).comparison.relative_error["mean"], _e2e(worst).spread
    if math.isnan(error):
        return "No request has both an observed and a predicted time: nothing was compared."
    among = "" if len(unseen) == 1 else f", the worst of {len(unseen)} logs"
    in_sample = ", in sample: the server file was fitted on it" if worst.in_sample else ""
    what = f"E2E mean predicted {_in_words(error)} on {worst.name}{among}{in_sample}"
    match spread.kind:
        case "repeats":
            return f"{what}; the server's own spread is {100 * spread.interval.high['mean']:.1f} %."
        case "sampling":
            low, high = (100 * end["mean"] for end in (spread.interval.low, spread.interval.high))
            return (
                f"{what}; the server's own run-to-run spread was not measured (sampling error of the observed mean: "
                f"{low:+.1f} to {high:+.1f} %)."
            )
        case "unknown":
            return f"{what}; how much the server itself varies is not known."


def _size_of_error(check: LogCheck) -> float:
    error = _e2e(check).comparison.relative_error["mean"]
    return -1.0 if math.isnan(error) else abs(error)


def _e2e(check: LogCheck) -> MetricCheck:
    return check.whole.metrics["e2e_s"]


def _in_words(error: float) -> str:
    if abs(error) < 0.0005:
        return "to within 0.05 %"
    return f"{100 * abs(error):.1f} % {'low' if error < 0 else 'high'}"


def _load_document(load: LoadCheck) -> dict[str, Any]:
    return {
        "name": load.name,
        "requests": load.num_requests,
        "metrics": {metric: _metric_document(check) for metric, check in load.metrics.items()},
    }


def _metric_document(check: MetricCheck) -> dict[str, Any]:
    comparison, spread = check.comparison, check.spread
    return {
        "requests": comparison.num_requests,
        "observed_s": _numbers(comparison.observed),
        "predicted_s": _numbers(comparison.predicted),
        "relative_error": _numbers(comparison.relative_error),
        "relative_error_95": _ends(check.error_interval),
        "bias_s": _number(comparison.bias_s),
        "mean_abs_error_s": _number(comparison.mean_abs_error_s),
        "mape": _number(comparison.mape),
        "median_ape": _number(comparison.median_ape),
        "rank_correlation": _number(comparison.rank_correlation),
        "spread": {
            "kind": spread.kind,
            "runs": spread.num_runs,
            **_ends(spread.interval),
        },
    }


def _ends(interval: Interval) -> dict[str, dict[str, float | None]]:
    return {"low": _numbers(interval.low), "high": _numbers(interval.high)}


def _numbers(figures: Figures) -> dict[str, float | None]:
    return {name: _number(value) for name, value in figures.items()}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
