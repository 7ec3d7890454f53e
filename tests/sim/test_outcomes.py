import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import outcome_tables
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from outcome_tables import CODER, LLAMA_8B, R1, Call, alone, model, only, team, usual
from scipy.special import ndtr
from scipy.stats import ks_2samp

from inframind.sim.outcome_file import OUTCOMES
from inframind.sim.outcomes import MAX_TOKENS, OutcomeModel
from inframind.sim.question_bank import QUESTIONS, QuestionBank
from inframind.traces import ConfigError

LLMS = model().models
STRATEGIES = model().strategies


def test_outcomes_are_the_same_whatever_was_asked_before() -> None:
    first, second = OutcomeModel.shipped(), OutcomeModel.shipped()
    asked = [
        (domain, question, llm, strategy, role, slot, seed)
        for question in (0, 7)
        for domain in first.domains
        for llm in LLMS[:2]
        for strategy in STRATEGIES
        for role in ("Mathematician", "Decider")
        for slot in (0, 3, 11)
        for seed in (0, 5)
    ]

    def answers(outcomes: OutcomeModel, asked: Iterable[tuple[str, int, str, str, str, int, int]]) -> list[object]:
        return [(outcomes.output_tokens(*each), outcomes.right_calls(*each[:2], each[-1]).tolist()) for each in asked]

    assert answers(first, asked) == answers(second, reversed(asked))[::-1]


def test_seeds_slots_models_and_strategies_draw_anew() -> None:
    base = {"model": LLMS[1], "strategy": "DeepThink", "slot": 0, "seed": 0}

    def lengths(**changes: object) -> list[int]:
        chosen = base | changes
        return [
            model().output_tokens(
                "math",
                question,
                str(chosen["model"]),
                str(chosen["strategy"]),
                "",
                int(str(chosen["slot"])),
                int(str(chosen["seed"])),
            )
            for question in range(300)
        ]

    for changes in ({"seed": 1}, {"slot": 1}, {"slot": 8}, {"model": LLMS[2]}, {"strategy": "Concise"}):
        assert np.mean(np.equal(lengths(), lengths(**changes))) < 0.05


def test_an_llm_that_is_left_out_changes_nothing_for_the_others() -> None:
    parameters = outcome_tables.parameters()
    fewer = OutcomeModel(parameters.model_copy(update={"models": parameters.models[2:]}), QuestionBank())

    for question in range(50):
        each = ("code", question, LLMS[3], "Concise", "", 1, 4)
        assert fewer.output_tokens(*each) == model().output_tokens(*each)
        assert (fewer.right_calls("code", question, 4) == model().right_calls("code", question, 4)[:, 2:]).all()


def test_luck_with_a_question_lasts_for_all_seeds_or_for_one() -> None:
    """What repeats between two seeds beyond a question's difficulty: the fitted share, or nothing."""
    by_seed = OutcomeModel.shipped(luck_by_seed=True)

    def residuals(outcomes: OutcomeModel, seed: int) -> NDArray[np.float64]:
        bank = outcomes.bank
        rows = bank.start["math"] + np.arange(bank.num["math"])
        tables = [outcomes._sources[bank.source[row]] for row in rows]
        chance = np.stack([table.chance(bank.difficulty[row]) for table, row in zip(tables, rows, strict=True)])
        is_right = outcomes._draws("math", seed, 0).is_right[:, 0]
        residual: NDArray[np.float64] = ((is_right - chance) / np.sqrt(chance * (1 - chance)))[:, 3]
        return residual.ravel()

    assert np.mean(residuals(model(), 0) * residuals(model(), 1)) > 0.2
    assert np.mean(residuals(by_seed, 0) * residuals(by_seed, 1)) == pytest.approx(0, abs=0.08)
    assert (
        by_seed._draws("math", 0, 0).is_right == OutcomeModel.shipped(luck_by_seed=True)._draws("math", 0, 0).is_right
    ).all()
    # Of one seed it is as much of the noise as ever: two attempts agree as often.
    agree = [
        (draws.is_right[:, 0] == draws.is_right[:, 1]).mean()
        for draws in (each._draws("math", 0, 0) for each in (model(), by_seed))
    ]
    assert agree[1] == pytest.approx(agree[0], abs=0.02)


def test_what_repeats_is_the_share_that_was_fitted() -> None:
    """Latent noise at two slots correlates as fitted: agreement of two attempts against the bivariate normal."""
    draws = model()._draws("math", 0, 0)
    agree = (draws.is_right[:, 0] == draws.is_right[:, 1]).mean()
    again = (draws.is_right[:, 0] == model()._draws("math", 1, 0).is_right[:, 0]).mean()
    other_llm = (draws.is_right[:, 0, 3] == draws.is_right[:, 0, 4]).mean()

    assert agree == pytest.approx(again, abs=0.01)
    assert agree > other_llm + 0.05


@pytest.mark.parametrize("llm", range(5))
def test_harder_questions_are_answered_less_often(llm: int) -> None:
    bank = model().bank
    for domain in model().domains:
        draws = model()._draws(domain, 0, 0)
        rows = slice(bank.start[domain], bank.start[domain] + bank.num[domain])
        order = np.argsort(bank.difficulty[rows])
        shares = [draws.is_right[part, :, llm].mean() for part in np.array_split(order, 4)]
        assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("source", ["gsm8k", "math-l5", "humaneval", "mbpp", "gpqa"])
@pytest.mark.parametrize("llm", range(5))
def test_deep_thinking_is_longer_than_an_answer_at_once(llm: int, source: str) -> None:
    assert alone(llm, "DeepThink", source).tokens > alone(llm, "Flash", source).tokens


def test_a_cap_cuts_answers_and_with_them_accuracy() -> None:
    """R1-Distill needs more than 2048 tokens on hard mathematics; half of what is cut can be read."""
    free = alone(R1, "DeepThink", "math-l5", cap=outcome_tables.NEVER)
    capped = alone(R1, "DeepThink", "math-l5")

    assert free.is_cut == 0
    assert 0.5 < capped.is_cut < 0.9
    assert capped.accuracy == pytest.approx(free.accuracy * (1 - capped.is_cut / 2), abs=0.08)
    assert capped.tokens < MAX_TOKENS < free.tokens


def test_endless_answers_have_the_share_that_was_fitted() -> None:
    """Llama-3.1-8B on MATH level 5: of 471 answers ZeroEval saw 20.8 % run into its cap, all of them wrong."""
    draws = model()._draws("math", 0, 0)
    level_5 = slice(471, 942)
    endless = draws.tokens[level_5, :, LLAMA_8B, 2] == 10**9

    assert endless.mean() == pytest.approx(0.208, abs=0.03)
    assert not draws.is_right[level_5, :, LLAMA_8B, 2][endless].any()
    assert not (draws.tokens[level_5, :, LLAMA_8B, 0] == 10**9).any(), "Flash has nothing to go round in"


@given(
    question=st.integers(0, 440), domain=st.sampled_from(model().domains), cap=st.sampled_from([64, 512, 2048, 16384])
)
@settings(deadline=None, max_examples=30)
def test_expectations_are_probabilities_and_lengths(question: int, domain: str, cap: int) -> None:
    quality = model().expected_quality(domain, question, cap)
    tokens = model().expected_tokens(domain, question, cap)

    assert quality.shape == tokens.shape == (5, 3)
    assert (quality >= 0).all()
    assert (quality <= 1).all()
    assert (tokens > 0).all()
    assert (tokens <= cap).all()
    assert (model().expected_quality(domain, question, 2 * cap) >= quality - 1e-12).all()


@pytest.mark.parametrize("domain", ["math", "code", "qa"])
def test_expectations_are_what_comes_out_on_average(domain: str) -> None:
    """Of all questions and slots: those who know only the embeddings are not wrong on the whole."""
    draws, bank = model()._draws(domain, 0, 0), model().bank
    reads = draws.is_right & ((draws.tokens <= MAX_TOKENS) | draws.is_readable)
    quality = np.mean([model().expected_quality(domain, question) for question in range(bank.num[domain])], axis=0)
    tokens = np.mean([model().expected_tokens(domain, question) for question in range(bank.num[domain])], axis=0)

    assert reads.mean(axis=(0, 1)) == pytest.approx(quality, abs=0.05)
    assert np.minimum(draws.tokens, MAX_TOKENS).mean(axis=(0, 1)) == pytest.approx(tokens, rel=0.15)


@pytest.mark.parametrize("domain", ["math", "code", "qa"])
@pytest.mark.parametrize("cap", [60, 250, 1000])
def test_right_answers_are_as_short_as_is_expected(domain: str, cap: int) -> None:
    """Share of all calls that are right within so many tokens, by the log-normal that the embedding tells of."""
    draws, bank = model()._draws(domain, 0, 0), model().bank
    expected = []
    for question in range(bank.num[domain]):
        mean, sd = model().expected_right_log_tokens(domain, question)
        expected.append(model().expected_quality(domain, question, 10**6) * ndtr((np.log(cap) - mean) / sd))

    short = draws.is_right & (draws.tokens <= cap)
    assert short.mean(axis=(0, 1)) == pytest.approx(np.mean(expected, axis=0), abs=0.04)


def test_expected_quality_knows_the_embedding_and_not_the_difficulty() -> None:
    """Two questions with the same estimate have the same expectations, however hard they are."""
    bank = QuestionBank()
    bank.estimate[:] = 0.25
    blind = OutcomeModel(outcome_tables.parameters(), bank)

    assert bank.difficulty[0] != bank.difficulty[1]
    assert (blind.expected_quality("math", 0) == blind.expected_quality("math", 1)).all()


def test_the_bank_has_unit_embeddings_and_two_parts() -> None:
    bank = model().bank

    assert len(bank) == len(bank.ids) == 2083
    assert np.linalg.norm(bank.embedding, axis=1) == pytest.approx(np.ones(len(bank)), abs=2e-3)
    assert bank.is_train.mean() == pytest.approx(0.6, abs=0.01)
    assert (bank.prompt_tokens > 0).all()
    assert QUESTIONS.stat().st_size < 2e6
    for domain in bank.domains:
        parts = bank.questions(domain, train=True), bank.questions(domain, train=False)
        assert sorted([*parts[0], *parts[1]]) == list(range(bank.num[domain]))


def finished(slots: list[tuple[int, str, str, str]], tokens: int = 10**9) -> list[Call]:
    return [Call(slot, role, llm, strategy, tokens) for slot, role, llm, strategy in slots]


@pytest.mark.parametrize("max_tokens", [200, 2048, 10**9])
def test_one_agent_s_answer_is_the_workflow_s_and_known_beforehand(max_tokens: int) -> None:
    for question in range(10):
        right = model().right_calls("math", question, 3, max_tokens)
        assert right.shape == (8, len(LLMS), len(STRATEGIES))
        for llm, strategy in np.ndindex(right.shape[1:]):
            calls = finished([(0, "MathSolver", LLMS[llm], STRATEGIES[strategy])], max_tokens)
            assert model().answer_correct("math", question, "IO", "MathSolver", calls, 3) == right[0, llm, strategy]


def test_a_workflow_that_answers_before_its_end_gives_the_last_answer_that_it_has() -> None:
    """Of three who do not read each other the second's, while the third and the decider are still at work."""
    calls = finished([(slot, "MathSolver", LLMS[0], "DeepThink") for slot in range(2)])
    right = [
        model().right_calls("math", question, 0, 10**9)[:, 0, STRATEGIES.index("DeepThink")] for question in range(40)
    ]

    assert any(first != second for first, second, *_ in right)
    for question in range(40):
        is_right = model().answer_correct("math", question, "IO", "MathSolver+MathSolver+MathSolver", calls, 0)
        assert is_right == right[question][1]


def test_an_answer_that_was_cut_is_lost() -> None:
    calls = finished([(0, "MathSolver", LLMS[2], "DeepThink")], tokens=1)

    assert not any(model().answer_correct("math", question, "IO", "MathSolver", calls, 0) for question in range(40))


def test_a_strong_llm_that_decides_is_right_more_often_than_a_weak_one() -> None:
    def decided_by(llm: int) -> float:
        def choose(slot: int, role: str, random: np.random.Generator) -> tuple[int, str]:
            return (llm if role == "Decider" else slot), "DeepThink"

        return team("IO", "+".join(["MathSolver"] * 3), choose, "math", every=3).accuracy

    assert decided_by(CODER) > decided_by(4) + 0.05


def test_a_review_with_tests_helps_and_a_vote_of_like_minds_does_little() -> None:
    one = team("IO", "ProgrammingExpert", only(CODER, "Concise"), "code").accuracy
    three = team("IO", "+".join(["ProgrammingExpert"] * 3), only(CODER, "Concise"), "code").accuracy
    tested = team("Chain", "ProgrammingExpert+TestAnalyst", only(CODER, "Concise"), "code").accuracy

    assert tested > one + 0.02
    assert abs(three - one) < 0.03


def test_the_mixed_team_is_near_the_published_one() -> None:
    """InfraMind on MATH at 100/min: 66.3 %; MoA there 74.6 %. Nothing was fitted to either."""
    five, three = ("+".join(["MathSolver"] * num) for num in (5, 3))

    assert team("IO", five, outcome_tables.all_propose, "math").accuracy == pytest.approx(0.746, abs=0.05)
    assert team("IO", three, usual, "math").accuracy == pytest.approx(0.663, abs=0.07)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            {"model": "Llama-3.1-9B-Instruct"},
            "no outcome data for model 'Llama-3.1-9B-Instruct'; did you mean 'Llama-3.1-8B-Instruct'?",
        ),
        ({"strategy": "Think"}, "unknown strategy 'Think'; known: Flash, Concise, DeepThink"),
        ({"domain": "law"}, "unknown domain 'law'; known: math, code, qa"),
        ({"question": 5000}, "question 5000 of math must be in 0 to 941"),
        ({"question": -1}, "question -1 of math must be in 0 to 941"),
    ],
)
def test_what_has_no_outcomes_is_named(call: dict[str, object], said: str) -> None:
    arguments = {
        "question": 0,
        "domain": "math",
        "model": LLMS[0],
        "strategy": "Flash",
        "role": "",
        "slot": 0,
        "seed": 0,
    }

    with pytest.raises(ConfigError) as error:
        model().output_tokens(**(arguments | call))  # type: ignore[arg-type]
    assert said in str(error.value)


def test_all_unknown_models_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        model().check_models([LLMS[0], "gpt-5", "gpt-5", "claude"])
    assert len(error.value.problems) == 2


def test_a_file_that_is_no_question_bank_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "questions.safetensors"
    broken.write_bytes(b"nothing")

    with pytest.raises(ConfigError, match="is not a question bank"):
        QuestionBank(broken)
    with pytest.raises(ConfigError, match="cannot be read"):
        QuestionBank(tmp_path / "absent.safetensors")


def test_mistakes_in_a_file_of_outcomes_are_named(tmp_path: Path) -> None:
    content = json.loads(OUTCOMES.read_text())
    del content["teams"]["vote"]
    path = tmp_path / "outcomes.json"
    path.write_text(json.dumps(content))
    shutil.copy(QUESTIONS, tmp_path)

    with pytest.raises(ConfigError, match=r"teams\.vote: missing"):
        OutcomeModel.from_file(path)


@pytest.mark.parametrize(("benchmark", "source", "distance"), [("gsm", "gsm8k", 0.13), ("math_l5", "math-l5", 0.12)])
def test_lengths_are_distributed_as_llama_3_1_8b_s(
    shared_data: Path, benchmark: str, source: str, distance: float
) -> None:
    """Under chain of thought, which is DeepThink without its factor; Kolmogorov-Smirnov, capped at 2048 both."""
    table = pd.read_csv(shared_data / "zeroeval_perquestion" / f"{benchmark}_results.csv.gz")
    real = table.loc[table["model"] == "Meta-Llama-3.1-8B-Instruct", "out_tokens"].clip(upper=MAX_TOKENS)
    effect = outcome_tables.parameters().domains["math"].strategies["DeepThink"]
    bank = model().bank
    rows = [question for domain, question in outcome_tables.rows_of(source)]
    drawn = model()._draws("math", 0, 0).tokens[rows, :, LLAMA_8B, 2].ravel()
    plain = np.minimum(np.where(drawn < 10**9, drawn / np.exp(effect.log_tokens), MAX_TOKENS), MAX_TOKENS)

    assert bank.domains[0] == "math"
    assert ks_2samp(real, plain).statistic < distance
