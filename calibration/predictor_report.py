"""How good the latency predictors are, beside what is simpler: the same calls, the same split, the same inputs.

============ =======================================================================================================
``mlp``      the predictors themselves
``gbm``      gradient boosted trees (scikit-learn's `HistGradientBoostingRegressor`), TTFT and TPOT on the logarithm,
             lengths by the gamma deviance: the objectives of the MLPs, near enough
``linear``   least squares in seconds and tokens, one intercept for each strategy; not below the least value seen
``mean``     of TTFT, TPOT and length, by model and strategy
============ =======================================================================================================

Without query embeddings, the length is the mean for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, Ridge

from .predictor_training import (
    INPUTS,
    LEVELS,
    Progress,
    Vocabulary,
    actual,
    mean_lengths,
    predict_rows,
    residual_quantiles,
    with_e2e,
)
from .predictors import Floats, LatencyPredictors

Predict: TypeAlias = Callable[[pd.DataFrame], pd.DataFrame]
"""Calls to their TTFT, TPOT, length and end-to-end latency, in columns of these names."""

METHODS = ("mlp", "gbm", "linear", "mean")
REPORTED = ("ttft", "tpot", "length", "e2e", "e2e_known_length")
"""Targets; the last is ``e2e`` with the actual number of tokens: the error that is left if lengths were known."""
COVERED = (0.05, 0.95)
"""Levels of the residual quantiles between which 90 % of the actual values should lie."""


def evaluate(
    predictors: LatencyPredictors,
    frame: pd.DataFrame,
    test_sets: Mapping[str, pd.DataFrame],
    *,
    embeddings: Floats | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> pd.DataFrame:
    """Errors of the predictors and of simpler methods on calls that none of them has seen.

    Parameters
    ----------
    predictors
        As `train_predictors` returned them for ``frame``.
    frame
        What all methods learn from: rows of part ``train``. Residual quantiles are those of part ``validation``.
    test_sets
        By name: calls to predict, of models and strategies that ``frame`` has.
    embeddings
        Of queries, as for the training.
    seed
        Of the boosted trees.

    Returns
    -------
    pandas.DataFrame
        One row for each test set, model, target and method: ``calls``, ``actual_mean``, ``mae`` (s or tokens),
        ``median_relative_error``, ``mape``, ``r2`` and ``coverage``, the share of actual values between the 5 % and
        95 % residual quantiles. Targets are those of `REPORTED`.
    """
    done = on_progress or (lambda share: None)
    vocabulary = Vocabulary(predictors.models, predictors.strategies)
    train, validation = (frame[frame["part"] == part] for part in ("train", "validation"))
    methods: dict[str, Predict] = {"mlp": lambda calls: predict_rows(predictors, calls, embeddings)}
    for index, make in enumerate((_gbm, _linear, _mean)):
        methods[METHODS[index + 1]] = make(vocabulary, train, embeddings, seed)
        done((index + 1) / 4)
    rows: list[dict[str, Any]] = []
    for method, predict in methods.items():
        quantiles = _quantiles_by_model(predict, validation)
        for name, calls in test_sets.items():
            if len(calls):
                rows += [
                    {"test": name, "method": method, **row} for row in _errors(calls, _all(predict, calls), quantiles)
                ]
    done(1.0)
    table = pd.DataFrame(rows)
    order = {name: rank for rank, name in enumerate((*test_sets, *predictors.models, *REPORTED, *METHODS))}
    keys = ["test", "model", "target", "method"]
    table = table.sort_values(keys, key=lambda column: column.map(order), kind="stable", ignore_index=True)
    return table[[*keys, *(name for name in table if name not in keys)]]


def _all(predict: Predict, calls: pd.DataFrame) -> pd.DataFrame:
    predicted = predict(calls)
    known = predicted["ttft"] + predicted["tpot"] * calls["output_tokens"]
    return predicted.assign(e2e_known_length=known)


def _quantiles_by_model(predict: Predict, validation: pd.DataFrame) -> dict[tuple[str, str], tuple[float, float]]:
    """The outer residual quantiles of each model and target."""
    predicted = _all(predict, validation)
    truth = actual(validation).assign(e2e_known_length=validation["e2e_s"])
    levels = [LEVELS.index(level) for level in COVERED]
    found = {}
    for model, rows in validation.groupby("model").groups.items():
        for target in map(str, predicted):
            quantiles = residual_quantiles(truth.loc[rows, target] / predicted.loc[rows, target])
            found[str(model), target] = (quantiles[levels[0]], quantiles[levels[1]])
    return found


def _errors(
    calls: pd.DataFrame, predicted: pd.DataFrame, quantiles: Mapping[tuple[str, str], tuple[float, float]]
) -> list[dict[str, Any]]:
    truth = actual(calls).assign(e2e_known_length=calls["e2e_s"])
    rows = []
    for model, index in calls.groupby("model").groups.items():
        for target in map(str, predicted):
            known = truth.loc[index, target] > 0
            y, guess = (table.loc[index, target][known].to_numpy() for table in (truth, predicted))
            low, high = quantiles[str(model), target]
            rows.append({"model": model, "target": target, **errors(y, guess, low, high)})
    return rows


def errors(
    y: NDArray[np.float64], guess: NDArray[np.float64], low: float = 0.0, high: float = np.inf
) -> dict[str, float]:
    """Measures of ``guess`` against the actual ``y``, all above 0; NaN where there are none.

    ``coverage`` counts ``low * guess <= y <= high * guess``. R² is 1 - SSE / SST with the mean of ``y`` itself: a
    constant that was learned on other calls is below 0.
    """
    if not len(y):
        names = ("actual_mean", "mae", "median_relative_error", "mape", "r2", "coverage")
        return {"calls": 0, **dict.fromkeys(names, np.nan)}
    relative = np.abs(guess - y) / y
    spread = float(((y - y.mean()) ** 2).sum())
    return {
        "calls": len(y),
        "actual_mean": float(y.mean()),
        "mae": float(np.abs(guess - y).mean()),
        "median_relative_error": float(np.median(relative)),
        "mape": float(relative.mean()),
        "r2": 1 - float(((guess - y) ** 2).sum()) / spread if spread > 0 else np.nan,
        "coverage": float(((low * guess <= y) & (y <= high * guess)).mean()),
    }


def _gbm(vocabulary: Vocabulary, train: pd.DataFrame, embeddings: Floats | None, seed: int) -> Predict:
    def features(part: pd.DataFrame, target: str) -> NDArray[np.float64]:
        _, strategy = vocabulary.codes(part)
        return np.column_stack([part[list(INPUTS[target])].to_numpy(np.float64), strategy])

    def fit(part: pd.DataFrame, target: str) -> Any:
        last = len(INPUTS[target])
        model = HistGradientBoostingRegressor(categorical_features=[last], random_state=seed)
        return model.fit(features(part, target), np.log(part[f"{target}_s"]))

    parts = _by_model_and_target(vocabulary, train, fit, lambda model, x: np.exp(model.predict(x)), features)
    if embeddings is None:
        return _with_length(parts, _mean_length(vocabulary, train))

    def length_features(part: pd.DataFrame) -> NDArray[np.float64]:
        return np.column_stack([embeddings[part["embedding"]], *vocabulary.codes(part)])

    size = embeddings.shape[1]
    length = HistGradientBoostingRegressor(loss="gamma", categorical_features=[size, size + 1], random_state=seed)
    length.fit(length_features(train), train["output_tokens"])
    return _with_length(parts, lambda part: length.predict(length_features(part)))


def _linear(vocabulary: Vocabulary, train: pd.DataFrame, embeddings: Floats | None, seed: int) -> Predict:
    def features(part: pd.DataFrame, target: str) -> NDArray[np.float64]:
        _, strategy = vocabulary.codes(part)
        inputs = part[list(INPUTS[target])].to_numpy(np.float64)
        return np.column_stack([inputs, _one_hot(strategy, vocabulary.strategies)])

    def fit(part: pd.DataFrame, target: str) -> Any:
        y = part[f"{target}_s"].to_numpy()
        return LinearRegression().fit(features(part, target), y), y.min()

    parts = _by_model_and_target(
        vocabulary, train, fit, lambda model, x: np.maximum(model[0].predict(x), model[1]), features
    )
    if embeddings is None:
        return _with_length(parts, _mean_length(vocabulary, train))

    def length_features(part: pd.DataFrame) -> NDArray[np.float64]:
        model, strategy = vocabulary.codes(part)
        hot = (_one_hot(model, vocabulary.models), _one_hot(strategy, vocabulary.strategies))
        return np.column_stack([embeddings[part["embedding"]], *hot])

    length = Ridge().fit(length_features(train), train["output_tokens"])
    least = train["output_tokens"].min()
    return _with_length(parts, lambda part: np.maximum(length.predict(length_features(part)), least))


def _mean(vocabulary: Vocabulary, train: pd.DataFrame, embeddings: Floats | None, seed: int) -> Predict:
    by_pair = train.groupby(["model", "strategy"])[["ttft_s", "tpot_s"]].mean()
    by_model = train.groupby("model")[["ttft_s", "tpot_s"]].mean()

    def parts(calls: pd.DataFrame) -> pd.DataFrame:
        pairs = by_pair.reindex(pd.MultiIndex.from_frame(calls[["model", "strategy"]])).set_axis(calls.index)
        models = by_model.reindex(calls["model"]).set_axis(calls.index)
        return pairs.fillna(models).rename(columns={"ttft_s": "ttft", "tpot_s": "tpot"})

    return _with_length(parts, _mean_length(vocabulary, train))


def _by_model_and_target(
    vocabulary: Vocabulary,
    train: pd.DataFrame,
    fit: Callable[[pd.DataFrame, str], Any],
    predict: Callable[[Any, NDArray[np.float64]], NDArray[np.float64]],
    features: Callable[[pd.DataFrame, str], NDArray[np.float64]],
) -> Predict:
    """A regression each for the TTFT and the TPOT of each model."""
    fitted = {
        (model, target): fit(train[(train["model"] == model) & (train[f"{target}_s"] > 0)], target)
        for model in vocabulary.models
        for target in INPUTS
    }

    def parts(calls: pd.DataFrame) -> pd.DataFrame:
        predicted = pd.DataFrame(np.nan, index=calls.index, columns=list(INPUTS))
        for model, rows in calls.groupby("model").groups.items():
            for target in INPUTS:
                predicted.loc[rows, target] = predict(fitted[str(model), target], features(calls.loc[rows], target))
        return predicted

    return parts


def _mean_length(vocabulary: Vocabulary, train: pd.DataFrame) -> Callable[[pd.DataFrame], NDArray[np.float64]]:
    table = mean_lengths(vocabulary, train).astype(np.float64)
    return lambda calls: table[vocabulary.codes(calls)]


def _with_length(parts: Predict, length: Callable[[pd.DataFrame], NDArray[np.float64]]) -> Predict:
    return lambda calls: with_e2e(parts(calls).assign(length=length(calls)))


def _one_hot(codes: NDArray[np.int64], names: tuple[str, ...]) -> NDArray[np.float64]:
    return np.eye(len(names))[codes]
