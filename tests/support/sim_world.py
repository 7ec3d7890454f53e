"""Run one simulated server and check what must hold in every run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field

import simpy

from inframind.sim import (
    FINISHED,
    Environment,
    Failure,
    Request,
    Scheduler,
    SchedulerOptions,
    Server,
    ServerOptions,
    StepTime,
    start_server,
    to_seconds,
    to_ticks,
)
from inframind.sim.data_parallel import IndependentServer, LockstepServer

CONSTANT_STEP = StepTime(fixed_s=1.0, prefill_token_s=0.0, decode_s=0.0)
SYNC = SchedulerOptions(max_num_seqs=2, num_blocks=100, max_model_len=1000, async_scheduling=False)


def options(scheduler: SchedulerOptions, step_time: StepTime = CONSTANT_STEP, **kwargs: int) -> ServerOptions:
    return ServerOptions("server", "model", scheduler, step_time, **kwargs)


def times(request: Request) -> tuple[float, ...]:
    """When it was scheduled, had its first token, and ended; seconds, what has not happened left out."""
    ticks = (request.scheduled_at, request.first_token_at, request.finished_at)
    return tuple(to_seconds(t) for t in ticks if t is not None)


def schedulers(server: Server) -> Sequence[Scheduler]:
    """Of all its engines."""
    if isinstance(server, LockstepServer):
        return server._all.parts
    engines = server._engines if isinstance(server, IndependentServer) else [server]
    return [engine._scheduler for engine in engines if isinstance(engine._scheduler, Scheduler)]


@dataclass
class World:
    """One server, what is sent to it, and the order in which things ended."""

    options: ServerOptions
    fast_forward: bool = True
    ended: list[Request] = field(default_factory=list)
    end_ticks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.env = Environment()
        self.server = start_server(self.env, self.options, self._on_end, fast_forward=self.fast_forward)
        self.submitted: list[Request] = []
        self.submit_ticks: list[int] = []
        self.occupancy_ticks = 0
        """Integral over time of running plus waiting, from the server's gauges."""

    def _submit(self, request: Request) -> None:
        self.submitted.append(request)
        self.submit_ticks.append(self.env.now)
        self.server.submit(request)

    def _on_end(self, request: Request) -> None:
        self.ended.append(request)
        self.end_ticks.append(self.env.now)

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something at a time; actions of the same time in the order in which they were given."""

        def process() -> Generator[simpy.Event]:
            yield self.env.timeout_at(seconds)
            action()

        self.env.process(process())

    def send(self, seconds: float, request: Request) -> Request:
        self.at(seconds, lambda: self._submit(request))
        return request

    def send_all(self, requests: Iterable[tuple[float, Request]]) -> None:
        """Many requests by one process, in order of arrival."""

        def process() -> Generator[simpy.Event]:
            for seconds, request in requests:
                delay = to_ticks(seconds) - self.env.now
                if delay > 0:
                    yield self.env.timeout(delay)
                self._submit(request)

        self.env.process(process())

    def run(self) -> World:
        env, server = self.env, self.server
        while (moment := env.peek()) < simpy.core.Infinity:
            self.occupancy_ticks += (moment - env.now) * (server.num_requests_running + server.num_requests_waiting)
            env.step()
        check_invariants(self)
        return self


def check_invariants(world: World) -> None:
    """Nothing lost, nothing twice, no block leaked, time in order, Little's law."""
    assert sorted(id(r) for r in world.ended) == sorted(id(r) for r in world.submitted)
    assert world.end_ticks == sorted(world.end_ticks)
    # Little's law for a finite run: the area under the number in the system is the sum of all times in it.
    assert world.occupancy_ticks == sum(r.finished_at or 0 for r in world.ended) - sum(world.submit_ticks)
    for scheduler in schedulers(world.server):
        assert not scheduler.running
        assert not scheduler.waiting
        assert scheduler.kv_cache.num_free == scheduler.options.num_blocks - 1
    failures = {failure.value for failure in Failure}
    for request, submitted_at in zip(world.submitted, world.submit_ticks, strict=True):
        assert request.outcome == FINISHED or request.outcome in failures
        if request.outcome == FINISHED:
            assert request.scheduled_at is not None
            assert request.first_token_at is not None
            assert request.finished_at is not None
            assert submitted_at <= request.scheduled_at < request.first_token_at <= request.finished_at
            assert request.prompt_tokens + request.num_output_tokens == request.final_tokens
