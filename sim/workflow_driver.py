"""Runs a workflow controller on the SimPy clock.

Everything that happens at one instant reaches the controller together, in `tie_order`, when the instant is over: after
each server has had its turn. So the order of decisions does not depend on the order of events in SimPy's heap, and a
call that follows from another one's end is noticed by a busy server with its next step, not with the one that the same
end has begun. What the commands lead to at once, such as a refusal, comes as a further batch of the same instant.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import simpy

from inframind.workflows import (
    Answer,
    Arrived,
    CallFailed,
    CallFinished,
    CallRecord,
    Cancel,
    Command,
    Controller,
    Event,
    MetricsPolled,
    Observation,
    Outcome,
    Query,
    ServerClosed,
    Submit,
    Woken,
    WorkflowFinished,
    tie_order,
)

from .clock import Environment, to_seconds, to_ticks
from .request import Request
from .server import FINISHED, Server, State


class Outcomes(Protocol):
    """How much models write, and whether it is right: the part of the world that no scheduler decides."""

    def output_tokens(
        self, domain: str, question: int, model: str, strategy: str, role: str, slot: int, seed: int
    ) -> int:
        """Length of an answer that nothing cuts short, at least 1; equal arguments give equal lengths."""
        ...

    def answer_correct(
        self, domain: str, question: int, topology: str, role_set: str, calls: Sequence[CallRecord], seed: int
    ) -> bool:
        """Whether a finished workflow's answer is right, which is that of the last node among its calls."""
        ...


@dataclass(frozen=True, slots=True)
class EndedWorkflow:
    """One query, and what became of it."""

    query: Query
    arrival_s: float
    end_s: float
    end: WorkflowFinished
    correct: bool | None
    """None if there is no answer."""


class WorkflowDriver:
    """Drives one controller.

    Parameters
    ----------
    outcomes
        Decides lengths and correctness.
    poll_s
        How often each server's gauges are read.
    seed
        Handed on to ``outcomes``.
    on_progress
        Called with the number of workflows that have ended, each time that one does.
    keeps_log
        Whether to fill ``log`` and ``submits``. If not, polls that are followed by another one before anything happens
        are left out too: no decision can see them.
    """

    def __init__(
        self,
        env: Environment,
        controller: Controller,
        outcomes: Outcomes,
        *,
        poll_s: float = 1.0,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
        keeps_log: bool = True,
    ) -> None:
        if to_ticks(poll_s) < 1:
            raise ValueError(f"poll_s ({poll_s}) must be at least a clock tick")
        self.log: list[Event | Command] = []
        """Every event, each followed by its commands."""
        self.ended: list[EndedWorkflow] = []
        """In the order of their ends."""
        self.submits: dict[str, Submit] = {}
        """All calls, by id, in the order in which they were submitted."""
        self.spans_s: dict[str, tuple[float, float]] = {}
        """Of each call, by id, in the order in which they were submitted: when its server began with it, and when its
        client had all of it; NaN until it has finished."""
        self._env = env
        self._controller = controller
        self._outcomes = outcomes
        self._poll_ticks = to_ticks(poll_s)
        self._keeps_log = keeps_log
        self._seed = seed
        self._on_progress = on_progress
        self._servers: list[Server] = []
        self._overhead_ticks: dict[str, int] = {}
        """Of each server's clients."""
        self._arrived: dict[str, Arrived] = {}
        self._in_flight: dict[str, tuple[Server, Request]] = {}
        self._num_to_come = 0
        self._happened: list[Event] = []
        """At this instant, not yet delivered."""
        self._armed_at = math.inf

    def on_end(self, request: Request) -> None:
        """For the pool: a request has ended. Its client gets to know with its overhead."""
        overhead = self._overhead_ticks[request.server_name]
        if overhead:
            self._env.timeout(overhead).callbacks.append(lambda _: self._notice_end(request))
        else:
            self._notice_end(request)

    def _notice_end(self, request: Request) -> None:
        del self._in_flight[request.request_id]
        t = self._env.now_s
        if request.outcome == FINISHED:
            assert request.scheduled_at is not None
            self.spans_s[request.request_id] = to_seconds(request.scheduled_at), t
            self._happened.append(CallFinished(t, request.request_id, request.prompt_tokens, request.num_output_tokens))
        else:
            self._happened.append(CallFailed(t, request.request_id, str(request.outcome)))

    def kill(self, server: int) -> None:
        """A server dies now; the controller sees it closed, and its calls failed."""
        self._servers[server].kill()
        self._happened.append(ServerClosed(self._env.now_s, server))

    def drain(self, server: int) -> None:
        """A server takes nothing more from now on."""
        self._servers[server].drain()
        self._happened.append(ServerClosed(self._env.now_s, server))

    def run(self, servers: Sequence[Server], arrivals: Sequence[Arrived]) -> None:
        """Run until every workflow and every call has ended; the controller's policies decide."""
        decisions = self.decisions(servers, arrivals)
        controller = self._controller
        try:
            observation = next(decisions)
            while True:
                observation = decisions.send(controller.answer(observation))
        except StopIteration:
            return

    def decisions(self, servers: Sequence[Server], arrivals: Sequence[Arrived]) -> Generator[Observation, Answer, None]:
        """As ``run()``, but whoever iterates decides: yields each observation and is sent the answer.

        Parameters
        ----------
        servers
            In the controller's order; ``on_end`` must be theirs.
        arrivals
            In order of time, with ids that differ.
        """
        env = self._env
        self._servers = list(servers)
        self._overhead_ticks = {
            server.options.name: to_ticks(server.options.client_overhead_s) for server in self._servers
        }
        self._num_to_come = len(arrivals)
        env.process(self._arrivals(arrivals))
        env.process(self._polls())
        controller = self._controller
        while self._happened or self._num_to_come or controller.num_active or controller.num_calls:
            env.step()
            if self._happened and env.peek() > env.now:
                yield from self._deliver()

    def _deliver(self) -> Generator[Observation, Answer, None]:
        env, controller = self._env, self._controller
        # The clock's note of who has had its turn at this tick: all have.
        env.wake_tick, env.wake_rank = env.now, len(self._servers)
        while self._happened:
            events, self._happened = self._happened, []
            if len(events) > 1:
                events.sort(key=tie_order)
            for event in events:
                commands = yield from controller.decisions(event)
                if self._keeps_log:
                    self.log += event, *commands
                for command in commands:
                    self._apply(command)
        self._arm()

    def _apply(self, command: Command) -> None:
        match command:
            case Submit():
                self._submit(command)
            case Cancel(call_id):
                # It may have ended at this very instant.
                if (in_flight := self._in_flight.get(call_id)) is not None:
                    server, request = in_flight
                    server.abort(request)
            case WorkflowFinished():
                self._end(command)

    def _submit(self, submit: Submit) -> None:
        server = self._servers[submit.server]
        query = self._arrived[submit.workflow_id].query
        output_tokens = self._outcomes.output_tokens(
            query.domain,
            query.question,
            server.options.model,
            submit.strategy,
            submit.role,
            submit.slot,
            self._seed,
        )
        request = Request(
            submit.call_id,
            self._env.now,
            submit.prompt.tokens,
            output_tokens,
            submit.max_tokens,
            submit.priority,
            submit.prompt.prefix,
        )
        if self._keeps_log:
            self.submits[submit.call_id] = submit
        self.spans_s[submit.call_id] = _NO_SPAN
        self._in_flight[submit.call_id] = server, request
        server.submit(request)

    def _end(self, end: WorkflowFinished) -> None:
        arrived = self._arrived.pop(end.workflow_id)
        query = arrived.query
        correct = None
        if end.outcome is Outcome.FINISHED:
            correct = self._outcomes.answer_correct(
                query.domain, query.question, end.topology, end.role_set, end.calls, self._seed
            )
        self.ended.append(EndedWorkflow(query, arrived.t, self._env.now_s, end, correct))
        if self._on_progress is not None:
            self._on_progress(len(self.ended))

    # SimPy processes.

    def _arrivals(self, arrivals: Sequence[Arrived]) -> Generator[simpy.Event]:
        env = self._env
        for arrived in arrivals:
            delay = to_ticks(arrived.t) - env.now
            if delay > 0:
                yield env.timeout(delay)
            event = self._arrived[arrived.query.query_id] = Arrived(env.now_s, arrived.query)
            self._happened.append(event)
            self._num_to_come -= 1

    def _polls(self) -> Generator[simpy.Event]:
        env, every = self._env, self._poll_ticks
        while True:
            num_unread = 0
            if not self._keeps_log and not self._happened and (next_tick := env.peek()) < math.inf:
                num_unread = (int(next_tick) - env.now) // every
            if num_unread == 0:
                self._poll(env.now_s)
            yield env.timeout(max(1, num_unread) * every)

    def _poll(self, t: float) -> None:
        """Nobody decides on gauges, and of the events of an instant they come first: they need not wait for its end."""
        for index, server in enumerate(self._servers):
            if server.state is not State.DEAD:
                gauges = (server.num_requests_waiting, server.num_requests_running, server.kv_cache_usage)
                if self._keeps_log:
                    self.log.append(MetricsPolled(t, index, *gauges))
                self._controller.polled(t, index, *gauges)

    def _arm(self) -> None:
        """See to it that the controller is woken when it wants to be."""
        wake_at = self._controller.wake_at
        if wake_at == self._armed_at or wake_at == math.inf:
            return
        self._armed_at = wake_at
        timeout = self._env.timeout(_first_tick_from(wake_at) - self._env.now)
        timeout.callbacks.append(lambda _: self._wake(wake_at))

    def _wake(self, wake_at: float) -> None:
        if wake_at == self._armed_at:
            self._armed_at = math.inf
            self._happened.append(Woken(self._env.now_s))


_NO_SPAN = (math.nan, math.nan)


def _first_tick_from(seconds: float) -> int:
    """The first tick whose time in seconds is not before this one: the nearest may be a rounding error early."""
    tick = to_ticks(seconds)
    while to_seconds(tick) < seconds:
        tick += max(1, tick >> 53)
    return tick
