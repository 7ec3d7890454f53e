"""The command line as a whole: help, exit codes, and output that somebody stops reading."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from inframind.cli import main
from inframind.cli.main import build_parser

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "fcfs-and-edf.toml"
COMMANDS = [
    "bench predictors",
    "bench sim",
    "bench train",
    "calibrate check",
    "calibrate fit",
    "calibrate predictors",
    "calibrate profile",
    "compare",
    "demo",
    "evaluate",
    "live replay",
    "live up",
    "sim replay",
    "sim schedule",
    "sim verify",
    "simulate",
    "train",
]


def commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something, by its words."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for word, child in action.choices.items():
            yield from commands(child, f"{name} {word}".strip())


def test_these_are_the_commands() -> None:
    assert sorted(name for name, _ in commands(build_parser())) == COMMANDS


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])

    assert exit_.value.code == 0
    assert capsys.readouterr().out.split("commands:")[1].splitlines()[1:] == [
        "  COMMAND",
        "    simulate  serve a trace or a synthetic load on a simulated pool",
        "    evaluate  compare policies, schedulers and loads on simulated workflows",
        "    train     train planner and executor on a simulated pool",
        "    live      start real vLLM servers, and run workflows on them",
        "    sim       the simulator itself: replay, schedule, verify",
        "    calibrate",
        "              make a simulated server of a real one: profile, fit, check",
        "    compare   compare simulated runs with live ones",
        "    demo      train a small policy, evaluate it beside rules: some minutes",
        "    bench     how fast it is on this machine",
    ]


def test_every_option_has_help() -> None:
    """Arguments whose name says it all have none; options always do."""
    silent = [
        f"{name} {action.option_strings[-1]}"
        for name, parser in commands(build_parser())
        for action in parser._actions
        if action.option_strings and not action.help
    ]

    assert silent == []


@pytest.mark.parametrize("words", [[], ["sim"], ["bench"], ["simulat"], ["simulate"], ["demo", "--nope"]])
def test_a_command_that_makes_no_sense_is_the_persons_mistake(words: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)

    assert exit_.value.code == 2


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])

    assert capsys.readouterr().out == f"inframind {version('inframind-router')}\n"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_stops_early_sees_no_traceback(tmp_path: Path, options: list[str]) -> None:
    """As in ``inframind ... | head``."""
    one_run = ["--set", "workload.num=50", "--set", "loads=[1]", "--set", "schedulers=['fcfs']"]
    command = [sys.executable, "-m", "inframind.cli", "simulate", str(EXAMPLE), *one_run, "-o", str(tmp_path / "run")]
    with subprocess.Popen(command + options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()

    assert "Traceback" not in said
    assert "BrokenPipe" not in said
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("command", "file", "told"),
    [
        ("evaluate", "fcfs-and-edf.toml", "`inframind simulate` without --policy and --all"),
        ("train", "fcfs-and-edf.toml", "`inframind simulate` without --policy and --all"),
        (
            "simulate",
            "evaluate.toml",
            "`inframind evaluate`, or of `simulate` and `live replay` with --policy NAME or --all",
        ),
        ("evaluate", "train.toml", "`inframind train`"),
    ],
)
def test_a_file_of_another_command_is_known_as_such(
    command: str, file: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(EXAMPLE.parent / file), "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.endswith(f"{file}: 1 problem\n  is a file of {told}\n")


@pytest.mark.parametrize("name", ["torch", "scipy.stats"])
def test_commands_that_do_not_need_a_large_package_do_not_load_it(name: str) -> None:
    """Each takes a second."""
    code = f"import sys; from inframind.cli.main import build_parser; build_parser(); sys.exit({name!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ctrl_c_is_not_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("inframind.cli.simulate.run_experiment", stopped)

    assert main(["simulate", str(EXAMPLE)]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_the_benchmark_reports_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sim", "--calls", "200", "--repeats", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)

    assert report["workload"]["servers"] == 5
    fixed = report["measurements"][0]
    assert fixed["num_calls"] == 200
    assert fixed["timeouts_per_call"] == pytest.approx(fixed["simpy_timeouts_per_s"] / fixed["calls_per_s"])
    assert {"outputs_x4", "calls_x4"} <= report["time_per_call_ratio"].keys()
    assert report["peak_memory_mib"] > 0


@pytest.mark.parametrize("number", ["0", "-1", "few"])
def test_a_benchmark_of_no_calls_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "sim", "--calls", number])

    assert exit_.value.code == 2
    assert f"argument --calls: must be a whole number from 1 on, got '{number}'" in capsys.readouterr().err
