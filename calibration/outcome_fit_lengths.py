"""Output lengths: log-normal, with the question's difficulty and its own wordiness, and a tail that never ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import kstest, norm


@dataclass(frozen=True, slots=True)
class LengthFit:
    """log(tokens) = intercept[model] + slope * difficulty + if_wrong * wrong + question + sd[model] * noise."""

    intercept: pd.Series[float]
    """Of each LLM: mean log tokens of a right answer to a question of difficulty 0."""
    slope: float
    """Per logit of difficulty; common to all LLMs."""
    if_wrong: float
    """Of wrong answers over right ones."""
    question: pd.Series[float]
    """How much longer every LLM answers this question than its difficulty says."""
    sd: pd.Series[float]
    """Of each LLM, what is left."""
    loops_if_wrong: pd.Series[float]
    """Of each LLM, the share of wrong answers that go round in circles up to the cap."""
    ks: pd.Series[float]
    """Of each LLM: Kolmogorov-Smirnov distance between what is left and the normal distribution."""

    question_sd: float
    """Spread of the questions' wordiness itself, without what noise adds to `question`."""


def fit_lengths(answers: pd.DataFrame, difficulty: pd.Series[float]) -> LengthFit:
    """Least squares with an intercept for each LLM; questions are what the residuals of all LLMs have in common.

    Parameters
    ----------
    answers
        ``qid, model, correct, out_tokens, is_loop, has_length``.
    difficulty
        By qid.
    """
    told = answers[answers["has_length"]]
    ended = told[~told["is_loop"]]
    columns = pd.DataFrame(
        {
            "log_tokens": np.log(ended["out_tokens"]),
            "difficulty": ended["qid"].map(difficulty),
            "wrong": 1.0 - ended["correct"],
        }
    )
    within = columns - columns.groupby(ended["model"]).transform("mean")
    slope, if_wrong = np.linalg.lstsq(
        within[["difficulty", "wrong"]].to_numpy(), within["log_tokens"].to_numpy(), rcond=None
    )[0]
    rest = columns["log_tokens"] - slope * columns["difficulty"] - if_wrong * columns["wrong"]
    intercept = rest.groupby(ended["model"]).mean()
    residual = rest - ended["model"].map(intercept)
    question = residual.groupby(ended["qid"]).mean()
    own = residual - ended["qid"].map(question)
    # A mean over few LLMs takes part of their noise for the question's.
    answers_each = len(ended) / len(question)
    sd = own.groupby(ended["model"]).std() * np.sqrt(answers_each / (answers_each - 1))
    question_sd = np.sqrt(max(question.var() - (sd**2).mean() / answers_each, 0.0))
    ks = own.groupby(ended["model"]).agg(lambda left: kstest((left - left.mean()) / left.std(), norm.cdf).statistic)
    wrong = told[told["correct"] == 0]
    loops = wrong.groupby("model")["is_loop"].mean().reindex(intercept.index, fill_value=0.0)
    return LengthFit(intercept, float(slope), float(if_wrong), question, sd, loops, ks, float(question_sd))


def retest_correlation(answers: pd.DataFrame, fit: LengthFit, difficulty: pd.Series[float], like: str) -> float:
    """How far what is left repeats between runs whose LLM's name contains `like`: their mean correlation."""
    chosen = answers[answers["model"].str.contains(like) & answers["has_length"] & ~answers["is_loop"]]
    rest = (
        np.log(chosen["out_tokens"])
        - fit.slope * chosen["qid"].map(difficulty)
        - fit.if_wrong * (1 - chosen["correct"])
        - chosen["qid"].map(fit.question)
    )
    table = chosen.assign(rest=rest).pivot(index="qid", columns="model", values="rest").corr().to_numpy()
    return float(table[np.triu_indices(len(table), 1)].mean())


def log_ratio(table: pd.DataFrame, first: str, second: str) -> tuple[float, float]:
    """Mean of log(first / second) over rows that have both, and its standard deviation within one LLM.

    Parameters
    ----------
    table
        Tokens; the index has a level ``model``.
    """
    ratio: pd.Series[float] = (table[first] / table[second]).astype(float).apply(np.log).dropna()
    within = ratio - ratio.groupby(level="model").transform("mean")
    return float(ratio.mean()), float(within.std())
