"""Serve queries with workflows on a simulated pool."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inframind.traces import ConfigError
from inframind.workflows import (
    Arrived,
    Command,
    Controller,
    ControllerOptions,
    Event,
    ExecutorPolicy,
    LatencyModel,
    PlannerPolicy,
    log_lines,
)

from .call_log import CallLog
from .clock import Environment, to_seconds
from .garbage import no_garbage_collection
from .pool import Pool
from .request import Request
from .server import ServerOptions
from .workflow_driver import Outcomes, WorkflowDriver
from .workflow_tables import calls_table, samples_table, workflows_table


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """What came out of a run of workflows."""

    calls: pd.DataFrame
    """Columns of ``traces.CALLS``, in the order in which they were submitted."""
    workflows: pd.DataFrame
    """Columns of ``traces.WORKFLOWS``, in order of arrival."""
    samples: pd.DataFrame
    """Columns of ``traces.SAMPLES``: the gauges as polled."""
    utilisation: Mapping[str, float]
    """Share of the run, up to the end of the last workflow, during which each server was running a step."""
    controller: Controller
    log: Sequence[Event | Command]
    """Every event, each followed by its commands."""

    @property
    def events(self) -> Iterator[str]:
        """Lines of ``events.jsonl``."""
        return log_lines(self.controller, self.log)


def simulate_workflows(
    servers: Sequence[ServerOptions],
    arrivals: Sequence[Arrived],
    planner: PlannerPolicy,
    executor: ExecutorPolicy,
    outcomes: Outcomes,
    *,
    options: ControllerOptions | None = None,
    embeddings: NDArray[np.float32] | None = None,
    latency: LatencyModel | None = None,
    poll_s: float = 1.0,
    seed: int = 0,
    fast_forward: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> WorkflowRun:
    """Answer each query when it arrives, and run until the last workflow has ended.

    Parameters
    ----------
    servers
        The pool. Priorities have an effect only under the ``priority`` policy, as in vLLM; observations take it that
        servers follow ``options.priority``, which should be ``none`` for ``fcfs``.
    arrivals
        In order of time; the ids of the queries differ.
    planner, executor
        The policies.
    outcomes
        Lengths and correctness of what the models write.
    embeddings, latency
        What observations offer beside, see `Controller`.
    poll_s
        How often the gauges are read that policies see.
    seed
        Handed on to ``outcomes``.
    fast_forward
        Off: every step is an event of its own. Same results, slower.
    on_progress
        Called with the number of workflows that have ended, each time that one does.

    Raises
    ------
    ConfigError
        No queries, two servers of one name, or a policy's choice that cannot be carried out.
    """
    if not arrivals:
        raise ConfigError("workload", ["has no queries"])
    infos = [server.info for server in servers]
    controller = Controller(infos, planner, executor, options, embeddings=embeddings, latency=latency)
    env = Environment()
    driver = WorkflowDriver(env, controller, outcomes, poll_s=poll_s, seed=seed, on_progress=on_progress)
    calls = CallLog({server.name: server.model for server in servers})

    def on_end(request: Request) -> None:
        calls.record(request)
        driver.on_end(request)

    pool = Pool(env, on_end, fast_forward=fast_forward)
    started = [pool.add(server) for server in servers]
    with no_garbage_collection():
        driver.run(started, arrivals)
    budgets_s = {workflow.query.query_id: workflow.query.budget_s for workflow in driver.ended}
    return WorkflowRun(
        calls=calls_table(
            calls, driver.submits, budgets_s, {server.name: server.client_overhead_s for server in servers}
        ),
        workflows=workflows_table(driver.ended),
        samples=samples_table(driver.log, [server.name for server in servers]),
        utilisation={server.options.name: to_seconds(server.busy_ticks) / env.now_s for server in pool},
        controller=controller,
        log=driver.log,
    )
