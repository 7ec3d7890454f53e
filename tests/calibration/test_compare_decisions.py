"""Agreement of decisions, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from compare_world import EveryPlan, write
from policies import FixedPlan

from inframind.calibration import KnownRun, PairedRuns, compare_folders
from inframind.calibration.compare_decisions import compare_decisions, last_tries
from inframind.traces import Run

Call = tuple[str, int, str, str]


def known(calls: Sequence[Call], plans: Sequence[tuple[str, str]]) -> KnownRun:
    """A run of these calls: workflow, slot, server, strategy."""
    table = pd.DataFrame(calls, columns=["workflow_id", "slot", "server", "strategy"])
    table = table.assign(arrival_s=range(len(calls)), outcome="finished")
    workflows = pd.DataFrame(plans, columns=["topology", "role_set"])
    workflows = workflows.assign(workflow_id=[f"q{index}" for index in range(len(plans))], domain="math", question=1)
    run = Run("run", {}, {}, table, pd.DataFrame(), pd.DataFrame(), workflows.assign(budget_s=1.0))
    return KnownRun(Path("run"), run, (), 0)


PLANS = [("Chain", "A"), ("Chain", "A"), ("IO", "A")]


def test_agreement_by_hand() -> None:
    """q0: both calls alike. q1: same server, other strategy; other server. q2: another plan, so no call counts."""
    live = known(
        [
            *[("q0", 0, "a", "Flash"), ("q0", 1, "b", "Flash")],
            *[("q1", 0, "a", "Flash"), ("q1", 1, "a", "Flash")],
            ("q2", 0, "a", "Flash"),
        ],
        PLANS,
    )
    simulated = known(
        [
            *[("q0", 0, "a", "Flash"), ("q0", 1, "b", "Flash")],
            *[("q1", 0, "a", "Concise"), ("q1", 1, "b", "Flash")],
            ("q2", 0, "a", "Flash"),
        ],
        [*PLANS[:2], ("Chain", "A")],
    )

    decisions = compare_decisions([PairedRuns(simulated, live)])

    assert decisions is not None
    figures = decisions.simulated
    assert (figures.num_workflows, figures.same_plan) == (3, pytest.approx(2 / 3))
    assert (figures.first.num, figures.first.server, figures.first.strategy, figures.first.action) == (2, 1.0, 0.5, 0.5)
    assert (figures.every.num, figures.every.server, figures.every.strategy) == (4, 0.75, 0.75)
    assert figures.every.action == 0.5
    # Live: a Flash 3/4, b Flash 1/4; simulated: a Flash 1/4, b Flash 1/2, a Concise 1/4.
    assert figures.every.by_chance == pytest.approx(3 / 4 * 1 / 4 + 1 / 4 * 1 / 2)
    assert decisions.live_again is None


def test_only_the_first_try_of_a_call_is_a_decision_about_the_query() -> None:
    retried = known([("q0", 0, "a", "Flash"), ("q0", 0, "b", "Flash")], [PLANS[0]])
    plain = known([("q0", 0, "a", "Flash")], [PLANS[0]])

    decisions = compare_decisions([PairedRuns(plain, retried, (retried,))])

    assert decisions is not None
    assert (decisions.simulated.every.num, decisions.simulated.every.action) == (1, 1.0)
    assert decisions.live_again is not None
    assert decisions.live_again.every.action == 1.0


def test_a_try_that_finished_stands_for_its_call() -> None:
    run = known([("q0", 0, "a", "Flash"), ("q0", 0, "b", "Flash"), ("q1", 0, "a", "Flash")], PLANS[:2])
    calls = run.run.calls.assign(outcome=["finished", "stopped", "stopped"])

    assert list(last_tries(calls).sort_values("workflow_id")["server"]) == ["a", "a"]


def test_other_queries_have_no_decisions_in_common(tmp_path: Path) -> None:
    write(tmp_path / "sim", num=6, seed=0)
    write(tmp_path / "live", num=6, seed=1)

    (each,) = compare_folders(tmp_path / "sim", [tmp_path / "live"]).conditions

    assert each.decisions is None
    assert each.sources is None
    assert each.notes == (
        "Where the difference comes from is not known for a seed: the runs have not the same queries.",
    )
    assert each.warnings == ("seed: 1 in the live run, 0 in the simulated one",)


def test_plans_that_never_agree_leave_no_call_to_compare(tmp_path: Path) -> None:
    write(tmp_path / "sim", num=6, planner=FixedPlan("Chain", "MathSolver+Inspector"))
    write(tmp_path / "live", num=6, planner=FixedPlan())
    write(tmp_path / "mixed", num=6, planner=EveryPlan())

    (none,) = compare_folders(tmp_path / "sim", [tmp_path / "live"]).conditions
    (some,) = compare_folders(tmp_path / "mixed", [tmp_path / "live"]).conditions

    assert none.decisions is not None
    assert (none.decisions.simulated.same_plan, none.decisions.simulated.every.num) == (0.0, 0)
    assert none.sources is not None
    assert none.sources.latency.steps_s["decisions"] > 1  # two calls in place of one
    assert some.decisions is not None
