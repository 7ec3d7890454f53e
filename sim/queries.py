"""Draws the queries of a run from the question bank."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inframind.workflows import Arrived, Query

from .question_bank import QuestionBank

Part: TypeAlias = Literal["test", "train", "all"]
"""Which questions of the bank."""


def draw_queries(
    bank: QuestionBank,
    domains: Sequence[str],
    part: Part,
    times_s: NDArray[np.float64],
    budgets_s: NDArray[np.float64],
    rng: np.random.Generator,
) -> list[Arrived]:
    """A query for each time and budget: a domain, all alike, and its next question in an order that is drawn.

    Raises
    ------
    ConfigError
        A domain that the bank does not have.
    """
    parts = {"test": (False,), "train": (True,), "all": (False, True)}[part]
    questions = {
        domain: rng.permutation([number for train in parts for number in bank.questions(domain, train=train)])
        for domain in domains
    }
    num_asked = dict.fromkeys(domains, 0)
    arrived = []
    for index, drawn in enumerate(rng.integers(len(domains), size=len(times_s))):
        domain = domains[drawn]
        question = int(questions[domain][num_asked[domain] % len(questions[domain])])
        num_asked[domain] += 1
        row = bank.row(domain, question)
        tokens, budget_s = int(bank.prompt_tokens[row]), float(budgets_s[index])
        query = Query(f"q{index}", domain, question, tokens, budget_s, embedding=row)
        arrived.append(Arrived(float(times_s[index]), query))
    return arrived
