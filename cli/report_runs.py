"""What a report is about: runs, arranged by load and scheduler."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

MAX_SCHEDULERS = 4
"""So many colours can be told apart with ease."""


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as a report shows it."""

    load: str
    """Label of its load, such as "1.2 x"."""
    scheduler: str
    """Label of its scheduler, such as "EDF"."""
    calls: pd.DataFrame
    """Columns of ``traces.CALLS``."""
    samples: pd.DataFrame
    """Columns of ``traces.SAMPLES``."""
    summary: pd.DataFrame
    """What ``traces.summarise`` made of both."""

    @property
    def total(self) -> dict[str, Any]:
        """The last row of the summary."""
        return rows_of(self.summary)[-1]


@dataclass(frozen=True, slots=True)
class Panels:
    """The runs as a table: a row for each load, a column for each scheduler."""

    loads: tuple[str, ...]
    schedulers: tuple[str, ...]
    runs: Mapping[tuple[str, str], RunView]
    """By load and scheduler; a pair may be missing."""

    @classmethod
    def of(cls, runs: Sequence[RunView]) -> "Panels":
        """Arrange runs in their order of appearance.

        Raises
        ------
        ValueError
            If there are none, more schedulers than colours, or two of one load and scheduler.
        """
        table = {(run.load, run.scheduler): run for run in runs}
        schedulers = tuple(dict.fromkeys(run.scheduler for run in runs))
        if not runs or len(table) < len(runs):
            raise ValueError(f"runs must be some, each of another load and scheduler, got {len(runs)}: {list(table)}")
        if len(schedulers) > MAX_SCHEDULERS:
            raise ValueError(f"a report shows at most {MAX_SCHEDULERS} schedulers, got {list(schedulers)}")
        return cls(tuple(dict.fromkeys(run.load for run in runs)), schedulers, table)

    def of_load(self, load: str) -> list[tuple[int, RunView]]:
        """The runs of a load, each with the number of its scheduler."""
        found = ((index, self.runs.get((load, scheduler))) for index, scheduler in enumerate(self.schedulers))
        return [(index, run) for index, run in found if run is not None]


def rows_of(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a summary by column."""
    rows: list[dict[str, Any]] = summary.to_dict(orient="records")  # type: ignore[assignment]
    return rows


def seconds(value: Any) -> str:
    """A duration for a reader: three digits or so, with its unit."""
    if pd.isna(value):
        return "unknown"
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s"
