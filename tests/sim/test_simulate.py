"""Tables of requests through a pool."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sim_world import CONSTANT_STEP

from inframind.sim import SchedulerOptions, ServerOptions, simulate_calls
from inframind.traces import CALLS, SAMPLES, to_table

SCHEDULER = SchedulerOptions(num_blocks=1000, max_model_len=1000, async_scheduling=False, enable_prefix_caching=True)
SERVERS = [ServerOptions(name, f"{name}-model", SCHEDULER, CONSTANT_STEP) for name in ("a", "b")]


def requests(**columns: object) -> pd.DataFrame:
    base = {"arrival_s": [0.0, 0.5, 10.0], "prompt_tokens": [10, 20, 30], "output_tokens": [3, 1, 2]}
    return pd.DataFrame(base | columns)


def test_calls_come_back_in_order_with_their_times() -> None:
    run = simulate_calls(SERVERS, requests(budget_s=[5.0, 6.0, np.nan]), server_index=np.array([0, 1, 0]))
    calls = run.calls

    assert calls["server"].tolist() == ["a", "b", "a"]
    assert calls["model"].tolist() == ["a-model", "b-model", "a-model"]
    assert calls["finish_s"].tolist() == [3.0, 1.5, 12.0]
    assert calls["ttft_s"].tolist() == [1.0, 1.0, 1.0]
    assert calls["tpot_s"].tolist()[0::2] == [1.0, 1.0]
    assert np.isnan(calls["tpot_s"][1])
    assert calls["deadline_s"].tolist()[:2] == [5.0, 6.5]
    assert calls["output_tokens"].tolist() == [3, 1, 2]
    assert run.utilisation == {"a": pytest.approx(5 / 12), "b": pytest.approx(1 / 12)}


def test_tables_fit_the_schemas() -> None:
    run = simulate_calls(SERVERS, requests(), server_index=np.array([0, 1, 0]))

    assert to_table(run.calls, CALLS).num_rows == 3
    assert to_table(run.samples, SAMPLES).num_rows == len(run.samples)
    assert run.samples["time_s"].tolist()[:4] == [0.0, 0.0, 1.0, 1.0]


def test_failures_are_rows_too() -> None:
    calls = simulate_calls(SERVERS, requests(prompt_tokens=[10, 5000, 30])).calls

    assert calls["outcome"].tolist() == ["finished", "rejected: never fits", "finished"]
    assert calls["output_tokens"].tolist() == [3, 0, 2]
    assert np.isnan(calls["e2e_s"][1])


def test_an_empty_max_tokens_leaves_the_output_as_it_is() -> None:
    """In a column that only some rows fill, an empty cell means no limit of its own, not a limit of 0."""
    run = simulate_calls(SERVERS, requests(max_tokens=[np.nan, np.nan, 1]))

    assert run.calls["output_tokens"].tolist() == [3, 1, 1]


def test_shared_prefixes_of_every_kind_of_table() -> None:
    """prefix_group/prefix_tokens and Mooncake's hashes both lead to hits: 6 blocks of 16 of the first 100 tokens, and
    all but the last of the 32 blocks of a 512-token prompt."""
    grouped = requests(prompt_tokens=[150, 150, 150], prefix_group=["g", "g", None], prefix_tokens=[100, 100, 0])
    assert simulate_calls(SERVERS, grouped).calls["num_cached_tokens"].tolist() == [0, 96, 0]

    mooncake = requests(prompt_tokens=[512, 512, 600], prefix_hashes=[(7,), (7,), (7, 8)])
    assert simulate_calls(SERVERS, mooncake).calls["num_cached_tokens"].tolist() == [0, 496, 512]


def closed(*loops: float, arrival_s: list[float], client_s: float = 0.0) -> pd.DataFrame:
    """Requests of 2 s, each in a loop of so many."""
    table = requests(arrival_s=arrival_s, prompt_tokens=10, output_tokens=2, closed_loop=list(loops))
    return simulate_calls(SERVERS[:1], table, client_s=client_s).calls


def test_a_request_of_a_closed_loop_waits_for_one_before_it() -> None:
    """Measured on a server that took a second, replayed on one that takes two: none meets another one.

    What comes after the loop is as much later as the loop ended late.
    """
    calls = closed(1, 1, 1, np.nan, np.nan, arrival_s=[1.0, 2.0, 3.0, 5.0, 5.5])

    assert calls["arrival_s"].tolist() == [1.0, 3.0, 5.0, 7.0, 7.5]
    assert calls["e2e_s"].tolist()[:4] == [2.0, 2.0, 2.0, 2.0]


def test_a_server_faster_than_the_measured_one_begins_each_load_when_that_one_did() -> None:
    calls = closed(0, 1, 1, 0, 0, arrival_s=[0.0, 10.0, 15.0, 20.0, 21.0])

    assert calls["arrival_s"].tolist() == [0.0, 10.0, 12.0, 20.0, 21.0]


def test_so_many_requests_of_a_closed_loop_are_open_at_a_time() -> None:
    """A larger loop begins when the smaller one has ended, and an answer takes a while to reach its client."""
    calls = closed(1, 2, 2, 2, 2, arrival_s=[0.0, 1.0, 1.5, 2.0, 2.0], client_s=0.25)

    # The second client comes within a step of the first one's request, and its own waits for the next step.
    assert calls["arrival_s"].tolist() == [0.0, 2.25, 2.75, 4.5, 5.5]


def test_a_server_that_refuses_ends_no_closed_loop() -> None:
    table = requests(prompt_tokens=[10, 5000, 10], closed_loop=1)

    assert simulate_calls(SERVERS, table).calls["arrival_s"].tolist() == pytest.approx([0.0, 3.0, 3.0])


def test_fast_forward_and_step_by_step_give_the_same_tables() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "arrival_s": np.cumsum(rng.exponential(3.0, 300)),
            "prompt_tokens": rng.integers(1, 900, 300),
            "output_tokens": rng.integers(1, 100, 300),
        }
    )
    fast = simulate_calls(SERVERS, table)
    slow = simulate_calls(SERVERS, table, fast_forward=False)

    pd.testing.assert_frame_equal(fast.calls, slow.calls)
    pd.testing.assert_frame_equal(fast.samples, slow.samples)
    assert fast.utilisation == slow.utilisation


def test_progress_reaches_the_total() -> None:
    seen: list[int] = []
    simulate_calls(SERVERS, requests(), on_progress=seen.append)

    assert seen[-1] == 3


def test_progress_of_a_lone_request_at_the_start() -> None:
    """All arrivals at 0 leave no time to divide into hundredths; the run must end all the same."""
    seen: list[int] = []
    simulate_calls(SERVERS, requests().head(1), on_progress=seen.append)

    assert seen[-1] == 1
    assert len(seen) < 10


def test_no_requests_is_no_error() -> None:
    run = simulate_calls(SERVERS, requests().head(0))

    assert len(run.calls) == len(run.samples) == 0
    assert run.calls.columns.tolist() == CALLS.names
