"""The tables of a live run, made from its logs: the schemas of ``traces``, as the simulator writes them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pandas as pd

from inframind.traces import CALLS, SAMPLES, WORKFLOWS
from inframind.workflows import ServerInfo

from .run_log import read_calls, read_events

Logged: TypeAlias = Mapping[str, Any]
"""An event or a command, as it stands in the log."""

FINISHED = "finished"


class RunTables(NamedTuple):
    """What came of a run."""

    calls: pd.DataFrame
    """Columns of ``traces.CALLS``, in the order in which they were submitted."""
    workflows: pd.DataFrame
    """Columns of ``traces.WORKFLOWS``, in order of arrival, ``correct`` empty."""
    samples: pd.DataFrame
    """Columns of ``traces.SAMPLES``: the gauges as polled."""


def run_tables(folder: Path, servers: Sequence[ServerInfo]) -> RunTables:
    """Read the logs of a run that has ended, or was stopped."""
    kinds: dict[str, list[Logged]] = {}
    for item in read_events(folder):
        kinds.setdefault(item["kind"], []).append(item)
    arrivals = {item["query"]["query_id"]: item for item in kinds.get("Arrived", [])}
    ends = {item["workflow_id"]: item for item in kinds.get("WorkflowFinished", [])}
    failures = {item["call_id"]: item for item in kinds.get("CallFailed", [])}
    budgets_s = {query_id: item["query"]["budget_s"] for query_id, item in arrivals.items()}
    raw = read_calls(folder)
    calls = [
        _call(submit, raw.get(submit["call_id"]), failures.get(submit["call_id"]), servers, budgets_s)
        for submit in kinds.get("Submit", [])
    ]
    samples = [
        (item["t"], servers[item["server"]].name, item["waiting"], item["running"], item["kv_usage"])
        for item in kinds.get("MetricsPolled", [])
    ]
    workflows = [_workflow(item, ends[query_id]) for query_id, item in arrivals.items()]
    floats = ("budget_s", "deadline_s", "scheduled_s", "first_token_s", "finish_s", "ttft_s", "tpot_s", "e2e_s")
    return RunTables(
        pd.DataFrame(calls, columns=CALLS.names).astype(
            {"slot": "int32", "num_preemptions": "int32"} | dict.fromkeys(floats, "float64")
        ),
        pd.DataFrame(workflows, columns=WORKFLOWS.names).astype(
            {"num_calls": "int32", "finish_s": "float64", "latency_s": "float64", "correct": "object"}
        ),
        pd.DataFrame(samples, columns=SAMPLES.names).astype({"waiting": "int32", "running": "int32"}),
    )


def graded(
    workflows: pd.DataFrame, folder: Path, judge: Callable[[Mapping[str, Logged]], Mapping[str, bool]]
) -> pd.DataFrame:
    """The workflows with ``correct`` filled in.

    Parameters
    ----------
    judge
        Given the ends of all workflows that finished, by query: which answers are right.
    """
    ends = {item["workflow_id"]: item for item in read_events(folder) if item["kind"] == "WorkflowFinished"}
    right = judge({query_id: end for query_id, end in ends.items() if end["outcome"] == FINISHED})
    return workflows.assign(correct=workflows["workflow_id"].map(right).astype("object"))


def _call(
    submit: Logged,
    raw: Logged | None,
    failed: Logged | None,
    servers: Sequence[ServerInfo],
    budgets_s: Mapping[str, float],
) -> dict[str, Any]:
    """One row. A call that was given up before a request was made for it has the time of its failure alone."""
    server = servers[submit["server"]]
    raw = raw or {}
    sent_s, first_s = raw.get("sent_s"), raw.get("first_token_s")
    ended_s = failed["t"] if failed is not None else raw["last_token_s"]
    arrival_s = ended_s if sent_s is None else sent_s
    output_tokens = raw.get("output_tokens", 0)
    decodes = output_tokens - 1
    return {
        "call_id": submit["call_id"],
        "workflow_id": submit["workflow_id"],
        "slot": submit["slot"],
        "role": submit["role"],
        "strategy": submit["strategy"],
        "server": server.name,
        "model": server.model,
        "arrival_s": arrival_s,
        "prompt_tokens": raw.get("prompt_tokens", submit["prompt"]["tokens"]),
        "output_tokens": output_tokens,
        "priority": submit["priority"],
        "budget_s": budgets_s[submit["workflow_id"]],
        "deadline_s": submit["deadline_s"],
        "scheduled_s": None,
        "first_token_s": first_s,
        "finish_s": ended_s,
        "num_preemptions": 0,
        "num_cached_tokens": raw.get("cached_tokens") or 0,
        "outcome": FINISHED if failed is None else _name(failed, raw),
        "ttft_s": None if first_s is None else first_s - arrival_s,
        "tpot_s": (ended_s - first_s) / decodes if failed is None and first_s is not None and decodes > 0 else None,
        "e2e_s": ended_s - arrival_s if failed is None else None,
    }


def _name(failed: Logged, raw: Logged) -> str:
    outcome = raw.get("outcome", FINISHED)
    return str(failed["reason"] if outcome == FINISHED else outcome)


def _workflow(arrived: Logged, end: Logged) -> tuple[Any, ...]:
    query, t = arrived["query"], arrived["t"]
    is_finished = end["outcome"] == FINISHED
    latency_s = end["latency_s"] if is_finished else None
    return (
        *(query["query_id"], query["domain"], query["question"], t, query["budget_s"]),
        *(end["topology"], end["role_set"], len(end["calls"]), t + latency_s if is_finished else None),
        *(end["outcome"], None, latency_s, end["on_time"]),
    )
