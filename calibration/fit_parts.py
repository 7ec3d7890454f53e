"""Parts of long logs: stretches of work that found the server idle, from all over the log."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .fit_objective import MeasuredLog, idle_starts
from .step_estimates import MeasuredTimes

Floats = NDArray[np.float64]

MIN_CUT = 16
"""Fewer requests from the beginning of a stretch are not worth having."""
MIN_COMPARED = 0.1
"""Share of these that must have ended before the cut, else all are compared."""


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
