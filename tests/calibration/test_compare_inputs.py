"""Which run is compared with which, and what a person is told where nothing fits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from compare_world import write

from inframind.calibration.compare_inputs import condition_name, key_differences, match_folders
from inframind.traces import TraceError


def seeds_of(folder: Path, *seeds: int, live: bool = False, policy: str = "jsq") -> Path:
    for seed in seeds:
        write(folder / f"{policy}-{seed}", seed=seed, num=4, live=live, policy=policy)
    return folder


def test_one_run_on_each_side_is_a_pair(tmp_path: Path) -> None:
    for name in ("sim", "live", "live2"):
        write(tmp_path / name, num=4, live=name != "sim")

    matched = match_folders(tmp_path / "sim", [tmp_path / "live", tmp_path / "live2"])

    ((pair,), notes) = matched.pairs, matched.notes
    assert (pair.simulated.path.name, pair.live.path.name) == ("sim", "live")
    assert [run.path.name for run in pair.repeats] == ["live2"]
    assert (pair.differences, notes) == ((), ())
    assert pair.has_same_queries
    assert (pair.live.is_live, pair.simulated.is_live) == (True, False)


def test_folders_of_runs_are_matched_by_what_was_run(tmp_path: Path) -> None:
    """Whatever the folders are called, and however deep they lie."""
    seeds_of(tmp_path / "sim", 0, 1, 2)
    seeds_of(tmp_path / "sim", 0, policy="random")
    seeds_of(tmp_path / "live/deep", 2, 1, live=True)
    seeds_of(tmp_path / "live/other", 0, live=True, policy="first")

    matched = match_folders(tmp_path / "sim", [tmp_path / "live"])

    assert [(pair.live.seed, pair.simulated.path.name) for pair in matched.pairs] == [(1, "jsq-1"), (2, "jsq-2")]
    assert matched.notes == (
        f"1 live run left out, there is no simulated one of the same: {tmp_path / 'live/other/first-0'}.",
        "2 simulated runs left out, there is no live one of the same: "
        f"{tmp_path / 'sim/jsq-0'}, {tmp_path / 'sim/random-0'}.",
    )


def test_a_single_pair_may_differ_and_says_in_what(tmp_path: Path) -> None:
    write(tmp_path / "sim", num=4, policy="jsq", seed=0)
    write(tmp_path / "live", num=4, policy="random", seed=1, live=True)

    (pair,) = match_folders(tmp_path / "sim", [tmp_path / "live"]).pairs

    assert pair.differences == (
        "policy: random in the live run, jsq in the simulated one",
        "seed: 1 in the live run, 0 in the simulated one",
    )
    assert not pair.has_same_queries


def test_a_run_of_fewer_queries_is_another_experiment(tmp_path: Path) -> None:
    """One that was broken off, say: means over all of its queries are not those of the other."""
    write(tmp_path / "sim", num=4)
    write(tmp_path / "live", num=3, live=True)

    (pair,) = match_folders(tmp_path / "sim", [tmp_path / "live"]).pairs

    assert pair.differences == ("queries of seed 0: 3 in the live run, 4 in the simulated one",)


def test_nothing_that_matches_is_told_with_the_nearest(tmp_path: Path) -> None:
    seeds_of(tmp_path / "sim", 0, 1)
    seeds_of(tmp_path / "live", 7, live=True)
    write(tmp_path / "live/edf", num=4, seed=1, scheduler="edf", live=True)

    with pytest.raises(TraceError) as raised:
        match_folders(tmp_path / "sim", [tmp_path / "live"])

    assert raised.value.problems == (
        f"no run matches {tmp_path / 'live/edf'}; nearest is {tmp_path / 'sim/jsq-1'}: "
        "scheduler: edf in the live run, fcfs in the simulated one",
        f"no run matches {tmp_path / 'live/jsq-7'}; nearest is {tmp_path / 'sim/jsq-0'}: "
        "seed: 7 in the live run, 0 in the simulated one",
    )


def test_two_simulated_runs_of_the_same_are_told(tmp_path: Path) -> None:
    seeds_of(tmp_path / "sim", 0, 1)
    shutil.copytree(tmp_path / "sim/jsq-0", tmp_path / "sim/again")
    seeds_of(tmp_path / "live", 0, 1, live=True)

    with pytest.raises(TraceError, match=r"jsq-0 and .*again are simulated runs of the same: .*policy jsq, .*seed 0"):
        match_folders(tmp_path / "sim", [tmp_path / "live"])


def test_how_a_run_was_made_is_no_difference(tmp_path: Path) -> None:
    """A run without time_scale was not stretched."""
    write(tmp_path / "sim", num=4, strict_lengths=True)
    write(tmp_path / "live", num=4, strict_lengths=False, live=True)
    config = (tmp_path / "live/config.toml").read_text()
    (tmp_path / "live/config.toml").write_text(config.replace("time_scale = 1.0\n", ""))

    (pair,) = match_folders(tmp_path / "sim", [tmp_path / "live"]).pairs

    assert pair.differences == ()


def test_every_broken_folder_is_told_at_once(tmp_path: Path) -> None:
    seeds_of(tmp_path / "sim", 0, 1, 2)
    (tmp_path / "sim/jsq-0/calls.parquet").unlink()
    (tmp_path / "sim/jsq-1/config.toml").write_text("= 1")

    with pytest.raises(TraceError) as raised:
        match_folders(tmp_path / "sim", [tmp_path / "sim"])

    first, second = raised.value.problems
    assert first == f"{tmp_path / 'sim/jsq-0'}: calls.parquet: no such file"
    assert second.startswith(f"{tmp_path / 'sim/jsq-1'}: config.toml: cannot be read: ")


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    write(tmp_path / "sim", num=4)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")

    for name, problem in (
        ("none", "no such folder"),
        ("file", "is a file; name a run folder"),
        ("empty", "neither a run folder nor a folder of run folders: no calls.parquet in or below it"),
    ):
        with pytest.raises(TraceError) as raised:
            match_folders(tmp_path / "sim", [tmp_path / name])
        assert (raised.value.source, raised.value.problems) == (tmp_path / name, (problem,))


@pytest.mark.parametrize("table", ["calls", "workflows"])
def test_an_empty_run_is_told(tmp_path: Path, table: str) -> None:
    write(tmp_path / "sim", num=4)
    path = tmp_path / f"sim/{table}.parquet"
    pd.read_parquet(path).iloc[:0].to_parquet(path)

    with pytest.raises(TraceError, match=rf"{table}\.parquet: has no {table}"):
        match_folders(tmp_path / "sim", [tmp_path / "sim"])


def test_runs_of_different_kinds_or_pools_are_told(tmp_path: Path) -> None:
    for name in ("sim", "calls", "elsewhere"):
        write(tmp_path / name, num=4)
    (tmp_path / "calls/workflows.parquet").unlink()
    for table in ("calls", "samples"):
        path = tmp_path / f"elsewhere/{table}.parquet"
        pd.read_parquet(path).replace({"server": {"a": "x", "b": "y"}}).to_parquet(path)

    with pytest.raises(TraceError, match=r"calls has no workflows\.parquet, the other run has"):
        match_folders(tmp_path / "sim", [tmp_path / "calls"])
    with pytest.raises(TraceError, match=r"no server in common: x, y in the live run, a, b in .*sim"):
        match_folders(tmp_path / "sim", [tmp_path / "elsewhere"])


def test_keys_in_words() -> None:
    condition = (("policy", "jsq"), ("rate_per_min", 12.0), ("scheduler", "edf"), ("time_scale", 1.0))

    assert condition_name(condition) == "jsq, EDF, 12/min"
    assert condition_name((*condition[:3], ("tier_s", 50.0), ("time_scale", 4.0))) == (
        "jsq, EDF, 12/min, tier_s 50, time_scale 4"
    )
    assert condition_name((("load", 1.2), ("scheduler", "fcfs"))) == "FCFS, load 1.2"
    assert condition_name(()) == ""
    assert key_differences((("tier_s", 50.0),), ()) == ("tier_s: 50 in the live run, nothing in the simulated one",)
