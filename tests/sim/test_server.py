"""One simulated server: tiny scenarios with every number checked by hand."""

from __future__ import annotations

import pytest
from sim_world import SYNC, World, options, times

from inframind.sim import (
    Environment,
    Failure,
    Pool,
    Request,
    SchedulerOptions,
    Server,
    ServerOptions,
    StepTime,
    to_seconds,
)

ASYNC = SchedulerOptions(max_num_seqs=2, num_blocks=100, max_model_len=1000, async_scheduling=True)
of_any_engines = pytest.mark.parametrize(
    "engines",
    [{}, {"data_parallel_size": 2, "is_moe": True}, {"data_parallel_size": 2}],
    ids=["one", "lockstep", "independent"],
)


def test_synchronous_steps() -> None:
    """Steps of 1 s. B comes at 1.5, joins at the step that starts at 2; C waits for a slot until 4."""
    world = World(options(SYNC))
    a = world.send(0.0, Request("a", 0, 10, 4))
    b = world.send(1.5, Request("b", 0, 10, 5))
    c = world.send(2.0, Request("c", 0, 10, 1))
    world.run()

    assert times(a) == (0.0, 1.0, 4.0)
    assert times(b) == (2.0, 3.0, 7.0)
    assert times(c) == (4.0, 5.0, 5.0)


def test_asynchronous_steps() -> None:
    """Two batches in flight: B comes at 1.5, is scheduled when step 2 ends, and runs with step 4, one step later than
    in a synchronous engine. A is known to end with step 4, so C takes its slot in the step after."""
    world = World(options(ASYNC))
    a = world.send(0.0, Request("a", 0, 10, 4))
    b = world.send(1.5, Request("b", 0, 10, 5))
    c = world.send(2.0, Request("c", 0, 10, 1))
    world.run()

    assert times(a) == (0.0, 1.0, 4.0)
    assert times(b) == (2.0, 4.0, 8.0)
    assert times(c) == (4.0, 6.0, 6.0)


def test_step_time_terms() -> None:
    """A prompt of 10 costs 1 + 10 x 0.1 + 55 pairs x 0.01 + context 10 x 0.001; then tokens at context 11 and 12."""
    step_time = StepTime(fixed_s=1.0, prefill_token_s=0.1, decode_s=0.5, context_token_s=0.001, prefill_pair_s=0.01)
    world = World(options(SYNC, step_time))
    request = world.send(0.0, Request("a", 0, 10, 3))
    world.run()

    assert times(request) == (0.0, 2.56, 2.56 + 1.511 + 1.512)


def test_abort_takes_effect_when_the_running_step_ends() -> None:
    """A is given up at 2.5 and ends at 3; B, waiting for its slot, is scheduled then."""
    world = World(options(SchedulerOptions(max_num_seqs=1, num_blocks=100, max_model_len=1000, async_scheduling=False)))
    a = world.send(0.0, Request("a", 0, 10, 100))
    b = world.send(1.0, Request("b", 0, 10, 1))
    world.at(2.5, lambda: world.server.abort(a))
    world.run()

    assert (a.outcome, to_seconds(a.finished_at or 0)) == (Failure.ABORTED, 3.0)
    assert times(b) == (3.0, 4.0, 4.0)


def test_abort_of_an_ended_request_changes_nothing() -> None:
    world = World(options(SYNC))
    a = world.send(0.0, Request("a", 0, 10, 1))
    world.at(5.0, lambda: world.server.abort(a))
    world.run()

    assert (a.outcome, to_seconds(a.finished_at or 0)) == ("finished", 1.0)


def test_abort_before_the_engine_has_seen_it() -> None:
    world = World(options(SYNC))
    a = world.send(0.0, Request("a", 0, 10, 1))
    world.at(0.0, lambda: world.server.abort(a))
    world.run()

    assert (a.outcome, a.scheduled_at) == (Failure.ABORTED, None)


@of_any_engines
def test_kill_fails_everything_at_once(engines: dict[str, int]) -> None:
    """Running, waiting and just arrived: all fail at 2.5 with the same reason, and later ones on arrival."""
    world = World(options(SYNC, **engines))
    requests = [world.send(0.0, Request(name, 0, 10, 10)) for name in "abc"]
    late = Request("late", 0, 10, 1)
    world.at(2.5, world.server.kill)
    world.send(9.0, late)
    world.run()

    assert [(r.outcome, r.finished_at) for r in requests] == [(Failure.KILLED, 2.5e15)] * 3
    assert (late.outcome, late.finished_at) == (Failure.KILLED, 9e15)


@of_any_engines
def test_drain_finishes_what_is_there_and_refuses_the_rest(engines: dict[str, int]) -> None:
    world = World(options(SYNC, **engines))
    a = world.send(0.0, Request("a", 0, 10, 5))
    b = world.send(2.0, Request("b", 0, 10, 5))
    world.at(1.0, world.server.drain)
    world.run()

    assert a.outcome == "finished"
    assert (b.outcome, b.finished_at) == (Failure.DRAINING, 2e15)


def test_life_has_no_way_back() -> None:
    """An event that a state does not know is an error that names both."""
    world = World(options(SYNC))
    world.server.kill()

    with pytest.raises(ValueError, match="server server is dead: cannot drain it"):
        world.server.drain()


@of_any_engines
def test_a_full_queue_rejects(engines: dict[str, int]) -> None:
    """max_num_queued_reqs counts running and waiting: with 3, the fourth of four at once is rejected, a fifth that
    comes when one has ended is not."""
    world = World(options(SYNC, max_num_queued_reqs=3, **engines))
    requests = [world.send(0.0, Request(name, 0, 10, 2)) for name in "abcd"]
    fifth = world.send(2.0, Request("e", 0, 10, 2))
    sixth = world.send(2.5, Request("f", 0, 10, 2))
    world.run()

    assert [r.outcome for r in requests] == ["finished", "finished", "finished", Failure.QUEUE_FULL]
    assert fifth.outcome == Failure.QUEUE_FULL  # A and B end at 2.0, but after everything else that happens then
    assert sixth.outcome == "finished"


@of_any_engines
def test_a_request_that_never_fits_is_refused(engines: dict[str, int]) -> None:
    world = World(options(SchedulerOptions(num_blocks=5, max_model_len=1000), **engines))
    request = world.send(0.0, Request("a", 0, 60, 60))
    world.run()

    assert (request.outcome, request.data_parallel_rank) == (Failure.NEVER_FITS, None)


def test_requests_of_one_instant_get_an_order() -> None:
    """Equal priority and arrival would let two requests preempt each other for ever: arrivals are made distinct."""
    scheduler = SchedulerOptions(
        policy="priority", max_num_seqs=8, num_blocks=9, block_size=8, max_model_len=64, async_scheduling=False,
        long_prefill_token_threshold=8, scheduler_reserve_full_isl=False,
    )  # fmt: skip
    world = World(options(scheduler))
    requests = [world.send(0.0, Request(str(i), 0, 40, 20)) for i in range(4)]
    world.run()

    assert [r.outcome for r in requests] == ["finished"] * 4
    assert sum(r.num_preemptions for r in requests) > 0
    assert [r.arrival for r in requests] == [0, 1, 2, 3]


def test_prefix_caching_saves_prefill() -> None:
    """Prefill costs 1 s per token: the second prompt finds 32 of its 40 tokens."""
    step_time = StepTime(fixed_s=1e-3, prefill_token_s=1.0, decode_s=0.0)
    scheduler = SchedulerOptions(num_blocks=100, max_model_len=1000, enable_prefix_caching=True, async_scheduling=False)
    world = World(options(scheduler, step_time))
    world.send(0.0, Request("a", 0, 40, 1, prefix=(("system", 35),)))
    b = world.send(100.0, Request("b", 0, 40, 1, prefix=(("system", 35),)))
    world.run()

    assert b.num_cached_tokens == 32
    assert times(b) == (100.0, 108.001, 108.001)


def test_gauges_follow_the_engine() -> None:
    """Of three requests two run; 10 tokens are one block each, of 99 usable ones."""
    world = World(options(SYNC))
    for name in "abc":
        world.send(0.0, Request(name, 0, 10, 20))
    seen: list[tuple[int, int, float]] = []

    def look() -> None:
        server = world.server
        seen.append((server.num_requests_running, server.num_requests_waiting, round(99 * server.kv_cache_usage, 6)))

    world.at(0.5, look)
    world.at(6.5, look)  # the 7th step computes token 16, the last of the first block
    world.at(7.5, look)
    world.run()

    assert seen == [(2, 1, 2.0), (2, 1, 2.0), (2, 1, 4.0)]


def test_a_pool_names_its_servers_once() -> None:
    pool = Pool(Environment(), lambda request: None)
    pool.add(options(SYNC))

    with pytest.raises(ValueError, match="has a server 'server' already"):
        pool.add(options(SYNC))


def test_servers_of_one_pool_share_the_clock_and_report_who_served() -> None:
    env = Environment()
    ended: list[tuple[str, str, float]] = []
    pool = Pool(env, lambda request: ended.append((request.server_name, request.request_id, env.now_s)))
    for name, step_s in (("slow", 2.0), ("fast", 1.0)):
        pool.add(ServerOptions(name, "model", SYNC, StepTime(step_s, 0.0, 0.0)))
    for name in ("slow", "fast"):
        server: Server = pool.servers[name]
        server.submit(Request(f"to-{name}", 0, 10, 3))
    env.run()

    assert ended == [("fast", "to-fast", 3.0), ("slow", "to-slow", 6.0)]
