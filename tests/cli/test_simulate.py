"""``inframind simulate``: what it writes, what it prints, and what it says of mistakes."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from inframind.cli import main
from inframind.traces import read_run

pytestmark = pytest.mark.usefixtures("undrawn")

EXPERIMENT = """
name = "Small"
schedulers = ["fcfs", "edf"]

[workload]
kind = "synthetic"
num = 60

[workload.arrivals]
kind = "poisson"
rate_per_min = 600

[workload.prompt_tokens]
kind = "uniform"
low = 50
high = 600

[workload.output_tokens]
kind = "constant"
tokens = 20

[budgets]
tiers_s = [5, 50]
"""
TRACE_EXPERIMENT = """
schedulers = ["fcfs"]

[workload]
kind = "trace"
path = "trace.csv"
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(EXPERIMENT)
    return path


def trace_experiment(folder: Path, trace: str) -> Path:
    (folder / "trace.csv").write_text(trace)
    path = folder / "replay.toml"
    path.write_text(TRACE_EXPERIMENT)
    return path


def test_one_run_is_a_run_folder(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"

    assert main(["simulate", str(experiment), "-o", str(out), "--set", "schedulers=['edf']"]) == 0
    run = read_run(out)
    assert run.config["run"] == {"load": 1.0, "scheduler": "edf"}
    assert run.config["experiment"]["schedulers"] == ["edf"]
    assert [server["name"] for server in run.config["pool"]["servers"]] == run.summary["server"].tolist()[:-1]
    assert (run.calls["outcome"] == "finished").all()
    assert (run.calls["priority"] == (1000 * run.calls["deadline_s"]).round()).all()
    assert (out / "report.html").is_file()
    assert "load 1, EDF" in capsys.readouterr().out


def test_two_schedulers_are_two_run_folders_on_the_same_requests(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    assert main(["simulate", str(experiment), "-o", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"load-1-edf", "load-1-fcfs", "report.html", "summary.csv"}
    fcfs, edf = read_run(out / "load-1-fcfs").calls, read_run(out / "load-1-edf").calls
    asked = ["call_id", "server", "arrival_s", "prompt_tokens", "budget_s"]
    pd.testing.assert_frame_equal(fcfs[asked], edf[asked])
    summary = pd.read_csv(out / "summary.csv")
    assert list(summary.columns[:3]) == ["load", "scheduler", "server"]
    assert summary[summary["server"] == "total"]["requests"].tolist() == [60, 60]
    printed = capsys.readouterr().out
    assert printed.count("on time, by latency budget") == 1
    assert printed.endswith(f"report: {out / 'report.html'}\n")


def test_several_runs_are_a_row_each_that_fits_80_columns(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What servers did is in the file that is named."""
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    out = tmp_path / "run"

    assert main(["simulate", str(experiment), "-o", str(out), "--set", "loads=[0.95, 1.2]"]) == 0
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert sum("load 0.95, EDF" in line for line in lines) == 2
    assert len([line for line in lines if line.startswith("┏")]) == 2
    assert not any("llama-8b" in line for line in lines)
    assert max(len(line) for line in lines if line.startswith(("│", "┃", "┏"))) <= 80
    assert f"all figures: {out / 'summary.csv'}" in lines


def test_a_single_run_is_a_row_for_each_server(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    assert main(["simulate", str(experiment), "-o", str(out), "--set", "schedulers=['fcfs']"]) == 0
    printed = capsys.readouterr().out
    assert {"llama-8b", "deepseek-r1-32b", "total"} <= set(printed.split())
    assert printed.endswith(f"all figures: {out / 'summary.csv'}\nreport: {out / 'report.html'}\n")
    assert (out / "summary.csv").is_file()


def test_a_report_without_a_name_says_what_was_run(experiment: Path, tmp_path: Path) -> None:
    experiment.write_text(EXPERIMENT.replace('name = "Small"\n', ""))

    assert main(["simulate", str(experiment), "-o", str(tmp_path / "run"), "--set", "loads=[1, 2]"]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<title>Single calls on h200 under FCFS and EDF, load 1, 2</title>" in page


def test_the_same_experiment_gives_the_same_calls(experiment: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        main(["simulate", str(experiment), "-o", str(tmp_path / name)])

    for run in ("load-1-fcfs", "load-1-edf"):
        a, b = (tmp_path / name / run / "calls.parquet" for name in ("a", "b"))
        assert a.read_bytes() == b.read_bytes()


def test_runs_are_written_below_runs_by_default(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["simulate", str(experiment), "--set", "schedulers=['fcfs']", "--set", "workload.num=5"]) == 0
    assert read_run(tmp_path / "runs" / "small").config["experiment"]["workload"]["num"] == 5


def test_json_says_what_the_tables_say(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(experiment), "-o", str(tmp_path / "run"), "--json"]) == 0

    answer = json.loads(capsys.readouterr().out)
    assert answer["runs"].keys() == {"load-1-fcfs", "load-1-edf"}
    total = answer["runs"]["load-1-edf"]["summary"][-1]
    assert (total["server"], total["model"], total["requests"]) == ("total", None, 60)
    assert [tier["budget_s"] for tier in answer["runs"]["load-1-edf"]["by_tier"]] == [5, 50]


def test_a_higher_load_is_the_same_requests_closer_together(experiment: Path, tmp_path: Path) -> None:
    main(["simulate", str(experiment), "-o", str(tmp_path), "--set", "loads=[1, 2]", "--set", "schedulers=['fcfs']"])

    once, twice = (read_run(tmp_path / f"load-{load}-fcfs").calls for load in (1, 2))
    assert (once["arrival_s"] / 2).tolist() == pytest.approx(twice["arrival_s"].tolist())
    assert once["prompt_tokens"].tolist() == twice["prompt_tokens"].tolist()


def test_a_trace_with_models_goes_where_it_says(tmp_path: Path) -> None:
    rows = ["0,10,5,Llama-3.1-8B-Instruct", "1,20,5,Mistral-Small-24B-Instruct-2501", "2,30,5,Llama-3.1-8B-Instruct"]
    path = trace_experiment(tmp_path, "\n".join(["arrival_s,prompt_tokens,output_tokens,model", *rows]))

    assert main(["simulate", str(path), "-o", str(tmp_path / "run")]) == 0
    assert read_run(tmp_path / "run").calls["server"].tolist() == ["llama-8b", "mistral-24b", "llama-8b"]


def test_failed_requests_of_a_trace_are_said_to_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trace_experiment(tmp_path, "arrival_s,prompt_tokens,output_tokens,ttft_s\n0,10,5,1\n1,20,,\n2,30,5,1")

    assert main(["simulate", str(path), "-o", str(tmp_path / "run")]) == 0
    assert "warning: 1 failed requests of the trace, without output tokens, are left out" in capsys.readouterr().err
    assert len(read_run(tmp_path / "run").calls) == 2


# Mistakes: all of a file's at once, exit code 2.


def test_every_mistake_of_an_experiment_is_named(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment.write_text(EXPERIMENT.replace("schedulers", "shedulers").replace("high = 600", "high = '600'"))

    assert main(["simulate", str(experiment)]) == 2
    assert capsys.readouterr().err == (
        f"error: {experiment}: 2 problems\n"
        "  workload.prompt_tokens.high: must be a valid integer, got '600'\n"
        "  shedulers: unknown key; did you mean 'schedulers'?\n"
    )


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "nowhere.toml"]) == 2
    assert capsys.readouterr().err == ("error: nowhere.toml: 1 problem\n  cannot be read: No such file or directory\n")


def test_an_unknown_pool_lists_the_shipped_ones(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(experiment), "--set", "pool=six-models"]) == 2
    assert capsys.readouterr().err == (
        "error: pool six-models: 1 problem\n"
        f"  neither a shipped pool nor a file ({experiment.parent / 'six-models'}); shipped pools: a100, "
        "a100-vllm-defaults, h100, h100-vllm-defaults, h200, h200-vllm-defaults, l40s, l40s-vllm-defaults, paper\n"
    )


def test_a_share_of_no_server_is_a_mistake(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(experiment), "--set", "shares.llama-7b=1"]) == 2
    assert "shares.llama-7b: pool h200 has no such server; it has deepseek-r1-32b," in capsys.readouterr().err


def test_bad_rows_of_a_trace_are_named_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """File, line, column, rule and value; a prompt that no server's context can hold is one of them."""
    trace = "arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,-3,5\n0.5,20000,5\n2,nan,\n"

    assert main(["simulate", str(trace_experiment(tmp_path, trace)), "-o", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'trace.csv'}: 5 problems\n"
        "  line 3, prompt_tokens: must be at least 1, got -3\n"
        "  line 4, prompt_tokens: must be less than max_model_len (16384), got 20000\n"
        "  line 4, arrival_s: time goes back, must not be before the row above, got 0.5\n"
        "  line 5, prompt_tokens: must be a number, got nan\n"
        "  line 5, output_tokens: missing value\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_missing_column_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trace_experiment(tmp_path, "arrival_s,prompt_token,output_tokens\n0,10,5\n")

    assert main(["simulate", str(path)]) == 2
    assert "prompt_tokens: missing column; did you mean 'prompt_token'?" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_left_alone(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("dear")

    arguments = ["simulate", str(experiment), "-o", str(tmp_path / "thesis"), "--set", "schedulers=['fcfs']"]
    assert main(arguments) == 2
    assert "is not empty and not a run folder" in capsys.readouterr().err
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "dear"


def test_a_folder_with_other_things_is_left_alone(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An experiment of several runs does not write beside a person's own files."""
    (tmp_path / "report.html").write_text("mine")

    assert main(["simulate", str(experiment), "-o", str(tmp_path)]) == 2
    assert "report.html is there and not of an experiment" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "mine"


def test_a_run_is_written_over_only_if_that_is_said(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out, more in ((tmp_path / "one", ["--set", 'schedulers=["fcfs"]']), (tmp_path / "two", [])):
        words = ["simulate", str(experiment), "-o", str(out), *more]
        assert main(words) == 0
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}

        assert main(words) == 2
        assert "has results already; --overwrite begins anew, or name another folder" in capsys.readouterr().err
        assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
        assert main([*words, "--overwrite"]) == 0


def test_overwriting_leaves_no_run_of_an_earlier_file(experiment: Path, tmp_path: Path) -> None:
    """Neither those of other loads, nor several beside a single one, nor the other way round; a person's file stays."""
    out = tmp_path / "run"
    words = ["simulate", str(experiment), "-o", str(out), "--overwrite"]
    assert main([*words, "--set", "loads=[1, 2]"]) == 0
    (out / "notes.txt").write_text("mine")

    assert main([*words, "--set", "loads=[3]"]) == 0
    assert names(out) == {"load-3-edf", "load-3-fcfs", "notes.txt", "report.html", "summary.csv"}
    (out / "notes.txt").unlink()
    assert main([*words, "--set", "schedulers=['fcfs']"]) == 0
    assert read_run(out).config["run"]["scheduler"] == "fcfs"
    assert "load-3-fcfs" not in names(out)
    assert main([*words, "--set", "loads=[3]"]) == 0
    assert names(out) == {"load-3-edf", "load-3-fcfs", "report.html", "summary.csv"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_in_the_way_is_told_before_anything_is_removed_or_simulated(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run folder with more than a run in it, and a person's file where the run folder is to be."""
    out = tmp_path / "run"
    words = ["simulate", str(experiment), "-o", str(out), "--overwrite"]
    assert main(words) == 0
    monkeypatch.setattr("inframind.cli.simulate.simulate_calls", None)

    (out / "notes.txt").write_text("mine")
    assert main([*words, "--set", "schedulers=['fcfs']"]) == 2
    assert "is not empty and not a run folder" in capsys.readouterr().err
    (out / "load-1-fcfs" / "thesis.tex").write_text("mine")
    assert main(words) == 2
    assert "thesis.tex: no part of a run" in capsys.readouterr().err
    assert names(out) == {"load-1-edf", "load-1-fcfs", "notes.txt", "report.html", "summary.csv"}
