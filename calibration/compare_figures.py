"""Latencies, shares and queues of two runs beside each other, pooled over the seeds of a condition.

Every figure of a run is of all its own calls or workflows. Nothing is paired here: two runs of one condition need not
make the same calls.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inframind.agents.evaluation_summary import t_interval
from inframind.traces import Run

from .check import METRICS
from .check_statistics import STATISTICS, Figures, repeat_spread, statistics
from .compare_inputs import PairedRuns

Floats = NDArray[np.float64]

SHARES = ("goodput", "on_time", "accuracy")
ALL_TIERS = "all"
FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class LatencyFigures:
    """One latency on both sides."""

    num_live: int
    num_simulated: int
    live: Figures
    """Seconds."""
    simulated: Figures
    """Seconds."""
    relative_error: Figures
    """simulated / live - 1."""
    error_low: float
    """95 % interval of the mean's error over seeds (Student's t); NaN with fewer than `MIN_SEEDS`."""
    error_high: float
    spread: Figures
    """Mean relative difference of two live runs of one seed; NaN where no seed was repeated."""


@dataclass(frozen=True, slots=True)
class ShareFigures:
    """One share of the workflows on both sides, 0 to 1."""

    live: float
    simulated: float
    difference: float
    """simulated - live."""
    low: float
    """95 % interval of the difference over seeds (Student's t); NaN with fewer than `MIN_SEEDS`."""
    high: float
    spread: float
    """Mean difference, without sign, of two live runs of one seed; NaN where no seed was repeated."""


@dataclass(frozen=True, slots=True)
class TierFigures:
    """The workflows of one budget, or of all budgets."""

    tier: str
    """The budget in seconds, or `ALL_TIERS`."""
    num_live: int
    num_simulated: int
    latency: LatencyFigures
    """Of those that finished."""
    shares: Mapping[str, ShareFigures]
    """For each of `SHARES`; NaN where answers were not graded."""


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """One server on both sides: live, simulated."""

    server: str
    call_share: tuple[float, float]
    """Of all calls of the run."""
    running: tuple[float, float]
    """Mean of the samples up to the last answer; NaN without samples."""
    waiting: tuple[float, float]


def call_figures(pairs: Sequence[PairedRuns]) -> dict[str, LatencyFigures]:
    """TTFT, TPOT and E2E of finished calls."""
    return {metric: _latency(pairs, partial(_of_calls, metric)) for metric in METRICS}


def workflow_latency(pairs: Sequence[PairedRuns]) -> LatencyFigures:
    """From arrival to answer, of finished workflows."""
    return _latency(pairs, _of_workflows)


def tier_figures(pairs: Sequence[PairedRuns]) -> tuple[TierFigures, ...]:
    """Latency and shares of all workflows, and of those of each budget."""
    budgets = sorted({float(budget) for pair in pairs for budget in _workflows(pair.live.run)["budget_s"]})
    tiers: list[float | None] = [None, *(budgets if len(budgets) > 1 else [])]
    return tuple(_tier(pairs, budget_s) for budget_s in tiers)


def server_figures(pairs: Sequence[PairedRuns]) -> tuple[ServerFigures, ...]:
    """Means over seeds, in the order of the live run's samples, then calls."""
    names = dict.fromkeys(
        name for pair in pairs for table in (pair.live.run.samples, pair.live.run.calls) for name in table["server"]
    )
    return tuple(
        ServerFigures(
            server=name,
            call_share=_sides(pairs, partial(_call_share, name)),
            running=_sides(pairs, partial(_queue, name, "running")),
            waiting=_sides(pairs, partial(_queue, name, "waiting")),
        )
        for name in names
    )


def workflow_shares(workflows: pd.DataFrame) -> dict[str, float]:
    """`SHARES` of some workflows: one that failed is neither right nor on time.

    A workflow that finished and was not graded counts for ``on_time`` only.
    """
    failed = workflows["outcome"] != FINISHED
    graded = workflows[failed | workflows["correct"].notna()]
    is_graded = bool(workflows["correct"].notna().any()) or (len(workflows) > 0 and bool(failed.all()))
    right = graded["correct"].eq(True) & (graded["outcome"] == FINISHED)
    return {
        "goodput": float((right & graded["on_time"]).mean()) if is_graded else math.nan,
        "on_time": float(workflows["on_time"].mean()) if len(workflows) else math.nan,
        "accuracy": float(right.mean()) if is_graded else math.nan,
    }


def end_s(run: Run) -> float:
    """When the last call ended."""
    return float(run.calls["finish_s"].max())


def _workflows(run: Run) -> pd.DataFrame:
    assert run.workflows is not None  # runs without are compared by their calls alone
    return run.workflows


def _of_calls(metric: str, run: Run) -> Floats:
    values = run.calls.loc[run.calls["outcome"] == FINISHED, metric].dropna()
    return values.to_numpy(dtype=np.float64)


def _of_workflows(run: Run) -> Floats:
    return _latencies(_workflows(run))


def _latencies(workflows: pd.DataFrame) -> Floats:
    return workflows["latency_s"].dropna().to_numpy(dtype=np.float64)


def _latency(pairs: Sequence[PairedRuns], values: Callable[[Run], Floats]) -> LatencyFigures:
    live = [values(pair.live.run) for pair in pairs]
    simulated = [values(pair.simulated.run) for pair in pairs]
    of_live, of_simulated = (statistics(np.concatenate(side)) for side in (live, simulated))
    errors = [_ratio(_mean(ours), _mean(theirs)) - 1 for ours, theirs in zip(simulated, live, strict=True)]
    _, low, high = t_interval(errors)
    spreads = [
        repeat_spread([statistics(values(run.run)) for run in (pair.live, *pair.repeats)]).interval.high
        for pair in pairs
        if pair.repeats
    ]
    return LatencyFigures(
        num_live=sum(map(len, live)),
        num_simulated=sum(map(len, simulated)),
        live=of_live,
        simulated=of_simulated,
        relative_error={name: _ratio(of_simulated[name], of_live[name]) - 1 for name in STATISTICS},
        error_low=low,
        error_high=high,
        spread={name: _known_mean([spread[name] for spread in spreads]) for name in STATISTICS},
    )


def _tier(pairs: Sequence[PairedRuns], budget_s: float | None) -> TierFigures:
    def of_tier(run: Run) -> pd.DataFrame:
        workflows = _workflows(run)
        return workflows if budget_s is None else workflows[workflows["budget_s"] == budget_s]

    live = pd.DataFrame([workflow_shares(of_tier(pair.live.run)) for pair in pairs])
    simulated = pd.DataFrame([workflow_shares(of_tier(pair.simulated.run)) for pair in pairs])
    spreads = pd.DataFrame(
        [
            _differences([workflow_shares(of_tier(run.run)) for run in (pair.live, *pair.repeats)])
            for pair in pairs
            if pair.repeats
        ],
        columns=list(SHARES),
    )
    shares = {}
    for name in SHARES:
        mean, low, high = t_interval((simulated[name] - live[name]).to_numpy(dtype=np.float64))
        sides = _known_mean(live[name].tolist()), _known_mean(simulated[name].tolist())
        shares[name] = ShareFigures(*sides, mean, low, high, _known_mean(spreads[name].tolist()))
    return TierFigures(
        tier=ALL_TIERS if budget_s is None else f"{budget_s:g}",
        num_live=sum(len(of_tier(pair.live.run)) for pair in pairs),
        num_simulated=sum(len(of_tier(pair.simulated.run)) for pair in pairs),
        latency=_latency(pairs, lambda run: _latencies(of_tier(run))),
        shares=shares,
    )


def _differences(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean difference, without sign, of two of the runs."""
    return {
        name: _known_mean(
            [abs(a[name] - b[name]) for index, a in enumerate(runs) for b in runs[index + 1 :]],
        )
        for name in SHARES
    }


def _sides(pairs: Sequence[PairedRuns], value: Callable[[Run], float]) -> tuple[float, float]:
    return (
        _known_mean([value(pair.live.run) for pair in pairs]),
        _known_mean([value(pair.simulated.run) for pair in pairs]),
    )


def _call_share(server: str, run: Run) -> float:
    return float((run.calls["server"] == server).mean())


def _queue(server: str, column: str, run: Run) -> float:
    looks = run.samples[(run.samples["server"] == server) & (run.samples["time_s"] <= end_s(run))]
    return float(looks[column].mean()) if len(looks) else math.nan


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _known_mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _ratio(value: float, of: float) -> float:
    return value / of if of > 0 else math.nan
