"""Experience: simulations in lock-step, their decisions made together."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inframind.sim import PoolSection, ServerOptions
from inframind.sim.clock import Environment
from inframind.sim.garbage import no_garbage_collection
from inframind.sim.knowledge import Knowledge
from inframind.sim.outcomes import OutcomeModel
from inframind.sim.pool import Pool
from inframind.sim.queries import draw_queries
from inframind.sim.workflow_driver import WorkflowDriver
from inframind.traces import Budgets, Gamma
from inframind.workflows import (
    Answer,
    Arrived,
    Controller,
    ControllerOptions,
    LatencyModel,
    Observation,
    Query,
)

from .acting import Actor, Decided, Made, Noise, log_prob_of
from .evaluation_file import SCHEDULERS
from .features import FeatureBuilder, Features
from .training_file import Training

OUTCOME_SEEDS = 24
"""Outcomes of a seed take 150 ms to draw, once; so many differ from one simulation to the next."""


class Conditions(NamedTuple):
    """What one simulation is like."""

    rate_per_min: float
    burstiness_cv: float
    pool_speed: float
    budget_weights: tuple[float, ...]
    seed: int
    """Of arrivals, questions and budgets."""

    @property
    def outcome_seed(self) -> int:
        """Of what LLMs write."""
        return self.seed % OUTCOME_SEEDS


def draw_conditions(training: Training, rng: np.random.Generator) -> Conditions:
    """As the training file says."""
    load, tiers = training.load, training.budgets.tiers_s
    rate, cv, speed = (
        float(np.exp(rng.uniform(*np.log(span)))) for span in (load.rates_per_min, load.burstiness_cv, load.pool_speed)
    )
    weights = training.budgets.weights or (1.0,) * len(tiers)
    if load.random_budget_mix:
        weights = tuple(rng.dirichlet(len(tiers) * 2.0 * np.array(weights) / sum(weights)).tolist())
    return Conditions(rate, cv, speed, weights, int(rng.integers(2**31)))


@dataclass(frozen=True, slots=True)
class Batch:
    """Decisions and what came of them; N decisions, W workflows."""

    features: Features
    """``[N]``."""
    choice: NDArray[np.int64]
    """``[N]``, see `acting.Made`."""
    log_prob: NDArray[np.float32]
    """When it was made: ``[N]``."""
    is_plan: NDArray[np.bool_]
    """Planner's or executor's: ``[N]``."""
    allowed: NDArray[np.bool_]
    """Of the planner's, in their order: ``[N plans, topologies, role sets]``."""
    workflow: NDArray[np.int64]
    """Whose: ``[N]``."""
    next_row: NDArray[np.int64]
    """The next decision of the same workflow, -1 for its last: ``[N]``."""
    call_s: NDArray[np.float64]
    """From the decision to the call's last token; NaN for plans and for calls that failed: ``[N]``."""
    wait_s: NDArray[np.float64]
    """Of it, until the server began with the call, NaN likewise: ``[N]``."""
    time_s: NDArray[np.float64]
    """When, in seconds since its simulation began: ``[N]``."""
    simulation: NDArray[np.int64]
    """In which: ``[N]``."""
    luck: NDArray[np.float32]
    """Whether each LLM and strategy would be right on the decision's question: the share over the workflow's slots,
    and at the decision's own slot (a plan's: the first): ``[N, n, S, 2]``."""
    tier: NDArray[np.int64]
    """``[W]``."""
    budget_s: NDArray[np.float64]
    """``[W]``."""
    latency_s: NDArray[np.float64]
    """From arrival to end: ``[W]``."""
    correct: NDArray[np.bool_]
    """False without an answer: ``[W]``."""
    on_time: NDArray[np.bool_]
    """``[W]``."""
    rate_per_min: NDArray[np.float64]
    """Of its simulation: ``[W]``."""

    @classmethod
    def concatenate(cls, parts: Sequence["Batch"]) -> "Batch":
        """One after the other; rows and workflows are numbered anew."""
        rows = np.cumsum([0, *(len(part.choice) for part in parts)])
        workflows = np.cumsum([0, *(len(part.tier) for part in parts)])
        simulations = np.cumsum([0, *(int(part.simulation.max(initial=-1)) + 1 for part in parts)])
        shifted = [
            replace(
                part,
                workflow=part.workflow + first_workflow,
                simulation=part.simulation + first_simulation,
                next_row=np.where(part.next_row < 0, -1, part.next_row + first_row),
            )
            for part, first_row, first_workflow, first_simulation in zip(
                parts, rows, workflows, simulations, strict=False
            )
        ]
        columns = {
            field.name: np.concatenate([getattr(part, field.name) for part in shifted])
            for field in fields(cls)
            if field.name != "features"
        }
        return cls(features=Features.concatenate([part.features for part in shifted]), **columns)


class _Nobody:
    """In place of policies: who goes through the decisions decides."""

    def plan(self, observation: Observation) -> tuple[str, str]:
        raise NotImplementedError

    def choose(self, observation: Observation) -> tuple[int, str]:
        raise NotImplementedError


_NOBODY = _Nobody()


class _Simulation:
    """One pool with its workflows, stopped at the decision that it waits for."""

    def __init__(self, training: Training, world: "TrainingWorld", conditions: Conditions) -> None:
        self.conditions = conditions
        rngs = [np.random.default_rng([conditions.seed, stream]) for stream in range(4)]
        process = Gamma(kind="gamma", rate_per_min=conditions.rate_per_min, cv=conditions.burstiness_cv)
        arrivals = draw_queries(
            world.outcomes.bank,
            training.domains,
            "train",
            process.times(rngs[0], num=training.load.queries),
            Budgets(tiers_s=training.budgets.tiers_s, weights=conditions.budget_weights).sample(
                rngs[2], training.load.queries
            ),
            rngs[1],
        )
        arrivals, embeddings = _blurred(arrivals, world.outcomes.bank.embedding, training.load.embedding_noise, rngs[3])
        servers = [_faster(server, conditions.pool_speed) for server in world.servers]
        infos = [server.info for server in servers]
        self.controller = Controller(
            infos,
            _NOBODY,
            _NOBODY,
            ControllerOptions(
                priority=SCHEDULERS[training.scheduler].priority,
                max_tokens=training.max_tokens,
                answer_when_due=training.answer_when_due,
                dead_reckoning=training.dead_reckoning,
            ),
            embeddings=embeddings,
            latency=world.latency,
        )
        environment = Environment()
        self.driver = WorkflowDriver(
            environment,
            self.controller,
            world.outcomes,
            poll_s=training.poll_s,
            seed=conditions.outcome_seed,
            keeps_log=False,
        )
        pool = Pool(environment, self.driver.on_end)
        self.numbers = {arrived.query.query_id: index for index, arrived in enumerate(arrivals)}
        self._decisions: Generator[Observation, Answer, None] = self.driver.decisions(
            [pool.add(server) for server in servers], arrivals
        )
        self.waits_for: Observation | None = next(self._decisions)

    def go_on(self, answer: Answer) -> None:
        """To the next decision; ``waits_for`` is None when all has ended."""
        try:
            self.waits_for = self._decisions.send(answer)
        except StopIteration:
            self.waits_for = None


class TrainingWorld:
    """What all simulations of a training share; made anew in each process.

    Parameters
    ----------
    latency
        Predictors for the pool's servers, those of ``training.predictors``; without, step times predict.
    """

    def __init__(
        self, training: Training, pool: PoolSection, outcomes: OutcomeModel, latency: LatencyModel | None = None
    ) -> None:
        self.training = training
        self.outcomes = outcomes
        self.latency = latency
        policy = SCHEDULERS[training.scheduler].policy
        self.servers = [server.options(policy=policy) for server in pool.servers]
        networks = [training.executor.network]
        networks += [] if training.planner.fixed else [training.planner.network]
        networks += [] if training.critic.shared else [training.critic.network]
        self.builder = FeatureBuilder(
            Knowledge(self.servers, outcomes, training.max_tokens),
            with_embedding=any(network.reads_embedding for network in networks),
        )
        rows = [outcomes.models.index(server.model) for server in self.servers]
        self._models = np.array(rows)

    def right_calls(self, query: Query, seed: int) -> NDArray[np.bool_]:
        """Which calls would be right on a query's question: ``[slot, server, strategy]``."""
        right = self.outcomes.right_calls(query.domain, query.question, seed, self.training.max_tokens)
        return right[:, self._models]

    def collect(self, actor: Actor, conditions: Sequence[Conditions], seed: int | None) -> Batch:
        """Run one simulation for each of the conditions to its end, all in lock-step.

        Without a seed decisions are the most probable ones; else they are drawn.
        """
        with no_garbage_collection():
            return self._collect(actor, conditions, None if seed is None else Noise(seed))

    def _collect(self, actor: Actor, conditions: Sequence[Conditions], noise: Noise | None) -> Batch:
        simulations = [_Simulation(self.training, self, each) for each in conditions]
        recorder = _Recorder(simulations, self)
        waiting = [
            (index, each, each.waits_for) for index, each in enumerate(simulations) if each.waits_for is not None
        ]
        while waiting:
            indexes, running, observations = zip(*waiting, strict=True)
            decided = actor.decide(observations, noise)
            recorder.add(indexes, observations, decided)
            for simulation, answer in zip(running, decided.answers, strict=True):
                simulation.go_on(answer)
            waiting = [(index, each, each.waits_for) for index, each, _ in waiting if each.waits_for is not None]
        return recorder.batch()


class _Recorder:
    """Collects decisions while simulations run."""

    def __init__(self, simulations: Sequence[_Simulation], world: TrainingWorld) -> None:
        self._simulations = simulations
        self._world = world
        self._first = np.cumsum([0, *(len(each.numbers) for each in simulations)])
        self._features: list[Features] = []
        self._made: list[tuple[Made, Made]] = []
        self._workflows: list[int] = []
        self._calls: list[tuple[int, int]] = []
        """Simulation and slot, slot -1 for a plan."""
        self._times: list[float] = []

    def add(
        self,
        indexes: Sequence[int],
        observations: Sequence[Observation],
        decided: Decided,
    ) -> None:
        """One batch of decisions, all at once."""
        self._features.append(decided.features)
        self._made.append((decided.plans, decided.calls))
        for index, observation in zip(indexes, observations, strict=True):
            number = self._simulations[index].numbers[observation.query.query_id]
            self._workflows.append(int(self._first[index]) + number)
            self._calls.append((index, -1 if observation.node is None else observation.node.slot))
            self._times.append(observation.t)

    def batch(self) -> Batch:
        """All that was recorded, once the simulations have ended."""
        num = len(self._workflows)
        choice, log_prob = np.zeros(num, np.int64), np.zeros(num, np.float32)
        is_plan = np.array([slot < 0 for _, slot in self._calls])
        is_learnt = np.zeros(num, np.bool_)
        starts = np.cumsum([0, *map(len, self._features[:-1])])
        for of_kind in zip(*self._made, strict=True):
            made = [each for each in of_kind if len(each.rows)]
            if made:
                rows = np.concatenate([start + each.rows for start, each in zip(starts, of_kind, strict=True)])
                choice[rows] = np.concatenate([each.choice for each in made])
                log_prob[rows], is_learnt[rows] = log_prob_of(made), True
        workflow = np.array(self._workflows)
        ended = self._ended()
        right = np.stack([each.right for each in ended])
        slot = np.maximum([slot for _, slot in self._calls], 0) % right.shape[1]
        luck = np.stack([right.mean(1)[workflow], right[workflow, slot]], -1).astype(np.float32)
        kept = np.flatnonzero(is_learnt)
        call_s, wait_s = self._call_and_wait_s()
        return Batch(
            Features.concatenate(self._features).take(kept),
            choice[kept],
            log_prob[kept],
            is_plan[kept],
            np.concatenate([plans.allowed for plans, _ in self._made]),
            workflow[kept],
            _next_rows(workflow[kept]),
            call_s[kept],
            wait_s[kept],
            np.array(self._times)[kept],
            np.array([index for index, _ in self._calls])[kept],
            luck[kept],
            *(
                np.array([getattr(each, name) for each in ended])
                for name in ("tier", "budget_s", "latency_s", "correct", "on_time", "rate_per_min")
            ),
        )

    def _ended(self) -> list["_Ended"]:
        tiers = np.log(self._world.training.budgets.tiers_s)
        ended = []
        for simulation in self._simulations:
            by_number: dict[int, _Ended] = {}
            for workflow in simulation.driver.ended:
                query = workflow.query
                by_number[simulation.numbers[query.query_id]] = _Ended(
                    int(np.abs(tiers - np.log(query.budget_s)).argmin()),
                    query.budget_s,
                    workflow.end_s - workflow.arrival_s,
                    bool(workflow.correct),
                    workflow.end.on_time,
                    simulation.conditions.rate_per_min,
                    self._world.right_calls(query, simulation.conditions.outcome_seed),
                )
            ended += [by_number[number] for number in range(len(by_number))]
        return ended

    def _call_and_wait_s(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        nothing = (np.nan, np.nan)
        # Each decision on a node submits one call, a second try of a failed one too: both are in the same order.
        spans = [iter(simulation.driver.spans_s.values()) for simulation in self._simulations]
        own = [nothing if slot < 0 else next(spans[index]) for index, slot in self._calls]
        begun, ended = np.array(own).reshape(-1, 2).T
        times = np.array(self._times)
        return ended - times, begun - times


class _Ended(NamedTuple):
    tier: int
    budget_s: float
    latency_s: float
    correct: bool
    on_time: bool
    rate_per_min: float
    right: NDArray[np.bool_]


def _next_rows(workflow: NDArray[np.int64]) -> NDArray[np.int64]:
    """The next row of the same workflow; rows are in order of time within each."""
    order = np.argsort(workflow, kind="stable")
    following = np.full(len(workflow), -1)
    same = workflow[order[1:]] == workflow[order[:-1]]
    following[order[:-1]] = np.where(same, order[1:], -1)
    return following


def _blurred(
    arrivals: Sequence[Arrived], table: NDArray[np.float32], noise: float, rng: np.random.Generator
) -> tuple[list[Arrived], NDArray[np.float32]]:
    """The queries with embeddings of their own, noise of this length added to each, and the table of these."""
    if not noise:
        return list(arrivals), table
    rows = [arrived.query.embedding for arrived in arrivals]
    own = table[np.array(rows)]
    own = own + rng.normal(0, noise / np.sqrt(own.shape[1]), own.shape).astype(np.float32)
    return [replace(arrived, query=replace(arrived.query, embedding=row)) for row, arrived in enumerate(arrivals)], own


def _faster(server: ServerOptions, speed: float) -> ServerOptions:
    step_time = server.step_time
    names = [field.name for field in fields(step_time) if field.name.endswith("_s")]
    seconds = {name: getattr(step_time, name) / speed for name in names}
    return replace(server, step_time=replace(step_time, **seconds))
