"""The cells of one trace file with their line numbers, and the mistakes found in them so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .mistakes import TraceError, did_you_mean

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MAX_SHOWN = 20
_EXACT = 2**53  # above it, float64 no longer tells whole numbers apart


class Cells:
    """A file as it stands, checked column by column; mistakes are collected, not raised.

    A checked column comes back with NaN in place of each bad cell: every comparison with NaN is false, so
    the checks that follow do not name the cell again. `finish` raises all that was collected.

    Parameters
    ----------
    source
        The file, for the messages.
    frame
        Its cells: text (CSV), JSON values (JSONL) or typed values (Parquet).
    numbers
        For each row of ``frame`` its number in the file, counted from 1.
    unit
        What ``numbers`` counts, ``"line"`` or ``"row"``.
    broken
        ``(number, problem)`` of the lines that could not become rows.

    Raises
    ------
    TraceError
        If there is no row at all, or two columns have one name.
    """

    def __init__(
        self,
        source: Path,
        frame: pd.DataFrame,
        numbers: NDArray[np.int64],
        unit: str = "line",
        broken: Sequence[tuple[int, str]] = (),
    ) -> None:
        bad_lines = [(number, f"{unit} {number}: {problem}") for number, problem in broken]
        if frame.empty:
            found = [text for _, text in bad_lines] or ["has no requests"]
            raise TraceError(source, found[:MAX_SHOWN], len(found))
        if twice := list(frame.columns[frame.columns.duplicated()]):
            raise TraceError(source, [f"{name}: column appears twice" for name in twice])
        self.source = source
        self.frame = frame
        self.numbers = numbers
        self.unit = unit
        self._missing_columns: dict[str, str] = {}
        self._bad_cells = bad_lines
        self._num_bad = len(broken)
        self._used: set[str] = set()

    def __contains__(self, column: str) -> bool:
        return column in self.frame.columns

    def number(
        self,
        column: str,
        *,
        at_least: float = -math.inf,
        whole: bool = False,
        empty: float | None = None,
    ) -> Floats:
        """Return a column of finite numbers.

        Parameters
        ----------
        column
            Its name in the file.
        at_least
            The smallest number that is allowed.
        whole
            Only whole numbers are allowed.
        empty
            What an empty cell (or ``nan``, as programs write it) stands for; None makes it a mistake.
        """
        if not self._use(column):
            return np.full(len(self.frame), np.nan)
        absent = self._absent(column, is_mistake=empty is None)
        if empty is not None:
            absent = absent | self.frame[column].map(_is_nan_text).to_numpy(dtype=bool)
        values = _to_float(self.frame[column])
        values = self.without(column, values, np.isnan(values) & ~absent, "must be a number")
        values = self.without(column, values, np.isinf(values), "must be finite")
        if whole:
            odd = (values % 1 != 0) & ~np.isnan(values) | (np.abs(values) > _EXACT)
            values = self.without(column, values, odd, "must be a whole number")
        values = self.without(column, values, values < at_least, f"must be at least {at_least:g}")
        return values if empty is None else np.where(absent, empty, values)

    def moment(self, column: str) -> Floats:
        """Return a column of ISO 8601 dates and times as seconds since the earliest of them."""
        if not self._use(column):
            return np.full(len(self.frame), np.nan)
        absent = self._absent(column, is_mistake=True)
        # utc: some exports carry an offset and some do not, and only differences matter here.
        moments = pd.to_datetime(self.frame[column], format="ISO8601", errors="coerce", utc=True)
        self.reject(column, moments.isna().to_numpy(dtype=bool) & ~absent, "must be a date and time")
        return np.asarray((moments - moments.min()) / pd.Timedelta(seconds=1), dtype=np.float64)

    def forward(self, column: str, times: Floats) -> Floats:
        """Return the times read from ``column``, of which none may lie before the row above."""
        back = np.diff(times, prepend=-np.inf) < 0
        return self.without(column, times, back, "time goes back, must not be before the row above")

    def text(self, column: str) -> pd.Series[Any]:
        """Return a column as text, null where it is empty."""
        self._used.add(column)
        return self.frame[column].map(str, na_action="ignore")

    def tuples(self, column: str) -> pd.Series[Any]:
        """Return a column of lists of whole numbers as tuples."""
        self._used.add(column)
        cells = self.frame[column]
        odd = [not (isinstance(ids, list) and all(type(each) is int for each in ids)) for ids in cells]
        self.reject(column, np.array(odd), "must be a list of whole numbers")
        return cells if any(odd) else cells.map(tuple)

    def extras(self) -> pd.DataFrame:
        """Return the columns that nobody asked for, as they are."""
        return self.frame[[name for name in self.frame.columns if name not in self._used]]

    def without(self, column: str, values: Floats, bad: Bools, rule: str) -> Floats:
        """Reject the bad cells of ``column`` and return its ``values`` with NaN in their place."""
        if not bad.any():
            return values
        self.reject(column, bad, rule)
        return np.where(bad, np.nan, values)

    def reject(self, column: str, bad: Bools, rule: str) -> None:
        """Note that the cells of ``column`` where ``bad`` is true break ``rule``."""
        for row in np.flatnonzero(bad)[:MAX_SHOWN]:
            cell = self.frame[column].iloc[row]
            value = "" if pd.api.types.is_scalar(cell) and pd.isna(cell) else f", got {str(cell)[:60]}"
            number = int(self.numbers[row])
            self._bad_cells.append((number, f"{self.unit} {number}, {column}: {rule}{value}"))
        self._num_bad += int(bad.sum())

    def finish(self) -> None:
        """End the checks.

        Raises
        ------
        TraceError
            If anything was rejected, with the first 20 problems in the order of the file.
        """
        total = len(self._missing_columns) + self._num_bad
        if total == 0:
            return
        # Each check noted its own first 20, so the first 20 of all are among them.
        in_file_order = [text for _, text in sorted(self._bad_cells, key=lambda cell: cell[0])]
        raise TraceError(self.source, [*self._missing_columns.values(), *in_file_order][:MAX_SHOWN], total)

    def _use(self, column: str) -> bool:
        """Mark the column as asked for; say whether it is there, and note it if not."""
        self._used.add(column)
        if column in self:
            return True
        known = [str(name) for name in self.frame.columns]
        unused = [name for name in known if name not in self._used]
        hint = did_you_mean(column, unused) or f"; found: {', '.join(known)}"
        self._missing_columns[column] = f"{column}: missing column{hint}"
        return False

    def _absent(self, column: str, *, is_mistake: bool) -> Bools:
        absent = self.frame[column].isna().to_numpy(dtype=bool)
        if is_mistake:
            self.reject(column, absent, "missing value")
        return absent


def _is_nan_text(cell: Any) -> bool:
    return isinstance(cell, str) and cell.strip().lower() == "nan"


def _to_float(cells: pd.Series[Any]) -> Floats:
    """Convert each cell as Python's ``float()`` does, which rounds correctly; NaN where it cannot."""
    if pd.api.types.is_numeric_dtype(cells):
        return np.asarray(cells, dtype=np.float64)
    objects = cells.astype(object).to_numpy()
    try:
        return np.asarray(objects, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.array([_float_or_nan(cell) for cell in objects])


def _float_or_nan(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return math.nan
