"""Training and its report: known laws are found, no method sees what it is tested on."""

import numpy as np
import pandas as pd
import pytest

from inframind.calibration import predictor_training
from inframind.calibration.predictor_data import time_blocks
from inframind.calibration.predictor_report import METHODS, REPORTED, errors, evaluate
from inframind.calibration.predictor_training import (
    Vocabulary,
    check_known,
    mean_lengths,
    predict_rows,
    residual_quantiles,
    train_predictors,
)
from inframind.calibration.predictors import LatencyPredictors
from inframind.traces import TraceError

MODELS, STRATEGIES = ("large", "small"), ("DeepThink", "Flash")


def traffic(num: int = 3000, seed: int = 0, noise: float = 0.05) -> pd.DataFrame:
    """TTFT = 1e-4 N_in + b n_wait, TPOT = c (1 + n_run / 16); the large model has twice the b and c, DeepThink three
    times the TTFT and the length, every other query twice the length."""
    rng = np.random.default_rng(seed)
    model, strategy = rng.choice(MODELS, num), rng.choice(STRATEGIES, num)
    prompt_tokens, running = rng.integers(50, 4000, num), rng.integers(0, 17, num)
    waiting = np.where(running == 16, rng.integers(0, 40, num), 0)
    size = np.where(model == "large", 2.0, 1.0)
    think = np.where(strategy == "DeepThink", 3.0, 1.0)
    ttft = think * (1e-4 * prompt_tokens + 0.05 * size * waiting) * rng.lognormal(0, noise, num)
    tpot = 0.01 * size * (1 + running / 16) * rng.lognormal(0, noise, num)
    embedding = rng.integers(0, 200, num)
    output_tokens = np.maximum(rng.gamma(20, 5 * think * (1 + embedding % 2)), 2).astype(np.int64)
    return pd.DataFrame(
        {
            "log": "made",
            "model": model,
            "server": model,
            "strategy": strategy,
            "arrival_s": np.arange(num) * 0.1,
            "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens,
            "running": running.astype(float),
            "waiting": waiting.astype(float),
            "ttft_s": ttft,
            "tpot_s": tpot,
            "e2e_s": ttft + tpot * (output_tokens - 1),
            "embedding": embedding,
            "part": time_blocks(num, seed),
        }
    )


def query_embeddings() -> np.ndarray:
    """200 queries: the first number tells the odd ones, the others nothing."""
    table = np.random.default_rng(9).normal(0, 0.3, (200, 16)).astype(np.float32)
    table[:, 0] = np.where(np.arange(200) % 2, 0.3, -0.3)
    return table


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_training, "MAX_EPOCHS", 3)
    monkeypatch.setattr(predictor_training, "EPOCH", 512)


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean law needs no small steps."""
    monkeypatch.setattr(predictor_training, "LEARNING_RATE", 5e-3)
    monkeypatch.setattr(predictor_training, "MAX_EPOCHS", 50)


def test_a_known_law_is_found(brisk: None) -> None:
    """Of TTFT, TPOT and length, for each model and strategy, on stretches of time that were held out."""
    frame, embeddings = traffic(), query_embeddings()

    predictors = train_predictors(frame, {"made": "polled"}, embeddings=embeddings)

    # By the formula, without noise: 1000 tokens of prompt, a full batch, 20 waiting.
    ttft = predictors.ttft([1000], [[16, 16]], [[20, 20]])[0]
    tpot = predictors.tpot([[16, 16]], [[20, 20]])[0]
    assert ttft.ravel().tolist() == pytest.approx([6.3, 2.1, 3.3, 1.1], rel=0.05)
    assert tpot.ravel().tolist() == pytest.approx([0.04, 0.04, 0.02, 0.02], rel=0.05)
    length = predictors.length(embeddings)
    assert length[::2].mean(axis=0).ravel().tolist() == pytest.approx([300, 100, 300, 100], rel=0.06)
    assert length[1::2].mean(axis=0).ravel().tolist() == pytest.approx([600, 200, 600, 200], rel=0.06)

    metrics = evaluate(predictors, frame, {"time": frame[frame["part"] == "test"]}, embeddings=embeddings)
    by_target = metrics[metrics["method"] == "mlp"].set_index(["model", "target"])
    for model in MODELS:
        assert by_target.loc[(model, "ttft"), "median_relative_error"] < 0.06  # the noise alone: 0.034
        assert by_target.loc[(model, "tpot"), "median_relative_error"] < 0.05
        assert by_target.loc[(model, "ttft"), "coverage"] == pytest.approx(0.9, abs=0.05)
    assert set(metrics["target"]) == set(REPORTED)


def test_what_no_call_tells_apart_is_shared(brisk: None) -> None:
    """The small model never thinks deeply: it then has the outputs of its other strategy, and a guess at the length."""
    frame = traffic(1500)
    frame = frame[~((frame["model"] == "small") & (frame["strategy"] == "DeepThink"))]

    predictors = train_predictors(frame, {})

    ttft = predictors.ttft([1000], [[16, 16]], [[20, 20]])[0]
    # The law has a factor of 3 between the strategies; how near 1 the shared one comes hangs on how a processor rounds.
    apart = np.abs(np.log(ttft[:, 0] / ttft[:, 1]))
    assert apart[0] == pytest.approx(np.log(3), rel=0.2)
    assert apart[1] < apart[0] / 3


def test_mean_lengths_of_pairs_and_of_a_pair_without_calls() -> None:
    train = pd.DataFrame(
        {"model": ["a", "a", "a", "b"], "strategy": ["x", "x", "y", "x"], "output_tokens": [10, 30, 80, 60]}
    )

    table = mean_lengths(Vocabulary(("a", "b"), ("x", "y")), train)

    # b with y: 60 * 80 / 45
    assert table.ravel().tolist() == pytest.approx([20, 80, 60, 60 * 80 / 45])


def test_the_same_seed_gives_the_same_predictors(quick: None) -> None:
    frame, embeddings = traffic(600), query_embeddings()
    first, second, other = (train_predictors(frame, {}, embeddings=embeddings, seed=seed) for seed in (1, 1, 2))

    inputs = ([100.0], [[3, 4]], [[5, 6]], embeddings[:1])
    assert np.array_equal(first.latency_map(*inputs), second.latency_map(*inputs))
    assert not np.array_equal(first.latency_map(*inputs), other.latency_map(*inputs))
    assert first.about == second.about


def test_no_method_sees_the_calls_it_is_tested_on(quick: None) -> None:
    """With other numbers in the test part, all that is learned stays as it is, to the last digit."""
    frame, embeddings = traffic(900), query_embeddings()
    spoilt = frame.copy()
    is_test = frame["part"] == "test"
    spoilt.loc[is_test, ["ttft_s", "tpot_s", "e2e_s"]] *= 100
    spoilt.loc[is_test, "output_tokens"] *= 100
    test = {"time": frame[is_test], "none": frame.iloc[:0]}

    tables = []
    for each in (frame, spoilt):
        predictors = train_predictors(each, {}, embeddings=embeddings)
        tables.append(evaluate(predictors, each, test, embeddings=embeddings))

    pd.testing.assert_frame_equal(*tables)
    assert set(tables[0]["test"]) == {"time"}
    # All on the same calls.
    assert (tables[0].groupby(["model", "target"])["calls"].nunique() == 1).all()
    assert tables[0]["method"].tolist() == list(METHODS) * (len(MODELS) * len(REPORTED))


def test_simple_methods_find_what_they_can_express(quick: None) -> None:
    """Least squares has the TTFT exactly once there is one strategy; a mean has it nowhere."""
    frame = traffic(2000, noise=0.0)
    frame = frame[frame["strategy"] == "Flash"].reset_index(drop=True)
    predictors = train_predictors(frame, {})

    metrics = evaluate(predictors, frame, {"time": frame[frame["part"] == "test"]})

    of_ttft = metrics[metrics["target"] == "ttft"].groupby("method")["mae"].max()
    assert of_ttft["linear"] < 1e-9
    assert of_ttft["gbm"] < 0.5 * of_ttft["mean"]
    of_length = metrics[metrics["target"] == "length"].groupby(["model"])["mae"].nunique()
    assert (of_length == 1).all()  # without embeddings they all know the mean only


def test_each_call_is_predicted_with_its_own_model_and_strategy(quick: None) -> None:
    frame = traffic(600)
    predictors = train_predictors(frame, {})

    rows = predict_rows(predictors, frame, None)

    for i in (0, 17, 599):
        call = frame.iloc[i]
        at = MODELS.index(call["model"]), STRATEGIES.index(call["strategy"])
        whole = predictors.latency_map(call["prompt_tokens"], [call["running"]] * 2, [call["waiting"]] * 2)
        assert rows["e2e"][i] == pytest.approx(whole[at], rel=1e-5)


def test_errors_by_hand() -> None:
    found = errors(np.array([1.0, 2.0, 4.0, 5.0]), np.array([1.0, 1.0, 5.0, 5.0]), low=0.5, high=1.5)

    assert found["mae"] == pytest.approx(0.5)
    assert found["median_relative_error"] == pytest.approx(0.125)
    assert found["mape"] == pytest.approx(0.75 / 4)
    assert found["r2"] == pytest.approx(1 - 2 / 10)
    assert found["coverage"] == pytest.approx(0.75)  # 2 is above 1.5 times the predicted 1


def test_residual_quantiles_skip_what_is_not_known() -> None:
    quantiles = residual_quantiles(pd.Series([np.nan, 1.0, 2.0, 3.0]))

    assert quantiles[predictor_training.LEVELS.index(0.5)] == 2.0
    assert list(quantiles) == sorted(quantiles)


def test_too_little_to_learn_from_is_refused() -> None:
    frame = traffic(300)
    few = pd.concat([frame[frame["model"] == "large"], frame[frame["model"] == "small"].iloc[:20]])

    with pytest.raises(TraceError, match=r"model small: \d+ usable calls for train, at least 30 are needed"):
        train_predictors(few, {})
    with pytest.raises(TraceError, match="no usable calls"):
        train_predictors(frame.iloc[:0], {})
    with pytest.raises(TraceError, match=r"column embedding: \d+ of 300 usable calls name no row of the 100"):
        train_predictors(frame, {}, embeddings=query_embeddings()[:100])
    with pytest.raises(TraceError, match="model 'huge' is not among"):
        check_known(frame.assign(model="huge"), frame)


def test_training_writes_what_loading_reads(quick: None, tmp_path: object) -> None:
    frame, embeddings = traffic(600), query_embeddings()
    predictors = train_predictors(frame, {"made": "polled"}, embeddings=embeddings)
    folder = f"{tmp_path}/p"

    predictors.save(folder)
    loaded = LatencyPredictors.load(folder, MODELS, STRATEGIES)

    assert np.array_equal(predict_rows(loaded, frame, embeddings), predict_rows(predictors, frame, embeddings))
    record = loaded.about.records["large"]
    own = frame[(frame["model"] == "large") & (frame["part"] == "train")]
    assert record.num_calls == len(own)
    assert record.ranges["waiting"].greatest == own["waiting"].max()
    assert loaded.about.gauges == {"made": "polled"}
