"""Counterfactuals: each cause of a difference, planted alone, is found where it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from compare_world import EveryPlan, VariedOutcomes, write
from policies import FixedOutcomes, FixedPlan, RoundRobin

from inframind.calibration import ConditionComparison, Sources, compare_folders
from inframind.calibration.compare_sources import errors_by_load
from inframind.workflows import CallRecord

SPARSE: dict[str, Any] = {"rate_per_s": 1e-6, "poll_s": 1e5}
"""One query after the other."""


class LongerOutcomes(FixedOutcomes):
    """As `VariedOutcomes`, and so many times as long."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self._factor = factor

    def output_tokens(
        self, domain: str, question: int, model: str, strategy: str, role: str, slot: int, seed: int
    ) -> int:
        return self._factor * VariedOutcomes().output_tokens(domain, question, model, strategy, role, slot, seed)

    def answer_correct(
        self, domain: str, question: int, topology: str, role_set: str, calls: Sequence[CallRecord], seed: int
    ) -> bool:
        return True


def compared(folder: Path) -> ConditionComparison:
    (each,) = compare_folders(folder / "sim", [folder / "live"]).conditions
    return each


def sources(folder: Path) -> Sources:
    each = compared(folder)
    assert each.sources is not None, each.notes
    return each.sources


@pytest.mark.parametrize("scheduler", ["fcfs", "edf"])
def test_a_recorded_run_is_simulated_again_to_the_last_digit(tmp_path: Path, scheduler: str) -> None:
    """All kinds of workflows on busy servers with prefix caching, retold from its folder: nothing differs."""
    write(tmp_path / "sim", scheduler=scheduler, planner=EveryPlan(), executor=RoundRobin(), outcomes=VariedOutcomes())

    each = compare_folders(tmp_path / "sim", [tmp_path / "sim"]).conditions[0]

    assert each.sources is not None
    assert each.sources.num_workflows == 40
    assert set(each.sources.latency.steps_s.values()) == set(each.sources.e2e.steps_s.values()) == {0.0}
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        pd.testing.assert_series_equal(each.replayed[metric], each.replayed[f"sim_{metric}"], check_names=False)
    assert each.replayed["prompt_tokens"].equals(each.replayed["sim_prompt_tokens"])
    assert {error for one in each.by_load for error in one.relative_error.values()} == {0.0}


def test_slow_servers_are_found_in_the_servers(tmp_path: Path) -> None:
    """Steps of 0.15 s, simulated as 0.1 s, on idle servers: each call takes 2/3 of its time."""
    for name, step_s in (("sim", 0.1), ("live", 0.15)):
        plan = FixedPlan("Chain", "MathSolver+Inspector")
        write(tmp_path / name, step_s=step_s, num=8, planner=plan, outcomes=VariedOutcomes(), **SPARSE)

    found = sources(tmp_path)

    assert found.latency.steps_s["servers"] == pytest.approx(found.latency.simulated_s - found.latency.live_s)
    assert found.latency.steps_s["servers"] == pytest.approx(-found.latency.live_s / 3)
    assert found.latency.steps_s == pytest.approx(
        {"servers": -found.latency.live_s / 3, "lengths": 0.0, "arrivals": 0.0, "decisions": 0.0}, abs=1e-9
    )


def test_long_answers_are_found_in_the_lengths(tmp_path: Path) -> None:
    for name, factor in (("sim", 1), ("live", 3)):
        write(tmp_path / name, num=8, policy="first", outcomes=LongerOutcomes(factor), **SPARSE)

    found = sources(tmp_path)

    assert found.latency.live_s == pytest.approx(3 * found.latency.simulated_s)
    assert found.latency.steps_s == pytest.approx(
        {"servers": 0.0, "lengths": -2 * found.latency.simulated_s, "arrivals": 0.0, "decisions": 0.0}, abs=1e-9
    )
    live, simulated = found.measures.output_tokens
    assert live == pytest.approx(3 * simulated)
    assert found.measures.num_equal_calls == 8


def test_a_late_client_is_found_in_the_arrivals(tmp_path: Path) -> None:
    """Of two servers with two places and three queries at a time, queueing hangs on who comes when."""
    write(tmp_path / "sim", num=10)
    write(tmp_path / "live", num=10, late_s=0.25)

    found = sources(tmp_path)

    assert found.measures.late_s == pytest.approx((0.25, 0.25))
    assert found.latency.steps_s["servers"] == 0.0
    assert found.latency.steps_s["lengths"] == 0.0
    assert abs(found.latency.simulated_s - found.latency.live_s) < 0.1
    assert sum(found.latency.steps_s.values()) == pytest.approx(found.latency.simulated_s - found.latency.live_s)


def test_another_policy_is_found_in_the_decisions(tmp_path: Path) -> None:
    write(tmp_path / "sim", policy="jsq", outcomes=VariedOutcomes())
    write(tmp_path / "live", policy="first", outcomes=VariedOutcomes())

    found = sources(tmp_path)

    assert found.latency.steps_s["decisions"] == pytest.approx(found.latency.simulated_s - found.latency.live_s)
    assert found.latency.steps_s["decisions"] < -10
    # Lengths hang on the model: only calls of the same model are equal.
    assert 0 < found.measures.num_equal_calls < 40


def test_steps_add_up_whatever_differs(tmp_path: Path) -> None:
    write(tmp_path / "sim", planner=EveryPlan(), policy="jsq", outcomes=VariedOutcomes())
    live = {"executor": RoundRobin(), "outcomes": LongerOutcomes(2), "step_s": 0.08, "late_s": 0.3}
    write(tmp_path / "live", planner=EveryPlan(), policy="jsq", **live)

    found = sources(tmp_path)

    for difference in (found.latency, found.e2e):
        assert sum(difference.steps_s.values()) == pytest.approx(difference.simulated_s - difference.live_s)
        assert all(abs(step) > 0.01 for name, step in difference.steps_s.items() if name != "arrivals")


def test_gauges_are_as_old_as_the_last_poll(tmp_path: Path) -> None:
    """Polled every second: half a second old in the mean."""
    write(tmp_path / "sim", num=40)

    found = compare_folders(tmp_path / "sim", [tmp_path / "sim"]).conditions[0].sources

    assert found is not None
    mean, p99 = found.measures.live_gauge_age_s
    assert mean == pytest.approx(0.5, abs=0.15)
    assert 0.8 < p99 <= 1.0
    assert found.measures.simulated_gauge_age_s == found.measures.live_gauge_age_s


def test_what_the_client_says_of_itself_is_passed_on(tmp_path: Path) -> None:
    for name in ("sim", "live"):
        write(tmp_path / name, num=4)
    first = {"arrival_late_p99_s": 0.1, "loop_late_p99_s": 0.002, "cpu_s_per_call": 0.01, "arrivals": 3}
    second = {"arrival_late_p99_s": 0.3, "loop_late_p99_s": 0.001, "cpu_s_per_call": 0.02, "arrivals": 1}
    (tmp_path / "live/client.json").write_text(json.dumps({"parts": [first, second]}))
    worst = {"arrival_late_p99_s": 0.3, "loop_late_p99_s": 0.002, "cpu_s_per_call": 0.02}

    assert sources(tmp_path).measures.client == worst

    (tmp_path / "live/client.json").write_text("{}")
    assert sources(tmp_path).measures.client == {}


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("events.jsonl", None, "has no events.jsonl"),
        ("events.jsonl", "{}\n", "events.jsonl: 1 problem line 1: not a line of this log: KeyError('version')"),
        ("config.toml", "[run]\npolicy = 'jsq'\n", "names no pool"),
    ],
)
def test_without_a_log_or_a_pool_all_else_is_compared(tmp_path: Path, file: str, text: str | None, reason: str) -> None:
    for name in ("sim", "live"):
        write(tmp_path / name, num=4)
    if text is None:
        (tmp_path / f"sim/{file}").unlink()
    else:
        (tmp_path / f"sim/{file}").write_text(text)

    each = compared(tmp_path)

    assert each.sources is None
    assert each.latency is not None
    assert each.decisions is not None
    assert [reason in note for note in each.notes] == [True]


def test_a_workflow_that_the_live_run_did_not_finish_does_not_count(tmp_path: Path) -> None:
    """Its second call was never made; the others are still simulated beside what it had begun."""
    for name in ("sim", "live"):
        write(tmp_path / name, num=6, planner=FixedPlan("Chain", "MathSolver+Inspector"))
    calls = pd.read_parquet(tmp_path / "live/calls.parquet")
    calls[calls["call_id"] != "q2.1.0"].to_parquet(tmp_path / "live/calls.parquet")
    workflows = pd.read_parquet(tmp_path / "live/workflows.parquet")
    workflows.loc[2, "outcome"] = "stopped"
    workflows.loc[2, ["latency_s", "finish_s"]] = float("nan")
    workflows.to_parquet(tmp_path / "live/workflows.parquet")

    assert sources(tmp_path).num_workflows == 5


def test_errors_by_load_by_hand() -> None:
    rows = pd.DataFrame(
        {
            "in_flight": [0] * 5 + [4] * 5,
            "ttft_s": 1.0,
            "tpot_s": 1.0,
            "e2e_s": 2.0,
            "sim_tpot_s": 1.0,
            "sim_e2e_s": 2.0,
        }
    ).assign(sim_ttft_s=[1.1] * 5 + [0.5] * 5)

    low, high = errors_by_load(rows)

    assert (low.low, low.high, low.num_calls) == (0, 0, 5)
    assert low.relative_error == pytest.approx({"ttft_s": 0.1, "tpot_s": 0.0, "e2e_s": 0.0})
    assert high.relative_error["ttft_s"] == pytest.approx(-0.5)
    assert errors_by_load(rows.iloc[:0]) == ()
