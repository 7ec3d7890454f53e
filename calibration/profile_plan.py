"""What a profile asks of a server: conditions, one after the other, each chosen by what the ones before it showed.

Every parameter of a step's duration (`inframind.sim.StepTime`) needs requests in which it counts:

============= ================================= =======================================================
part          load                              tells
============= ================================= =======================================================
ladder, light one request at a time             the client's constant, ``fixed_s + decode_s``; prompts of one
                                                output token: ``prefill_token_s``, the long ones ``prefill_pair_s``
saturate      2, 4, 8, ... at a time            ``decode_s`` apart from ``fixed_s``; ``context_token_s``; the rate at
                                                which the server is full, and ``max_num_seqs``
burst         many prompts at once              steps full of prefills, and ``max_num_batched_tokens``
open          Poisson, 1.2 to 0.25 x saturation what users see; one of them twice, for the server's own spread
priority      more short requests than slots    whether the server honours ``priority``
prefix        Poisson, shared prompt starts     the prefix cache
============= ================================= =======================================================

All is drawn from one seed. The same results of earlier conditions give the same next one, so a log of what has been
done is all that is needed to go on.
"""

import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

import numpy as np

WARM_UP = "warm-up"
PRIORITY = "priority"
BURST = "burst"
OVERLOAD = 1.2
OPEN_LOADS = ((0.95, ""), (0.75, ""), (0.75, "-repeat"), (0.5, ""), (0.25, ""))
"""Shares of the saturation rate, after the overload, and what their names end in."""
PREFIX_LOAD = 0.7
PREFIX_GROUPS = 4
SHORTEST_PROMPT, SHORTEST_OUTPUT = 16, 4
MOST_AT_A_TIME = 512
MOST_REQUESTS = 20_000
"""Of one condition with Poisson arrivals: more would show nothing new."""
PROBE_SLOTS = 64
"""A server with more slots than these is not probed for priority: it would take too many requests."""
BURST_PROMPT, MOST_BURST_PROMPTS = 1000, 32
"""vLLM counts a prompt, and its first output token, in the step that completes it. With these numbers no step counts
more than its ``max_num_batched_tokens``, if that is a power of two from 1024 to 16384, as vLLM's defaults are: what a
step leaves over for the next prompt never adds up to a whole one."""
LOW_DISCREPANCY = (0.7548776662466927, 0.5698402909980532)
"""Steps of the R2 sequence (Roberts 2018): lengths that fill their ranges evenly, so that few requests suffice."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a profile."""

    budget_s: float
    """How long it may take; a condition that has begun runs to its end."""
    max_model_len: int
    block_size: int
    enable_prefix_caching: bool
    slots: int | None = None
    """Requests that may run at a time, where the person has told it."""
    max_prompt_tokens: int | None = None
    """The longest prompt of the sweep; None: what the time allows."""
    max_output_tokens: int | None = None
    """The longest output of the sweep; None: what the time allows."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a condition."""

    prompt_tokens: int
    output_tokens: int
    at_s: float = 0.0
    """When to send it, from the condition's begin; in a closed loop it waits for its turn instead."""
    priority: int | None = None
    prefix_group: str | None = None
    prefix_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Condition:
    """One load on the server, which is idle before and after it."""

    name: str
    asks: Iterable[Ask]
    concurrency: int | None = None
    """So many at a time; None: each at its own time, however many are open (open loop)."""
    window_s: float = math.inf
    """No request begins later than this."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an ask that finished."""

    prompt_tokens: int
    output_tokens: int
    arrival_s: float
    ttft_s: float
    e2e_s: float
    priority: int | None


@dataclass(frozen=True, slots=True)
class Ended:
    """What a condition showed."""

    name: str
    duration_s: float
    answers: Sequence[Answer]
    """Those that finished, in order of arrival."""
    queues: Sequence[tuple[int, int]]
    """Polled (waiting, running), in order."""

    @property
    def most_while_queued(self) -> int:
        """The largest batch seen while others waited; 0 if nobody did."""
        return max((running for waiting, running in self.queues if waiting > 0), default=0)

    @property
    def is_full(self) -> bool:
        """Whether somebody waited half of the time or more."""
        queued = sum(waiting > 0 for waiting, _ in self.queues)
        return queued > 0 and 2 * queued >= len(self.queues)


Steps = Generator[Condition, Ended, None]


class Sweep:
    """The conditions of a profile, for one server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._spent_s = 0.0
        self._most_while_queued = 0
        self._tpot_s = math.inf

    def conditions(self) -> Steps:
        """Yield each condition; send back what it showed."""
        yield from self._run(self._warm_up())
        rungs = yield from self._ladder()
        lengths = self._lengths(rungs)
        yield from self._run(self._light(lengths))
        saturation_per_s, full_s = yield from self._saturate(lengths)
        yield from self._burst(rungs)
        yield from self._open_loop(lengths, saturation_per_s, full_s)

    def _run(self, condition: Condition) -> Generator[Condition, Ended, Ended]:
        ended = yield condition
        self._spent_s += ended.duration_s
        self._most_while_queued = max(self._most_while_queued, ended.most_while_queued)
        return ended

    @property
    def _left_s(self) -> float:
        return self._limits.budget_s - self._spent_s

    def _share_s(self, share: float) -> float:
        return share * self._limits.budget_s

    # One at a time.

    def _warm_up(self) -> Condition:
        """A few of everything, several at a time too: the first step of each kind compiles, allocates, captures."""
        longest = self._longest_prompt(8)
        asks = [Ask(min(prompt, longest), 8) for prompt in (16, 16, 16, 16, 64, 256, 1024)]
        return Condition(WARM_UP, asks, concurrency=4, window_s=self._share_s(0.03))

    def _ladder(self) -> Generator[Condition, Ended, list[Answer]]:
        """Ever longer prompts, until the next would take more than 1/80 of the time."""
        prompt = min(32, self._longest_prompt(8))
        rungs: list[Answer] = []
        while True:
            ended = yield from self._run(Condition(f"ladder-{prompt}", [Ask(prompt, 8)] * 2, concurrency=1))
            if not ended.answers:
                return rungs
            rung = min(ended.answers, key=lambda answer: answer.ttft_s)
            rungs.append(rung)
            affordable = prompt * self._share_s(1 / 80) / (1.2 * rung.ttft_s)
            longer = min(4 * prompt, int(affordable), self._longest_prompt(8))
            if longer < 1.5 * prompt:
                return rungs
            prompt = longer

    def _lengths(self, rungs: Sequence[Answer]) -> "Lengths":
        """The longest prompt that the ladder reached, and outputs of 1/100 of the time at most."""
        if not rungs:
            return Lengths(SHORTEST_PROMPT, SHORTEST_OUTPUT, self._limits.seed)
        tpot_s = median((rung.e2e_s - rung.ttft_s) / max(1, rung.output_tokens - 1) for rung in rungs)
        self._tpot_s = max(tpot_s, 1e-4)
        affordable = int(self._share_s(1 / 100) / self._tpot_s)
        room = self._limits.max_model_len // 4
        longest_output = self._limits.max_output_tokens or max(4 * SHORTEST_OUTPUT, min(affordable, room, 1024))
        reached = max(rung.prompt_tokens for rung in rungs)
        longest_prompt = min(reached, self._longest_prompt(longest_output))
        return Lengths(longest_prompt, longest_output, self._limits.seed)

    def _longest_prompt(self, output_tokens: int) -> int:
        room = max(1, self._limits.max_model_len - output_tokens)
        return min(room, self._limits.max_prompt_tokens or room)

    def _light(self, lengths: "Lengths") -> Condition:
        """A grid of prompts and outputs in random order, for as long as the window lasts."""
        prompts = np.geomspace(SHORTEST_PROMPT, lengths.prompt, 6).round().astype(int)
        outputs = sorted({1, 8, max(8, lengths.output // 4), lengths.output})
        grid = [Ask(int(prompt), output) for prompt in prompts for output in outputs]
        rng = np.random.default_rng([self._limits.seed, 1])
        asks = (grid[index] for _ in itertools.count() for index in rng.permutation(len(grid)))
        return Condition("light", asks, concurrency=1, window_s=self._share_s(0.14))

    # As many as it can take.

    def _saturate(self, lengths: "Lengths") -> Generator[Condition, Ended, tuple[float, float]]:
        """Twice as many at a time, until requests wait or nothing is gained.

        Returns the rate that the server can take, and how long a request takes when it is just full.
        """
        rate_per_s, full_s, poor_gains = 0.0, 0.0, 0
        for power in range(1, 20):
            at_a_time = 2**power
            ended = yield from self._run(
                Condition(f"saturate-{at_a_time}", lengths.endless(), at_a_time, window_s=self._share_s(0.18 / 8))
            )
            if not ended.answers:
                break
            mean_s = fmean(answer.e2e_s for answer in ended.answers)
            rate_now_per_s = at_a_time / mean_s  # Little's law, with no idle worker
            if rate_now_per_s > 1.05 * rate_per_s:
                full_s, poor_gains = mean_s, 0
            else:
                poor_gains += 1
            rate_per_s = max(rate_per_s, rate_now_per_s)
            if ended.is_full or poor_gains == 2 or at_a_time >= MOST_AT_A_TIME or self._left_s < self._share_s(0.5):
                break
        return rate_per_s, full_s

    def _burst(self, rungs: Sequence[Answer]) -> Steps:
        """Prompts at once, of one output token each, so that every full step holds little but prefills."""
        near = [rung for rung in rungs if 2 * rung.prompt_tokens >= BURST_PROMPT]
        if not near or self._longest_prompt(1) < BURST_PROMPT:
            return
        one_s = near[0].ttft_s * BURST_PROMPT / near[0].prompt_tokens
        number = min(MOST_BURST_PROMPTS, int(self._share_s(0.04) / one_s))
        if number >= 4:
            yield from self._run(Condition(BURST, [Ask(BURST_PROMPT, 1)] * number))

    def _probe_priority(self) -> Steps:
        """Three times as many requests as slots, with priorities that have nothing to do with the order of sending."""
        slots = self._limits.slots or self._most_while_queued
        if not 0 < slots <= PROBE_SLOTS:
            return
        number = max(3 * slots, slots + 16)
        priorities = np.random.default_rng([self._limits.seed, 4]).permutation(number).tolist()
        # The last is to be there before the first ends, and a slow client needs some 10 ms to send one.
        room = self._limits.max_output_tokens or self._limits.max_model_len - SHORTEST_PROMPT
        output = min(256, room, max(16, math.ceil(0.01 * number / self._tpot_s)))
        asks = [Ask(SHORTEST_PROMPT, output, priority=priority) for priority in priorities]
        yield from self._run(Condition(PRIORITY, asks))

    # As they come.

    def _open_loop(self, lengths: "Lengths", saturation_per_s: float, full_s: float) -> Steps:
        if not saturation_per_s:
            return
        loads_left = len(OPEN_LOADS) + 1 + self._limits.enable_prefix_caching

        def window_s(load: float) -> float:
            """What the drain leaves of an even share of the time."""
            share_s = self._left_s / max(1, loads_left)
            return max(share_s / 2, share_s - full_s) / max(1.0, load)

        overload_s = window_s(OVERLOAD)
        for attempt in ("", "-raised", "-raised-twice"):
            rate_per_s = OVERLOAD * saturation_per_s
            ended = yield from self._run(
                Condition(f"open-{OVERLOAD:g}{attempt}", lengths.poisson(rate_per_s, overload_s, OVERLOAD))
            )
            if _is_overloaded(ended, overload_s) or self._left_s < self._share_s(0.3):
                break
            saturation_per_s *= 1.4
        yield from self._probe_priority()
        loads_left -= 1
        for load, suffix in OPEN_LOADS:
            if self._left_s <= 0:
                return
            if not suffix:
                seconds = window_s(load)
                asks = lengths.poisson(load * saturation_per_s, seconds, load)
            yield from self._run(Condition(f"open-{load:g}{suffix}", asks))
            loads_left -= 1
        shared = max(self._limits.block_size, lengths.prompt // 2)
        if self._limits.enable_prefix_caching and self._left_s > 0 and shared + SHORTEST_PROMPT <= lengths.prompt:
            asks = lengths.poisson(PREFIX_LOAD * saturation_per_s, window_s(PREFIX_LOAD), PREFIX_LOAD)
            yield from self._run(Condition("prefix", with_shared_starts(asks, shared)))


def _is_overloaded(ended: Ended, window_s: float) -> bool:
    """Whether requests waited, or came faster than they ended: a server with many slots lets nobody wait."""
    if ended.is_full or not ended.answers:
        return True
    begin_s = ended.answers[0].arrival_s
    ends = sum(answer.arrival_s + answer.e2e_s <= begin_s + window_s for answer in ended.answers)
    return ends < 0.8 * len(ended.answers)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Prompts and outputs between the shortest and these, evenly in their logarithm."""

    prompt: int
    output: int
    seed: int

    def endless(self) -> Iterator[Ask]:
        """Requests without a time."""
        shift = np.random.default_rng([self.seed, 2]).random(2)
        for index in itertools.count():
            first, second = (shift + index * np.array(LOW_DISCREPANCY)) % 1.0
            yield Ask(
                _between(SHORTEST_PROMPT, max(SHORTEST_PROMPT, self.prompt), first),
                _between(SHORTEST_OUTPUT, max(SHORTEST_OUTPUT, self.output), second),
            )

    def poisson(self, rate_per_s: float, window_s: float, stream: float) -> list[Ask]:
        """Requests that come at random for so long; another ``stream``, other gaps."""
        skipped = round(100 * stream)
        rng = np.random.default_rng([self.seed, 3, skipped])
        mean = rate_per_s * window_s
        most = min(MOST_REQUESTS, math.ceil(mean + 6 * math.sqrt(mean)) + 1)
        times_s = np.cumsum(rng.exponential(1 / rate_per_s, most))
        # One request at least: a condition without any would show nothing.
        times_s = times_s[(times_s <= window_s) | (np.arange(most) == 0)]
        asks = itertools.islice(self.endless(), skipped, skipped + len(times_s))
        return [replace(ask, at_s=float(at_s)) for ask, at_s in zip(asks, times_s, strict=True)]


def with_shared_starts(asks: Sequence[Ask], prefix_tokens: int) -> list[Ask]:
    """The same requests in a few groups whose prompts begin alike; a short prompt grows to hold the shared start."""
    return [
        replace(
            ask,
            prompt_tokens=max(ask.prompt_tokens, prefix_tokens + SHORTEST_PROMPT),
            prefix_group=f"group-{index % PREFIX_GROUPS}",
            prefix_tokens=prefix_tokens,
        )
        for index, ask in enumerate(asks)
    ]


def _between(low: int, high: int, share: float) -> int:
    return round(low * math.pow(high / low, share))
