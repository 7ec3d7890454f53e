"""What happened to each call, in compact columns: a million calls take some 150 MB."""

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
        self._counts: dict[str, list[NDArray[np.int64]]] = {
            name: [] for name in ("prompt_tokens", "output_tokens", "priority", "num_preemptions", "num_cached_tokens")
        }
        self._ticks: dict[str, list[NDArray[np.float64]]] = {
            name: [] for name in ("arrival_s", "scheduled_s", "first_token_s", "finish_s")
        }

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
        counts = {name: np.concatenate(chunks)[rows] for name, chunks in self._counts.items()}
        times = {name: np.concatenate(chunks)[rows] / TICKS_PER_S for name, chunks in self._ticks.items()}
        server, server_names = _coded(self._texts["server"], rows)
        outcome, outcome_names = _coded(self._texts["outcome"], rows)
        is_finished = np.array([name == FINISHED for name in outcome_names], dtype=np.bool_)[outcome]
        columns = {
            **counts,
            **times,
            "call_id": pd.array(self._texts["call_id"], dtype="str")[rows],
            "server": pd.array(server_names, dtype="str").take(server),
            "model": pd.array([self._models[name] for name in server_names], dtype="str").take(server),
            "outcome": pd.array(outcome_names, dtype="str").take(outcome),
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
        texts = self._texts
        texts["call_id"] += [r.request_id for r in ended]
        texts["server"] += [r.server_name for r in ended]
        texts["outcome"] += [r.outcome or "" for r in ended]
        counts = {
            "prompt_tokens": [r.prompt_tokens for r in ended],
            "output_tokens": [r.num_output_tokens for r in ended],
            "priority": [r.priority for r in ended],
            "num_preemptions": [r.num_preemptions for r in ended],
            "num_cached_tokens": [r.num_cached_tokens for r in ended],
        }
        ticks = {
            "arrival_s": [r.arrival for r in ended],
            "scheduled_s": [r.scheduled_at for r in ended],
            "first_token_s": [r.first_token_at for r in ended],
            "finish_s": [r.finished_at for r in ended],
        }
        for name, values in counts.items():
            self._counts[name].append(np.array(values, dtype=np.int64))
        for name, moments in ticks.items():
            # What never happened is None here and NaN there.
            self._ticks[name].append(np.array(moments, dtype=np.float64))
        ended.clear()


def _coded(texts: list[str], rows: slice | NDArray[np.intp]) -> tuple[NDArray[np.intp], list[str]]:
    """Some rows of a column in which few values occur often: the numbers of their values, and the values."""
    number = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    return np.array([number[text] for text in texts], dtype=np.intp)[rows], list(number)


def _per_token(
    times: Mapping[str, NDArray[np.float64]], output_tokens: NDArray[np.int64], is_finished: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Mean time for each token after the first, NaN where there is none."""
    decodes = output_tokens - 1
    span = times["finish_s"] - times["first_token_s"]
    return np.where(is_finished & (decodes > 0), span / np.maximum(decodes, 1), np.nan)
