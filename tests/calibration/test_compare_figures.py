"""Figures of both sides by hand, and two runs whose difference is known."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from compare_world import EveryPlan, VariedOutcomes, write

from inframind.calibration import compare_folders
from inframind.calibration.compare_figures import workflow_shares


def workflows(*rows: tuple[str, bool, bool | None]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["outcome", "on_time", "correct"]).astype({"correct": "object"})


def test_shares_by_hand() -> None:
    """Right and in time; right, late; wrong, in time; failed."""
    table = workflows(
        ("finished", True, True), ("finished", False, True), ("finished", True, False), ("stopped", False, None)
    )

    assert workflow_shares(table) == {"goodput": 0.25, "on_time": 0.5, "accuracy": 0.5}


def test_answers_that_were_not_graded_count_for_time_alone() -> None:
    """Of three that count, one is right and in time."""
    table = workflows(
        ("finished", True, True), ("finished", True, None), ("finished", False, True), ("stopped", False, None)
    )
    ungraded = workflows(("finished", True, None), ("stopped", False, None))

    assert workflow_shares(table) == {"goodput": pytest.approx(1 / 3), "on_time": 0.5, "accuracy": pytest.approx(2 / 3)}
    assert workflow_shares(ungraded)["on_time"] == 0.5
    assert math.isnan(workflow_shares(ungraded)["goodput"])
    assert workflow_shares(workflows(("stopped", False, None))) == {"goodput": 0.0, "on_time": 0.0, "accuracy": 0.0}


def test_a_run_beside_itself_has_no_error(tmp_path: Path) -> None:
    write(tmp_path / "run", planner=EveryPlan(), outcomes=VariedOutcomes())

    (each,) = compare_folders(tmp_path / "run", [tmp_path / "run"]).conditions

    assert each.latency is not None
    for figures in (each.latency, *each.calls.values()):
        assert set(figures.relative_error.values()) == {0.0}
        assert figures.num_live == figures.num_simulated > 30
    for tier in each.tiers:
        assert {share.difference for share in tier.shares.values()} == {0.0}
        assert set(tier.latency.relative_error.values()) == {0.0}
    assert [tier.tier for tier in each.tiers] == ["all", "20", "60"]
    assert sum(server.call_share[0] for server in each.servers) == pytest.approx(1)
    assert all(server.running[0] == server.running[1] for server in each.servers)


def test_servers_that_are_half_as_fast_again(tmp_path: Path) -> None:
    """Little load: one query after the other, 20 tokens of 0.1 and 0.15 s: 2/3 of the time."""
    for name, step_s in (("sim", 0.1), ("live", 0.15), ("again", 0.165)):
        write(tmp_path / name, step_s=step_s, num=10, rate_per_s=0.001, poll_s=100.0, live=name != "sim")

    (each,) = compare_folders(tmp_path / "sim", [tmp_path / "live", tmp_path / "again"]).conditions

    assert each.latency is not None
    assert each.latency.live["mean"] == pytest.approx(3.0)
    assert each.latency.simulated["mean"] == pytest.approx(2.0)
    assert each.latency.relative_error == pytest.approx(dict.fromkeys(("mean", "p50", "p90", "p99"), -1 / 3))
    assert each.latency.spread["mean"] == pytest.approx(0.1 / 1.05)
    assert each.calls["tpot_s"].relative_error["p99"] == pytest.approx(-1 / 3)
    assert [tier.latency.relative_error["mean"] for tier in each.tiers] == pytest.approx([-1 / 3] * 3)
    every, *tiers = (tier.latency.num_live for tier in each.tiers)
    assert every == sum(tiers) == 10
    assert min(tiers) > 0
    assert each.calls["ttft_s"].live["p50"] == pytest.approx(0.15)
    assert math.isnan(each.latency.error_low)


def test_seeds_give_an_interval_and_their_runs_one_distribution(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write(tmp_path / f"sim/{seed}", seed=seed, num=20)
        write(tmp_path / f"live/{seed}", seed=seed, num=20, step_s=0.15, live=True)

    (each,) = compare_folders(tmp_path / "sim", [tmp_path / "live"]).conditions

    assert each.latency is not None
    assert each.latency.num_live == 60
    assert each.latency.error_low < each.latency.relative_error["mean"] < each.latency.error_high
    on_time = each.tiers[0].shares["on_time"]
    assert on_time.difference == pytest.approx(on_time.simulated - on_time.live)
    assert on_time.low <= on_time.difference <= on_time.high
    assert each.tiers[0].num_live == 60


def test_what_failed_is_told_and_has_no_latency(tmp_path: Path) -> None:
    for name in ("sim", "live"):
        write(tmp_path / name, num=4)
    path = tmp_path / "live/workflows.parquet"
    table = pd.read_parquet(path)
    table.loc[0, ["outcome", "on_time"]] = ["failed: call failed", False]
    table.loc[0, ["latency_s", "finish_s"]] = math.nan
    table["correct"] = table["correct"].astype("object")
    table.loc[[0, 1], "correct"] = None
    table.to_parquet(path)

    (each,) = compare_folders(tmp_path / "sim", [tmp_path / "live"]).conditions

    assert each.latency is not None
    assert (each.latency.num_live, each.latency.num_simulated) == (3, 4)
    assert each.notes == (
        "1 of 4 live workflows did not finish: 1 failed: call failed.",
        "1 of 3 live answers were not graded: they count for latency only.",
    )
    assert each.sources is not None
    assert each.sources.num_workflows == 3


def test_sides_that_were_mixed_up_are_told(tmp_path: Path) -> None:
    write(tmp_path / "sim", num=4)
    write(tmp_path / "live", num=4, live=True)

    (right,) = compare_folders(tmp_path / "sim", [tmp_path / "live"]).conditions
    (wrong,) = compare_folders(tmp_path / "live", [tmp_path / "sim"]).conditions

    assert right.notes == ()
    assert wrong.notes == (
        "The run named as simulated says of itself that it is live: the sides may have been mixed up.",
    )


def test_two_simulated_runs_are_compared_and_told(tmp_path: Path) -> None:
    write(tmp_path / "one", num=4)
    write(tmp_path / "two", num=4)

    (note,) = compare_folders(tmp_path / "one", [tmp_path / "two"]).notes

    assert note == "The runs named as live say of themselves that they are simulated: read simulated for live."
