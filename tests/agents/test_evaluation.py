"""The runs of an evaluation: what they have in common, and that files of cells lose nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from inframind.agents import (
    POLICIES,
    Cell,
    CellResult,
    Evaluation,
    Policy,
    Setting,
    World,
    arrivals,
    cell_to_bytes,
    policies,
    read_cell,
)
from inframind.agents.evaluation import gauge_found
from inframind.sim import load_pool
from inframind.sim.outcomes import OutcomeModel

CELL = Cell("jsq", "edf", 60.0, None, 1)


@pytest.fixture(scope="module")
def outcomes() -> OutcomeModel:
    return OutcomeModel.shipped()


def world(outcomes: OutcomeModel, evaluation: Evaluation) -> World:
    return World(evaluation, load_pool("h200", Path()), outcomes)


def assert_same(one: CellResult, other: CellResult) -> None:
    """But for how long decisions took."""
    assert one.cell == other.cell
    pd.testing.assert_frame_equal(one.workflows, other.workflows, check_dtype=False)
    pd.testing.assert_frame_equal(one.servers, other.servers)
    pd.testing.assert_frame_equal(one.choices, other.choices)
    pd.testing.assert_frame_equal(one.queues, other.queues)


def test_queries_are_common_to_all_but_seeds(outcomes: OutcomeModel) -> None:
    """Policies and schedulers change nothing; twice the rate halves the times, and no more."""
    evaluation, bank = Evaluation(num_queries=50), outcomes.bank
    ours = arrivals(evaluation, CELL, bank)
    faster = arrivals(evaluation, replace(CELL, rate_per_min=120.0), bank)

    assert arrivals(evaluation, replace(CELL, policy="moa", scheduler="fcfs"), bank) == ours
    assert [each.query for each in faster] == [each.query for each in ours]
    assert [each.t for each in faster] == pytest.approx([each.t / 2 for each in ours])
    assert arrivals(evaluation, replace(CELL, seed=2), bank) != ours


def test_a_single_tier_changes_the_budgets_alone(outcomes: OutcomeModel) -> None:
    evaluation = Evaluation(num_queries=50)
    mixed = arrivals(evaluation, CELL, outcomes.bank)
    single = arrivals(evaluation, replace(CELL, tier_s=50.0), outcomes.bank)

    assert {each.query.budget_s for each in mixed} == {10.0, 50.0, 200.0, 600.0, 1800.0}
    assert {each.query.budget_s for each in single} == {50.0}
    assert [(each.t, each.query.question) for each in single] == [(each.t, each.query.question) for each in mixed]


def test_questions_come_from_the_part_that_is_asked_for(outcomes: OutcomeModel) -> None:
    """None of the 278 test questions of code comes twice before all have come."""
    evaluation = Evaluation(num_queries=300, domains=("code",))
    numbers = [each.query.question for each in arrivals(evaluation, CELL, outcomes.bank)]
    test = set(outcomes.bank.questions("code", train=False))

    assert set(numbers[: len(test)]) == test
    assert set(numbers) <= test


def test_every_policy_answers_the_same_queries(outcomes: OutcomeModel) -> None:
    """And each query once, whatever the policy."""
    shared = world(outcomes, Evaluation(num_queries=12, answer_when_due=False))
    results = {name: shared.run(replace(CELL, policy=name)) for name in POLICIES}

    keys = ["workflow_id", "domain", "question", "arrival_s", "budget_s"]
    for result in results.values():
        pd.testing.assert_frame_equal(result.workflows[keys], results["jsq"].workflows[keys])
        assert (result.workflows["outcome"] == "finished").all()
    assert results["moa"].choices["num_calls"].sum() == 12 * 6
    assert results["clairvoyant"].workflows["correct"].mean() >= results["random"].workflows["correct"].mean()


def test_runs_repeat(outcomes: OutcomeModel) -> None:
    evaluation = Evaluation(num_queries=20)

    assert_same(world(outcomes, evaluation).run(CELL), world(outcomes, evaluation).run(CELL))


def test_steady_state_leaves_out_both_ends(outcomes: OutcomeModel) -> None:
    """Of 5 + 10 + 5 queries the middle ones count, and polls only while they arrive."""
    evaluation = Evaluation(protocol="steady-state", num_queries=10, warm_up_queries=5, planner="single")
    all_of_them = world(outcomes, Evaluation(num_queries=20, planner="single")).run(CELL)
    steady = world(outcomes, evaluation).run(CELL)

    pd.testing.assert_frame_equal(
        steady.workflows, all_of_them.workflows.iloc[5:15].reset_index(drop=True), check_dtype=False
    )
    assert steady.choices["num_calls"].sum() == 10
    assert steady.servers["utilisation"].mean() > all_of_them.servers["utilisation"].mean()


def test_hopeless_workflows_have_no_answer(outcomes: OutcomeModel) -> None:
    """With a budget that no call can keep, all are cancelled: nothing is right, nothing has a latency."""
    evaluation = Evaluation(num_queries=5, cancel_hopeless=True)
    result = world(outcomes, evaluation).run(replace(CELL, tier_s=0.001))

    assert set(result.workflows["outcome"]) == {"cancelled: hopeless"}
    assert not result.workflows["correct"].any()
    assert result.workflows["latency_s"].isna().all()


def test_the_file_of_a_cell_loses_nothing(outcomes: OutcomeModel, tmp_path: Path) -> None:
    result = world(outcomes, Evaluation(num_queries=20, planner="single")).run(CELL)
    path = tmp_path / "cell.parquet"
    path.write_bytes(cell_to_bytes(result))
    back = read_cell(path)

    assert_same(back, result)
    assert back.decisions_per_s == result.decisions_per_s > 0


def test_utilisation_and_queues_are_those_of_the_polls(outcomes: OutcomeModel) -> None:
    """All to the 32B at once: it is busy, the others never; 16 run and the rest wait."""
    evaluation = Evaluation(num_queries=40, planner="single")
    result = world(outcomes, evaluation).run(Cell("always-large", "fcfs", 1e6, None, 0))
    busy = dict(zip(result.servers["server"], result.servers["utilisation"], strict=True))

    assert busy.pop("deepseek-r1-32b") > 0.9
    assert set(busy.values()) == {0.0}
    assert result.queues["deepseek-r1-32b"].max() == 40 - 16
    assert np.all(result.queues["llama-3b"] == 0)


def test_a_trained_policy_is_an_entry_like_a_rule(
    outcomes: OutcomeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for its loading: what it is given is the folder and the setting, and what it returns decides."""
    seen = []

    def load(folder: Path, given: Setting) -> Policy:
        seen.append((folder, given.seed, [server.scheduler.policy for server in given.servers]))
        return POLICIES["cheapest"](given)

    monkeypatch.setattr(policies, "load_trained", load)
    shared = world(outcomes, Evaluation(num_queries=5, policies=("jsq", f"{tmp_path}/mine", "cheapest")))
    mine, cheapest = (shared.run(replace(CELL, policy=name)) for name in ("mine", "cheapest"))

    assert seen == [(tmp_path / "mine", 1, ["priority"] * 5)]
    pd.testing.assert_frame_equal(mine.workflows, cheapest.workflows)


def test_predictors_take_the_place_of_step_times(outcomes: OutcomeModel) -> None:
    """Told that the third server answers at once and the others never, shortest-expected-delay goes there alone."""

    class Third:
        def latency_map(self, *_: object) -> NDArray[np.float64]:
            return np.where(np.arange(5)[:, None] == 2, 0.0, np.full((5, 3), 1e6))

    evaluation = Evaluation(num_queries=5)
    told = World(evaluation, load_pool("h200", Path()), outcomes, Third())
    cell = replace(CELL, policy="shortest-expected-delay")

    assert set(told.run(cell).choices["server"]) == {"qwen-coder-14b"}
    assert "qwen-coder-14b" not in set(world(outcomes, evaluation).run(cell).choices["server"])


def test_the_longest_path_leaves_out_the_turns(outcomes: OutcomeModel) -> None:
    """Alone on the pool, with its calls one after another: latency is their sum, the path the longest and the last."""
    evaluation = Evaluation(num_queries=1, planner="IO/MathSolver+Inspector", domains=("math",))
    (at_once,) = world(outcomes, evaluation).run(CELL).workflows.to_dict("records")
    in_turn = world(outcomes, evaluation.model_copy(update={"max_parallel_calls": 1})).run(CELL)
    (row,) = in_turn.workflows.to_dict("records")

    assert at_once["path_s"] == pytest.approx(at_once["latency_s"])
    assert row["latency_s"] > row["path_s"] > 0


def test_calls_that_are_given_up_count_until_then(outcomes: OutcomeModel) -> None:
    """No call of the 32B ends within 10 ms: no answers, and each path is as long as the time allowed."""
    evaluation = Evaluation(num_queries=5, call_timeout_s=0.01, planner="single")
    workflows = world(outcomes, evaluation).run(replace(CELL, policy="always-large")).workflows

    assert set(workflows["outcome"]) == {"failed: call failed"}
    assert workflows["path_s"].tolist() == pytest.approx([0.01] * 5)


def test_queues_as_calls_find_them() -> None:
    """Polls each second; of three calls one comes before the second poll, two after the third."""
    samples = pd.DataFrame({"time_s": [0.0, 1.0, 2.0], "server": "a", "waiting": [0, 4, 6]})
    calls = pd.DataFrame({"arrival_s": [0.5, 2.0, 9.0]})

    assert gauge_found(samples, calls, "waiting", ["a"]) == [4.0]
