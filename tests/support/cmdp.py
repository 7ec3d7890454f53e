"""Small constrained Markov decision processes whose answers are known: solved as linear programs, learnt by tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.special import softmax

Array = NDArray[np.float64]


class DualUpdate(Protocol):
    """What prices the constraint of each tier."""

    @property
    def values(self) -> Array: ...

    def update(self, costs_by_tier: Sequence[Array]) -> Array: ...


@dataclass(frozen=True)
class CMDP:
    """Largest reward such that, of the decisions of each tier, at most a share of ``limit`` is late."""

    reward: Array
    """``[state, action]``."""
    late: Array
    """Probability: ``[state, action]``."""
    transition: Array
    """``[state, action, next state]``."""
    start: Array
    """``[state]``."""
    tier: NDArray[np.int64]
    """Of each state, from 0 on."""
    limit: float
    discount: float = 0.9

    @property
    def num_tiers(self) -> int:
        return int(self.tier.max()) + 1

    def occupancy(self, policy: Array) -> Array:
        """Discounted share of time in each state and action: ``[state, action]``, sums to 1."""
        moves = np.einsum("sa,san->sn", policy, self.transition)
        states = np.linalg.solve(np.eye(len(self.start)) - self.discount * moves.T, (1 - self.discount) * self.start)
        return np.asarray(states[:, None] * policy)

    def late_share(self, policy: Array) -> Array:
        """Of each tier's decisions: ``[tier]``."""
        occupancy = self.occupancy(policy)
        by_state = (occupancy * self.late).sum(1)
        return np.asarray(
            np.bincount(self.tier, by_state, self.num_tiers) / np.bincount(self.tier, occupancy.sum(1), self.num_tiers)
        )

    def advantages(self, policy: Array, prices: Array) -> Array:
        """Of reward less priced lateness: ``[state, action]``."""
        gain = self.reward - prices[self.tier][:, None] * self.late
        moves = np.einsum("sa,san->sn", policy, self.transition)
        values = np.linalg.solve(np.eye(len(self.start)) - self.discount * moves, (policy * gain).sum(1))
        return np.asarray(gain + self.discount * self.transition @ values - values[:, None])


class Solution(NamedTuple):
    """What the linear program says."""

    reward: float
    """Discounted, per step."""
    policy: Array
    """``[state, action]``."""
    multipliers: Array
    """``[tier]``."""


def solve(cmdp: CMDP) -> Solution:
    """The linear program over occupancies (Altman 1999, Constrained Markov Decision Processes, ch. 3)."""
    num_states, num_actions = cmdp.reward.shape
    stays = np.repeat(np.eye(num_states), num_actions, axis=1)
    comes = cmdp.transition.reshape(-1, num_states).T
    over = (cmdp.late - cmdp.limit).ravel()
    of_tier = np.repeat(cmdp.tier, num_actions) == np.arange(cmdp.num_tiers)[:, None]
    program = linprog(
        -cmdp.reward.ravel(),
        A_ub=of_tier * over,
        b_ub=np.zeros(cmdp.num_tiers),
        A_eq=stays - cmdp.discount * comes,
        b_eq=(1 - cmdp.discount) * cmdp.start,
    )
    assert program.success
    occupancy = program.x.reshape(num_states, num_actions)
    return Solution(-program.fun, occupancy / occupancy.sum(1, keepdims=True), -np.asarray(program.ineqlin.marginals))


class Learnt(NamedTuple):
    """The second half of a training, averaged, and its end."""

    multipliers: Array
    """``[tier]``."""
    history: Array
    """``[update, tier]``."""
    policy: Array
    """Of the averaged occupancy: ``[state, action]``."""
    last_policy: Array


ENTROPY = 0.004
"""Weight of the policy's entropy: without it, policy and price circle round their saddle point. It moves the price by
some 3 %."""


def learn(cmdp: CMDP, dual: DualUpdate, *, num_updates: int = 3000, batch: int = 300, seed: int = 0) -> Learnt:
    """Softmax policy by natural gradient (Kakade 2001: logits grow by the advantages), prices by sampled lateness.

    As in training, each update sees a batch of decisions that are late or not, grouped by tier, and advantages are
    scaled by ``1 / (1 + multiplier)``; they are exact.
    """
    rng = np.random.default_rng(seed)
    logits = np.zeros_like(cmdp.reward)
    history, occupancies = [], []
    for _ in range(num_updates):
        policy = softmax(logits, axis=1)
        occupancy = cmdp.occupancy(policy)
        num = rng.multinomial(batch, occupancy.ravel() / occupancy.sum()).reshape(occupancy.shape)
        num_late = rng.binomial(num, cmdp.late)
        by_tier = [(num[cmdp.tier == tier].sum(), num_late[cmdp.tier == tier].sum()) for tier in range(cmdp.num_tiers)]
        prices = dual.update([(np.arange(decisions) < late).astype(float) for decisions, late in by_tier])
        logits = (1 - ENTROPY) * logits + cmdp.advantages(policy, prices) / (1 + prices[cmdp.tier][:, None])
        history.append(prices)
        occupancies.append(occupancy)
    mean = np.mean(occupancies[num_updates // 2 :], axis=0)
    prices_over_time = np.array(history)
    return Learnt(
        prices_over_time[num_updates // 2 :].mean(0),
        prices_over_time,
        mean / mean.sum(1, keepdims=True),
        policy,
    )


class OnlyUp:
    """The mistake of theory 7.4: whoever is late raises the price, nobody lowers it."""

    def __init__(self, rate: float, limit: float) -> None:
        self.values = np.zeros(1)
        self._rate = rate
        self._limit = limit

    def update(self, costs_by_tier: Sequence[Array]) -> Array:
        over = np.maximum(costs_by_tier[0] - self._limit, 0.0).mean()
        self.values = self.values + self._rate * over
        return self.values


def busy_server() -> CMDP:
    """Two states, idle and busy; a small LLM and a large one, which is better, late more often, and keeps it busy."""
    return CMDP(
        reward=np.array([[0.5, 0.9], [0.5, 0.9]]),
        late=np.array([[0.0, 0.1], [0.1, 0.6]]),
        transition=np.array([[[0.9, 0.1], [0.3, 0.7]], [[0.6, 0.4], [0.1, 0.9]]]),
        start=np.array([1.0, 0.0]),
        tier=np.array([0, 0]),
        limit=0.2,
    )


def tight_and_slack() -> CMDP:
    """One query in ten is tight: the large LLM is always late for it. For the others it hardly ever is."""
    shares = np.array([0.1, 0.9])
    return CMDP(
        reward=np.array([[0.5, 0.9], [0.5, 0.9]]),
        late=np.array([[0.0, 1.0], [0.0, 0.02]]),
        transition=np.broadcast_to(shares, (2, 2, 2)).copy(),
        start=shares,
        tier=np.array([0, 1]),
        limit=0.15,
    )


def three_llms() -> CMDP:
    """The cheapest is never late and seldom right; between the other two lies the optimum."""
    return CMDP(
        reward=np.array([[0.2, 0.6, 0.9]]),
        late=np.array([[0.0, 0.1, 0.5]]),
        transition=np.ones((1, 3, 1)),
        start=np.ones(1),
        tier=np.zeros(1, np.int64),
        limit=0.2,
    )
