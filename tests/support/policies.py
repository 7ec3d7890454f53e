"""The simplest policies, and outcomes that can be computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, product

import numpy as np

from inframind.workflows import DOMAINS, STRATEGIES, TOPOLOGIES, CallRecord, Observation


@dataclass
class FixedPlan:
    """The same plan for every query."""

    topology: str = "IO"
    role_set: str = "MathSolver"

    def plan(self, observation: Observation) -> tuple[str, str]:
        return self.topology, self.role_set


class EveryPlan:
    """All topologies with all role sets of the query's domain, one after another."""

    PLANS = {  # noqa: RUF012
        name: list(product(TOPOLOGIES, domain.role_sets)) for name, domain in DOMAINS.items()
    }

    def __init__(self) -> None:
        self._turn = count()

    def plan(self, observation: Observation) -> tuple[str, str]:
        plans = self.PLANS[observation.query.domain]
        return plans[next(self._turn) % len(plans)]


@dataclass
class JoinShortestQueue:
    """The open server with the fewest requests, the first of several."""

    strategy: str = "Concise"

    def choose(self, observation: Observation) -> tuple[int, str]:
        open_servers = (server for server, is_open in enumerate(observation.is_open) if is_open)
        return min(open_servers, key=observation.outstanding), self.strategy


class RoundRobin:
    """Servers and strategies in turn; a closed server is passed over."""

    def __init__(self) -> None:
        self._turn = count()

    def choose(self, observation: Observation) -> tuple[int, str]:
        open_servers = [server for server, is_open in enumerate(observation.is_open) if is_open]
        turn = next(self._turn)
        return open_servers[turn % len(open_servers)], tuple(STRATEGIES)[turn % len(STRATEGIES)]


class RandomChoice:
    """Any open server, any strategy."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def choose(self, observation: Observation) -> tuple[int, str]:
        open_servers = [server for server, is_open in enumerate(observation.is_open) if is_open]
        return int(self._rng.choice(open_servers)), str(self._rng.choice(list(STRATEGIES)))


@dataclass
class FixedOutcomes:
    """Every call writes as much; an answer is right if the question's number is even."""

    tokens: int = 10

    def output_tokens(
        self, domain: str, question: int, model: str, strategy: str, role: str, slot: int, seed: int
    ) -> int:
        return self.tokens

    def answer_correct(
        self, domain: str, question: int, topology: str, role_set: str, calls: Sequence[CallRecord], seed: int
    ) -> bool:
        return question % 2 == 0


class VariedOutcomes(FixedOutcomes):
    """Lengths between 1 and 600, the same for the same arguments."""

    def output_tokens(
        self, domain: str, question: int, model: str, strategy: str, role: str, slot: int, seed: int
    ) -> int:
        scale = 1 + 2 * list(STRATEGIES).index(strategy)
        return 1 + (question * 7919 + slot * 104729 + seed * 31 + len(model) * 17) % (200 * scale) % 600
