"""Read the requests of a trace: public formats, and the plain table that InfraMind itself writes.

=============== ========= ==================================================================================
format          container source
=============== ========= ==================================================================================
azure           CSV       Azure/AzurePublicDataset, AzureLLMInferenceTrace (Splitwise, ISCA'24; CC-BY-4.0)
mooncake        JSONL     kvcache-ai/Mooncake, FAST25-release (Apache-2.0)
burstgpt        CSV       HPMLL/BurstGPT (CC-BY-4.0)
llmservingsim   JSONL     casys-kaist/LLMServingSim, bench/examples (MIT): real vLLM runs with timestamps
calls           Parquet   ``calls.parquet`` of a run folder, or the folder
csv, parquet    either    ``arrival_s, prompt_tokens, output_tokens``, and what `schema.REQUESTS` allows
=============== ========= ==================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from .cells import Cells, Floats
from .containers import Container, open_cells
from .mistakes import TraceError
from .schema import REQUESTS

Format = Literal["auto", "azure", "mooncake", "burstgpt", "llmservingsim", "calls", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)

MOONCAKE_BLOCK_TOKENS = 512
"""Prompt tokens that one entry of ``prefix_hashes`` stands for; the last entry may stand for fewer."""


@dataclass(frozen=True, slots=True)
class RequestLog:
    """What a file of requests holds."""

    requests: pd.DataFrame
    """As `read_requests` returns them."""
    places: NDArray[np.int64]
    """Where each of them stands in the file, from 1."""
    unit: str
    """What the places count: ``"line"`` (CSV, JSON lines) or ``"row"`` (Parquet)."""
    failed: pd.DataFrame
    """The failed requests, which were dropped: the same columns, as they stand in the file."""
    columns: tuple[str, ...]
    """All columns of the file."""


def read_requests(path: str | Path, *, fmt: Format = "auto", max_model_len: int | None = None) -> pd.DataFrame:
    """Read a trace of requests.

    Arrivals never go back in time: a trace must be in their order, a log of what was served (with ``ttft_s``) is put
    into it. Those of a plain table stay as they are; of the other formats they count from the first request. Every
    request has at least one prompt token and one output token: a request that generated nothing cannot be served. The
    public Azure and Mooncake files hold none such; BurstGPT and logs mark failed requests so, and these are dropped,
    their number in ``frame.attrs["num_failed_dropped"]``. So are the calls of a run folder that failed before their
    first token.

    Parameters
    ----------
    path
        The file, which may be compressed (``.gz``); or a run folder, whose calls are read.
    fmt
        Its format; ``"auto"`` finds it out from the names of the columns.
    max_model_len
        vLLM's limit: a prompt must be shorter, to leave room for one output token.

    Returns
    -------
    A frame with index 0..n-1 and the columns of `schema.REQUESTS` that the file has, typed so, then all
    other columns of the file as they are. Mooncake's ``hash_ids`` become ``prefix_hashes`` (tuples), BurstGPT's
    ``Model`` becomes ``source_model``.

    Raises
    ------
    TraceError
        With the first 20 mistakes of the file, and how many more there are.
    ValueError
        If ``fmt`` is not a `Format`.
    """
    log = read_log(path, fmt=fmt, max_model_len=max_model_len)
    log.requests.attrs["num_failed_dropped"] = len(log.failed)
    return log.requests


def read_log(path: str | Path, *, fmt: Format = "auto", max_model_len: int | None = None) -> RequestLog:
    """Read what `read_requests` reads, and keep what it does not tell; arguments and errors are the same."""
    if fmt not in FORMATS:
        raise ValueError(f"fmt ({fmt!r}) must be one of {', '.join(FORMATS)}")
    if Path(path).is_dir():
        path = Path(path, "calls.parquet")
    container, cells = open_cells(Path(path), None if fmt == "auto" else _LAYOUTS[fmt].container)
    layout = _LAYOUTS[_detect(cells, container) if fmt == "auto" else fmt]

    prompt_tokens = cells.number(layout.prompt_tokens, at_least=1, whole=True)
    if max_model_len is not None:
        too_long = prompt_tokens >= max_model_len
        cells.reject(layout.prompt_tokens, too_long, f"must be less than max_model_len ({max_model_len})")
    is_log = layout.is_plain and _is_log(cells)
    output_tokens = cells.number(
        layout.output_tokens,
        at_least=0 if layout.zero_output_failed or is_log else 1,
        whole=True,
        empty=0 if is_log else None,
    )
    columns = {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
    # A format's own reading comes last: it wins over a column that happens to have a name of ours.
    columns |= _optional_columns(cells, prompt_tokens) | layout.other_columns(cells)
    cells.finish()

    extras = cells.extras()
    extras = extras[[name for name in extras if name not in columns]]
    if container == "csv":
        extras = extras.apply(_typed)
    frame = pd.DataFrame(columns, index=cells.frame.index).join(extras)
    served = frame["output_tokens"] > 0
    if not served.any():
        raise TraceError(path, ["has only failed requests"])
    # Only logs of what was served may be out of order (_is_log, _llmservingsim, _calls): others are checked.
    requests = frame[served].sort_values("arrival_s", kind="stable")
    return RequestLog(
        requests=_canonical(requests.reset_index(drop=True), layout),
        places=cells.numbers[requests.index],
        unit=cells.unit,
        failed=frame[~served].reset_index(drop=True),
        columns=tuple(map(str, cells.frame)),
    )


def _canonical(frame: pd.DataFrame, layout: _Layout) -> pd.DataFrame:
    """Give checked columns the order, types and origin of time that `read_requests` promises."""
    if not layout.keeps_origin:
        frame["arrival_s"] -= frame["arrival_s"].iloc[0]
    known = [name for name in REQUESTS.names if name in frame]
    whole = [name for name in known if pa.types.is_integer(REQUESTS.field(name).type)]
    others = [name for name in frame if name not in known]
    return frame[known + others].astype(dict.fromkeys(whole, np.int64))


def _typed(column: pd.Series[Any]) -> pd.Series[Any]:
    """Turn a CSV column of text into numbers if all of it is numbers."""
    text = pa.array(column, type=pa.string(), from_pandas=True)
    for type_ in (pa.int64(), pa.float64()):
        try:
            return pd.Series(text.cast(type_).to_pandas(), index=column.index)
        except pa.ArrowInvalid:
            continue
    return column


def _detect(cells: Cells, container: Container) -> Format:
    if container == "parquet" and {"call_id", "outcome"} <= set(cells.frame):
        return "calls"
    for name, layout in _LAYOUTS.items():
        if layout.container == container and {layout.prompt_tokens, layout.output_tokens} & set(cells.frame):
            return name
    if container != "jsonl":
        return container  # the plain table: its missing columns will be named
    known = [name for name, layout in _LAYOUTS.items() if layout.container == container]
    keys = ", ".join(map(str, cells.frame))
    raise TraceError(cells.source, [f"fits no known format ({', '.join(known)}); its keys: {keys}"])


def _optional_columns(cells: Cells, prompt_tokens: Floats) -> dict[str, Any]:
    """Read those optional columns of `schema.REQUESTS` that the file has; any format may carry them."""
    columns: dict[str, Any] = {}
    for name in ("model", "prefix_group"):
        if name in cells:
            columns[name] = cells.text(name)
    for name in ("priority", "prefix_tokens", "closed_loop"):
        if name in cells:
            columns[name] = cells.number(name, whole=True, empty=0)
    for name in ("budget_s", "ttft_s", "e2e_s"):
        if name in cells:
            columns[name] = cells.number(name, at_least=0, empty=math.nan)
    if "budget_s" in columns:
        cells.reject("budget_s", columns["budget_s"] == 0, "must be greater than 0")
    for name in ("prefix_tokens", "closed_loop"):
        if name in columns:
            cells.reject(name, columns[name] < 0, "must be at least 0")
    if "prefix_tokens" in columns:
        too_long = columns["prefix_tokens"] > prompt_tokens
        cells.reject("prefix_tokens", too_long, "must be at most prompt_tokens")
    if {"ttft_s", "e2e_s"} <= set(columns):
        cells.reject("e2e_s", columns["e2e_s"] < columns["ttft_s"], "must be at least ttft_s")
    return columns


def _is_log(cells: Cells) -> bool:
    """Whether a plain table says what became of the requests: clients write a row when a request has ended."""
    return "arrival_s" in cells and "ttft_s" in cells


def _plain(cells: Cells) -> dict[str, Any]:
    arrival_s = cells.number("arrival_s", at_least=0)
    return {"arrival_s": arrival_s if _is_log(cells) else cells.forward("arrival_s", arrival_s)}


def _calls(cells: Cells) -> dict[str, Any]:
    """Rows are in the order in which the calls were submitted; on their way to several servers they overtake."""
    return {"arrival_s": cells.number("arrival_s", at_least=0)}


def _azure(cells: Cells) -> dict[str, Any]:
    return {"arrival_s": cells.forward("TIMESTAMP", cells.moment("TIMESTAMP"))}


def _mooncake(cells: Cells) -> dict[str, Any]:
    """``timestamp`` is in milliseconds; the conversation trace has it in steps of 3 s."""
    arrival_ms = cells.forward("timestamp", cells.number("timestamp", at_least=0))
    columns: dict[str, Any] = {"arrival_s": arrival_ms / 1000}
    if "hash_ids" in cells:
        columns["prefix_hashes"] = cells.tuples("hash_ids")
    return columns


def _burstgpt(cells: Cells) -> dict[str, Any]:
    arrival_s = cells.forward("Timestamp", cells.number("Timestamp", at_least=0))
    return {"arrival_s": arrival_s} | ({"source_model": cells.text("Model")} if "Model" in cells else {})


def _llmservingsim(cells: Cells) -> dict[str, Any]:
    """Times come from the engine's clock: a request arrives when the engine queues it.

    ``arrival_time`` is the client's wall clock, another one, and is kept as it is. The engine takes new
    requests in between two steps, so ``queued_ts`` is up to one step later than the client sent. With several
    engines (data parallel) the file is in the order of sending, not of queueing; the rows are put in order.
    """
    queued, first, last = (cells.number(name) for name in ("queued_ts", "first_token_ts", "last_token_ts"))
    cells.reject("first_token_ts", first < queued, "must not be before queued_ts")
    cells.reject("last_token_ts", last < first, "must not be before first_token_ts")
    originals = {"queued_ts": queued, "first_token_ts": first, "last_token_ts": last}
    return {"arrival_s": queued, "ttft_s": first - queued, "e2e_s": last - queued} | originals


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a format is stored, what it calls the lengths, and what reads its other columns."""

    container: Container
    prompt_tokens: str
    output_tokens: str
    other_columns: Callable[[Cells], dict[str, Any]]
    keeps_origin: bool = False
    is_plain: bool = False
    zero_output_failed: bool = False


_LAYOUTS: dict[Format, _Layout] = {
    "azure": _Layout("csv", "ContextTokens", "GeneratedTokens", _azure),
    "mooncake": _Layout("jsonl", "input_length", "output_length", _mooncake),
    "burstgpt": _Layout("csv", "Request tokens", "Response tokens", _burstgpt, zero_output_failed=True),
    "llmservingsim": _Layout("jsonl", "input_toks", "output_toks", _llmservingsim),
    "csv": _Layout("csv", "prompt_tokens", "output_tokens", _plain, keeps_origin=True, is_plain=True),
    "parquet": _Layout("parquet", "prompt_tokens", "output_tokens", _plain, keeps_origin=True, is_plain=True),
    "calls": _Layout("parquet", "prompt_tokens", "output_tokens", _calls, keeps_origin=True, zero_output_failed=True),
}
