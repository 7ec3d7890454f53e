"""Rankings by hand: Kendall's tau, signs of pairs, and what the real system reaches against itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from compare_world import write
from hypothesis import given
from hypothesis import strategies as st

from inframind.calibration import KnownRun, PairedRuns, compare_folders, count_signs
from inframind.calibration.compare_ranking import kendall_tau, rank_policies
from inframind.traces import Run


def known(
    policy: str,
    latency_s: float,
    *,
    seed: int = 0,
    scheduler: str = "fcfs",
    correct: bool = True,
    rate_per_min: float = 6.0,
) -> KnownRun:
    """A run of one workflow, in time if it took at most 10 s."""
    is_on_time = latency_s <= 10
    workflows = pd.DataFrame(
        {"outcome": ["finished"], "on_time": [is_on_time], "correct": [correct], "latency_s": [latency_s]}
    )
    run = Run("run", {}, {}, pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), workflows)
    condition = (("policy", policy), ("rate_per_min", rate_per_min), ("scheduler", scheduler))
    return KnownRun(Path(policy), run, condition, seed)


def pairs(live: dict[str, list[float]], simulated: dict[str, list[float]]) -> list[PairedRuns]:
    """Latencies by policy, one for each seed."""
    return [
        PairedRuns(known(policy, ours, seed=seed), known(policy, theirs, seed=seed))
        for policy in live
        for seed, (theirs, ours) in enumerate(zip(live[policy], simulated[policy], strict=True))
    ]


def test_tau_of_one_swap() -> None:
    """Four contenders, two neighbours swapped: 5 of 6 pairs agree, tau = (5 - 1) / 6."""
    live = {"a": [1.0], "b": [2.0], "c": [3.0], "d": [4.0]}
    simulated = {"a": [1.1], "b": [3.3], "c": [2.2], "d": [4.4]}

    (contest,) = rank_policies(pairs(live, simulated))

    by_latency = {ranking.figure: ranking for ranking in contest.rankings}["latency_mean_s"]
    assert contest.name == "FCFS, 6/min"
    assert by_latency.tau == pytest.approx(2 / 3)
    assert count_signs(by_latency) == (5, 6)
    assert count_signs(by_latency, clear_only=True) == (0, 0)
    assert [(sign.first, sign.second) for sign in by_latency.signs if not sign.agrees] == [("b", "c")]
    assert math.isnan(by_latency.tau_low)
    assert math.isnan(by_latency.live_tau)
    assert by_latency.live == {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}


def test_all_in_time_on_both_sides_is_no_ranking() -> None:
    (contest,) = rank_policies(pairs({"a": [1.0], "b": [2.0]}, {"a": [1.0], "b": [2.0]}))

    taus = {ranking.figure: ranking.tau for ranking in contest.rankings}
    assert math.isnan(taus["goodput"])
    assert taus["latency_mean_s"] == 1.0


def test_signs_have_intervals_over_seeds() -> None:
    """a is 1, 2 and 3 s faster: 2 +- t(0.975, 2) * 1 / sqrt(3) = 2 +- 2.484; with 1.9, 2 and 2.1 s it is clear."""
    unclear = pairs({"a": [1.0, 1.0, 1.0], "b": [2.0, 3.0, 4.0]}, {"a": [1.0, 1.0, 1.0], "b": [2.0, 3.0, 4.0]})
    clear = pairs({"a": [1.0, 1.0, 1.0], "b": [2.9, 3.0, 3.1]}, {"a": [5.0, 5.0, 5.0], "b": [2.0, 3.0, 4.0]})

    signs = [rank_policies(each)[0].rankings[-1].signs[0] for each in (unclear, clear)]

    assert signs[0].live == pytest.approx((-2.0, -2.0 - 2.4841, -2.0 + 2.4841), abs=1e-4)
    assert (signs[0].is_clear, signs[0].agrees) == (False, True)
    assert (signs[1].is_clear, signs[1].agrees) == (True, False)


def test_the_interval_of_tau_draws_seeds() -> None:
    """The order hangs on one of the three seeds on the simulated side, so that some draws turn it around."""
    live = {"a": [1.0, 1.0, 1.0], "b": [2.0, 2.0, 2.0]}
    sure, unsure = ({"a": [1.0, 1.0, 1.0], "b": last} for last in ([2.0, 2.0, 2.0], [0.9, 0.9, 2.0]))

    (certain,), (doubtful,) = (rank_policies(pairs(live, each)) for each in (sure, unsure))

    assert (certain.rankings[-1].tau_low, certain.rankings[-1].tau_high) == (1.0, 1.0)
    assert doubtful.rankings[-1].tau == 1.0
    assert (doubtful.rankings[-1].tau_low, doubtful.rankings[-1].tau_high) == (-1.0, 1.0)


def test_only_common_seeds_count() -> None:
    both = pairs({"a": [1.0, 9.0], "b": [2.0, 2.0]}, {"a": [1.0, 9.0], "b": [2.0, 2.0]})

    (contest,) = rank_policies([pair for pair in both if (pair.live.path.name, pair.live.seed) != ("b", 1)])

    assert contest.seeds == (0,)
    assert contest.rankings[-1].live == {"a": 1.0, "b": 2.0}


def test_schedulers_are_contenders_too_where_there_are_several() -> None:
    latencies = {("a", "fcfs"): 1.0, ("b", "fcfs"): 2.0, ("a", "edf"): 3.0, ("b", "edf"): 4.0}
    each = [
        PairedRuns(*(known(policy, latency, scheduler=scheduler) for _ in range(2)))
        for (policy, scheduler), latency in latencies.items()
    ]

    contests = rank_policies(each)

    assert [(contest.name, contest.contenders) for contest in contests] == [
        ("FCFS, 6/min", ("a", "b")),
        ("EDF, 6/min", ("a", "b")),
        ("6/min", ("a, fcfs", "b, fcfs", "a, edf", "b, edf")),
    ]
    assert [contest.is_over_schedulers for contest in contests] == [False, False, True]


def test_a_rate_with_one_scheduler_is_no_second_contest() -> None:
    runs = [("fcfs", 6.0), ("edf", 6.0), ("edf", 60.0)]
    each = [
        PairedRuns(*(known(policy, latency, scheduler=scheduler, rate_per_min=rate) for _ in range(2)))
        for policy, latency in (("a", 1.0), ("b", 2.0))
        for scheduler, rate in runs
    ]

    assert [contest.name for contest in rank_policies(each)] == ["FCFS, 6/min", "EDF, 6/min", "EDF, 60/min", "6/min"]


def test_repeats_show_what_the_real_system_reaches() -> None:
    live, again = {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.0, "b": 3.0, "c": 2.0}
    each = [PairedRuns(known(name, live[name]), known(name, live[name]), (known(name, again[name]),)) for name in live]

    (contest,) = rank_policies(each)

    assert contest.rankings[-1].tau == 1.0
    assert contest.rankings[-1].live_tau == pytest.approx(1 / 3)


def test_a_pair_that_is_not_the_same_experiment_is_not_ranked() -> None:
    assert rank_policies([PairedRuns(known("a", 1.0), known("b", 1.0))]) == ()


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8, unique=True))
def test_tau_of_a_ranking_with_itself_and_its_opposite(values: list[float]) -> None:
    one = np.array(values)

    assert kendall_tau(one, one) == 1.0
    assert kendall_tau(one, -one) == -1.0


def test_a_real_contest(tmp_path: Path) -> None:
    """Two servers are better than one, under both clocks."""

    for policy in ("jsq", "first"):
        for seed in (0, 1):
            write(tmp_path / f"sim/{policy}{seed}", policy=policy, seed=seed, num=20)
            write(tmp_path / f"live/{policy}{seed}", policy=policy, seed=seed, num=20, step_s=0.15, live=True)

    (contest,) = compare_folders(tmp_path / "sim", [tmp_path / "live"]).contests

    assert contest.seeds == (0, 1)
    assert [ranking.figure for ranking in contest.rankings] == ["goodput", "on_time", "latency_mean_s"]
    assert contest.rankings[-1].tau == 1.0
    assert contest.rankings[-1].live["first"] > contest.rankings[-1].live["jsq"]
