"""One run of an evaluation: the same queries for every policy, and what became of each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from inframind.sim import PoolSection, ServerOptions, WorkflowRun, simulate_workflows
from inframind.sim.knowledge import Knowledge
from inframind.sim.outcomes import OutcomeModel
from inframind.sim.queries import draw_queries
from inframind.sim.question_bank import QuestionBank
from inframind.traces import Budgets, Poisson
from inframind.workflows import Arrived, LatencyModel, Observation, build_workflow

from .evaluation_file import SCHEDULERS, Cell, Evaluation
from .policies import Setting, factory_of, label_of
from .policy import Policy

QUEUE_POINTS = 120
"""To so many points in time queue depths are thinned out."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """What came out of a cell."""

    cell: Cell
    workflows: pd.DataFrame
    """The queries that count, a row each: ``workflow_id``, ``domain``, ``question``, ``arrival_s``, ``budget_s``,
    ``topology``, ``role_set``, ``outcome``, ``correct`` (false without an answer), ``latency_s`` (null without one),
    ``on_time``, ``num_calls``, ``tokens`` (prompts and outputs of all its calls, failed ones too) and ``path_s``, see
    `path_s`."""
    servers: pd.DataFrame
    """``server``, ``model``, ``utilisation``: share of the polls that found a call running, while queries counted;
    ``running`` and ``waiting``: requests there, as last polled, in the mean over the calls of all servers."""
    choices: pd.DataFrame
    """``server``, ``strategy``, ``num_calls``, of the queries that count."""
    queues: pd.DataFrame
    """``time_s`` and a column for each server: requests waiting."""
    decisions_per_s: float
    """Of planner and executor, per second that they took on this machine."""


class World:
    """What all cells of an evaluation share.

    Parameters
    ----------
    outcomes
        Of all LLMs of the pool.
    latency
        Predictors for the pool's servers, those of ``evaluation.predictors``; without, step times predict.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        pool: PoolSection,
        outcomes: OutcomeModel,
        latency: LatencyModel | None = None,
    ) -> None:
        self.evaluation = evaluation
        self.pool = pool
        self.outcomes = outcomes
        self.latency = latency
        self.knowledge = Knowledge([server.options() for server in pool.servers], outcomes, evaluation.max_tokens)
        self._factories = {label_of(entry): factory_of(entry) for entry in evaluation.policies}

    def servers(self, cell: Cell) -> list[ServerOptions]:
        """The pool under the cell's scheduler."""
        return [server.options(policy=SCHEDULERS[cell.scheduler].policy) for server in self.pool.servers]

    def policy(self, cell: Cell) -> Policy:
        """Who decides in a cell, as at the begin of its run.

        Raises
        ------
        ConfigError
            A trained policy whose files are broken, or do not fit the pool.
        """
        evaluation = self.evaluation
        return self._factories[cell.policy](
            Setting(
                self.servers(cell),
                self.knowledge,
                self.outcomes,
                evaluation.planner,
                evaluation.strategy,
                cell.seed,
            )
        )

    def run(self, cell: Cell) -> CellResult:
        """Simulate one cell."""
        evaluation = self.evaluation
        timed = _Timed(self.policy(cell))
        run = simulate_workflows(
            self.servers(cell),
            arrivals(evaluation, cell, self.outcomes.bank),
            timed,
            timed,
            self.outcomes,
            options=evaluation.controller_options(cell.scheduler),
            embeddings=self.outcomes.bank.embedding,
            latency=self.latency,
            poll_s=evaluation.poll_s,
            seed=cell.seed,
        )
        return _result(evaluation, cell, run, timed.decisions_per_s)


def arrivals(evaluation: Evaluation, cell: Cell, bank: QuestionBank) -> list[Arrived]:
    """The queries of a cell; the same for all policies and schedulers, and at another rate only closer together.

    Questions of a domain come in a random order, and again when all have come.
    """
    num = evaluation.num_queries + 2 * _warm_up(evaluation)
    arrival_rng, question_rng, budget_rng = (np.random.default_rng([cell.seed, stream]) for stream in range(3))
    times = Poisson(kind="poisson", rate_per_min=cell.rate_per_min).times(arrival_rng, num=num)
    budgets_s = (Budgets(tiers_s=(cell.tier_s,)) if cell.tier_s else evaluation.budgets).sample(budget_rng, num)
    return draw_queries(bank, evaluation.domains, evaluation.part, times, budgets_s, question_rng)


def _warm_up(evaluation: Evaluation) -> int:
    return evaluation.warm_up_queries if evaluation.protocol == "steady-state" else 0


def _result(evaluation: Evaluation, cell: Cell, run: WorkflowRun, decisions_per_s: float) -> CellResult:
    first = _warm_up(evaluation)
    counted = run.workflows.iloc[first : first + evaluation.num_queries]
    begin_s = counted["arrival_s"].iloc[0] if first else 0.0
    end_s = counted["arrival_s"].iloc[-1] if first else np.inf
    calls = run.calls[run.calls["workflow_id"].isin(counted["workflow_id"])]
    samples = run.samples[run.samples["time_s"].between(begin_s, end_s)]
    tokens = (calls["prompt_tokens"] + calls["output_tokens"]).groupby(calls["workflow_id"]).sum()
    kept = [
        *("workflow_id", "domain", "question", "arrival_s", "budget_s", "topology", "role_set"),
        *("outcome", "correct", "latency_s", "on_time", "num_calls"),
    ]
    workflows = counted[kept].assign(
        correct=counted["correct"].eq(True),
        tokens=counted["workflow_id"].map(tokens).fillna(0).astype("int64"),
        path_s=path_s(counted, calls, evaluation.call_timeout_s),
    )
    models = {server.name: server.model for server in run.controller.servers}
    busy = (samples["running"] > 0).groupby(samples["server"]).mean()
    return CellResult(
        cell,
        workflows.reset_index(drop=True),
        pd.DataFrame(
            {
                "server": list(models),
                "model": list(models.values()),
                "utilisation": [float(busy.get(name, 0.0)) for name in models],
                **{gauge: gauge_found(run.samples, calls, gauge, list(models)) for gauge in ("running", "waiting")},
            }
        ),
        calls.groupby(["server", "strategy"]).size().rename("num_calls").reset_index(),
        _thinned(run.samples, list(models)),
        decisions_per_s,
    )


def path_s(workflows: pd.DataFrame, calls: pd.DataFrame, call_timeout_s: float | None) -> list[float]:
    """Seconds along the longest path of each workflow's calls, each with its own time.

    The latency, if calls never waited for their turn (``max_parallel_calls``). A call that was given up counts until
    then, and another try of a node adds to it; so it is known of workflows without an answer too.
    """
    # A server ends a cancelled call with its step, a little later than the client.
    seconds = (calls["finish_s"] - calls["arrival_s"]).fillna(call_timeout_s or 0.0).clip(upper=call_timeout_s)
    by_slot: dict[str, dict[int, float]] = {}
    for workflow, slot, taken in zip(calls["workflow_id"], calls["slot"], seconds, strict=True):
        slots = by_slot.setdefault(workflow, {})
        slots[slot] = slots.get(slot, 0.0) + taken
    paths = []
    columns = ("workflow_id", "domain", "topology", "role_set")
    for name, domain, topology, role_set in zip(*(workflows[column] for column in columns), strict=True):
        plan, taken_s = build_workflow(domain, topology, role_set), by_slot.get(name, {})
        paths.append(plan.critical_path_s([taken_s.get(node.slot, 0.0) for node in plan.nodes]))
    return paths


def gauge_found(samples: pd.DataFrame, calls: pd.DataFrame, gauge: str, servers: Sequence[str]) -> list[float]:
    """A gauge of each server as the calls found it when they were submitted."""
    by_time = _by_time(samples, gauge, servers)
    last = by_time.index.searchsorted(calls["arrival_s"], side="right") - 1
    return [float(each) for each in by_time.iloc[last].mean()]


def _thinned(samples: pd.DataFrame, servers: Sequence[str]) -> pd.DataFrame:
    table = _by_time(samples, "waiting", servers)
    every = -(-len(table) // QUEUE_POINTS)
    return table.iloc[::every].reset_index().rename_axis(columns=None)


def _by_time(samples: pd.DataFrame, gauge: str, servers: Sequence[str]) -> pd.DataFrame:
    """A row for each poll, a column for each server."""
    return samples.pivot(index="time_s", columns="server", values=gauge)[list(servers)].astype(float)


class _Timed:
    """Planner and executor of a policy, with a stop-watch."""

    def __init__(self, policy: Policy) -> None:
        self._plan: Callable[[Observation], tuple[str, str]] = policy.planner.plan
        self._choose: Callable[[Observation], tuple[int, str]] = policy.executor.choose
        self._num = 0
        self._seconds = 0.0

    @property
    def decisions_per_s(self) -> float:
        return self._num / self._seconds

    def plan(self, observation: Observation) -> tuple[str, str]:
        start = time.perf_counter()
        plan = self._plan(observation)
        self._seconds += time.perf_counter() - start
        self._num += 1
        return plan

    def choose(self, observation: Observation) -> tuple[int, str]:
        start = time.perf_counter()
        choice = self._choose(observation)
        self._seconds += time.perf_counter() - start
        self._num += 1
        return choice
