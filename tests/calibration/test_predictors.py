"""The latency map: formula, shapes, files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inframind.calibration.predictor_bench import random_predictors
from inframind.calibration.predictors import (
    About,
    InputRange,
    LatencyPredictors,
    LengthMlp,
    ModelRecord,
    StackedMlp,
    softplus,
)
from inframind.traces import ConfigError

QUANTILES = (0.5, 1.0, 2.0)


def array(values: object) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def by_hand() -> LatencyPredictors:
    """One model, two strategies; each MLP is a sum, told by its weights.

    TTFT: Softplus(0.001 N_in + 0.5 n_wait - 1), without - 1 for the second strategy. TPOT: half of
    Softplus(log(1 + n_run)), with twice the logarithm for the second. Lengths: 100 and 300 tokens.
    """
    ttft = StackedMlp(
        (array([[[0.001, 0], [0, 0], [0, 0.5]]]), array([[[1, 0], [0, 1]]]), array([[[1, 1], [1, 1]]])),
        (array([[[0, 0]]]), array([[[0, 0]]]), array([[[-1, 0]]])),
        array([[[1]]]),
        is_log=False,
    )
    tpot = StackedMlp(
        (array([[[1], [0]]]), array([[[1]]]), array([[[1, 2]]])),
        (array([[[0]]]), array([[[0]]]), array([[[0, 0]]])),
        array([[[0.5]]]),
        is_log=True,
    )
    record = ModelRecord(
        num_calls=30,
        ranges={"waiting": InputRange(least=0, greatest=9)},
        residual_ratios=dict.fromkeys(("ttft", "tpot", "length", "e2e"), QUANTILES),
    )
    about = About(
        models=("m",),
        strategies=("Flash", "DeepThink"),
        embedding_size=None,
        gauges={"log": "polled"},
        levels=(0.1, 0.5, 0.9),
        seed=0,
        records={"m": record},
    )
    return LatencyPredictors(about, ttft, tpot, array([[100, 300]]), None)


def with_records(predictors: LatencyPredictors) -> LatencyPredictors:
    record = by_hand().about.records["m"]
    predictors.about = predictors.about.model_copy(
        update={"records": dict.fromkeys(predictors.models, record), "levels": (0.1, 0.5, 0.9)}
    )
    return predictors


def some_inputs(num: int, num_models: int = 5) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(3)
    queues = (rng.integers(0, 17, (num, num_models)), rng.integers(0, 60, (num, num_models)))
    return rng.integers(10, 3000, num), *queues, rng.normal(size=(num, 384)).astype(np.float32)


def test_softplus_is_log_of_one_plus_exp_and_never_overflows() -> None:
    values = array([-1000, -2, 0, 3, 1000])

    assert softplus(values).tolist() == pytest.approx([0, math.log1p(math.exp(-2)), math.log(2), 3.04858735, 1000])


def test_the_map_is_ttft_plus_tpot_times_length() -> None:
    """N_in 2000, n_run 3, n_wait 4: sums of 2 + 2 - 1 = 3 and 4, of log 4 and 2 log 4."""
    predictors = by_hand()
    ttft = [math.log1p(math.exp(3)), math.log1p(math.exp(4))]
    tpot = [0.5 * math.log(1 + 4), 0.5 * math.log(1 + 16)]

    assert predictors.ttft([2000], [[3]], [[4]])[0, 0].tolist() == pytest.approx(ttft, rel=1e-6)
    assert predictors.tpot([[3]], [[4]])[0, 0].tolist() == pytest.approx(tpot, rel=1e-6)
    assert predictors.latency_map([2000], [[3]], [[4]])[0, 0].tolist() == pytest.approx(
        [ttft[0] + 100 * tpot[0], ttft[1] + 300 * tpot[1]], rel=1e-6
    )


def test_length_reads_query_strategy_and_model() -> None:
    """Hidden sums of e_q[0] + 1, doubled by the second strategy's part, in units of 100 tokens."""
    pairs = array([[[1], [2]]])
    length = LengthMlp(array([[1], [0]]), pairs, (array([[1]]), array([[1]])), (array([0]), array([0])), 100.0)

    found = length(array([[2, 7]]))

    assert found.shape == (1, 1, 2)
    assert found.ravel().tolist() == pytest.approx([100 * math.log1p(math.exp(z)) for z in (3, 4)], rel=1e-6)


@pytest.mark.parametrize("has_embeddings", [True, False])
def test_a_batch_is_the_same_as_one_query_after_the_other(has_embeddings: bool) -> None:
    predictors = random_predictors()
    tokens, running, waiting, embedding = some_inputs(50)

    batch = predictors.latency_map(tokens, running, waiting, embedding if has_embeddings else None)
    loop = [
        predictors.latency_map(
            int(tokens[i]), running[i].tolist(), waiting[i], embedding[i] if has_embeddings else None
        )
        for i in range(50)
    ]

    assert batch.shape == (50, 5, 3)
    assert loop[0].shape == (5, 3)
    np.testing.assert_allclose(batch, loop, rtol=1e-5)


def test_prompts_may_differ_from_model_to_model() -> None:
    predictors = random_predictors()
    tokens, running, waiting, _ = some_inputs(4)
    by_model = np.stack([tokens * (m + 1) for m in range(5)], axis=1)

    mixed = predictors.ttft(by_model, running, waiting)

    for m in range(5):
        np.testing.assert_allclose(mixed[:, m], predictors.ttft(tokens * (m + 1), running, waiting)[:, m], rtol=1e-5)


def test_queues_of_another_pool_are_refused() -> None:
    with pytest.raises(ValueError, match=r"running \(1, 2\) and waiting \(1, 2\) must both be \(queries, 1\)"):
        by_hand().latency_map([10], [[1, 2]], [[1, 2]])


def test_probability_of_being_on_time_interpolates_the_residuals() -> None:
    """Actual over predicted is below 0.5, 1 and 2 in 10, 50 and 90 % of the cases."""
    predictors = by_hand()
    latency = np.full((4, 1, 2), 10.0)

    found = predictors.on_time_probability(latency, [4, 10, 15, 40])

    assert found[:, 0, 0].tolist() == pytest.approx([0.0, 0.5, 0.7, 1.0])


def test_saved_predictors_come_back_bit_for_bit(tmp_path: Path) -> None:
    predictors = with_records(random_predictors())

    predictors.save(tmp_path / "p", {"metrics.csv": "a\n1\n"})
    loaded = LatencyPredictors.load(tmp_path / "p")

    inputs = some_inputs(7)
    assert np.array_equal(predictors.latency_map(*inputs), loaded.latency_map(*inputs))
    assert np.array_equal(predictors.latency_map(*inputs[:3]), loaded.latency_map(*inputs[:3]))
    assert loaded.about == predictors.about
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "metrics.csv",
        "predictors.json",
        "predictors.safetensors",
    ]


def test_a_pool_has_its_own_order_and_may_have_a_model_twice(tmp_path: Path) -> None:
    predictors = with_records(random_predictors())
    predictors.save(tmp_path / "p")
    tokens, running, waiting, embedding = some_inputs(6, num_models=3)

    chosen = LatencyPredictors.load(tmp_path / "p", ["model-4", "model-0", "model-4"], ["strategy-2", "strategy-0"])
    found = chosen.latency_map(tokens, running, waiting, embedding)

    wide = np.zeros((6, 5), np.int64)
    for column, model in enumerate((4, 0, 4)):
        wide_running, wide_waiting = wide.copy(), wide.copy()
        wide_running[:, model], wide_waiting[:, model] = running[:, column], waiting[:, column]
        whole = predictors.latency_map(tokens, wide_running, wide_waiting, embedding)
        np.testing.assert_allclose(found[:, column], whole[:, model][:, [2, 0]], rtol=1e-5)


def test_unknown_models_and_strategies_are_refused_by_name(tmp_path: Path) -> None:
    by_hand().save(tmp_path / "p")

    with pytest.raises(ConfigError) as error:
        LatencyPredictors.load(tmp_path / "p", ["m", "other", "third"], ["Flash", "Concise"])

    assert error.value.problems == (
        "trained without model other, third; knows m",
        "trained without strategy Concise; knows Flash, DeepThink",
    )


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    def problem(folder: Path) -> str:
        with pytest.raises(ConfigError) as error:
            LatencyPredictors.load(folder)
        return str(error.value)

    assert "No such file" in problem(tmp_path / "absent")

    folder = tmp_path / "p"
    by_hand().save(folder)
    weights = folder / "predictors.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "ttft.weight.2": tensors["ttft.weight.2"][:, :, :1].copy()}, weights)
    assert "ttft.weight.2 is (1, 2, 1), not (1, 2, 2)" in problem(folder)
    save_file({name: tensor for name, tensor in tensors.items() if name != "length.mean"}, weights)
    assert "length.mean" in problem(folder)
    weights.write_bytes(b"nonsense")
    assert "predictors.safetensors" in problem(folder)
    weights.unlink()
    assert "cannot be read" in problem(folder)

    about = json.loads((folder / "predictors.json").read_text())
    (folder / "predictors.json").write_text(json.dumps(about | {"version": 2}))
    assert "version" in problem(folder)


def test_only_predictors_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    by_hand().save(folder, {"metrics.csv": "old"})
    by_hand().save(folder)
    assert not (folder / "metrics.csv").exists()

    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes\.txt"):
        by_hand().save(folder)

    with pytest.raises(ConfigError, match="is a file"):
        by_hand().save(folder / "notes.txt")
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
