"""One simulated vLLM server: an engine loop on the SimPy clock around a scheduler.

The loop is that of ``vllm/v1/engine/core.py`` (0.32.0): ``step`` with one batch in flight, and for asynchronous
scheduling ``step_with_batch_queue`` with two. It wakes when the oldest batch in flight ends, handles aborts, then that
batch's output, then takes in new requests and schedules.

With fast-forward a run of decode steps is one SimPy event. A request or an abort that comes in the middle cuts the run
at the end of the step that is then running, where the step-by-step loop would notice it too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum

import simpy

from inframind.workflows import ServerInfo

from .clock import Environment
from .decode_run import DecodeRun
from .fast_forward import FastForwardScheduler
from .lockstep import LockstepScheduler
from .request import Request
from .step_time import StepTicks, StepTime
from .vllm_0_32 import Scheduler, SchedulerOptions, Step

FINISHED = "finished"


class Failure(StrEnum):
    """Why a request ended without its last token."""

    ABORTED = "aborted"
    """The caller gave it up."""
    QUEUE_FULL = "rejected: max_num_queued_reqs"
    """vLLM answers 503."""
    NEVER_FITS = "rejected: never fits"
    """vLLM answers 400, or could not have started with such a small KV cache; ``request.refusal`` says why."""
    DRAINING = "rejected: server draining"
    """The server finishes what it has and takes nothing more."""
    KILLED = "server killed"
    """The server died with the request in it, or was dead when it came."""


class State(Enum):
    """The life of a server."""

    UP = "up"
    DRAINING = "draining"
    DEAD = "dead"


_LIFE = {
    State.UP: {"drain": State.DRAINING, "kill": State.DEAD},
    State.DRAINING: {"kill": State.DEAD},
    State.DEAD: {},
}
"""``{state: {event: next state}}``; any other event is an error."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """All that makes a server."""

    name: str
    model: str
    scheduler: SchedulerOptions
    step_time: StepTime
    max_num_queued_reqs: int | None = None
    """Unfinished requests beyond which new ones are rejected (``vllm/v1/engine/async_llm.py``, 0.32.0)."""
    data_parallel_size: int = 1
    """Engines behind its endpoint, each with a scheduler of these options."""
    is_moe: bool = False
    """Of several engines: they step together, see `inframind.sim.data_parallel`."""
    client_overhead_s: float = 0.0
    """What its clients see beyond the engine's own times, for each request. The server itself knows nothing of it:
    workflows wait for it."""

    @property
    def info(self) -> ServerInfo:
        """What a workflow controller knows of it."""
        return ServerInfo(self.name, self.model, self.num_slots, self.scheduler.max_model_len)

    @property
    def num_slots(self) -> int:
        """Requests that may run at a time, on all engines together."""
        return self.data_parallel_size * self.scheduler.max_num_seqs


class Server:
    """A vLLM server on the simulation clock.

    Parameters
    ----------
    on_end
        Called once for each submitted request, at the moment when it ends: ``request.outcome`` is ``"finished"`` or
        the value of a ``Failure``. A refused request ends within ``submit()``.
    rank
        The server's place in its pool: of servers that wake at the same tick, the lowest goes first, after
        everything else that happens at that tick.
    fast_forward
        Off: every step is an event of its own. Same results, slower; kept as the thing to compare with.
    """

    def __init__(
        self,
        env: Environment,
        options: ServerOptions,
        on_end: Callable[[Request], None],
        *,
        rank: int = 0,
        fast_forward: bool = True,
    ) -> None:
        self.env = env
        self.options = options
        self.state = State.UP
        self._busy_ticks = 0
        self._on_end = on_end
        self._may_refuse = options.max_num_queued_reqs is not None
        """Whether there can be other reasons to refuse a request than its length."""
        self._rank = rank
        # For _Wake: what SimPy calls, and when within a tick.
        self.wake_callbacks: list[Callable[[simpy.Event], None]] = [self.on_wake]
        self.wake_priority = simpy.events.EventPriority(simpy.events.NORMAL + 1 + rank)
        self._step_ticks = StepTicks(options.step_time)
        self._scheduler = scheduler = self._make_scheduler(fast_forward=fast_forward)
        self._fast: FastForwardScheduler | LockstepScheduler | None = None
        if fast_forward and isinstance(scheduler, FastForwardScheduler | LockstepScheduler):
            self._fast = scheduler
        self._depth = 2 if options.scheduler.async_scheduling else 1
        self._in_flight = self._scheduler.in_flight
        self._device_free = 0
        self._inbox: list[Request] = []
        self._last_arrival = -1
        self._aborting: list[Request] = []
        self._is_idle = True
        self._wake: _Wake | None = None
        """The event that ends the oldest step in flight, or the run; one that is not this is out of date."""
        self._run: DecodeRun | None = None

    def _make_scheduler(self, *, fast_forward: bool) -> Scheduler | LockstepScheduler:
        """For the engine loop; called once, while the server is made."""
        return FastForwardScheduler(self.options.scheduler) if fast_forward else Scheduler(self.options.scheduler)

    # What a caller may do.

    def submit(self, request: Request) -> None:
        """A request reaches the server now.

        Sets ``request.arrival``: the tick, or the one after the last arrival's. No two requests reach a real server
        at the same instant, and with equal priority and arrival two of them can preempt each other for ever.
        """
        now = self.env.now
        request.arrival = self._last_arrival = now if now > self._last_arrival else self._last_arrival + 1
        request.server_name = self.options.name
        request.refusal = self._scheduler.why_never(request)
        if self._may_refuse or request.refusal is not None:
            failure = self._why_not(request)
            if failure is not None:
                self._end(request, failure)
                return
        self._take(request, now)

    def _take(self, request: Request, now: int) -> None:
        self._inbox.append(request)
        if self._is_idle:
            self._is_idle = False
            self._wake = _Wake(self, now, now)
        elif self._run is not None and self._scheduler.may_admit(request):
            self._cut(self._run, now)

    def abort(self, request: Request) -> None:
        """Give up a request; it ends with the step that is running now. One that has ended stays as it is."""
        if request.outcome is None:
            self._aborting.append(request)
            if self._run is not None:
                self._cut(self._run, self.env.now)

    def drain(self) -> None:
        """Take nothing more; what is here runs to its end."""
        self._go("drain")

    def kill(self) -> None:
        """Die: every request here fails now."""
        self._go("kill")
        if self._run is not None:
            self._cut(self._run, self.env.now)
            self._land(self._run, keep_oldest=True)
        self._wake = None
        self._aborting.clear()
        inbox, self._inbox = self._inbox, []
        served = self._scheduler.unfinished_requests()
        for request in served:
            self._scheduler.abort(request)
        self._in_flight.clear()
        for request in sorted(served + inbox, key=lambda r: (r.arrival, r.request_id)):
            self._end(request, Failure.KILLED)

    # What /metrics shows.

    @property
    def num_requests_running(self) -> int:
        """As vLLM's gauge."""
        return len(self._scheduler.running)

    @property
    def num_requests_waiting(self) -> int:
        """As vLLM's gauge, with those that the engine has not yet taken in."""
        return len(self._scheduler.waiting) + len(self._inbox)

    @property
    def kv_cache_usage(self) -> float:
        """As vLLM's gauge ``kv_cache_usage_perc``: 0 to 1."""
        if self._run is not None and self._fast is not None:
            return self._fast.get_kv_cache_usage(self._run.rounds_by(self._next_look(self.env.now)))
        return self._scheduler.get_kv_cache_usage()

    @property
    def busy_ticks(self) -> int:
        """Time during which steps ran, those in flight included to their end."""
        return self._busy_ticks

    # The engine loop.

    def on_wake(self, event: simpy.Event) -> None:
        """The oldest step in flight has ended, or the first request has come to an idle server."""
        wake = self._wake
        if event is not wake:
            return
        self._wake = None
        env, now = self.env, wake.tick
        if now > env.wake_tick:
            env.wake_tick, env.wake_rank = now, self._rank
        elif self._rank > env.wake_rank:
            env.wake_rank = self._rank
        if self._run is not None:
            self._land(self._run, keep_oldest=bool(self._aborting))
        if self._aborting:
            for request in self._aborting:
                self._abort(request)
            self._aborting.clear()
        if self._in_flight and self._in_flight[0].end <= now:
            self._process()
        self._turn(now)

    def _turn(self, now: int) -> None:
        """Take in what has come, then schedule until as many steps are in flight as there may be."""
        scheduler, in_flight = self._scheduler, self._in_flight
        while True:
            if self._inbox:
                for request in self._inbox:
                    scheduler.add_request(request)
                self._inbox.clear()
            elif self._start_run(now):
                return
            if scheduler.has_unfinished_requests():
                step = scheduler.schedule()
                self._launch(step, now)
                if len(in_flight) < self._depth and (step.num_tokens or scheduler.has_unfinished_requests()):
                    continue
            if not in_flight:
                self._is_idle = True
                return
            if in_flight[0].end > now:
                if not self._start_run(now):
                    self._wake = _Wake(self, in_flight[0].end, now)
                return
            self._process()

    def _launch(self, step: Step, now: int) -> None:
        step.end = now
        if step.num_tokens:
            duration = self._step_ticks.step(step)
            start = now if now > self._device_free else self._device_free
            step.end = self._device_free = start + duration
            self._busy_ticks += duration
            for request in step.scheduled:
                if request.scheduled_at is None:
                    request.scheduled_at = now
        elif not step.preempted and not any(other.end > now for other in self._in_flight):
            raise RuntimeError(f"{self.options.name}: requests, but nothing to schedule at tick {now}")

    def _process(self) -> None:
        """The oldest step in flight has ended."""
        end = self._in_flight[0].end
        first_tokens, finished = self._scheduler.update_from_output()
        for request in first_tokens:
            request.first_token_at = end
        for request in finished:
            request.finished_at = end
            request.outcome = FINISHED
            self._on_end(request)

    def _why_not(self, request: Request) -> Failure | None:
        if self.state is not State.UP:
            return Failure.DRAINING if self.state is State.DRAINING else Failure.KILLED
        if request.refusal is not None:
            return Failure.NEVER_FITS
        limit = self.options.max_num_queued_reqs
        if limit is not None and self.num_requests_running + self.num_requests_waiting >= limit:
            return Failure.QUEUE_FULL
        return None

    def _abort(self, request: Request) -> None:
        if request.outcome is None:
            if request in self._inbox:
                self._inbox.remove(request)
            else:
                self._scheduler.abort(request)
            self._end(request, Failure.ABORTED)

    def _end(self, request: Request, outcome: str) -> None:
        request.finished_at = self.env.now
        request.outcome = outcome
        self._on_end(request)

    def _go(self, event: str) -> None:
        following = _LIFE[self.state].get(event)
        if following is None:
            raise ValueError(f"server {self.options.name} is {self.state.value}: cannot {event} it")
        self.state = following
        self._may_refuse = True

    # Fast-forward.

    def _start_run(self, now: int) -> bool:
        """Begin a run of uniform rounds, if the steps in flight and the next round allow it."""
        fast, in_flight = self._fast, self._in_flight
        missing = self._depth - len(in_flight)
        if fast is None or self._aborting or missing > 1:
            return False
        rounds = fast.uniform_rounds()
        if rounds == 0:
            return False
        first, growth, rounds = fast.timing(self._step_ticks, rounds)
        has_tail = self._depth > 1 and fast.has_tail(rounds)
        oldest_end = origin = now
        if in_flight:
            oldest_end, origin = in_flight[0].end, in_flight[-1].end
        self._run = run = DecodeRun(oldest_end, origin, first, growth, missing, self._depth - 1, rounds, has_tail)
        self._wake = _Wake(self, run.stop, now)
        return True

    def _cut(self, run: DecodeRun, now: int) -> None:
        """End the run with the step that is running now."""
        if run.cut(self._next_look(now)):
            self._wake = _Wake(self, run.stop, now)

    def _next_look(self, now: int) -> int:
        """The first tick at which the engine may still look at its queues: now, unless a server of higher rank has
        woken now, for then its own turn has passed."""
        env = self.env
        return now + 1 if env.wake_tick == now and env.wake_rank > self._rank else now

    def _land(self, run: DecodeRun, *, keep_oldest: bool) -> None:
        """The run is over: what it stands for becomes the state. As many steps as there may be are in flight, of which
        the oldest ends now. If it does nothing but give tokens, it is taken as processed, unless ``keep_oldest``."""
        assert self._fast is not None
        self._run = None
        fast, in_flight, rounds = self._fast, self._in_flight, run.rounds
        ended = rounds + run.has_tail - run.missing
        while ended > 0 and in_flight:
            # What is in flight before a run finishes nobody, but first tokens may come of it.
            step = fast.take_oldest()
            for request in step.first_tokens:
                request.first_token_at = step.end
            ended -= 1
        if rounds == 0:
            return
        fast.advance(rounds)
        end = run.stop
        if run.has_tail:
            duration, _, _ = fast.timing(self._step_ticks, 1)
            fast.advance(1)
            end += duration
        elif self._depth > 1:
            end += run.last_ticks()
        # A run that was cut has nobody's last token.
        if not in_flight and (keep_oldest or not run.is_cut):
            fast.add_plain().end = run.stop
        if self._depth > 1:
            fast.add_plain().end = end
        self._device_free = end
        self._busy_ticks += end - run.origin


class _Wake(simpy.Event):
    """As ``simpy.Timeout``, for an absolute tick and after everything else that happens then."""

    _ok = True
    _value = None

    def __init__(self, server: Server, tick: int, now: int) -> None:
        # SimPy drops an event's list of callbacks when it has run them and changes nothing in it: one will do for all.
        self.callbacks = server.wake_callbacks
        self.tick = tick
        server.env.schedule(self, server.wake_priority, tick - now)
