"""How the agents of a workflow work together.

As in MasRouter (arXiv 2502.11133, ``get_kwargs``) a topology is rounds of the same agents, with edges within a round
(spatial) and from one round to the next (temporal). A new one is one declaration in ``TOPOLOGIES``.

IO and CoT with several roles are several independent agents, whose answers a decision node joins: that is what
MasRouter's code does. The theory document calls them single-agent; with a role set of one they are. Taking only the
first role would make most of the planner's choices mean the same thing.
"""

from collections.abc import Callable
from dataclasses import dataclass

Edges = Callable[[int, int], range]
"""``(agent, number of agents) -> the agents whose messages it reads``."""


def _nobody(agent: int, num: int) -> range:
    return range(0)


def _previous(agent: int, num: int) -> range:
    return range(max(0, agent - 1), agent)


def _all_before(agent: int, num: int) -> range:
    return range(agent)


def _itself(agent: int, num: int) -> range:
    return range(agent, agent + 1)


def _everybody(agent: int, num: int) -> range:
    return range(num)


@dataclass(frozen=True, slots=True)
class Topology:
    """A collaboration topology for any number of agents."""

    name: str
    rounds: int = 1
    within: Edges = _nobody
    """Whom an agent reads in its own round; only agents before it, so that there is no cycle."""
    across: Edges = _nobody
    """Whom it reads in the round before."""
    instruction: str = ""
    """What it tells every agent in the first round."""
    revision: str = ""
    """What it tells them in later rounds."""
    is_review: bool = False
    """Whether those who read others check what they read, whatever their role."""


TOPOLOGIES = {
    topology.name: topology
    for topology in (
        Topology("IO"),
        Topology("CoT", instruction="Think step by step."),
        Topology("Chain", within=_previous),
        Topology("FullConnected", within=_all_before),
        Topology(
            "Debate",
            rounds=2,
            across=_everybody,
            revision="Above are everybody's answers, yours among them. Say where you disagree and why, then give your "
            "answer anew.",
        ),
        Topology(
            "Reflection",
            rounds=2,
            across=_itself,
            revision="Above is your own answer. Look for mistakes in it, then give it anew.",
            is_review=True,
        ),
    )
}
