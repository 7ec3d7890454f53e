"""Recognise a request log by what it holds: files are renamed, copied and converted."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pandas as pd

_COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens", "ttft_s", "e2e_s")
_DIGITS = 6


def fingerprint(requests: pd.DataFrame) -> str:
    """Return the number of requests and a hash of their arrivals, lengths and times: ``300:1f0c...``.

    ``requests`` are in order of arrival and have the columns of a log with measured times. Only differences between
    arrivals count, to the microsecond.
    """
    values = requests[list(_COLUMNS)].to_numpy(dtype=np.float64, copy=True)
    values[:, 0] -= values[0, 0]
    # Adding 0.0 makes -0.0 and 0.0 the same bytes.
    return f"{len(values)}:{hashlib.sha256((values.round(_DIGITS) + 0.0).tobytes()).hexdigest()[:16]}"


def holds_one_of(requests: pd.DataFrame, fingerprints: Iterable[str]) -> bool:
    """Say whether a log is one of these, or begins with one."""
    counts = {each: int(each.partition(":")[0]) for each in fingerprints}
    return any(0 < num <= len(requests) and fingerprint(requests[:num]) == each for each, num in counts.items())
