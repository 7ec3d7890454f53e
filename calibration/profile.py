"""Drive a real server through a sweep of loads, and log what happens (`profile_plan`, `profile_log`)."""

import asyncio
import json
import math
import os
import platform
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from inframind.live import (
    Call,
    Client,
    Outcome,
    RequestError,
    ServerError,
    ServerFacts,
    parse_gauges,
    parse_iteration_tokens,
    read_facts,
    round_trip_s,
)
from inframind.live.asks import TOKEN_IDS
from inframind.traces import ConfigError

from .profile_log import COMPLETE, STOPPED, ProfileLog, Stay, check_folder
from .profile_plan import WARM_UP, Ask, Condition, Ended, Limits, Sweep
from .profile_server_file import Option, Stated, scheduler_options, server_file, server_name

POLL_S = 0.5
MOST_FAILURES = 5
"""So many failures in a row, and the server is given up."""
REJECTED_PAUSE_S = 0.5
FIXED_FACTS = (
    *("model", "version", "max_model_len", "num_engines", "num_gpu_blocks", "block_size", "enable_prefix_caching"),
)
"""Another value of one of these is another server."""
BLOCKS_TOLERANCE = 0.02
"""So far may ``num_gpu_blocks`` be off: a restarted server measures its free memory anew."""


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """What a person may choose."""

    url: str
    model: str | None = None
    budget_s: float = 600.0
    seed: int = 0
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    timeout_s: float = 300.0
    stated: Stated = field(default_factory=Stated)

    def kept(self) -> dict[str, Any]:
        """Those that shape the sweep: a profile goes on with the ones that it began with."""
        names = ("budget_s", "seed", "max_prompt_tokens", "max_output_tokens")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class ProfileReport:
    """What a profile left in its folder."""

    facts: ServerFacts
    options: list[Option]
    conditions: Mapping[str, Ended]
    num_requests: int
    num_finished: int
    remarks: tuple[str, ...]
    """What a resumed profile found changed, for the person."""


def profile_server(
    options: ProfileOptions,
    folder: Path,
    *,
    api_key: str | None = None,
    resume: bool = False,
    on_progress: Callable[[float, str], None] = lambda elapsed_s, condition: None,
) -> ProfileReport:
    """Profile a server into ``folder``.

    Whatever ends it early, the tables of what has been measured are written.

    Parameters
    ----------
    api_key
        Sent to the server, written nowhere.
    resume
        Go on with the conditions that the profile in ``folder`` has not completed.
    on_progress
        Called with the seconds spent on conditions so far, and the condition that runs.

    Raises
    ------
    ConfigError
        If the folder cannot be used, or holds a profile of another server or with other options.
    RequestError
        If the address, the model or the key is wrong, or the server refuses a request as malformed.
    ServerError
        If the server does not answer, stops answering, is restarted, or shows no metrics.
    """
    return asyncio.run(_record(options, folder, _sweep, api_key=api_key, resume=resume, on_progress=on_progress))


def record_loads(
    options: ProfileOptions, folder: Path, conditions: Iterable[Condition], *, api_key: str | None = None
) -> ProfileReport:
    """Put loads of one's own on a server and log them like a profile's: something to check a fit against.

    Raises
    ------
    ConfigError, RequestError, ServerError
        As `profile_server` does.
    """

    async def work(runner: "LoadRunner", _: Limits) -> None:
        for condition in conditions:
            await runner.run(condition)

    return asyncio.run(_record(options, folder, work, api_key=api_key))


async def _record(
    options: ProfileOptions,
    folder: Path,
    work: Callable[["LoadRunner", Limits], Coroutine[None, None, None]],
    *,
    api_key: str | None = None,
    resume: bool = False,
    on_progress: Callable[[float, str], None] = lambda elapsed_s, condition: None,
) -> ProfileReport:
    check_folder(folder, resume=resume)
    async with Client(options.url, api_key=api_key, timeout_s=options.timeout_s) as client:
        facts = await read_facts(client, options.model)
        described = await _described(client, facts, options)
        with ProfileLog(folder, None if resume else described) as log:
            remarks = _changes(log, facts, options) if resume else ()
            log.write_facts(described | {"started_at": log.facts["started_at"]})
            runner = LoadRunner(client, facts, log, on_progress)
            try:
                await runner.watched(work(runner, _limits(facts, options)))
            finally:
                found = scheduler_options(facts, options.stated, log)
                log.write_facts(log.facts | {"client": log.facts["client"] | runner.lateness()})
                log.write_tables(server_file(facts, found))
            return ProfileReport(facts, found, log.ended(), len(log.requests), log.num_finished, remarks)


async def _sweep(runner: "LoadRunner", limits: Limits) -> None:
    """Run the conditions that are not complete yet, and the warm-up for each process of the server.

    Only the first warm-up shapes the sweep: that of a restarted server takes another time, which may leave some for a
    condition more.
    """
    complete = runner.log.ended()
    steps = Sweep(limits).conditions()
    condition = next(steps, None)
    while condition is not None:
        ended = complete.get(condition.name)
        if ended is None or (condition.name == WARM_UP and not runner.is_warm):
            shown = await runner.run(condition)
            ended = ended or shown
        try:
            condition = steps.send(ended)
        except StopIteration:
            return


def _limits(facts: ServerFacts, options: ProfileOptions) -> Limits:
    max_num_seqs = options.stated.max_num_seqs
    return Limits(
        max_model_len=facts.max_model_len,
        block_size=facts.block_size,
        enable_prefix_caching=facts.enable_prefix_caching is not False,
        slots=None if max_num_seqs is None else facts.num_engines * max_num_seqs,
        **options.kept(),
    )


class LoadRunner:
    """Puts conditions on a server, logs every request, and notices when the server is no longer the same.

    Its clock is the profile's: seconds since it first began, also after a resume.
    """

    def __init__(
        self,
        client: Client,
        facts: ServerFacts,
        log: ProfileLog,
        on_progress: Callable[[float, str], None] = lambda elapsed_s, condition: None,
    ) -> None:
        self.log = log
        self._client = client
        self._facts = facts
        self._on_progress = on_progress
        began = datetime.fromisoformat(log.facts["started_at"])
        so_far_s = (datetime.now(UTC) - began).total_seconds() if log.requests else 0.0
        self._origin_s = time.monotonic() - max(so_far_s, log.last_s + 1.0 if log.requests else 0.0)
        # Contents are new in every run, so that nothing of an earlier one is in the prefix cache.
        self._contents = np.random.default_rng(random.SystemRandom().getrandbits(64))
        self._shared: dict[tuple[str, int, str], list[int]] = {}
        self._failures = 0
        self._condition: tuple[str, float] = "", self.now_s

    @property
    def now_s(self) -> float:
        """The profile's clock."""
        return time.monotonic() - self._origin_s

    @property
    def is_warm(self) -> bool:
        """Whether the server has had its warm-up since it was started, as far as it tells when that was."""
        return any(
            (stay.condition, stay.outcome, stay.process_start_s) == (WARM_UP, COMPLETE, self._process_start_s)
            for stay in self.log.stays
        )

    @property
    def _process_start_s(self) -> float | None:
        start_s = self._facts.process_start_s
        return None if math.isnan(start_s) else start_s

    async def watched(self, work: Coroutine[None, None, None]) -> None:
        """Run ``work`` while ``/metrics`` is polled.

        Raises
        ------
        ServerError
            The first one of both.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                poller = tasks.create_task(self._poll())
                await work
                poller.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None

    async def run(self, condition: Condition) -> Ended:
        """Put one condition on the server, to its end.

        Raises
        ------
        ServerError
            If the server is given up, or none of the requests finished.
        """
        steps_before = await self._step_tokens()
        begin_s = self.now_s
        self._condition = condition.name, begin_s
        attempt = self.log.begin(condition.name, begin_s)
        outcome, steps_after = STOPPED, steps_before
        try:
            if condition.concurrency is None:
                await self._open_loop(condition, attempt)
            else:
                await self._closed_loop(condition, attempt)
            outcome, steps_after = COMPLETE, await self._step_tokens()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            steps = {f"{bound:g}": count - steps_before.get(bound, 0.0) for bound, count in steps_after.items()}
            stay = Stay(condition.name, attempt, begin_s, self.now_s, outcome, steps, self._process_start_s)
            self.log.end(stay)
        ended = self.log.shown(stay)
        if not ended.answers:
            last = self.log.requests[-1]
            raise ServerError(
                f"{self._client.url}: no request of {condition.name} finished; "
                f"the last one: {last['outcome']}, {last['detail']}"
            )
        return ended

    def lateness(self) -> dict[str, float]:
        """How much later than meant requests were sent: what this client itself adds under load."""
        late = [line["late_s"] for line in self.log.requests]
        return {f"late_p{q}_s": round(float(np.percentile(late, q)), 6) for q in (50, 99, 100)} if late else {}

    async def _open_loop(self, condition: Condition, attempt: int) -> None:
        begin_s = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for ask in condition.asks:
                call = self._call(condition.name, attempt, ask)
                due_s = begin_s + ask.at_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                tasks.create_task(self._one(condition, attempt, ask, call, due_s))

    async def _closed_loop(self, condition: Condition, attempt: int) -> None:
        until_s = time.monotonic() + condition.window_s
        asks = iter(condition.asks)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(condition.concurrency or 1):
                tasks.create_task(self._worker(condition, attempt, asks, until_s))

    async def _worker(self, condition: Condition, attempt: int, asks: Iterator[Ask], until_s: float) -> None:
        for ask in asks:
            call = self._call(condition.name, attempt, ask)
            await self._one(condition, attempt, ask, call, time.monotonic())
            if call.outcome is Outcome.REJECTED:
                await asyncio.sleep(REJECTED_PAUSE_S)
            if time.monotonic() >= until_s:
                return

    async def _one(self, condition: Condition, attempt: int, ask: Ask, call: Call, due_s: float) -> None:
        try:
            await self._client.complete(call, self._facts.model)
        finally:
            self.log.add_request(condition, attempt, ask, call, self._origin_s, due_s)
        self._judge(call)

    def _judge(self, call: Call) -> None:
        """Count failures in a row; a request that the server refuses as malformed will not get better."""
        if call.outcome is Outcome.REFUSED:
            raise RequestError(f"{self._client.url}: {call.detail}")
        if call.outcome is Outcome.TIMEOUT:
            raise ServerError(f"{self._client.url}: {call.detail}; --timeout waits longer")
        if call.outcome in (Outcome.FINISHED, Outcome.REJECTED):
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            told = f"{call.outcome}: {call.detail}" if call.detail else f"{call.outcome}"
            raise ServerError(f"{self._client.url}: {self._failures} requests in a row failed; the last one: {told}")

    def _call(self, condition: str, attempt: int, ask: Ask) -> Call:
        key = condition, attempt, ask.prefix_group or ""
        shared = self._shared.get(key, []) if ask.prefix_group else []
        if len(shared) < ask.prefix_tokens:
            shared = self._shared[key] = self._random_ids(ask.prefix_tokens)
        own = self._random_ids(ask.prompt_tokens - len(shared))
        return Call([*shared, *own], ask.output_tokens, ask.priority)

    def _random_ids(self, number: int) -> list[int]:
        ids: list[int] = self._contents.integers(*TOKEN_IDS, number).tolist()
        return ids

    async def _poll(self) -> None:
        """Sample the queues for ever; a few polls may fail."""
        failures = 0
        while True:
            try:
                gauges = parse_gauges((await self._client.get("/metrics")).text)
            except ServerError:
                failures += 1
                if failures >= MOST_FAILURES:
                    raise
            else:
                failures = 0
                # NaN, where the server does not tell, equals nothing and differs from nothing.
                if abs(gauges.process_start_s - self._facts.process_start_s) > 0:
                    raise ServerError(f"{self._client.url}: the server was restarted meanwhile")
                self.log.add_sample(self.now_s, server_name(self._facts), gauges)
            self._tell_progress()
            await asyncio.sleep(POLL_S)

    def _tell_progress(self) -> None:
        """The time that counts: of complete conditions, and of the one that runs."""
        name, begin_s = self._condition
        spent_s = sum(stay.end_s - stay.begin_s for stay in self.log.stays if stay.outcome == COMPLETE)
        self._on_progress(spent_s + self.now_s - begin_s, name)

    async def _step_tokens(self) -> Mapping[float, float]:
        return parse_iteration_tokens((await self._client.get("/metrics")).text)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first plain exception of a group: tasks that share a server fail together, for one reason."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


async def _described(client: Client, facts: ServerFacts, options: ProfileOptions) -> dict[str, Any]:
    """What server.json holds."""
    return {
        "started_at": datetime.now(UTC).isoformat(),
        "server": json.loads(json.dumps(asdict(facts)).replace("NaN", "null")),
        "options": options.kept(),
        "stated": asdict(options.stated),
        "not_told_by_the_api": "policy, max_num_seqs, max_num_batched_tokens, async_scheduling: see server.toml",
        "client": {
            "round_trip_s": round(await round_trip_s(client), 6),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
    }


def _changes(log: ProfileLog, facts: ServerFacts, options: ProfileOptions) -> tuple[str, ...]:
    """What is new since the profile began, for the person; ConfigError if it is another server, or another sweep."""
    before: dict[str, Any] = log.facts.get("server", {})
    remarks, problems = [], []
    for name in FIXED_FACTS:
        then, now = before.get(name), getattr(facts, name)
        if now == then:
            continue
        told = f"the server's {name} was {then!r}, and is {now!r}"
        if name == "num_gpu_blocks" and then and abs(now - then) <= BLOCKS_TOLERANCE * then:
            remarks.append(f"{told}: a restart does that, and it is the same server")
        else:
            problems.append(told)
    kept: dict[str, Any] = log.facts.get("options", {})
    problems += [
        f"option {name} was {kept.get(name)!r}, and is {value!r}"
        for name, value in options.kept().items()
        if kept.get(name) != value
    ]
    if problems:
        raise ConfigError(log.folder, problems)
    return tuple(remarks)
