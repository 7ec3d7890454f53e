"""Read tables of step latencies, as derived from aiconfigurator: one row for each batch that was priced.

=================== ===========================================================================================
column              meaning
=================== ===========================================================================================
model, system       the LLM, and the GPU with its form factor (``h200_sxm``)
tp_size             GPUs of the server (tensor parallel)
backend_db_version  the vLLM whose kernels were measured
phase               ``prefill``: one step of nothing but whole prompts; ``decode``: one step of nothing but decodes
batch_size          prompts, or decoding requests
context_len         prompt tokens of each request
prefill_latency_ms  of that step; empty in a decode row
decode_tpot_ms      of a decode step, the mean over the first 16 generated tokens; empty in a prefill row
fits_90pct          0: needs more than 90 % of the GPU's memory, so no server runs it
=================== ===========================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from inframind.traces import TraceError, check_commas

from .step_fit import MeasuredStep, decode_step, prefill_step

MEAN_GENERATED_TOKENS = 8.5
"""Of the first 16 decode steps, the k-th ends with k generated tokens in the context."""

_TEXT = ("model", "system", "backend_db_version", "phase")
_LATENCY_MS = {"prefill": "prefill_latency_ms", "decode": "decode_tpot_ms"}
_WHOLE = ("tp_size", "batch_size", "context_len")
_COLUMNS = (*_TEXT, *_WHOLE, "fits_90pct", *_LATENCY_MS.values())
_STEP_COLUMNS = ("phase", "batch_size", "context_len", "prefill_latency_ms", "decode_tpot_ms")
_MAX_SHOWN = 20


@dataclass(frozen=True, slots=True)
class StepProfile:
    """The steps of one LLM on one system."""

    model: str
    system: str
    tp_size: int
    backend_version: str
    """vLLM's."""
    steps: tuple[MeasuredStep, ...]
    """Those that fit into memory, in the order of the file."""


def read_step_profiles(path: str | Path, system: str) -> dict[str, StepProfile]:
    """Read what a table (CSV) says about one system: a profile for each LLM, by name.

    Raises
    ------
    TraceError
        If the file cannot be read, lacks a column, has a bad cell in a row of ``system``, or holds nothing
        on it; the message lists the systems that it knows.
    """
    frame = _read_table(Path(path))
    known = sorted(set(frame["system"]) - {""})
    if system not in known:
        raise TraceError(path, [f"unknown system {system!r}; known: {', '.join(known)}"])
    rows = frame[frame["system"] == system]
    _require_good_cells(Path(path), rows)
    rows = rows[rows["fits_90pct"] == "1"]

    profiles: dict[str, StepProfile] = {}
    for model, own in rows.groupby("model", sort=True):
        # More than one of either would be two servers in one table.
        tp_sizes, versions = own["tp_size"].unique(), own["backend_db_version"].unique()
        if len(tp_sizes) > 1 or len(versions) > 1:
            raise TraceError(path, [f"{model} on {system}: has more than one tp_size or backend_db_version"])
        steps = tuple(_step(*row) for row in zip(*(own[name] for name in _STEP_COLUMNS), strict=True))
        profiles[str(model)] = StepProfile(str(model), system, int(tp_sizes[0]), str(versions[0]), steps)
    return profiles


def _step(phase: str, batch_size: str, context_len: str, prefill_ms: str, decode_ms: str) -> MeasuredStep:
    if phase == "prefill":
        return prefill_step(float(prefill_ms) / 1000, int(batch_size), int(context_len))
    return decode_step(float(decode_ms) / 1000, int(batch_size), int(context_len) + MEAN_GENERATED_TOKENS)


def _read_table(path: Path) -> pd.DataFrame:
    """Read every cell as text: a type guessed from all rows would hide which one is bad."""
    try:
        check_commas(path)
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False).fillna("")
    except FileNotFoundError:
        raise TraceError(path, ["no such file"]) from None
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise TraceError(path, [f"cannot be read: {error}"]) from None
    missing = [name for name in _COLUMNS if name not in frame]
    if missing:
        raise TraceError(path, [f"missing column(s): {', '.join(missing)}; found: {', '.join(frame.columns)}"])
    if frame.empty:
        raise TraceError(path, ["has no rows"])
    return frame


def _require_good_cells(path: Path, rows: pd.DataFrame) -> None:
    numbers = rows.index + 2  # the index counts from 0, below a header
    records = rows.to_dict("records")
    problems = [
        f"line {number}: {problem}"
        for number, row in zip(numbers, records, strict=True)
        for problem in _problems({str(name): str(cell) for name, cell in row.items()})
    ]
    if problems:
        raise TraceError(path, problems[:_MAX_SHOWN], len(problems))


def _problems(row: Mapping[str, str]) -> Iterator[str]:
    for name in _WHOLE:
        if not (row[name].isascii() and row[name].isdigit() and int(row[name]) >= 1):
            yield f"{name} must be a whole number of at least 1, got {row[name]!r}"
    if row["fits_90pct"] not in ("0", "1"):
        yield f"fits_90pct must be 0 or 1, got {row['fits_90pct']!r}"
    if (latency := _LATENCY_MS.get(row["phase"])) is None:
        yield f"phase must be prefill or decode, got {row['phase']!r}"
    elif not 0 < _number(row[latency]) < math.inf:
        yield f"{latency} must be a number greater than 0, got {row[latency]!r}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
