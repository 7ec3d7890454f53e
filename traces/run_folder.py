"""A run folder: what one simulated or live run was given, what it ran on, and what came out.

================== ======================================================================
``config.toml``    the experiment as resolved
``versions.json``  Python, platform, package versions, git commit, seed
``calls.parquet``  `schema.CALLS`; likewise ``samples.parquet``, and ``workflows.parquet``
                   where the calls belong to workflows
``events.jsonl``   events and commands of the workflow controller, in order
``summary.csv``    `summary.SUMMARY`
================== ======================================================================

A live run has ``calls.jsonl`` and ``client.json`` beside, see `inframind.live`. Its folder grows with it: `begin_run`
makes it, `finish_run` adds the tables. It is never written over.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import tomli_w

from .mistakes import ConfigError, TraceError
from .same_config import check_same_config
from .schema import CALLS, SAMPLES, WORKFLOWS, to_table
from .summary import SUMMARY
from .whole import whole_folder, write_whole

_DISTRIBUTION = "inframind-router"
_MARKS = {"versions.json", "calls.parquet"}
"""A folder with these is a run folder."""
_MEMBERS = _MARKS | {
    "config.toml",
    "events.jsonl",
    "report.html",
    "samples.parquet",
    "summary.csv",
    "workflows.parquet",
}
"""All that a run folder may hold; anything else in it is a person's, and is never removed."""

_BEGUN = {"config.toml", "versions.json"}
"""What `begin_run` writes; servers that are started add their logs."""

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as its folder tells it."""

    name: str
    """Name of the folder."""
    config: Mapping[str, Any]
    """The experiment as resolved."""
    versions: Mapping[str, Any]
    """``python``, ``platform``, ``packages``, ``git_commit``, ``seed``."""
    calls: pd.DataFrame
    """Columns of `schema.CALLS`."""
    samples: pd.DataFrame
    """Columns of `schema.SAMPLES`."""
    summary: pd.DataFrame
    """Columns of `summary.SUMMARY`."""
    workflows: pd.DataFrame | None = None
    """Columns of `schema.WORKFLOWS`; None for a run of single calls."""
    events: Path | None = None
    """The log; None for a run of single calls. It is read where it is needed: it is as large as all else."""


def write_run(
    folder: str | Path,
    *,
    config: Mapping[str, Any],
    calls: pd.DataFrame,
    samples: pd.DataFrame,
    summary: pd.DataFrame,
    workflows: pd.DataFrame | None = None,
    events: Iterable[str] | None = None,
    seed: int | None = None,
) -> None:
    """Write a run whole or not at all, in place of an older run of that name.

    Parameters
    ----------
    folder
        Where; its parents are made.
    config
        The experiment as resolved. Keys whose value is None are left out: TOML has no null.
    calls
        Columns of `schema.CALLS`.
    samples
        Columns of `schema.SAMPLES`.
    summary
        What `summarise` returned.
    workflows
        Columns of `schema.WORKFLOWS`, if there were any.
    events
        Lines of the controller's log, without line ends, if there were workflows.
    seed
        What the random streams came from.

    Raises
    ------
    ConfigError
        If something stands there that is not a run folder, or holds more than a run does, or nothing
        can be written there.
    ValueError
        If a table does not fit its schema (a bug in what made it).
    """
    check_replaceable(folder)
    with whole_folder(folder) as new:
        (new / "config.toml").write_text(tomli_w.dumps(_without_none(config)), encoding="utf-8")
        (new / "versions.json").write_text(json.dumps(versions(seed), indent=2) + "\n", encoding="utf-8")
        _write_table(new / "calls.parquet", calls, CALLS)
        _write_table(new / "samples.parquet", samples, SAMPLES)
        if workflows is not None:
            _write_table(new / "workflows.parquet", workflows, WORKFLOWS)
        if events is not None:
            with (new / "events.jsonl").open("w", encoding="utf-8") as log:
                log.writelines(f"{line}\n" for line in events)
        summary[SUMMARY.names].to_csv(new / "summary.csv", index=False)


def begin_run(folder: str | Path, config: Mapping[str, Any], *, seed: int | None = None, resume: bool = False) -> None:
    """Make the folder of a run that is written while it goes on, or see that the one that is there can be gone on with.

    One in which nothing has happened yet is begun anew: its servers could not be started, or were not the right ones.

    Parameters
    ----------
    folder
        Where; its parents are made.
    config
        The experiment as resolved.
    seed
        What the random streams came from.
    resume
        Go on with the run in the folder.

    Raises
    ------
    ConfigError
        If there is something already, or, to be gone on with, nothing or a run of another config (with
        every key that differs); or nothing can be written there.
    """
    root = Path(folder)
    text = tomli_w.dumps(_without_none(config))
    if resume:
        try:
            before = _read_toml(root / "config.toml")
        except OSError:
            raise ConfigError(root, ["holds no run to go on with"]) from None
        check_same_config(root, before, tomllib.loads(text), "name another folder")
        return
    held = {member.name for member in root.iterdir()} if root.is_dir() else set()
    if held and not _BEGUN <= held <= _BEGUN | {"logs"}:
        told = "holds a run; --resume goes on with it, or" if "config.toml" in held else "is there, and no run;"
        raise ConfigError(folder, [f"{told} name another folder"])
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(folder, [f"cannot be written: {error.strerror}"]) from None
    write_whole(root / "versions.json", json.dumps(versions(seed), indent=2) + "\n")
    write_whole(root / "config.toml", text)


def finish_run(
    folder: str | Path,
    *,
    calls: pd.DataFrame,
    samples: pd.DataFrame,
    summary: pd.DataFrame,
    workflows: pd.DataFrame,
) -> None:
    """Write the tables of a run into the folder that `begin_run` made, each whole or not at all.

    Raises
    ------
    ValueError
        If a table does not fit its schema (a bug in what made it).
    """
    root = Path(folder)
    tables = {"calls": (calls, CALLS), "samples": (samples, SAMPLES), "workflows": (workflows, WORKFLOWS)}
    with tempfile.TemporaryDirectory(prefix=".tables.", dir=root) as holder:
        for name, (frame, schema) in tables.items():
            _write_table(Path(holder, f"{name}.parquet"), frame, schema)
        summary[SUMMARY.names].to_csv(Path(holder, "summary.csv"), index=False)
        for file in sorted(Path(holder).iterdir()):
            file.replace(root / file.name)


def read_run(folder: str | Path) -> Run:
    """Read a run folder.

    Raises
    ------
    TraceError
        With every file of it that is missing or broken.
    """
    root = Path(folder)
    if not root.is_dir():
        raise TraceError(folder, ["no such folder"])
    problems: list[str] = []
    config = _read(root / "config.toml", _read_toml, problems)
    about = _read(root / "versions.json", _read_json, problems)
    calls = _read(root / "calls.parquet", _table_reader(CALLS), problems)
    samples = _read(root / "samples.parquet", _table_reader(SAMPLES), problems)
    summary = _read(root / "summary.csv", _read_summary, problems)
    workflows = None
    if (root / "workflows.parquet").exists():
        workflows = _read(root / "workflows.parquet", _table_reader(WORKFLOWS), problems)
    if config is None or about is None or calls is None or samples is None or summary is None or problems:
        raise TraceError(folder, problems)
    events = root / "events.jsonl"
    return Run(
        root.resolve().name, config, about, calls, samples, summary, workflows, events if events.exists() else None
    )


def versions(seed: int | None = None) -> dict[str, Any]:
    """Return what a run needs to be repeated, as it stands in ``versions.json``."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _packages(),
        "git_commit": _git_commit(Path(__file__)),
        "seed": seed,
    }


def _packages() -> dict[str, str]:
    """Return the installed versions of this distribution and of what it requires."""
    found = {}
    for name in (_DISTRIBUTION, *_required_by(_DISTRIBUTION)):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _required_by(distribution: str) -> list[str]:
    try:
        requirements = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in requirements if "extra ==" not in line]


def _git_commit(source: Path) -> str | None:
    """Return the commit that ``source`` is of, ``-dirty`` if the checkout was changed, None outside of git.

    Only a tracked file counts: an installed package may well lie within a repository that is another project.
    """
    git = ["git", "--no-optional-locks", "-C", str(source.parent)]
    commands = (
        ["ls-files", "--error-unmatch", source.name],
        ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
    )
    output = ""
    for command in commands:
        try:
            done = subprocess.run([*git, *command], capture_output=True, text=True, check=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
        output = done.stdout.strip()
    return output or None


def find_runs(folder: str | Path) -> list[Path]:
    """Return the run folders that are there: this one, or those in it."""
    marks = (mark for pattern in ("versions.json", "*/versions.json") for mark in sorted(Path(folder).glob(pattern)))
    return [mark.parent for mark in marks]


def check_replaceable(folder: str | Path) -> None:
    """Make sure that a folder is a run's and holds nothing else, or is empty or not there.

    Raises
    ------
    ConfigError
        If not.
    """
    target = Path(folder)
    if not target.exists():
        return
    if not target.is_dir():
        raise ConfigError(folder, ["is a file; a run needs a folder"])
    held = {member.name for member in target.iterdir()}
    if held and not held >= _MARKS:
        raise ConfigError(folder, ["is not empty and not a run folder; name another, or remove it first"])
    if others := sorted(held - _MEMBERS):
        raise ConfigError(
            folder, [f"{name}: no part of a run; move it away to overwrite this folder" for name in others]
        )


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value


def _write_table(path: Path, frame: pd.DataFrame, schema: pa.Schema) -> None:
    pa.parquet.write_table(to_table(frame, schema).replace_schema_metadata(), path)


def _read(path: Path, reader: Callable[[Path], Content], problems: list[str]) -> Content | None:
    try:
        return reader(path)
    except FileNotFoundError:
        problems.append(f"{path.name}: no such file")
    except (OSError, ValueError) as error:  # ValueError: all that TOML, JSON, CSV and Arrow say of a broken file
        problems.append(f"{path.name}: cannot be read: {error}")
    return None


def _read_toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("must be a JSON object")
    return content


def _table_reader(schema: pa.Schema) -> Callable[[Path], pd.DataFrame]:
    def read(path: Path) -> pd.DataFrame:
        table = pa.parquet.read_table(path)
        _check_columns(table.column_names, schema)
        frame: pd.DataFrame = table.select(schema.names).cast(schema).to_pandas(ignore_metadata=True)
        return frame

    return read


def _read_summary(path: Path) -> pd.DataFrame:
    text = dict.fromkeys(("server", "model"), "str")
    # A server may be called NA: only an empty cell is null.
    frame = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])
    _check_columns(frame.columns, SUMMARY)
    summary: pd.DataFrame = to_table(frame[SUMMARY.names], SUMMARY).to_pandas(ignore_metadata=True)
    return summary


def _check_columns(names: Any, schema: pa.Schema) -> None:
    if missing := [name for name in schema.names if name not in names]:
        raise ValueError(f"columns missing: {', '.join(missing)}")
