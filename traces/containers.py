"""Open a trace file of any container (CSV, JSON lines, Parquet) as `Cells`, line by line as it stands."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from .cells import Cells
from .mistakes import TraceError

Container = Literal["csv", "jsonl", "parquet"]


def open_cells(path: Path, container: Container | None = None) -> tuple[Container, Cells]:
    """Read the whole file.

    Parameters
    ----------
    path
        The file; ``.gz`` and other endings that pyarrow knows are decompressed.
    container
        How it is stored; None: found out from its first bytes.

    Returns
    -------
    The container and its cells.

    Raises
    ------
    TraceError
        If the file cannot be read, or holds no row.
    """
    try:
        container = container or _container_of(path)
        return container, _READERS[container](path)
    except FileNotFoundError:
        raise TraceError(path, ["no such file"]) from None
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise TraceError(path, [f"cannot be read: {error}"]) from None


_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def check_commas(path: Path) -> None:
    """Find out before a CSV is read whether something else than commas stands between its columns.

    Raises
    ------
    TraceError
        If so.
    OSError, ValueError
        If its first line cannot be read.
    """
    if told := wrong_separator(_header(path) or []):
        raise TraceError(path, [told])


def wrong_separator(header: Sequence[str]) -> str:
    """Say what separates the columns of a CSV whose header, read with commas, is a single cell; empty if commas do."""
    for separator, name in _SEPARATORS.items():
        if len(header) == 1 and separator in header[0]:
            return f"line 1: columns seem to be separated by {name}; commas are expected: {header[0][:60]!r}"
    return ""


def _header(path: Path) -> list[str] | None:
    with pa.input_stream(str(path)) as stream:
        return next(csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")), None)


def _container_of(path: Path) -> Container:
    with pa.input_stream(str(path)) as stream:
        start = bytes(stream.read(64)).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if start.startswith(b"{") else "csv"


def _read_csv(path: Path) -> Cells:
    """Read every cell as text: a type guessed from the first rows would fail on a later bad one."""
    header = _header(path)
    if header is None:
        raise TraceError(path, ["has no requests"])
    if told := wrong_separator(header):
        raise TraceError(path, [told])
    broken: list[tuple[int, str]] = []

    def skip(row: Any) -> str:
        found = f"{row.actual_columns} values where the header has {row.expected_columns}"
        broken.append((row.number, f"{found}: {row.text[:60]}"))
        return "skip"

    frame = pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(use_threads=False),  # with threads, row.number is None
        parse_options=pa.csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=skip),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), null_values=[""], strings_can_be_null=True
        ),
    ).to_pandas()
    lines = np.arange(2, 2 + len(frame) + len(broken))
    lines = np.delete(lines, [number - 2 for number, _ in broken])
    # A line with no value at all, usually the last one, is no mistake.
    filled = frame.notna().any(axis="columns").to_numpy()
    return Cells(path, frame[filled].reset_index(drop=True), lines[filled], broken=broken)


def _read_jsonl(path: Path) -> Cells:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    broken: list[tuple[int, str]] = []
    with pa.input_stream(str(path)) as stream:
        text = bytes(stream.read()).decode("utf-8-sig")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            broken.append((number, f"not valid JSON at column {error.colno}: {error.msg}"))
            continue
        if isinstance(row, dict):
            rows.append(row)
            lines.append(number)
        else:
            broken.append((number, f"must be a JSON object, got {line[:60]}"))
    return Cells(path, pd.DataFrame(rows), np.array(lines, dtype=np.int64), broken=broken)


def _read_parquet(path: Path) -> Cells:
    frame = pa.parquet.read_table(path).to_pandas(ignore_metadata=True)
    return Cells(path, frame, np.arange(1, 1 + len(frame)), unit="row")


_READERS = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}
