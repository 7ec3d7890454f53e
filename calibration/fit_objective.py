"""How far simulated times are from measured ones, as the residuals of a least-squares problem.

For each measured request there are three deviations, of its TTFT, E2E and TPOT, each relative to what was measured. A
step's length is added to the denominators, for by as much the time of an arrival within a step moves any of them.
Large deviations count less than their square (soft L1, by iteratively reweighting), so stragglers of the measurement do
not pull the fit.

A residual is the mean of a deviation over requests that are alike: in the length of the prompt, of the output, in when
they came, in what was found there. For decisions of the scheduler make the time of a single
request jump as a parameter moves, here up and there down: its derivative is mostly noise, that of a mean is not. The
means of TTFT, E2E and TPOT of a whole log, in seconds, are residuals too.

So is how long the server was busy, from a request that finds it idle until all have ended, summed over stretches that
follow each other. That is work done, whoever waited for whom: where it is a few per cent too short, times in a queue
are short by several times as much, and these scatter.

A model of a few parameters is good to a per cent or a few, so a group counts no more for having many requests. What
the logs do not tell at this precision is held at usual values by a prior.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inframind.sim import CallRun, ServerOptions, StepTime, simulate_calls

from .predict import client_times
from .step_estimates import MeasuredTimes, StepEstimate

Floats = NDArray[np.float64]

PARAMETERS = (
    "fixed_s",
    "prefill_token_s",
    "decode_s",
    "context_token_s",
    "prefill_pair_s",
    "overlap",
    "expert_s",
    "expert_tokens",
    "client_s",
)
"""``overlap`` is ``free_prefill_tokens * prefill_token_s`` over the time in which all weights are read (``fixed_s`` and
``expert_s``): at 1 a step takes as long as reading them or computing, whichever is longer; at 0 as long as both."""
FIXED, PREFILL, DECODE, CONTEXT, PAIR, OVERLAP, EXPERTS, EXPERT_TOKENS, CLIENT = range(len(PARAMETERS))

USUAL_TOKENS_PER_FIXED = 300.0
"""``fixed_s / prefill_token_s`` of dense models on GPUs: 150 (RTX 4090) to 360 (H100) in the public runs."""
USUAL_DECODE_SHARE = 0.003
"""``decode_s / fixed_s``: 0.002 to 0.007 in the public runs."""
USUAL_OVERLAP, OVERLAP_SPREAD = 0.15, 0.15
"""0.1 to 0.3 in the public runs."""

USUAL_CONTEXT_SHARE = 5e-6
"""``context_token_s / fixed_s``: 2e-6 to 3e-5 in the public runs."""
USUAL_PAIR_SHARE = 5e-5
"""``prefill_pair_s / prefill_token_s``: 3e-5 to 1e-4 in the public runs."""

USUAL_EXPERT_TOKENS = 16.0
"""4 (Mixtral) to 32 (DeepSeek-V3, gpt-oss)."""
USUAL_FACTOR = 3.0
"""Standard deviation of these, as a factor."""
SOME_EXPERTS = 0.05
"""``expert_s / fixed_s`` where nobody says that there are experts: a log has to speak for them to show more; then it
may be many times as much."""
USUAL_EXPERTS_SHARE = 1.0
"""The same of a mixture of experts: most weights are theirs, most of the overhead is not."""

MIN_MODEL_ERROR, MAX_MODEL_ERROR = 0.02, 0.1
"""The mean of alike requests is off by as much, however many they are: what a few parameters cannot follow. Within
these bounds it is what the present parameters leave, of TTFT, E2E and TPOT each its own: a TTFT that no parameters
explain (several engines, say) does not make TPOT count for less."""
MEANS_ERROR_SHARE = 0.5
"""The same for the mean of a whole log, relative to that of groups."""
BUSY_ERROR_SHARE = 0.25
"""The same for the time in which the server was busy."""
MIN_SCALE, MAX_SCALE = 0.01, 0.2
"""Bounds of a usual deviation."""
STRAGGLER = 4.0
"""Deviations of so many scales do not count in the means of a log."""
NUM_KINDS = 3
"""TTFT, E2E and TPOT."""
E2E = 1
GROUP = 15
"""Requests that are alike, at least."""
MAX_GROUPS = 12
"""Groups for each likeness."""
NUM_AVERAGED, HAIR = 8, 0.01
"""Replays that a mean is taken of, at least, and how far apart their parameters are."""
NOT_SERVED = 1.0
"""Deviation of a request that the simulated server refuses."""
MAX_FREE_PREFILL_TOKENS = 4096
MAX_EXPERT_TOKENS = 1024.0


@dataclass(frozen=True, slots=True)
class MeasuredLog:
    """One log of the server, which was idle before and after."""

    name: str
    requests: pd.DataFrame
    times: MeasuredTimes

    @property
    def num_measured(self) -> int:
        """Requests with both times."""
        return int(np.isfinite(self.times.ttft_s).sum())


@dataclass(frozen=True, slots=True)
class Simulated:
    """Times of each request of a log as the client sees them; NaN where it was not served."""

    ttft_s: Floats
    e2e_s: Floats
    arrival_s: Floats
    """In a closed loop these, too, are simulated."""

    def tpot_s(self, output_tokens: Floats) -> Floats:
        """Mean time for each token after the first; NaN for one token."""
        decodes = output_tokens - 1
        span: Floats = np.where(decodes > 0, self.e2e_s - self.ttft_s, np.nan)
        return span / np.maximum(decodes, 1)


def step_time(parameters: Floats) -> StepTime:
    """The simulator's parameters; ``parameters`` in the order of `PARAMETERS`, in seconds."""
    fixed, prefill, decode, context, pair, overlap, experts, expert_tokens, _ = parameters.tolist()
    free = overlap * weights_s(parameters) / prefill if prefill > 0 else 0.0
    return StepTime(
        fixed_s=max(fixed, 1e-9),
        prefill_token_s=prefill,
        decode_s=decode,
        context_token_s=context,
        prefill_pair_s=pair,
        free_prefill_tokens=round(min(free, MAX_FREE_PREFILL_TOKENS)),
        expert_s=experts,
        expert_tokens=float(np.clip(expert_tokens, 1.0, MAX_EXPERT_TOKENS)),
    )


def weights_s(parameters: Floats) -> float:
    """Time in which all weights are read."""
    return float(parameters[FIXED] + parameters[EXPERTS])


def usual(parameters: Floats) -> Floats:
    """What is usual of each parameter, as the others are; NaN of ``fixed_s``."""
    weights = weights_s(parameters)
    sizes = np.zeros(len(PARAMETERS))
    sizes[FIXED] = np.nan
    # With more experts there is more to read, but a token computes no more, and the KV cache is that of the attention.
    sizes[PREFILL] = parameters[FIXED] / USUAL_TOKENS_PER_FIXED
    sizes[DECODE] = weights * USUAL_DECODE_SHARE
    sizes[CONTEXT] = parameters[FIXED] * USUAL_CONTEXT_SHARE
    sizes[PAIR] = parameters[PREFILL] * USUAL_PAIR_SHARE
    sizes[OVERLAP] = USUAL_OVERLAP
    sizes[EXPERT_TOKENS] = USUAL_EXPERT_TOKENS
    return sizes


def moved_as_usual(parameters: Floats, index: int, sign: int) -> Floats:
    """The parameters, one of them a standard deviation of the prior up or down: how little is known of it at least."""
    moved = parameters.copy()
    if index == OVERLAP:
        moved[index] = max(0.0, USUAL_OVERLAP + sign * OVERLAP_SPREAD)
    else:
        moved[index] *= USUAL_FACTOR**sign
    return moved


def run_log(
    options: ServerOptions, requests: pd.DataFrame, *, client_s: float = 0.0, is_preempting: bool = False
) -> CallRun:
    """Replay a log on one server, from empty; ``client_s`` as in `inframind.sim.simulate_calls`.

    Keeping blocks for later is costly to simulate, and without shared prefixes of no effect unless a request is
    preempted and finds its own blocks again: then it is simulated after all, at once if that is likely
    (``is_preempting``).
    """
    scheduler = options.scheduler
    if scheduler.enable_prefix_caching and not is_preempting and not may_share(requests):
        without = replace(options, scheduler=replace(scheduler, enable_prefix_caching=False))
        run = simulate_calls([without], requests, client_s=client_s, sample_s=None)
        if not run.calls["num_preemptions"].any():
            return run
    return simulate_calls([options], requests, client_s=client_s, sample_s=None)


def may_share(requests: pd.DataFrame) -> bool:
    """Whether the log says that prompts have a start in common."""
    return "prefix_hashes" in requests or ("prefix_group" in requests and bool(requests["prefix_group"].notna().any()))


PAUSE = 0.5
"""How much longer a simulated stretch of work may take than the measured one before the next begins, relative to it."""


def _times_usual(value: float, usual: float) -> float:
    """How far off its usual size a parameter is, in factors of `USUAL_FACTOR`; 0 is not infinitely far."""
    return float(np.log((value + 0.1 * usual) / (1.1 * usual + 1e-30)) / np.log(USUAL_FACTOR)) if usual > 0 else 0.0


def _groups_of(times: MeasuredTimes, rows: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """For TTFT, E2E and TPOT the groups of each measured request, shape ``(likenesses, requests)``."""
    ends = np.sort(times.end_s[rows])
    there = np.arange(len(rows)) - np.searchsorted(ends, times.arrival_s, side="right")
    found = []
    # Never by how long they took: part of that is by chance, and its extremes would look like the model's error.
    for chosen in (rows, rows, rows & (times.output_tokens > 1)):
        num = int(chosen.sum())
        keys = (times.prompt_tokens - times.cached_tokens, times.output_tokens, times.arrival_s, there)
        num_groups = int(np.clip(num // GROUP, 1, MAX_GROUPS))
        groups = np.empty((len(keys), num), dtype=np.int64)
        for row, key in enumerate(keys):
            groups[row, np.argsort(key[chosen], kind="stable")] = np.arange(num) * num_groups // max(num, 1)
            groups[row] += row * num_groups
        found.append(groups)
    return found


def idle_starts(log: MeasuredLog) -> NDArray[np.int64]:
    """The rows that found the server idle; the first is one.

    A request without times may be open for ever: after it, only a new ``condition`` of a profile begins on an idle
    server.
    """
    arrival = log.times.arrival_s
    ends = log.times.end_s
    open_until = np.maximum.accumulate(np.where(np.isnan(ends), np.inf, ends))
    is_idle = np.concatenate([[True], arrival[1:] >= open_until[:-1]])
    if "condition" in log.requests:
        known_until = np.maximum.accumulate(np.where(np.isnan(ends), -np.inf, ends))
        condition = log.requests["condition"]
        is_new = (condition != condition.shift()).to_numpy()
        is_idle[1:] |= is_new[1:] & (arrival[1:] >= known_until[:-1])
    return np.flatnonzero(is_idle)


def with_pauses(log: MeasuredLog) -> pd.DataFrame:
    """Return the requests, later by a pause wherever the measured server had nothing to do.

    So the simulated server is empty at every moment at which the measured one was, even if it is slower. Otherwise it
    would still be busy when the next request of a client comes that sends one after the other, and the fit would shun
    what is slow more than what is fast.
    """
    arrival = log.times.arrival_s
    starts = idle_starts(log)
    known = np.where(np.isnan(log.times.end_s), arrival, log.times.end_s)
    lengths = np.maximum.reduceat(known, starts) - arrival[starts]
    pauses = np.zeros(len(arrival))
    pauses[starts[1:]] = PAUSE * lengths[:-1]
    return log.requests.assign(arrival_s=arrival + np.cumsum(pauses))


def _soft_weights(deviations: Floats, scale: float) -> Floats:
    """Soft L1 as weights of squares (scipy's loss of that name)."""
    return (1 + (deviations / scale) ** 2) ** -0.5


def _soft(deviations: Floats, scale: float) -> Floats:
    """Soft L1 itself."""
    return np.asarray(2 * (np.sqrt(1 + (deviations / scale) ** 2) - 1))


class BusyTimes:
    """How long one server was busy, by groups of stretches of work that follow each other.

    Stretches in which some request has no times are left out: nobody knows when they ended.
    """

    def __init__(self, log: MeasuredLog) -> None:
        self._starts = idle_starts(log)
        sizes = np.diff(self._starts, append=len(log.requests))
        lengths = self._lengths(log.times.arrival_s, log.times.e2e_s)
        self._is_known = np.isfinite(lengths)
        known_sizes = sizes[self._is_known]
        # Each begins as soon as the one before has requests enough.
        begun = (np.cumsum(known_sizes) - known_sizes) // GROUP
        self._groups = np.unique(begun, return_inverse=True)[1]
        self.sizes = np.bincount(self._groups, known_sizes)
        """Requests of each group."""
        middles = np.bincount(self._groups, known_sizes * (self._starts[self._is_known] + known_sizes / 2))
        self.places = middles / np.maximum(self.sizes * len(log.requests), 1)
        """Where each group lies in the log, from 0 to 1."""
        self.measured_s = np.bincount(self._groups, lengths[self._is_known])

    def _lengths(self, arrival_s: Floats, e2e_s: Floats) -> Floats:
        ends = np.maximum.reduceat(arrival_s + e2e_s, self._starts)
        return np.asarray(ends - np.minimum.reduceat(arrival_s, self._starts))

    def deviations(self, simulated: Simulated) -> Floats:
        """Relative ones of each group."""
        lengths = self._lengths(simulated.arrival_s, simulated.e2e_s)[self._is_known]
        seconds = np.bincount(self._groups, lengths)
        return np.where(np.isnan(seconds), NOT_SERVED, seconds / self.measured_s - 1)


@dataclass(frozen=True, slots=True)
class _Errors:
    """How far off is usual, relative to what was measured."""

    scale: float = MAX_SCALE
    """A request."""
    model: float = MAX_MODEL_ERROR
    """The mean of alike requests."""


class Objective:
    """Residuals of one set of logs, with weights that `reweigh` sets.

    Parameters
    ----------
    logs
        Each is simulated on its own.
    estimate
        What the logs show without a simulator: the scale of the parameters.
    on_simulation
        Called after each replay of a log.
    counts_busy_time
        Whether that is among the residuals: where step times that are wrong in kind may be compared, it is not.
    has_experts
        Whether the LLM is known to be a mixture of experts.
    """

    def __init__(
        self,
        logs: Sequence[MeasuredLog],
        estimate: StepEstimate,
        on_simulation: Callable[[], None] = lambda: None,
        *,
        counts_busy_time: bool = True,
        has_experts: bool = False,
    ) -> None:
        self.logs = logs
        self.units = np.array(
            [
                estimate.step_s,
                estimate.step_s / estimate.mean_prefill_tokens,
                estimate.step_s / estimate.mean_decodes,
                estimate.step_s / estimate.mean_context_tokens,
                estimate.step_s / estimate.mean_prefill_pairs,
                1.0,
                estimate.step_s,
                USUAL_EXPERT_TOKENS,
                estimate.step_s,
            ]
        )
        """A parameter of this size adds a usual step's length to a usual step, or to a TTFT."""
        self._step_s = estimate.step_s
        self._requests = [with_pauses(log) for log in logs]
        self._is_preempting = [False] * len(logs)
        self._rows = [np.isfinite(log.times.ttft_s) for log in logs]
        self._errors = [_Errors()] * NUM_KINDS
        """Of TTFT, E2E and TPOT."""
        self._groups = [
            groups for log, rows in zip(logs, self._rows, strict=True) for groups in _groups_of(log.times, rows)
        ]
        """Of TTFT, E2E and TPOT of the first log, and so on."""
        self._weights = [np.ones(groups.shape[1]) for groups in self._groups]
        self._is_usual = [np.ones(groups.shape[1], dtype=bool) for groups in self._groups]
        self._busy = [BusyTimes(log) for log in logs] if counts_busy_time else []
        self._busy_weights = [np.ones(len(busy.sizes)) for busy in self._busy]
        self._on_simulation = on_simulation
        self._has_experts = has_experts

    def simulate(self, options: ServerOptions, parameters: Floats) -> list[Simulated]:
        """Replay each log."""
        options = replace(options, step_time=step_time(parameters))
        client_s = float(parameters[CLIENT])
        simulated = []
        for i, requests in enumerate(self._requests):
            calls = run_log(options, requests, client_s=client_s, is_preempting=self._is_preempting[i]).calls
            self._is_preempting[i] = bool(calls["num_preemptions"].any())
            self._on_simulation()
            simulated.append(Simulated(*client_times(calls, client_s), calls["arrival_s"].to_numpy()))
        return simulated

    def averaged(self, options: ServerOptions, parameters: Floats, num: int = NUM_AVERAGED) -> list[Simulated]:
        """The mean of a few replays, a hair's breadth apart: single times jump, most of all on one of several engines.

        Which of them a request goes to hangs on the last decision; so of two candidates either may win a single replay.
        """
        random = np.random.default_rng(0)
        draws = random.standard_normal((num, len(parameters)))
        # Of a few draws the mean is not 0: it would be the mean of another place.
        factors = 1 + HAIR * (draws - draws.mean(axis=0))
        runs = [self.simulate(options, parameters * factor) for factor in factors]
        return [
            Simulated(*(np.mean([getattr(log, name) for log in each], axis=0) for name in Simulated.__slots__))
            for each in zip(*runs, strict=True)
        ]

    def _differences(self, simulated: Sequence[Simulated]) -> list[tuple[Floats, Floats, Floats]]:
        """Simulated less measured, measured, and what to divide by, in the order of the groups."""
        found = []
        for log, rows, ours in zip(self.logs, self._rows, simulated, strict=True):
            times = log.times
            decoded = rows & (times.output_tokens > 1)
            span = (times.e2e_s - times.ttft_s)[decoded]
            per_token = times.tpot_s[decoded]
            found += [
                ((ours.ttft_s - times.ttft_s)[rows], times.ttft_s[rows], times.ttft_s[rows] + self._step_s),
                ((ours.e2e_s - times.e2e_s)[rows], times.e2e_s[rows], times.e2e_s[rows] + self._step_s),
                (
                    ours.tpot_s(times.output_tokens)[decoded] - per_token,
                    per_token,
                    per_token * (1 + 2 * self._step_s / np.maximum(span, 1e-9)),
                ),
            ]
        return [
            (np.where(np.isnan(difference), NOT_SERVED * divisor, difference), measured, np.maximum(divisor, 1e-12))
            for difference, measured, divisor in found
        ]

    def deviations(self, simulated: Sequence[Simulated]) -> list[Floats]:
        """Relative deviations of the TTFT of each measured request of the first log, its E2E, its TPOT, and so on."""
        return [difference / divisor for difference, _, divisor in self._differences(simulated)]

    def reweigh(self, simulated: Sequence[Simulated]) -> None:
        """Set the weights by how far each request is off now."""
        found = self.deviations(simulated)
        for kind in range(NUM_KINDS):
            self._reweigh_kind(kind, found)
        scale = self._errors[E2E].scale
        self._busy_weights = [
            _soft_weights(busy.deviations(ours), scale) for busy, ours in zip(self._busy, simulated, strict=False)
        ]

    def _reweigh_kind(self, kind: int, deviations: Sequence[Floats]) -> None:
        """Likewise of TTFT, E2E or TPOT, in all logs together."""
        mine = range(kind, len(deviations), NUM_KINDS)
        off = np.abs(np.concatenate([deviations[i] for i in mine]))
        if not off.size:
            return
        scale = float(np.clip(1.5 * 1.4826 * np.median(off), MIN_SCALE, MAX_SCALE))
        left = []
        for i in mine:
            part, groups = deviations[i], self._groups[i]
            weights = self._weights[i] = _soft_weights(part, scale)
            self._is_usual[i] = np.abs(part) < STRAGGLER * scale
            total = np.bincount(groups.ravel(), np.tile(weights, len(groups)))
            left.append(np.bincount(groups.ravel(), np.tile(weights * part, len(groups))) / total)
        usual_left = 1.4826 * float(np.median(np.abs(np.concatenate(left))))
        self._errors[kind] = _Errors(scale, float(np.clip(usual_left, MIN_MODEL_ERROR, MAX_MODEL_ERROR)))

    def residuals(self, simulated: Sequence[Simulated], parameters: Floats) -> Floats:
        """Means of the deviations and the prior's, in units of their scatter."""
        return np.concatenate([self.data_residuals(simulated), self.prior(parameters)])

    def data_residuals(self, simulated: Sequence[Simulated]) -> Floats:
        """Means of the deviations, in units of their scatter."""
        column: Floats = self.by_stretch(simulated, 1)[:, 0]
        return column

    def by_stretch(self, simulated: Sequence[Simulated], num: int) -> Floats:
        """What each of so many stretches of time of the logs adds to the residuals, without the prior's; shape
        ``(residuals, num * len(logs))``, or ``(residuals, 1)`` for the residuals themselves."""
        columns = 1 if num == 1 else num * len(self.logs)
        blocks = []
        for i, ((difference, measured, divisor), groups) in enumerate(
            zip(self._differences(simulated), self._groups, strict=True)
        ):
            size = groups.shape[1]
            if not size:
                continue
            stretch = np.arange(size) * num // size + (0 if num == 1 else i // NUM_KINDS * num)
            weights = self._weights[i]
            count = int(groups.max()) + 1
            cells = (groups * columns + stretch).ravel()
            sums = np.bincount(cells, np.tile(weights * difference / divisor, len(groups)), count * columns)
            total = np.bincount(groups.ravel(), np.tile(weights, len(groups)), count)
            errors = self._errors[i % NUM_KINDS]
            scatter = np.sqrt(len(groups) * (errors.scale**2 / total + errors.model**2))
            blocks.append(sums.reshape(count, columns) / (total * scatter)[:, np.newaxis])
            usual = self._is_usual[i]
            seconds = np.bincount(stretch, usual * difference, columns) / max(float(measured @ usual), 1e-12)
            blocks.append(
                seconds[np.newaxis] / np.sqrt(errors.scale**2 / size + (MEANS_ERROR_SHARE * errors.model) ** 2)
            )
        return np.concatenate([*blocks, *self._busy_by_stretch(simulated, num, columns)])

    def _busy_by_stretch(self, simulated: Sequence[Simulated], num: int, columns: int) -> Iterator[Floats]:
        errors = self._errors[E2E]
        for i, (busy, weights, ours) in enumerate(zip(self._busy, self._busy_weights, simulated, strict=False)):
            scatter = np.sqrt(errors.scale**2 / busy.sizes + (BUSY_ERROR_SHARE * errors.model) ** 2)
            block = np.zeros((len(weights), columns))
            stretch = (busy.places * num).astype(int) + (0 if num == 1 else i * num)
            block[np.arange(len(weights)), stretch] = np.sqrt(weights) * busy.deviations(ours) / scatter
            yield block

    def prior(self, parameters: Floats) -> Floats:
        """How far each parameter is from what is usual, relative to how far that itself is known."""
        sizes = usual(parameters)
        if self._has_experts:
            experts = _times_usual(parameters[EXPERTS], USUAL_EXPERTS_SHARE * parameters[FIXED])
        else:
            some_experts = SOME_EXPERTS * parameters[FIXED] + 1e-30
            experts = float(np.log1p(parameters[EXPERTS] / some_experts) / np.log(USUAL_FACTOR))
        return np.array(
            [
                *(_times_usual(parameters[i], sizes[i]) for i in (PREFILL, DECODE, CONTEXT, PAIR)),
                (parameters[OVERLAP] - USUAL_OVERLAP) / OVERLAP_SPREAD,
                experts,
                _times_usual(parameters[EXPERT_TOKENS], USUAL_EXPERT_TOKENS),
                parameters[CLIENT] / self._step_s,
            ]
        )

    @property
    def is_preempting(self) -> bool:
        """Whether requests were preempted in the last simulation."""
        return any(self._is_preempting)

    def robust_loss(self, simulated: Sequence[Simulated], scale: float) -> float:
        """Mean soft L1 of the deviations: what candidates are compared by, whatever their weights."""
        return float(np.mean(np.concatenate([_soft(part, scale) for part in self.deviations(simulated)])))

    def robust_losses(self, simulated: Sequence[Simulated], scale: float) -> pd.Series:
        """The same of each measured request, by log and row."""
        deviations = self.deviations(simulated)
        found = []
        for i, (log, rows) in enumerate(zip(self.logs, self._rows, strict=True)):
            decoded = rows & (log.times.output_tokens > 1)
            index = log.requests.index
            of_request = zip((rows, rows, decoded), deviations[NUM_KINDS * i :], strict=False)
            kinds = [pd.Series(_soft(part, scale), index[chosen]) for chosen, part in of_request]
            found.append(pd.concat(kinds, axis=1).mean(axis=1))
        losses: pd.Series = pd.concat(found, keys=range(len(found)))
        return losses
