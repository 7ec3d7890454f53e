"""Errors that are the person's, not ours: a file of theirs that cannot be used as it is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class Mistakes(Exception):  # noqa: N818 - it says what it holds; the two below end in Error
    """Everything that is wrong with one file, reported at once.

    ``str()`` is meant for the person who wrote the file: a headline with the file and the number of
    problems, then one indented line for each. The command line prints it and exits with code 2.

    Parameters
    ----------
    source
        The file, as the person would name it.
    problems
        One line for each problem: place, rule and value.
    total
        How many problems there are, when ``problems`` holds only the first of them.
    """

    # Positional arguments only: Exception.__reduce__ rebuilds from self.args, so that the error can be
    # pickled by a worker process and raised again by SimPy.
    def __init__(self, source: str | Path, problems: Sequence[str], total: int | None = None) -> None:
        super().__init__(source, problems, total)
        self.source = source
        self.problems = tuple(problems)
        self.total = len(self.problems) if total is None else total

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.total} problem{'' if self.total == 1 else 's'}", *self.problems]
        unlisted = self.total - len(self.problems)
        if unlisted > 0:
            lines.append(f"... and {unlisted} more")
        return "\n  ".join(lines)


class ConfigError(Mistakes):
    """An experiment, pool or server file (TOML) is wrong."""


class TraceError(Mistakes):
    """A file of requests or measurements is wrong."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or nothing when none is near."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(wrong.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""
