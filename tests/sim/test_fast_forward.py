"""Fast-forward equals the step-by-step engine: every time, every counter, every sample of the queues."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import simpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sim_world import schedulers

from inframind.sim import TICKS_PER_S, Environment, Pool, Request, SchedulerOptions, ServerOptions, StepTime
from inframind.sim.fast_forward import FastForwardScheduler

TICK_S = 1 / TICKS_PER_S


@dataclass(frozen=True)
class Call:
    gap: int
    prompt: int
    output: int
    slack: int
    priority: int
    group: int | None
    shared: int
    abort_after: int | None
    server: int
    follow_up: bool
    aborts: int | None = None
    """When it ends, it gives up the call of this number, wherever that is."""


@dataclass(frozen=True)
class Scenario:
    scheduler: dict[str, Any]
    step_time: tuple[int, int, int, int, int]
    max_num_queued_reqs: int | None
    calls: tuple[Call, ...]
    kill_at: int | None
    drain_at: int | None
    add_at: int | None
    data_parallel_size: int = 1
    is_moe: bool = False
    expert_ticks: int = 0


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Times are whole ticks and small, so that ties of arrivals, aborts and step ends are common."""
    max_model_len = draw(st.sampled_from([48, 160]))
    block_size = draw(st.sampled_from([1, 4, 16]))
    max_num_seqs = draw(st.sampled_from([1, 2, 3, 8]))
    one_sequence = -(-max_model_len // block_size)
    scheduler = {
        "policy": draw(st.sampled_from(["fcfs", "priority"])),
        "async_scheduling": draw(st.booleans()),
        "enable_prefix_caching": draw(st.booleans()),
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max(max_num_seqs, draw(st.sampled_from([8, 32, 200]))),
        "num_blocks": 1 + one_sequence + draw(st.sampled_from([0, 1, one_sequence // 2, 20 * one_sequence])),
        "block_size": block_size,
        "max_model_len": max_model_len,
        "long_prefill_token_threshold": draw(st.sampled_from([0, 0, 7])),
        "scheduler_reserve_full_isl": draw(st.booleans()),
        "watermark": draw(st.sampled_from([0.0, 0.1])),
    }
    call = st.builds(
        Call,
        gap=st.sampled_from([0, 0, 1, 3, 10, 40, 150]),
        prompt=st.integers(1, max_model_len),
        output=st.integers(1, 60),
        slack=st.sampled_from([0, 0, 100]),
        priority=st.integers(0, 2),
        group=st.sampled_from([None, 0, 1]),
        shared=st.integers(1, max_model_len),
        abort_after=st.sampled_from([None, None, None, 0, 2, 25, 130]),
        server=st.integers(0, 1),
        follow_up=st.booleans(),
        aborts=st.sampled_from([None, None, *range(12)]),
    )
    return Scenario(
        scheduler=scheduler,
        step_time=draw(
            st.tuples(
                st.sampled_from([1, 10]), st.integers(0, 1), st.integers(0, 1), st.integers(0, 1), st.integers(0, 1)
            )
        ),
        max_num_queued_reqs=draw(st.sampled_from([None, None, 2, 9])),
        calls=tuple(draw(st.lists(call, min_size=1, max_size=25))),
        kill_at=draw(st.sampled_from([None, None, None, 100])),
        drain_at=draw(st.sampled_from([None, None, None, 60])),
        add_at=draw(st.sampled_from([None, 50])),
        data_parallel_size=draw(st.sampled_from([1, 1, 2, 3])),
        is_moe=draw(st.booleans()),
        expert_ticks=draw(st.sampled_from([0, 20])),
    )


def play(scenario: Scenario, *, fast_forward: bool) -> tuple[list[Any], list[Any], list[int]]:
    """Two servers with the same options; some calls send another one to the other server when they end."""
    env = Environment()
    ended: list[Any] = []
    samples: list[Any] = []
    follow_ups: dict[str, Call] = {}
    submitted: dict[str, Request] = {}
    aborts = {f"r{i:02d}": f"r{call.aborts:02d}" for i, call in enumerate(scenario.calls) if call.aborts is not None}
    expected = len(scenario.calls)

    def on_end(request: Request) -> None:
        nonlocal expected
        counters = (request.num_output_tokens, request.num_preemptions)
        times = (request.arrival, request.scheduled_at, request.first_token_at, request.finished_at)
        ended.append(
            (
                env.now,
                request.server_name,
                request.request_id,
                request.outcome,
                times,
                request.num_cached_tokens,
                request.data_parallel_rank,
                counters,
            )
        )
        victim = aborts.get(request.request_id)
        if victim is not None and victim in submitted:
            pool.servers[submitted[victim].server_name].abort(submitted[victim])
        call = follow_ups.pop(request.request_id, None)
        if call is not None:
            expected += 1
            other = list(pool)[-1 - call.server]
            other.submit(Request(request.request_id + "+", 0, call.prompt, call.output, priority=call.priority))

    pool = Pool(env, on_end, fast_forward=fast_forward)
    scheduler = SchedulerOptions(**scenario.scheduler)
    experts = {"expert_s": scenario.expert_ticks * TICK_S, "expert_tokens": 2.0}
    step_time = StepTime(*(ticks * TICK_S for ticks in scenario.step_time), **experts)

    def add_server(name: str) -> None:
        engines = {"data_parallel_size": scenario.data_parallel_size, "is_moe": scenario.is_moe}
        pool.add(ServerOptions(name, "model", scheduler, step_time, scenario.max_num_queued_reqs, **engines))

    add_server("a")
    add_server("b")

    def later(delay: int, action: Any, *args: Any) -> Generator[simpy.Event]:
        yield env.timeout(delay)
        action(*args)

    def arrivals() -> Generator[simpy.Event]:
        for index, call in enumerate(scenario.calls):
            yield env.timeout(call.gap)
            prefix = () if call.group is None else ((call.group, min(call.shared, call.prompt)),)
            name = f"r{index:02d}"
            if call.follow_up:
                follow_ups[name] = call
            request = Request(name, 0, call.prompt, call.output, call.output + call.slack, call.priority, prefix)
            server = list(pool)[call.server]
            submitted[name] = request
            server.submit(request)
            if call.abort_after is not None:
                env.process(later(call.abort_after, server.abort, request))

    def sampling() -> Generator[simpy.Event]:
        while len(ended) < expected:
            for server in pool:
                counts = (server.num_requests_running, server.num_requests_waiting)
                samples.append((env.now, *counts, round(server.kv_cache_usage, 9)))
            yield env.timeout(7)
            assert len(samples) < 100_000, "requests that never end"

    env.process(arrivals())
    env.process(sampling())
    if scenario.kill_at is not None:
        env.process(later(scenario.kill_at, pool.kill, "a"))
    if scenario.drain_at is not None:
        env.process(later(scenario.drain_at, pool.drain, "b"))
    if scenario.add_at is not None:
        env.process(later(scenario.add_at, add_server, "c"))
    env.run()

    assert len(ended) == expected
    assert [entry[0] for entry in ended] == sorted(entry[0] for entry in ended)
    for part in (part for server in pool for part in schedulers(server)):
        assert part.kv_cache.num_free == scheduler.num_blocks - 1
    return ended, samples, [server.busy_ticks for server in pool]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios())
def test_fast_forward_equals_the_step_by_step_engine(scenario: Scenario) -> None:
    """Preemptions, both policies, both engines, caching on and off, aborts, a server killed, drained or added; data
    parallel or not, in lockstep or not."""
    assert play(scenario, fast_forward=True) == play(scenario, fast_forward=False)


def test_chunks_of_a_long_prompt_leave_the_decoding_requests_together() -> None:
    """Its steps list what they compute of the prompt, and only count the tokens of the other two."""
    options = SchedulerOptions(max_num_seqs=4, max_num_batched_tokens=16, num_blocks=100, max_model_len=1000)
    scheduler = FastForwardScheduler(options)
    a, b, long = Request("a", 0, 4, 50), Request("b", 0, 4, 50), Request("long", 1, 40, 5)
    assert not any(scheduler.why_never(request) for request in (a, b, long))
    scheduler.add_request(a)
    scheduler.add_request(b)
    scheduler.schedule()
    scheduler.add_request(long)
    steps = [scheduler.schedule() for _ in range(3)]

    assert [step.scheduled for step in steps] == [{long: 14}, {long: 14}, {long: 12}]
    assert [step.num_decodes for step in steps] == [2, 2, 2]


def test_a_long_decode_is_one_event() -> None:
    """10,000 tokens of a lone request take a handful of SimPy events."""
    env = Environment()
    pool = Pool(env, lambda request: None)
    options = ServerOptions("a", "model", SchedulerOptions(), StepTime(0.01, 0.0, 0.0, 1e-8))
    pool.add(options).submit(Request("r", 0, 10, 10_000))
    events = 0
    while env.peek() < simpy.core.Infinity:
        env.step()
        events += 1

    assert events <= 4


@pytest.mark.parametrize("fast_forward", [False, True])
def test_an_abort_from_a_callback_takes_effect_with_the_next_step(fast_forward: bool) -> None:
    """When a ends at 2 s, b on the same server is given up: it ends at 3 s, not with its 100 tokens."""
    env = Environment()
    a, b = Request("a", 0, 10, 2), Request("b", 0, 10, 100)
    pool = Pool(env, lambda r: server.abort(b) if r is a else None, fast_forward=fast_forward)
    scheduler = SchedulerOptions(max_num_seqs=2, num_blocks=100, max_model_len=1000, async_scheduling=False)
    server = pool.add(ServerOptions("s", "model", scheduler, StepTime(1.0, 0.0, 0.0)))
    server.submit(a)
    server.submit(b)
    env.run()

    assert b.finished_at == 3 * TICKS_PER_S


def test_a_submission_after_a_servers_turn_waits_for_its_next_one() -> None:
    """Server b (rank 1) ends a call at tick 3 and sends another to a (rank 0), which has woken at tick 3 before b did,
    or would have: the new call is scheduled at tick 4, with fast-forward too, though a has no event at tick 3."""
    base = Call(0, 1, 1, 0, 0, None, 1, None, 0, follow_up=False)
    calls = (base, base, base, base, replace(base, output=2), replace(base, output=3, server=1, follow_up=True))
    scheduler = {
        "async_scheduling": False,
        "max_num_seqs": 2,
        "max_num_batched_tokens": 8,
        "num_blocks": 49,
        "block_size": 1,
        "max_model_len": 48,
    }
    scenario = Scenario(scheduler, (1, 0, 0, 0, 0), None, calls, None, None, None)
    ended, samples, busy = play(scenario, fast_forward=True)
    scheduled = {entry[2]: entry[4][1] for entry in ended}

    assert scheduled["r05+"] == 4
    assert (ended, samples, busy) == play(scenario, fast_forward=False)
