"""``--all``: every run of an evaluation file, live and simulated, in folders that compare matches."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from fake_vllm import FakeVllm
from live_files import experiment, pool, write_pool

from inframind.cli import main
from inframind.traces import read_run

pytestmark = pytest.mark.usefixtures("undrawn")

QUICK = ["--set", "num_queries=6", "--set", "rates_per_min=[1200]", "--set", "max_tokens=10"]
NAMES = sorted(
    f"{policy}.{scheduler}.1200.mixed.{seed}"
    for policy in ("jsq", "random")
    for scheduler in ("edf", "fcfs")
    for seed in (4, 5)
)
SEED = ["--seed", "4"]
OF_ONE_SEED = [name for name in NAMES if name.endswith(".4")]


def run_all(folder: Path, *words: str, out: str = "live") -> int:
    command = ["live", "replay", str(folder / "experiment.toml"), "--all", "--strict-lengths", *QUICK]
    return main([*command, "-o", str(folder / out), *words])


def runs(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/workflows.parquet"))


def num_asked(servers: list[FakeVllm]) -> int:
    return sum(len(server.seen) for server in servers)


def test_all_runs_of_a_file_come_one_after_the_other_on_one_pool_and_compare_matches_their_twins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pool(tmp_path):
        assert run_all(tmp_path) == 0
    told = capsys.readouterr()
    simulated = ["simulate", str(tmp_path / "experiment.toml"), "--all", *QUICK, "-o", str(tmp_path / "sim")]
    assert main(simulated) == 0
    assert "jsq, edf, 1200/min, seed 4" in capsys.readouterr().out
    report = tmp_path / "report.html"
    assert main(["compare", str(tmp_path / "sim"), str(tmp_path / "live"), "-o", str(report), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)

    assert runs(tmp_path / "live") == runs(tmp_path / "sim") == NAMES
    assert "8 of 8: random.fcfs.1200.mixed.5: 6 of 6 answered" in told.err
    assert sum("random, fcfs" in line for line in told.out.splitlines()) == 2
    for name in NAMES:
        run = read_run(tmp_path / "live" / name)
        policy, scheduler, _, _, seed = name.split(".")
        asked = run.config["run"]
        assert (asked["policy"], asked["scheduler"], asked["seed"]) == (policy, scheduler, int(seed))
        assert run.config["experiment"]["policies"] == [policy]
        assert (run.calls["priority"] == 0).all() == (scheduler == "fcfs")
        assert json.loads((tmp_path / "live" / name / "client.json").read_text())["replay"]["agrees"]
    assert Counter(condition["condition"]["policy"] for condition in compared["conditions"]) == {"jsq": 2, "random": 2}


def test_other_options_leave_some_of_the_runs(tmp_path: Path) -> None:
    experiment(tmp_path)
    write_pool(tmp_path, ["", ""])
    command = ["simulate", str(tmp_path / "experiment.toml"), "--all", *QUICK, "-o", str(tmp_path / "sim")]

    assert main([*command, "--scheduler", "fcfs", "--seed", "5"]) == 0
    assert runs(tmp_path / "sim") == ["jsq.fcfs.1200.mixed.5", "random.fcfs.1200.mixed.5"]


def test_broken_off_it_goes_on_with_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pool(tmp_path) as servers:
        assert run_all(tmp_path, *SEED) == 0
        live = tmp_path / "live"
        (live / OF_ONE_SEED[0] / "workflows.parquet").unlink()
        shutil.rmtree(live / OF_ONE_SEED[-1])
        before = {name: (live / name / "events.jsonl").read_bytes() for name in OF_ONE_SEED[:-1]}
        asked = num_asked(servers)
        capsys.readouterr()
        assert run_all(tmp_path, *SEED) == 2
        assert "holds a run; --resume goes on with it" in capsys.readouterr().err
        assert run_all(tmp_path, *SEED, "--resume", "--no-checks") == 0
        told = capsys.readouterr()

        assert runs(live) == OF_ONE_SEED
        assert "2 of 2" in told.err
        assert num_asked(servers) - asked == len(read_run(live / OF_ONE_SEED[-1]).calls)
        assert all(
            (live / name / "events.jsonl").read_bytes() == log for name, log in before.items() if name != OF_ONE_SEED[0]
        )
        assert sum(", fcfs" in line or ", edf" in line for line in told.out.splitlines()) == len(OF_ONE_SEED)
        assert run_all(tmp_path, *SEED, "--resume", "--time-scale", "2") == 2
        assert "run.time_scale: is now 2.0, and was 1.0" in capsys.readouterr().err


def test_ctrl_c_ends_it_with_the_run_that_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pool(tmp_path, step_s=0.01) as servers:

        def interrupt() -> None:
            while not (tmp_path / "live" / OF_ONE_SEED[0]).exists() or num_asked(servers) < 30:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert run_all(tmp_path, *SEED, "--no-checks") == 130
        thread.join()

        assert 1 <= len(runs(tmp_path / "live")) < len(OF_ONE_SEED)
        assert "--resume goes on with the others" in capsys.readouterr().err
        assert run_all(tmp_path, *SEED, "--no-checks", "--resume") == 0
    assert runs(tmp_path / "live") == OF_ONE_SEED


def test_without_a_policy_or_all_it_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment(tmp_path)
    write_pool(tmp_path, ["", ""])

    assert main(["live", "replay", str(tmp_path / "experiment.toml"), "-o", str(tmp_path / "live")]) == 2
    assert "--policy: say who decides, or --all" in capsys.readouterr().err


def test_what_failed_its_checks_is_begun_anew(tmp_path: Path) -> None:
    one = ["--policy", "jsq", "--scheduler", "edf", "--seed", "4"]
    with pool(tmp_path, num_gpu_blocks=400) as servers:
        assert run_all(tmp_path, *one) == 2
        for server in servers:
            server.behaviour.num_gpu_blocks = 500
        assert run_all(tmp_path, *one) == 0
    assert runs(tmp_path / "live") == ["jsq.edf.1200.mixed.4"]
