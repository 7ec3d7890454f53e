"""Profiling a fake server that misbehaves on demand: what is logged, what ends a profile, and how it goes on."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_vllm import Behaviour, FakeVllm

from inframind.calibration.profile import ProfileOptions, ProfileReport, profile_server, record_loads
from inframind.calibration.profile_plan import Ask, Condition, with_shared_starts
from inframind.calibration.profile_server_file import Stated
from inframind.live import Client, RequestError, ServerError
from inframind.sim import load_server_to_fit
from inframind.traces import ConfigError, read_requests

BUDGET_S = 5.0


@pytest.fixture(autouse=True)
def _poll_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inframind.calibration.profile.POLL_S", 0.02)


def swept(server: FakeVllm, folder: Path, *, resume: bool = False, **options: Any) -> ProfileReport:
    return profile_server(ProfileOptions(server.url, budget_s=BUDGET_S, **options), folder, resume=resume)


def loaded(server: FakeVllm, folder: Path, *conditions: Condition, **options: Any) -> ProfileReport:
    return record_loads(ProfileOptions(server.url, **options), folder, conditions)


def lines(folder: Path, name: str = "requests.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def light(number: int = 4) -> Condition:
    return Condition("light", [Ask(20, 5)] * number, concurrency=1)


# A server that behaves.


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProfileReport, FakeVllm]:
    """A whole profile; slow enough to be full at a few requests at a time."""
    folder = tmp_path_factory.mktemp("profile") / "log"
    with pytest.MonkeyPatch.context() as patch, FakeVllm(Behaviour(step_s=0.002)) as server:
        patch.setattr("inframind.calibration.profile.POLL_S", 0.02)
        report = swept(server, folder)
    return folder, report, server


Good = tuple[Path, ProfileReport, FakeVllm]


def test_a_profile_covers_light_load_saturation_and_overload(good: Good) -> None:
    """What else there is depends on how much a busy machine does in the time; see the tests of the plan."""
    _, report, _ = good

    assert {"warm-up", "light", "saturate-2", "open-1.2"} <= set(report.conditions)
    assert report.num_finished == report.num_requests > 50


def test_every_request_has_the_length_that_was_asked_for(good: Good) -> None:
    folder, report, server = good
    asked = Counter((len(body["prompt"]), body["max_tokens"]) for body in server.seen)

    assert asked == Counter((line["prompt_tokens"], line["output_tokens"]) for line in lines(folder))
    assert len(server.seen) == report.num_requests


def test_prompts_share_nothing_unless_asked_to(good: Good) -> None:
    """The first block of a prompt is in the cache only where a shared start put it there."""
    folder, _, server = good
    starts = Counter(tuple(body["prompt"][:16]) for body in server.seen)
    shared = Counter(line["prefix_group"] for line in lines(folder) if line["prefix_group"])

    assert sorted(count for count in starts.values() if count > 1) == sorted(n for n in shared.values() if n > 1)
    assert len(shared) <= 4


def test_the_table_holds_every_finished_request_but_the_warm_up(good: Good) -> None:
    folder, report, _ = good
    frame = read_requests(folder / "requests.csv")

    assert len(frame) == report.num_requests - len(report.conditions["warm-up"].answers)
    assert frame["arrival_s"].is_monotonic_increasing
    assert (frame["ttft_s"] <= frame["e2e_s"]).all()
    assert set(frame["condition"]) == report.conditions.keys() - {"warm-up"}
    loops = frame.groupby("condition")["closed_loop"].unique()
    assert (loops["light"], loops["saturate-2"], loops["open-1.2"]) == ([1], [2], [0])


def test_queues_are_sampled(good: Good) -> None:
    folder, _, _ = good
    samples = pd.read_csv(folder / "samples.csv")

    assert list(samples) == ["time_s", "server", "waiting", "running", "kv_usage"]
    assert set(samples["server"]) == {"fake"}
    assert samples["running"].max() == 4
    assert samples["waiting"].max() > 0
    assert samples["time_s"].is_monotonic_increasing


def test_what_the_load_shows_of_the_server_is_found(good: Good) -> None:
    _, report, _ = good
    options = {option.name: option for option in report.options}

    assert options["max_num_seqs"].value == 4
    assert "shown" in options["max_num_seqs"].origin
    assert options["async_scheduling"].is_assumed


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_whether_priorities_are_honoured_is_found(tmp_path: Path, policy: str) -> None:
    dealt = [3, 14, 0, 9, 12, 6, 15, 1, 10, 5, 13, 2, 8, 4, 11, 7]
    probe = Condition("priority", [Ask(16, 16, priority=rank) for rank in dealt])
    with FakeVllm(Behaviour(policy=policy, max_num_seqs=2, step_s=0.02)) as server:
        report = loaded(server, tmp_path / "log", probe)

    (found,) = [option for option in report.options if option.name == "policy"]
    assert (found.value, found.is_assumed) == (policy, False)


def test_the_server_file_is_one_to_fit(good: Good) -> None:
    folder, _, _ = good
    server = load_server_to_fit(folder / "server.toml")

    assert (server.name, server.model, server.step_time) == ("fake", "owner/fake", None)
    assert (server.scheduler.num_blocks, server.scheduler.block_size, server.scheduler.max_num_seqs) == (500, 16, 4)


def test_the_facts_are_kept(good: Good) -> None:
    folder, _, server = good
    facts = json.loads((folder / "server.json").read_text())

    assert facts["server"]["url"] == server.url
    assert facts["server"]["num_gpu_blocks"] == 500
    assert facts["options"]["budget_s"] == BUDGET_S
    assert facts["client"]["round_trip_s"] > 0
    assert facts["client"]["late_p50_s"] < 0.1


def test_a_complete_profile_is_resumed_without_a_request(good: Good) -> None:
    """Another statement of the person changes the server file alone."""
    folder, report, _ = good
    with FakeVllm() as server:
        again = swept(server, folder, resume=True, stated=Stated(max_num_batched_tokens=512))

    assert server.seen == []
    assert again.conditions == report.conditions
    assert "max_num_batched_tokens = 512  # stated" in (folder / "server.toml").read_text()


# Servers that do not.


def test_failures_have_names_and_end_nothing_while_they_are_few(tmp_path: Path) -> None:
    faults = ["cut", "garbage", "503", "500", "short"]
    with FakeVllm(Behaviour(faults=faults)) as server:
        report = loaded(server, tmp_path / "log", Condition("light", [Ask(20, 5)] * 12))

    outcomes = Counter(line["outcome"] for line in lines(tmp_path / "log"))
    assert outcomes == {
        "finished": 7,
        **dict.fromkeys(
            ("stream cut", "garbage in the stream", "rejected", "server error", "wrong length"),
            1,
        ),
    }
    assert (report.num_finished, report.num_requests) == (7, 12)
    kept = read_requests(tmp_path / "log" / "requests.csv")
    assert len(kept) == 10  # the two that got no token put no load on it
    assert kept["ttft_s"].notna().sum() == 7


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("cut", "5 requests in a row failed; the last one: stream cut: after 2 pieces"),
        ("garbage", "5 requests in a row failed; the last one: garbage in the stream"),
        ("500", "5 requests in a row failed; the last one: server error: 500: told by 500"),
        ("short", "5 requests in a row failed; the last one: wrong length: 4 output tokens, asked for 5"),
        ("no usage", "5 requests in a row failed; the last one: wrong length: no usage field"),
    ],
)
def test_a_server_that_only_fails_is_given_up(tmp_path: Path, fault: str, message: str) -> None:
    with FakeVllm(Behaviour(fault_always=fault)) as server, pytest.raises(ServerError, match=message):
        loaded(server, tmp_path / "log", light(20))

    assert len(lines(tmp_path / "log")) == 5


def test_a_server_that_takes_no_requests_is_given_up_after_a_condition(tmp_path: Path) -> None:
    with (
        FakeVllm(Behaviour(fault_always="503")) as server,
        pytest.raises(ServerError, match="no request of burst finished; the last one: rejected, 503: told by 503"),
    ):
        loaded(server, tmp_path / "log", Condition("burst", [Ask(20, 5)] * 8))


def test_a_request_that_the_server_refuses_ends_it_at_once(tmp_path: Path) -> None:
    with FakeVllm() as server, pytest.raises(RequestError, match="400: longer than max_model_len"):
        loaded(server, tmp_path / "log", Condition("light", [Ask(20, 5), Ask(3000, 5), Ask(20, 5)], concurrency=1))

    assert [line["outcome"] for line in lines(tmp_path / "log")] == ["finished", "refused"]


def test_a_server_that_stalls_times_out(tmp_path: Path) -> None:
    message = r"ReadTimeout after 0\.\d s; --timeout waits longer"
    with FakeVllm(Behaviour(fault_always="stall")) as server, pytest.raises(ServerError, match=message):
        loaded(server, tmp_path / "log", light(), timeout_s=0.3)


def test_a_server_that_dies_loses_no_finished_request(tmp_path: Path) -> None:
    with FakeVllm(Behaviour(dies_after=6)) as server, pytest.raises(ServerError):
        loaded(server, tmp_path / "log", light(50))

    finished = [line for line in lines(tmp_path / "log") if line["outcome"] == "finished"]
    assert len(finished) >= 6
    assert len(read_requests(tmp_path / "log" / "requests.csv").dropna(subset="e2e_s")) == len(finished)
    assert lines(tmp_path / "log", "conditions.jsonl")[-1]["outcome"] == "stopped"


def test_a_restart_in_the_middle_is_noticed(tmp_path: Path) -> None:
    """A new process has an empty cache and may have other options."""
    with FakeVllm() as server:
        threading.Timer(0.5, setattr, (server.behaviour, "process_start_s", 2000.0)).start()
        with pytest.raises(ServerError, match="the server was restarted meanwhile"):
            loaded(server, tmp_path / "log", light(100_000))


def test_metrics_that_turn_to_garbage_end_it(tmp_path: Path) -> None:
    with FakeVllm() as server:
        threading.Timer(0.5, setattr, (server.behaviour, "metrics", "<html>")).start()
        with pytest.raises(ServerError, match="/metrics"):
            loaded(server, tmp_path / "log", light(100_000))

    *kept, last = read_requests(tmp_path / "log" / "requests.csv")["outcome"]
    assert set(kept) == {"finished"}
    assert last in ("finished", "stopped")


def test_a_slow_server_is_asked_for_less(tmp_path: Path) -> None:
    """Ten times slower: shorter prompts and outputs, and still in time."""
    with FakeVllm(Behaviour(step_s=0.02, prefill_token_s=2e-4, max_num_seqs=2)) as server:
        begin_s = time.monotonic()
        report = swept(server, tmp_path / "log")

    asked = [(a.prompt_tokens, a.output_tokens) for ended in report.conditions.values() for a in ended.answers]
    assert max(prompt for prompt, _ in asked if prompt not in (1000, 1024)) < 1000
    assert max(output for _, output in asked) <= 16
    assert time.monotonic() - begin_s < 3 * BUDGET_S


def test_shared_prompts_are_equal_just_as_far_as_the_log_says(tmp_path: Path) -> None:
    asks = with_shared_starts([Ask(40, 2)] * 8, 24)
    with FakeVllm() as server:
        loaded(server, tmp_path / "log", Condition("prefix", asks, concurrency=1))
    prompts = [body["prompt"] for body in server.seen]

    for first, second in zip(prompts[:4], prompts[4:], strict=True):
        assert first[:24] == second[:24]
        assert first[24:] != second[24:]
    assert [line["prefix_group"] for line in lines(tmp_path / "log")] == [
        f"prefix-1-group-{number}" for number in (0, 1, 2, 3, 0, 1, 2, 3)
    ]


# Going on.


@contextmanager
def command(server: FakeVllm, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The real command in a process of its own."""
    words = [sys.executable, "-m", "inframind.cli", "calibrate", "profile", server.url, "-o", str(folder)]
    with subprocess.Popen(
        [*words, "--minutes", str(BUDGET_S / 60), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def wait_for_requests(folder: Path, number: int) -> None:
    log = folder / "requests.jsonl"
    deadline = time.monotonic() + 30
    while not log.exists() or len(log.read_text().splitlines()) < number:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_profile_loses_nothing_and_goes_on(tmp_path: Path, kind: signal.Signals) -> None:
    """Ctrl-C, and a crash that leaves no time to say good-bye."""
    folder = tmp_path / "log"
    with FakeVllm(Behaviour(step_s=0.002)) as server:
        with command(server, folder) as process:
            wait_for_requests(folder, 30)
            os.kill(process.pid, kind)
            _, said = process.communicate(timeout=20)
        before = lines(folder)
        complete = [
            line["condition"] for line in lines(folder, "conditions.jsonl") if line.get("outcome") == "complete"
        ]
        assert process.returncode == (130 if kind is signal.SIGINT else -signal.SIGKILL)
        if kind is signal.SIGINT:
            assert said == f"{len(before)} requests are in {folder}; the same command with --resume goes on\nstopped\n"
            assert read_requests(folder / "requests.csv")["ttft_s"].notna().any()
        report = swept(server, folder, resume=True)

    after = lines(folder)
    assert after[: len(before)] == before
    assert "warm-up" in complete
    again = Counter(line["condition"] for line in after[len(before) :])
    assert not again.keys() & set(complete)
    assert {"light", "open-1.2"} <= report.conditions.keys()
    assert after[len(before)]["arrival_s"] > before[-1]["arrival_s"]
    assert read_requests(folder / "requests.csv")["arrival_s"].is_monotonic_increasing


def test_another_server_is_not_taken_for_the_first(tmp_path: Path) -> None:
    with FakeVllm() as server:
        loaded(server, tmp_path / "log", light())
        server.behaviour.num_gpu_blocks = 400
        server.behaviour.max_model_len = 1024
        with pytest.raises(ConfigError) as error:
            profile_server(ProfileOptions(server.url), tmp_path / "log", resume=True)

    assert error.value.problems == (
        "the server's max_model_len was 2048, and is 1024",
        "the server's num_gpu_blocks was 500, and is 400",
    )


def test_a_restarted_server_is_warmed_up_again(tmp_path: Path) -> None:
    """Once for each process, before anything that counts; and it may have a block more or less."""
    folder = tmp_path / "log"
    with FakeVllm(Behaviour(step_s=0.002)) as server:
        swept(server, folder)
        complete = len(lines(folder))
        server.behaviour.process_start_s, server.behaviour.num_gpu_blocks = 2000.0, 499
        report = swept(server, folder, resume=True)
        warmed_up = len(lines(folder))
        again = swept(server, folder, resume=True)

    assert {line["condition"] for line in lines(folder)[complete:]} == {"warm-up"}
    assert len(lines(folder)) == warmed_up > complete
    assert "warm-up" not in set(read_requests(folder / "requests.csv")["condition"])
    assert report.remarks == (
        "the server's num_gpu_blocks was 500, and is 499: a restart does that, and it is the same server",
    )
    assert again.remarks == ()
    assert load_server_to_fit(folder / "server.toml").scheduler.num_blocks == 499


def test_a_profile_that_is_stopped_before_it_began_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(_: Client) -> float:
        raise KeyboardInterrupt

    with FakeVllm() as server:
        with monkeypatch.context() as patch:
            patch.setattr("inframind.calibration.profile.round_trip_s", interrupted)
            with pytest.raises(KeyboardInterrupt):
                loaded(server, tmp_path / "log", light())
        assert not (tmp_path / "log").exists()
        assert loaded(server, tmp_path / "log", light()).num_finished == 4


def test_another_sweep_is_not_mixed_with_the_first(tmp_path: Path) -> None:
    with FakeVllm() as server:
        loaded(server, tmp_path / "log", light())
        with pytest.raises(ConfigError, match=r"option seed was 0, and is 3"):
            profile_server(ProfileOptions(server.url, seed=3), tmp_path / "log", resume=True)


def test_a_second_profile_finds_nothing_of_the_first_in_the_cache(tmp_path: Path) -> None:
    """The same seed gives the same lengths and times; the prompts themselves are new."""
    conditions = [Condition("light", with_shared_starts([Ask(40, 2)] * 6, 32), concurrency=1)]
    with FakeVllm() as server:
        loaded(server, tmp_path / "one", *conditions)
        loaded(server, tmp_path / "two", *conditions)

    starts = [tuple(body["prompt"][:32]) for body in server.seen]
    assert len(set(starts[:6])) == len(set(starts[6:])) == 4
    assert not set(starts[:6]) & set(starts[6:])


def test_samples_are_what_a_spreadsheet_reads(tmp_path: Path) -> None:
    with FakeVllm() as server:
        loaded(server, tmp_path / "log", light(30))
    with (tmp_path / "log" / "samples.csv").open(newline="") as source:
        rows = list(csv.DictReader(source))

    assert rows
    assert all(float(row["kv_usage"]) <= 1 for row in rows)
