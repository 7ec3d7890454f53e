"""Logs that end before the load did: the requests that came after them slowed theirs down, and are in no log.

Such a log is a part of a longer one. What happened after its last arrival cannot be simulated from its own rows. So
the log is also tried with a continuation, as if the same load had gone on for a while; if that explains the measured
times clearly better, they stay with it. The added rows have no measured times and are compared with nothing.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from .fit_objective import MeasuredLog

MIN_OPEN = 0.25
"""Share of the requests that must be open at the last arrival for a continuation to matter."""
MIN_REQUESTS = 30
SHARES = (0.5, 1.0, 2.0)
"""Lengths of a continuation that are tried, relative to the log."""
IMPROVEMENT = 0.85
"""A continuation is taken for real if it brings the loss down to this share, or less."""


def may_go_on(log: MeasuredLog) -> bool:
    """Whether so many requests were open at the last arrival that others may have come after it."""
    times = log.times
    last = float(times.arrival_s[-1])
    return len(log.requests) >= MIN_REQUESTS and float(np.mean(times.end_s > last)) >= MIN_OPEN


def continued(log: MeasuredLog, share: float) -> MeasuredLog:
    """The log, and the first ``share`` of it once more (twice for 2), after its last arrival."""
    times, num = log.times, len(log.requests)
    arrival = times.arrival_s
    period = float(arrival[-1] - arrival[0]) * num / max(1, num - 1)
    rows = np.arange(round(share * num))
    source, lap = rows % num, 1 + rows // num
    again = log.requests.iloc[source].assign(arrival_s=arrival[source] + lap * period, ttft_s=np.nan, e2e_s=np.nan)
    nothing = np.full(len(rows), np.nan)
    return MeasuredLog(
        log.name,
        pd.concat([log.requests, again], ignore_index=True),
        replace(
            times,
            arrival_s=np.concatenate([arrival, again["arrival_s"]]),
            ttft_s=np.concatenate([times.ttft_s, nothing]),
            e2e_s=np.concatenate([times.e2e_s, nothing]),
            prompt_tokens=np.concatenate([times.prompt_tokens, times.prompt_tokens[source]]),
            output_tokens=np.concatenate([times.output_tokens, times.output_tokens[source]]),
            cached_tokens=np.concatenate([times.cached_tokens, times.cached_tokens[source]]),
        ),
    )
