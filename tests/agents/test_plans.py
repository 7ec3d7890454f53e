"""Planners that do not learn."""

from collections import Counter

import pytest
from agent_world import look

from inframind.agents import DrawnPlan, FixedPlan, ManyAgents, planner_of
from inframind.agents.plans import check_planner
from inframind.traces import ConfigError
from inframind.workflows import DOMAINS, TOPOLOGIES


def test_planners_by_name() -> None:
    assert planner_of("single", 0).plan(look()) == ("IO", "MathSolver")
    assert planner_of("Chain/MathSolver+Inspector", 0).plan(look()) == ("Chain", "MathSolver+Inspector")
    assert isinstance(planner_of("mixed", 0), DrawnPlan)
    assert FixedPlan("Debate", "MathSolver").plan(look()) == ("Debate", "MathSolver")


def test_drawn_plans_belong_to_the_query() -> None:
    """Whatever was drawn before; and all 30 pairs come, about equally often."""
    planner = DrawnPlan(3)
    drawn = [planner.plan(look(query_id=f"q{index}")) for index in range(1500)]

    assert drawn[7] == DrawnPlan(3).plan(look(query_id="q7"))
    counts = Counter(drawn)
    assert len(counts) == len(TOPOLOGIES) * len(DOMAINS["math"].role_sets)
    assert all(15 < count < 100 for count in counts.values())


def test_many_agents_have_the_roles_in_turn() -> None:
    topology, role_set = ManyAgents(6, {"Chain": 2.0, "IO": 0.0}, 0).plan(look())

    assert topology == "Chain"
    assert role_set == "MathSolver+Mathematician+MathTeacher+MathAnalyst+Inspector+MathSolver"


def test_unknown_planners_are_refused() -> None:
    check_planner("IO/MathSolver", ("math",))
    with pytest.raises(ValueError, match="TOPOLOGY/ROLE_SET"):
        check_planner("best", ("math",))
    with pytest.raises(ConfigError, match="unknown topology 'Ring'"):
        check_planner("Ring/MathSolver", ("math",))
    with pytest.raises(ConfigError, match="unknown role 'MathSolver' of code"):
        check_planner("IO/MathSolver", ("math", "code"))
