"""Servers of several engines: tiny scenarios by hand, and what must hold of any number of engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import simpy
from sim_world import SYNC, World, options, times

from inframind.sim import Environment, Pool, Request, SchedulerOptions, Server, ServerOptions, StepTime
from inframind.sim.clock import to_ticks
from inframind.sim.data_parallel import IndependentServer, LockstepServer
from inframind.sim.server import Failure

STEPS = StepTime(fixed_s=1.0, prefill_token_s=0.1, decode_s=0.5)
LOCKSTEP = options(SYNC, STEPS, data_parallel_size=2, is_moe=True)
INDEPENDENT = options(SYNC, STEPS, data_parallel_size=2)
both = pytest.mark.parametrize("server", [LOCKSTEP, INDEPENDENT], ids=["lockstep", "independent"])


def test_a_step_in_lockstep_takes_as_long_as_the_slowest_engine() -> None:
    """A prompt of 10 beside one of 30: 1 + 30 x 0.1. Then one decodes on each: 1 + 0.5, not 1 + 2 x 0.5. When A is
    done, engine 0 goes along with nothing."""
    world = World(LOCKSTEP)
    a = world.send(0.0, Request("a", 0, 10, 2))
    b = world.send(0.0, Request("b", 0, 30, 3))
    world.run()

    assert (a.data_parallel_rank, b.data_parallel_rank) == (0, 1)
    assert times(a) == (0.0, 4.0, 5.5)
    assert times(b) == (0.0, 4.0, 7.0)


def test_an_engine_takes_the_next_request_when_its_only_one_was_cancelled() -> None:
    """A is given up at 3; its last token would have come at 5, past which B takes both engines at once."""
    world = World(replace(LOCKSTEP, step_time=StepTime(1.0, 0.0, 0.0)))
    a = world.send(0.0, Request("a", 0, 10, 5))
    b = world.send(0.0, Request("b", 0, 10, 9))
    world.at(2.5, lambda: world.server.abort(a))
    c = world.send(20.0, Request("c", 0, 10, 3))
    world.run()

    assert (a.data_parallel_rank, b.data_parallel_rank, c.data_parallel_rank) == (0, 1, 0)
    assert (a.outcome, a.finished_at) == (Failure.ABORTED, to_ticks(3.0))
    assert times(b) == (0.0, 1.0, 9.0)
    assert times(c) == (20.0, 21.0, 23.0)


def test_independent_engines_take_no_notice_of_each_other() -> None:
    world = World(INDEPENDENT)
    a = world.send(0.0, Request("a", 0, 10, 2))
    b = world.send(0.0, Request("b", 0, 30, 3))
    world.run()

    assert (a.data_parallel_rank, b.data_parallel_rank) == (0, 1)
    assert times(a) == (0.0, 2.0, 3.5)
    assert times(b) == (0.0, 4.0, 7.0)


def test_all_tokens_ask_for_experts_together() -> None:
    """One token on each engine: the experts that two tokens ask for, 1 - exp(-2 / 2) of them."""
    experts = StepTime(fixed_s=1.0, prefill_token_s=0.0, decode_s=0.5, expert_s=2.0, expert_tokens=2.0)
    world = World(replace(LOCKSTEP, step_time=experts))
    a, b = (world.send(0.0, Request(name, 0, 1, 1)) for name in "ab")
    world.run()

    assert times(a) == times(b) == (0.0, *[pytest.approx(1.5 + 2 * (1 - np.exp(-1)))] * 2)


@pytest.mark.parametrize(("server", "begins"), [(LOCKSTEP, 2.0), (INDEPENDENT, 1.5)])
def test_an_idle_engine_waits_for_the_others_step_only_in_lockstep(server: ServerOptions, begins: float) -> None:
    """B comes to the other engine in the middle of A's first step."""
    world = World(server)
    world.send(0.0, Request("a", 0, 10, 5))
    b = world.send(1.5, Request("b", 0, 10, 1))
    world.run()

    assert b.data_parallel_rank == 1
    assert times(b)[0] == begins


@both
def test_requests_wait_for_their_own_engine(server: ServerOptions) -> None:
    """Six at once on two engines of one slot take turns. A's engine is free first, but E waits with D for B's."""
    world = World(replace(server, scheduler=replace(SYNC, max_num_seqs=1), step_time=StepTime(1.0, 0.0, 0.0)))
    lengths = {"a": 1, "b": 9, "c": 1, "d": 1, "e": 1, "f": 1}
    requests = {name: world.send(0.0, Request(name, 0, 10, tokens)) for name, tokens in lengths.items()}
    world.run()

    assert [request.data_parallel_rank for request in requests.values()] == [0, 1, 0, 1, 0, 1]
    assert {name: times(request)[0] for name, request in requests.items()} == {
        "a": 0.0,
        "b": 0.0,
        "c": 1.0,
        "d": 9.0,
        "e": 2.0,
        "f": 10.0,
    }


@both
def test_each_engine_has_its_own_prefix_cache(server: ServerOptions) -> None:
    """The second prompt goes to the other engine and finds nothing, the third finds what the first has left."""
    world = World(replace(server, scheduler=replace(SYNC, enable_prefix_caching=True)))
    requests = [
        world.send(100.0 * i, Request(name, 0, 40, 1, prefix=(("system", 35),))) for i, name in enumerate("abc")
    ]
    world.run()

    assert [request.data_parallel_rank for request in requests] == [0, 1, 0]
    assert [request.num_cached_tokens for request in requests] == [0, 0, 32]


@both
def test_gauges_are_of_all_engines(server: ServerOptions) -> None:
    """Of five requests each engine runs two, and one waits; 10 tokens are a block, of 99 usable ones on each engine.
    Usage is the mean, as a poll of all of them reads it."""
    world = World(server)
    for name in "abcde":
        world.send(0.0, Request(name, 0, 10, 20))
    seen: list[tuple[int, int, float]] = []

    def look() -> None:
        running, waiting = world.server.num_requests_running, world.server.num_requests_waiting
        seen.append((running, waiting, round(99 * world.server.kv_cache_usage, 6)))

    world.at(0.5, look)
    world.run()

    assert seen == [(4, 1, 2.0)]
    assert world.options.info.max_num_seqs == 4


def test_a_long_decode_in_lockstep_is_a_few_events() -> None:
    """Thousands of tokens of a request on each engine: B begins with more context, A ends with more."""
    env = Environment()
    pool = Pool(env, lambda request: None)
    server = pool.add(replace(LOCKSTEP, scheduler=SchedulerOptions(), step_time=StepTime(0.01, 0.0, 0.0, 1e-8)))
    server.submit(Request("a", 0, 10, 10_000))
    server.submit(Request("b", 0, 500, 9_000))
    events = 0
    while env.peek() < simpy.core.Infinity:
        env.step()
        events += 1

    assert events < 20


# Any number of engines.

Kind = Callable[..., Server]


def workload(seed: int) -> tuple[SchedulerOptions, list[tuple[float, Request]], list[tuple[float, int]]]:
    """Short of KV blocks, with aborts: options, requests with their arrivals, and who is given up when."""
    random = np.random.default_rng(seed)
    scheduler = SchedulerOptions(
        policy=("fcfs", "priority")[seed % 2],
        async_scheduling=bool(seed // 2 % 2),
        max_num_seqs=8,
        max_num_batched_tokens=64,
        num_blocks=40,
        max_model_len=300,
    )
    arrivals = np.cumsum(random.exponential(0.6, 40))
    requests = [
        (float(at), Request(f"r{i:02d}", 0, int(random.integers(1, 150)), int(random.integers(1, 120)), priority=i % 3))
        for i, at in enumerate(arrivals)
    ]
    aborts = [(float(arrivals[i] + random.exponential(9.0)), int(i)) for i in random.integers(0, 40, 8)]
    return scheduler, requests, aborts


def served(kind: Kind | None, seed: int, *, fast_forward: bool = True, **several: int) -> list[object]:
    """The end of each request, in order; with all the checks of `World`."""
    scheduler, requests, aborts = workload(seed)
    world = World(options(scheduler, STEPS, **several), fast_forward=fast_forward)
    if kind is not None:
        world.server = kind(world.env, world.options, world._on_end, fast_forward=fast_forward)
    for at, request in requests:
        world.send(at, request)
    for at, number in aborts:
        world.at(at, lambda request=requests[number][1]: world.server.abort(request))  # type: ignore[misc]
    world.run()
    return [
        (
            r.request_id,
            r.outcome,
            r.scheduled_at,
            r.first_token_at,
            r.finished_at,
            r.num_preemptions,
            r.num_output_tokens,
        )
        for r in world.ended
    ]


@pytest.mark.parametrize("kind", [LockstepServer, IndependentServer])
@pytest.mark.parametrize("fast_forward", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_one_engine_of_several_is_a_plain_server(kind: Kind, fast_forward: bool, seed: int) -> None:
    assert served(kind, seed, fast_forward=fast_forward) == served(None, seed)


@pytest.mark.parametrize("is_moe", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_several_engines_lose_nothing(is_moe: bool, seed: int) -> None:
    """Nothing lost, nothing twice, no block leaked, Little's law: see `World`."""
    ends = served(None, seed, data_parallel_size=3, is_moe=is_moe)

    assert len(ends) == 40
