"""Whole runs: tables that fit their schemas, a run folder, and what a person may get wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from policies import EveryPlan, FixedOutcomes, FixedPlan, JoinShortestQueue, RoundRobin, VariedOutcomes

from inframind.sim import (
    SchedulerOptions,
    ServerOptions,
    StepTime,
    WorkflowRun,
    bench_workflows,
    simulate_workflows,
)
from inframind.sim.bench import bench_pool
from inframind.sim.bench_workflows import bench_arrivals
from inframind.traces import CALLS, SAMPLES, WORKFLOWS, ConfigError, read_run, summarise, to_table, write_run
from inframind.workflows import Arrived, ControllerOptions, Query, replay

SERVER = ServerOptions(
    "s",
    "m",
    SchedulerOptions(max_num_seqs=2, num_blocks=1000, max_model_len=2000, async_scheduling=False),
    StepTime(fixed_s=1.0, prefill_token_s=0.0, decode_s=0.0),
)
ARRIVALS = [Arrived(0.5, Query("x", "math", 4, 20, 50.0)), Arrived(1.0, Query("y", "math", 5, 20, 2.0))]


@pytest.fixture(scope="module")
def run() -> WorkflowRun:
    """60 workflows of all kinds on the five shipped servers."""
    return simulate_workflows(
        bench_pool("priority"), bench_arrivals(60), EveryPlan(), RoundRobin(), VariedOutcomes(), seed=3
    )


def test_tables_by_hand() -> None:
    """Two chains of two calls of 3 s on one server that serves both at once. y joins a step after it came."""
    run = simulate_workflows(
        [SERVER], ARRIVALS, FixedPlan("Chain", "MathSolver+Inspector"), JoinShortestQueue("Flash"), FixedOutcomes(3)
    )

    calls = run.calls.set_index("call_id")
    assert list(calls.index) == ["x.0.0", "y.0.0", "x.1.0", "y.1.0"]
    assert list(calls["workflow_id"]) == ["x", "y", "x", "y"]
    assert list(calls["slot"]) == [0, 0, 1, 1]
    assert list(calls["role"]) == ["MathSolver", "MathSolver", "Inspector", "Inspector"]
    assert set(calls["strategy"]) == {"Flash"}
    assert list(calls["budget_s"]) == [50.0, 2.0, 50.0, 2.0]
    assert list(calls["deadline_s"]) == [50.5, 3.0, 50.5, 3.0]
    assert list(calls["arrival_s"]) == pytest.approx([0.5, 1.0, 3.5, 4.5])
    assert list(calls["finish_s"]) == [3.5, 4.5, 7.5, 8.5]
    assert list(calls["priority"]) == [50_500, 3_000, 50_500, 3_000]

    workflows = run.workflows.set_index("workflow_id")
    assert list(workflows["finish_s"]) == [7.5, 8.5]
    assert list(workflows["latency_s"]) == [7.0, 7.5]
    assert list(workflows["on_time"]) == [True, False]
    assert list(workflows["correct"]) == [True, False]
    assert list(workflows["num_calls"]) == [2, 2]
    assert list(workflows["question"]) == [4, 5]
    assert run.utilisation == {"s": pytest.approx(8.0 / 8.5)}
    assert list(run.samples["time_s"]) == [float(t) for t in range(9)]
    assert list(run.samples["running"][:4]) == [0, 1, 2, 2]


def test_workflows_wait_for_their_client_and_servers_do_not() -> None:
    """Two calls of 3 s, and a quarter of a second for the client each; the gauges are those of the server."""
    far_away = replace(SERVER, client_overhead_s=0.25)
    run = simulate_workflows(
        [far_away],
        ARRIVALS[:1],
        FixedPlan("Chain", "MathSolver+Inspector"),
        JoinShortestQueue("Flash"),
        FixedOutcomes(3),
        poll_s=0.1,
    )

    assert list(run.calls["arrival_s"]) == [0.5, 3.75]
    assert list(run.calls["ttft_s"]) == [1.25, 1.25]
    assert list(run.calls["e2e_s"]) == [3.25, 3.25]
    assert list(run.calls["finish_s"]) == [3.75, 7.0]
    assert list(run.calls["tpot_s"]) == [1.0, 1.0]
    assert list(run.workflows["latency_s"]) == [6.5]
    samples = run.samples.set_index("time_s")["running"]
    assert (samples[3.4], samples[3.6], samples[3.8]) == (1, 0, 1)
    assert run.utilisation == {"s": pytest.approx(6.0 / 7.0)}


def test_a_call_that_is_given_up_after_its_end_has_ended() -> None:
    """The server is done at 3.5 s, the client knows at 3.75 s, and the workflow is given up at 3.6 s."""
    run = simulate_workflows(
        [replace(SERVER, client_overhead_s=0.25)],
        [Arrived(0.5, Query("x", "math", 4, 20, 3.1))],
        FixedPlan(),
        JoinShortestQueue("Flash"),
        FixedOutcomes(3),
        options=ControllerOptions(cancel_hopeless=True),
    )

    assert list(run.calls["outcome"]) == ["finished"]
    assert list(run.calls["finish_s"]) == [3.75]
    assert list(run.workflows["outcome"]) != ["finished"]


def test_the_tables_fit_their_schemas(run: WorkflowRun) -> None:
    assert to_table(run.calls, CALLS).num_rows == len(run.calls)
    assert to_table(run.workflows, WORKFLOWS).num_rows == 60
    assert to_table(run.samples, SAMPLES).num_rows == len(run.samples)


def test_calls_and_workflows_tell_the_same_story(run: WorkflowRun) -> None:
    calls = run.calls.groupby("workflow_id", sort=False)
    workflows = run.workflows.set_index("workflow_id")

    assert (workflows["outcome"] == "finished").all()
    assert (calls.size() == workflows["num_calls"]).all()
    assert list(calls["finish_s"].max()) == pytest.approx(list(workflows["finish_s"]), rel=1e-12)
    assert (workflows["latency_s"] == workflows["finish_s"] - workflows["arrival_s"]).all()
    assert (workflows["on_time"] == (workflows["latency_s"] <= workflows["budget_s"])).all()


def test_a_run_folder_keeps_the_log(run: WorkflowRun, tmp_path: Path) -> None:
    """From the folder alone every decision can be taken again."""
    write_run(
        tmp_path / "run",
        config={"seed": 3},
        calls=run.calls,
        samples=run.samples,
        summary=summarise(run.calls, run.samples),
        workflows=run.workflows,
        events=run.events,
        seed=3,
    )
    kept = read_run(tmp_path / "run")

    assert kept.events is not None
    assert kept.workflows is not None
    with kept.events.open(encoding="utf-8") as lines:
        again = replay(lines, EveryPlan(), RoundRobin())
    assert (again.difference, again.num_commands) == (None, len(run.calls) + 60)
    pd.testing.assert_frame_equal(kept.workflows, run.workflows, check_dtype=False)


def test_the_same_arguments_give_the_same_run(run: WorkflowRun) -> None:
    again = simulate_workflows(
        bench_pool("priority"), bench_arrivals(60), EveryPlan(), RoundRobin(), VariedOutcomes(), seed=3
    )
    other = simulate_workflows(
        bench_pool("priority"), bench_arrivals(60), EveryPlan(), RoundRobin(), VariedOutcomes(), seed=4
    )

    assert again.log == run.log
    assert other.log != run.log


def test_followers_find_the_prompts_of_their_workflow_in_the_cache() -> None:
    """Introduction (28 tokens) and question (20) are two full blocks of 16 for the second agent; the same role again
    finds all but the last block, which vLLM computes anew."""
    server = ServerOptions("s", "m", SchedulerOptions(enable_prefix_caching=True), SERVER.step_time)

    def cached(role_set: str) -> list[int]:
        run = simulate_workflows(
            [server], ARRIVALS[:1], FixedPlan("IO", role_set), JoinShortestQueue("Flash"), FixedOutcomes(3)
        )
        return list(run.calls["num_cached_tokens"])

    assert cached("MathSolver+Inspector") == [0, 48, 48]
    prompt = 78
    assert cached("MathSolver+MathSolver")[:2] == [0, (prompt - 1) // 16 * 16]


def test_progress_is_told_for_each_workflow() -> None:
    told: list[int] = []
    simulate_workflows([SERVER], ARRIVALS, FixedPlan(), JoinShortestQueue(), FixedOutcomes(3), on_progress=told.append)

    assert told == [1, 2]


def test_workflows_without_an_answer_have_no_finish() -> None:
    run = simulate_workflows(
        [SERVER],
        ARRIVALS,
        FixedPlan(),
        JoinShortestQueue(),
        FixedOutcomes(3),
        options=ControllerOptions(cancel_hopeless=True),
    )
    row = to_table(run.workflows, WORKFLOWS).to_pylist()[1]

    assert row["outcome"] == "cancelled: hopeless"
    assert (row["finish_s"], row["latency_s"], row["correct"], row["on_time"]) == (None, None, None, False)


def test_what_a_person_may_get_wrong() -> None:
    def simulate(servers: list[ServerOptions], arrivals: list[Arrived], plan: FixedPlan) -> None:
        simulate_workflows(servers, arrivals, plan, JoinShortestQueue(), FixedOutcomes())

    with pytest.raises(ConfigError, match=r"workload: 1 problem\n  has no queries"):
        simulate([SERVER], [], FixedPlan())
    with pytest.raises(ConfigError, match=r"pool: 1 problem\n  server names used more than once: s$"):
        simulate([SERVER, SERVER], ARRIVALS, FixedPlan())
    with pytest.raises(ConfigError, match=r"query x: 1 problem\n  has arrived before"):
        simulate([SERVER], [ARRIVALS[0], ARRIVALS[0]], FixedPlan())
    with pytest.raises(ConfigError, match=r"planner FixedPlan: 1 problem\n  unknown topology 'Tree'"):
        simulate([SERVER], ARRIVALS, FixedPlan("Tree"))


def test_the_benchmark_runs() -> None:
    told: list[float] = []
    measured = bench_workflows(20, repeats=2, on_progress=told.append)

    # IO and CoT with 1, 2, 3, 2, 3 agents make 1 + 3 + 4 + 3 + 4 calls, Chain and FullConnected one for each agent.
    assert (measured.num_workflows, measured.num_calls) == (20, 15 + 15 + 11 + 11)
    assert measured.role_steps_per_s == pytest.approx(52 / measured.wall_s)
    assert told == [0.5, 1.0]
