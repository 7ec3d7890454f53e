"""An asyncio loop whose time jumps to the next timer, and the plainest asyncio driver of a workflow controller."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Sequence

from inframind.workflows import (
    Arrived,
    CallFailed,
    CallFinished,
    Cancel,
    Command,
    Controller,
    Event,
    MetricsPolled,
    Submit,
    Woken,
    tie_order,
)


class _NoWait(selectors.DefaultSelector):
    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        # Nothing more to do at this instant: whoever gathers what happened in it may look now.
        if not ready and timeout and not self.loop.at_end_of_instant():
            self.loop.skip(timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Runs as fast as it can; ``time()`` is exact for times that floats hold exactly."""

    def __init__(self) -> None:
        selector = _NoWait()
        selector.loop = self
        self._virtual = 0.0
        super().__init__(selector)
        self._clock_resolution = 1e-12
        self.at_end_of_instant: Callable[[], bool] = lambda: False
        """Says whether it did something, so that the instant goes on."""

    def time(self) -> float:
        return self._virtual

    def skip(self, seconds: float) -> None:
        self._virtual += seconds


class AsyncDriver:
    """As ``sim.WorkflowDriver``, with tasks for processes; a call takes ``seconds_of`` it, or fails after them."""

    def __init__(
        self,
        controller: Controller,
        seconds_of: Callable[[Submit], tuple[float, str | None]],
        tokens: int,
        poll_s: float,
    ) -> None:
        self.log: list[Event | Command] = []
        self._controller = controller
        self._seconds_of = seconds_of
        self._tokens = tokens
        self._poll_s = poll_s
        self._happened: list[Event] = []
        self._calls: dict[str, tuple[asyncio.Task[None], Submit]] = {}
        self._ends: list[tuple[int, float]] = []
        self._num_to_come = 0

    async def run(self, arrivals: Sequence[Arrived]) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.at_end_of_instant = self._deliver
        self._loop = loop
        self._num_to_come = len(arrivals)
        self._over = asyncio.Event()
        self._wakes: list[asyncio.TimerHandle] = []
        others = [asyncio.create_task(self._arrive(arrivals)), asyncio.create_task(self._poll())]
        await self._over.wait()
        for task in others:
            task.cancel()

    def _deliver(self) -> bool:
        if not self._happened:
            return False
        while self._happened:
            events, self._happened = sorted(self._happened, key=tie_order), []
            for event in events:
                commands = self._controller.receive(event)
                self.log += [event, *commands]
                for command in commands:
                    self._apply(command)
        for wake in self._wakes:
            wake.cancel()
        if (wake_at := self._controller.wake_at) < float("inf"):
            self._wakes = [self._loop.call_at(wake_at, self._wake)]
        if not (self._num_to_come or self._controller.num_active or self._controller.num_calls):
            self._over.set()
        return True

    def _wake(self) -> None:
        self._happened.append(Woken(self._loop.time()))

    def _apply(self, command: Command) -> None:
        if isinstance(command, Submit):
            self._calls[command.call_id] = asyncio.create_task(self._call(command)), command
        elif isinstance(command, Cancel) and command.call_id in self._calls:
            task, submit = self._calls.pop(command.call_id)
            task.cancel()
            self._ends.append((submit.server, self._loop.time()))
            self._happened.append(CallFailed(self._loop.time(), submit.call_id, "aborted"))

    async def _arrive(self, arrivals: Sequence[Arrived]) -> None:
        for arrived in arrivals:
            await asyncio.sleep(arrived.t - self._loop.time())
            self._happened.append(Arrived(self._loop.time(), arrived.query))
            self._num_to_come -= 1

    async def _poll(self) -> None:
        while True:
            now = self._loop.time()
            for index in range(len(self._controller.servers)):
                running = sum(submit.server == index for _, submit in self._calls.values())
                # Those that end at this instant count: servers have their turn last.
                running += sum(server == index and end == now for server, end in self._ends)
                self._happened.append(MetricsPolled(now, index, 0, running, 0.0))
            await asyncio.sleep(self._poll_s)

    async def _call(self, submit: Submit) -> None:
        seconds, failure = self._seconds_of(submit)
        await asyncio.sleep(seconds)
        del self._calls[submit.call_id]
        t = self._loop.time()
        self._ends.append((submit.server, t))
        if failure is None:
            self._happened.append(CallFinished(t, submit.call_id, submit.prompt.tokens, self._tokens))
        else:
            self._happened.append(CallFailed(t, submit.call_id, failure))
