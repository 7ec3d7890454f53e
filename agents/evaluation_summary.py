"""What the runs of an evaluation come to: figures of each run and tier, and their means and intervals over seeds.

Intervals are of the mean over seeds, by Student's t with one degree of freedom less than seeds: the seeds are the
independent repetitions; the queries of one run, which queue together, are not. Fewer than `MIN_SEEDS` have no interval.
An interval of a share is not cut at 0 and 1.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from .evaluation import CellResult

KEYS = ("policy", "scheduler", "rate_per_min", "tier")
ALL_TIERS = "all"
MIN_SEEDS = 3
"""From so many on there is an interval: two may agree to the last query by chance, and nothing says more than that."""
OF_WORKFLOWS = {
    "accuracy": "share of the queries with a right answer, in time or late",
    "on_time": "share answered within their budget, rightly or wrongly",
    "goodput": "share answered rightly and within their budget",
    "latency_mean_s": "from arrival to answer, decision node included; of answered queries, as the three below",
    "latency_p50_s": "median of it",
    "latency_p95_s": "95th percentile",
    "latency_p99_s": "99th percentile",
    "path_mean_s": "the latency if calls never waited for their turn: along the longest path of a query's calls, each "
    "with its own time; of all queries, and up to where a call was given up",
    "budget_used": "mean of latency over budget (C/beta) of answered queries",
    "calls": "finished calls of a query",
    "tokens": "prompt and output tokens of a query's calls",
    "wasted_tokens": "those of late queries, over all queries",
}
OF_RUN = {
    "utilisation": "share of the time in which a server had a call running, by polls; mean of the servers",
    "jain": "Jain's index of the servers' utilisations: 1 if all are alike, 1/n if one does everything",
    "decisions_per_s": "decisions of planner and executor per second that they took, on the machine of the evaluation",
}
FIGURES = OF_WORKFLOWS | OF_RUN
"""Columns, with their meanings; each has ``NAME_low`` and ``NAME_high`` beside it."""


def run_figures(result: CellResult) -> Iterator[dict[str, Any]]:
    """A row for each tier of a run, and one for all of them; the figures of the whole run in that one only."""
    cell, workflows = result.cell, result.workflows
    key = {"policy": cell.policy, "scheduler": cell.scheduler, "rate_per_min": cell.rate_per_min, "seed": cell.seed}
    utilisation = result.servers["utilisation"].to_numpy(dtype=np.float64)
    run = {
        "utilisation": float(utilisation.mean()),
        "jain": jain_index(utilisation),
        "decisions_per_s": result.decisions_per_s,
    }
    tiers = [(f"{budget:g}", tier) for budget, tier in workflows.groupby("budget_s")]
    if cell.tier_s is None:
        yield key | {"tier": ALL_TIERS} | _workflow_figures(workflows) | run
        run = {}
    for name, tier in tiers:
        yield key | {"tier": name} | _workflow_figures(tier) | run


def _workflow_figures(workflows: pd.DataFrame) -> dict[str, Any]:
    latency_s = workflows["latency_s"].to_numpy(dtype=np.float64)
    answered = latency_s[~np.isnan(latency_s)]
    quantiles = np.quantile(answered, (0.5, 0.95, 0.99)) if len(answered) else (math.nan,) * 3
    used = latency_s / workflows["budget_s"].to_numpy(dtype=np.float64)
    late_tokens = workflows["tokens"].where(~workflows["on_time"], 0)
    return {
        "n": len(workflows),
        "accuracy": workflows["correct"].mean(),
        "on_time": workflows["on_time"].mean(),
        "goodput": (workflows["correct"] & workflows["on_time"]).mean(),
        "latency_mean_s": answered.mean() if len(answered) else math.nan,
        **dict(zip(("latency_p50_s", "latency_p95_s", "latency_p99_s"), quantiles, strict=True)),
        "path_mean_s": workflows["path_s"].mean(),
        "budget_used": used[~np.isnan(used)].mean() if len(answered) else math.nan,
        "calls": workflows["num_calls"].mean(),
        "tokens": workflows["tokens"].mean(),
        "wasted_tokens": late_tokens.mean(),
    }


def jain_index(loads: Sequence[float] | np.ndarray[Any, Any]) -> float:
    """``(sum x)^2 / (n sum x^2)`` (Jain, Chiu and Hawe 1984); 1 if nothing has any load."""
    values = np.asarray(loads, dtype=np.float64)
    squares = len(values) * float((values**2).sum())
    return float(values.sum()) ** 2 / squares if squares else 1.0


def t_interval(values: Sequence[float] | np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Mean of the known values, and its 95 % interval by Student's t: nan with fewer than `MIN_SEEDS` of them."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return math.nan, math.nan, math.nan
    mean = float(known.mean())
    if len(known) < MIN_SEEDS:
        return mean, math.nan, math.nan
    half = _t_quantile(len(known) - 1) * float(known.std(ddof=1)) / math.sqrt(len(known))
    return mean, mean - half, mean + half


@cache
def _t_quantile(degrees_of_freedom: int) -> float:
    """Looked up, since a table has tens of thousands of intervals and scipy takes longer than all the rest."""
    return float(stdtrit(degrees_of_freedom, 0.975))


def figures_table(results: Iterable[CellResult]) -> pd.DataFrame:
    """All rows of `run_figures`: ``KEYS``, ``seed``, ``n``, ``FIGURES``."""
    rows = [row for result in results for row in run_figures(result)]
    return pd.DataFrame(rows)[[*KEYS, "seed", "n", *FIGURES]]


def summarise_evaluation(figures: pd.DataFrame) -> pd.DataFrame:
    """Means and intervals over seeds, in the order of the figures: ``KEYS``, ``seeds``, ``n`` (queries of all seeds),
    and for each figure its mean, ``_low`` and ``_high``.
    """
    rows = []
    for key, group in figures.groupby(list(KEYS), sort=False):
        row: dict[str, Any] = dict(zip(KEYS, key, strict=True)) | {"seeds": len(group), "n": int(group["n"].sum())}
        for name in FIGURES:
            row[name], row[f"{name}_low"], row[f"{name}_high"] = t_interval(group[name].to_numpy(dtype=np.float64))
        rows.append(row)
    return pd.DataFrame(rows)


def scheduler_gains(figures: pd.DataFrame, first: str, figure: str = "on_time") -> pd.DataFrame:
    """By how much each other scheduler is above the first, seed by seed: they meet the same queries.

    ``policy``, ``scheduler``, ``rate_per_min``, ``tier``, ``gain``, ``gain_low``, ``gain_high``.
    """
    by_seed = figures.set_index([*KEYS, "seed"])[figure].unstack("scheduler")
    rows = []
    for other in (name for name in by_seed if name != first):
        difference = by_seed[other] - by_seed[first]
        for (policy, rate, tier), gains in difference.groupby(["policy", "rate_per_min", "tier"], sort=False):
            rows.append((policy, other, rate, tier, *t_interval(gains.to_numpy(dtype=np.float64))))
    return pd.DataFrame(rows, columns=[*KEYS, "gain", "gain_low", "gain_high"])


def over_tiers(figures: pd.DataFrame) -> pd.DataFrame:
    """The rows of all tiers together: as they are where tiers are mixed, else means over the tiers' own runs."""
    if (figures["tier"] == ALL_TIERS).any():
        return figures[figures["tier"] == ALL_TIERS]
    keys = ["policy", "scheduler", "rate_per_min", "seed"]
    means = figures.groupby(keys, sort=False)[list(FIGURES)].mean()
    counts = figures.groupby(keys, sort=False)["n"].sum()
    return means.assign(n=counts, tier=ALL_TIERS).reset_index()


def policy_gains(
    figures: pd.DataFrame, policies: Sequence[str], rivals: Sequence[str], figure: str = "goodput"
) -> pd.DataFrame:
    """By how much each policy is above the best of its rivals, seed by seed: they meet the same queries.

    The best is that with the highest mean at this rate under this scheduler, found on the same seeds: luck is on the
    rivals' side.

    Parameters
    ----------
    figures
        Rows of one tier, as `over_tiers` has them.

    Returns
    -------
    ``policy``, ``scheduler``, ``rate_per_min``, ``rival``, ``gain``, ``gain_low``, ``gain_high``; empty without rivals.
    """
    rows = []
    for (scheduler, rate), group in figures.groupby(["scheduler", "rate_per_min"], sort=False):
        by_seed = group.pivot_table(index="seed", columns="policy", values=figure)
        best = by_seed[[name for name in rivals if name in by_seed]].mean()
        if best.empty:
            continue
        rival = best.idxmax()
        for policy in policies:
            gains = (by_seed[policy] - by_seed[rival]).to_numpy(dtype=np.float64)
            rows.append((policy, scheduler, rate, rival, *t_interval(gains)))
    return pd.DataFrame(rows, columns=["policy", "scheduler", "rate_per_min", "rival", "gain", "gain_low", "gain_high"])
