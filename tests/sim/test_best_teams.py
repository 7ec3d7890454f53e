"""The search for the best teams answers questions by arrays of its own: they must agree with `OutcomeModel`."""

import pytest
from best_teams import SEEDS, Questions

from inframind.sim.outcomes import MAX_TOKENS, OutcomeModel
from inframind.workflows import CallRecord, build_workflow

FOR_EVER_S = 1e9


@pytest.mark.parametrize(
    ("source", "topology", "role_set"),
    [
        ("gsm8k", "IO", "MathSolver+Mathematician+MathTeacher"),
        ("math-l5", "Debate", "MathSolver+Mathematician+MathTeacher"),
        ("mbpp", "Reflection", "ProgrammingExpert+TestAnalyst"),
        ("gpqa", "Chain", "KnowledgeExpert+Scientist+Critic"),
    ],
)
def test_teams_answer_as_the_model_says(source: str, topology: str, role_set: str) -> None:
    outcomes = OutcomeModel.shipped(cache_size=len(SEEDS))
    questions = Questions(outcomes, source, train=False)
    nodes = build_workflow(questions.domain, topology, role_set).nodes
    team = {node.slot: (node.slot % len(outcomes.models), node.slot % len(outcomes.strategies)) for node in nodes}

    def call(question: int, slot: int, role: str, seed: int) -> CallRecord:
        model, strategy = outcomes.models[team[slot][0]], outcomes.strategies[team[slot][1]]
        tokens = outcomes.output_tokens(questions.domain, question, model, strategy, role, slot, seed)
        return CallRecord(slot, role, 0, model, strategy, 1, min(tokens, MAX_TOKENS))

    right = [
        outcomes.answer_correct(
            *(questions.domain, question, topology, role_set),
            [call(question, node.slot, node.role.name, seed) for node in nodes],
            seed,
        )
        for seed in SEEDS
        for question in questions.numbers
    ]

    assert questions.goodput(topology, role_set, team, FOR_EVER_S) == sum(right) / len(right)


def test_what_takes_longer_than_the_budget_does_not_count() -> None:
    """A 24B writes a right answer to GSM8K in some 6 s."""
    outcomes = OutcomeModel.shipped(cache_size=len(SEEDS))
    questions = Questions(outcomes, "gsm8k", train=False)
    team = {0: (outcomes.models.index("Mistral-Small-24B-Instruct-2501"), outcomes.strategies.index("DeepThink"))}

    shares = [questions.goodput("IO", "MathSolver", team, budget_s) for budget_s in (0.0, 5.0, 20.0, FOR_EVER_S)]

    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert shares[1] < 0.5 < shares[-1] == max(shares)
