"""The graphs of all topologies, by hand for one, two and three agents."""

from __future__ import annotations

import pytest

from inframind.traces import ConfigError
from inframind.workflows import DECIDER, DOMAINS, ROLE_NAMES, TOPOLOGIES, Workflow, build_workflow

WAVES = {
    "IO": {1: [[0]], 2: [[0, 1], [2]], 3: [[0, 1, 2], [3]]},
    "CoT": {1: [[0]], 2: [[0, 1], [2]], 3: [[0, 1, 2], [3]]},
    "Chain": {1: [[0]], 2: [[0], [1]], 3: [[0], [1], [2]]},
    "FullConnected": {1: [[0]], 2: [[0], [1]], 3: [[0], [1], [2]]},
    "Debate": {1: [[0], [1]], 2: [[0, 1], [2, 3], [4]], 3: [[0, 1, 2], [3, 4, 5], [6]]},
    "Reflection": {1: [[0], [1]], 2: [[0, 1], [2, 3], [4]], 3: [[0, 1, 2], [3, 4, 5], [6]]},
}
"""Slots by wave, for each number of agents."""

READS = {
    "IO": [[], [], [], [0, 1, 2]],
    "CoT": [[], [], [], [0, 1, 2]],
    "Chain": [[], [0], [1]],
    "FullConnected": [[], [0], [0, 1]],
    "Debate": [[], [], [], [0, 1, 2], [0, 1, 2], [0, 1, 2], [3, 4, 5]],
    "Reflection": [[], [], [], [0], [1], [2], [3, 4, 5]],
}
"""Whose messages each node reads, with three agents."""

ALL = [
    (topology, domain, role_set)
    for topology in TOPOLOGIES
    for domain in DOMAINS.values()
    for role_set in domain.role_sets
]


@pytest.mark.parametrize(("topology", "domain", "role_set"), ALL, ids=lambda value: getattr(value, "name", value))
def test_waves_and_critical_path_of_every_plan(topology: str, domain: object, role_set: str) -> None:
    workflow = build_workflow(domain.name, topology, role_set)  # type: ignore[attr-defined]
    waves = WAVES[topology][len(role_set.split("+"))]

    assert [list(wave) for wave in workflow.waves] == waves
    assert workflow.depth == len(waves)
    assert workflow.latency_floor_s(2.5) == 2.5 * len(waves)
    assert workflow.critical_path_s([1.0] * len(workflow.nodes)) == len(waves)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_whose_messages_a_node_reads(topology: str) -> None:
    workflow = build_workflow("math", topology, "MathSolver+Mathematician+MathTeacher")

    assert [list(node.predecessors) for node in workflow.nodes] == READS[topology]


def roles(workflow: Workflow) -> list[str]:
    return [node.role.name for node in workflow.nodes]


def test_roles_speak_in_the_order_of_the_role_set_in_every_round() -> None:
    debate = build_workflow("code", "Debate", "BugFixer+ProgrammingExpert")

    assert roles(debate) == ["BugFixer", "ProgrammingExpert", "BugFixer", "ProgrammingExpert", DECIDER.name]


def test_a_decision_node_only_where_answers_must_be_joined() -> None:
    assert roles(build_workflow("qa", "IO", "KnowledgeExpert")) == ["KnowledgeExpert"]
    assert roles(build_workflow("qa", "Chain", "KnowledgeExpert+Critic")) == ["KnowledgeExpert", "Critic"]
    assert roles(build_workflow("qa", "IO", "KnowledgeExpert+Critic")) == ["KnowledgeExpert", "Critic", DECIDER.name]


def test_a_role_may_come_more_than_once() -> None:
    """As a mixture of agents has it: five proposers and one who joins."""
    workflow = build_workflow("math", "IO", "+".join(["MathSolver"] * 5))

    assert roles(workflow) == ["MathSolver"] * 5 + [DECIDER.name]


def test_nodes_do_not_wait_for_their_wave() -> None:
    """Reflection: 1 then 4, beside 5 then 1, then 2: 6 + 2. The sum over waves would be 5 + 4 + 2."""
    workflow = build_workflow("math", "Reflection", "MathSolver+Inspector")

    assert workflow.critical_path_s([1.0, 5.0, 4.0, 1.0, 2.0]) == 8.0


def test_calls_to_go() -> None:
    workflow = build_workflow("math", "Debate", "MathSolver+Inspector")

    assert [node.calls_to_go for node in workflow.nodes] == [3, 3, 2, 2, 1]


@pytest.mark.parametrize(("topology", "domain", "role_set"), ALL, ids=lambda value: getattr(value, "name", value))
def test_every_plan_is_one_connected_graph_with_one_end(topology: str, domain: object, role_set: str) -> None:
    nodes = build_workflow(domain.name, topology, role_set).nodes  # type: ignore[attr-defined]

    assert [node.slot for node in nodes] == list(range(len(nodes)))
    assert all(max(node.predecessors, default=-1) < node.slot < min(node.successors, default=99) for node in nodes)
    assert all((b.slot in a.successors) == (a.slot in b.predecessors) for a in nodes for b in nodes)
    assert [node.slot for node in nodes if not node.successors] == [len(nodes) - 1]


def test_role_names_are_unique() -> None:
    """A role embedding is found by name."""
    assert len(set(ROLE_NAMES)) == len(ROLE_NAMES) == 16


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (("math", "Star", "MathSolver"), "unknown topology 'Star'; known: IO, CoT, Chain, FullConnected, Debate, Refl"),
        (("math", "IO", "MathSolver+Poet"), "role set 'MathSolver+Poet': unknown role 'Poet' of math; known: MathSolv"),
        (("math", "IO", ""), "role set '': unknown role '' of math; known: MathSolver, "),
        (("law", "IO", "Judge"), "unknown domain 'law'; known: math, code, qa"),
    ],
)
def test_what_does_not_exist_is_named(plan: tuple[str, str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_workflow(*plan)

    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(message)
