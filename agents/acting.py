"""A planner's and an executor's network as what decides: for one observation or for many at once."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inframind.workflows import DOMAINS, Choice, Observation, Plan, PlannerPolicy, build_workflow

from .features import (
    DOMAIN_NAMES,
    ROLE_SETS,
    SCALARS,
    STRATEGY_NAMES,
    TOPOLOGY_NAMES,
    FeatureBuilder,
    Features,
)
from .networks import NEVER, SetExecutor, SetPlanner
from .set_forward import ExecutorScores, PlannerScores
from .tensors import FeatureTensors

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float32]
_DOMAIN_AT = len(SCALARS)


class Drawn(NamedTuple):
    """Choices of one head, each from the softmax of a row."""

    logits: Floats
    """``[rows, choices]``, masked."""
    choice: NDArray[np.int64]
    """``[rows]``."""

    def log_prob(self) -> Floats:
        """Of the choices: ``[rows]``."""
        highest = self.logits.max(-1)
        log_sum = np.log(np.exp(self.logits - highest[:, None]).sum(-1))
        log_prob: Floats = self.logits[np.arange(len(self.choice)), self.choice] - highest - log_sum
        return log_prob


class Made(NamedTuple):
    """Decisions of one kind in a batch."""

    rows: NDArray[np.int64]
    """Which observations of the batch."""
    choice: NDArray[np.int64]
    """Executor: ``server * strategies + strategy``. Planner: ``topology * role sets + role set``."""
    heads: tuple[Drawn, ...]
    """What it was drawn from, by which trainers tell how probable it was. Executor: one head. Planner: that of
    topologies, and that of role sets."""
    allowed: Bools
    """Planner: plans that were not masked, ``[rows, topologies, role sets]``; empty for the executor."""


def log_prob_of(made: Sequence[Made]) -> Floats:
    """Of decisions of one kind, in all heads together: ``[rows of all]``. Best asked for all of a run at once: on tiny
    arrays it is numpy's calls that cost."""
    log_prob = np.zeros(sum(len(each.rows) for each in made), np.float32)
    for of_head in zip(*(each.heads for each in made), strict=True):
        logits, choice = (np.concatenate(parts) for parts in zip(*of_head, strict=True))
        log_prob += Drawn(logits, choice).log_prob()
    return log_prob


class Decided(NamedTuple):
    """All decisions of a batch."""

    answers: list[tuple[str, str] | tuple[int, str]]
    """In the order of the observations."""
    features: Features
    plans: Made
    calls: Made


class Noise:
    """What decisions are drawn with: equal seeds, equal numbers, in whatever portions they are asked for."""

    BLOCK = 4096
    """Drawn at once: for the few numbers of one decision PyTorch takes 10 us."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._left: Floats = np.empty(0, np.float32)

    def gumbel(self, shape: tuple[int, ...]) -> Floats:
        """The next numbers, standard Gumbel."""
        num = math.prod(shape)
        while len(self._left) < num:
            uniform = torch.rand(self.BLOCK, generator=self._generator).clamp_(1e-9, 1 - 1e-7).numpy()
            self._left = np.concatenate([self._left, -np.log(-np.log(uniform))])
        numbers, self._left = self._left[:num], self._left[num:]
        return numbers.reshape(shape)


class Actor:
    """Decides by the networks.

    Parameters
    ----------
    planner, executor
        See `inframind.agents.networks`. In place of a planner's network there may be a policy that does not learn.
    mask_infeasible
        Plans whose latency floor (theory, 2.1: calls on the critical path, each the quickest there is now) exceeds
        the time left are not chosen.
    """

    def __init__(
        self,
        builder: FeatureBuilder,
        planner: nn.Module | PlannerPolicy,
        executor: nn.Module,
        *,
        mask_infeasible: bool = True,
    ) -> None:
        self._builder = builder
        self.planner = planner
        self._mask_infeasible = mask_infeasible
        self._call_scores: Callable[[Features], Floats]
        self._plan_scores: Callable[[Features], tuple[Floats, Floats]]
        self._call_scores = ExecutorScores(executor) if isinstance(executor, SetExecutor) else _scores_of(executor)
        if isinstance(planner, nn.Module):
            self._plan_scores = PlannerScores(planner) if isinstance(planner, SetPlanner) else _scores_of(planner)

    def decide(self, observations: Sequence[Observation], noise: Noise | None = None) -> Decided:
        """Answer each observation; without noise by what is most probable."""
        features = self._builder.build(observations)
        answers: list[tuple[str, str] | tuple[int, str]] = [("", "")] * len(observations)
        plan_rows = [row for row, observation in enumerate(observations) if observation.node is None]
        call_rows = [row for row, observation in enumerate(observations) if observation.node is not None]
        plans = self._plan(observations, features, plan_rows, answers, noise)
        calls = self._choose(features, call_rows, answers, noise)
        return Decided(answers, features, plans, calls)

    def _choose(
        self,
        features: Features,
        rows: list[int],
        answers: list[tuple[str, str] | tuple[int, str]],
        noise: Noise | None,
    ) -> Made:
        if not rows:
            return _NOTHING
        drawn = _drawn(self._call_scores(_of(features, rows)), noise)
        for row, chosen in zip(rows, drawn.choice.tolist(), strict=True):
            server, strategy = divmod(chosen, len(STRATEGY_NAMES))
            answers[row] = Choice(server, STRATEGY_NAMES[strategy])
        return Made(np.array(rows), drawn.choice, (drawn,), _NOTHING.allowed)

    def _plan(
        self,
        observations: Sequence[Observation],
        features: Features,
        rows: list[int],
        answers: list[tuple[str, str] | tuple[int, str]],
        noise: Noise | None,
    ) -> Made:
        if not rows:
            return _NOTHING
        if not isinstance(self.planner, nn.Module):
            for row in rows:
                answers[row] = self.planner.plan(observations[row])
            return _NOTHING
        own = _of(features, rows)
        allowed = self._allowed(own)
        topology_scores, role_set_scores = self._plan_scores(own)
        topology = _drawn(np.where(allowed.any(-1), topology_scores, _NEVER), noise)
        of_topology = allowed[np.arange(len(rows)), topology.choice]
        role_set = _drawn(np.where(of_topology, role_set_scores, _NEVER), noise)
        for row, first, second in zip(rows, topology.choice.tolist(), role_set.choice.tolist(), strict=True):
            answers[row] = Plan(TOPOLOGY_NAMES[first], ROLE_SETS[second])
        choice = topology.choice * len(ROLE_SETS) + role_set.choice
        return Made(np.array(rows), choice, (topology, role_set), allowed)

    def _allowed(self, features: Features) -> Bools:
        domains = features.context[:, _DOMAIN_AT : _DOMAIN_AT + len(DOMAIN_NAMES)].argmax(-1)
        depth = _depths()[domains]
        if not self._mask_infeasible:
            return np.asarray(depth > 0)
        quickest_s = np.where(features.is_open[:, :, None], features.latency_s, np.inf).min((1, 2))
        fits = (depth > 0) & (depth * quickest_s[:, None, None] <= features.remaining_s[:, None, None])
        # A plan there must be: those of one call.
        return np.asarray(fits | (depth == 1))


def _scores_of(network: nn.Module) -> Callable[[Features], Any]:
    """What a network of another kind says, by PyTorch."""

    @torch.inference_mode()
    def scores(features: Features) -> Any:
        said = network(FeatureTensors.of(features))
        return tuple(each.numpy() for each in said) if isinstance(said, tuple) else said.numpy()

    return scores


def _of(features: Features, rows: list[int]) -> Features:
    return features if len(rows) == len(features) else features.take(np.array(rows))


def _drawn(logits: Floats, noise: Noise | None) -> Drawn:
    """From the softmax of each row, by the Gumbel trick, or without noise its mode."""
    return Drawn(logits, (logits if noise is None else logits + noise.gumbel(logits.shape)).argmax(-1))


_NEVER = np.float32(NEVER)


@cache
def _depths() -> NDArray[np.int64]:
    """Calls on the critical path of each plan: ``[domain, topology, role set]``; 0 where the domain has no such set."""
    depths = np.zeros((len(DOMAIN_NAMES), len(TOPOLOGY_NAMES), len(ROLE_SETS)), np.int64)
    for d, domain in enumerate(DOMAIN_NAMES):
        for t, topology in enumerate(TOPOLOGY_NAMES):
            for role_set in DOMAINS[domain].role_sets:
                depths[d, t, ROLE_SETS.index(role_set)] = build_workflow(domain, topology, role_set).depth
    return depths


_NOTHING = Made(
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    (),
    np.empty((0, len(TOPOLOGY_NAMES), len(ROLE_SETS)), np.bool_),
)
