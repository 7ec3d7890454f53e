import math
from pathlib import Path

import numpy as np
import outcome_tables
import pandas as pd
import pytest
from scipy.special import expit

from inframind.calibration import outcome_fit
from inframind.calibration.outcome_fit_data import concise_cot, llmrouter, mapcoder, read_json_lines, zeroeval_answers
from inframind.calibration.outcome_fit_irt import fit_rasch, plausible_values, shared_noise, tetrachoric
from inframind.calibration.outcome_fit_lengths import fit_lengths, log_ratio
from inframind.calibration.outcome_fit_teams import Gain, SharedNoise, _chain
from inframind.sim.outcome_file import OUTCOMES
from inframind.sim.question_bank import QUESTIONS
from inframind.traces import TraceError


def synthetic(abilities: np.ndarray, sigma: float, guess: float, num: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    difficulty = sigma * random.standard_normal(num)
    chance = guess + (1 - guess) * expit(abilities[None, :] - difficulty[:, None])
    return difficulty, (random.random(chance.shape) < chance).astype(float)


@pytest.mark.parametrize("guess", [0.0, 0.1])
def test_abilities_and_spread_come_back_from_synthetic_answers(guess: float) -> None:
    abilities = np.linspace(-2, 3, 12)
    difficulty, answers = synthetic(abilities, 2.0, guess, 3000)
    answers[::7, 3] = np.nan  # some LLMs were not asked everything

    fit = fit_rasch(answers, guess)

    assert fit.abilities == pytest.approx(abilities, abs=0.2)
    assert fit.sigma == pytest.approx(2.0, abs=0.1)
    correlation = np.corrcoef(fit.difficulties, difficulty)[0, 1]
    assert correlation**2 == pytest.approx(fit.reliability, abs=0.03)


def test_accuracy_and_ability_are_inverse() -> None:
    fit = fit_rasch(synthetic(np.array([-1.0, 0.0, 2.0]), 1.5, 0.0, 500)[1])

    assert fit.accuracy(0.0) == pytest.approx(0.5, abs=1e-9)
    assert fit.ability_of(fit.accuracy(1.3)) == pytest.approx(1.3)


def test_plausible_values_spread_as_difficulties_do_and_posterior_means_less() -> None:
    difficulty, answers = synthetic(np.linspace(-1, 1, 6), 2.0, 0.0, 4000)
    fit = fit_rasch(answers)

    drawn = plausible_values(fit, np.zeros(4000), fit.sigma, np.random.default_rng(2).random(4000))

    assert fit.difficulties.std() < 0.9 * difficulty.std()
    assert drawn.mean() == pytest.approx(fit.difficulties.mean(), abs=0.05), "half a grid step is 0.17"
    assert drawn.std() == pytest.approx(difficulty.std(), rel=0.05)


def test_a_predictor_s_r2_survives_plausible_values_with_its_prediction_as_prior() -> None:
    """The point of latent regression: x tells 40 % of difficulty before, and of the drawn values after."""
    random = np.random.default_rng(3)
    x = random.standard_normal(4000)
    difficulty = 2 * (math.sqrt(0.4) * x + math.sqrt(0.6) * random.standard_normal(4000))
    answers = (random.random((4000, 6)) < expit(np.linspace(-1, 1, 6)[None, :] - difficulty[:, None])).astype(float)
    fit = fit_rasch(answers)

    prediction = 2 * math.sqrt(0.4) * x
    drawn = plausible_values(fit, prediction, 2 * math.sqrt(0.6), random.random(4000))
    blind = plausible_values(fit, np.zeros(4000), 2.0, random.random(4000))

    assert np.corrcoef(x, drawn)[0, 1] ** 2 == pytest.approx(0.4, abs=0.05)
    assert np.corrcoef(x, blind)[0, 1] ** 2 < 0.3


@pytest.mark.parametrize("correlation", [-0.3, 0.0, 0.5, 0.9])
def test_tetrachoric_recovers_the_correlation_behind_two_signs(correlation: float) -> None:
    random = np.random.default_rng(4)
    both = random.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], 40_000)

    first, second = both[:, 0] < 0.8, both[:, 1] < -0.2
    assert tetrachoric(first.tolist(), second.tolist()) == pytest.approx(correlation, abs=0.03)


def test_shared_noise_is_the_part_of_the_rest_that_repeats() -> None:
    assert shared_noise(same=0.9, other=0.75) == pytest.approx(0.6)
    assert shared_noise(same=0.75, other=0.75) == 0


def test_lengths_come_back_from_synthetic_answers() -> None:
    random = np.random.default_rng(5)
    num, models = 800, {"a": 5.0, "b": 5.5, "c": 6.0, "d": 4.0}
    difficulty = pd.Series(2 * random.standard_normal(num), [str(each) for each in range(num)])
    question = 0.3 * random.standard_normal(num)
    rows = []
    for name, intercept in models.items():
        wrong = random.random(num) < expit(difficulty.to_numpy())
        log_tokens = (
            intercept + 0.1 * difficulty.to_numpy() + 0.2 * wrong + question + 0.4 * random.standard_normal(num)
        )
        is_loop = wrong & (random.random(num) < 0.25) & (name == "a")
        tokens = np.where(is_loop, 4096, np.exp(log_tokens))
        rows.append(
            pd.DataFrame(
                {
                    "qid": difficulty.index,
                    "model": name,
                    "correct": (~wrong).astype(int),
                    "out_tokens": tokens,
                    "is_loop": is_loop,
                    "has_length": True,
                }
            )
        )
    fit = fit_lengths(pd.concat(rows), difficulty)

    assert fit.intercept.to_dict() == pytest.approx(models, abs=0.06)
    assert fit.slope == pytest.approx(0.1, abs=0.02)
    assert fit.if_wrong == pytest.approx(0.2, abs=0.06)
    assert fit.sd.to_dict() == pytest.approx(dict.fromkeys(models, 0.4), abs=0.04)
    assert fit.question_sd == pytest.approx(0.3, abs=0.03)
    assert fit.loops_if_wrong.to_dict() == pytest.approx({"a": 0.25, "b": 0, "c": 0, "d": 0}, abs=0.05)
    assert fit.ks.max() < 0.05


def test_a_ratio_s_spread_is_within_one_llm() -> None:
    index = pd.MultiIndex.from_product([range(4), ["x", "y"]], names=["qid", "model"])
    tokens = pd.DataFrame({"long": [20.0, 40.0] * 4, "short": [10.0, 10.0] * 4}, index)

    mean, sd = log_ratio(tokens, "long", "short")
    assert mean == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert sd == pytest.approx(0, abs=1e-12)


def test_a_chain_of_attempts_gains_with_what_a_review_sees() -> None:
    noise = SharedNoise(0.6, {}, 0.6)
    cell = Gain("", "", 6, 0.6, 0.0, 0.0)
    shares = [_chain(log_odds, 2.0, cell, noise) for log_odds in (0.0, 2.0, 20.0)]

    assert shares[0] == pytest.approx(0.6, abs=0.01), "who cannot tell right from wrong gains nothing"
    assert shares == sorted(shares)
    assert shares[2] < 0.8, "what repeats sets a limit"


def test_the_readers_know_the_traps_of_their_files(shared_data: Path) -> None:
    assert concise_cot(shared_data)["tokens"].max() < 2000
    assert "comprehensive-100" not in set(concise_cot(shared_data)["exam"])
    assert (mapcoder(shared_data)["valid"]).all()
    assert "gemma-2-9b-it" not in llmrouter(shared_data, "human_eval").columns
    assert not llmrouter(shared_data, "gpqa")["question"].duplicated().any()
    answers = zeroeval_answers(shared_data, "math_l5")
    assert "Meta-Llama-3.1-70B-Instruct@hyperbolic" not in set(answers["model"])
    assert not answers.loc[answers["model"].str.startswith("o1"), "has_length"].any()
    assert answers.loc[answers["model"] == "Meta-Llama-3.1-8B-Instruct", "is_loop"].mean() == pytest.approx(
        0.208, abs=1e-3
    )


def test_json_lines_may_hold_line_separators_of_unicode(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"question": "a\u2028b"}\n{"question": "c"}\n')

    assert [row["question"] for row in read_json_lines(tmp_path, "x.jsonl")] == ["a\u2028b", "c"]


def test_a_file_that_is_absent_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = outcome_fit.main([str(tmp_path), "-o", str(tmp_path / "outcomes.json")])

    assert code == 2
    first = tmp_path / "zeroeval_perquestion" / "math_l5_questions.jsonl.gz"
    assert capsys.readouterr().err == f"error: {first}: 1 problem\n  no such file\n"
    assert not (tmp_path / "outcomes.json").exists()


def test_embeddings_of_other_questions_are_refused() -> None:
    with pytest.raises(TraceError, match="make them anew with --encode"):
        outcome_fit._shipped(pd.DataFrame({"id": ["gsm8k/0"]}))


def test_the_shipped_outcomes_are_what_the_module_makes_of_the_public_files(shared_data: Path, tmp_path: Path) -> None:
    made = tmp_path / "outcomes.json"

    assert outcome_fit.main([str(shared_data), "-o", str(made)]) == 0

    assert made.read_bytes() == OUTCOMES.read_bytes()
    assert (tmp_path / QUESTIONS.name).read_bytes() == QUESTIONS.read_bytes()


def test_embeddings_tell_as_much_of_the_bank_s_difficulties_as_of_real_ones() -> None:
    for source, each in outcome_tables.parameters().evidence["embedding"].items():
        assert each["shipped_r2"] == pytest.approx(each["r2"], abs=0.07), source


def test_teams_are_near_the_published_ones() -> None:
    """One number for six cells of MapCoder."""
    for each in outcome_tables.parameters().evidence["mapcoder"]:
        assert each["ours"] == pytest.approx(each["team"], abs=0.04), each
        assert each["ours"] > each["alone"]


def test_the_docs_have_the_tables_of_the_shipped_numbers() -> None:
    page = outcome_tables.PAGE.read_text(encoding="utf-8")

    assert outcome_tables.named(page) == set(outcome_tables.TABLES)
    assert outcome_tables.filled(page) == page
