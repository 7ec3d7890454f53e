"""Workflows on simulated servers: a scenario by hand, ties, faults, and the same decisions under asyncio."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from policies import EveryPlan, FixedOutcomes, FixedPlan, JoinShortestQueue, RandomChoice, VariedOutcomes
from virtual_time import VirtualTimeLoop

from inframind import live
from inframind.sim import (
    FINISHED,
    Environment,
    Pool,
    Request,
    SchedulerOptions,
    ServerOptions,
    State,
    StepTime,
    WorkflowDriver,
    to_seconds,
    to_ticks,
)
from inframind.traces import ConfigError
from inframind.workflows import (
    Arrived,
    CallFailed,
    CallFinished,
    Command,
    Controller,
    ControllerOptions,
    Event,
    MetricsPolled,
    Observation,
    Query,
    ServerClosed,
    ServerInfo,
    Submit,
    Woken,
    WorkflowFinished,
    log_lines,
    replay,
)
from inframind.workflows.roles import ROLE_NAMES

SYNC = SchedulerOptions(max_num_seqs=2, num_blocks=1000, max_model_len=2000, async_scheduling=False, policy="priority")
ONE_SECOND = StepTime(fixed_s=1.0, prefill_token_s=0.0, decode_s=0.0)


def pool_of(num: int, scheduler: SchedulerOptions = SYNC, **kwargs: int) -> list[ServerOptions]:
    return [ServerOptions(f"s{index}", f"m{index}", scheduler, ONE_SECOND, **kwargs) for index in range(num)]


def infos(servers: Sequence[ServerOptions]) -> list[ServerInfo]:
    return [ServerInfo(server.name, server.model, server.scheduler.max_num_seqs) for server in servers]


def arrive(t: float, name: str, budget_s: float = 50.0, domain: str = "math") -> Arrived:
    return Arrived(t, Query(name, domain, crc32(name.encode()) % 1000, 20, budget_s))


@dataclass
class World:
    """A pool with a driver, and what is done to its servers while it runs."""

    servers: list[ServerOptions]
    planner: object
    executor: object
    outcomes: FixedOutcomes = field(default_factory=lambda: FixedOutcomes(3))
    options: ControllerOptions = field(default_factory=ControllerOptions)
    poll_s: float = 1.0
    fast_forward: bool = True

    def __post_init__(self) -> None:
        self.env = Environment()
        self.controller = Controller(infos(self.servers), self.planner, self.executor, self.options)  # type: ignore[arg-type]
        self.driver = WorkflowDriver(self.env, self.controller, self.outcomes, poll_s=self.poll_s)
        self.pool = Pool(self.env, self.driver.on_end, fast_forward=self.fast_forward)
        self.started = [self.pool.add(options) for options in self.servers]

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        def process() -> Generator[simpy.Event]:
            yield self.env.timeout_at(seconds)
            action()

        self.env.process(process())

    def run(self, *arrivals: Arrived) -> list[Event | Command]:
        self.driver.run(self.started, arrivals)
        return self.driver.log


def told(log: list[Event | Command]) -> list[tuple[object, ...]]:
    """The log in short, without polls."""
    lines: list[tuple[object, ...]] = []
    for item in log:
        match item:
            case Submit():
                lines.append(("submit", item.call_id, item.server))
            case CallFinished():
                lines.append((item.t, "finished", item.call_id))
            case CallFailed():
                lines.append((item.t, "failed", item.call_id, item.reason))
            case Arrived():
                lines.append((item.t, "arrived", item.query.query_id))
            case WorkflowFinished():
                lines.append(("end", item.workflow_id, str(item.outcome), item.latency_s))
            case ServerClosed():
                lines.append((item.t, "closed", item.server))
            case Woken():
                lines.append((item.t, "woken"))
            case MetricsPolled():
                pass
            case _:
                lines.append((type(item).__name__,))
    return lines


def test_two_workflows_on_two_servers_by_hand() -> None:
    """Steps of 1 s, answers of 3 tokens. At 0.5 the two agents of x go to s0 and s1, which were idle, and are done at
    3.5. The decision goes to s0; so y, which arrived at 3, is on s1: its step boundaries were at 2.5 and 3.5, so it
    joined at 3.5 and ends at 6.5, together with x's decision. Ties go by call."""
    world = World(pool_of(2), Alternating(), JoinShortestQueue())
    log = world.run(arrive(0.5, "x"), arrive(3.0, "y"))

    assert told(log) == [
        (0.5, "arrived", "x"),
        ("submit", "x.0.0", 0),
        ("submit", "x.1.0", 1),
        (3.0, "arrived", "y"),
        ("submit", "y.0.0", 0),
        (3.5, "finished", "x.0.0"),
        (3.5, "finished", "x.1.0"),
        ("submit", "x.2.0", 1),
        (6.5, "finished", "x.2.0"),
        ("end", "x", "finished", 6.0),
        (6.5, "finished", "y.0.0"),
        ("end", "y", "finished", 3.5),
    ]
    assert [(w.query.query_id, w.arrival_s, w.end_s) for w in world.driver.ended] == [("x", 0.5, 6.5), ("y", 3.0, 6.5)]


class Alternating:
    """Two agents, then one."""

    def __init__(self) -> None:
        self._next = ["MathSolver+Inspector", "MathSolver"]

    def plan(self, observation: Observation) -> tuple[str, str]:
        return "IO", self._next.pop(0)


def test_a_follower_joins_a_busy_server_with_its_next_step() -> None:
    """y comes at 0.5 and joins at 1. x's first call ends at 3, when the server has begun the step from 3 to 4 with y's
    call: x's second call is noticed at 4, and takes 4 to 7."""
    planner = FixedPlan("Chain", "MathSolver+Inspector")
    for fast_forward in (True, False):
        world = World(pool_of(1), planner, JoinShortestQueue(), fast_forward=fast_forward)
        log = world.run(arrive(0.0, "x"), arrive(0.5, "y"))

        assert [line for line in told(log) if "finished" in line] == [
            (3.0, "finished", "x.0.0"),
            (4.0, "finished", "y.0.0"),
            (7.0, "finished", "x.1.0"),
            ("end", "x", "finished", 7.0),
            (8.0, "finished", "y.1.0"),
            ("end", "y", "finished", 7.5),
        ]


def test_gauges_are_as_old_as_the_last_poll() -> None:
    """Polled at 0, 2 and 4; what happens at the same instant comes after the poll."""
    seen: list[tuple[float, int, int, float]] = []

    class Watching(JoinShortestQueue):
        def choose(self, observation: Observation) -> tuple[int, str]:
            seen.append((observation.t, observation.running[0], observation.since_poll[0], observation.polled_at[0]))
            return super().choose(observation)

    world = World(pool_of(1), FixedPlan(), Watching(), poll_s=2.0)
    world.run(arrive(0.5, "a"), arrive(1.2, "b"), arrive(2.0, "c"), arrive(3.9, "d"))

    assert seen == [(0.5, 0, 0, 0.0), (1.2, 0, 1, 0.0), (2.0, 2, 0, 2.0), (3.9, 2, 0, 2.0)]


def test_a_killed_server() -> None:
    """Its calls go elsewhere; nothing is sent there any more, and its gauges are not read."""
    world = World(pool_of(2), FixedPlan("IO", "MathSolver+Inspector"), JoinShortestQueue())
    world.at(1.5, lambda: world.driver.kill(0))
    log = world.run(arrive(0.0, "x"))

    assert told(log) == [
        (0.0, "arrived", "x"),
        ("submit", "x.0.0", 0),
        ("submit", "x.1.0", 1),
        (1.5, "closed", 0),
        (1.5, "failed", "x.0.0", "server killed"),
        ("submit", "x.0.1", 1),
        (3.0, "finished", "x.1.0"),
        (5.0, "finished", "x.0.1"),
        ("submit", "x.2.0", 1),
        (8.0, "finished", "x.2.0"),
        ("end", "x", "finished", 8.0),
    ]
    assert [event.t for event in log if isinstance(event, MetricsPolled) and event.server == 0] == [0.0, 1.0]


def test_a_drained_server_finishes_what_it_has() -> None:
    world = World(pool_of(2), FixedPlan("Chain", "MathSolver+Inspector"), JoinShortestQueue())
    world.at(1.5, lambda: world.driver.drain(0))
    log = world.run(arrive(0.0, "x"))

    assert [line for line in told(log) if "submit" in line] == [("submit", "x.0.0", 0), ("submit", "x.1.0", 1)]


def test_a_refused_call_is_tried_again_when_the_instant_is_over() -> None:
    """The only server takes one request: the second agent's call is refused at once, waits a second, and again."""
    world = World(
        pool_of(1, max_num_queued_reqs=1),
        FixedPlan("IO", "MathSolver+Inspector"),
        JoinShortestQueue(),
        FixedOutcomes(2),
    )
    log = world.run(arrive(0.0, "x"))

    full = "rejected: max_num_queued_reqs"
    assert told(log)[:11] == [
        (0.0, "arrived", "x"),
        ("submit", "x.0.0", 0),
        ("submit", "x.1.0", 0),
        (0.0, "failed", "x.1.0", full),
        (1.0, "woken"),
        ("submit", "x.1.1", 0),
        (1.0, "failed", "x.1.1", full),
        (2.0, "finished", "x.0.0"),
        (2.0, "woken"),
        ("submit", "x.1.2", 0),
        (4.0, "finished", "x.1.2"),
    ]


def test_a_cancelled_call_ends_with_the_step_that_runs() -> None:
    """At its deadline, 2.5, the workflow is given up; the call leaves the server at 3."""
    options = ControllerOptions(cancel_hopeless=True)
    world = World(pool_of(1), FixedPlan(), JoinShortestQueue(), FixedOutcomes(9), options)
    log = world.run(arrive(0.0, "x", budget_s=2.5))

    assert told(log)[2:] == [
        (2.5, "woken"),
        ("Cancel",),
        ("end", "x", "cancelled: hopeless", 2.5),
        (3.0, "failed", "x.0.0", "aborted"),
    ]


def test_the_controller_is_never_woken_too_early() -> None:
    """The clock tick nearest to this deadline is a rounding error before it, and would wake the controller in vain."""
    deadline_s = 13.899259134602815
    assert to_seconds(to_ticks(deadline_s)) < deadline_s

    options = ControllerOptions(cancel_hopeless=True)
    world = World(pool_of(1), FixedPlan(), JoinShortestQueue(), FixedOutcomes(20), options)
    (woken,) = (item for item in world.run(arrive(0.0, "x", deadline_s)) if isinstance(item, Woken))

    assert woken.t == pytest.approx(deadline_s, abs=1e-12)
    assert woken.t >= deadline_s


def test_answers_are_cut_at_max_tokens() -> None:
    options = ControllerOptions(max_tokens=2)
    (end,) = World(pool_of(1), FixedPlan(), JoinShortestQueue(), FixedOutcomes(9), options).run(arrive(0.0, "x"))[-1:]

    assert isinstance(end, WorkflowFinished)
    assert end.latency_s == 2.0
    assert end.calls[0].output_tokens == 2


def test_a_policys_mistake_ends_the_run() -> None:
    class Nowhere:
        def choose(self, observation: Observation) -> tuple[int, str]:
            return 7, "Flash"

    with pytest.raises(ConfigError, match="server 7 does not exist; the pool has servers 0 to 1"):
        World(pool_of(2), FixedPlan(), Nowhere()).run(arrive(0.0, "x"))


def random_arrivals(rng: random.Random, num: int, step_s: float) -> list[Arrived]:
    """Times on a grid, so that many things happen at once."""
    t, arrivals = 0.0, []
    for number in range(num):
        t += step_s * rng.choice([0, 0, 1, 2, 5])
        domain = rng.choice(["math", "code", "qa"])
        arrivals.append(arrive(t, f"q{number}", rng.choice([5.0, 20.0, 80.0]), domain))
    return arrivals


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    is_async=st.booleans(),
    policy=st.sampled_from(["fcfs", "priority"]),
    caching=st.booleans(),
    cancel_hopeless=st.booleans(),
    max_num_queued_reqs=st.sampled_from([3, 1000]),
)
def test_fast_forward_changes_nothing(
    seed: int, is_async: bool, policy: str, caching: bool, cancel_hopeless: bool, max_num_queued_reqs: int
) -> None:
    """With every step an event of its own the log is the same, ties, refusals, kills and cancelled calls included;
    and the log alone repeats every decision."""
    scheduler = replace(
        SYNC, policy=policy, async_scheduling=is_async, enable_prefix_caching=caching, num_blocks=400, max_num_seqs=3
    )
    options = ControllerOptions(cancel_hopeless=cancel_hopeless, priority="edf-late-last")
    logs = []
    for fast_forward in (True, False):
        world = World(
            pool_of(3, scheduler, max_num_queued_reqs=max_num_queued_reqs),
            EveryPlan(),
            RandomChoice(seed),
            VariedShort(),
            options,
            fast_forward=fast_forward,
        )
        world.at(20.0, lambda world=world: world.driver.kill(2))  # type: ignore[misc]
        logs.append(world.run(*random_arrivals(random.Random(seed), 12, 0.5)))
        again = replay(log_lines(world.controller, world.driver.log), EveryPlan(), RandomChoice(seed))
        assert again.difference is None
        assert {w.query.query_id for w in world.driver.ended} == {f"q{number}" for number in range(12)}

    assert logs[0] == logs[1]


class VariedShort(VariedOutcomes):
    def output_tokens(self, *args: object) -> int:
        return 1 + super().output_tokens(*args) % 12  # type: ignore[arg-type]


# The same decisions under asyncio.


def seconds_of(submit: Submit) -> tuple[float, str | None]:
    """Quarters of a second, so that many calls end together; one in nine fails."""
    number = crc32(submit.call_id.encode())
    return 0.25 * (1 + number % 12), "503" if number % 9 == 0 else None


class InfiniteServer:
    """Takes anything, and every call takes `seconds_of` it: what a simulated and an asyncio server can both do."""

    def __init__(
        self, env: Environment, index: int, submits: dict[str, Submit], on_end: Callable[[Request], None]
    ) -> None:
        self.options = SimpleNamespace(name=f"s{index}", model=f"m{index}", client_overhead_s=0.0)
        self.state = State.UP
        self.num_requests_waiting = 0
        self.kv_cache_usage = 0.0
        self._ends: list[int] = []
        self._num_submitted = 0
        self._env, self._submits, self._on_end = env, submits, on_end

    @property
    def num_requests_running(self) -> int:
        """Those that end at this instant included: servers have their turn last."""
        return self._num_submitted - sum(end < self._env.now for end in self._ends)

    def submit(self, request: Request) -> None:
        self._num_submitted += 1
        request.server_name = self.options.name
        request.scheduled_at = self._env.now
        self._env.process(self._serve(request))

    def abort(self, request: Request) -> None:
        self._end(request, "aborted")

    def _serve(self, request: Request) -> Generator[simpy.Event]:
        seconds, failure = seconds_of(self._submits[request.request_id])
        yield self._env.timeout(to_ticks(seconds))
        if request.outcome is None:
            request.num_output_tokens = request.output_tokens
            self._end(request, failure or FINISHED)

    def _end(self, request: Request, outcome: str) -> None:
        request.outcome = outcome
        self._ends.append(self._env.now)
        self._on_end(request)


@dataclass
class Recording:
    """Planner and executor that keep the arrays of all that they saw."""

    inner: RandomChoice
    arrays: list[np.ndarray] = field(default_factory=list)
    planner: EveryPlan = field(default_factory=EveryPlan)

    def plan(self, observation: Observation) -> tuple[str, str]:
        self._keep(observation)
        return self.planner.plan(observation)

    def choose(self, observation: Observation) -> tuple[int, str]:
        self._keep(observation)
        return self.inner.choose(observation)

    def _keep(self, observation: Observation) -> None:
        role = -1 if observation.role is None else ROLE_NAMES.index(observation.role)
        head = [observation.t, observation.budget_s, observation.remaining_s, observation.prompt_tokens, role]
        assert observation.latency_map is not None
        seen = (head, observation.query_embedding, observation.server_features, observation.latency_map)
        self.arrays.append(np.concatenate([np.ravel(part) for part in seen]))


class LinearLatency:
    """A latency model whose every input shows in what it says."""

    def latency_map(
        self, prompt_tokens: int, running: Sequence[int], waiting: Sequence[int], embedding: np.ndarray | None
    ) -> np.ndarray:
        assert embedding is not None
        load = np.array(running) + 100.0 * np.array(waiting)
        return np.outer(load, [1.0, 2.0, 3.0]) + prompt_tokens + float(embedding.sum())


EMBEDDINGS = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
ARRIVALS = [
    replace(arrived, query=replace(arrived.query, embedding=number % len(EMBEDDINGS)))
    for number, arrived in enumerate(random_arrivals(random.Random(5), 200, 0.25))
]
SEES = {"embeddings": EMBEDDINGS, "latency": LinearLatency()}
OPTIONS = ControllerOptions(cancel_hopeless=True, max_attempts=2)
INFOS = [ServerInfo(f"s{index}", f"m{index}", 8) for index in range(3)]


def under_simpy(executor: Recording) -> list[Event | Command]:
    env = Environment()
    driver = WorkflowDriver(env, Controller(INFOS, executor, executor, OPTIONS, **SEES), FixedOutcomes(7))
    servers = [InfiniteServer(env, index, driver.submits, driver.on_end) for index in range(3)]
    driver.run(servers, ARRIVALS)  # type: ignore[arg-type]
    return driver.log


class TimedServer:
    """As `InfiniteServer`, for the live driver."""

    def __init__(self) -> None:
        self._num_begun = 0
        self._ends: list[float] = []

    async def serve(self, submit: Submit) -> live.CallEnd:
        self._num_begun += 1
        seconds, failure = seconds_of(submit)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._ends.append(asyncio.get_running_loop().time())
        return live.CallEnd(submit.prompt.tokens, 7, None, failure or "")

    async def poll(self) -> live.Poll:
        now = asyncio.get_running_loop().time()
        running = self._num_begun - sum(end < now for end in self._ends)
        return live.Poll(live.Gauges(0, running, 0.0, 0.0), is_alive=True)


def under_asyncio(executor: Recording) -> list[Event | Command]:
    log: list[Event | Command] = []
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        driver = live.WorkflowDriver(
            Controller(INFOS, executor, executor, OPTIONS, **SEES),
            [TimedServer() for _ in INFOS],
            lambda event, commands: log.extend([event, *commands]),
            defer=loop.call_at_end_of_instant,
        )
        runner.run(driver.run(ARRIVALS))
    return log


def test_simpy_and_asyncio_take_the_same_decisions_on_the_same_observations() -> None:
    """200 workflows, ties at most instants: one list of events and commands, and the same arrays, down to the bit;
    and once more from the log alone, and by a trainer who iterates."""
    by_simpy, by_asyncio, by_replay, by_trainer = (Recording(RandomChoice(3)) for _ in range(4))
    log = under_simpy(by_simpy)
    control = Controller(INFOS, by_simpy, by_simpy, OPTIONS, **SEES)

    assert under_asyncio(by_asyncio) == log
    assert replay(log_lines(control, log), by_replay, by_replay, **SEES).difference is None
    trained(by_trainer)
    assert len(by_simpy.arrays) == 200 + sum(isinstance(item, Submit) for item in log)
    for other in (by_asyncio, by_replay, by_trainer):
        assert_array_equal(np.array(by_simpy.arrays), np.array(other.arrays))
    times = [item.t for item in log if isinstance(item, CallFinished | CallFailed | Arrived | Woken)]
    assert len(times) - len(set(times)) > 300
    assert {type(item).__name__ for item in log} >= {"Cancel", "Woken", "CallFailed"}


def trained(executor: Recording) -> None:
    """As a trainer runs it: decisions are yielded, not asked for."""
    env = Environment()
    driver = WorkflowDriver(env, Controller(INFOS, FixedPlan(), RandomChoice(0), OPTIONS, **SEES), FixedOutcomes(7))
    servers = [InfiniteServer(env, index, driver.submits, driver.on_end) for index in range(3)]
    decisions = driver.decisions(servers, ARRIVALS)  # type: ignore[arg-type]
    observation = next(decisions, None)
    while observation is not None:
        answer = executor.plan(observation) if observation.node is None else executor.choose(observation)
        try:
            observation = decisions.send(answer)
        except StopIteration:
            observation = None


class CountsPolls(Controller):
    """And knows how many there were."""

    num_polls = 0

    def polled(self, *gauges: Any) -> None:
        self.num_polls += 1
        super().polled(*gauges)


def test_without_a_log_all_is_the_same_but_polls_that_nobody_reads() -> None:
    """Polls ten times a step, and as often as there are events: fewer are made, and every observation is the same."""
    seen, drivers, polls = [], [], []
    for keeps_log in (True, False):
        env, executor = Environment(), Recording(RandomChoice(3))
        controller = CountsPolls(INFOS, executor, executor, OPTIONS, **SEES)
        driver = WorkflowDriver(env, controller, VariedShort(), poll_s=0.125, keeps_log=keeps_log)
        pool = Pool(env, driver.on_end)
        driver.run([pool.add(options) for options in pool_of(3)], ARRIVALS[:40])
        seen.append(np.array(executor.arrays))
        drivers.append(driver)
        polls.append(controller.num_polls)
    logs, without = drivers

    assert_array_equal(*seen)
    assert without.ended == logs.ended
    assert repr(without.spans_s) == repr(logs.spans_s)  # NaN equals NaN.
    assert not without.log
    assert not without.submits
    assert polls[1] < polls[0] / 2


def test_spans_of_calls_are_those_of_the_log() -> None:
    env, executor = Environment(), Recording(RandomChoice(3))
    driver = WorkflowDriver(env, Controller(INFOS, executor, executor, OPTIONS, **SEES), VariedShort())
    pool = Pool(env, driver.on_end)
    driver.run([pool.add(options) for options in pool_of(3)], ARRIVALS[:40])

    ends = {item.call_id: item.t for item in driver.log if isinstance(item, CallFinished)}

    assert list(driver.spans_s) == list(driver.submits)
    assert len(ends) < len(driver.spans_s)
    for call_id, (begun, ended) in driver.spans_s.items():
        assert call_id in ends or math.isnan(begun)
        assert ended == pytest.approx(ends.get(call_id, math.nan), nan_ok=True)
        assert not begun >= ended
