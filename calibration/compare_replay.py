"""A recorded run on simulated servers: the same decisions and lengths, and what the servers make of them."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inframind.agents import SCHEDULERS
from inframind.sim import PoolSection, ServerOptions, WorkflowRun, simulate_workflows
from inframind.workflows import Arrived, CallRecord, ControllerOptions, MetricsPolled, Observation, read_log

from .compare_inputs import KnownRun

Floats = NDArray[np.float64]
Slot = tuple[str, int]
"""Workflow and number of its node: what a call is in every run of the same queries."""

_NEVER_POLL_S = 86_400.0
"""Nobody looks at the gauges."""


class CannotReplay(Exception):  # noqa: N818 - no error: a report says so in its place
    """Why counterfactuals cannot be had; the text is for the reader."""


@dataclass(frozen=True, slots=True)
class RunLog:
    """What is needed of ``events.jsonl``."""

    options: ControllerOptions
    arrivals: Sequence[Arrived]
    gauge_age_s: Floats


class Recorded:
    """Decides and writes as a run did, whatever is observed: planner, executor and outcomes in one."""

    def __init__(
        self, workflows: pd.DataFrame, calls: pd.DataFrame, lengths: Mapping[Slot, int], servers: Sequence[str]
    ) -> None:
        """``calls``: one try of each; ``lengths``: of them."""
        plans = workflows[["workflow_id", "topology", "role_set"]].itertuples(index=False, name=None)
        self._plans = {name: (topology, role_set) for name, topology, role_set in plans}
        place = {name: index for index, name in enumerate(servers)}
        chosen = calls[["workflow_id", "slot", "server", "strategy"]].itertuples(index=False, name=None)
        self._choices = {(name, int(slot)): (place[server], strategy) for name, slot, server, strategy in chosen}
        self._lengths = lengths
        self._asked: deque[int] = deque()

    # As PlannerPolicy, ExecutorPolicy and sim.Outcomes.

    def plan(self, observation: Observation) -> tuple[str, str]:
        """The plan of this workflow."""
        return self._plans[observation.query.query_id]

    def choose(self, observation: Observation) -> tuple[int, str]:
        """Where and how this call was made."""
        assert observation.node is not None  # a planner's observation has none, an executor's has
        slot = observation.query.query_id, observation.node.slot
        # Each choice becomes one call, in this order; the driver asks for its length without naming the query.
        self._asked.append(self._lengths.get(slot, 1))
        # A call that the run did not come to make, because its workflow ended before: it must go somewhere.
        return self._choices.get(slot, (0, "Flash"))

    def output_tokens(
        self, domain: str, question: int, model: str, strategy: str, role: str, slot: int, seed: int
    ) -> int:
        """Length of the call that was chosen for next."""
        return self._asked.popleft()

    def answer_correct(
        self, domain: str, question: int, topology: str, role_set: str, calls: Sequence[CallRecord], seed: int
    ) -> bool:
        """Not asked here: false."""
        return False


def simulate_recorded(
    servers: Sequence[ServerOptions], arrivals: Sequence[Arrived], recorded: Recorded, options: ControllerOptions
) -> WorkflowRun:
    """Run queries on simulated servers with recorded decisions and lengths."""
    # Texts have served their purpose: the lengths of what was written are known.
    bare = [Arrived(event.t, replace(event.query, text=None, embedding=None)) for event in arrivals]
    return simulate_workflows(servers, bare, recorded, recorded, recorded, options=options, poll_s=_NEVER_POLL_S)


def read_run_log(run: KnownRun) -> RunLog:
    """What a run's log says of options, arrivals and polls.

    Raises
    ------
    CannotReplay
        There is no log.
    TraceError
        It is broken.
    """
    if run.run.events is None:
        raise CannotReplay(f"{run.path} has no events.jsonl")
    with run.run.events.open(encoding="utf-8") as lines:
        _, options, turns = read_log(lines)
    polled: dict[int, float] = {}
    ages = []
    for event, commands in turns:
        if isinstance(event, MetricsPolled):
            polled[event.server] = event.t
        for line in commands:
            if line.startswith('{"kind":"Submit"'):
                ages.append(event.t - polled.get(json.loads(line)["server"], 0.0))
    arrivals = [event for event, _ in turns if isinstance(event, Arrived)]
    return RunLog(options, arrivals, np.array(ages))


def simulated_pool(run: KnownRun) -> list[ServerOptions]:
    """The pool that a run was simulated on.

    Raises
    ------
    CannotReplay
        The run does not say.
    """
    if "pool" not in run.run.config:
        raise CannotReplay(f"config.toml of {run.path} names no pool")
    try:
        pool = PoolSection.model_validate_json(json.dumps(run.run.config["pool"]))
    except ValueError as error:
        raise CannotReplay(f"the pool in config.toml of {run.path} cannot be used: {error}") from None
    scheduler = SCHEDULERS.get(str(dict(run.condition).get("scheduler")))
    return [server.options(policy=scheduler.policy if scheduler else None) for server in pool.servers]
