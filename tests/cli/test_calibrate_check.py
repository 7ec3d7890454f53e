"""``inframind calibrate check``, as a newcomer types it."""

import json
from pathlib import Path

import pytest

from inframind.cli import main

SERVER = """
name = "slow"
model = "tiny"

[scheduler]
max_num_seqs = 1
num_blocks = 100
max_model_len = 1000
async_scheduling = false

[step_time]
fixed_s = 1.0
prefill_token_s = 0.0
decode_s = 0.0
"""
FOUR = """arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s
0,10,2,1,2
0.5,10,3,2,4
10,10,1,1,1
10.25,10,5,2,6
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "server.toml").write_text(SERVER)
    (tmp_path / "log.csv").write_text(FOUR)
    (tmp_path / "again.csv").write_text(FOUR.replace("10,5,2,6", "10,5,2,7"))
    return tmp_path


def check(folder: Path, *arguments: str, out: str = "out") -> int:
    paths = [str(folder / word) if word.endswith(".csv") else word for word in arguments]
    return main(["calibrate", "check", *paths, "--server", str(folder / "server.toml"), "-o", str(folder / out)])


def test_a_check_prints_tables_and_writes_both_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(folder, "log.csv", out="new/out") == 0

    printed = capsys.readouterr().out
    rows = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]]
        for line in printed.splitlines()
        if "│" in line
    }
    assert rows["TTFT mean"][:3] == ["1.500 s", "1.562 s", "+4.2 %"]
    assert rows["E2E p50"][:3] == ["3.000 s", "3.250 s", "+8.3 %"]
    assert rows["TPOT mean"][:3] == ["1.000 s", "1.000 s", "0.0 %"]
    assert "the server's own run-to-run spread is not known" in printed
    assert "E2E mean predicted 1.9 % high on log; " in printed
    assert f"report: {folder / 'new/out/report.html'}" in printed
    assert sorted(path.name for path in (folder / "new/out").iterdir()) == ["check.json", "report.html"]
    document = json.loads((folder / "new/out/check.json").read_text())
    assert document["logs"][0]["metrics"]["e2e_s"]["bias_s"] == pytest.approx(0.0625)


@pytest.mark.usefixtures("undrawn")
def test_json_is_what_the_file_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(folder, "log.csv", "--json") == 0

    assert json.loads(capsys.readouterr().out) == json.loads((folder / "out/check.json").read_text())


@pytest.mark.usefixtures("undrawn")
def test_repeats_are_checked_too_and_show_the_spread(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(folder, "log.csv", "--repeat", "log.csv", "again.csv") == 0

    printed = capsys.readouterr().out
    assert "own spread" in printed
    assert "sampling" not in printed
    assert "on again, the worst of 2 logs; the server's own spread is 7.4 %." in printed
    assert "all logs, relative errors" in printed


@pytest.mark.usefixtures("undrawn")
def test_failed_requests_are_left_out_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a pool's log those of the server."""
    header, *rows = FOUR.splitlines()
    rows = [f"{header},server", *(f"{row},slow" for row in rows), "11,10,,,,slow", "12,10,0,,,slow", "13,10,,,,fast"]
    (folder / "log.csv").write_text("\n".join([*rows, "14,10,2,1,2,fast"]))

    assert check(folder, "log.csv") == 0
    assert "2 failed requests, without output tokens, are left out." in capsys.readouterr().out
    (log,) = json.loads((folder / "out/check.json").read_text())["logs"]
    assert log["requests"] == 4
    assert log["notes"] == ["2 failed requests, without output tokens, are left out."]


@pytest.mark.usefixtures("undrawn")
def test_a_second_check_replaces_the_first(folder: Path) -> None:
    assert check(folder, "log.csv") == 0
    assert check(folder, "again.csv") == 0

    assert json.loads((folder / "out/check.json").read_text())["logs"][0]["name"] == "again"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["log.csv", "--repeat", "again.csv"], "again.csv: a load is repeated if it was measured more than once"),
        (["none.csv"], "none.csv: 1 problem\n  no such file"),
        (["short.csv"], "ttft_s: no measured times to check against; columns: arrival_s, prompt_tokens, output_tokens"),
        (["long.csv"], "line 2: prompt_tokens (10) + output_tokens (991) must be at most max_model_len (1000)"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    (folder / "short.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n")
    header, first, second, *others = FOUR.replace("0.5,10,3", "0.5,10,991").splitlines()
    (folder / "long.csv").write_text("\n".join([header, second, first, *others]))

    assert check(folder, *arguments) == 2

    assert problem in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_server_of_a_shipped_pool_can_be_checked(folder: Path) -> None:
    arguments = [str(folder / "log.csv"), "--server", "h100/llama-8b", "-o", str(folder / "out")]

    assert main(["calibrate", "check", *arguments]) == 0
    assert "llama-8b" in (folder / "out/report.html").read_text(encoding="utf-8")


def test_a_pool_is_no_server_and_names_those_that_it_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(folder / "log.csv"), "--server", "h100", "-o", str(folder / "out")]

    assert main(["calibrate", "check", *arguments]) == 2
    assert "is a pool; name one of its servers: h100/deepseek-r1-32b, " in capsys.readouterr().err


def test_a_server_without_step_times_says_where_they_come_from(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "unfitted.toml").write_text('name = "s"\nmodel = "m"\n[scheduler]\nnum_blocks = 9\nmax_model_len = 99\n')

    arguments = ["calibrate", "check", str(folder / "log.csv"), "--server", str(folder / "unfitted.toml")]
    assert main([*arguments, "-o", str(folder / "out")]) == 2
    assert "step_time: missing; `inframind calibrate fit` finds it" in capsys.readouterr().err


def test_a_target_that_is_a_file_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(folder, "log.csv", out="log.csv") == 2

    assert "is a file; name a folder" in capsys.readouterr().err
    assert (folder / "log.csv").read_text() == FOUR
