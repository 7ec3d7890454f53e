"""Tables on terminals of any width."""

import re
from pathlib import Path

import pytest

from inframind.cli.output import check_target, print_table
from inframind.traces import ConfigError

COLUMNS = ["server", "TTFT\nmean", "TTFT\np99", "busy"]
ROWS = [["llama-8b", "0.12", "3.40", "97%"], ["llama-3b", "0.08", "1.20", "55%"]]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    return monkeypatch


def test_a_pipe_gets_one_table_however_wide(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Latency", COLUMNS, ROWS)

    printed = capsys.readouterr().out
    assert printed.count("llama-8b") == 1
    assert max(map(len, printed.splitlines())) < 80


def test_a_title_wider_than_its_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    title = "Latencies of all servers together, by [model]"
    print_table(title, ["", "s"], [["a", "1"]])

    assert capsys.readouterr().out.splitlines()[0] == title


def test_a_narrow_terminal_gets_the_same_figures_in_parts(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No figure is cut, and each part names its rows."""
    terminal.setenv("COLUMNS", "30")
    print_table("Latency", COLUMNS, ROWS)

    printed = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert printed.count("llama-8b") == 2
    assert printed.count("Latency") == 1
    assert "…" not in printed
    assert {cell for row in ROWS for cell in row} <= set(printed.replace("│", " ").split())
    assert max(map(len, printed.splitlines())) <= 30


def test_a_target_is_checked_before_the_work(tmp_path: Path) -> None:
    """A folder, a missing folder, the input itself and other kinds of files are refused; a new file is not."""
    source = tmp_path / "in.csv"
    source.write_text("x")

    check_target(tmp_path / "out.csv", source, (".csv", ".parquet"))
    check_target(source, tmp_path / "none.csv", (".csv",))  # that the input is missing is told by who reads it
    for target, rule in [
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "out.csv", "there is no folder"),
        (source, "is the input itself"),
        (tmp_path / "out.txt", r"name a file that ends in \.csv or \.parquet"),
        (tmp_path / "out.csv.gz", r"name a file that ends in \.csv or \.parquet"),
    ]:
        with pytest.raises(ConfigError, match=rule):
            check_target(target, source, (".csv", ".parquet"))
