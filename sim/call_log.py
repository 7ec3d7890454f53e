"""What happened to each call, in compact columns: a million calls take some 150 MB."""

from array import array
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inframind.traces import CALLS

from .clock import TICKS_PER_S
from .request import Request
from .server import FINISHED

CHUNK = 1000
"""Ended requests that are kept as objects before they go into columns: few, or they burden the garbage collector."""

_NEVER = float("nan")


class CallLog:
    """Takes ended requests in, gives a table out.

    Parameters
    ----------
    models
        The model of each server, by name.
    """

    def __init__(self, models: Mapping[str, str]) -> None:
        self._models = models
        self._ended: list[Request] = []
        self._texts: dict[str, list[str]] = {name: [] for name in ("call_id", "server", "outcome")}
        self._counts = {
            name: array("q")
            for name in ("prompt_tokens", "output_tokens", "priority", "num_preemptions", "num_cached_tokens")
        }
        self._ticks = {name: array("d") for name in ("arrival_s", "scheduled_s", "first_token_s", "finish_s")}

    def __len__(self) -> int:
        return len(self._texts["call_id"]) + len(self._ended)

    def record(self, request: Request) -> None:
        """Note a request that has just ended."""
        self._ended.append(request)
        if len(self._ended) == CHUNK:
            self._store()

    def frame(self, order: NDArray[np.intp] | None = None) -> pd.DataFrame:
        """One row for each call in the columns of ``traces.CALLS``, in the order of their ends or in that given."""
        self._store()
        rows = slice(None) if order is None else order
        counts = {name: np.array(values, dtype=np.int64)[rows] for name, values in self._counts.items()}
        times = {name: np.array(values, dtype=np.float64)[rows] / TICKS_PER_S for name, values in self._ticks.items()}
        server = pd.Series(self._texts["server"], dtype="category").iloc[rows]
        outcome = pd.Series(self._texts["outcome"], dtype="category").iloc[rows]
        is_finished = (outcome == FINISHED).to_numpy(dtype=bool)
        columns = {
            **counts,
            **times,
            "call_id": pd.Series(self._texts["call_id"], dtype="str").array[rows],
            "server": server.astype("str").array,
            "model": server.map(self._models).astype("str").array,
            "outcome": outcome.astype("str").array,
            "num_preemptions": counts["num_preemptions"].astype(np.int32),
            "ttft_s": times["first_token_s"] - times["arrival_s"],
            "tpot_s": _per_token(times, counts["output_tokens"], is_finished),
            "e2e_s": np.where(is_finished, times["finish_s"] - times["arrival_s"], np.nan),
            "workflow_id": None,
            "slot": None,
            "role": None,
            "strategy": None,
            "budget_s": np.nan,
            "deadline_s": np.nan,
        }
        return pd.DataFrame({name: columns[name] for name in CALLS.names}, index=pd.RangeIndex(len(server)))

    def call_ids(self) -> list[str]:
        """In the order of their ends."""
        self._store()
        return self._texts["call_id"]

    def _store(self) -> None:
        ended = self._ended
        texts, counts, ticks = self._texts, self._counts, self._ticks
        texts["call_id"] += [r.request_id for r in ended]
        texts["server"] += [r.server_name for r in ended]
        texts["outcome"] += [r.outcome or "" for r in ended]
        counts["prompt_tokens"].extend([r.prompt_tokens for r in ended])
        counts["output_tokens"].extend([r.num_output_tokens for r in ended])
        counts["priority"].extend([r.priority for r in ended])
        counts["num_preemptions"].extend([r.num_preemptions for r in ended])
        counts["num_cached_tokens"].extend([r.num_cached_tokens for r in ended])
        ticks["arrival_s"].extend([r.arrival for r in ended])
        ticks["scheduled_s"].extend([_NEVER if r.scheduled_at is None else r.scheduled_at for r in ended])
        ticks["first_token_s"].extend([_NEVER if r.first_token_at is None else r.first_token_at for r in ended])
        ticks["finish_s"].extend([_NEVER if r.finished_at is None else r.finished_at for r in ended])
        ended.clear()


def _per_token(
    times: Mapping[str, NDArray[np.float64]], output_tokens: NDArray[np.int64], is_finished: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Mean time for each token after the first, NaN where there is none."""
    decodes = output_tokens - 1
    span = times["finish_s"] - times["first_token_s"]
    return np.where(is_finished & (decodes > 0), span / np.maximum(decodes, 1), np.nan)
