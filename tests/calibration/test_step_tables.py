import subprocess
import sys
from pathlib import Path

import pytest

from inframind.calibration import read_step_profiles, relative_errors
from inframind.calibration.step_tables import main
from inframind.sim.server_file import load_pool

ROOT = Path(__file__).parents[2]


def test_the_shipped_pool_is_what_the_module_makes_of_the_public_table(step_profiles: Path, tmp_path: Path) -> None:
    made = tmp_path / "five-models.toml"

    assert main([str(step_profiles), "--system", "h200_sxm", "-o", str(made)]) == 0

    assert made.read_bytes() == (ROOT / "sim" / "data" / "five-models.toml").read_bytes()


def test_the_docs_have_the_errors_that_the_module_prints(
    step_profiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(step_profiles), "--system", "h200_sxm", "-o", str(tmp_path / "pool.toml")])
    printed = capsys.readouterr().out

    assert printed in (ROOT / "docs" / "default-pool.md").read_text()


def test_usual_decodes_are_and_prefills_are_within_8_percent(step_profiles: Path) -> None:
    profiles = read_step_profiles(step_profiles, "h200_sxm")

    for server in load_pool("five-models", ROOT).servers:
        errors = relative_errors(profiles[server.model].steps, server.step_time, only_usual=True)
        assert errors["decode"].max < 0.08
        assert errors["prefill"].max < 0.08


@pytest.mark.parametrize("system", ["a100_sxm", "h100_sxm", "l40s", "rtx_pro_6000_server"])
def test_the_other_systems_of_the_table_make_pools_too(step_profiles: Path, tmp_path: Path, system: str) -> None:
    assert main([str(step_profiles), "--system", system, "-o", str(tmp_path / "pool.toml")]) == 0
    assert len(load_pool("pool.toml", tmp_path).servers) == 5


def test_a_mistake_is_one_message_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([str(tmp_path / "absent.csv"), "--system", "h200_sxm", "-o", str(tmp_path / "pool.toml")])

    assert code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/absent.csv: 1 problem(s)\n  no such file\n"
    assert not (tmp_path / "pool.toml").exists()


def test_an_unknown_system_is_told_those_of_the_table(
    step_profiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(step_profiles), "--system", "h200", "-o", str(tmp_path / "pool.toml")]) == 2
    known = "a100_sxm, h100_sxm, h200_sxm, l40s, rtx_pro_6000_server"
    assert f"unknown system 'h200'; known: {known}" in capsys.readouterr().err


def test_a_pool_that_cannot_be_written_is_a_mistake_too(
    step_profiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(step_profiles), "--system", "h200_sxm", "-o", str(tmp_path / "no" / "pool.toml")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/no/pool.toml: cannot be written: No such file or directory\n"


def test_the_module_runs_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "inframind.calibration.step_tables", "absent.csv", "--system", "x", "-o", "y.toml"]

    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "error: absent.csv: 1 problem(s)\n  no such file\n"
