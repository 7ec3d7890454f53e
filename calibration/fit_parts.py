"""Parts of long logs: stretches of work that found the server idle, from all over the log."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from inframind.sim import ServerToFit

from .fit_objective import MeasuredLog, idle_starts
from .step_estimates import MeasuredTimes

Floats = NDArray[np.float64]

MIN_CUT = 16
"""Fewer requests from the beginning of a stretch are not worth having."""
MIN_COMPARED = 0.1
"""Share of these that must have ended before the cut, else all are compared."""
NEVER_CUT = 500
"""So many requests in all are always used."""
SHARED_BLOCK_WORK, PREEMPTED_BLOCK_WORK = 0.015, 0.1
"""Work of simulating one block that may be found again, relative to that of a request: where prompts share a start, and
where preempted requests come back."""


def parts(
    logs: Sequence[MeasuredLog], asked: ServerToFit, work: float, *, is_preempting: bool = False
) -> list[MeasuredLog]:
    """Of each log the same share, so that all is so much work together."""
    costs = [work_of(log, asked, is_preempting=is_preempting) for log in logs]
    total = float(sum(cost.sum() for cost in costs))
    if total <= work or sum(len(log.requests) for log in logs) <= NEVER_CUT:
        return list(logs)
    return [part(log, cost, work / total) for log, cost in zip(logs, costs, strict=True)]


def work_of(log: MeasuredLog, asked: ServerToFit, *, is_preempting: bool) -> Floats:
    """What it costs to simulate each request; blocks count only where they are found again, see `run_log`."""
    if not (asked.scheduler.enable_prefix_caching and (is_preempting or log.times.cached_tokens.any())):
        return np.ones(len(log.requests))
    blocks = (log.times.prompt_tokens + log.times.output_tokens) / asked.scheduler.block_size
    return np.asarray(1 + (PREEMPTED_BLOCK_WORK if is_preempting else SHARED_BLOCK_WORK) * blocks)


def part(log: MeasuredLog, costs: Floats, share: float) -> MeasuredLog:
    """As much of a log, taken evenly from its begin to its end, so that each of its loads is there.

    A stretch that begins on an idle server does not know of the ones before. Whole ones are taken, as their turn comes,
    and of one that is too long its beginning; there, requests that later ones slowed down are not compared, if enough
    others are left.

    Parameters
    ----------
    costs
        Of simulating each request.
    share
        Of all costs together.
    """
    starts = idle_starts(log)
    is_taken = np.zeros(len(costs), dtype=bool)
    is_compared = np.ones(len(costs), dtype=bool)
    room = 0.0
    for start, end in zip(starts, [*starts[1:], len(costs)], strict=True):
        total = np.cumsum(costs[start:end])
        room += share * total[-1]
        num = int(np.searchsorted(total, room, side="right"))
        if num < min(len(total), MIN_CUT):
            continue
        cut = start + num
        is_taken[start:cut] = True
        room -= total[num - 1]
        if cut < end:
            is_free = log.times.end_s[start:cut] <= log.times.arrival_s[cut]
            if is_free.mean() >= MIN_COMPARED:
                is_compared[start:cut] = is_free
    # Of a log that is no more than a few stretches of a few requests.
    is_taken[:MIN_CUT] |= not is_taken.any()
    fields = {name: getattr(log.times, name)[is_taken] for name in MeasuredTimes.__slots__}
    measured = {name: np.where(is_compared[is_taken], fields[name], np.nan) for name in ("ttft_s", "e2e_s")}
    return replace(log, requests=log.requests[is_taken], times=MeasuredTimes(**fields | measured))
