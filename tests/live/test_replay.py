"""Live runs: what is written, what Ctrl-C leaves, and going on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_vllm import Behaviour
from live_world import arrive, controller, every, fake_pool, replay_on, run_on
from policies import EveryPlan, FixedPlan, RandomChoice

from inframind.live import RunLog, resumed, run_tables
from inframind.live.replay import _signals_to
from inframind.traces import CALLS, SAMPLES, WORKFLOWS, ConfigError, TraceError, to_table
from inframind.workflows import Arrived, MetricsPolled, replay

BOTH = [Behaviour(model="m0"), Behaviour(model="m1")]


def test_the_tables_say_what_was_asked_and_when(tmp_path: Path) -> None:
    core = controller(FixedPlan("IO", "MathSolver+Inspector"))
    with fake_pool(*BOTH) as servers:
        calls, workflows, samples = run_on(servers, every(0.05, 6, budget_s=20.0), tmp_path, core)

    for frame, schema in ((calls, CALLS), (workflows, WORKFLOWS), (samples, SAMPLES)):
        assert list(to_table(frame, schema).schema.names) == schema.names
    assert len(calls) == 18
    assert set(calls["outcome"]) == {"finished"}
    assert set(calls["output_tokens"]) == {10}
    assert (calls["arrival_s"] < calls["first_token_s"]).all()
    assert (calls["first_token_s"] < calls["finish_s"]).all()
    assert (calls["deadline_s"] - calls["priority"] / 1000).abs().max() < 0.001
    assert list(workflows["workflow_id"]) == [f"q{number}" for number in range(6)]
    late_s = workflows["arrival_s"] - [0.05 * number for number in range(6)]
    assert late_s.between(0, 0.5).all()
    assert workflows["on_time"].all()
    assert set(workflows["num_calls"]) == {3}
    last = calls.groupby("workflow_id")["finish_s"].max()
    assert (workflows.set_index("workflow_id")["finish_s"] - last).between(0, 0.5).all()
    assert set(samples["server"]) == {"s0", "s1"}


def test_calls_on_all_servers_share_one_limit(tmp_path: Path) -> None:
    """Of a dozen that are wanted at once."""
    slow = [Behaviour(model=f"m{index}", step_s=0.01) for index in range(2)]
    with fake_pool(*slow) as servers:
        replay_on([server.url for server in servers], every(0.0, 12), tmp_path, controller(), max_open=3)
    calls = run_tables(tmp_path, controller().servers).calls
    open_then = [((calls["arrival_s"] <= t) & (calls["finish_s"] > t)).sum() for t in calls["arrival_s"]]

    assert list(calls["outcome"]) == ["finished"] * 12
    assert set(calls["server"]) == {"s0", "s1"}
    assert max(open_then) == 3


def test_the_log_is_there_while_the_run_goes_on(tmp_path: Path) -> None:
    """Turn by turn: whatever ends the run, what has happened is on the disk."""
    lengths = []

    class Watching:
        def choose(self, observation: object) -> tuple[int, str]:
            lengths.append((tmp_path / "events.jsonl").read_text().count('"kind":"Arrived"'))
            return 0, "Flash"

    with fake_pool(*BOTH) as servers:
        run_on(servers, every(0.05, 5), tmp_path, controller(executor=Watching()))  # type: ignore[arg-type]

    assert lengths[:5] == [0, 1, 2, 3, 4]


def test_a_policys_mistake_ends_the_run_with_its_name(tmp_path: Path) -> None:
    class Nowhere:
        def choose(self, observation: object) -> tuple[int, str]:
            return 7, "Flash"

    with fake_pool(*BOTH) as servers, pytest.raises(ConfigError, match="executor Nowhere"):
        run_on(servers, every(0.05, 5), tmp_path, controller(executor=Nowhere()))  # type: ignore[arg-type]


SCRIPT = """
import sys
from pathlib import Path
from live_world import controller, every, replay_on
from policies import EveryPlan, RandomChoice
folder, *urls = sys.argv[1:]
sys.exit(0 if replay_on(urls, every(0.04, 50), Path(folder), controller(EveryPlan(), RandomChoice(3))) else 9)
"""


def broken_off(folder: Path, how: signal.Signals) -> int:
    """A run in a process of its own, ended by a signal, and gone on with here; returns the exit code of the first."""
    support = Path(__file__).parents[1] / "support"
    slow = [Behaviour(model=f"m{index}", step_s=0.02) for index in range(2)]
    with fake_pool(*slow) as servers:
        urls = [server.url for server in servers]
        run = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, folder, *urls], env=os.environ | {"PYTHONPATH": str(support)}
        )
        while sum(len(server.seen) for server in servers) < 20:
            time.sleep(0.02)
            assert run.poll() is None
        run.send_signal(how)
        code = run.wait(20)
        assert replay_on(urls, every(0.04, 50), folder, controller(EveryPlan(), RandomChoice(3)))
    return code


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_broken_off_goes_on_with_the_queries_not_yet_begun(how: signal.Signals, tmp_path: Path) -> None:
    """And the log of both parts repeats every decision of policies that draw."""
    code = broken_off(tmp_path, how)
    _, workflows, _ = run_tables(tmp_path, controller().servers)

    assert code == (-9 if how is signal.SIGKILL else 9)
    assert list(workflows["workflow_id"]) == [f"q{number}" for number in range(50)]
    assert set(workflows["outcome"]) == {"finished", "stopped"}
    assert (workflows["outcome"] == "stopped").any()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert replay(lines, EveryPlan(), RandomChoice(3)).difference is None


def test_the_second_ctrl_c_ends_a_run_at_once() -> None:
    """The first one asks it to stop, and whatever it still waits for would keep it."""
    asked = []

    async def interrupted_twice() -> None:
        with _signals_to(lambda: asked.append("to stop")):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(0.05)
            await asyncio.sleep(60)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(interrupted_twice())
    finally:
        signal.signal(signal.SIGINT, before)

    assert asked == ["to stop"]


def test_a_run_that_goes_on_counts_the_queries_of_its_first_part(tmp_path: Path) -> None:
    """And client.json, whole at any moment, has both parts."""
    views = []
    with fake_pool(*BOTH) as servers:
        urls = [server.url for server in servers]
        replay_on(urls, every(0.02, 6), tmp_path, controller())
        (tmp_path / "before.json").hardlink_to(tmp_path / "client.json")
        replay_on(urls, every(0.02, 8), tmp_path, controller(), lambda view: views.append(replace(view)))

    first = views[0]
    assert (first.num_arrived, first.num_ended, first.num_on_time, first.num_calls) == (6, 6, 6, 0)
    parts = [len(json.loads((tmp_path / name).read_text())["parts"]) for name in ("before.json", "client.json")]
    assert parts == [1, 2]


def test_a_turn_that_was_torn_is_completed(tmp_path: Path) -> None:
    """Killed between an event and its command, and in the middle of a line."""
    core = controller()
    with RunLog(tmp_path, core) as log:
        for event in (MetricsPolled(0.0, 0, 0, 0, 0.0), arrive(0.5, "a"), arrive(1.0, "b")):
            log.on_turn(event, core.receive(event))
    path = tmp_path / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:30])
    before = resumed(tmp_path, again := controller())

    assert before == (1.0, {"a", "b"}, 0)
    assert again.num_active == again.num_calls == 0
    assert path.read_text().startswith("".join(lines))
    assert replay(path.read_text().splitlines(), FixedPlan(), controller().executor).difference is None
    assert set(run_tables(tmp_path, core.servers).workflows["outcome"]) == {"stopped"}


def test_a_policy_that_decides_otherwise_now_cannot_go_on(tmp_path: Path) -> None:
    core = controller()
    with RunLog(tmp_path, core) as log:
        event: Arrived = arrive(0.5, "a")
        log.on_turn(event, core.receive(event))

    with pytest.raises(TraceError, match="decided otherwise now; start anew"):
        resumed(tmp_path, controller(FixedPlan("Chain", "Inspector+MathSolver")))
