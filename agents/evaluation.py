"""One run of an evaluation: the same queries for every policy, and what became of each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from inframind.sim import PoolSection, WorkflowRun, simulate_workflows
from inframind.sim.outcomes import OutcomeModel, QuestionBank
from inframind.traces import Budgets, Poisson
from inframind.workflows import Arrived, ControllerOptions, Observation, Query

from .evaluation_file import SCHEDULERS, Cell, Evaluation
from .knowledge import Knowledge
from .policies import POLICIES, Policy, Setting

QUEUE_POINTS = 120
"""To so many points in time queue depths are thinned out."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """What came out of a cell."""

    cell: Cell
    workflows: pd.DataFrame
    """The queries that count, a row each: ``workflow_id``, ``domain``, ``question``, ``arrival_s``, ``budget_s``,
    ``topology``, ``role_set``, ``outcome``, ``correct`` (false without an answer), ``latency_s`` (null without one),
    ``on_time``, ``num_calls`` and ``tokens`` (prompts and outputs of all its calls, failed ones too)."""
    servers: pd.DataFrame
    """``server``, ``model``, ``utilisation``: share of the polls that found a call running, while queries counted."""
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
    """

    def __init__(self, evaluation: Evaluation, pool: PoolSection, outcomes: OutcomeModel) -> None:
        self.evaluation = evaluation
        self.pool = pool
        self.outcomes = outcomes
        self.knowledge = Knowledge([server.options() for server in pool.servers], outcomes, evaluation.max_tokens)

    def run(self, cell: Cell) -> CellResult:
        """Simulate one cell."""
        evaluation = self.evaluation
        discipline = SCHEDULERS[cell.scheduler]
        servers = [server.options(policy=discipline.policy) for server in self.pool.servers]
        setting = Setting(servers, self.knowledge, self.outcomes, evaluation.planner, evaluation.strategy, cell.seed)
        timed = _Timed(POLICIES[cell.policy](setting))
        run = simulate_workflows(
            servers,
            arrivals(evaluation, cell, self.outcomes.bank),
            timed,
            timed,
            self.outcomes,
            options=ControllerOptions(
                priority=discipline.priority,
                max_tokens=evaluation.max_tokens,
                cancel_hopeless=evaluation.cancel_hopeless,
            ),
            embeddings=self.outcomes.bank.embedding,
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
    questions = {
        domain: question_rng.permutation(_questions(evaluation, bank, domain)) for domain in evaluation.domains
    }
    num_asked = dict.fromkeys(evaluation.domains, 0)
    arrived = []
    for index, drawn in enumerate(question_rng.integers(len(evaluation.domains), size=num)):
        domain = evaluation.domains[drawn]
        question = int(questions[domain][num_asked[domain] % len(questions[domain])])
        num_asked[domain] += 1
        row = bank.row(domain, question)
        tokens, budget_s = int(bank.prompt_tokens[row]), float(budgets_s[index])
        query = Query(f"q{index}", domain, question, tokens, budget_s, embedding=row)
        arrived.append(Arrived(float(times[index]), query))
    return arrived


def _questions(evaluation: Evaluation, bank: QuestionBank, domain: str) -> list[int]:
    parts = {"test": (False,), "train": (True,), "all": (False, True)}[evaluation.part]
    return [question for train in parts for question in bank.questions(domain, train=train)]


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
            }
        ),
        calls.groupby(["server", "strategy"]).size().rename("num_calls").reset_index(),
        _thinned(run.samples, list(models)),
        decisions_per_s,
    )


def _thinned(samples: pd.DataFrame, servers: Sequence[str]) -> pd.DataFrame:
    table = samples.pivot_table(index="time_s", columns="server", values="waiting")[list(servers)]
    every = -(-len(table) // QUEUE_POINTS)
    return table.iloc[::every].reset_index().rename_axis(columns=None)


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
