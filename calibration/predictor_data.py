"""What the latency predictors learn from: calls, with the gauges of their servers as an observer saw them at arrival.

Sources of gauges, the best that a log has:

``reckoned``     the last poll before the arrival, brought up to date with the log's own calls that were sent to the
                 server or have ended since, as `inframind.workflows.observe` does it
``polled``       the last poll as it was, for routers without dead reckoning
``engine log``   no polls, but times of scheduling: the exact state just before the arrival
``in flight``    neither: all unfinished calls count as running, none as waiting
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import pyarrow.parquet
from numpy.typing import NDArray

from inframind.traces import ConfigError, TraceError, check_commas, read_log

Floats: TypeAlias = NDArray[np.float64]
Gauges = Literal["polled", "reckoned"]

NO_STRATEGY = "none"
"""The strategy of calls that have none."""
ROLES = ("train", "train", "train", "validation", "test")
"""Of five blocks that follow each other in time, in an order drawn for each five."""
BLOCKS = 10
"""Of a log; each has as many calls."""
MIN_CALLS = {"train": 30, "validation": 10}
"""Usable calls of two tokens or more without which a model cannot be learned."""
NEEDED = (
    *("server", "model", "arrival_s", "prompt_tokens", "output_tokens", "outcome"),
    *("scheduled_s", "finish_s", "ttft_s", "tpot_s", "e2e_s"),
)
"""Columns of ``traces.CALLS`` without which nothing can be learned."""
POLLED = ("time_s", "server", "running", "waiting")
"""Columns of ``traces.SAMPLES`` that are needed."""
COLUMNS = (
    *("log", "model", "server", "strategy", "arrival_s", "prompt_tokens", "output_tokens"),
    *("running", "waiting", "gauge_age_s", "ttft_s", "tpot_s", "e2e_s", "embedding", "part"),
)
"""Of `ObservedCalls.frame`. ``gauge_age_s``: how old the poll was, NaN without polls; ``embedding``: row of the query's
embedding, -1 where there is none; ``part``: one of ``train``, ``validation``, ``test``."""


@dataclass(frozen=True, slots=True)
class ObservedCalls:
    """The calls of one log that can be learned from."""

    name: str
    frame: pd.DataFrame
    """One row for each, in order of arrival; `COLUMNS`."""
    gauges: str
    """Where ``running`` and ``waiting`` are from."""
    num_unusable: int
    """Calls left out: failed, not finished, or before the first poll of their server."""


def read_observed(source: str, gauges: Gauges = "reckoned", seed: int = 0) -> ObservedCalls:
    """Read a run folder or a request log.

    Parameters
    ----------
    source
        A run folder (``calls.parquet``, ``samples.parquet``), a request log in a format of ``traces.read_requests``
        with ``ttft_s`` and ``e2e_s``, or the folder of one called ``requests.csv``. Gauges that were polled stand
        beside a log in ``samples.csv`` (`POLLED`). ``MODEL=PATH`` names the model of a log without a column ``model``.
        Optional columns of all: ``strategy``, and ``embedding``, the row of the call's query in a table of query
        embeddings (a workflow's is in the run's ``events.jsonl``); of a request log: ``server`` (default: the one
        that was polled, or the model) and ``scheduled_s``.
    gauges
        What to make of polls, where there are any.
    seed
        Of the split into train, validation and test.

    Raises
    ------
    TraceError, ConfigError
        If a file is missing, broken, or lacks what is needed.
    """
    model, path = _named(source)
    has_run = (path / "calls.parquet").exists()
    calls, samples, limits, num_dropped = _read_run(path) if has_run else _read_log(path, model)
    usable = (calls["outcome"] == "finished") & (calls["ttft_s"] > 0) & (calls["e2e_s"] > 0)
    if samples is not None:
        seen = polled(calls, samples) if gauges == "polled" else reckoned(calls, samples, limits)
        kind: str = gauges
    else:
        seen = reconstructed(calls)
        kind = "engine log" if calls["scheduled_s"].notna().any() else "in flight"
    usable &= seen["running"].notna()
    frame = pd.concat([calls, seen], axis=1)[usable].sort_values("arrival_s", kind="stable", ignore_index=True)
    frame["log"] = source
    frame["part"] = time_blocks(len(frame), seed)
    return ObservedCalls(source, frame[list(COLUMNS)], kind, int((~usable).sum()) + num_dropped)


def polled(calls: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """Gauges of each call's server at the last poll before it arrived.

    Parameters
    ----------
    calls
        ``server`` and ``arrival_s``.
    samples
        Columns of `POLLED`.

    Returns
    -------
    pandas.DataFrame
        ``running``, ``waiting`` and ``gauge_age_s`` in the rows of ``calls``; NaN where no poll came before.
    """
    asked = calls[["server", "arrival_s"]].reset_index().sort_values("arrival_s", kind="stable")
    polls = samples[list(POLLED)].astype({"time_s": np.float64}).sort_values("time_s", kind="stable")
    # Not at the very instant: a poll then may already count the call.
    found = pd.merge_asof(
        asked, polls, left_on="arrival_s", right_on="time_s", by="server", allow_exact_matches=False
    ).set_index("index")
    found["gauge_age_s"] = found["arrival_s"] - found["time_s"]
    return found[["running", "waiting", "gauge_age_s"]].astype(np.float64).reindex(calls.index)


def reckoned(calls: pd.DataFrame, samples: pd.DataFrame, max_num_seqs: Mapping[str, int] | None = None) -> pd.DataFrame:
    """What `polled` gives, brought up to date by dead reckoning.

    Mirrors ``Observation.running_now`` and ``waiting_now`` (`inframind.workflows.observation`): requests as polled and
    own calls since, of which so many run as were seen to run while others waited, or else up to the limit.

    Parameters
    ----------
    calls
        All calls of the log: ``server``, ``arrival_s``, ``finish_s`` (NaN: never).
    samples
        Columns of `POLLED`.
    max_num_seqs
        vLLM's limit, by server; for one that is not named, the most requests that were ever seen to run.

    Returns
    -------
    pandas.DataFrame
        As of `polled`.
    """
    result = polled(calls, samples)
    limits = {**samples.groupby("server")["running"].max(), **(max_num_seqs or {})}
    for server, rows in calls.groupby("server", sort=False).groups.items():
        seen = result.loc[rows]
        now = calls.loc[rows, "arrival_s"].to_numpy()
        poll = now - seen["gauge_age_s"].to_numpy()
        ends = calls.loc[rows, "finish_s"].fillna(np.inf).to_numpy()
        in_flight = _before(now, now) - _before(ends, now)
        since_poll = in_flight - (_before(now, poll) - _before(ends, poll))
        outstanding = np.maximum(seen["waiting"] + seen["running"] + since_poll, in_flight)
        can_run = np.where(seen["waiting"] > 0, seen["running"], limits.get(server, 0))
        # NaN, where there was no poll, stays NaN.
        result.loc[rows, "running"] = np.minimum(outstanding, can_run) + 0 * seen["running"]
        result.loc[rows, "waiting"] = outstanding - result.loc[rows, "running"]
    return result


def reconstructed(calls: pd.DataFrame) -> pd.DataFrame:
    """State of each call's server just before it arrived, from the calls' own times.

    Where no call of the log has ``scheduled_s``, all that are in flight count as running. A preempted call, which goes
    back to waiting, counts as running too: a log does not say when.

    Parameters
    ----------
    calls
        All calls of the servers: ``server``, ``arrival_s``, ``scheduled_s``, ``finish_s`` (NaN: never).

    Returns
    -------
    pandas.DataFrame
        As of `polled`; ``gauge_age_s`` is NaN.
    """
    has_schedule = bool(calls["scheduled_s"].notna().any())
    result = pd.DataFrame(np.nan, index=calls.index, columns=["running", "waiting", "gauge_age_s"])
    for _, rows in calls.groupby("server", sort=False).groups.items():
        arrival = calls.loc[rows, "arrival_s"].to_numpy()
        end = calls.loc[rows, "finish_s"].fillna(np.inf).to_numpy()
        # One that was never scheduled leaves the queue when it ends.
        start = np.where(calls.loc[rows, "scheduled_s"].isna(), end, calls.loc[rows, "scheduled_s"])
        if not has_schedule:
            start = arrival
        result.loc[rows, "waiting"] = _before(arrival, arrival) - _before(start, arrival)
        result.loc[rows, "running"] = _before(start, arrival) - _before(end, arrival)
    return result


def time_blocks(num: int, seed: int) -> NDArray[np.object_]:
    """Which part each of ``num`` calls, in order of arrival, belongs to.

    Whole stretches of time are held out, not single calls: a call and the next one see nearly the same queue, and a
    model that has learned one of them by heart would seem to predict the other.
    """
    rng = np.random.default_rng(seed)
    roles = np.concatenate([rng.permutation(np.array(ROLES, dtype=object)) for _ in range(BLOCKS // len(ROLES))])
    parts: NDArray[np.object_] = roles[np.arange(num) * BLOCKS // max(num, 1)]
    return parts


def load_embeddings(path: Path) -> NDArray[np.float32]:
    """Query embeddings from a safetensors file with one tensor, a row for each query.

    Raises
    ------
    ConfigError
        If it cannot be read, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(path, [f"cannot be read: {error}"]) from None
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if len(tensors) != 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ConfigError(path, [f"must hold one table, (queries, numbers in an embedding); holds {shapes}"])
    return next(iter(tensors.values())).astype(np.float32)


def _before(times: Floats, moments: Floats) -> NDArray[np.int64]:
    """How many of ``times`` lie before each moment."""
    return np.searchsorted(np.sort(times), moments, side="left").astype(np.int64)


def _named(source: str) -> tuple[str | None, Path]:
    model, equals, path = source.partition("=")
    if equals and not Path(source).exists():
        return model, Path(path)
    return None, Path(source)


_Log: TypeAlias = tuple[pd.DataFrame, pd.DataFrame | None, Mapping[str, int], int]
"""Calls, samples if there are any, ``max_num_seqs`` by server as far as it is known, and how many failed requests are
not among the calls."""


def _read_run(folder: Path) -> _Log:
    """Not by `traces.read_run`, which drops columns that are not in the schema."""
    problems: list[str] = []
    tables: dict[str, pd.DataFrame] = {}
    for name, needed in (("calls.parquet", NEEDED), ("samples.parquet", POLLED)):
        try:
            table = pyarrow.parquet.read_table(folder / name)
        except FileNotFoundError:
            problems.append(f"{name}: no such file")
        except (OSError, ValueError) as error:
            problems.append(f"{name}: cannot be read: {error}")
        else:
            tables[name] = table.to_pandas(ignore_metadata=True)
            problems += [f"{name}: column missing: {column}" for column in needed if column not in tables[name]]
    try:
        config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
        servers = config.get("pool", {}).get("servers", [])
        limits = {server["name"]: server["scheduler"]["max_num_seqs"] for server in servers}
    except (OSError, ValueError, KeyError) as error:
        problems.append(f"config.toml: cannot be read: {error}")
    calls = tables.get("calls.parquet")
    if calls is not None and "embedding" not in calls and (folder / "events.jsonl").exists():
        calls["embedding"] = calls["workflow_id"].map(_embedding_rows(folder / "events.jsonl", problems))
    if problems or calls is None:
        raise TraceError(folder, problems)
    return _with_options(calls), tables["samples.parquet"], limits, 0


def _embedding_rows(events: Path, problems: list[str]) -> dict[str, int | None]:
    """``Query.embedding`` of each workflow, which has its query's name, from the log of `inframind.workflows`."""
    rows = {}
    try:
        with events.open(encoding="utf-8") as lines:
            for line in lines:
                if '"kind":"Arrived"' in line:
                    query = json.loads(line)["query"]
                    rows[query["query_id"]] = query["embedding"]
    except (OSError, ValueError, KeyError) as error:
        problems.append(f"{events.name}: cannot be read: {error!r}")
    return rows


def _read_log(path: Path, model: str | None) -> _Log:
    log = path / "requests.csv" if path.is_dir() else path
    if path.is_dir() and not log.exists():
        raise TraceError(path, ["is neither a run folder (no calls.parquet) nor that of a log (no requests.csv)"])
    found = read_log(log)
    requests = found.requests
    problems = [f"{name}: missing column" for name in ("ttft_s", "e2e_s") if name not in requests]
    if "model" not in requests and model is None:
        problems.append(f"model: missing column; or name the model: MODEL={path}")
    if problems:
        raise TraceError(log, problems)
    calls = requests.assign(
        model=requests["model"] if model is None else model,
        outcome=np.where(requests["e2e_s"].notna() & requests["ttft_s"].notna(), "finished", "failed"),
        finish_s=requests["arrival_s"] + requests["e2e_s"],
        tpot_s=(requests["e2e_s"] - requests["ttft_s"]) / (requests["output_tokens"] - 1).where(lambda num: num > 0),
        scheduled_s=_scheduled_s(requests),
    )
    polls = log.with_name("samples.csv")
    samples = _read_samples(polls) if polls.exists() else None
    if "server" not in calls:
        calls["server"] = calls["model"]
        if samples is not None and samples["server"].nunique() == 1:
            calls["server"] = samples["server"].iloc[0]
    if samples is not None and (unknown := sorted(set(calls["server"]) - set(samples["server"]))):
        raise TraceError(polls, [f"server: no row for {name!r}, which {log.name} names" for name in unknown])
    return _with_options(calls), samples, {}, len(found.failed)


def _scheduled_s(requests: pd.DataFrame) -> pd.Series[float]:
    """``scheduled_s`` if the log has it; LLMServingSim's is by the engine's clock, as its ``queued_ts``."""
    if "scheduled_s" in requests:
        return pd.to_numeric(requests["scheduled_s"], errors="coerce")
    if {"scheduled_ts", "queued_ts"} <= set(requests):
        return requests["arrival_s"] + (requests["scheduled_ts"] - requests["queued_ts"])
    return pd.Series(np.nan, index=requests.index)


def _read_samples(path: Path) -> pd.DataFrame:
    try:
        check_commas(path)
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
        if missing := [name for name in POLLED if name not in frame]:
            raise TraceError(path, [f"{name}: missing column" for name in missing])
        return frame[list(POLLED)].astype(dict.fromkeys(("time_s", "running", "waiting"), np.float64)).dropna()
    except (OSError, ValueError) as error:
        raise TraceError(path, [f"cannot be read: {error}"]) from None


def _with_options(calls: pd.DataFrame) -> pd.DataFrame:
    """Fill the columns that a log may lack."""
    strategy: Any = calls["strategy"].fillna(NO_STRATEGY) if "strategy" in calls else NO_STRATEGY
    embedding: Any = calls["embedding"].fillna(-1).astype(np.int64) if "embedding" in calls else -1
    return calls.assign(strategy=strategy, embedding=embedding).reset_index(drop=True)
