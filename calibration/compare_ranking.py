"""Whether the simulator ranks policies as the real system does."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inframind.agents.evaluation_summary import MIN_SEEDS, t_interval

from .compare_figures import workflow_shares
from .compare_inputs import Key, KnownRun, PairedRuns, condition_name

Floats = NDArray[np.float64]

RANKED = ("goodput", "on_time", "latency_mean_s")
NUM_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class PairSign:
    """Two contenders: by how much the first is above the second, mean over seeds and its 95 % interval (paired t)."""

    first: str
    second: str
    live: tuple[float, float, float]
    """Mean, low, high; the interval is NaN with fewer than `MIN_SEEDS`."""
    simulated: tuple[float, float, float]

    @property
    def agrees(self) -> bool:
        """Whether both sides put the same one above the other."""
        return bool(np.sign(self.live[0]) == np.sign(self.simulated[0]))

    @property
    def is_clear(self) -> bool:
        """Whether the live runs tell the two apart: the interval is known and 0 is not in it."""
        return self.live[1] > 0 or self.live[2] < 0


@dataclass(frozen=True, slots=True)
class Ranking:
    """All contenders by one figure."""

    figure: str
    """One of `RANKED`."""
    live: Mapping[str, float]
    """Mean over seeds of each contender."""
    simulated: Mapping[str, float]
    tau: float
    """Kendall's tau-b of the two; NaN if all are equal on one side."""
    tau_low: float
    """Its 95 % interval when seeds are drawn anew with replacement; NaN with fewer than `MIN_SEEDS`."""
    tau_high: float
    live_tau: float
    """Mean tau of the live runs and their repeats: what the real system reaches against itself; NaN without repeats."""
    signs: tuple[PairSign, ...]
    """Of each pair of contenders."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Contenders that met the same queries at the same rate."""

    name: str
    """What the contenders have in common: scheduler and rate, or the rate alone."""
    contenders: tuple[str, ...]
    seeds: tuple[int | None, ...]
    """Those that every contender has."""
    rankings: tuple[Ranking, ...]
    """By each of `RANKED` that is known of all."""
    is_over_schedulers: bool = False
    """Whether contenders are policies under several schedulers: pairs under one are then in its contest, too."""


def rank_policies(pairs: Sequence[PairedRuns]) -> tuple[Contest, ...]:
    """Rank policies under each scheduler at each rate, and all of them over all schedulers at each rate.

    Only contests of two contenders at least, and with a common seed.
    """
    ranked = [pair for pair in pairs if "policy" in dict(pair.live.condition) and pair.live.run.workflows is not None]
    ranked = [pair for pair in ranked if not pair.differences]
    schedulers: dict[Key, set[Any]] = {}
    for pair in ranked:
        schedulers.setdefault(_rest(pair), set()).add(dict(pair.live.condition).get("scheduler"))
    under_several = [pair for pair in ranked if len(schedulers[_rest(pair)]) > 1]
    over = (replace(contest, is_over_schedulers=True) for contest in _contests(under_several, _VARIED))
    return (*_contests(ranked, _VARIED[:1]), *over)


_VARIED = ("policy", "scheduler")


def _rest(pair: PairedRuns) -> Key:
    """Of a condition: what all contenders of a contest over schedulers have in common."""
    return tuple((name, value) for name, value in pair.live.condition if name not in _VARIED)


def _contests(pairs: Sequence[PairedRuns], varied: Sequence[str]) -> tuple[Contest, ...]:
    groups: dict[Key, dict[str, list[PairedRuns]]] = {}
    for pair in pairs:
        values = dict(pair.live.condition)
        common = tuple((name, value) for name, value in pair.live.condition if name not in varied)
        contender = ", ".join(str(values.get(name, "")) for name in varied)
        groups.setdefault(common, {}).setdefault(contender, []).append(pair)
    contests = (_contest(common, contenders) for common, contenders in groups.items() if len(contenders) > 1)
    return tuple(contest for contest in contests if contest is not None)


def _contest(common: Key, contenders: Mapping[str, Sequence[PairedRuns]]) -> Contest | None:
    by_seed = {name: {pair.live.seed: pair for pair in pairs} for name, pairs in contenders.items()}
    seeds = sorted(set.intersection(*(set(each) for each in by_seed.values())), key=str)
    if not seeds:
        return None

    def table(side: Callable[[PairedRuns], KnownRun | None]) -> pd.DataFrame:
        """A row for each contender and seed."""
        rows = [
            {"contender": name, "seed": seed, **_figures(run)}
            for name, pairs in by_seed.items()
            for seed in seeds
            if (run := side(pairs[seed])) is not None
        ]
        return pd.DataFrame(rows)

    live, simulated = table(lambda pair: pair.live), table(lambda pair: pair.simulated)
    repeated = table(lambda pair: pair.repeats[0] if pair.repeats else None)
    rankings = [
        _ranking(figure, *(_matrix(each, figure, list(contenders)) for each in (live, simulated, repeated)))
        for figure in RANKED
        if live[figure].notna().all() and simulated[figure].notna().all()
    ]
    return Contest(condition_name(common), tuple(contenders), tuple(seeds), tuple(rankings))


def _figures(run: KnownRun) -> dict[str, Any]:
    workflows = run.run.workflows
    assert workflows is not None  # of such runs alone are contests
    return workflow_shares(workflows) | {"latency_mean_s": workflows["latency_s"].mean()}


def _matrix(table: pd.DataFrame, figure: str, contenders: list[str]) -> pd.DataFrame | None:
    """Contenders by the seeds of which all are known; None without."""
    if table.empty:
        return None
    matrix = table.pivot_table(index="contender", columns="seed", values=figure, dropna=False).reindex(contenders)
    matrix = matrix.dropna(axis="columns")
    return matrix if len(matrix.columns) else None


def _ranking(
    figure: str, live: pd.DataFrame | None, simulated: pd.DataFrame | None, repeated: pd.DataFrame | None
) -> Ranking:
    assert live is not None  # every figure that is ranked is known of all
    assert simulated is not None
    ours, theirs = simulated.to_numpy(dtype=np.float64), live.to_numpy(dtype=np.float64)
    low, high = _tau_interval(theirs, ours)
    live_tau = math.nan
    if repeated is not None:
        again = live[repeated.columns]
        live_tau = kendall_tau(again.mean(axis=1).to_numpy(), repeated.mean(axis=1).to_numpy())
    return Ranking(
        figure=figure,
        live=_means(live),
        simulated=_means(simulated),
        tau=kendall_tau(theirs.mean(axis=1), ours.mean(axis=1)),
        tau_low=low,
        tau_high=high,
        live_tau=live_tau,
        signs=tuple(
            PairSign(
                str(live.index[a]), str(live.index[b]), t_interval(theirs[a] - theirs[b]), t_interval(ours[a] - ours[b])
            )
            for a, b in combinations(range(len(live)), 2)
        ),
    )


def _means(matrix: pd.DataFrame) -> dict[str, float]:
    return {str(name): float(value) for name, value in matrix.mean(axis=1).items()}


def kendall_tau(one: Floats, other: Floats) -> float:
    """Kendall's tau-b, which counts ties as neither agreement nor disagreement; NaN if one side is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    from scipy.stats import kendalltau  # takes a second to load

    return round(float(kendalltau(one, other).statistic), 12)  # its own rounding error would hide a 1


def _tau_interval(live: Floats, simulated: Floats) -> tuple[float, float]:
    """Seeds are drawn with replacement, the same ones on both sides."""
    num = live.shape[1]
    if num < MIN_SEEDS:
        return math.nan, math.nan
    draws = np.random.default_rng(0).integers(0, num, size=(NUM_RESAMPLES, num))
    distinct, counts = np.unique(np.sort(draws, axis=1), axis=0, return_counts=True)
    taus = [kendall_tau(live[:, draw].mean(axis=1), simulated[:, draw].mean(axis=1)) for draw in distinct]
    all_taus = np.repeat(np.array(taus), counts)
    known = all_taus[~np.isnan(all_taus)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, (0.025, 0.975), method="inverted_cdf")
    return float(low), float(high)
