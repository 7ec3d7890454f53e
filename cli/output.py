"""Tables, progress and files: what every command prints in the same way."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from inframind.traces import ConfigError


@contextmanager
def progress(label: str, total: float) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr, with the time left; yields a function that takes how much is done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # A pipe has no width to fit into: let the table be as wide as it is.
    console = Console()
    Console(width=None if console.is_terminal else 200).print(table)


def print_json(value: object) -> None:
    """Machine-readable output."""
    print(json.dumps(value, indent=2))


def write_whole(path: Path, text: str | bytes) -> None:
    """Write a file whole or not at all.

    Raises
    ------
    ConfigError
        If it cannot be written there.
    """
    data = text.encode() if isinstance(text, str) else text
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ConfigError(path, [f"cannot be written: {error.strerror}"]) from None
    try:
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV, or as Parquet where the name says so, whole or not at all."""
    if path.suffix == ".parquet":
        write_whole(path, frame.to_parquet(index=False))
    else:
        write_whole(path, frame.to_csv(index=False))


def number(value: float, digits: int = 3) -> str:
    """A number for a table; nothing for a missing one."""
    return "" if pd.isna(value) else f"{value:,.{digits}f}"
