"""A live run whose servers misbehave: no query is lost, each ends with a named outcome, and the log repeats itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_vllm import Behaviour, FakeVllm
from live_world import controller, every, fake_pool, run_on

from inframind.live import pool_server
from inframind.workflows import ControllerOptions, MetricsPolled, ServerClosed, ServerOpened
from inframind.workflows.log import read_log


@contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[None]:
    """Do something while the run goes on."""
    thread = threading.Thread(target=action)
    thread.start()
    yield
    thread.join()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def events(folder: Path) -> list[object]:
    return [event for event, _ in read_log((folder / "events.jsonl").read_text().splitlines())[2]]


def polls(folder: Path, server: int) -> list[MetricsPolled]:
    return [event for event in events(folder) if isinstance(event, MetricsPolled) and event.server == server]


def two(**first: object) -> tuple[Behaviour, Behaviour]:
    return Behaviour(model="m0", **first), Behaviour(model="m1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("503", "rejected"),
        ("429", "rejected"),
        ("500", "server error"),
        ("cut", "stream cut"),
        ("garbage", "garbage in the stream"),
        ("nested", "garbage in the stream"),
        ("no gzip", "garbage in the stream"),
        ("error", "server error"),
        ("no usage", "wrong length"),
        ("short", "wrong length"),
    ],
)
def test_a_call_that_fails_is_made_elsewhere_and_every_query_is_answered(
    fault: str, outcome: str, tmp_path: Path
) -> None:
    with fake_pool(*two(faults=[fault] * 5)) as servers:
        calls, workflows, _ = run_on(servers, every(0.02, 20), tmp_path)

    assert list(workflows["outcome"]) == ["finished"] * 20
    assert list(calls.loc[calls["outcome"] != "finished", "outcome"]) == [outcome] * 5
    assert len(calls) == 25
    failed = calls[calls["outcome"] != "finished"]
    assert set(failed["server"]) == {"s0"}
    assert failed[["tpot_s", "e2e_s"]].isna().all(axis=None)


def test_a_query_whose_calls_all_fail_ends_with_a_named_outcome(tmp_path: Path) -> None:
    """Three tries of each."""
    both = [Behaviour(model=f"m{index}", fault_always="cut") for index in range(2)]
    with fake_pool(*both) as servers:
        calls, workflows, _ = run_on(servers, every(0.02, 5), tmp_path)

    assert list(workflows["outcome"]) == ["failed: call failed"] * 5
    assert not workflows["on_time"].any()
    assert len(calls) == 15


def test_a_killed_server_is_closed_until_it_answers_again(tmp_path: Path) -> None:
    """Its streams break; while it is away calls go to the other one; restarted, it has calls again."""
    with fake_pool(*two(step_s=0.02)) as servers:
        back = FakeVllm(Behaviour(model="m0", process_start_s=2000.0), port=int(servers[0].url.rpartition(":")[2]))

        def kill_and_restart() -> None:
            wait_for(lambda: len(servers[0].seen) >= 15)
            servers[0].die()
            num_seen = len(servers[1].seen)
            wait_for(lambda: len(servers[1].seen) >= num_seen + 10)
            back.__enter__()

        with meanwhile(kill_and_restart):
            calls, workflows, _ = run_on(servers, every(0.03, 150), tmp_path)
        back.die()

    assert list(workflows["outcome"]) == ["finished"] * 150
    closed, opened = (event for event in events(tmp_path) if isinstance(event, ServerClosed | ServerOpened))
    assert isinstance(closed, ServerClosed)
    assert isinstance(opened, ServerOpened)
    at_s0 = calls["arrival_s"][calls["server"] == "s0"]
    assert not at_s0.between(closed.t + 0.1, opened.t - 0.1).any()
    assert (at_s0 < closed.t).any()
    assert (at_s0 > opened.t).any()
    assert set(calls.loc[calls["outcome"] != "finished", "outcome"]) <= {"stream cut", "unreachable"}
    assert json.loads((tmp_path / "client.json").read_text())["parts"][0]["server_restarts"] == 1


def test_with_no_server_at_all_each_query_waits_and_says_so(tmp_path: Path) -> None:
    with fake_pool(*two()) as servers:
        for server in servers:
            server.die()
        calls, workflows, _ = run_on(servers, every(0.05, 4, budget_s=1.0), tmp_path)

    assert set(workflows["outcome"]) <= {"failed: no open server", "failed: call failed"}
    assert len(workflows) == 4
    assert set(calls["outcome"]) == {"unreachable"}


def gauges(running: str = "0", waiting: str = "0", usage: str = "0") -> str:
    values = {"num_requests_running": running, "num_requests_waiting": waiting, "kv_cache_usage_perc": usage}
    return "".join(f"vllm:{name} {value}\n" for name, value in values.items())


@pytest.mark.parametrize(
    "metrics",
    [
        *("garbage {{{ 1", "", "vllm:num_requests_running{x= 3\n"),
        *(gauges(waiting="NaN"), gauges(running="+Inf"), gauges(usage="NaN")),
    ],
)
def test_metrics_that_cannot_be_read_make_the_gauges_old_and_nothing_else(metrics: str, tmp_path: Path) -> None:
    with fake_pool(*two(metrics=metrics)) as servers:
        _, workflows, samples = run_on(servers, every(0.02, 20), tmp_path)

    assert list(workflows["outcome"]) == ["finished"] * 20
    assert polls(tmp_path, 0) == []
    assert set(samples["server"]) == {"s1"}
    assert not [event for event in events(tmp_path) if isinstance(event, ServerClosed)]
    part = json.loads((tmp_path / "client.json").read_text())["parts"][0]
    assert 0 < part["polls_failed"] < part["polls"]


def test_metrics_that_do_not_come_in_time_close_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times in a row: further calls go elsewhere, those that are under way there end."""
    monkeypatch.setattr(pool_server, "POLL_TIMEOUT_S", 0.1)
    with fake_pool(*two(metrics_s=1.0)) as servers:
        calls, workflows, _ = run_on(servers, every(0.05, 30), tmp_path)

    assert list(workflows["outcome"]) == ["finished"] * 30
    assert polls(tmp_path, 0) == []
    (closed,) = (event for event in events(tmp_path) if isinstance(event, ServerClosed | ServerOpened))
    assert isinstance(closed, ServerClosed)
    at_s0 = calls["arrival_s"][calls["server"] == "s0"]
    assert 0 < len(at_s0) < 15
    assert (at_s0 <= closed.t).all()


def test_metrics_that_stand_still_while_output_comes_are_not_believed(tmp_path: Path) -> None:
    """Frozen at the start: once pieces of output arrive and the count of tokens does not move, polls are not told."""
    with fake_pool(*two(step_s=0.01)) as servers:
        servers[0].behaviour.metrics = servers[0].metrics_text()
        run_on(servers, every(0.02, 60), tmp_path)

    assert len(polls(tmp_path, 0)) < 0.5 * len(polls(tmp_path, 1))


def test_a_server_ten_times_slower_has_fewer_calls_and_loses_none(tmp_path: Path) -> None:
    """Joining the shortest queue sees it by the calls in flight."""
    with fake_pool(*two(step_s=0.02)) as servers:
        servers[1].behaviour.step_s = 0.002
        calls, workflows, _ = run_on(servers, every(0.02, 50), tmp_path)

    assert list(workflows["outcome"]) == ["finished"] * 50
    shares = calls["server"].value_counts()
    assert shares["s0"] < shares["s1"]


def test_a_late_event_loop_is_measured(tmp_path: Path) -> None:
    """A policy that thinks for 50 ms at each call: the loop, and arrivals that fall into it, are late."""

    class Slow:
        def choose(self, observation: object) -> tuple[int, str]:
            time.sleep(0.05)
            return 0, "Flash"

    with fake_pool(*two()) as servers:
        run_on(servers, every(0.03, 20), tmp_path, controller(executor=Slow()))  # type: ignore[arg-type]

    part = json.loads((tmp_path / "client.json").read_text())["parts"][0]
    assert part["loop_late_p99_s"] > 0.03
    assert part["arrival_late_max_s"] > 0.03
    assert part["arrivals"] == 20


def test_hopeless_workflows_are_cancelled_and_their_calls_given_up(tmp_path: Path) -> None:
    options = ControllerOptions(cancel_hopeless=True)
    stalling = [Behaviour(model=f"m{index}", fault_always="stall") for index in range(2)]
    with fake_pool(*stalling) as servers:
        calls, workflows, _ = run_on(servers, every(0.02, 4, budget_s=0.5), tmp_path, controller(options=options))

    assert list(workflows["outcome"]) == ["cancelled: hopeless"] * 4
    assert list(calls["outcome"]) == ["aborted"] * 4
    assert set(calls["server"]) == {"s0", "s1"}
