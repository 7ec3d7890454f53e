import subprocess
import sys
from pathlib import Path

import pytest

from inframind.calibration import MEMBERS, RECIPES, fit_members, read_step_profiles, relative_errors
from inframind.calibration.step_tables import main

ROOT = Path(__file__).parents[2]
DATA = ROOT / "sim" / "data"


def test_the_shipped_pools_are_what_the_module_makes_of_the_public_table(
    step_profiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the documents have the errors that it prints."""
    assert main([str(step_profiles), "-o", str(tmp_path)]) == 0

    assert {path.stem for path in tmp_path.iterdir()} == set(RECIPES)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (DATA / path.name).read_bytes()
    assert capsys.readouterr().out in (ROOT / "docs" / "pools.md").read_text()


@pytest.mark.parametrize(
    ("system", "at_most"), [("h200_sxm", 0.08), ("h100_sxm", 0.085), ("a100_sxm", 0.09), ("l40s", 0.13)]
)
def test_usual_steps_are_followed(step_profiles: Path, system: str, at_most: float) -> None:
    profiles = read_step_profiles(step_profiles, system)
    kernels = fit_members(profiles, system)

    for member in MEMBERS:
        errors = relative_errors(profiles[member.model].steps, kernels[member.name], only_usual=True)
        assert max(errors["decode"].max, errors["prefill"].max) < at_most


def test_one_pool_alone(step_profiles: Path, tmp_path: Path) -> None:
    assert main([str(step_profiles), "--pool", "h100", "-o", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["h100.toml"]


def test_a_mistake_is_one_message_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()

    code = main([str(tmp_path / "absent.csv"), "-o", str(tmp_path / "out")])

    assert code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/absent.csv: 1 problem\n  no such file\n"
    assert not list((tmp_path / "out").iterdir())


def test_a_table_without_the_gpu_of_a_pool_is_told_which_it_has(
    step_profiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for line in step_profiles.read_text().splitlines() if "l40s" not in line]
    (tmp_path / "table.csv").write_text("\n".join(lines))

    assert main([str(tmp_path / "table.csv"), "--pool", "l40s", "-o", str(tmp_path)]) == 2

    known = "a100_sxm, h100_sxm, h200_sxm, rtx_pro_6000_server"
    assert f"unknown system 'l40s'; known: {known}" in capsys.readouterr().err


def test_a_pool_that_cannot_be_written_is_a_mistake_too(
    step_profiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(step_profiles), "--pool", "h200", "-o", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/no/h200.toml: cannot be written: No such file or directory\n"


@pytest.mark.parametrize("module", ["step_tables", "paper_pool", "pool_evidence"])
def test_the_modules_run_without_a_warning(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"inframind.calibration.{module}", "--help"]

    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"usage: python -m inframind.calibration.{module}")
