import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from inframind.traces.schema import CALLS, SAMPLES
from inframind.traces.summary import SUMMARY, by_tier, summarise, wilson_interval

NO_SAMPLES = pd.DataFrame(columns=SAMPLES.names)


def call(server: str, arrival_s: float, e2e_s: float, **other: Any) -> dict[str, Any]:
    """A finished call of 11 output tokens, the first of them after a quarter of its time."""
    ttft_s = e2e_s / 4
    output_tokens = other.get("output_tokens", 11)
    row = {
        "server": server,
        "model": server.upper(),
        "arrival_s": arrival_s,
        "finish_s": arrival_s + e2e_s,
        "output_tokens": output_tokens,
        "ttft_s": ttft_s,
        "tpot_s": (e2e_s - ttft_s) / (output_tokens - 1) if output_tokens > 1 else math.nan,
        "e2e_s": e2e_s,
        "outcome": "finished",
        "num_preemptions": 0,
        "budget_s": math.nan,
    } | other
    row["deadline_s"] = row["arrival_s"] + row["budget_s"]
    return row


def failed(server: str, arrival_s: float, e2e_s: float, **other: Any) -> dict[str, Any]:
    """A call that was given up on: the simulator and a live client know no times of it."""
    return call(server, arrival_s, e2e_s, outcome="aborted", ttft_s=math.nan, tpot_s=math.nan, **other) | {
        "e2e_s": math.nan
    }


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=CALLS.names)


def samples(**queues: list[tuple[int, int, float]]) -> pd.DataFrame:
    rows = [(float(time_s), name, *look) for name, looks in queues.items() for time_s, look in enumerate(looks)]
    return pd.DataFrame(rows, columns=SAMPLES.names)


def test_figures_by_hand() -> None:
    calls = frame(
        call("a", 10.0, 4.0, budget_s=4.0),
        call("a", 11.0, 8.0, budget_s=4.0, num_preemptions=2),
        failed("a", 12.0, 1.0, budget_s=4.0),
        call("b", 12.0, 18.0, output_tokens=31, budget_s=20.0),
    )
    queues = samples(a=[(0, 2, 0.1), (3, 2, 0.9), (0, 2, 0.2)], b=[(1, 4, 0.5), (1, 4, 0.25), (4, 4, 0.0)])

    summary = summarise(calls, queues, utilisation={"a": 0.5, "b": 1.0}).set_index("server")

    assert list(summary.index) == ["a", "b", "total"]
    a, b, total = summary.loc["a"], summary.loc["b"], summary.loc["total"]
    assert (a.model, b.model) == ("A", "B")
    assert summary["model"].isna().tolist() == [False, False, True]
    assert (a.requests, a.finished, a.failed) == (3, 2, 1)
    assert (a.ttft_mean_s, a.ttft_p50_s, a.ttft_p90_s, a.ttft_p99_s) == pytest.approx((1.5, 1.5, 1.9, 1.99))
    assert (a.tpot_mean_s, b.tpot_mean_s) == pytest.approx((0.45, 0.45))
    assert (a.e2e_mean_s, total.e2e_mean_s, total.e2e_p50_s) == pytest.approx((6.0, 10.0, 8.0))
    assert (a.on_time, b.on_time, total.on_time) == pytest.approx((1 / 3, 1.0, 0.5))
    # The run lasts from 10 to 30 s; the 11 tokens of the failed call are not counted.
    assert (a.requests_per_s, a.output_tokens_per_s) == pytest.approx((2 / 20, 22 / 20))
    assert (total.requests_per_s, total.output_tokens_per_s) == pytest.approx((3 / 20, 53 / 20))
    assert (a.utilisation, b.utilisation, total.utilisation) == (0.5, 1.0, 0.75)
    assert (a.num_preemptions, total.num_preemptions) == (2, 2)
    assert (a.waiting_mean, b.waiting_mean, total.waiting_mean) == (1.0, 2.0, 3.0)
    assert (a.running_mean, total.running_mean) == (2.0, 6.0)
    assert (a.kv_usage_max, total.kv_usage_max) == (0.9, 0.9)


def test_a_single_output_token_has_no_time_per_token() -> None:
    summary = summarise(frame(call("a", 0, 2.0, output_tokens=1)), NO_SAMPLES).iloc[0]

    assert summary["e2e_mean_s"] == 2.0
    assert summary[["tpot_mean_s", "tpot_p99_s"]].isna().all()


def test_without_deadlines_utilisation_or_samples_the_figures_are_null() -> None:
    summary = summarise(frame(call("a", 0, 2.0)), NO_SAMPLES)

    assert summary[["on_time", "utilisation", "waiting_mean", "running_mean", "kv_usage_max"]].isna().all(axis=None)


def test_only_calls_with_a_deadline_count_for_the_on_time_share() -> None:
    summary = summarise(frame(call("a", 0, 2.0), call("a", 0, 2.0, budget_s=2.0)), NO_SAMPLES)

    assert summary["on_time"].tolist() == [1.0, 1.0]


def test_nothing_at_all_is_a_total_of_zero() -> None:
    summary = summarise(frame(), NO_SAMPLES)

    assert summary["server"].tolist() == ["total"]
    assert summary[["requests", "failed", "num_preemptions"]].to_numpy().tolist() == [[0, 0, 0]]
    assert summary[["e2e_mean_s", "requests_per_s"]].isna().all(axis=None)


def test_a_run_in_which_all_failed_has_counts_and_no_latencies() -> None:
    total = summarise(frame(failed("a", 0, 1.0, budget_s=9.0), failed("a", 1, 1.0)), NO_SAMPLES).iloc[-1]

    assert (total["finished"], total["failed"], total["on_time"], total["requests_per_s"]) == (0, 2, 0.0, 0.0)
    assert pd.isna(total["ttft_p50_s"])


def test_an_idle_server_has_a_row_where_the_pool_names_it() -> None:
    summary = summarise(
        frame(call("b", 0, 2.0)), samples(c=[(0, 0, 0.0)]), servers={"a": "m", "b": "n"}, utilisation={"a": 0.0}
    )

    assert summary["server"].tolist() == ["a", "b", "c", "total"]
    assert summary["requests"].tolist() == [0, 1, 0, 1]
    assert summary["utilisation"].tolist()[0] == 0.0


def test_the_columns_are_those_of_the_schema_and_say_what_they_mean() -> None:
    assert list(summarise(frame(), NO_SAMPLES).columns) == SUMMARY.names
    assert all(field.metadata[b"description"] for field in SUMMARY)
    assert SUMMARY.field("requests").type == pa.int64()


CALL_ROWS = st.lists(
    st.builds(
        lambda server, arrival_s, e2e_s, tokens, budget_s, ok: (call if ok else failed)(
            server, arrival_s, e2e_s, output_tokens=tokens, budget_s=budget_s
        ),
        st.sampled_from("abc"),
        st.floats(0, 1000),
        st.floats(0.001, 1000),
        st.integers(1, 1000),
        st.sampled_from([math.nan, 10.0, 50.0]),
        st.booleans(),
    ),
    max_size=20,
)


@settings(deadline=None, max_examples=50)
@given(CALL_ROWS)
def test_counts_and_rates_of_the_servers_add_up_to_the_total(rows: list[dict[str, Any]]) -> None:
    summary = summarise(frame(*rows), NO_SAMPLES)

    servers, total = summary.iloc[:-1], summary.iloc[-1]
    for column in ("requests", "finished", "failed", "num_preemptions", "requests_per_s", "output_tokens_per_s"):
        if not pd.isna(total[column]):
            assert servers[column].sum() == pytest.approx(total[column])
    assert (summary["finished"] + summary["failed"]).equals(summary["requests"])


@settings(deadline=None, max_examples=50)
@given(CALL_ROWS, st.randoms(use_true_random=False))
def test_the_order_of_the_calls_does_not_matter(rows: list[dict[str, Any]], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))

    one, other = (
        summarise(frame(*each), NO_SAMPLES).sort_values("server", ignore_index=True) for each in (rows, shuffled)
    )
    pd.testing.assert_frame_equal(one, other)
    pd.testing.assert_frame_equal(by_tier(frame(*rows)), by_tier(frame(*shuffled)))


@settings(deadline=None, max_examples=50)
@given(CALL_ROWS)
def test_the_tiers_together_are_the_total(rows: list[dict[str, Any]]) -> None:
    tiers, total = by_tier(frame(*rows)), summarise(frame(*rows), NO_SAMPLES).iloc[-1]

    assert tiers["budget_s"].is_monotonic_increasing
    if len(tiers):
        assert np.average(tiers["on_time"], weights=tiers["requests"]) == pytest.approx(total["on_time"])


def test_tiers_by_hand() -> None:
    tiers = by_tier(
        frame(
            call("a", 0, 30.0, budget_s=50.0),
            call("a", 0, 10.0, budget_s=10.0),
            call("b", 0, 20.0, budget_s=10.0),
            failed("b", 0, 5.0, budget_s=10.0),
            call("b", 0, 5.0, budget_s=10.0),
            call("b", 0, 5.0),
        )
    )

    assert tiers[["budget_s", "requests", "on_time"]].to_numpy().tolist() == [[10.0, 4, 0.5], [50.0, 1, 1.0]]
    # Of 10, 20 and 5 s; the failed one has no latency.
    assert tiers["e2e_mean_s"].tolist() == pytest.approx([35 / 3, 30.0])
    assert tiers["e2e_p90_s"].tolist() == pytest.approx([18.0, 30.0])
    assert tiers["on_time_low"].tolist() == pytest.approx([0.150, 0.2065], abs=5e-4)
    assert tiers["on_time_high"].tolist() == pytest.approx([0.850, 1.0], abs=5e-4)


def test_there_are_no_tiers_without_deadlines() -> None:
    assert by_tier(frame(call("a", 0, 1.0))).empty
    assert by_tier(frame()).empty


@given(st.integers(1, 10_000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_the_interval_is_the_one_of_scipy_and_holds_the_share(counts: tuple[int, int]) -> None:
    successes, trials = counts

    low, high = wilson_interval(successes, trials)

    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= successes / trials <= high <= 1


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (2, 1), (-1, 3)])
def test_an_impossible_share_has_no_interval(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=rf"successes \({successes}\) must be between 0 and trials \({trials}\)"):
        wilson_interval(successes, trials)
