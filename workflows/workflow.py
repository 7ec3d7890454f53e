"""A topology over a role set: the calls to make, and which of them must wait for which."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from inframind.traces import ConfigError

from .roles import DECIDER, Domain, Role, domain_of
from .tokens import estimate_tokens
from .topologies import TOPOLOGIES, Topology


@dataclass(frozen=True, slots=True)
class Node:
    """One call of a workflow."""

    slot: int
    """Its number in the workflow; predecessors have smaller ones."""
    role: Role
    predecessors: tuple[int, ...]
    """The nodes whose messages it reads."""
    successors: tuple[int, ...]
    calls_to_go: int
    """Calls on the longest path from here to the end, this one included."""
    instruction: str
    """What its role and the topology tell the model."""
    instruction_tokens: int


@dataclass(frozen=True, slots=True)
class Workflow:
    """The directed acyclic graph of one plan. It ends with its last node, whose answer is the workflow's."""

    domain: Domain
    topology: Topology
    role_set: str
    nodes: tuple[Node, ...]

    @property
    def waves(self) -> tuple[tuple[int, ...], ...]:
        """Slots by wave (theory, 9.1): a node is one wave after the last of its predecessors."""
        wave = [0] * len(self.nodes)
        for node in self.nodes:
            wave[node.slot] = 1 + max((wave[slot] for slot in node.predecessors), default=-1)
        return tuple(tuple(slot for slot, own in enumerate(wave) if own == w) for w in range(max(wave) + 1))

    @property
    def depth(self) -> int:
        """Calls on the critical path."""
        return max(node.calls_to_go for node in self.nodes)

    def critical_path_s(self, call_s: Sequence[float]) -> float:
        """Latency of the workflow, given that of each node's call, if each starts as soon as it can.

        Nodes do not wait for the rest of a wave, so this is at most the theory's sum over waves (9.2); for all
        topologies but Reflection the two are equal.
        """
        end = [0.0] * len(self.nodes)
        for node in self.nodes:
            end[node.slot] = max((end[slot] for slot in node.predecessors), default=0.0) + call_s[node.slot]
        return max(end)

    def latency_floor_s(self, min_call_s: float) -> float:
        """The least latency possible when no call takes less than ``min_call_s``, whatever the executor does."""
        return self.depth * min_call_s


class _Draft(NamedTuple):
    role: Role
    predecessors: tuple[int, ...]
    instruction: str


@cache
def build_workflow(domain: str, topology: str, role_set: str) -> Workflow:
    """The workflow that a plan stands for; where it leaves more than one answer, a decision node joins them.

    Raises
    ------
    ConfigError
        An unknown domain, topology or role.
    """
    if topology not in TOPOLOGIES:
        raise ConfigError("workflow", [f"unknown topology {topology!r}; known: {', '.join(TOPOLOGIES)}"])
    home, shape = domain_of(domain), TOPOLOGIES[topology]
    drafts = _agents(shape, home.agents(role_set))
    read = {slot for draft in drafts for slot in draft.predecessors}
    answers = tuple(slot for slot in range(len(drafts)) if slot not in read)
    if len(answers) > 1:
        drafts.append(_Draft(DECIDER, answers, DECIDER.instruction))
    return Workflow(home, shape, role_set, _nodes(drafts))


def _agents(topology: Topology, roles: tuple[Role, ...]) -> list[_Draft]:
    """The calls of all rounds; agent i of round r has slot ``r * len(roles) + i``."""
    num = len(roles)
    drafts = []
    for round_ in range(topology.rounds):
        start = round_ * num
        for agent, role in enumerate(roles):
            before = tuple(start - num + i for i in topology.across(agent, num)) if round_ else ()
            beside = tuple(start + i for i in topology.within(agent, num))
            extra = topology.revision if round_ else topology.instruction
            drafts.append(_Draft(role, before + beside, " ".join(filter(None, (role.instruction, extra)))))
    return drafts


def _nodes(drafts: Sequence[_Draft]) -> tuple[Node, ...]:
    successors: list[list[int]] = [[] for _ in drafts]
    for slot, draft in enumerate(drafts):
        for predecessor in draft.predecessors:
            successors[predecessor].append(slot)
    to_go = [0] * len(drafts)
    for slot in reversed(range(len(drafts))):
        to_go[slot] = 1 + max((to_go[later] for later in successors[slot]), default=0)
    return tuple(
        Node(slot, role, predecessors, tuple(successors[slot]), to_go[slot], text, estimate_tokens(text))
        for slot, (role, predecessors, text) in enumerate(drafts)
    )
