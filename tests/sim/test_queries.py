"""The queries of a run are drawn from the bank: which, and in what order."""

from collections import Counter

import numpy as np
import pytest

from inframind.sim.queries import Part, draw_queries
from inframind.sim.question_bank import QuestionBank
from inframind.workflows import Arrived


@pytest.fixture(scope="module")
def bank() -> QuestionBank:
    return QuestionBank()


def draw(bank: QuestionBank, num: int = 300, part: Part = "all", seed: int = 0) -> list[Arrived]:
    times_s = np.arange(num, dtype=float)
    return draw_queries(bank, ("math", "qa"), part, times_s, 10 * times_s + 1, np.random.default_rng(seed))


def test_each_time_and_budget_has_a_query(bank: QuestionBank) -> None:
    drawn = draw(bank, 3)

    assert [(each.t, each.query.query_id, each.query.budget_s) for each in drawn] == [
        (0.0, "q0", 1.0),
        (1.0, "q1", 11.0),
        (2.0, "q2", 21.0),
    ]
    for each in drawn:
        row = bank.row(each.query.domain, each.query.question)
        assert (each.query.embedding, each.query.prompt_tokens) == (row, bank.prompt_tokens[row])


def test_domains_are_equally_often(bank: QuestionBank) -> None:
    """Within 5 standard deviations of a fair coin."""
    of_math = sum(each.query.domain == "math" for each in draw(bank))

    assert of_math == pytest.approx(150, abs=5 * np.sqrt(300) / 2)


def test_the_seed_decides(bank: QuestionBank) -> None:
    assert draw(bank) == draw(bank)
    assert draw(bank) != draw(bank, seed=1)


@pytest.mark.parametrize(("part", "trained_on"), [("train", {True}), ("test", {False})])
def test_questions_are_of_the_part(bank: QuestionBank, part: Part, trained_on: set[bool]) -> None:
    rows = [each.query.embedding for each in draw(bank, part=part)]

    assert {bool(bank.is_train[row]) for row in rows} == trained_on


def test_a_question_comes_again_only_when_all_of_its_domain_have_come(bank: QuestionBank) -> None:
    num_math = len(bank.questions("math", train=False))
    asked = [each.query.question for each in draw(bank, 3 * num_math, part="test") if each.query.domain == "math"]

    assert len(asked) > num_math
    assert set(Counter(asked[:num_math]).values()) == {1}
    assert asked[num_math:] == asked[: len(asked) - num_math]
