"""Figures, means and intervals, all by hand."""

from __future__ import annotations

import math

import pytest
from agent_world import result

from inframind.agents import (
    Cell,
    figures_table,
    jain_index,
    over_tiers,
    policy_gains,
    scheduler_gains,
    summarise_evaluation,
    t_interval,
)

NAN = math.nan
FCFS = Cell("jsq", "fcfs", 60.0, None, 0)


def test_figures_of_four_workflows() -> None:
    """Budgets 10, 10, 100, 100; latencies 5, 20, 50, none: in time, late, in time, failed; right: 1, 2, not 3."""
    table = figures_table([result(FCFS, [5.0, 20.0, 50.0, NAN], [True, True, False, False], [10, 10, 100, 100])])
    rows = table.set_index("tier").to_dict("index")

    assert list(rows) == ["all", "10", "100"]
    total = rows["all"]
    assert total["n"] == 4
    assert (total["accuracy"], total["on_time"], total["goodput"]) == (0.5, 0.5, 0.25)
    assert total["latency_mean_s"] == 25.0
    assert total["latency_p50_s"] == 20.0
    assert total["latency_p95_s"] == pytest.approx(20 + 0.9 * 30)
    assert total["latency_p99_s"] == pytest.approx(20 + 0.98 * 30)
    assert total["path_mean_s"] == pytest.approx((5 + 20 + 50 + 50) / 4)
    assert total["budget_used"] == pytest.approx((0.5 + 2.0 + 0.5) / 3)
    assert (total["calls"], total["tokens"], total["wasted_tokens"]) == (1.0, 100.0, 50.0)
    assert total["utilisation"] == pytest.approx(0.4)
    assert total["jain"] == pytest.approx(0.8**2 / (2 * (0.36 + 0.04)))
    assert total["decisions_per_s"] == 1000.0
    assert (rows["10"]["n"], rows["10"]["accuracy"], rows["10"]["on_time"], rows["10"]["goodput"]) == (2, 1.0, 0.5, 0.5)
    assert (rows["100"]["accuracy"], rows["100"]["latency_mean_s"], rows["100"]["goodput"]) == (0.0, 50.0, 0.0)
    assert math.isnan(rows["10"]["utilisation"])


def test_a_run_of_one_tier_has_no_row_for_all() -> None:
    cell = Cell("jsq", "fcfs", 60.0, 10.0, 0)
    (row,) = figures_table([result(cell, [5.0, 20.0], [True, True], [10, 10])]).to_dict("records")

    assert row["tier"] == "10"
    assert row["utilisation"] == pytest.approx(0.4)


def test_nothing_answered_has_no_latency() -> None:
    row = figures_table([result(FCFS, [NAN], [False], [10])]).iloc[0]

    assert math.isnan(row["latency_p99_s"])
    assert row["goodput"] == 0.0


def test_t_interval_by_hand() -> None:
    """1, 2, 3: mean 2, s = 1, t(0.975, 2) = 4.302653 (any table): half 4.302653 / sqrt 3 = 2.484138."""
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - 2.484138, 2.0 + 2.484138), abs=1e-6)
    assert t_interval([5.0, 5.0, NAN, 5.0]) == (5.0, 5.0, 5.0)


@pytest.mark.parametrize("values", [[7.0], [7.0, 7.0], [6.0, NAN, 8.0]])
def test_fewer_than_three_seeds_have_no_interval(values: list[float]) -> None:
    """Two that agree would have one of no width, as if they were certain."""
    mean, low, high = t_interval(values)

    assert mean == 7.0
    assert math.isnan(low)
    assert math.isnan(high)


def test_nothing_known_has_no_mean() -> None:
    assert all(map(math.isnan, t_interval([NAN])))


def test_jain_index() -> None:
    assert jain_index([0.3, 0.3, 0.3]) == pytest.approx(1.0)
    assert jain_index([0.9, 0.0, 0.0]) == pytest.approx(1 / 3)
    assert jain_index([0.0, 0.0]) == 1.0


def test_summary_over_three_seeds() -> None:
    """Goodput 1, 0 and 0: mean 1/3, s = sqrt(1/3), t(0.975, 2) = 4.302653: half 4.302653 / 3 = 1.434218."""
    cells = [Cell("jsq", "fcfs", 60.0, None, seed) for seed in (0, 1, 2)]
    results = [result(cell, [1.0], [cell.seed == 0], [10]) for cell in cells]
    summary = summarise_evaluation(figures_table(results)).set_index("tier")

    assert list(summary.index) == ["all", "10"]
    row = summary.loc["all"]
    assert (row["seeds"], row["n"], row["goodput"], row["on_time"]) == (3, 3, pytest.approx(1 / 3), 1.0)
    assert row["goodput_high"] - row["goodput"] == pytest.approx(1.434218, abs=1e-6)
    assert (row["on_time_low"], row["on_time_high"]) == (1.0, 1.0)


def test_gains_of_schedulers_are_paired_by_seed() -> None:
    """FCFS 0, 1/2, 0, EDF 1/2, 1, 1/2: always half more, so the interval has no width though the shares differ."""
    late, in_time = 20.0, 5.0
    results = [
        result(Cell("jsq", scheduler, 60.0, None, seed), latencies, [True, True], [10, 10])
        for scheduler, seed, latencies in (
            ("fcfs", 0, [late, late]),
            ("fcfs", 1, [in_time, late]),
            ("fcfs", 2, [late, late]),
            ("edf", 0, [in_time, late]),
            ("edf", 1, [in_time, in_time]),
            ("edf", 2, [in_time, late]),
        )
    ]
    gains = scheduler_gains(figures_table(results), "fcfs").set_index("tier").loc["all"]

    assert (gains["scheduler"], gains["gain"], gains["gain_low"], gains["gain_high"]) == ("edf", 0.5, 0.5, 0.5)


def test_gains_of_policies_are_over_the_best_rival_and_paired_by_seed() -> None:
    """Of two queries with right answers, in time: mine 2, 1, 1, good 1, 0, 0, bad none. Half more with each seed."""
    late, in_time = 20.0, 5.0
    results = [
        result(Cell(policy, "fcfs", 60.0, None, seed), [late] * (2 - num) + [in_time] * num, [True, True], [10, 10])
        for policy, counts in (("bad", (0, 0, 0)), ("mine", (2, 1, 1)), ("good", (1, 0, 0)))
        for seed, num in enumerate(counts)
    ]
    figures = over_tiers(figures_table(results))
    (row,) = policy_gains(figures, ["mine"], ["bad", "good"]).to_dict("records")

    assert (row["policy"], row["scheduler"], row["rate_per_min"], row["rival"]) == ("mine", "fcfs", 60.0, "good")
    assert (row["gain"], row["gain_low"], row["gain_high"]) == (0.5, 0.5, 0.5)
    assert policy_gains(figures, ["mine"], []).empty


def test_tiers_with_runs_of_their_own_are_averaged() -> None:
    cells = [Cell("jsq", "fcfs", 60.0, tier_s, 0) for tier_s in (10.0, 100.0)]
    results = [result(cells[0], [20.0], [True], [10]), result(cells[1], [20.0], [True], [100])]
    (row,) = over_tiers(figures_table(results)).to_dict("records")

    assert (row["tier"], row["n"], row["goodput"]) == ("all", 2, 0.5)
