"""Run workflows on a live pool: connects controller, driver, servers and log."""

import asyncio
import gc
import json
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inframind.traces import write_whole
from inframind.workflows import (
    Arrived,
    CallFailed,
    CallFinished,
    Command,
    Controller,
    Event,
    MetricsPolled,
    ServerClosed,
    ServerOpened,
    Submit,
    WorkflowFinished,
)

from .asks import Ask
from .client import Call, Client
from .pool_server import PoolServer
from .run_log import EVENTS, Resumed, RunLog, resumed
from .workflow_driver import WorkflowDriver

REPORT = "client.json"
LOOP_SAMPLE_S = 0.02
"""How often the lateness of the event loop is measured."""
SHOW_S = 0.5
"""How often progress is told."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server of the pool is."""

    url: str
    model: str
    """The name under which it serves its model."""
    api_key: str | None = None


@dataclass(slots=True)
class ServerView:
    """A server as the run sees it now."""

    waiting: int = 0
    running: int = 0
    polled_at: float = 0.0
    in_flight: int = 0
    """Calls of this run."""
    is_open: bool = True


@dataclass(slots=True)
class RunView:
    """A run as it goes on, from its very beginning on, also where it was broken off and is gone on with."""

    servers: list[ServerView]
    t: float = 0.0
    num_arrived: int = 0
    num_ended: int = 0
    num_on_time: int = 0
    num_calls: int = 0
    """Ended ones, of this part of the run."""
    most_in_flight: int = 0

    @property
    def in_flight(self) -> int:
        """Calls of this run, on all servers."""
        return sum(server.in_flight for server in self.servers)


@dataclass(slots=True)
class _Following:
    """Keeps a `RunView` up to date."""

    view: RunView
    servers: dict[str, int] = field(default_factory=dict)
    """Of the calls in flight."""

    def on_turn(self, event: Event, commands: Sequence[Command]) -> None:
        view = self.view
        view.t = event.t
        match event:
            case MetricsPolled(t, server, waiting, running):
                seen = view.servers[server]
                seen.waiting, seen.running, seen.polled_at = waiting, running, t
            case ServerClosed(server=server) | ServerOpened(server=server):
                view.servers[server].is_open = isinstance(event, ServerOpened)
            case CallFinished(call_id=call_id) | CallFailed(call_id=call_id):
                view.num_calls += 1
                view.servers[self.servers.pop(call_id)].in_flight -= 1
            case Arrived():
                view.num_arrived += 1
        for command in commands:
            if isinstance(command, Submit):
                self.servers[command.call_id] = command.server
                view.servers[command.server].in_flight += 1
            elif isinstance(command, WorkflowFinished):
                view.num_ended += 1
                view.num_on_time += command.on_time
        view.most_in_flight = max(view.most_in_flight, view.in_flight)


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How servers are used."""

    poll_s: float = 1.0
    """How often each server's gauges are read."""
    max_open: int = 900
    """Calls open at a time, on all servers together; further ones wait, first come, first served."""
    timeout_s: float = 600.0
    """How long a call waits for its next piece."""


def replay_live(
    controller: Controller,
    endpoints: Sequence[Endpoint],
    arrivals: Sequence[Arrived],
    ask: Ask,
    folder: Path,
    *,
    options: ReplayOptions | None = None,
    on_progress: Callable[[RunView], None] = lambda view: None,
) -> bool:
    """Let the arrivals of a run come to a live pool, and wait until each has been answered or given up.

    All is logged into ``folder`` while it happens. A log that is there is gone on with: queries that have begun do not
    come again. SIGINT or SIGTERM break the run off as ``Stopped`` does; a second one ends the program.

    Parameters
    ----------
    endpoints
        In the controller's order.
    arrivals
        Of the whole run, in order of time.
    on_progress
        Called every half second.

    Returns
    -------
        Whether the run went to its end, instead of being broken off.

    Raises
    ------
    ConfigError
        A policy's choice that cannot be carried out.
    TraceError
        A log that cannot be gone on with.
    """
    before = resumed(folder, controller) if (folder / EVENTS).exists() else Resumed(0.0, set(), 0)
    rest = [arrived for arrived in arrivals if arrived.query.query_id not in before.begun]
    view = RunView(
        [ServerView(polled_at=before.begin_s) for _ in endpoints],
        t=before.begin_s,
        num_arrived=len(before.begun),
        num_ended=len(before.begun),
        num_on_time=before.num_on_time,
    )
    # Looking through all that has been imported takes the garbage collector a tenth of a second.
    gc.collect()
    gc.freeze()
    try:
        with RunLog(folder, controller) as log:
            work = _run(controller, endpoints, rest, ask, log, view, options or ReplayOptions(), on_progress)
            return asyncio.run(work)
    finally:
        gc.unfreeze()


async def _run(
    controller: Controller,
    endpoints: Sequence[Endpoint],
    arrivals: Sequence[Arrived],
    ask: Ask,
    log: RunLog,
    view: RunView,
    options: ReplayOptions,
    on_progress: Callable[[RunView], None],
) -> bool:
    following = _Following(view)
    begin_s, begin_cpu_s = view.t, time.process_time()
    late_s: list[float] = []
    is_whole = True

    def on_turn(event: Event, commands: list[Command]) -> None:
        log.on_turn(event, commands)
        following.on_turn(event, commands)

    def on_call(submit: Submit, call: Call) -> None:
        log.on_call(submit, call, driver.origin_s, driver.now_s)

    def stop() -> None:
        nonlocal is_whole
        is_whole = False
        driver.stop()

    async with _clients(endpoints, options) as clients:
        servers = [
            PoolServer(client, endpoint.model, ask, on_call)
            for client, endpoint in zip(clients, endpoints, strict=True)
        ]
        driver = WorkflowDriver(controller, servers, on_turn, poll_s=options.poll_s, begin_s=begin_s)
        others = [asyncio.create_task(_measure_lateness(late_s)), asyncio.create_task(_show(view, on_progress))]
        try:
            with _signals_to(stop):
                await driver.run(arrivals)
        finally:
            for task in others:
                task.cancel()
            cpu_s = time.process_time() - begin_cpu_s
            part = {
                "begin_s": begin_s,
                "end_s": driver.now_s,
                "arrivals": len(driver.late_s),
                **_figures("arrival_late", driver.late_s),
                **_figures("loop_late", late_s),
                "calls": view.num_calls,
                "most_calls_in_flight": view.most_in_flight,
                "cpu_s": cpu_s,
                "cpu_s_per_call": cpu_s / max(view.num_calls, 1),
                "polls": sum(server.num_polls for server in servers),
                "polls_failed": sum(server.num_failed_polls for server in servers),
                "server_restarts": sum(server.num_restarts for server in servers),
            }
            _add_part(log.folder / REPORT, part)
    return is_whole


@asynccontextmanager
async def _clients(endpoints: Sequence[Endpoint], options: ReplayOptions) -> AsyncIterator[list[Client]]:
    open_limit = asyncio.Semaphore(options.max_open)
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Client(endpoint.url, api_key=endpoint.api_key, timeout_s=options.timeout_s, open_limit=open_limit)
            )
            for endpoint in endpoints
        ]


@contextmanager
def _signals_to(stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM calls ``stop``; the next ones do what they do elsewhere."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    loop = asyncio.get_running_loop()
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

    def once() -> None:
        release()
        stop()

    def release() -> None:
        for kind, handler in before.items():
            if loop.remove_signal_handler(kind):
                signal.signal(kind, handler)

    for kind in before:
        loop.add_signal_handler(kind, once)
    try:
        yield
    finally:
        release()


async def _measure_lateness(late_s: list[float]) -> None:
    """How much later than asked the loop calls back: what delays every time that is measured here."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOP_SAMPLE_S
        await asyncio.sleep(LOOP_SAMPLE_S)
        late_s.append(loop.time() - due)


async def _show(view: RunView, on_progress: Callable[[RunView], None]) -> None:
    while True:
        on_progress(view)
        await asyncio.sleep(SHOW_S)


def _figures(name: str, seconds: Sequence[float]) -> dict[str, float | None]:
    if not seconds:
        return {f"{name}_{figure}_s": None for figure in ("mean", "p99", "max")}
    mean, p99, most = np.mean(seconds), np.percentile(seconds, 99), np.max(seconds)
    return {f"{name}_mean_s": float(mean), f"{name}_p99_s": float(p99), f"{name}_max_s": float(most)}


def _add_part(path: Path, part: dict[str, Any]) -> None:
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"parts": []}
    write_whole(path, json.dumps({"parts": [*before["parts"], part]}, indent=2) + "\n")
