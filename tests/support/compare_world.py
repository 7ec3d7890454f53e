"""Run folders of workflows, as the simulator and the live client write them, on two servers that are known by heart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from policies import EveryPlan, FixedOutcomes, FixedPlan, JoinShortestQueue, RandomChoice, VariedOutcomes

from inframind.sim import PoolSection, WorkflowRun, simulate_workflows
from inframind.traces import summarise, write_run
from inframind.workflows import Arrived, ControllerOptions, ExecutorPolicy, PlannerPolicy, Query

POLICIES: dict[str, Callable[[], ExecutorPolicy]] = {
    "jsq": lambda: JoinShortestQueue("Concise"),
    "random": lambda: RandomChoice(7),
    "first": lambda: _First(),
}


class _First:
    """Always the first server: the worst of all."""

    def choose(self, observation: Any) -> tuple[int, str]:
        return 0, "Concise"


def pool(step_s: float = 0.1) -> dict[str, Any]:
    """Two servers with steps of constant time, two requests at once."""
    scheduler = {"max_num_seqs": 2, "num_blocks": 4000, "max_model_len": 8000, "async_scheduling": False}
    step_time = {"fixed_s": step_s, "prefill_token_s": 0.0, "decode_s": 0.0}
    return {
        "servers": [
            {"name": name, "model": f"model-{name}", "scheduler": scheduler, "step_time": step_time} for name in "ab"
        ]
    }


def queries(seed: int, num: int, rate_per_s: float, *, budgets_s: tuple[float, ...] = (20.0, 60.0)) -> list[Arrived]:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate_per_s, num))
    return [
        Arrived(float(t), Query(f"q{index}", "math", int(rng.integers(1000)), 50, float(rng.choice(budgets_s))))
        for index, t in enumerate(times)
    ]


def write(
    folder: Path,
    *,
    policy: str = "jsq",
    scheduler: str = "fcfs",
    seed: int = 0,
    step_s: float = 0.1,
    num: int = 40,
    rate_per_s: float = 0.4,
    late_s: float = 0.0,
    poll_s: float = 1.0,
    live: bool = False,
    planner: PlannerPolicy | None = None,
    executor: ExecutorPolicy | None = None,
    outcomes: FixedOutcomes | None = None,
    **run_table: Any,
) -> WorkflowRun:
    """Simulate a run and write its folder; ``live`` says so in its ``config.toml``, and that is all."""
    arrivals = [Arrived(event.t + late_s, event.query) for event in queries(seed, num, rate_per_s)]
    tables = pool(step_s)
    section = PoolSection.model_validate(tables)
    run = simulate_workflows(
        [server.options(policy="fcfs" if scheduler == "fcfs" else "priority") for server in section.servers],
        arrivals,
        planner or FixedPlan(),
        executor or POLICIES[policy](),
        outcomes or FixedOutcomes(20),
        options=ControllerOptions(priority="none" if scheduler == "fcfs" else "edf"),
        poll_s=poll_s,
    )
    about = {"kind": "live" if live else "simulated", "policy": policy, "scheduler": scheduler, "seed": seed}
    about |= {"rate_per_min": 60 * rate_per_s, "time_scale": 1.0, "strict_lengths": True} | run_table
    write_run(
        folder,
        config={"run": about, "pool": tables},
        calls=run.calls,
        samples=run.samples,
        summary=summarise(run.calls, run.samples),
        workflows=run.workflows,
        events=run.events,
        seed=seed,
    )
    return run


__all__ = ["EveryPlan", "VariedOutcomes", "pool", "queries", "write"]
