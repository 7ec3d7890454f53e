"""Runs a workflow controller on asyncio: the same controller as `inframind.sim.WorkflowDriver`, on real time.

What has happened reaches the controller in `tie_order` as soon as the loop gets to it; what happened meanwhile comes
along. On real time that order hardly matters, but it is written to the log, and the log repeats every decision.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from inframind.workflows import (
    Arrived,
    CallFailed,
    CallFinished,
    Cancel,
    Command,
    Controller,
    Event,
    MetricsPolled,
    ServerClosed,
    ServerOpened,
    Stopped,
    Submit,
    Woken,
    tie_order,
)

from .metrics import Gauges

FAILED_POLLS = 3
"""So many polls in a row without an answer, and a server is closed."""
ABORTED = "aborted"
"""Reason of a call that the controller has cancelled, as in the simulator."""


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How a call ended."""

    prompt_tokens: int
    output_tokens: int
    text: str | None
    """None where only the length matters."""
    failure: str = ""
    """Empty if it finished."""
    is_unreachable: bool = False
    """It failed because nothing answers where the server should be."""


@dataclass(frozen=True, slots=True)
class Poll:
    """What came of looking at a server."""

    gauges: Gauges | None
    """None where they cannot be had, or not be believed: those known before grow older."""
    is_alive: bool
    """Whether anything answered."""


class DrivenServer(Protocol):
    """What the driver needs of a server."""

    async def serve(self, submit: Submit) -> CallEnd:
        """Make a call; whatever goes wrong is told in its end. Cancelling the task gives the call up."""
        ...

    async def poll(self) -> Poll:
        """Read the gauges; failures are told in what is returned."""
        ...


Defer = Callable[[Callable[[], None]], object]
"""Calls a function soon."""


class WorkflowDriver:
    """Drives one controller.

    Parameters
    ----------
    servers
        In the controller's order.
    on_turn
        Called with each event and the commands that it led to, before these are carried out.
    poll_s
        How often each server's gauges are read.
    begin_s
        The run's time when ``run()`` is called; above 0 where an earlier part of the run is gone on with.
    defer
        Delivers what has happened: by default with the loop's next round. Under virtual time the end of the instant,
        so that ties are as in the simulator.
    """

    def __init__(
        self,
        controller: Controller,
        servers: Sequence[DrivenServer],
        on_turn: Callable[[Event, list[Command]], None],
        *,
        poll_s: float = 1.0,
        begin_s: float = 0.0,
        defer: Defer | None = None,
    ) -> None:
        self.origin_s = 0.0
        """The loop's time at which the run's was 0; known from ``run()`` on."""
        self.late_s: list[float] = []
        """How much later than due each arrival was told."""
        self._controller = controller
        self._servers = servers
        self._on_turn = on_turn
        self._poll_s = poll_s
        self._begin_s = begin_s
        self._defer = defer
        self._is_open = [True] * len(servers)
        self._num_failed_polls = [0] * len(servers)
        """In a row."""
        self._calls: dict[str, asyncio.Task[CallEnd]] = {}
        """In flight."""
        self._others: list[asyncio.Task[None]] = []
        self._num_to_come = 0
        self._is_stopped = False
        self._happened: list[Event] = []
        """Not yet delivered."""
        self._last_s = begin_s
        self._timer: asyncio.TimerHandle | None = None

    @property
    def now_s(self) -> float:
        """The run's time, which never goes back."""
        self._last_s = max(self._last_s, self._loop.time() - self.origin_s)
        return self._last_s

    async def run(self, arrivals: Sequence[Arrived]) -> None:
        """Run until every workflow and every call has ended; the run's time begins when each server has been looked at.

        Parameters
        ----------
        arrivals
            In order of time, with ids that differ.

        Raises
        ------
        ConfigError
            A policy's choice that cannot be carried out; open calls are given up.
        """
        loop = self._loop = asyncio.get_running_loop()
        first_polls = await asyncio.gather(*(server.poll() for server in self._servers))
        self.origin_s = loop.time() - self._begin_s
        if self._is_stopped:
            arrivals = ()
        self._num_to_come = len(arrivals)
        self._over: asyncio.Future[None] = loop.create_future()
        self._spawn(self._arrive(arrivals))
        for index, poll in enumerate(first_polls):
            self._tell(index, poll)
            self._spawn(self._watch(index))
        self._end_if_over()
        try:
            await self._over
        finally:
            for task in [*self._others, *self._calls.values()]:
                task.cancel()
            await asyncio.gather(*self._others, *self._calls.values(), return_exceptions=True)
            if self._timer is not None:
                self._timer.cancel()

    def stop(self) -> None:
        """Break the run off: nothing arrives any more, workflows end as stopped, their calls are given up."""
        self._is_stopped = True
        if self._others:  # else the servers are still being looked at for the first time
            self._others[0].cancel()
            self._num_to_come = 0
            self._notice(Stopped(self.now_s))

    # What happens.

    def _notice(self, event: Event) -> None:
        self._happened.append(event)
        if len(self._happened) == 1:
            (self._defer or self._loop.call_soon)(self._deliver)

    def _deliver(self) -> None:
        events, self._happened = sorted(self._happened, key=lambda event: (event.t, tie_order(event))), []
        try:
            for event in events:
                commands = self._controller.receive(event)
                self._on_turn(event, commands)
                for command in commands:
                    self._apply(command)
        except Exception as error:
            self._break_off(error)
            return
        self._arm()
        self._end_if_over()

    def _end_if_over(self) -> None:
        busy = self._happened or self._num_to_come or self._controller.num_active or self._controller.num_calls
        if not busy and not self._over.done():
            self._over.set_result(None)

    def _break_off(self, error: BaseException) -> None:
        if not self._over.done():
            self._over.set_exception(error)

    def _apply(self, command: Command) -> None:
        match command:
            case Submit(call_id=call_id, server=server):
                task = self._calls[call_id] = self._loop.create_task(self._servers[server].serve(command))
                task.add_done_callback(partial(self._call_ended, command))
            case Cancel(call_id) if call_id in self._calls:
                self._calls[call_id].cancel()

    def _call_ended(self, submit: Submit, task: asyncio.Task[CallEnd]) -> None:
        del self._calls[submit.call_id]
        if self._over.done():
            return
        t, call_id = self.now_s, submit.call_id
        if task.cancelled():
            self._notice(CallFailed(t, call_id, ABORTED))
        elif (error := task.exception()) is not None:
            self._break_off(error)
        elif (end := task.result()).failure:
            if end.is_unreachable:
                self._set_open(submit.server, is_open=False)
            self._notice(CallFailed(t, call_id, end.failure))
        else:
            self._notice(CallFinished(t, call_id, end.prompt_tokens, end.output_tokens, end.text))

    def _set_open(self, server: int, *, is_open: bool) -> None:
        if self._is_open[server] != is_open:
            self._is_open[server] = is_open
            self._notice((ServerOpened if is_open else ServerClosed)(self.now_s, server))

    def _arm(self) -> None:
        """See to it that the controller is woken when it wants to be."""
        if self._timer is not None:
            self._timer.cancel()
        wake_at = self._controller.wake_at
        self._timer = None if wake_at == math.inf else self._loop.call_at(self.origin_s + wake_at, self._wake, wake_at)

    def _wake(self, wake_at: float) -> None:
        # A loop's timers may be a rounding error early.
        self._last_s = max(self.now_s, wake_at)
        self._notice(Woken(self._last_s))

    # Tasks.

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        task.add_done_callback(self._other_ended)
        self._others.append(task)

    def _other_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._break_off(error)

    async def _arrive(self, arrivals: Sequence[Arrived]) -> None:
        for arrived in arrivals:
            await self._sleep_until(arrived.t)
            t = self.now_s
            self.late_s.append(t - arrived.t)
            self._notice(Arrived(t, arrived.query))
            self._num_to_come -= 1

    async def _watch(self, index: int) -> None:
        """Poll one server for ever."""
        next_s = self.now_s
        while True:
            next_s = max(next_s + self._poll_s, self.now_s)
            await self._sleep_until(next_s)
            self._tell(index, await self._servers[index].poll())

    def _tell(self, index: int, poll: Poll) -> None:
        self._num_failed_polls[index] = 0 if poll.is_alive else self._num_failed_polls[index] + 1
        if poll.is_alive or self._num_failed_polls[index] >= FAILED_POLLS:
            self._set_open(index, is_open=poll.is_alive)
        if (gauges := poll.gauges) is not None:
            self._notice(MetricsPolled(self.now_s, index, gauges.waiting, gauges.running, gauges.kv_usage))

    async def _sleep_until(self, t: float) -> None:
        if (delay_s := t - self.now_s) > 0:
            await asyncio.sleep(delay_s)
