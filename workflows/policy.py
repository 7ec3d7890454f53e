"""What decides: a planner for each query, an executor for each call."""

from typing import NamedTuple, Protocol

from .observation import Observation


class Plan(NamedTuple):
    """A planner's choice."""

    topology: str
    """A key of ``TOPOLOGIES``."""
    role_set: str
    """Roles of the query's domain joined by ``+``; ``Domain.role_sets`` is the menu."""


class Choice(NamedTuple):
    """An executor's choice."""

    server: int
    """Its place in ``Observation.servers``; it must be open."""
    strategy: str
    """A key of ``STRATEGIES``."""


class PlannerPolicy(Protocol):
    """Chooses how a query is worked on, once, when it arrives."""

    def plan(self, observation: Observation) -> tuple[str, str]:
        """A ``Plan``, or its two values."""
        ...


class ExecutorPolicy(Protocol):
    """Chooses where and how each call is made, when its predecessors have finished."""

    def choose(self, observation: Observation) -> tuple[int, str]:
        """A ``Choice``, or its two values."""
        ...
