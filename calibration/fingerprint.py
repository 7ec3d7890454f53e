"""Recognise a request log by what it holds: files are renamed, copied and converted, and parts are cut out of them."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

_COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens", "ttft_s", "e2e_s")
_DIGITS = 6


def fingerprints(requests: pd.DataFrame) -> tuple[str, ...]:
    """Return a fingerprint of the log, and of each condition of it: the number of requests and a hash, ``300:1f0c...``.

    Parameters
    ----------
    requests
        A log with measured times, in order of arrival. Only differences between arrivals count, to the microsecond.
    """
    return tuple(dict.fromkeys(map(_fingerprint, _parts(requests))))


def holds_one_of(requests: pd.DataFrame, known: Iterable[str]) -> bool:
    """Say whether a log, or a condition of it, is one of the ``known`` fingerprints, or begins with one."""
    counts = {each: int(each.partition(":")[0]) for each in known}
    return any(
        0 < num <= len(part) and _fingerprint(part[:num]) == each
        for part in _parts(requests)
        for each, num in counts.items()
    )


def _parts(requests: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The log, and what a profile calls its conditions: each is a load that a person may want to look at alone."""
    yield requests
    if "condition" in requests:
        yield from (part for _, part in requests.groupby("condition", sort=False))


def _fingerprint(requests: pd.DataFrame) -> str:
    """Of the arrivals from the first on, the lengths and the times."""
    values = requests[list(_COLUMNS)].to_numpy(dtype=np.float64, copy=True)
    values[:, 0] -= values[0, 0]
    # Adding 0.0 makes -0.0 and 0.0 the same bytes.
    return f"{len(values)}:{hashlib.sha256((values.round(_DIGITS) + 0.0).tobytes()).hexdigest()[:16]}"
