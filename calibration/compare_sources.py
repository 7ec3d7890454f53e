"""Where the difference between a live run and its simulation comes from, by counterfactual simulations.

From the live run to the simulated one in four steps, each a simulation that takes one more thing from the other run:

=============== ========== ========= ========== ============ ==================================================
simulation      servers    lengths   arrivals   decisions    the step to it shows
=============== ========== ========= ========== ============ ==================================================
(the live run)  real       live      live       live
1               simulated  live      live       live         ``servers``: step times, scheduling, the client,
                                                             failures and retries
2               simulated  simulated live       live         ``lengths``: output tokens of equal calls
3               simulated  simulated simulated  live         ``arrivals``: the client was late
(the simulated) simulated  simulated simulated  simulated    ``decisions``: another server, strategy or plan, as
                                                             staleness of the gauges brings about too
=============== ========== ========= ========== ============ ==================================================

The four add up to the whole difference, because each begins where the one before ends; in another order each could be
somewhat larger or smaller. The simulations are closed loops: a call comes when its predecessors have ended *there*.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from inframind.workflows import Arrived

from .check import METRICS, in_flight
from .compare_decisions import last_tries
from .compare_figures import FINISHED
from .compare_inputs import PairedRuns
from .compare_replay import CannotReplay, Floats, Recorded, Slot, read_run_log, simulate_recorded, simulated_pool

STEPS = ("servers", "lengths", "arrivals", "decisions")
_NUM_BINS = 5
_CLIENT_FIGURES = ("arrival_late_p99_s", "loop_late_p99_s", "cpu_s_per_call")


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean on both sides, and what each of `STEPS` adds on the way from live to simulated."""

    live_s: float
    simulated_s: float
    steps_s: Mapping[str, float]
    """Their sum is simulated - live."""


@dataclass(frozen=True, slots=True)
class LoadBin:
    """Calls that met about as many others at their server."""

    low: int
    """In flight at their arrival, at least."""
    high: int
    """At most."""
    num_calls: int
    relative_error: Mapping[str, float]
    """Of the mean, simulated / live - 1, for each of ``METRICS``."""


@dataclass(frozen=True, slots=True)
class Measures:
    """What may cause differences, as it was measured; NaN where it is not known."""

    num_equal_calls: int
    """Calls that both runs made of the same model with the same strategy."""
    output_tokens: tuple[float, float]
    """Their mean, live and simulated."""
    prompt_tokens: tuple[float, float]
    """Mean of the live calls, and of the same calls in the first counterfactual."""
    late_s: tuple[float, float]
    """By how much queries came later in the live run than in the simulated one: mean and 99th percentile."""
    live_gauge_age_s: tuple[float, float]
    """How old the chosen server's gauges were when a call was sent: mean and 99th percentile."""
    simulated_gauge_age_s: tuple[float, float]
    client: Mapping[str, float]
    """What the live client measured of itself (``client.json``), the worst of the runs; empty where it did not."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the difference comes from, over all seeds."""

    num_workflows: int
    """Those that finished in both runs and in all counterfactuals; the means are of them."""
    latency: Difference
    """Of workflows."""
    e2e: Difference
    """Of calls."""
    measures: Measures


@dataclass(frozen=True, slots=True)
class SourcesOfPair:
    """Of one seed, before they are pooled."""

    workflows_s: pd.DataFrame
    """Latency of each workflow that finished everywhere: ``live``, a column for each of `STEPS` after it was taken."""
    calls_s: pd.DataFrame
    """Sums and numbers of E2E of their calls: index ``sum``, ``num``; the same columns."""
    equal_calls: pd.DataFrame
    """``live``, ``simulated``: output tokens of equal calls."""
    replayed: pd.DataFrame
    """Live calls with ``sim_ttft_s``, ``sim_tpot_s``, ``sim_e2e_s`` of the first counterfactual, and ``in_flight``."""
    late_s: Floats
    live_age_s: Floats
    simulated_age_s: Floats
    client: Mapping[str, float]


def sources_of(pair: PairedRuns) -> SourcesOfPair:
    """Simulate the counterfactuals of one pair.

    Raises
    ------
    CannotReplay
        If they cannot be had, with the reason.
    """
    live, simulated = pair.live, pair.simulated
    if live.run.workflows is None or simulated.run.workflows is None:
        raise CannotReplay("the runs are of single calls")
    if not pair.has_same_queries:
        raise CannotReplay("the runs have not the same queries")
    logs = read_run_log(live), read_run_log(simulated)
    servers = simulated_pool(simulated)
    names = [server.name for server in servers]
    for side in (live, simulated):
        if unknown := sorted(set(side.run.calls["server"]) - set(names)):
            raise CannotReplay(f"{side.path} has calls on {', '.join(unknown)}, not a server of the simulated pool")
    theirs, ours = (last_tries(side.run.calls) for side in (live, simulated))
    equal = _equal_calls(theirs, ours)
    lengths = _by_slot(theirs, "output_tokens")
    equalised = lengths | _by_slot(equal.reset_index(), "simulated")
    arrivals = [{event.query.query_id: event for event in log.arrivals} for log in logs]
    common = arrivals[0].keys() & arrivals[1].keys()
    own_times = [event for name, event in arrivals[0].items() if name in set(live.run.workflows["workflow_id"])]
    runs = []
    for of_arrivals, of_lengths in (
        (own_times, lengths),
        (own_times, equalised),
        (_at_times_of(own_times, arrivals[1]), equalised),
    ):
        recorded = Recorded(live.run.workflows, theirs, of_lengths, names)
        runs.append(simulate_recorded(servers, of_arrivals, recorded, logs[0].options))
    tables = [(live.run.workflows, theirs), *((run.workflows, last_tries(run.calls)) for run in runs)]
    tables.append((simulated.run.workflows, ours))
    workflows_s = pd.concat(
        [workflows.set_index("workflow_id")["latency_s"].rename(name) for name, (workflows, _) in _named(tables)],
        axis=1,
    ).dropna()
    return SourcesOfPair(
        workflows_s=workflows_s,
        calls_s=pd.DataFrame(
            {name: _sum_of_calls(calls, workflows_s.index) for name, (_, calls) in _named(tables)}, index=["sum", "num"]
        ),
        equal_calls=equal,
        replayed=paired_calls(theirs, tables[1][1], ["workflow_id", "slot"]),
        late_s=np.array([arrivals[0][name].t - arrivals[1][name].t for name in common]),
        live_age_s=logs[0].gauge_age_s,
        simulated_age_s=logs[1].gauge_age_s,
        client=_client(live.path),
    )


def pool_sources(parts: Sequence[SourcesOfPair]) -> Sources:
    """Put the seeds of a condition together: every workflow counts the same."""
    workflows_s = pd.concat([part.workflows_s for part in parts], ignore_index=True)
    sums, nums = (pd.DataFrame([part.calls_s.loc[row] for part in parts]).sum() for row in ("sum", "num"))
    equal = pd.concat([part.equal_calls for part in parts])
    replayed = pd.concat([part.replayed for part in parts])
    figures = [name for name in _CLIENT_FIGURES if any(name in part.client for part in parts)]
    return Sources(
        num_workflows=len(workflows_s),
        latency=_difference(workflows_s.mean()),
        e2e=_difference(sums / nums),
        measures=Measures(
            num_equal_calls=len(equal),
            output_tokens=(_mean(equal["live"]), _mean(equal["simulated"])),
            prompt_tokens=(_mean(replayed["prompt_tokens"]), _mean(replayed["sim_prompt_tokens"])),
            late_s=_mean_and_p99([part.late_s for part in parts]),
            live_gauge_age_s=_mean_and_p99([part.live_age_s for part in parts]),
            simulated_gauge_age_s=_mean_and_p99([part.simulated_age_s for part in parts]),
            client={name: max(part.client[name] for part in parts if name in part.client) for name in figures},
        ),
    )


def paired_calls(live: pd.DataFrame, simulated: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Live calls that finished on both sides, beside the same calls simulated on the same server.

    Columns of ``traces.CALLS``, ``sim_`` and each of ``METRICS`` and ``prompt_tokens``, and ``in_flight``: the live
    calls that were at the same server at its arrival.
    """
    ordered = live.sort_values("arrival_s", kind="stable")
    ordered = ordered.assign(in_flight=0)
    for _, rows in ordered.groupby("server", sort=False):
        ordered.loc[rows.index, "in_flight"] = in_flight(rows)
    columns = [*key, "server", "outcome", "prompt_tokens", *METRICS]
    renamed = simulated[columns].rename(columns={name: f"sim_{name}" for name in ("prompt_tokens", *METRICS)})
    both = ordered.merge(renamed, on=[*key, "server"], suffixes=("", "_of_sim"))
    finished = (both["outcome"] == FINISHED) & (both["outcome_of_sim"] == FINISHED)
    return both[finished].drop(columns="outcome_of_sim")


def errors_by_load(rows: pd.DataFrame) -> tuple[LoadBin, ...]:
    """Errors of calls in groups of about equal size, by the load that they met; ``rows`` as `paired_calls` has them."""
    if rows.empty:
        return ()
    load = rows["in_flight"].to_numpy(dtype=np.float64)
    starts = np.unique(np.quantile(load, np.arange(_NUM_BINS) / _NUM_BINS, method="lower"))
    which = np.searchsorted(starts, load, side="right") - 1
    return tuple(_load_bin(rows[which == index]) for index in np.unique(which))


def _load_bin(rows: pd.DataFrame) -> LoadBin:
    errors = {}
    for metric in METRICS:
        known = rows[[metric, f"sim_{metric}"]].dropna().sum()
        errors[metric] = float(known.iloc[1] / known.iloc[0] - 1) if known.iloc[0] > 0 else math.nan
    return LoadBin(int(rows["in_flight"].min()), int(rows["in_flight"].max()), len(rows), errors)


def _at_times_of(arrivals: Sequence[Arrived], others: Mapping[str, Arrived]) -> list[Arrived]:
    """The same queries at the times at which another run had them."""
    moved = [
        Arrived(others[event.query.query_id].t if event.query.query_id in others else event.t, event.query)
        for event in arrivals
    ]
    return sorted(moved, key=lambda event: event.t)


def _equal_calls(live: pd.DataFrame, simulated: pd.DataFrame) -> pd.DataFrame:
    """Output tokens, ``live`` and ``simulated``, of what both asked the same model with the same strategy."""
    key = ["workflow_id", "slot", "model", "strategy", "role"]
    done = [calls.loc[calls["outcome"] == FINISHED, [*key, "output_tokens"]] for calls in (live, simulated)]
    both = done[0].merge(done[1], on=key, suffixes=("_live", "_simulated"))
    both = both.rename(columns={"output_tokens_live": "live", "output_tokens_simulated": "simulated"})
    return both.set_index(["workflow_id", "slot"])[["live", "simulated"]]


def _by_slot(calls: pd.DataFrame, column: str) -> dict[Slot, int]:
    rows = calls[["workflow_id", "slot", column]].itertuples(index=False, name=None)
    return {(str(name), int(slot)): max(1, int(value)) for name, slot, value in rows}


def _sum_of_calls(calls: pd.DataFrame, workflows: "pd.Index[Any]") -> tuple[float, int]:
    e2e_s = calls.loc[(calls["outcome"] == FINISHED) & calls["workflow_id"].isin(workflows), "e2e_s"]
    return float(e2e_s.sum()), len(e2e_s)


def _named(tables: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> list[tuple[str, tuple[pd.DataFrame, pd.DataFrame]]]:
    return list(zip(("live", *STEPS), tables, strict=True))


def _difference(means: "pd.Series[float]") -> Difference:
    """From the means after each step."""
    values = [float(means[name]) for name in ("live", *STEPS)]
    return Difference(values[0], values[-1], dict(zip(STEPS, np.diff(values).tolist(), strict=True)))


def _client(folder: Path) -> dict[str, float]:
    """The worst that a live client says of itself in the parts of its run, as far as it is there and readable.

    It explains, and decides nothing.
    """
    try:
        parts = json.loads((folder / "client.json").read_text(encoding="utf-8"))["parts"]
        return {name: max(float(part[name]) for part in parts) for name in _CLIENT_FIGURES}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _mean(values: "pd.Series[Any]") -> float:
    return float(values.mean()) if len(values) else math.nan


def _mean_and_p99(parts: Sequence[Floats]) -> tuple[float, float]:
    values = np.concatenate(parts)
    return (float(values.mean()), float(np.quantile(values, 0.99))) if len(values) else (math.nan, math.nan)
