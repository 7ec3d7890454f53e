"""How fast workflows are simulated, in one process on one core."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, product
from statistics import median

import numpy as np

from inframind.traces import Budgets, Poisson
from inframind.workflows import DOMAINS, TOPOLOGIES, Arrived, CallRecord, Observation, Query

from .bench import bench_pool, simpy_timeouts_per_s
from .simulate_workflows import simulate_workflows

RATE_PER_MIN = 100.0
DOMAIN = "math"
PROMPT_TOKENS = (50, 300)
OUTPUT_TOKENS = (50, 600)


@dataclass(frozen=True, slots=True)
class WorkflowMeasurement:
    """One workload, several times, each time beside bare SimPy; medians over the runs."""

    num_workflows: int
    num_calls: int
    wall_s: float
    """From the queries to the finished tables, everything recorded."""
    wall_range_s: tuple[float, float]
    workflows_per_s: float
    role_steps_per_s: float
    """Calls, and so decisions of the executor, per second of the machine's time."""
    simpy_timeouts_per_s: float
    """Bare SimPy, right before and after each run."""
    timeouts_per_workflow: float
    """(timeouts per second) / (workflows per second): the cost of one workflow."""


def bench_workflows(
    num_workflows: int = 1000,
    repeats: int = 5,
    *,
    rate_per_min: float = RATE_PER_MIN,
    on_progress: Callable[[float], None] | None = None,
) -> WorkflowMeasurement:
    """The five shipped servers, Poisson arrivals, all topologies and role sets in turn, join-shortest-queue, EDF.

    Parameters
    ----------
    on_progress
        Called with the share of the runs that are done.
    """
    arrivals = bench_arrivals(num_workflows, rate_per_min)
    num_timeouts = 100 * num_workflows
    walls, timeouts, num_calls = [], [], 0
    for repeat in range(repeats):
        gc.collect()
        before = simpy_timeouts_per_s(num_timeouts)
        start = time.perf_counter()
        run = simulate_workflows(bench_pool("priority"), arrivals, _EveryPlan(), _ShortestQueue(), _AnyOutcomes())
        walls.append(time.perf_counter() - start)
        timeouts.append((before + simpy_timeouts_per_s(num_timeouts)) / 2)
        num_calls = len(run.calls)
        if on_progress is not None:
            on_progress((repeat + 1) / repeats)
    wall_s = median(walls)
    return WorkflowMeasurement(
        num_workflows=num_workflows,
        num_calls=num_calls,
        wall_s=wall_s,
        wall_range_s=(min(walls), max(walls)),
        workflows_per_s=num_workflows / wall_s,
        role_steps_per_s=num_calls / wall_s,
        simpy_timeouts_per_s=median(timeouts),
        timeouts_per_workflow=median(rate * wall / num_workflows for rate, wall in zip(timeouts, walls, strict=True)),
    )


def bench_arrivals(num_workflows: int, rate_per_min: float = RATE_PER_MIN, seed: int = 0) -> list[Arrived]:
    """The fixed workload: questions of different lengths, the default mix of budgets."""
    arrival_rng, length_rng, budget_rng = (np.random.default_rng([seed, stream]) for stream in range(3))
    times = Poisson(kind="poisson", rate_per_min=rate_per_min).times(arrival_rng, num=num_workflows)
    prompts = length_rng.integers(*PROMPT_TOKENS, num_workflows)
    budgets = Budgets().sample(budget_rng, num_workflows)
    rows = zip(times.tolist(), prompts.tolist(), budgets.tolist(), strict=True)
    return [
        Arrived(t, Query(f"q{index}", DOMAIN, index, prompt_tokens, budget_s))
        for index, (t, prompt_tokens, budget_s) in enumerate(rows)
    ]


class _EveryPlan:
    """All topologies with all role sets, one after another: 3.5 calls in the mean."""

    def __init__(self) -> None:
        self._plans = list(product(TOPOLOGIES, DOMAINS[DOMAIN].role_sets))
        self._turn = count()

    def plan(self, observation: Observation) -> tuple[str, str]:
        return self._plans[next(self._turn) % len(self._plans)]


class _ShortestQueue:
    """The server with the fewest requests."""

    def choose(self, observation: Observation) -> tuple[int, str]:
        return min(range(len(observation.servers)), key=observation.outstanding), "Concise"


class _AnyOutcomes:
    """Lengths that cost nothing to draw; the same for the same question and node."""

    def __init__(self) -> None:
        self._lengths = np.random.default_rng(0).integers(*OUTPUT_TOKENS, 9973).tolist()

    def output_tokens(
        self, domain: str, question: int, model: str, strategy: str, role: str, slot: int, seed: int
    ) -> int:
        length: int = self._lengths[(97 * question + slot) % len(self._lengths)]
        return length

    def answer_correct(
        self, domain: str, question: int, topology: str, role_set: str, calls: Sequence[CallRecord], seed: int
    ) -> bool:
        return True
