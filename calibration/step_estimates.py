"""Step times from a request log without a simulator: a close start for `fit`, and the scale of each parameter.

While a request decodes, each step gives it one token. So the time from its first token to its last is the sum over
``output_tokens - 1`` steps, of which the measured times of the *other* requests tell the rest: how many decode with it,
how much context they have, which prompts are prefilled in between. That is a linear equation for each request, whatever
the scheduler did. A request that found nobody waiting adds one for its time to first token. Non-negative least squares
solves them all, weighted against stragglers (iteratively reweighted, soft L1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]

NUM_ROUNDS = 15
"""Of reweighting; the weights have settled by then."""
PEAK_SHARE = 0.02
"""Of the time in which anything ran: so long a peak must last."""
STRAGGLER = 5.0
"""Times the usual time for a token: so slow a request was held up outside the server."""
MIN_QUIET = 5
"""Fewer requests that found nobody waiting are too few to use."""


@dataclass(frozen=True, slots=True)
class MeasuredTimes:
    """A log as arrays, in order of arrival; NaN where nothing was measured."""

    arrival_s: Floats
    ttft_s: Floats
    e2e_s: Floats
    prompt_tokens: Floats
    output_tokens: Floats
    cached_tokens: Floats
    """Of the prompt, found in the prefix cache, if nothing of it was ever evicted."""

    @property
    def first_token_s(self) -> Floats:
        """When the first token came."""
        return self.arrival_s + self.ttft_s

    @property
    def end_s(self) -> Floats:
        """When the last token came."""
        return self.arrival_s + self.e2e_s

    @property
    def tpot_s(self) -> Floats:
        """Mean time for each token after the first; NaN for one token."""
        decodes = self.output_tokens - 1
        span: Floats = np.where(decodes > 0, self.e2e_s - self.ttft_s, np.nan)
        return span / np.maximum(decodes, 1)


@dataclass(frozen=True, slots=True)
class StepEstimate:
    """Parameters in the units of `inframind.sim.StepTime`, and what a usual step holds."""

    fixed_s: float
    prefill_token_s: float
    decode_s: float
    context_token_s: float
    prefill_pair_s: float
    client_s: float
    step_s: float
    """Duration of a usual step."""
    mean_prefill_tokens: float
    mean_decodes: float
    mean_context_tokens: float
    mean_prefill_pairs: float
    peak_running: int
    """Most requests that had their first token and not yet their last, for a while."""
    peak_context_tokens: float
    """Most tokens that they held."""


def measured_times(requests: pd.DataFrame, block_size: int, *, has_prefix_caching: bool) -> MeasuredTimes:
    """The columns of a log that matter here. Rows without both times are there to load the server only.

    So are those whose times cannot be: 0 or less."""
    times = requests[["ttft_s", "e2e_s"]].to_numpy(dtype=np.float64, copy=True)
    # A time of 0 is what some tools write where they measured none.
    times[~(times > 0).all(axis=1)] = np.nan
    prompt = requests["prompt_tokens"].to_numpy(dtype=np.float64)
    cached = np.zeros(len(requests))
    if has_prefix_caching and {"prefix_group", "prefix_tokens"} <= set(requests):
        seen: set[str] = set()
        for row, (group, shared) in enumerate(zip(requests["prefix_group"], requests["prefix_tokens"], strict=True)):
            if isinstance(group, str) and group in seen:
                cached[row] = min(shared, prompt[row] - 1) // block_size * block_size
            elif isinstance(group, str):
                seen.add(group)
    return MeasuredTimes(
        arrival_s=requests["arrival_s"].to_numpy(dtype=np.float64),
        ttft_s=times[:, 0],
        e2e_s=times[:, 1],
        prompt_tokens=prompt,
        output_tokens=requests["output_tokens"].to_numpy(dtype=np.float64),
        cached_tokens=cached,
    )


def estimate_steps(
    logs: Sequence[MeasuredTimes],
    max_num_batched_tokens: int,
    imputed: Sequence[tuple[Floats, Floats]] | None = None,
    *,
    num_engines: int = 1,
) -> StepEstimate:
    """Solve the equations of all logs together.

    Parameters
    ----------
    logs
        Each in order of arrival.
    max_num_batched_tokens
        Of the server.
    imputed
        For each log the first and last token's times of all its requests, as they may have been: those without measured
        times are then part of the batches too.
    num_engines
        Of the server: each batch is one of them's, and has that share of what decodes.

    Each needs requests with both times, and greater than 0.
    """
    others = [(log.first_token_s, log.end_s) for log in logs] if imputed is None else imputed
    parts = [_Equations.of(log, max_num_batched_tokens, *known) for log, known in zip(logs, others, strict=True)]
    per_token = np.concatenate([part.span_s / part.decodes for part in parts])
    ttft = np.concatenate([log.ttft_s[log.ttft_s > 0] for log in logs])
    # With one token each there are no decode steps to time: a quick first token is a step too.
    step_s = float(np.median(per_token)) if per_token.size else float(np.quantile(ttft, 0.1))
    share = np.array([1, 1, 1 / num_engines, 1 / num_engines, 1, 1])
    rows = share * np.vstack([part.span_rows for part in parts] + [part.ttft_rows for part in parts])
    seconds = np.concatenate([part.span_s for part in parts] + [part.ttft_s for part in parts])
    # A TTFT is off by up to a step, whatever the parameters are.
    weights = 1 / np.concatenate(
        [part.span_s + step_s for part in parts] + [2 * (part.ttft_s + step_s) for part in parts]
    )
    solution = _solve(rows, seconds, weights)

    decodes = np.concatenate([part.decodes for part in parts])
    spans = share * np.vstack([part.span_rows for part in parts])
    mean = (spans / decodes[:, np.newaxis]).mean(axis=0) if decodes.size else np.zeros(6)
    prompts = np.concatenate([log.prompt_tokens - log.cached_tokens for log in logs])
    return StepEstimate(
        fixed_s=max(float(solution[0]), 0.05 * step_s),
        prefill_token_s=float(solution[1]),
        decode_s=float(solution[2]),
        context_token_s=float(solution[3]),
        prefill_pair_s=float(solution[4]),
        client_s=float(solution[5]),
        step_s=step_s,
        mean_prefill_tokens=max(float(mean[1]), float(prompts.mean()) * step_s / float(np.median(ttft))),
        mean_decodes=max(float(mean[2]), 1.0),
        mean_context_tokens=max(float(mean[3]), float(prompts.mean())),
        mean_prefill_pairs=max(float(mean[4]), float((prompts**2).mean()) / 2 * step_s / float(np.median(ttft))),
        peak_running=max((part.peak_running for part in parts), default=1),
        peak_context_tokens=max((part.peak_context_tokens for part in parts), default=1.0),
    )


@dataclass(frozen=True, slots=True)
class _Equations:
    """Rows of (steps, prefill tokens, decodes, context tokens, prefill pairs, 1), and the seconds they sum up to."""

    span_rows: Floats
    span_s: Floats
    decodes: Floats
    """Steps of each span."""
    ttft_rows: Floats
    ttft_s: Floats
    peak_running: int
    peak_context_tokens: float

    @staticmethod
    def of(log: MeasuredTimes, max_num_batched_tokens: int, first_s: Floats, end_s: Floats) -> "_Equations":
        is_measured = np.isfinite(log.ttft_s)
        is_known = is_measured | (np.isfinite(first_s) & np.isfinite(end_s))
        batch_first = np.where(is_measured, log.first_token_s, first_s)[is_known]
        batch_end = np.where(is_measured, log.end_s, end_s)[is_known]
        batch = _Batch(batch_first, batch_end, log.prompt_tokens[is_known], log.output_tokens[is_known] - 1)
        usual = _without_stragglers(batch_first, batch_end, log.output_tokens[is_known] - 1)
        batch_new = (log.prompt_tokens - log.cached_tokens)[is_known]
        batch_pairs = batch_new * log.cached_tokens[is_known] + batch_new * (batch_new + 1) / 2

        prompt = log.prompt_tokens[is_measured]
        first, end = log.first_token_s[is_measured], log.end_s[is_measured]
        decodes = log.output_tokens[is_measured] - 1
        new = prompt - log.cached_tokens[is_measured]
        pairs = new * log.cached_tokens[is_measured] + new * (new + 1) / 2

        span = end - first
        has_span = (decodes > 0) & (span > 0)
        a, b = first[has_span], end[has_span]
        steps = decodes[has_span]
        # The request's own first token ends the step of its prefill: what is prefilled in its span comes after.
        by_first = np.argsort(batch_first)
        in_order = batch_first[by_first]
        until_a, until_b = (np.searchsorted(in_order, edge, side="right") for edge in (a, b))

        def prefilled(amount: Floats) -> Floats:
            total = np.concatenate([[0.0], np.cumsum(amount[by_first])])
            return np.asarray(total[until_b] - total[until_a])

        span_rows = np.column_stack(
            [
                steps,
                prefilled(batch_new),
                steps * batch.mean_running(a, b),
                steps * batch.mean_context(a, b),
                prefilled(batch_pairs),
                np.zeros(len(steps)),
            ]
        )

        arrival = log.arrival_s
        own_arrival = arrival[is_measured]
        waiting = np.searchsorted(arrival, own_arrival, side="left") - np.searchsorted(
            in_order, own_arrival, side="right"
        )
        joined = np.searchsorted(arrival, first, side="left") - np.searchsorted(arrival, own_arrival, side="right")
        is_quiet = (waiting <= 0) & (joined <= 0) & (log.ttft_s[is_measured] > 0)
        running = batch.running_at(own_arrival)
        chunks = np.ceil(new / max_num_batched_tokens)
        # On average an arrival finds half of a step still to go.
        waits = chunks + 0.5 * (running > 0)
        ttft_rows = np.column_stack(
            [waits, new, chunks * running, waits * batch.context_at(own_arrival) + prompt, pairs, np.ones(len(prompt))]
        )[is_quiet]
        if is_quiet.sum() < MIN_QUIET:
            ttft_rows, is_quiet = ttft_rows[:0], np.zeros_like(is_quiet)
        return _Equations(
            span_rows=span_rows,
            span_s=span[has_span],
            decodes=steps,
            ttft_rows=ttft_rows,
            ttft_s=log.ttft_s[is_measured][is_quiet],
            peak_running=_peak_running(batch_first[usual], batch_end[usual]),
            peak_context_tokens=float(batch.context.max(initial=1.0)),
        )


class _Batch:
    """How many requests decode, and how much context they have, over time: as measured."""

    def __init__(self, first: Floats, end: Floats, prompt: Floats, decodes: Floats) -> None:
        span = np.maximum(end - first, 1e-12)
        slope = np.where(decodes > 0, decodes / span, 0.0)
        self._first, self._end = np.sort(first), np.sort(end)
        self._by_first = _line_sums(first, prompt - slope * first, slope)
        self._by_end = _line_sums(end, prompt - slope * first, slope)
        self._edges = np.unique(np.concatenate([first, end]))
        middles = (self._edges[1:] + self._edges[:-1]) / 2
        self.running = self.running_at(middles)
        self.context = self.context_at(middles)
        lengths = np.diff(self._edges)
        self._running_integral = np.concatenate([[0.0], np.cumsum(self.running * lengths)])
        self._context_integral = np.concatenate([[0.0], np.cumsum(self.context * lengths)])

    def running_at(self, time_s: Floats) -> Floats:
        begun = np.searchsorted(self._first, time_s, side="right")
        ended = np.searchsorted(self._end, time_s, side="right")
        return (begun - ended).astype(np.float64)

    def context_at(self, time_s: Floats) -> Floats:
        begun = self._by_first[:, np.searchsorted(self._first, time_s, side="right")]
        ended = self._by_end[:, np.searchsorted(self._end, time_s, side="right")]
        constant, slope = begun - ended
        return np.asarray(np.maximum(constant + slope * time_s, 0.0))

    def mean_running(self, a: Floats, b: Floats) -> Floats:
        return self._mean(self._running_integral, a, b)

    def mean_context(self, a: Floats, b: Floats) -> Floats:
        return self._mean(self._context_integral, a, b)

    def _mean(self, integral: Floats, a: Floats, b: Floats) -> Floats:
        return np.asarray((np.interp(b, self._edges, integral) - np.interp(a, self._edges, integral)) / (b - a))


def _without_stragglers(first: Floats, end: Floats, decodes: Floats) -> NDArray[np.bool_]:
    """Which requests ran as long as their tokens say; a client that reads late sees others as if they still ran."""
    per_token = (end - first) / np.maximum(decodes, 1)
    decoded = per_token[decodes > 0]
    return np.asarray(per_token <= STRAGGLER * np.median(decoded) if decoded.size else decodes <= 0)


def _peak_running(first: Floats, end: Floats) -> int:
    """The most that ran for a while: single moments of more are the noise of measured times."""
    moments = np.concatenate([first, end])
    order = np.argsort(moments, kind="stable")
    running = np.cumsum(np.repeat([1, -1], len(first))[order])[:-1]
    lengths = np.diff(moments[order]) * (running > 0)
    by_size = np.argsort(-running, kind="stable")
    held = np.cumsum(lengths[by_size])
    if not held.size or held[-1] <= 0:
        return 1
    return max(1, int(running[by_size][np.searchsorted(held, PEAK_SHARE * held[-1])]))


def _line_sums(time_s: Floats, constant: Floats, slope: Floats) -> Floats:
    """Sums of straight lines over the first k of them in order of time, shape ``(2, n + 1)``."""
    order = np.argsort(time_s)
    return np.column_stack([np.zeros(2), np.cumsum(np.vstack([constant[order], slope[order]]), axis=1)])


def _solve(rows: Floats, seconds: Floats, weights: Floats) -> Floats:
    lengths = np.linalg.norm(rows * weights[:, np.newaxis], axis=0)
    scale = np.where(lengths > 0, lengths, 1.0)
    robust = weights
    for _ in range(NUM_ROUNDS):
        scaled, _ = nnls(rows * robust[:, np.newaxis] / scale, seconds * robust)
        solution: Floats = scaled / scale
        off = np.abs(rows @ solution - seconds) * weights
        usual = 1.5 * 1.4826 * float(np.median(off)) + 1e-9
        robust = weights / np.sqrt(np.maximum(1.0, off / usual))
    return solution
