"""``inframind simulate`` with the file of an evaluation: its cells as run folders, and their figures."""

from pathlib import Path

import pandas as pd
import pytest

from inframind.cli import main
from inframind.cli.simulate_cell import figures, print_workflows
from inframind.traces import read_run

SMALL = """
policies = ["jsq", "random"]
schedulers = ["fcfs"]
rates_per_min = [60]
seeds = [0]
num_queries = 5
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_overwriting_leaves_no_cell_of_an_earlier_file(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fewer cells, then a single one."""
    out = tmp_path / "runs"
    words = ["simulate", str(experiment), "-o", str(out)]
    assert main([*words, "--all"]) == 0
    assert len(list(out.iterdir())) == 2

    assert main([*words, "--all", "--policy", "jsq"]) == 2
    assert "has results already; --overwrite begins anew" in capsys.readouterr().err
    assert main([*words, "--all", "--policy", "jsq", "--overwrite"]) == 0
    (left,) = out.iterdir()
    assert read_run(left).config["run"]["policy"] == "jsq"
    assert main([*words, "--policy", "random", "--overwrite"]) == 0
    assert read_run(out).config["run"]["policy"] == "random"
    assert not any(path.is_dir() for path in out.iterdir())


def test_a_run_without_queries_has_no_shares(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken off before the first came. JSON knows no NaN, and a table says nothing."""
    nothing = pd.DataFrame({"budget_s": [], "correct": [], "on_time": [], "latency_s": []}, dtype=float)

    found = figures(nothing)
    print_workflows(nothing)
    assert (found.pop("queries"), found.pop("answered")) == (0, 0)
    assert set(found.values()) == {None}
    assert "nan" not in capsys.readouterr().out
