"""The question bank: embeddings of real questions, and difficulties that they tell as much of as they really do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict

from inframind.traces import TraceError

from .outcome_fit_abilities import Scale
from .outcome_fit_data import (
    llmrouter,
    mmlu_pro_categories,
    read_json_lines,
    wide,
    zeroeval_answers,
    zeroeval_questions,
)
from .outcome_fit_irt import Array, Rasch, plausible_values

SOURCES = ("gsm8k", "math-l5", "humaneval", "mbpp", "gpqa")
DOMAINS = ("math", "code", "qa")
DOMAIN_OF = {"gsm8k": "math", "math-l5": "math", "humaneval": "code", "mbpp": "code", "gpqa": "qa"}
_SCALES = {"gsm8k": "gsm", "math-l5": "math_l5", "humaneval": "humaneval", "mbpp": "mbpp", "gpqa": "gpqa"}
_TEST_SHARE = 0.4
_FOLDS = KFold(10, shuffle=True, random_state=0)
_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
_SEED = 7


@dataclass(frozen=True, slots=True)
class Bank:
    """One row for each question, in the order of `SOURCES`."""

    table: pd.DataFrame
    """``id, source, question, key, prompt_tokens, is_train``; key is the question's place in its scale."""
    embedding: NDArray[np.float16]
    """(questions, 384)."""


def read_questions(data: Path) -> pd.DataFrame:
    """The questions with their texts: `Bank.table`.

    All of MATH level 5, HumanEval, MBPP and GPQA that LLMs' answers are there for, and as many of GSM8K as of MATH.
    """
    level_5 = zeroeval_questions(data, "math_l5")
    gsm = zeroeval_questions(data, "gsm")
    gsm = gsm.iloc[np.sort(_random("gsm8k").permutation(len(gsm))[: len(level_5)])]
    prompts = {
        row["prompt"].strip(): row["task_id"] for row in read_json_lines(data, "task_questions/humaneval_164.jsonl")
    }
    humaneval = llmrouter(data, "human_eval")
    humaneval["key"] = [prompts[text.strip()] for text in humaneval["question"]]
    parts = {
        "gsm8k": gsm.assign(key=gsm["qid"]),
        "math-l5": level_5.assign(key=level_5["qid"]),
        "humaneval": humaneval,
        "mbpp": llmrouter(data, "mbpp").assign(key=lambda rows: rows["question"]),
        "gpqa": llmrouter(data, "gpqa").assign(key=lambda rows: rows["question"]),
    }
    return pd.concat([_part(source, rows) for source, rows in parts.items()], ignore_index=True)


def _part(source: str, rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows.reset_index(drop=True)
    is_train = np.ones(len(rows), bool)
    is_train[_random(source).permutation(len(rows))[: round(_TEST_SHARE * len(rows))]] = False
    return pd.DataFrame(
        {
            "id": [f"{source}/{number}" for number in range(len(rows))],
            "source": source,
            "question": rows["question"],
            "key": rows["key"],
            "prompt_tokens": rows["prompt_tokens"].astype(np.int32),
            "is_train": is_train,
        }
    )


def _random(source: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[_SEED, SOURCES.index(source)]))


@dataclass(frozen=True, slots=True)
class Telling:
    """How much of the difficulty of one source's questions their embeddings tell."""

    num: int
    reliability: float
    """Share of the variance of difficulty that the LLMs' answers tell."""
    ridge_r2: float
    """Cross-validated (10 folds), of the posterior means; the best of five penalties."""
    gbm_r2: float
    """The same by gradient boosting (5 folds)."""
    r2: float
    """Of difficulty itself: `ridge_r2` over `reliability`, at least 0."""
    shipped_r2: float
    """Cross-validated, of the difficulties in the bank."""


def difficulties(bank: Bank, scales: Mapping[str, Scale]) -> tuple[Array, dict[str, Telling]]:
    """A plausible difficulty for each question, on the scale of its source (GPQA: of MMLU-Pro)."""
    found, telling = np.empty(len(bank.table)), {}
    for source in SOURCES:
        rows = (bank.table["source"] == source).to_numpy()
        found[rows], telling[source] = _source_difficulties(bank, rows, scales[_SCALES[source]], source)
    # GPQA stands in for MMLU-Pro, whose texts are not public in the files: same place in the distribution.
    in_qa = (bank.table["source"] == "gpqa").to_numpy()
    found[in_qa] *= scales["mmlu_pro"].rasch.sigma / scales["gpqa"].rasch.sigma
    return found, telling


def _source_difficulties(bank: Bank, rows: NDArray[np.bool_], scale: Scale, source: str) -> tuple[Array, Telling]:
    x = bank.embedding[rows].astype(float)
    places = scale.index.get_indexer(pd.Index(bank.table.loc[rows, "key"]))
    rasch = scale.rasch
    means = rasch.difficulties[places]
    reliability = float(means.var() / rasch.sigma**2)
    predicted, ridge_r2 = best_ridge(x, means)
    trees = HistGradientBoostingRegressor(
        max_iter=60, learning_rate=0.08, max_leaf_nodes=8, max_bins=32, random_state=0
    )
    boosted = cross_val_predict(trees, x, means, cv=KFold(5, shuffle=True, random_state=0))
    r2 = float(np.clip(ridge_r2 / reliability, 0.0, 0.9))
    # A posterior mean is shrunk by the reliability; so is what is regressed on it.
    prior = predicted / reliability if r2 > 0 else np.full(len(means), means.mean())
    uniform = _random(source).random(len(means))
    drawn = plausible_values(_rows(rasch, places), prior, rasch.sigma * np.sqrt(1 - r2), uniform)
    shipped_r2 = best_ridge(x, drawn)[1]
    return drawn, Telling(len(means), reliability, ridge_r2, _r2(means, boosted), r2, shipped_r2)


def _rows(rasch: Rasch, places: NDArray[np.intp]) -> Rasch:
    return replace(rasch, log_likelihood=rasch.log_likelihood[places])


def best_ridge(x: Array, y: Array) -> tuple[Array, float]:
    """Out-of-fold predictions of the best penalty, and their R^2."""
    every = [cross_val_predict(Ridge(penalty), x, y, cv=_FOLDS) for penalty in _PENALTIES]
    scores = [_r2(y, predicted) for predicted in every]
    best = int(np.argmax(scores))
    return every[best], scores[best]


def _r2(y: Array, predicted: Array) -> float:
    return float(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


@dataclass(frozen=True, slots=True)
class Estimator:
    """What a router may know of a question's difficulty: a ridge regression on the embedding, for each domain."""

    estimate: Array
    """For each question: out of fold in the train part, from the whole train part in the test part."""
    residual_sd: dict[str, float]
    """Of the test part, by domain."""
    test_r2: dict[str, float]
    """By domain. Which source a question is from is part of what its embedding tells."""


def fit_estimator(bank: Bank, difficulty: Array) -> Estimator:
    """One ridge regression for each domain, fitted to the train part."""
    domain = bank.table["source"].map(DOMAIN_OF).to_numpy()
    is_train = bank.table["is_train"].to_numpy()
    x = bank.embedding.astype(float)
    estimate = np.empty(len(x))
    residual_sd, test_r2 = {}, {}
    for name in DOMAINS:
        train, test = (domain == name) & is_train, (domain == name) & ~is_train
        every = [
            (penalty, cross_val_predict(Ridge(penalty), x[train], difficulty[train], cv=_FOLDS))
            for penalty in _PENALTIES
        ]
        penalty, estimate[train] = max(every, key=lambda each: _r2(difficulty[train], each[1]))
        estimate[test] = Ridge(penalty).fit(x[train], difficulty[train]).predict(x[test])
        residual_sd[name] = float((difficulty[test] - estimate[test]).std())
        test_r2[name] = _r2(difficulty[test], estimate[test])
    return Estimator(estimate, residual_sd, test_r2)


def category_r2(data: Path, scale: Scale) -> float:
    """Share of the variance of MMLU-Pro's difficulty that a question's subject alone tells."""
    means = scale.difficulty
    by_category = means.groupby(mmlu_pro_categories(data).reindex(means.index)).transform("mean")
    return float(by_category.var() / means.var() / scale.rasch.reliability)


def model_specific_r2(data: Path, bank: Bank, scales: Mapping[str, Scale], source: str) -> float:
    """How much embeddings tell of which LLM is right, beyond ability and difficulty: mean cross-validated R^2."""
    rows = (bank.table["source"] == source).to_numpy()
    keys = bank.table.loc[rows, "key"]
    scale = scales[_SCALES[source]]
    answers = wide(zeroeval_answers(data, _SCALES[source]), "qid").reindex(keys)
    chance = 1 / (1 + np.exp(scale.difficulty[keys].to_numpy()[:, None] - scale.abilities[answers.columns].to_numpy()))
    left = answers.to_numpy(float) - chance
    left = left[:, ~np.isnan(left).any(axis=0)]
    # What is left of the question's own level would be difficulty again.
    left = left - left.mean(axis=1, keepdims=True)
    predicted = cross_val_predict(Ridge(10.0), bank.embedding[rows].astype(float), left, cv=_FOLDS)
    return float(1 - ((left - predicted) ** 2).sum() / ((left - left.mean(axis=0)) ** 2).sum())


def questions_metadata(ids: Sequence[str]) -> dict[str, str]:
    """One key only: safetensors writes several in any order."""
    return {"questions": json.dumps({"sources": SOURCES, "domains": DOMAINS, "domain_of": DOMAIN_OF, "ids": list(ids)})}


def check_ids(path: Path, metadata: Mapping[str, str], ids: Sequence[str]) -> None:
    """Make sure that embeddings belong to these questions.

    Raises
    ------
    TraceError
        If the file holds those of others.
    """
    if json.loads(metadata.get("questions", "{}")).get("ids") != list(ids):
        raise TraceError(path, ["holds the embeddings of other questions; make them anew with --encode"])
