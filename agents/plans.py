"""Planners that do not learn."""

import zlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from inframind.traces import ConfigError
from inframind.workflows import DOMAINS, TOPOLOGIES, Observation, Plan, build_workflow
from inframind.workflows.roles import SEPARATOR

REMEMBERED = 1 << 15
"""So many draws: each takes a generator of its own, some 20 us, and all runs of an evaluation have the same queries."""


class FixedPlan:
    """One plan for all queries.

    Parameters
    ----------
    role_set
        Of all domains that queries come from; the first of each domain's menu if None.
    """

    def __init__(self, topology: str = "IO", role_set: str | None = None) -> None:
        self._topology = topology
        self._role_set = role_set

    def plan(self, observation: Observation) -> Plan:
        """The plan."""
        return Plan(self._topology, self._role_set or DOMAINS[observation.query.domain].role_sets[0])


class DrawnPlan:
    """A topology and a role set drawn for each query, all pairs alike.

    The draw hangs on the query and the seed alone. So policies that differ in how they choose servers work on the same
    workflows.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def plan(self, observation: Observation) -> Plan:
        """The draw of this query."""
        query = observation.query
        return _drawn_plan(query.domain, query.query_id, self._seed)


@lru_cache(REMEMBERED)
def _drawn_plan(domain: str, query_id: str, seed: int) -> Plan:
    menu = DOMAINS[domain].role_sets
    topology, role_set = draw_of(query_id, seed).integers((len(TOPOLOGIES), len(menu)))
    return Plan(tuple(TOPOLOGIES)[topology], menu[role_set])


class ManyAgents:
    """Topologies by their weights, with a fixed number of agents, whose roles are the domain's in turn.

    Parameters
    ----------
    topologies
        How often each is drawn, in any unit.
    """

    def __init__(self, num_agents: int, topologies: Mapping[str, float], seed: int) -> None:
        self._num_agents = num_agents
        self._names = tuple(topologies)
        shares = np.array(list(topologies.values()))
        self._shares = shares / shares.sum()
        self._seed = seed

    def plan(self, observation: Observation) -> Plan:
        """The draw of this query."""
        query = observation.query
        roles = DOMAINS[query.domain].roles
        names = (roles[agent % len(roles)].name for agent in range(self._num_agents))
        topology = draw_of(query.query_id, self._seed).choice(len(self._names), p=self._shares)
        return Plan(self._names[topology], SEPARATOR.join(names))


PLANNERS = ("single", "mixed")
"""Planners by name: one agent that answers at once, and `DrawnPlan`."""


def planner_of(name: str, seed: int) -> FixedPlan | DrawnPlan:
    """A planner by one of the names in ``PLANNERS``, or ``TOPOLOGY/ROLE_SET``.

    Check the name with `check_planner` first.
    """
    match name.partition("/"):
        case ("single", _, _):
            return FixedPlan()
        case ("mixed", _, _):
            return DrawnPlan(seed)
        case (topology, _, role_set):
            return FixedPlan(topology, role_set)


def check_planner(name: str, domains: tuple[str, ...]) -> None:
    """Make sure that there is such a planner for these domains.

    Raises
    ------
    ConfigError
        If not.
    ValueError
        It is neither a name nor has the form of a plan.
    """
    if name in PLANNERS:
        return
    topology, slash, role_set = name.partition("/")
    if not slash:
        raise ValueError(f"must be {', '.join(PLANNERS)} or TOPOLOGY/ROLE_SET, such as Chain/MathSolver+Inspector")
    for domain in domains:
        build_workflow(domain, topology, role_set)


def planner_mistakes(key: str, name: str, domains: tuple[str, ...]) -> list[str]:
    """What `check_planner` has against the planner at a key of a file, a line each."""
    try:
        check_planner(name, domains)
    except ConfigError as error:
        return [f"{key} ({name!r}): {problem}" for problem in error.problems]
    except ValueError as error:
        return [f"{key} ({name!r}) {error}"]
    return []


def draw_of(query_id: str, *numbers: int) -> np.random.Generator:
    """Randomness that belongs to a query, whatever was drawn before."""
    return np.random.default_rng([zlib.crc32(query_id.encode()), *numbers])


@lru_cache(REMEMBERED)
def drawn_below(num: int, query_id: str, *numbers: int) -> int:
    """The first number of `draw_of` in ``range(num)``."""
    return int(draw_of(query_id, *numbers).integers(num))
