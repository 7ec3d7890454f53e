"""Which of a server's engines gets a request, as vLLM's front end decides it.

Of ``vllm/v1/engine/core_client.py: DPLBAsyncMPClient.get_core_engine_for_request`` and of ``coordinator.py`` (0.32.0),
for one API server (``--api-server-count 1``). By default there are as many of them as engines, each sees its own
requests only, and the kernel decides which of them gets a connection.
"""

from collections.abc import Callable
from math import inf

from .clock import to_ticks
from .request import Request

PUBLISHED_EVERY = to_ticks(0.1)
"""What the engines have told reaches the front end so often, if it is news."""
WAITING_PENALTY, PENALISED_FROM = 6.0, 0.5
"""A waiting request counts for more where the KV cache is fuller than that: a queue drains slowly there."""


class Balancer:
    """Sends each request to the engine with the least load, as far as the front end knows it."""

    def __init__(self, num_engines: int) -> None:
        self._unfinished = [0] * num_engines
        """Requests sent to each engine and not ended: this the front end knows at once."""
        self._told = [(0, 0, 0.0)] * num_engines
        """Waiting, running and KV cache usage of each engine, when one of the first two last changed."""
        self._is_news = False
        self._known = self._told.copy()
        """The same as last published."""
        self._sent = [0] * num_engines
        """Requests sent since then: they count as waiting."""
        self._period = 0
        self._first = 0
        """Where the next search begins: ties go round."""

    def choose(self, now: int) -> int:
        """The engine for a request that comes now."""
        self._publish(now)
        num_engines = len(self._told)
        chosen, least = 0, inf
        for place in range(self._first, self._first + num_engines):
            engine = place % num_engines
            waiting, running, kv_cache_usage = self._known[engine]
            waiting += self._sent[engine]
            load: float = max(self._unfinished[engine], waiting + running)
            load += waiting * WAITING_PENALTY * max(0.0, kv_cache_usage - PENALISED_FROM)
            if load < least:
                chosen, least = engine, load
        self._first = (self._first + 1) % num_engines
        self._sent[chosen] += 1
        self._unfinished[chosen] += 1
        return chosen

    def told_of(self, on_end: Callable[[Request], None]) -> Callable[[Request], None]:
        """The same callback for the ends of requests; the balancer hears of them first."""

        def tell_both(request: Request) -> None:
            if request.data_parallel_rank is not None:
                self._unfinished[request.data_parallel_rank] -= 1
            on_end(request)

        return tell_both

    def tell(self, engine: int, now: int, waiting: int, running: int, kv_cache_usage: float) -> None:
        """What an engine's step leaves behind."""
        if self._told[engine][:2] != (waiting, running):
            self._publish(now)
            self._told[engine] = (waiting, running, kv_cache_usage)
            self._is_news = True

    def _publish(self, now: int) -> None:
        """If it is time: what was told before the period began in which now is."""
        period = now // PUBLISHED_EVERY
        if period > self._period:
            self._period = period
            if self._is_news:
                self._is_news = False
                self._known = self._told.copy()
                self._sent = [0] * len(self._sent)
