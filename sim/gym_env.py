"""The Gymnasium environment ``inframind/Executor-v0``: the executor's decisions, for learners from elsewhere.

Importing this module registers it; it needs Gymnasium, which nothing else here does.

An episode is a stretch of traffic on a simulated pool. Workflows run side by side, so consecutive steps are decisions
of different workflows: a step goes from one decision to the next, whoever asks for it. Its reward and its cost are
those of the workflows that ended in between.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from inframind.traces import Budgets, ConfigError, Poisson
from inframind.workflows import (
    DOMAINS,
    PRIORITY_RULES,
    ROLE_NAMES,
    SERVER_FEATURES,
    STRATEGIES,
    Arrived,
    Choice,
    Controller,
    ControllerOptions,
    LatencyModel,
    Observation,
    Plan,
    PlannerPolicy,
)

from .clock import Environment
from .knowledge import Knowledge
from .outcomes import OutcomeModel
from .pool import Pool
from .queries import Part, draw_queries
from .server_file import PoolSection, load_pool
from .workflow_driver import EndedWorkflow, WorkflowDriver

ID = "inframind/Executor-v0"
"""For ``gymnasium.make``."""
LIMIT = 1e6
"""Seconds, tokens and requests beyond are cut: Gymnasium wants spaces with bounds."""

Features: TypeAlias = dict[str, Any]
"""An element of the observation space."""

_STRATEGY_NAMES = tuple(STRATEGIES)


class OneAgent:
    """The planner by default: one agent answers at once."""

    def plan(self, observation: Observation) -> Plan:
        """IO, with the first role set of the domain's menu."""
        return Plan("IO", DOMAINS[observation.query.domain].role_sets[0])


class ExecutorEnv(gymnasium.Env[Features, np.int64]):
    """One executor for all workflows; ``docs/gymnasium.md`` has the spaces, and what counts when.

    Parameters
    ----------
    pool
        A shipped pool or a pool file by its name, or a pool.
    rates_per_min
        Queries in a minute; each episode draws one of the rates. They arrive by a Poisson process.
    num_queries
        Queries of an episode.
    budgets
        Their latency budgets.
    domains
        Where questions come from, all alike.
    part
        Which questions of the bank.
    scheduler
        In which order servers take calls: ``fcfs``, or by vLLM's priorities a key of ``PRIORITY_RULES``.
    planner
        Decides how queries are worked on; `OneAgent` if None.
    outcomes
        What the LLMs write; the shipped model if None, by which no LLM's luck with a question of the ``train`` part
        outlasts an episode: it would be learnt. Each episode has a seed of its own for it.
    latency
        Predictors for the latency map; if None it is what step times and mean lengths let one expect.
    max_tokens
        Most tokens that a call may generate.
    poll_s
        How often the servers' gauges are read.
    drain
        Whether decisions go on after the last arrival, until every workflow has ended. Else the episode is truncated
        there.

    Raises
    ------
    ConfigError
        With all that is wrong, or the mistakes of the pool file.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it
    observation_space: spaces.Dict
    action_space: spaces.Discrete

    def __init__(
        self,
        pool: str | Path | PoolSection = "l40s",
        *,
        rates_per_min: Sequence[float] = (100.0,),
        num_queries: int = 500,
        budgets: Budgets | None = None,
        domains: Sequence[str] = tuple(DOMAINS),
        part: Part = "train",
        scheduler: str = "edf",
        planner: PlannerPolicy | None = None,
        outcomes: OutcomeModel | None = None,
        latency: LatencyModel | None = None,
        max_tokens: int = 2048,
        poll_s: float = 1.0,
        drain: bool = False,
    ) -> None:
        _check(rates_per_min, num_queries, domains, scheduler)
        section = pool if isinstance(pool, PoolSection) else load_pool(pool, Path())
        is_fcfs = scheduler == "fcfs"
        self._servers = [server.options(policy="fcfs" if is_fcfs else "priority") for server in section.servers]
        self._outcomes = outcomes or OutcomeModel.shipped(luck_by_seed=part == "train")
        self._outcomes.check_models([server.model for server in self._servers])
        self._options = ControllerOptions(priority="none" if is_fcfs else scheduler, max_tokens=max_tokens)
        self._rates_per_min = tuple(rates_per_min)
        self._num_queries = num_queries
        self._budgets = budgets or Budgets()
        self._domains = tuple(domains)
        self._part: Part = part
        self._planner = planner or OneAgent()
        self._latency = latency
        self._poll_s = poll_s
        self._drain = drain
        self._knowledge = Knowledge(self._servers, self._outcomes, max_tokens)

        self.observation_space = _observation_space(len(self._servers), self._outcomes.bank.embedding.shape[1])
        self.action_space = spaces.Discrete(len(self._servers) * len(_STRATEGY_NAMES))
        self._asked: Observation | None = None
        """The decision that `step` answers; None before the first episode and after each."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Features, dict[str, Any]]:
        """Begin an episode, and run to its first decision.

        Parameters
        ----------
        seed
            Equal seeds and equal actions give equal trajectories; without one, episodes go on from the last seed.
        options
            None are known.
        """
        super().reset(seed=seed)
        rate_per_min = float(self.np_random.choice(self._rates_per_min))
        episode_seed = int(self.np_random.integers(2**31))
        env = Environment()
        infos = [server.info for server in self._servers]
        controller = Controller(
            infos,
            self._planner,
            _Outside(),
            self._options,
            embeddings=self._outcomes.bank.embedding,
            latency=self._latency,
        )
        self._driver = WorkflowDriver(
            env, controller, self._outcomes, poll_s=self._poll_s, seed=episode_seed, keeps_log=False
        )
        pool = Pool(env, self._driver.on_end)
        self._decisions = self._driver.decisions(
            [pool.add(server) for server in self._servers], self._arrivals(rate_per_min, episode_seed)
        )
        self._num_planned = 0
        self._num_told = 0
        self._asked = self._advance(None)
        return self._features(), self._info([])

    def step(self, action: np.int64) -> tuple[Features, float, bool, bool, dict[str, Any]]:
        """Make one call, and run to the next decision.

        Parameters
        ----------
        action
            ``server * len(STRATEGIES) + strategy``; one that `action_masks` allows.

        Raises
        ------
        ConfigError
            The action does not exist, or its server is closed.
        """
        if self._asked is None:
            raise gymnasium.error.ResetNeeded("no decision is pending: call reset()")
        if not self.action_space.contains(action):
            raise ConfigError(ID, [f"action {action!r} must be a whole number in 0 to {self.action_space.n - 1}"])
        server, strategy = divmod(int(action), len(_STRATEGY_NAMES))
        if not self._asked.is_open[server]:
            name = self._servers[server].name
            raise ConfigError(ID, [f"action {action}: server {server} ({name}) is closed; see action_masks()"])
        self._asked = self._advance(Choice(server, _STRATEGY_NAMES[strategy]))
        ended = self._driver.ended[self._num_told :]
        self._num_told += len(ended)
        reward = float(sum(_is_good(each) for each in ended))
        terminated = self._asked is None
        truncated = not (terminated or self._drain) and self._num_planned == self._num_queries
        info = self._info(ended)
        features = self._features()
        if truncated:
            self._asked = None
        return features, reward, terminated, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions may be taken now, by `sb3_contrib.MaskablePPO`'s name for it: ``[server * strategy]``."""
        is_open = self._asked.is_open if self._asked else (True,) * len(self._servers)
        return np.repeat(np.array(is_open, dtype=np.bool_), len(_STRATEGY_NAMES))

    def _arrivals(self, rate_per_min: float, seed: int) -> list[Arrived]:
        """Arrivals, questions and budgets have a random stream each, as in an evaluation of that seed."""
        arrival_rng, question_rng, budget_rng = (np.random.default_rng([seed, stream]) for stream in range(3))
        times_s = Poisson(rate_per_min=rate_per_min).times(arrival_rng, num=self._num_queries)
        budgets_s = self._budgets.sample(budget_rng, self._num_queries)
        return draw_queries(self._outcomes.bank, self._domains, self._part, times_s, budgets_s, question_rng)

    def _advance(self, answer: Choice | None) -> Observation | None:
        """Run to the executor's next decision; None if there is none any more."""
        try:
            observation = next(self._decisions) if answer is None else self._decisions.send(answer)
            while observation.node is None:
                self._num_planned += 1
                topology, role_set = self._planner.plan(observation)
                observation = self._decisions.send((topology, role_set))
        except StopIteration:
            return None
        return observation

    def _features(self) -> Features:
        """Of the decision; after the last one there is nothing to see, and all is 0."""
        asked = self._asked
        if asked is None:
            return {name: np.zeros(space.shape, space.dtype) for name, space in self.observation_space.items()}
        return {
            "query": asked.query_embedding.copy(),
            "role": np.int64(ROLE_NAMES.index(str(asked.role))),
            "budget_s": _cut(asked.budget_s),
            "remaining_s": _cut(asked.remaining_s),
            "prompt_tokens": _cut(asked.prompt_tokens),
            "servers": _cut(asked.server_features),
            "latency_s": _cut(self._knowledge.latency_s(asked)),
        }

    def _info(self, ended: Sequence[EndedWorkflow]) -> dict[str, Any]:
        info: dict[str, Any] = {
            "cost": float(sum(not each.end.on_time for each in ended)),
            "ended": list(map(_told, ended)),
        }
        if (asked := self._asked) is not None:
            info |= {"t": asked.t, "workflow_id": asked.query.query_id, "tier_s": asked.budget_s}
        return info


class _Outside:
    """In the executor's place in a controller; the decisions are those of whoever calls `ExecutorEnv.step`."""

    def choose(self, observation: Observation) -> Choice:
        raise NotImplementedError


def _check(rates_per_min: Sequence[float], num_queries: int, domains: Sequence[str], scheduler: str) -> None:
    schedulers = ("fcfs", *(name for name in PRIORITY_RULES if name != "none"))
    rules = {
        f"rates_per_min ({list(rates_per_min)}) must be numbers above 0, at least one": rates_per_min
        and min(rates_per_min) > 0,
        f"num_queries ({num_queries}) must be at least 1": num_queries >= 1,
        f"domains ({list(domains)}) must be of {', '.join(DOMAINS)}, at least one": domains
        and set(domains) <= DOMAINS.keys(),
        f"scheduler ({scheduler!r}) must be one of {', '.join(schedulers)}": scheduler in schedulers,
    }
    if mistakes := [rule for rule, holds in rules.items() if not holds]:
        raise ConfigError(ID, mistakes)


def _observation_space(num_servers: int, embedding_size: int) -> spaces.Dict:
    def box(low: float, *shape: int) -> spaces.Box:
        return spaces.Box(low, LIMIT, shape, np.float32)

    return spaces.Dict(
        {
            "query": spaces.Box(-1.0, 1.0, (embedding_size,), np.float32),
            "role": spaces.Discrete(len(ROLE_NAMES)),
            "budget_s": box(0.0, 1),
            "remaining_s": box(-LIMIT, 1),
            "prompt_tokens": box(0.0, 1),
            "servers": box(-LIMIT, num_servers, len(SERVER_FEATURES)),
            "latency_s": box(0.0, num_servers, len(STRATEGIES)),
        }
    )


def _cut(values: float | NDArray[np.float64]) -> NDArray[np.float32]:
    """Within the bounds of the space, and never a number without an axis."""
    return np.array(values, np.float32, ndmin=1).clip(-LIMIT, LIMIT)


def _is_good(ended: EndedWorkflow) -> bool:
    return bool(ended.correct) and ended.end.on_time


def _told(ended: EndedWorkflow) -> dict[str, Any]:
    return {
        "workflow_id": ended.query.query_id,
        "tier_s": ended.query.budget_s,
        "correct": bool(ended.correct),
        "on_time": ended.end.on_time,
        "latency_s": ended.end.latency_s,
    }


gymnasium.register(ID, entry_point=f"{__name__}:{ExecutorEnv.__name__}")
