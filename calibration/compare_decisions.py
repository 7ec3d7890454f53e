"""How often two runs decide alike about the same query."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from .compare_figures import FINISHED
from .compare_inputs import KnownRun, PairedRuns


@dataclass(frozen=True, slots=True)
class Agreement:
    """Shares, 0 to 1, of some decisions that are the same in both runs; NaN of none."""

    num: int
    server: float
    strategy: float
    action: float
    """Both."""
    by_chance: float
    """As ``action`` would be if one run chose with the same frequencies, but regardless of the query: the sum over
    actions of the product of their shares in both runs, as in Cohen's kappa."""


@dataclass(frozen=True, slots=True)
class DecisionFigures:
    """Decisions of two runs about the same queries."""

    num_workflows: int
    same_plan: float
    """Share of the workflows with the same topology and role set; only their calls can be compared one by one."""
    first: Agreement
    """The first call of each workflow with the same plan: nothing of the workflow has happened before."""
    every: Agreement
    """All first tries of calls in workflows with the same plan that both runs made."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """Simulated beside live, and live beside live."""

    simulated: DecisionFigures
    live_again: DecisionFigures | None
    """The first live run of each seed beside its repeats: what the real system agrees with itself."""


def compare_decisions(pairs: Sequence[PairedRuns]) -> Decisions | None:
    """Compare the decisions of runs with workflows and the same queries; None where there are none."""
    alike = [pair for pair in pairs if pair.has_same_queries]
    if not alike:
        return None
    again = [(pair.live, repeat) for pair in alike for repeat in pair.repeats]
    return Decisions(
        _figures([(pair.live, pair.simulated) for pair in alike]),
        _figures(again) if again else None,
    )


def _figures(pairs: Sequence[tuple[KnownRun, KnownRun]]) -> DecisionFigures:
    plans = pd.concat([_plans(*pair) for pair in pairs], ignore_index=True)
    calls = pd.concat([_calls(*pair) for pair in pairs], ignore_index=True)
    return DecisionFigures(
        num_workflows=len(plans),
        same_plan=_share(plans["is_same"]),
        first=_agreement(calls[calls["is_first"]]),
        every=_agreement(calls),
    )


def _plans(one: KnownRun, other: KnownRun) -> pd.DataFrame:
    """``workflow_id``, ``is_same`` of the workflows of both runs."""
    columns = ["workflow_id", "topology", "role_set"]
    tables = [side.run.workflows for side in (one, other)]
    first, second = (table[columns] for table in tables if table is not None)
    both = first.merge(second, on="workflow_id", suffixes=("", "_other"))
    same = (both["topology"] == both["topology_other"]) & (both["role_set"] == both["role_set_other"])
    return both[["workflow_id"]].assign(is_same=same)


def _calls(one: KnownRun, other: KnownRun) -> pd.DataFrame:
    """``server``, ``strategy``, ``server_other``, ``strategy_other``, ``is_first`` of the calls of both runs."""
    plans = _plans(one, other)
    alike = set(plans.loc[plans["is_same"], "workflow_id"])
    first, second = (_first_tries(side.run.calls) for side in (one, other))
    both = first.merge(second, on=["workflow_id", "slot"], suffixes=("", "_other"))
    both = both[both["workflow_id"].isin(alike)]
    return both.assign(is_first=~both.duplicated("workflow_id"))


def _first_tries(calls: pd.DataFrame) -> pd.DataFrame:
    """In the order of their submission."""
    ordered = calls.sort_values(["arrival_s", "slot"], kind="stable")
    return ordered.drop_duplicates(["workflow_id", "slot"])[["workflow_id", "slot", "server", "strategy"]]


def last_tries(calls: pd.DataFrame) -> pd.DataFrame:
    """Of each call its try that finished, else the last one."""
    ranked = calls.assign(has_finished=calls["outcome"] == FINISHED)
    ordered = ranked.sort_values(["has_finished", "arrival_s"], kind="stable")
    return ordered.drop_duplicates(["workflow_id", "slot"], keep="last").drop(columns="has_finished")


def _agreement(calls: pd.DataFrame) -> Agreement:
    server = calls["server"] == calls["server_other"]
    strategy = calls["strategy"] == calls["strategy_other"]
    shares = [
        calls.groupby(names).size() / max(1, len(calls))
        for names in (["server", "strategy"], ["server_other", "strategy_other"])
    ]
    by_chance = float(shares[0].mul(shares[1].rename_axis(shares[0].index.names), fill_value=0.0).sum())
    return Agreement(
        num=len(calls),
        server=_share(server),
        strategy=_share(strategy),
        action=_share(server & strategy),
        by_chance=by_chance if len(calls) else math.nan,
    )


def _share(is_so: "pd.Series[bool]") -> float:
    return float(is_so.mean()) if len(is_so) else math.nan
