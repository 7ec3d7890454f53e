"""Read ServeGen's client files (alibaba/ServeGen, Apache-2.0) as a mixture of clients."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .arrivals import Client, Clients
from .lengths import Empirical
from .mistakes import TraceError

_TRACE_COLUMNS = ["time_s", "rate_per_s", "cv", "family", "parameter_1", "parameter_2"]


def read_servegen(path: str | Path, *, start_s: float = 0.0, end_s: float = float("inf")) -> Clients:
    """Read a folder or ``.tar.gz`` with ``chunk-N-trace.csv`` and ``chunk-N-dataset.json`` for each client N.

    A client's rate is its mean over the chosen span; its CV is the mean of its 10-minute CVs, and its lengths
    the mixture of its histograms, both weighted by requests. Lost are the course of the rates within the
    span, the Weibull family (a gamma of the same CV stands for it), and which input had which output. So
    choose a span with about even load, an hour say: over a whole day clients that were busy for ten minutes
    become steady.

    Args:
        path: The folder or the archive.
        start_s: Begin of the span, in seconds of the recorded day.
        end_s: End of the span.

    Returns:
        The clients that sent anything in the span, in the order of their numbers, at their recorded rate.

    Raises:
        TraceError: If files are missing or malformed, or nobody sent anything in the span.
    """
    files = _read_files(Path(path))
    numbers = sorted({number for number, _ in files})
    wanted = [(number, part) for number in numbers for part in ("trace.csv", "dataset.json")]
    missing = [f"chunk-{number}-{part}: missing" for number, part in wanted if (number, part) not in files]
    if missing:
        raise TraceError(path, missing)

    clients: list[Client] = []
    for number in numbers:
        try:
            slots = pd.read_csv(io.StringIO(files[number, "trace.csv"]), header=None, names=_TRACE_COLUMNS)
            slots = slots[(slots["time_s"] >= start_s) & (slots["time_s"] < end_s)]
            if slots["rate_per_s"].sum() > 0:
                clients.append(_client(slots, json.loads(files[number, "dataset.json"])))
        except (KeyError, TypeError, ValueError) as error:
            raise TraceError(path, [f"chunk-{number}: not as ServeGen writes it: {error}"]) from None
    if not clients:
        raise TraceError(path, [f"no requests from {start_s:g} s to {end_s:g} s"])
    return Clients(rate_per_min=60 * sum(client.share for client in clients), clients=tuple(clients))


def _read_files(path: Path) -> dict[tuple[int, str], str]:
    """Return the text of each ``chunk-N-PART``, by N and PART."""
    try:
        return {
            (int(match[1]), match[2]): text.decode()
            for name, text in _members(path)
            if (match := re.search(r"(?:^|/)chunk-(\d+)-(trace\.csv|dataset\.json)$", name))
        }
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        raise TraceError(path, [f"cannot be read: {error}"]) from None


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        yield from ((file.name, file.read_bytes()) for file in path.glob("chunk-*"))
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                yield member.name, file.read()


def _client(slots: pd.DataFrame, histograms: dict[str, Any]) -> Client:
    """Make the client of the given 10-minute slots; its share is its rate per second."""
    # The histograms cover windows of hours, named by their start.
    starts = sorted(map(int, histograms))
    window = np.searchsorted(starts, slots["time_s"], side="right") - 1
    per_window = np.bincount(window, weights=slots["rate_per_s"], minlength=len(starts))
    weights = {start: weight for start, weight in zip(starts, per_window, strict=True) if weight > 0}

    def mixture(field: str) -> Empirical:
        total: defaultdict[int, float] = defaultdict(float)
        for start, weight in weights.items():
            # A dict of Python's as text, {45: 0.01, ...}: JSON but for the quotes around its keys.
            shares = json.loads(re.sub(r"(\d+):", r'"\1":', histograms[str(start)][field]))
            for tokens, share in shares.items():
                total[int(tokens)] += weight * share
        return Empirical(values=tuple(total), weights=tuple(total.values()))

    return Client(
        share=slots["rate_per_s"].mean(),
        cv=np.average(slots["cv"], weights=slots["rate_per_s"]),
        prompt_tokens=mixture("input_tokens"),
        output_tokens=mixture("output_tokens"),
    )
