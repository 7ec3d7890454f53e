"""Is a server what the pool file says? Asked of its API, and of its behaviour where the API does not tell."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .client import Call, Client, Outcome, ServerError
from .metrics import parse_gauges
from .server_facts import ServerFacts, read_facts

MOST_PROBED_SLOTS = 256
"""A server with more is not filled: it would take too many requests."""
PROBE_TOKENS = (48, 192, 768)
"""Of the request whose end frees a slot: until then both contenders must wait. The next one is tried where they came
too late."""
PROBE_PROMPT_TOKENS = 16
URGENT, RELAXED = 0, 1000
SETTLED_STEPS = 5
LOOK_S = 0.01
IDLE_S = 30.0
"""So long the server may take to drop the requests that were given up."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the pool file says of a server."""

    version: str
    """How vLLM's version begins."""
    honours_priority: bool
    """Whether it must."""
    data_parallel_size: int
    max_num_seqs: int
    """Of each engine."""
    max_model_len: int
    num_blocks: int
    """Of each engine."""
    block_size: int
    enable_prefix_caching: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found."""

    facts: ServerFacts | None
    """None if it does not answer."""
    problems: tuple[str, ...]
    """One line for each mismatch."""
    notes: tuple[str, ...]
    """What could not be checked."""


async def check_server(client: Client, model: str, expected: Expected) -> Checked:
    """Compare a server with what is expected of it. It should be idle: the probe fills all slots of its first engine
    for a moment.

    Parameters
    ----------
    model
        The name under which it should serve its model.
    """
    try:
        facts = await read_facts(client, model)
    except ServerError as error:
        return Checked(None, (str(error),), ())
    problems = tuple(_mismatches(facts, expected))
    if expected.max_num_seqs > MOST_PROBED_SLOTS:
        unchecked = "max_num_seqs and priority" if expected.honours_priority else "max_num_seqs"
        return Checked(facts, problems, (f"{unchecked}: not checked with more than {MOST_PROBED_SLOTS}",))
    try:
        found, notes = await _probe(client, facts, expected)
    except ServerError as error:
        return Checked(facts, (*problems, str(error)), ())
    return Checked(facts, (*problems, *found), notes)


def _mismatches(facts: ServerFacts, expected: Expected) -> Iterator[str]:
    pairs = {
        "data_parallel_size": (expected.data_parallel_size, facts.num_engines),
        "max_model_len": (expected.max_model_len, facts.max_model_len),
        "num_blocks": (expected.num_blocks, facts.num_gpu_blocks),
        "block_size": (expected.block_size, facts.block_size),
        "enable_prefix_caching": (expected.enable_prefix_caching, facts.enable_prefix_caching),
    }
    if not facts.version.startswith(expected.version):
        yield f"version: the pool file simulates vLLM {expected.version}, the server is {facts.version}"
    for name, (wanted, found) in pairs.items():
        if found is not None and found != wanted:
            yield f"{name}: the pool file says {_toml(wanted)}, the server has {_toml(found)}"


def _toml(value: object) -> str:
    return str(value).lower()


async def _probe(client: Client, facts: ServerFacts, expected: Expected) -> tuple[list[str], tuple[str, ...]]:
    running, waiting = await _gauges(client)
    if running + waiting:
        return [], (f"max_num_seqs and priority: not checked, the server is busy ({running} running)",)
    longest = (facts.max_model_len - PROBE_PROMPT_TOKENS) // 3
    for tokens in sorted({min(tokens, longest) for tokens in PROBE_TOKENS}):
        probe = _Probe(client, facts.model, expected.max_num_seqs, tokens)
        try:
            problem = await probe.slots()
            if problem is not None:
                return [problem], ()
            if not probe.one_waited:
                continue
            if not expected.honours_priority:
                return [], ()
            first = await probe.first_of_two()
            if first is not None:
                ignored = "priority: is ignored; the server must run with --scheduling-policy priority"
                return ([] if first == URGENT else [ignored]), ()
        finally:
            await probe.stop()
    return [], ("max_num_seqs and priority: could not be checked, the server is too fast for it",)


class _Probe:
    """Fills all slots of an engine, lets two calls of different priority wait, and looks which of them comes first.

    One slot becomes free well before all the others, and only one call can have it. Both wait at the same engine:
    each has a queue of its own.
    """

    def __init__(self, client: Client, model: str, max_num_seqs: int, tokens: int) -> None:
        self._client = client
        self._model = model
        self._tokens = tokens
        self._tasks: list[asyncio.Task[None]] = []
        self._calls: list[Call] = []
        self._max_num_seqs = max_num_seqs
        self.one_waited = False
        """Whether one call more than there are slots was seen to wait."""

    async def slots(self) -> str | None:
        """Send as many calls as there should be slots, and one more; returns what is wrong with their number.

        Raises
        ------
        ServerError
            A call failed.
        """
        for index in range(self._max_num_seqs):
            self._send(self._tokens if index == 0 else 3 * self._tokens, priority=URGENT)
        while any(call.first_token_s is None for call in self._calls):
            running, waiting = await self._look()
            if waiting and 0 < running < self._max_num_seqs and self._has_settled(running):
                return f"max_num_seqs: the pool file says {self._max_num_seqs}, the server runs {running} at a time"
        more = self._send(2 * self._tokens, priority=RELAXED)
        while not self._tasks[0].done() and not self.one_waited:
            _, waiting = await self._look()
            self.one_waited = waiting > 0
            # Not by the times of tokens: those of two connections may be read in the wrong order.
            if more.first_token_s is not None and self._calls[0].num_chunks < self._tokens - SETTLED_STEPS:
                return f"max_num_seqs: the pool file says {self._max_num_seqs}, the server runs more at a time"
        return None

    async def first_of_two(self) -> int | None:
        """The priority of the call that comes first; None if that decides nothing, because one did not have to wait.

        Raises
        ------
        ServerError
            A call failed.
        """
        relaxed = self._calls[-1]
        urgent = self._send(2 * self._tokens, priority=URGENT)
        both_waited = False
        while relaxed.first_token_s is None and urgent.first_token_s is None:
            _, waiting = await self._look()
            both_waited = both_waited or waiting >= 2
        if not both_waited:
            return None
        return min((call.first_token_s, call.priority) for call in (relaxed, urgent) if call.first_token_s)[1]

    async def stop(self) -> None:
        """Give all calls up, and wait until the server is idle."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await wait_until_idle(self._client)

    def _send(self, output_tokens: int, priority: int) -> Call:
        # Different from the start, so that no two share blocks.
        first = 1000 + len(self._calls)
        call = Call([first] + [7] * (PROBE_PROMPT_TOKENS - 1), output_tokens, priority, engine=0)
        self._calls.append(call)
        self._tasks.append(asyncio.create_task(self._client.complete(call, self._model)))
        return call

    async def _look(self) -> tuple[int, int]:
        await asyncio.sleep(LOOK_S)
        for task, call in zip(self._tasks, self._calls, strict=True):
            if task.done() and call.outcome is not Outcome.FINISHED:
                raise ServerError(f"{self._client.url}: a probing request failed: {call.outcome}: {call.detail}")
        return await _gauges(self._client)

    def _has_settled(self, running: int) -> bool:
        """Whether those that run have had several steps, so that whoever could join them would have."""
        return sum(call.num_chunks >= SETTLED_STEPS for call in self._calls) >= running


async def _gauges(client: Client) -> tuple[int, int]:
    gauges = parse_gauges((await client.get("/metrics")).text)
    return gauges.running, gauges.waiting


async def wait_until_idle(client: Client, timeout_s: float = IDLE_S) -> bool:
    """Return whether nothing runs or waits on a server any more; it may take so long.

    Raises
    ------
    ServerError
        It does not answer.
    """
    deadline = time.monotonic() + timeout_s
    while any(await _gauges(client)):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK_S)
    return True


async def check_pool(clients: Sequence[Client], models: Sequence[str], expected: Sequence[Expected]) -> list[Checked]:
    """All servers of a pool at once."""
    return await asyncio.gather(*map(check_server, clients, models, expected))
