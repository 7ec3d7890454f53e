"""Servers of several engines behind one endpoint (``--data-parallel-size``), and how any server is started.

Each engine has a scheduler and a KV cache of its own, and vLLM's front end sends each request to one of them. Engines
of a dense LLM know nothing of each other; those of a mixture of experts step in lockstep, see `LockstepScheduler`.
"""

from collections.abc import Callable

import simpy

from .balancer import Balancer
from .clock import Environment
from .lockstep import LockstepScheduler
from .request import Request
from .server import Server, ServerOptions
from .vllm_0_32 import Scheduler


def start_server(
    env: Environment,
    options: ServerOptions,
    on_end: Callable[[Request], None],
    *,
    rank: int = 0,
    fast_forward: bool = True,
) -> Server:
    """Start a server, parameters as of `Server`; one of several engines takes a rank for each."""
    kind = Server
    if options.data_parallel_size > 1:
        kind = LockstepServer if options.is_moe else IndependentServer
    return kind(env, options, on_end, rank=rank, fast_forward=fast_forward)


class LockstepServer(Server):
    """A server whose engines step together: one loop around the schedulers of all."""

    def _make_scheduler(self, *, fast_forward: bool) -> LockstepScheduler:
        size = self.options.data_parallel_size
        self._balancer = Balancer(size)
        self._on_end = self._balancer.told_of(self._on_end)
        self._all = LockstepScheduler(self.options.scheduler, size, fast_forward=fast_forward)
        return self._all

    def _take(self, request: Request, now: int) -> None:
        request.data_parallel_rank = self._balancer.choose(now)
        super()._take(request, now)

    def on_wake(self, event: simpy.Event) -> None:
        """As of one engine."""
        super().on_wake(event)
        now = self.env.now
        usages = self._all.kv_cache_usages(0 if self._run is None else self._run.rounds_by(now))
        for engine, (part, usage) in enumerate(zip(self._all.parts, usages, strict=True)):
            self._balancer.tell(engine, now, len(part.waiting), len(part.running), usage)


class IndependentServer(Server):
    """A server whose engines go each at its own pace; its own loop never wakes."""

    def _make_scheduler(self, *, fast_forward: bool) -> Scheduler | LockstepScheduler:
        size = self.options.data_parallel_size
        self._balancer = Balancer(size)
        self._engines = [
            _Engine(self, self._balancer, number, self._rank + number, fast_forward=fast_forward)
            for number in range(size)
        ]
        # Only whether a request can ever fit is asked of it, and the engines are alike.
        return self._engines[0]._scheduler

    def _take(self, request: Request, now: int) -> None:
        request.data_parallel_rank = rank = self._balancer.choose(now)
        self._engines[rank]._take(request, now)

    def abort(self, request: Request) -> None:
        """As of one engine."""
        if request.data_parallel_rank is not None:
            self._engines[request.data_parallel_rank].abort(request)

    def kill(self) -> None:
        """As of one engine."""
        self._go("kill")
        for engine in self._engines:
            engine.kill()

    @property
    def num_requests_running(self) -> int:
        """On all engines."""
        return sum(engine.num_requests_running for engine in self._engines)

    @property
    def num_requests_waiting(self) -> int:
        """On all engines."""
        return sum(engine.num_requests_waiting for engine in self._engines)

    @property
    def kv_cache_usage(self) -> float:
        """The mean of the engines'."""
        return sum(engine.kv_cache_usage for engine in self._engines) / len(self._engines)

    @property
    def busy_ticks(self) -> int:
        """The mean of the engines'."""
        return sum(engine.busy_ticks for engine in self._engines) // len(self._engines)


class _Engine(Server):
    """One engine of an `IndependentServer`, which tells the balancer about it after each of its turns."""

    def __init__(self, whole: Server, balancer: Balancer, number: int, rank: int, *, fast_forward: bool) -> None:
        on_end = balancer.told_of(whole._on_end)
        super().__init__(whole.env, whole.options, on_end, rank=rank, fast_forward=fast_forward)
        self._balancer = balancer
        self._number = number

    def on_wake(self, event: simpy.Event) -> None:
        """As of any server."""
        super().on_wake(event)
        scheduler = self._scheduler
        waiting, running = len(scheduler.waiting), len(scheduler.running)
        self._balancer.tell(self._number, self.env.now, waiting, running, self.kv_cache_usage)
