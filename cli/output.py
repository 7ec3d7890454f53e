"""Tables, progress and files: what every command prints in the same way."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from inframind.traces import ConfigError, check_replaceable, find_runs, write_whole

PIPE_WIDTH = 200
"""A pipe has no width to fit into: tables may be as wide as this."""


@contextmanager
def progress(label: str, total: float) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr, with the time left; yields a function that takes how much is done."""
    console = Console(stderr=True)
    with Progress(*progress_columns(), console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def progress_columns() -> tuple[ProgressColumn, ...]:
    """What a progress bar shows beside itself: its label, how much is done, the time taken and the time left."""
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column is text, the others are numbers.

    One that is wider than the terminal goes on below itself, its first column repeated.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    cells = [columns, *rows]
    widths = [
        max(len(line) for row in cells for line in row[index].splitlines() or [""]) for index in range(len(columns))
    ]
    # Not as the table's own, which breaks a title that is wider than the table.
    console.print(title, style="bold", markup=False, highlight=False)
    for part in _fitting(widths, console.width):
        table = Table()
        for index in part:
            table.add_column(columns[index], justify="left" if index == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(row[index] for index in part))
        console.print(table)


def _fitting(widths: Sequence[int], width: int) -> Iterator[list[int]]:
    """Columns in groups that fit side by side, each with the first one; a group has at least one more."""
    frame = 3  # a blank on both sides of a cell and a line after it
    part, used = [0], 1 + widths[0] + frame
    for index, own in enumerate(widths[1:], start=1):
        if len(part) > 1 and used + own + frame > width:
            yield part
            part, used = [0], 1 + widths[0] + frame
        part.append(index)
        used += own + frame
    yield part


def print_json(value: object) -> None:
    """Machine-readable output."""
    print(json.dumps(value, indent=2))


TABLE_KINDS = (".csv", ".parquet")
"""What `write_frame` writes, by the ends of their names."""


def check_target(path: Path, source: Path, kinds: tuple[str, ...]) -> None:
    """Find out before long work that its result could not be written, or would replace what it was made from.

    Parameters
    ----------
    kinds
        With one of these its name must end: it says what is written.

    Raises
    ------
    ConfigError
        If so, or if its name ends otherwise.
    """
    if path.is_dir():
        raise ConfigError(path, ["is a folder; name a file"])
    if not path.parent.is_dir():
        raise ConfigError(path, [f"there is no folder {path.parent}"])
    if path.exists() and source.exists() and path.samefile(source):
        raise ConfigError(path, ["is the input itself; name another file"])
    if not path.name.endswith(kinds):
        raise ConfigError(path, [f"name a file that ends in {' or '.join(kinds)}"])


OVERWRITE_HELP = "begin anew in a folder that has results: they are removed first"


def claim_folder(out: Path, members: Sequence[str], *, overwrite: bool, hint: str = "") -> None:
    """Make a folder for new results. What is there already is never written over, unless the person says so.

    Parameters
    ----------
    members
        All that will be written there. Anything else in the folder is a person's, and is left alone.
    overwrite
        Remove such results first. Those of another command are not removed: they lack the first of ``members``.
    hint
        What else the person may do about results that are there.

    Raises
    ------
    ConfigError
        There are such results, or nothing can be written there.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(out, ["is a file; name a folder"])
    there = [name for name in members if (out / name).exists()]
    if there and members[0] not in there:
        raise ConfigError(out, [f"has {', '.join(there)} of something else; name another folder"])
    if there and not overwrite:
        raise ConfigError(out, [f"has results already; {hint}--overwrite begins anew, or name another folder"])
    _clear(out, [out / name for name in there])


REPORT, SUMMARY = OF_ALL = "report.html", "summary.csv"
"""What stands beside the folders of several runs."""


def claim_runs(out: Path, *, is_one: bool, overwrite: bool) -> None:
    """As `claim_folder`, for run folders: ``out`` itself, or those in it with `OF_ALL` beside them.

    Parameters
    ----------
    is_one
        ``out`` itself is to be a run folder, which holds nothing else.
    overwrite
        Remove all runs that are there first, whatever their names.

    Raises
    ------
    ConfigError
        There are such results, or something of a person's is in the way, or nothing can be written there.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(out, ["is a file; name a folder"])
    runs = find_runs(out)
    if runs and not overwrite:
        raise ConfigError(out, ["has results already; --overwrite begins anew, or name another folder"])
    of_all = [out / name for name in OF_ALL if (out / name).exists()]
    if of_all and not runs:
        raise ConfigError(
            out, [f"{path.name} is there and not of an experiment; name another folder" for path in of_all]
        )
    for run in runs:
        check_replaceable(run)
    there = [*out.iterdir()] if out in runs else [*runs, *of_all]
    if is_one and out.exists() and {*out.iterdir()} - {*there}:
        raise ConfigError(out, ["is not empty and not a run folder; name another, or remove it first"])
    _clear(out, there)


def _clear(out: Path, there: Sequence[Path]) -> None:
    """Make a folder, without what is there of older results."""
    try:
        for path in there:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(out, [f"cannot be written: {error.strerror}"]) from None


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as its name says, one of `TABLE_KINDS`, whole or not at all."""
    if path.suffix == ".parquet":
        write_whole(path, frame.to_parquet(index=False))
    else:
        write_whole(path, frame.to_csv(index=False))


def number(value: float, digits: int = 3) -> str:
    """A number for a table; nothing for a missing one."""
    return "" if pd.isna(value) else f"{value:,.{digits}f}"
