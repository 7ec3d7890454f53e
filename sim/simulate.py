"""Serve a table of requests on a simulated pool."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import simpy
from numpy.typing import NDArray

from inframind.traces import MOONCAKE_BLOCK_TOKENS

from .call_log import CallLog
from .clock import TICKS_PER_S, Environment, to_seconds, to_ticks
from .garbage import no_garbage_collection
from .pool import Pool
from .request import Prefix, Request
from .server import Server, ServerOptions


@dataclass(frozen=True, slots=True)
class CallRun:
    """What came out of a run of single calls."""

    calls: pd.DataFrame
    """Columns of ``traces.CALLS``, in the order of the requests."""
    samples: pd.DataFrame
    """Columns of ``traces.SAMPLES``."""
    utilisation: Mapping[str, float]
    """Share of the run during which each server was running a step."""


def simulate_calls(
    servers: Sequence[ServerOptions],
    requests: pd.DataFrame,
    *,
    server_index: NDArray[np.int64] | None = None,
    sample_s: float | None = 1.0,
    client_s: float = 0.0,
    fast_forward: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> CallRun:
    """Send each request to its server at its arrival and run until the last one has ended.

    Parameters
    ----------
    servers
        The pool.
    requests
        Columns of ``traces.REQUESTS`` (``prefix_hashes`` of a Mooncake trace and ``max_tokens`` are used where
        present), sorted by ``arrival_s``. ``priority`` reaches vLLM as it is; an empty one is 0. In a closed loop
        (``closed_loop``), once each client has sent a request, the next ones come when others have ended; such a loop,
        and what comes after it, begins on idle servers.
    server_index
        Which server each request goes to; the first one if None.
    sample_s
        How often queue depth and KV usage are noted; None: never.
    client_s
        From a request's end on the server to the next one of its closed loop.
    fast_forward
        Off: every step is an event of its own. Same results, slower.
    on_progress
        Called now and then with the number of calls that have ended.
    """
    if sample_s is not None and to_ticks(sample_s) < 1:
        raise ValueError(f"sample_s ({sample_s}) must be at least a clock tick")
    env = Environment()
    log = CallLog({options.name: options.model for options in servers})
    clients = _Clients(env, log, to_ticks(client_s)) if "closed_loop" in requests else None
    pool = Pool(env, clients.on_end if clients else log.record, fast_forward=fast_forward)
    for options in servers:
        pool.add(options)
    order = list(pool)
    targets = [order[0]] * len(requests) if server_index is None else [order[i] for i in server_index]
    env.process(_arrivals(env, requests, targets, clients))
    samples: list[tuple[float, str, int, int, float]] = []
    if sample_s is not None:
        env.process(_sampling(env, pool, to_ticks(sample_s), samples, lambda: len(log) == len(requests)))
    if on_progress is not None:
        # Every hundredth of the arrivals, but at least a second apart: all of them may come at once.
        every_s = max(1.0, requests["arrival_s"].max() / 100) if len(requests) else 1.0
        env.process(_progress(env, log, on_progress, len(requests), every_s))
    with no_garbage_collection():
        env.run()

    calls = log.frame(np.argsort(np.array(log.call_ids(), dtype=np.int64)))
    duration_s = calls["finish_s"].max() or 1.0
    if "budget_s" in requests:
        calls["budget_s"] = requests["budget_s"].to_numpy()
        calls["deadline_s"] = requests["arrival_s"].to_numpy() + calls["budget_s"]
    return CallRun(
        calls=calls,
        samples=_samples_frame(samples),
        utilisation={server.options.name: to_seconds(server.busy_ticks) / duration_s for server in pool},
    )


def _arrivals(
    env: Environment,
    requests: pd.DataFrame,
    targets: Sequence[Server],
    clients: "_Clients | None",
) -> Generator[simpy.Event]:
    """A SimPy process that submits each request in its turn."""
    num = len(targets)
    rows = zip(
        map(str, range(num)),
        map(round, (requests["arrival_s"] * TICKS_PER_S).tolist()),
        requests["prompt_tokens"].tolist(),
        requests["output_tokens"].tolist(),
        _ints(requests, "max_tokens", requests["output_tokens"]),
        _ints(requests, "priority", 0),
        _prefixes(requests) or [()] * num,
        strict=True,
    )
    if clients is not None:
        yield from _closed_loops(env, zip(targets, rows, _ints(requests, "closed_loop", 0), strict=True), clients)
        return
    timeout = env.timeout
    now = 0
    for server, row in zip(targets, rows, strict=True):
        arrival = row[1]
        if arrival > now:
            yield timeout(arrival - now)
            now = arrival
        server.submit(Request(*row))


class _Clients:
    """How many requests are open, as their clients see it."""

    def __init__(self, env: Environment, log: CallLog, delay: int) -> None:
        self._env = env
        self._log = log
        self._delay = delay
        self._num_open = 0
        self._one_ended = env.event()

    def submit(self, server: Server, request: Request) -> None:
        self._num_open += 1
        server.submit(request)

    def on_end(self, request: Request) -> None:
        self._log.record(request)
        self._env.timeout(self._delay).callbacks.append(self._on_answer)

    def _on_answer(self, _: simpy.Event) -> None:
        self._num_open -= 1
        self._one_ended.succeed()
        self._one_ended = self._env.event()

    def until_open_are(self, at_most: int) -> Generator[simpy.Event]:
        """Wait."""
        while self._num_open > at_most:
            yield self._one_ended


def _closed_loops(
    env: Environment, requests: Iterable[tuple[Server, tuple[Any, ...], int]], clients: _Clients
) -> Generator[simpy.Event]:
    """As `_arrivals`, but the clients of a closed loop, once each has sent a request, wait for an answer."""
    loop = num_sent = late = 0
    for server, row, size in requests:
        arrival = row[1]
        if size != loop:
            yield from clients.until_open_are(0)
            loop, num_sent, late = size, 0, max(0, env.now - arrival)
        if size and num_sent >= size:
            yield from clients.until_open_are(size - 1)
        else:
            yield env.timeout(max(0, arrival + late - env.now))
        num_sent += 1
        clients.submit(server, Request(*row))


def _ints(requests: pd.DataFrame, column: str, default: "int | pd.Series[int]") -> list[int]:
    """An optional column; where it is absent or empty, the default."""
    defaults = pd.Series(default, index=requests.index)
    values = requests[column].fillna(defaults) if column in requests else defaults
    return values.astype("int64").tolist()


def _prefixes(requests: pd.DataFrame) -> list[Prefix] | None:
    """What the prompts share, from whichever columns say it."""
    if "prefix_hashes" in requests:
        # Mooncake: each hash stands for a block of tokens and all tokens before it.
        return [
            tuple((key, min(MOONCAKE_BLOCK_TOKENS * (i + 1), prompt)) for i, key in enumerate(hashes))
            for hashes, prompt in zip(requests["prefix_hashes"], requests["prompt_tokens"], strict=True)
        ]
    if "prefix_group" in requests and "prefix_tokens" in requests:
        shared = map(min, _ints(requests, "prefix_tokens", 0), requests["prompt_tokens"].tolist())
        columns = zip(requests["prefix_group"].tolist(), shared, strict=True)
        return [((group, tokens),) if isinstance(group, str) and tokens else () for group, tokens in columns]
    return None


def _sampling(
    env: Environment,
    pool: Pool,
    every: int,
    samples: list[tuple[float, str, int, int, float]],
    is_over: Callable[[], bool],
) -> Generator[simpy.Event]:
    """A SimPy process that looks at every server now and then."""
    while not is_over():
        time_s = env.now_s
        samples += [
            (time_s, name, server.num_requests_waiting, server.num_requests_running, server.kv_cache_usage)
            for name, server in pool.servers.items()
        ]
        yield env.timeout(every)


def _samples_frame(samples: Sequence[tuple[float, str, int, int, float]]) -> pd.DataFrame:
    time_s, server, waiting, running, kv_usage = zip(*samples, strict=True) if samples else ((),) * 5
    return pd.DataFrame(
        {
            "time_s": np.array(time_s, dtype=np.float64),
            "server": pd.array(server, dtype="str"),
            "waiting": np.array(waiting, dtype=np.int32),
            "running": np.array(running, dtype=np.int32),
            "kv_usage": np.array(kv_usage, dtype=np.float64),
        }
    )


def _progress(
    env: Environment, log: CallLog, on_progress: Callable[[int], None], num: int, every_s: float
) -> Generator[simpy.Event]:
    """A SimPy process that says how far the run has come."""
    every = to_ticks(every_s)
    while len(log) < num:
        yield env.timeout(every)
        on_progress(len(log))
