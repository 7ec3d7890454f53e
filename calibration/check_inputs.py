"""What a check reads: logs with measured times, and samples of the queues beside them."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from inframind.sim import ServerSection
from inframind.traces import SAMPLES, RequestLog, TraceError, read_log, wrong_separator

_MAX_SHOWN = 20
_LOGS_OF_FOLDERS = {"calls", "requests"}
"""``calls.parquet`` of a run folder, ``requests.csv`` of a profile: the folder has the name that says something."""
_QUEUES = ("time_s", "waiting", "running")


def read_logs(paths: Iterable[Path], server: ServerSection) -> dict[Path, RequestLog]:
    """Read logs that can be compared; a path that occurs again is read once.

    Raises
    ------
    TraceError
        A log cannot be read, has no measured times, or holds what the server could not have served.
    """
    return {path: _read_log(path, server) for path in dict.fromkeys(paths)}


def log_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the names of the files, or of their folders where each log has one; with both where two are alike."""
    stems = {path: Path(path.name.removesuffix(".gz")).stem for path in paths}
    names = {path: path.resolve().parent.name if stem in _LOGS_OF_FOLDERS else stem for path, stem in stems.items()}
    if len(set(names.values())) < len(paths):
        names = {path: f"{path.resolve().parent.name}/{stem}" for path, stem in stems.items()}
    return names


def samples_beside(path: Path, server: ServerSection, logs: Iterable[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Return the samples that lie beside a log, and what a reader must know of them."""
    nothing = pd.DataFrame(columns=SAMPLES.names)
    source = next(
        (each for each in (path.with_name("samples.csv"), path.with_name("samples.parquet")) if each.is_file()), None
    )
    if source is None:
        return nothing, []
    if any(other != path and other.parent == path.parent for other in logs):
        return nothing, [f"{source.name} lies beside more than one log, so its queues are not shown."]
    try:
        samples, notes = _read_samples(source)
    except (OSError, ValueError, KeyError) as error:
        return nothing, [f"{source.name} beside the log cannot be used, so its queues are not shown: {error}"]
    if "server" in samples and samples["server"].nunique() > 1:
        samples = samples[samples["server"] == server.name]
        if samples.empty:
            return nothing, [f"{source.name} has nothing on {server.name}, so its queues are not shown."]
    return samples.reindex(columns=SAMPLES.names), notes


def _read_samples(source: Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows that are whole: a crash may cut one off, and glue the next one to it."""
    if source.suffix == ".csv":
        with source.open(encoding="utf-8", errors="replace", newline="") as text:
            header, *rows = [row for row in csv.reader(text) if row] or [[]]
        if told := wrong_separator(header):
            raise ValueError(told)
        samples = pd.DataFrame([row for row in rows if len(row) == len(header)], columns=header)
        num_rows = len(rows)
    else:
        samples = pd.read_parquet(source)
        num_rows = len(samples)
    numbers = samples[list(_QUEUES)].apply(pd.to_numeric, errors="coerce").astype("float64")
    samples = samples.assign(**numbers)[numbers.notna().all(axis=1)]
    num_torn = num_rows - len(samples)
    return samples, [f"{num_torn:,} of {num_rows:,} rows of {source.name} are not whole and left out."] * (num_torn > 0)


def _read_log(path: Path, server: ServerSection) -> RequestLog:
    limit = server.scheduler.max_model_len
    log = read_log(path, max_model_len=limit)
    rows = log.requests
    measured = [name for name in ("ttft_s", "e2e_s") if name in rows and rows[name].notna().any()]
    if missing := [name for name in ("ttft_s", "e2e_s") if name not in measured]:
        found = ", ".join(map(str, rows.columns))
        raise TraceError(path, [f"{name}: no measured times to check against; columns: {found}" for name in missing])
    log = of_server(path, log, server.name)
    tokens = log.requests["prompt_tokens"] + log.requests["output_tokens"]
    too_long = log.requests.set_axis(log.places)[(tokens > limit).to_numpy()].sort_index()
    if len(too_long):
        problems = [
            f"{log.unit} {place}: prompt_tokens ({prompt}) + output_tokens ({output}) must be at most "
            f"max_model_len ({limit}) of {server.name}"
            for place, prompt, output in too_long[["prompt_tokens", "output_tokens"]].itertuples()
        ]
        raise TraceError(path, problems[:_MAX_SHOWN], len(problems))
    return log


def of_server(path: Path, log: RequestLog, server: str) -> RequestLog:
    """Return the log of one server and one model: rows of a pool's log are told apart by the server's name.

    Raises
    ------
    TraceError
        The log is of other servers, or of several models.
    """
    rows = log.requests
    if "server" in rows and (known := sorted(map(str, rows["server"].dropna().unique()))):
        if server not in known:
            raise TraceError(path, [f"server: holds {', '.join(known)}, and the server file is of {server!r}"])
        is_ours = (rows["server"] == server).to_numpy()
        rows = rows[is_ours].reset_index(drop=True)
        log = replace(log, requests=rows, places=log.places[is_ours])
    if "server" in rows:
        log = replace(log, failed=log.failed[log.failed["server"].isin(rows["server"])])
    if "model" in rows and rows["model"].nunique() > 1:
        known = sorted(map(str, rows["model"].dropna().unique()))
        raise TraceError(path, [f"model: one server serves one model, the log has {', '.join(known)}"])
    return log
