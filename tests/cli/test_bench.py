"""``inframind bench``: what it prints; how fast it is, is not tested."""

import json

import pytest

from inframind.calibration import predictor_bench
from inframind.cli import main


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_bench, "MIN_S", 0.001)
    monkeypatch.setattr(predictor_bench, "BATCHES", (1, 64))


def test_predictors_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "predictors", "--repeats", "2", "--json"]) == 0

    report = json.loads(capsys.readouterr().out)
    assert (report["models"], report["strategies"], report["embedding_size"]) == (5, 3, 384)
    assert [(m["batch"], m["with_embeddings"]) for m in report["measurements"]] == [
        (1, True),
        (1, False),
        (64, True),
        (64, False),
    ]
    for m in report["measurements"]:
        assert m["maps_per_s"] * m["call_us"] == pytest.approx(1e6 * m["batch"])


def test_predictors_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "predictors", "--repeats", "1"]) == 0

    assert "latency maps of 5 models x 3 strategies" in capsys.readouterr().out


def test_workflows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sim", "--workflows", "20", "--repeats", "1", "--json"]) == 0

    m = json.loads(capsys.readouterr().out)
    assert m["num_workflows"] == 20
    assert m["num_calls"] > 20
    assert m["role_steps_per_s"] * m["wall_s"] == pytest.approx(m["num_calls"])


def test_workflows_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sim", "--workflows", "20", "--repeats", "1"]) == 0

    assert "join-shortest-queue" in capsys.readouterr().out
