"""What deadlines as vLLM priorities do to workflows: gains at overload, and orders that textbook EDF would not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from policies import FixedOutcomes, FixedPlan, JoinShortestQueue

from inframind.agents import Cell, Evaluation, World
from inframind.sim import SchedulerOptions, ServerOptions, StepTime, WorkflowRun, load_pool, simulate_workflows
from inframind.sim.outcomes import OutcomeModel
from inframind.workflows import Arrived, ControllerOptions, Query

TOKENS = 10
"""Each call's output: 10 s, at a second for each step, however many run."""


def serve(
    arrivals: list[tuple[float, float]],
    priority: str = "edf",
    *,
    topology: str = "IO",
    role_set: str = "MathSolver",
    prompts: list[int] | None = None,
    **options: int,
) -> WorkflowRun:
    """Queries ``(arrival, budget)`` on one server with one slot."""
    values = {"max_num_seqs": 1, "num_blocks": 1000, "max_model_len": 4000, "async_scheduling": False} | options
    scheduler = SchedulerOptions(policy="priority", **values)  # type: ignore[arg-type]
    lengths = prompts or [20] * len(arrivals)
    return simulate_workflows(
        [ServerOptions("one", "one", scheduler, StepTime(fixed_s=1.0, prefill_token_s=0.0, decode_s=0.0))],
        [
            Arrived(t, Query(f"q{index}", "math", index, tokens, budget_s))
            for index, ((t, budget_s), tokens) in enumerate(zip(arrivals, lengths, strict=True))
        ],
        FixedPlan(topology, role_set),
        JoinShortestQueue(),
        FixedOutcomes(TOKENS),
        options=ControllerOptions(priority=priority),
    )


def order_of_ends(run: WorkflowRun) -> list[str]:
    return list(run.workflows.sort_values("finish_s")["workflow_id"])


def test_the_waiting_are_served_by_their_deadlines() -> None:
    """The first takes the slot; of the others the one with the earliest deadline is next."""
    run = serve([(0.0, 900.0), (1.0, 800.0), (2.0, 40.0)])

    assert order_of_ends(run) == ["q0", "q2", "q1"]


def test_an_urgent_call_does_not_take_the_slot_of_a_running_one() -> None:
    """Inversion 1. Textbook EDF would preempt the call with 900 s: vLLM never does so to admit, and q1 is late."""
    run = serve([(0.0, 900.0), (1.0, 12.0)])

    assert order_of_ends(run) == ["q0", "q1"]
    assert list(run.workflows["on_time"]) == [True, False]


def test_a_head_that_does_not_fit_blocks_those_behind_it() -> None:
    """Inversion 2. A long prompt heads the queue and has no blocks; a short one behind it would fit, and waits."""
    arrivals = [(0.0, 900.0), (1.0, 100.0), (1.0, 200.0)]
    blocked = serve(arrivals, prompts=[400, 600, 20], max_num_seqs=3, num_blocks=51, max_model_len=700)
    free = serve(arrivals, prompts=[400, 20, 20], max_num_seqs=3, num_blocks=51, max_model_len=700)

    assert order_of_ends(blocked)[0] == "q0"
    assert blocked.workflows["latency_s"][2] > 15
    assert free.workflows["latency_s"][2] < 15


def test_edf_serves_the_late_before_those_that_could_be_saved() -> None:
    """Inversion 3, and what `edf-late-last` makes of it. Each query is two calls of 10 s; q0, with 5 s, is lost anyhow.

    When its first call has ended, q1 has the slot. Then EDF takes q0's second call, and q2 is late by 4 s.
    """
    arrivals = [(0.0, 5.0), (1.0, 44.0), (1.0, 55.0)]
    edf = serve(arrivals, topology="Chain", role_set="MathSolver+Inspector")
    late_last = serve(arrivals, "edf-late-last", topology="Chain", role_set="MathSolver+Inspector")

    assert list(edf.workflows["finish_s"]) == pytest.approx([30.0, 40.0, 60.0])
    assert list(edf.workflows["on_time"]) == [False, True, False]
    assert list(late_last.workflows["finish_s"]) == pytest.approx([60.0, 40.0, 50.0])
    assert list(late_last.workflows["on_time"]) == [False, True, True]


@pytest.fixture(scope="module")
def overloaded() -> World:
    evaluation = Evaluation(num_queries=200, policies=("always-large",), planner="single")
    return World(evaluation, load_pool("h200", Path()), OutcomeModel.shipped())


def test_at_overload_edf_keeps_more_budgets_than_fcfs(overloaded: World) -> None:
    """All to the 32B of the pool h200, 100 queries a minute, budgets of 10 to 1800 s mixed, two seeds."""

    def on_time(scheduler: str) -> float:
        runs = [overloaded.run(Cell("always-large", scheduler, 100.0, None, seed)).workflows for seed in (0, 1)]
        return float(np.mean([run["on_time"].mean() for run in runs]))

    assert on_time("edf") > on_time("fcfs") + 0.05
