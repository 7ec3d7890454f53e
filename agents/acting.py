"""A planner's and an executor's network as what decides: for one observation or for many at once."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
from .losses import log_probability
from .networks import NEVER
from .tensors import FeatureTensors

Bools: TypeAlias = NDArray[np.bool_]
_DOMAIN_AT = len(SCALARS)


class Made(NamedTuple):
    """Decisions of one kind in a batch."""

    rows: NDArray[np.int64]
    """Which observations of the batch."""
    choice: NDArray[np.int64]
    """Executor: ``server * strategies + strategy``. Planner: ``topology * role sets + role set``."""
    log_prob: NDArray[np.float32]
    """Of the choice, in both heads together."""
    allowed: Bools
    """Planner: plans that were not masked, ``[rows, topologies, role sets]``; empty for the executor."""


class Decided(NamedTuple):
    """All decisions of a batch."""

    answers: list[tuple[str, str] | tuple[int, str]]
    """In the order of the observations."""
    features: Features
    plans: Made
    calls: Made


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
        self.executor = executor
        self._mask_infeasible = mask_infeasible

    @torch.inference_mode()
    def decide(self, observations: Sequence[Observation], generator: torch.Generator | None = None) -> Decided:
        """Answer each observation; without a generator by what is most probable."""
        features = self._builder.build(observations)
        answers: list[tuple[str, str] | tuple[int, str]] = [("", "")] * len(observations)
        is_call = np.array([observation.node is not None for observation in observations])
        plans = self._plan(observations, features, np.flatnonzero(~is_call), answers, generator)
        calls = self._choose(features, np.flatnonzero(is_call), answers, generator)
        return Decided(answers, features, plans, calls)

    def _choose(
        self,
        features: Features,
        rows: NDArray[np.int64],
        answers: list[tuple[str, str] | tuple[int, str]],
        generator: torch.Generator | None,
    ) -> Made:
        if not len(rows):
            return _NOTHING
        own = features if len(rows) == len(features) else features.take(rows)
        logits = self.executor(FeatureTensors.of(own))
        choice = _draw(logits, generator)
        log_prob, _ = log_probability(logits, choice)
        for row, chosen in zip(rows.tolist(), choice.tolist(), strict=True):
            server, strategy = divmod(chosen, len(STRATEGY_NAMES))
            answers[row] = Choice(server, STRATEGY_NAMES[strategy])
        return Made(rows, choice.numpy(), log_prob.numpy(), _NOTHING.allowed)

    def _plan(
        self,
        observations: Sequence[Observation],
        features: Features,
        rows: NDArray[np.int64],
        answers: list[tuple[str, str] | tuple[int, str]],
        generator: torch.Generator | None,
    ) -> Made:
        if not len(rows):
            return _NOTHING
        if not isinstance(self.planner, nn.Module):
            for row in rows.tolist():
                answers[row] = self.planner.plan(observations[row])
            return _NOTHING
        own = features if len(rows) == len(features) else features.take(rows)
        allowed = self._allowed(own)
        topology_logits, role_set_logits = self.planner(FeatureTensors.of(own))
        masks = torch.from_numpy(allowed)
        topology = _draw(topology_logits.masked_fill(~masks.any(-1), NEVER), generator)
        of_topology = masks[torch.arange(len(rows)), topology]
        role_set = _draw(role_set_logits.masked_fill(~of_topology, NEVER), generator)
        choice = topology * len(ROLE_SETS) + role_set
        log_prob, _ = plan_log_probability(topology_logits, role_set_logits, masks, choice)
        for row, chosen in zip(rows.tolist(), choice.tolist(), strict=True):
            first, second = divmod(chosen, len(ROLE_SETS))
            answers[row] = Plan(TOPOLOGY_NAMES[first], ROLE_SETS[second])
        return Made(rows, choice.numpy(), log_prob.numpy(), allowed)

    def _allowed(self, features: Features) -> Bools:
        domains = features.context[:, _DOMAIN_AT : _DOMAIN_AT + len(DOMAIN_NAMES)].argmax(-1)
        depth = _depths()[domains]
        if not self._mask_infeasible:
            return np.asarray(depth > 0)
        quickest_s = np.where(features.is_open[:, :, None], features.latency_s, np.inf).min((1, 2))
        fits = (depth > 0) & (depth * quickest_s[:, None, None] <= features.remaining_s[:, None, None])
        # A plan there must be: those of one call.
        return np.asarray(fits | (depth == 1))


def plan_log_probability(
    topology_logits: Tensor, role_set_logits: Tensor, allowed: Tensor, choice: Tensor
) -> tuple[Tensor, Tensor]:
    """Joint log-probability of topology and role set, the sum of both heads', and the sum of their entropies: ``[B]``.

    Parameters
    ----------
    allowed
        ``[B, topologies, role sets]``: the second head is masked by what the first has chosen.
    choice
        ``topology * role sets + role set``.
    """
    topology, role_set = choice // len(ROLE_SETS), choice % len(ROLE_SETS)
    first, first_entropy = log_probability(topology_logits.masked_fill(~allowed.any(-1), NEVER), topology)
    of_topology = allowed[torch.arange(len(choice)), topology]
    second, second_entropy = log_probability(role_set_logits.masked_fill(~of_topology, NEVER), role_set)
    return first + second, first_entropy + second_entropy


def _draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """From the softmax, by the Gumbel trick; without a generator its mode."""
    if generator is not None:
        noise = torch.rand(logits.shape, generator=generator).clamp_(1e-9, 1 - 1e-7)
        logits = logits - torch.log(-torch.log(noise))
    return logits.argmax(-1)


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
    np.empty(0, np.float32),
    np.empty((0, len(TOPOLOGY_NAMES), len(ROLE_SETS)), np.bool_),
)
