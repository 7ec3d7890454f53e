"""``inframind calibrate predictors``: from a simulated run to a folder that a pool can load."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from inframind.calibration import predictor_training
from inframind.calibration.predictors import LatencyPredictors
from inframind.cli import main

EXPERIMENT = """
schedulers = ["fcfs"]
pool = "h200"

[shares]
llama-8b = 1
llama-3b = 1

[workload]
kind = "synthetic"
num = 400

[workload.arrivals]
kind = "poisson"
rate_per_min = 600

[workload.prompt_tokens]
kind = "uniform"
low = 50
high = 2000

[workload.output_tokens]
kind = "uniform"
low = 5
high = 200
"""
MODELS = ["Llama-3.2-3B-Instruct", "Llama-3.1-8B-Instruct"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two loads, simulated."""
    folder = tmp_path_factory.mktemp("predictors")
    (folder / "experiment.toml").write_text(EXPERIMENT)
    assert main(["simulate", str(folder / "experiment.toml"), "-o", str(folder / "runs"), "--set", "loads=[1,4]"]) == 0
    return folder / "runs"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_training, "MAX_EPOCHS", 20)


def test_a_run_becomes_predictors(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["calibrate", "predictors", str(runs / "load-1-fcfs"), "--held-out", str(runs / "load-4-fcfs")]

    assert main([*command, "-o", str(tmp_path / "p")]) == 0

    printed = capsys.readouterr().out
    assert "load-1-fcfs: 400 calls, 0 unusable, gauges: reckoned" in printed
    assert "held-out time" in printed
    assert "held-out logs" in printed
    assert "Llama-3.1-8B-Instruct e2e, length known (s)" in printed
    assert f"wrote {tmp_path / 'p'}" in printed
    predictors = LatencyPredictors.load(tmp_path / "p", MODELS, ["none"])
    quiet, busy = (predictors.latency_map([500], [[n, n]], [[0, 0]])[0, :, 0] for n in (1, 16))
    # A 3B model is faster than an 8B model, and an idle server faster than a full one.
    assert quiet[0] < quiet[1]
    assert (quiet < busy).all()
    metrics = pd.read_csv(tmp_path / "p" / "metrics.csv")
    tpot = metrics[(metrics["target"] == "tpot") & (metrics["test"] == "held-out time")]
    assert (tpot[tpot["method"] == "mlp"]["median_relative_error"] < 0.1).all()


def test_json_tells_the_same_and_polled_gauges_can_be_had(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["calibrate", "predictors", str(runs / "load-1-fcfs"), str(runs / "load-4-fcfs"), "--gauges", "polled"]

    assert main([*command, "-o", str(tmp_path / "p"), "--json", "--seed", "3"]) == 0

    report = json.loads(capsys.readouterr().out)
    assert [log["gauges"] for log in report["logs"]] == ["polled", "polled"]
    metrics = pd.read_csv(tmp_path / "p" / "metrics.csv")
    assert len(report["metrics"]) == len(metrics) == 2 * 5 * 4
    assert report["metrics"][0]["mae"] == pytest.approx(metrics["mae"][0])
    assert LatencyPredictors.load(tmp_path / "p").about.seed == 3


def test_logs_with_embeddings_have_lengths_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    num = 300
    output_tokens = rng.integers(2, 50, num)
    ttft_s = rng.uniform(0.1, 0.2, num)
    log = pd.DataFrame({"arrival_s": np.arange(num) * 0.5, "prompt_tokens": 100, "output_tokens": output_tokens})
    log = log.assign(
        ttft_s=ttft_s, e2e_s=ttft_s + 0.02 * output_tokens, embedding=np.arange(num) % 40, strategy="Flash"
    )
    log.to_csv(tmp_path / "requests.csv", index=False)
    save_file({"queries": rng.normal(size=(40, 8)).astype(np.float32)}, tmp_path / "queries.safetensors")

    options = ["--embeddings", str(tmp_path / "queries.safetensors"), "-o", str(tmp_path / "p")]
    assert main(["calibrate", "predictors", f"m={tmp_path}", *options]) == 0

    assert "gauges: in flight" in capsys.readouterr().out
    predictors = LatencyPredictors.load(tmp_path / "p", ["m"], ["Flash"])
    assert predictors.about.embedding_size == 8
    assert predictors.latency_map([100, 200], [[1], [2]], [[0], [0]], np.ones((2, 8))).shape == (2, 1, 1)


def test_mistakes_are_told_before_any_work(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, target = str(runs / "load-1-fcfs"), str(tmp_path / "p")
    (tmp_path / "file").write_text("")
    other = tmp_path / "other.csv"
    pd.DataFrame({"arrival_s": [0, 1], "prompt_tokens": 5, "output_tokens": 2, "ttft_s": 0.1, "e2e_s": 0.2}).to_csv(
        other, index=False
    )

    def error(*arguments: str) -> str:
        assert main(["calibrate", "predictors", *arguments]) == 2
        return capsys.readouterr().err

    assert "is a file; predictors need a folder" in error(run, "-o", str(tmp_path / "file"))
    assert "no such file" in error("m=nowhere.csv", "-o", target)
    assert "model: missing column; or name the model" in error(str(other), "-o", target)
    assert "at least 30 are needed" in error(f"m={other}", "-o", target)
    assert "model 'm' is not among the calls to learn from" in error(run, "--held-out", f"m={other}", "-o", target)
    assert "cannot be read" in error(run, "--embeddings", str(tmp_path / "absent"), "-o", target)
    assert not Path(target).exists()
