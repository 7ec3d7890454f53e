"""``inframind demo``: the commands that it runs, and that it harms nothing."""

from pathlib import Path

import pandas as pd
import pytest

from inframind.agents import load_evaluation
from inframind.agents.training_file import load_training
from inframind.cli import demo, main
from inframind.sim.outcomes import OutcomeModel

pytestmark = pytest.mark.usefixtures("undrawn")

TRAIN = """
domains = ["math"]
[batch]
iterations = 1
groups = 1
simulations = 1
[load]
queries = 6
"""
EVALUATE = """
policies = ["jsq", "./trained/policy"]
schedulers = ["edf"]
rates_per_min = [60]
seeds = [100]
num_queries = 5
"""


def test_it_trains_evaluates_and_ends_with_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With files that are smaller than the shipped ones."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "demo-train.toml").write_text(TRAIN)
    (shipped / "demo-evaluate.toml").write_text(EVALUATE)
    monkeypatch.setattr(demo, "DATA", shipped)
    out = tmp_path / "out"

    assert main(["demo", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"$ inframind train {out}/train.toml -o {out}/trained\n" in printed
    assert f"$ inframind evaluate {out}/evaluate.toml -o {out}\n" in printed
    assert "trained: above the best rule in " in printed
    assert printed.endswith(f"report: {out / 'report.html'}\n")
    assert (out / "report.html").is_file()
    assert set(pd.read_csv(out / "summary.csv")["policy"]) == {"jsq", "trained"}

    assert main(["demo", "-o", str(out)]) == 2
    assert "has results already; --overwrite begins anew" in capsys.readouterr().err
    assert main(["demo", "-o", str(out), "--overwrite"]) == 0


def test_what_it_would_write_over_is_found_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.html").write_text("mine")

    assert main(["demo", "-o", str(tmp_path), "--overwrite"]) == 2
    assert "has report.html of something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_shipped_files_fit_together(tmp_path: Path) -> None:
    """One pool; what was trained is compared with rules and the shipped policy, on seeds that no training draws."""
    for name in (demo.TRAIN, demo.EVALUATE):
        (tmp_path / name).write_bytes((demo.DATA / f"demo-{name}").read_bytes())
    policy = tmp_path / demo.TRAINED / "policy"
    policy.mkdir(parents=True)
    (policy / "policy.json").touch()
    outcomes = OutcomeModel.shipped()

    training, pool = load_training(tmp_path / demo.TRAIN, [], outcomes)
    evaluation, evaluated = load_evaluation(tmp_path / demo.EVALUATE, [], outcomes)
    assert pool == evaluated
    assert training.budgets == evaluation.budgets
    assert evaluation.trained == ("inframind", "trained")
    assert len(evaluation.rules) >= 5
    assert evaluation.part == "test"
