"""What a run came to: key figures of each server, and of each tier of budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_LATENCIES = {"ttft": "time to first token", "tpot": "time per token after the first", "e2e": "end-to-end time"}
_Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal


def _count(name: str, description: str) -> pa.Field:
    return pa.field(name, pa.int64(), nullable=False, metadata={"description": description})


def _figure(name: str, description: str) -> pa.Field:
    return pa.field(name, pa.float64(), metadata={"description": description})


SUMMARY = pa.schema(
    [
        pa.field("server", pa.string(), nullable=False, metadata={"description": "the vLLM instance, or 'total'"}),
        pa.field("model", pa.string(), metadata={"description": "its model; null in the total"}),
        _count("requests", "calls that ended, whatever their outcome"),
        _count("finished", "calls that ended with their last token"),
        _count("failed", "all other calls"),
        *[
            _figure(f"{name}_{statistic}_s", f"{statistic} of the {meaning}, over finished calls")
            for name, meaning in _LATENCIES.items()
            for statistic in ("mean", *_QUANTILES)
        ],
        _figure("on_time", "share of the calls with a deadline that finished by it; a failed one is late"),
        _figure("requests_per_s", "finished calls in a second, from the run's first arrival to its last end"),
        _figure("output_tokens_per_s", "output tokens of finished calls in a second of the same time"),
        _figure("utilisation", "share of the run in which a step was running; the total is the mean of the servers"),
        _count("num_preemptions", "times that calls lost their KV blocks"),
        _figure("waiting_mean", "mean of the sampled waiting queue; the total is the sum of the servers"),
        _figure("running_mean", "mean of the sampled batch; the total is the sum of the servers"),
        _figure("kv_usage_max", "largest sampled share of KV blocks in use"),
    ]
)
"""Columns of `summarise`. A figure of nothing, such as the mean latency of no calls, is null."""


def summarise(
    calls: pd.DataFrame,
    samples: pd.DataFrame,
    *,
    servers: Mapping[str, str] | None = None,
    utilisation: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Return one row for each server, and as the last one the total.

    Parameters
    ----------
    calls
        Columns of `schema.CALLS`.
    samples
        Columns of `schema.SAMPLES`.
    servers
        Model of each server, by name: gives the order of the rows, and a row to a server that had
        neither calls nor samples. Others follow in their order of appearance.
    utilisation
        Share of the run in which each server was busy, by name, where known.

    Returns
    -------
    A frame with the columns of `SUMMARY`. Quantiles lie between two observations (linear interpolation).
    """
    models: dict[str, str | None] = dict(servers or {})
    models |= dict(zip(calls["server"], calls["model"], strict=True))
    models |= {name: None for name in samples["server"].unique() if name not in models}
    span_s = float(calls["finish_s"].max() - calls["arrival_s"].min()) if len(calls) else 0.0
    busy = utilisation or {}

    rows = [
        {"server": name, "model": model, "utilisation": busy.get(name)}
        | _of_calls(calls[calls["server"] == name], span_s)
        | _of_samples(samples[samples["server"] == name])
        for name, model in models.items()
    ]
    per_server = _frame(rows)
    total = {
        "server": "total",
        "model": None,
        "utilisation": per_server["utilisation"].mean(),
        "waiting_mean": per_server["waiting_mean"].sum(min_count=1),
        "running_mean": per_server["running_mean"].sum(min_count=1),
        "kv_usage_max": per_server["kv_usage_max"].max(),
    }
    return _frame([*rows, total | _of_calls(calls, span_s)])


def by_tier(calls: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each budget among the calls with a deadline, the tightest first.

    The columns: ``budget_s``, ``requests``, ``on_time`` (share, a failed call is late) with its 95 % Wilson interval
    ``on_time_low``, ``on_time_high``, and ``e2e_mean_s`` and ``e2e_p90_s`` over finished calls. The interval takes
    calls for independent. Those that queue together are not, so two runs with different seeds differ by more.
    """
    rows = []
    for budget_s, tier in calls[_has_deadline(calls)].groupby("budget_s"):
        num_on_time = int(is_on_time(tier).sum())
        low, high = wilson_interval(num_on_time, len(tier))
        e2e_s = finished(tier)["e2e_s"].astype("float64")
        rows.append(
            (budget_s, len(tier), num_on_time / len(tier), low, high, e2e_s.mean(), e2e_s.quantile(_QUANTILES["p90"]))
        )
    names = ["budget_s", "requests", "on_time", "on_time_low", "on_time_high", "e2e_mean_s", "e2e_p90_s"]
    return pd.DataFrame(rows, columns=names).astype(dict.fromkeys(names, "float64") | {"requests": "int64"})


def finished(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the calls that ended with their last token."""
    return calls[calls["outcome"] == "finished"]


def is_on_time(calls: pd.DataFrame) -> pd.Series[bool]:
    """Say of each call whether it finished by its deadline; without a deadline it did not."""
    return (calls["outcome"] == "finished") & (calls["finish_s"] <= calls["deadline_s"])


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927), which stays useful at 0 and at 1.

    Raises
    ------
    ValueError
        Unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or not trials:
        raise ValueError(f"successes ({successes}) must be between 0 and trials ({trials}), of which one is needed")
    share = successes / trials
    z2 = _Z_95**2 / trials
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    # Rounding must not put a share of exactly 0 or 1 outside its own interval.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def _has_deadline(calls: pd.DataFrame) -> pd.Series[bool]:
    return calls["budget_s"].notna() & calls["deadline_s"].notna()


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frame: pd.DataFrame = pa.Table.from_pylist(rows, schema=SUMMARY).to_pandas()
    return frame


def _of_calls(calls: pd.DataFrame, span_s: float) -> dict[str, Any]:
    done = finished(calls)
    num_dated = int(calls["deadline_s"].notna().sum())
    figures: dict[str, Any] = {
        "requests": len(calls),
        "finished": len(done),
        "failed": len(calls) - len(done),
        "on_time": float(is_on_time(calls).sum()) / num_dated if num_dated else None,
        "requests_per_s": len(done) / span_s if span_s > 0 else None,
        "output_tokens_per_s": float(done["output_tokens"].sum()) / span_s if span_s > 0 else None,
        "num_preemptions": int(calls["num_preemptions"].sum()),
    }
    for name in _LATENCIES:
        known = done[f"{name}_s"].dropna().to_numpy(dtype=np.float64)
        if len(known):
            quantiles = np.quantile(known, list(_QUANTILES.values()))
            figures[f"{name}_mean_s"] = known.mean()
            figures |= {f"{name}_{label}_s": value for label, value in zip(_QUANTILES, quantiles, strict=True)}
    return figures


def _of_samples(samples: pd.DataFrame) -> dict[str, Any]:
    if samples.empty:
        return {}
    return {
        "waiting_mean": samples["waiting"].mean(),
        "running_mean": samples["running"].mean(),
        "kv_usage_max": samples["kv_usage"].max(),
    }
