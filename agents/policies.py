"""The policies that an evaluation compares, by name. A new one is one entry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TypeAlias

from inframind.sim import Outcomes, ServerOptions
from inframind.sim.knowledge import Knowledge

from .plans import FixedPlan, ManyAgents, planner_of
from .policy import Policy
from .rules import (
    LoadBalancer,
    Pick,
    RandomChoice,
    Router,
    Score,
    best_quality,
    hw_router,
    in_order,
    power_of_two,
    quality_in_time,
    round_robin,
    route_balance,
    shortest_expected_delay,
    shortest_queue,
)
from .systems import (
    MASROUTER_AGENTS,
    MASROUTER_MODELS,
    MASROUTER_STRATEGY,
    MASROUTER_TOPOLOGIES,
    Clairvoyant,
    LoadBlindMixture,
    MixtureOfAgents,
    OneAgentPerServer,
)

HEDGE = 1.5
"""Of quality-in-time: a predicted latency counts so many times."""
HW_ROUTER_WEIGHT = 0.5
"""Quality and latency alike."""
ROUTE_BALANCE_WEIGHTS = (0.6, 0.2, 0.2)
"""Quality, latency, cost."""
ROUTE_BALANCE_PROBABILITY = 0.7
"""RouteBalance's own."""
LOG_ERROR_SD = 0.5
"""Of predicted latencies: mostly of the output's length, which is not known beforehand."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a policy is made for."""

    servers: Sequence[ServerOptions]
    knowledge: Knowledge
    outcomes: Outcomes
    """The future; only the clairvoyant policy looks at it."""
    planner: str
    """Of rules that say nothing of plans: see `planner_of`."""
    strategy: str
    """Of rules that say nothing of strategies."""
    seed: int
    """Of the run."""

    def by_size(self) -> list[int]:
        """Servers, that with the fewest seconds for a token first: the cheapest, and the smallest LLM."""
        return sorted(range(len(self.servers)), key=lambda server: float(self.knowledge.token_s[server, 0]))


Factory: TypeAlias = Callable[[Setting], Policy]


def _balancer(pick: Callable[[Setting], Pick]) -> Factory:
    return lambda given: Policy(planner_of(given.planner, given.seed), LoadBalancer(pick(given), given.strategy))


def _router(score: Callable[[Setting], Score]) -> Factory:
    return lambda given: Policy(planner_of(given.planner, given.seed), Router(score(given)))


POLICIES: Mapping[str, Factory] = {
    "random": lambda given: Policy(planner_of(given.planner, given.seed), RandomChoice(given.seed)),
    "round-robin": _balancer(lambda given: round_robin()),
    "cheapest": _balancer(lambda given: in_order(given.by_size())),
    "always-large": _balancer(lambda given: in_order(given.by_size()[::-1])),
    "jsq": _balancer(lambda given: shortest_queue(given.seed)),
    "power-of-two": _balancer(lambda given: power_of_two(given.seed)),
    "shortest-expected-delay": _balancer(lambda given: shortest_expected_delay(given.knowledge, given.strategy)),
    "best-quality": _router(lambda given: best_quality(given.knowledge)),
    "quality-in-time": _router(lambda given: quality_in_time(given.knowledge, HEDGE)),
    "hw-router": _router(lambda given: hw_router(given.knowledge, HW_ROUTER_WEIGHT)),
    "route-balance": _router(
        lambda given: route_balance(given.knowledge, ROUTE_BALANCE_WEIGHTS, LOG_ERROR_SD, ROUTE_BALANCE_PROBABILITY)
    ),
    "moa": lambda given: Policy(OneAgentPerServer(), MixtureOfAgents(given.by_size()[::-1], given.seed)),
    "masrouter": lambda given: Policy(
        ManyAgents(MASROUTER_AGENTS, MASROUTER_TOPOLOGIES, given.seed),
        LoadBlindMixture(given.servers, MASROUTER_MODELS, MASROUTER_STRATEGY, given.seed),
    ),
    "clairvoyant": lambda given: Policy(
        FixedPlan(), Clairvoyant(given.servers, given.knowledge, given.outcomes, given.seed)
    ),
}


BOUND = "clairvoyant"
"""The policy that knows the future: a reference, no rival."""
TRAINED: Mapping[str, Path] = {"inframind": Path(__file__).parent / "data" / "l40s"}
"""Trained policies that come with the package; docs/training.md has the command."""

AT = "@"
TRAINED_HERE = "policy"
"""Name of the folder in which a training leaves its policy: it tells nothing, its parent's does."""
POLICY_FILE = "policy.json"
"""What makes a folder that of a trained policy."""


def is_folder(entry: str) -> bool:
    """Whether an entry of ``policies`` names the folder of a trained policy, which has a slash: no rule has one."""
    return "/" in entry or "\\" in entry


def label_of(entry: str) -> str:
    """How the policy of an entry is called in tables: a trained one by its folder, or by the training's around it."""
    if not is_folder(entry):
        return entry
    folder = PurePath(entry)
    return folder.name if folder.name != TRAINED_HERE else folder.parent.name or folder.name


def rule_of(entry: str) -> tuple[str, str]:
    """A rule's entry ``NAME`` or ``NAME@PLANNER`` as name and planner; without one that of the evaluation holds."""
    name, _, planner = entry.partition(AT)
    return name, planner


def factory_of(entry: str) -> Factory:
    """What makes the policy of an entry: a rule, with a planner of its own or not, or the folder of a trained policy.

    Check rules' names with ``POLICIES`` first. A trained policy raises ConfigError when it is made, where its files
    are broken or do not fit the setting.
    """
    if is_folder(entry) or entry in TRAINED:
        return lambda given: load_trained(TRAINED.get(entry, Path(entry)), given)
    name, planner = rule_of(entry)
    if planner:
        return lambda given: POLICIES[name](replace(given, planner=planner))
    return POLICIES[name]


def load_trained(folder: Path, given: Setting) -> Policy:
    """The trained policy of a folder."""
    # Not before one is asked for: torch takes a second to load, in every process.
    from .trained import load_policy

    return load_policy(folder, given.servers, given.knowledge, given.seed)
