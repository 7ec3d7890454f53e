"""Logs that end before the load did: the requests that came after them slowed theirs down, and are in no log.

Such a log is a part of a longer one. What happened after its last arrival cannot be simulated from its own rows. So
the log is also tried with a continuation, as if the same load had gone on for as long again; if that explains the
measured times of such logs about as well or better, it stays (`AS_GOOD`). The added rows have no measured times and are
compared with nothing.

It is no richer a model, for it has no parameter more, so no clear evidence is asked for. On a tie a cut is the safer
guess: of a log that was cut, what slowed its requests down would be put down to context, and a longer load be predicted
at twice its times.

For how long the load went on, the times do not tell: context that costs a little more explains them as well as a load
that ended sooner. (Half as long again explained a real run that was cut in half even better than what had really come.)
Of a load that was cut anywhere, the rest is as likely longer as shorter than what there is (Gott, Implications of the
Copernican principle for our future prospects, 1993), hence as long again.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from .fit_objective import MeasuredLog

MIN_OPEN = 0.25
"""Share of the requests that must be open at the last arrival for a continuation to matter."""
MIN_REQUESTS = 30
AS_GOOD = 1.1
"""Ratio of the losses with and without a continuation up to which it is taken. Of complete logs it was 1.2 or more, of
cut ones 1.06 or less (public runs and simulated ones, whole and in halves)."""


def may_go_on(log: MeasuredLog) -> bool:
    """Whether so many requests were open at the last arrival that others may have come after it."""
    times = log.times
    last = float(times.arrival_s[-1])
    return len(log.requests) >= MIN_REQUESTS and float(np.mean(times.end_s > last)) >= MIN_OPEN


def continued(log: MeasuredLog) -> MeasuredLog:
    """The log, and all its requests once more after its last arrival."""
    times, num = log.times, len(log.requests)
    arrival = times.arrival_s
    period = float(arrival[-1] - arrival[0]) * num / max(1, num - 1)
    again = log.requests.assign(arrival_s=arrival + period, ttft_s=np.nan, e2e_s=np.nan)
    nothing = np.full(num, np.nan)
    return MeasuredLog(
        log.name,
        pd.concat([log.requests, again], ignore_index=True),
        replace(
            times,
            arrival_s=np.concatenate([arrival, again["arrival_s"]]),
            ttft_s=np.concatenate([times.ttft_s, nothing]),
            e2e_s=np.concatenate([times.e2e_s, nothing]),
            prompt_tokens=np.tile(times.prompt_tokens, 2),
            output_tokens=np.tile(times.output_tokens, 2),
            cached_tokens=np.tile(times.cached_tokens, 2),
        ),
    )
