"""A workflow run as tables: the schemas of ``traces``."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from inframind.traces import SAMPLES, WORKFLOWS
from inframind.workflows import Command, Event, MetricsPolled, Outcome, Submit

from .call_log import CallLog
from .workflow_driver import EndedWorkflow


def calls_table(
    log: CallLog, submits: Mapping[str, Submit], budgets_s: Mapping[str, float], overheads_s: Mapping[str, float]
) -> pd.DataFrame:
    """Columns of ``traces.CALLS``, in the order in which the calls were submitted; their times are the client's.

    Parameters
    ----------
    submits
        All calls, by id.
    budgets_s
        Of each workflow.
    overheads_s
        Of each server's clients.
    """
    place = {call_id: index for index, call_id in enumerate(submits)}
    order = np.argsort(np.array([place[call_id] for call_id in log.call_ids()], dtype=np.int64))
    calls = log.frame(order)
    asked = list(submits.values())
    calls["workflow_id"] = [submit.workflow_id for submit in asked]
    calls["slot"] = np.array([submit.slot for submit in asked], dtype=np.int32)
    calls["role"] = [submit.role for submit in asked]
    calls["strategy"] = [submit.strategy for submit in asked]
    calls["deadline_s"] = [submit.deadline_s for submit in asked]
    calls["budget_s"] = [budgets_s[submit.workflow_id] for submit in asked]
    overhead_s = calls["server"].map(overheads_s)
    for name in ("first_token_s", "finish_s", "ttft_s", "e2e_s"):
        calls[name] += overhead_s
    return calls


def workflows_table(ended: Iterable[EndedWorkflow]) -> pd.DataFrame:
    """Columns of ``traces.WORKFLOWS``, in order of arrival."""
    rows = []
    for workflow in sorted(ended, key=lambda workflow: (workflow.arrival_s, workflow.query.query_id)):
        query, end = workflow.query, workflow.end
        is_finished = end.outcome is Outcome.FINISHED
        rows.append(
            (
                *(query.query_id, query.domain, query.question, workflow.arrival_s, query.budget_s),
                *(end.topology, end.role_set, len(end.calls), workflow.end_s if is_finished else None),
                *(str(end.outcome), workflow.correct, end.latency_s if is_finished else None, end.on_time),
            )
        )
    frame = pd.DataFrame(rows, columns=WORKFLOWS.names)
    return frame.astype({"num_calls": "int32", "finish_s": "float64", "latency_s": "float64", "correct": "object"})


def samples_table(log: Iterable[Event | Command], names: Sequence[str]) -> pd.DataFrame:
    """Columns of ``traces.SAMPLES``: the gauges as they were polled, which is all that policies saw of them."""
    rows = [
        (event.t, names[event.server], event.waiting, event.running, event.kv_usage)
        for event in log
        if isinstance(event, MetricsPolled)
    ]
    return pd.DataFrame(rows, columns=SAMPLES.names).astype({"waiting": "int32", "running": "int32"})
