"""Check a server file against logs: replay each, and compare what came out with what was measured."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inframind.sim import ServerSection
from inframind.traces import RequestLog

from .check_inputs import log_names, samples_beside
from .check_statistics import Comparison, Interval, Spread, bootstrap, compare, repeat_spread, statistics
from .fingerprint import holds_one_of
from .fit_range import extrapolations
from .predict import replay
from .profile_plan import WARM_UP

Floats = NDArray[np.float64]

METRICS = ("ttft_s", "tpot_s", "e2e_s")
_NUM_SAMPLES = 400
_ALIKE = 0.1
_REPEAT = re.compile(r"(-repeat|#\d+)$")


@dataclass(frozen=True, slots=True)
class MetricCheck:
    """One latency, predicted beside observed, and how much the observed one varies by itself."""

    comparison: Comparison
    error_interval: Interval
    """95 % of the relative errors."""
    spread: Spread


@dataclass(frozen=True, slots=True)
class LoadCheck:
    """The latencies of one load: a whole log, or a condition of it."""

    name: str
    num_requests: int
    metrics: Mapping[str, MetricCheck]
    """For each of `METRICS`."""


@dataclass(frozen=True, slots=True)
class LogCheck:
    """One log, replayed."""

    path: Path
    whole: LoadCheck
    conditions: tuple[LoadCheck, ...]
    """Each condition, its repeats together; none where the log has fewer than two."""
    in_sample: bool
    """The server file was fitted on it, so that its errors say little about other loads."""
    extrapolates: tuple[str, ...]
    """In what the replay goes beyond the loads that the server file was fitted on."""
    notes: tuple[str, ...]
    """What else a reader must know."""
    rows: pd.DataFrame
    """The requests with ``tpot_s``, ``sim_ttft_s``, ``sim_tpot_s``, ``sim_e2e_s`` and the observed ``in_flight``."""
    observed_samples: pd.DataFrame
    """Columns of ``traces.SAMPLES``; no rows where the queues are not known."""
    predicted_samples: pd.DataFrame
    """Likewise."""

    @property
    def name(self) -> str:
        """For a reader."""
        return self.whole.name


def check_logs(
    logs: Mapping[Path, RequestLog],
    server: ServerSection,
    *,
    repeats: Sequence[Sequence[Path]] = (),
    on_progress: Callable[[int], None] | None = None,
) -> list[LogCheck]:
    """Replay logs on a simulated server, and compare.

    Parameters
    ----------
    logs
        As `read_logs` returns them.
    server
        What is checked.
    repeats
        Groups of these logs, each of one load that was measured more than once.
    on_progress
        Called now and then with the number of requests that have been replayed, over all logs.
    """
    observed = {path: _observed(log.requests) for path, log in logs.items()}
    group_of = {path: [_without_warm_up(observed[each]) for each in group] for group in repeats for path in group}
    names = log_names(list(logs))
    checks = []
    num_done = 0
    for path, rows in observed.items():
        before = num_done

        def on_requests(num: int, before: int = before) -> None:
            if on_progress is not None:
                on_progress(before + num)

        sample_s = max(1e-3, float(rows["arrival_s"].iloc[-1]) / _NUM_SAMPLES)
        run = replay(rows, server, sample_s=sample_s, on_progress=on_requests)
        predicted = run.requests
        predicted["sim_tpot_s"] = _tpot_s(predicted, "sim_")
        compared = _without_warm_up(predicted)
        samples, sample_notes = samples_beside(path, server, logs)
        checks.append(
            LogCheck(
                path=path,
                whole=_whole(names[path], compared, group_of.get(path, [])),
                conditions=_conditions(compared),
                in_sample=_is_in_sample(rows, server),
                extrapolates=extrapolations(rows, run.calls, server),
                notes=(
                    *_notes(predicted, run.calls["outcome"], server, num_failed=len(logs[path].failed)),
                    *_group_notes(group_of.get(path, [])),
                    *sample_notes,
                ),
                rows=compared,
                observed_samples=samples,
                predicted_samples=run.samples,
            )
        )
        num_done += len(rows)
    return checks


def _observed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(tpot_s=_tpot_s(rows, ""), in_flight=in_flight(rows))


def in_flight(rows: pd.DataFrame) -> NDArray[np.int64]:
    """Return for each request how many that came before it were not yet done at its arrival, as observed.

    ``rows`` are in order of arrival; a request without ``e2e_s`` counts for none of the others.
    """
    arrival_s, e2e_s = (rows[name].to_numpy(dtype=np.float64) for name in ("arrival_s", "e2e_s"))
    is_known = np.isfinite(e2e_s)
    ends = np.sort((arrival_s + e2e_s)[is_known])
    came_before = np.cumsum(is_known) - is_known
    counts: NDArray[np.int64] = np.maximum(0, came_before - np.searchsorted(ends, arrival_s, side="right"))
    return counts


def _tpot_s(rows: pd.DataFrame, prefix: str) -> "pd.Series[float]":
    """Mean time per token after the first; NaN for one token."""
    further = rows["output_tokens"] - 1
    return ((rows[f"{prefix}e2e_s"] - rows[f"{prefix}ttft_s"]) / further).where(further > 0)


def _whole(name: str, rows: pd.DataFrame, group: Sequence[pd.DataFrame]) -> LoadCheck:
    by_condition = _by_condition(rows)
    if len(group) < 2 and len(by_condition) == 1:
        group = next(iter(by_condition.values()))
    return _load(name, rows, group, [run for runs in by_condition.values() for run in runs])


def _conditions(rows: pd.DataFrame) -> tuple[LoadCheck, ...]:
    by_condition = _by_condition(rows)
    if len(by_condition) < 2:
        return ()
    return tuple(_load(name, pd.concat(runs), runs, runs) for name, runs in by_condition.items())


def _without_warm_up(rows: pd.DataFrame) -> pd.DataFrame:
    """The first steps of a server compile and allocate: they are replayed, but no measure of it."""
    return rows[rows["condition"] != WARM_UP] if "condition" in rows else rows


def _by_condition(rows: pd.DataFrame) -> dict[str, list[pd.DataFrame]]:
    """The measurements of each condition: ``NAME`` and ``NAME-repeat`` are two of NAME; ``NAME#1``, ``NAME#2`` too."""
    if "condition" not in rows:
        return {"": [rows]}
    found: dict[str, list[pd.DataFrame]] = {}
    for condition, run in rows.groupby(rows["condition"].fillna("").astype(str), sort=False):
        found.setdefault(_REPEAT.sub("", str(condition)), []).append(run)
    return found


def _load(name: str, rows: pd.DataFrame, group: Sequence[pd.DataFrame], strata: Sequence[pd.DataFrame]) -> LoadCheck:
    """Compare one load; ``group`` are its measurements, ``strata`` its parts of one condition each."""
    metrics = {}
    for metric in METRICS:
        spread, error_interval = bootstrap([_pair(part, metric) for part in strata])
        if len(group) > 1:
            spread = repeat_spread([statistics(run[metric].dropna().to_numpy(dtype=np.float64)) for run in group])
        metrics[metric] = MetricCheck(compare(*_pair(rows, metric)), error_interval, spread)
    return LoadCheck(name, len(rows), metrics)


def _pair(rows: pd.DataFrame, metric: str) -> tuple[Floats, Floats]:
    """What was observed and what was predicted."""
    return rows[metric].to_numpy(dtype=np.float64), rows[f"sim_{metric}"].to_numpy(dtype=np.float64)


def _notes(rows: pd.DataFrame, outcomes: "pd.Series[str]", server: ServerSection, *, num_failed: int) -> list[str]:
    notes = []
    if num_failed:
        notes.append(f"{num_failed:,} failed requests, without output tokens, are left out.")
    if "model" in rows and (names := set(rows["model"].dropna())) and names != {server.model}:
        notes.append(f"The log is of the model {names.pop()}, the server file of {server.model}.")
    unknown = int(rows[["ttft_s", "e2e_s"]].isna().any(axis=1).sum())
    if unknown:
        notes.append(
            f"{unknown:,} of {len(rows):,} requests lack a measured time; they are replayed, but not compared."
        )
    if num_warm_up := len(rows) - len(_without_warm_up(rows)):
        notes.append(f"{num_warm_up:,} requests of the warm-up are replayed, but not compared.")
    unserved = outcomes[(outcomes != "finished").to_numpy()]
    if len(unserved):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in unserved.value_counts().items())
        notes.append(f"The simulated server did not serve {len(unserved):,} of {len(rows):,} requests: {reasons}.")
    return notes


def _group_notes(group: Sequence[pd.DataFrame]) -> list[str]:
    """Say so where what is called one load is not."""
    asked = [
        (len(rows), rows["prompt_tokens"].mean(), rows["output_tokens"].mean(), rows["arrival_s"].iloc[-1])
        for rows in group
    ]
    names = ("number of requests", "mean prompt", "mean output", "time of the last arrival")
    differing = [
        name
        for name, values in zip(names, zip(*asked, strict=True), strict=False)
        if max(values) - min(values) > _ALIKE * max(values)
    ]
    if not differing:
        return []
    return [f"Its repeats are not the same load: they differ by more than 10 % in {', '.join(differing)}."]


def _is_in_sample(rows: pd.DataFrame, server: ServerSection) -> bool:
    fitted_on = server.step_time.fitted_on
    return (
        fitted_on is not None and fitted_on.requests is not None and holds_one_of(rows, fitted_on.requests.fingerprints)
    )
