"""The scheduler against what vLLM's own class did: recordings, and experiments small enough to check by hand."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from sim_world import World, options

from inframind.sim import FastForwardScheduler, Request, Scheduler, SchedulerOptions, StepTime, to_seconds, to_ticks
from inframind.sim.recording import recorded_request, scheduler_options
from inframind.sim.verify import TIME_TOLERANCE_S, first_difference

OURS = sorted((Path(__file__).parent / "recordings").glob("*.json.gz"))
SHARED = Path(os.environ.get("INFRAMIND_SHARED", Path(__file__).parents[2].parent / "shared")) / "vllm-schedules"
THEIRS = sorted(SHARED.glob("*.json.gz"))
RECORDINGS = [pytest.param(path, id=f"{path.parent.name}/{path.name}") for path in OURS + THEIRS]


def load(path: Path) -> dict[str, Any]:
    return json.loads(gzip.decompress(path.read_bytes()))


def test_all_shared_recordings_are_here() -> None:
    """The 40 recordings of the shared folder are among the tests."""
    if not THEIRS:
        pytest.skip(f"no recordings in {SHARED}")

    assert len(THEIRS) == 40


@pytest.mark.parametrize("path", RECORDINGS)
def test_every_step_equals_the_recording(path: Path) -> None:
    """Ids, token counts, preempted, running, waiting, free blocks, times of each step, and each finish time."""
    assert first_difference(load(path)) is None


@pytest.mark.parametrize("fast_forward", [False, True], ids=["step-by-step", "fast-forward"])
@pytest.mark.parametrize("path", RECORDINGS)
def test_the_server_finishes_as_recorded(path: Path, fast_forward: bool) -> None:
    """The same workload through the SimPy server: first tokens, ends and preemptions are vLLM's."""
    recording = load(path)
    config = recording["config"]
    step_time = StepTime(config["c0"], config["c1"], config["c1"], config["c2"])
    world = World(options(scheduler_options(config), step_time), fast_forward)
    rows = sorted(recording["requests"], key=lambda row: row["arrival"])
    world.send_all((row["arrival"], recorded_request(row)) for row in rows)
    world.run()

    ended = {r.request_id: r for r in world.ended}
    for key, (first_token, end, preemptions) in recording["finished"].items():
        request = ended[key]
        assert request.first_token_at is not None
        assert request.finished_at is not None
        assert abs(to_seconds(request.first_token_at) - first_token) < TIME_TOLERANCE_S
        assert abs(to_seconds(request.finished_at) - end) < TIME_TOLERANCE_S
        assert request.num_preemptions == preemptions


def test_a_changed_recording_is_noticed() -> None:
    """The comparison can fail: one block more in one step is a difference, and it says where."""
    recording = load(OURS[0])
    recording["steps"][7][7] += 1

    assert first_difference(recording) is not None
    assert "step 7, free blocks" in str(first_difference(recording))


def make(scheduler: type[Scheduler] = Scheduler, **kwargs: Any) -> Scheduler:
    defaults: dict[str, Any] = {
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "num_blocks": 20,
        "max_model_len": 4096,
        "enable_prefix_caching": False,
        "async_scheduling": False,
    }
    return scheduler(SchedulerOptions(**defaults | kwargs))


def add(
    scheduler: Scheduler,
    name: str,
    prompt: int,
    *,
    output: int = 50,
    arrival: float = 0.0,
    priority: int = 0,
    **kwargs: Any,
) -> Request:
    request = Request(name, arrival, prompt, output, priority=priority, **kwargs)
    assert scheduler.why_never(request) is None
    scheduler.add_request(request)
    return request


def step(scheduler: Scheduler) -> tuple[dict[str, int], list[str]]:
    """One synchronous step: what was scheduled, who was preempted."""
    decided = scheduler.schedule()
    scheduled = {r.request_id: tokens for r, tokens in decided.scheduled.items()}
    preempted = [r.request_id for r in decided.preempted]
    scheduler.update_from_output()
    return scheduled, preempted


def steps_until_preemption(scheduler: Scheduler) -> list[str]:
    for _ in range(100):
        _, preempted = step(scheduler)
        if preempted:
            return preempted
    raise AssertionError("nobody was preempted")


def test_fcfs_preempts_the_tail_and_puts_it_back_at_the_head() -> None:
    """9 usable blocks, four prompts of 30 tokens (2 blocks each): the last admitted goes, and goes first again."""
    scheduler = make(num_blocks=10, max_num_batched_tokens=256)
    for index, name in enumerate("abcd"):
        add(scheduler, name, 30, arrival=index)
    add(scheduler, "e", 60, arrival=9)
    preempted = steps_until_preemption(scheduler)

    assert preempted == ["d"]
    assert scheduler.waiting.peek().request_id == "d"


def test_priority_preempts_the_least_urgent_wherever_it_stands() -> None:
    """Priorities 9, 5, 0 in order of arrival: the first admitted is the victim."""
    scheduler = make(policy="priority", num_blocks=7, max_num_batched_tokens=256)
    for index, (name, priority) in enumerate([("a", 9), ("b", 5), ("c", 0)]):
        add(scheduler, name, 30, arrival=index, priority=priority)

    assert steps_until_preemption(scheduler) == ["a"]


def test_nobody_is_preempted_to_admit() -> None:
    """Both slots hold requests of priority 10: one of priority -100 waits."""
    scheduler = make(policy="priority", max_num_seqs=2)
    add(scheduler, "a", 16, priority=10)
    add(scheduler, "b", 16, priority=10, arrival=1)
    step(scheduler)
    add(scheduler, "urgent", 16, priority=-100, arrival=2)
    scheduled, preempted = step(scheduler)

    assert scheduled == {"a": 1, "b": 1}
    assert preempted == []


def test_a_running_prefill_eats_the_budget_before_a_more_urgent_arrival() -> None:
    """Budget 64, a 400-token prefill of priority 10 in progress: the urgent 20-token prompt waits six steps."""
    scheduler = make(policy="priority", num_blocks=100)
    add(scheduler, "slow", 400, priority=10)
    step(scheduler)
    add(scheduler, "urgent", 20, priority=-100, arrival=1)
    waited = 0
    while "urgent" not in step(scheduler)[0]:
        waited += 1

    assert waited == 5  # of its prefill 336 tokens are left: 5 steps of 64; the 6th has 16 and room for the other


def test_fcfs_ignores_priority() -> None:
    scheduler = make(max_num_seqs=1)
    add(scheduler, "a", 16, priority=5)
    add(scheduler, "b", 16, priority=-100)

    assert step(scheduler)[0] == {"a": 16}


def test_the_head_of_the_queue_blocks_those_behind_it() -> None:
    """The head needs 13 blocks and 10 are free: a prompt of one block behind it waits too, in both policies."""
    for policy in ("fcfs", "priority"):
        scheduler = make(policy=policy, num_blocks=20, max_num_batched_tokens=512)
        add(scheduler, "running", 144)
        step(scheduler)
        add(scheduler, "head", 200, arrival=1)
        add(scheduler, "small", 8, arrival=2)

        assert step(scheduler)[0] == {"running": 1}


def test_the_long_prefill_cap_spares_a_lone_request() -> None:
    """Threshold 16: alone 64 tokens at a time, with company 16 each."""
    lone = make(long_prefill_token_threshold=16)
    add(lone, "a", 100)
    assert step(lone)[0] == {"a": 64}

    two = make(long_prefill_token_threshold=16)
    add(two, "a", 100)
    add(two, "b", 100)
    assert step(two)[0] == {"a": 16, "b": 16}


def test_a_full_prefix_hit_recomputes_its_last_block() -> None:
    """An identical 64-token prompt computes 16 tokens, a 70-token one with 64 shared computes 6."""
    scheduler = make(enable_prefix_caching=True, max_num_batched_tokens=256)
    shared = (("group", 64),)
    add(scheduler, "a", 64, prefix=shared)
    step(scheduler)
    add(scheduler, "same", 64, prefix=shared, arrival=1)
    add(scheduler, "longer", 70, prefix=shared, arrival=2)

    assert step(scheduler)[0] == {"a": 1, "same": 16, "longer": 6}


def test_blocks_can_be_hit_in_the_step_that_allocates_them() -> None:
    """Two identical 70-token prompts in one schedule(): 70 and 6 tokens."""
    scheduler = make(enable_prefix_caching=True, max_num_batched_tokens=256)
    for index, name in enumerate("ab"):
        add(scheduler, name, 70, prefix=(("group", 70),), arrival=index)

    assert step(scheduler)[0] == {"a": 70, "b": 6}


def test_chunked_prefills_can_overcommit_the_blocks() -> None:
    """20 usable blocks, two 200-token prompts (13 blocks each): the second waits, but with a cap of 32 tokens both
    are admitted, and the second loses the 160 tokens it has computed."""
    scheduler = make(num_blocks=21, max_num_batched_tokens=512)
    add(scheduler, "a", 200)
    second = add(scheduler, "b", 200, arrival=1)
    assert step(scheduler)[0] == {"a": 200}

    capped = make(num_blocks=21, max_num_batched_tokens=512, long_prefill_token_threshold=32)
    add(capped, "a", 200)
    second = add(capped, "b", 200, arrival=1)
    for _ in range(5):
        assert step(capped)[0] == {"a": 32, "b": 32}
    assert second.num_computed_tokens == 160
    assert step(capped)[1] == ["b"]


def test_a_resumed_request_keeps_its_outputs() -> None:
    """30 prompt tokens and 3 outputs come back as one prefill of 33."""
    scheduler = make(num_blocks=5, max_num_batched_tokens=256)
    add(scheduler, "a", 30, output=20)
    victim = add(scheduler, "b", 30, output=20, arrival=1)
    preempted = steps_until_preemption(scheduler)
    outputs = victim.num_output_tokens
    scheduler.abort(scheduler.running[0])

    assert preempted == ["b"]
    assert outputs == 3
    assert step(scheduler)[0] == {"b": 33}


@pytest.mark.parametrize(("stop", "extra"), [("length", 0), ("eos", 1)])
def test_async_learns_of_a_stop_token_one_step_late(stop: str, extra: int) -> None:
    """A request that stops by max_tokens takes no step too many; one that stops by a stop token takes one."""
    for scheduler_class in (Scheduler, FastForwardScheduler):
        max_tokens = 3 if stop == "length" else 100
        scheduler = scheduler_class(SchedulerOptions(async_scheduling=True))
        request = Request("a", 0.0, 10, 3, max_tokens=max_tokens)
        scheduler.why_never(request)
        scheduler.add_request(request)
        batches = 0
        finished = False
        while not finished:
            while len(scheduler.in_flight) < 2:
                batches += scheduler.schedule().num_tokens > 0
            finished = bool(scheduler.update_from_output()[1])

        assert batches == 3 + extra


def test_requests_that_can_never_be_served_are_refused() -> None:
    scheduler = make(num_blocks=5, max_model_len=1000)
    tight = Request("tight", 0.0, 63, 1)
    large = Request("large", 0.0, 64, 1)
    long = Request("long", 0.0, 1000, 1)

    assert scheduler.why_never(tight) is None
    assert scheduler.why_never(large) == "needs 5 KV blocks, more than the 4 usable ones"
    assert "leaves no room for output in max_model_len 1000" in str(scheduler.why_never(long))
    with pytest.raises(ValueError, match="each needs 1"):
        Request("empty", 0.0, 0, 1)


def test_watermark_counts_only_beside_others() -> None:
    """With a watermark of half the blocks, a lone request may take more, a second one may not."""
    scheduler = make(num_blocks=20, watermark=0.5, max_num_batched_tokens=512)
    add(scheduler, "a", 160)
    add(scheduler, "b", 16, arrival=1)

    assert step(scheduler)[0] == {"a": 160}


def test_arrival_ticks_are_exact() -> None:
    assert to_ticks(0.061051) == 61_051_000_000_000
