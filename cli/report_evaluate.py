"""The report of an evaluation: one HTML file that loads nothing."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from inframind.agents import (
    ALL_TIERS,
    BOUND,
    FIGURES,
    MIN_SEEDS,
    CellResult,
    Evaluation,
    over_tiers,
    scheduler_gains,
    summarise_evaluation,
)
from inframind.traces import versions

from .report_cells import FEW_SEEDS, UNROUNDED, cell
from .report_evaluate_figures import chosen_servers, latency_by_tier, queues_over_time, shares_by_load
from .report_page import render_page

_COLUMNS = {
    "goodput": ("Goodput", "share"),
    "on_time": ("On\N{NO-BREAK SPACE}time", "share"),
    "accuracy": ("Accuracy", "share"),
    "latency_mean_s": ("Latency mean (s)", "seconds"),
    "latency_p50_s": ("p50", "seconds"),
    "latency_p95_s": ("p95", "seconds"),
    "latency_p99_s": ("p99", "seconds"),
    "path_mean_s": ("Path\N{NO-BREAK SPACE}(s)", "seconds"),
    "budget_used": ("C/\N{GREEK SMALL LETTER BETA}", "ratio"),
    "calls": ("Calls", "ratio"),
    "tokens": ("Tokens", "count"),
    "wasted_tokens": ("Wasted", "count"),
    "utilisation": ("Busy", "share"),
    "jain": ("Jain", "ratio"),
    "decisions_per_s": ("Decisions/s", "count"),
}


def render_evaluation(
    evaluation: Evaluation,
    results: Sequence[CellResult],
    figures: pd.DataFrame,
    summary: pd.DataFrame,
    gains: pd.DataFrame,
) -> str:
    """Return the report as HTML.

    Parameters
    ----------
    results
        Of all cells.
    figures, summary
        As `inframind.agents.figures_table` and `summarise_evaluation` made them of the results.
    gains
        As `inframind.agents.policy_gains` made them of the trained policies and the rules.
    """
    overall = over_tiers(figures)
    shown = summarise_evaluation(overall)
    top, first = max(evaluation.rates_per_min), evaluation.schedulers[0]
    best = {name: _best(shown, name) for name in ("goodput", "on_time")}
    tiers = sorted(set(summary["tier"]) - {ALL_TIERS}, key=float)
    at_top = [r for r in results if r.cell.rate_per_min == top and r.cell.seed == evaluation.seeds[0]]
    one_tier = [r for r in at_top if r.cell.tier_s == at_top[0].cell.tier_s]
    num_seeds, has_one_rate = len(evaluation.seeds), len(evaluation.rates_per_min) == 1
    drawn = "whiskers are" if has_one_rate else "band is"
    of_means = f"The {drawn} the 95 % interval of the mean over {num_seeds} seeds."
    of_differences = "\N{PLUS-MINUS SIGN}: half of the 95 % interval of the difference, seed by seed."
    return render_page(
        "evaluate.html.j2",
        title=evaluation.name or _title(evaluation),
        about=_about(evaluation),
        findings=[_finding(shown, rate) for rate in evaluation.rates_per_min],
        goodput=Markup(shares_by_load(shown, "goodput", best["goodput"], "Goodput of each policy against load")),
        on_time=Markup(shares_by_load(shown, "on_time", best["on_time"], "On-time share of each policy against load")),
        trained=_trained_rows(gains),
        gains=_gains(overall, evaluation),
        rates=[f"{rate:g}" for rate in evaluation.rates_per_min],
        first=first.upper(),
        latencies=[(name.upper(), Markup(latency_by_tier(summary, tiers, name))) for name in evaluation.schedulers],
        queues=Markup(queues_over_time(one_tier)),
        queue_tier=one_tier[0].cell.tier_s,
        seed=evaluation.seeds[0],
        choices=Markup(chosen_servers([result for result in results if result.cell.scheduler == first])),
        top=f"{top:g}",
        heads=[head for head, _ in _COLUMNS.values()],
        rows=_rows(shown[shown["rate_per_min"] == top]),
        meanings=[(head, name, FIGURES[name]) for name, (head, _) in _COLUMNS.items()],
        against="at one load" if has_one_rate else "against load",
        of_means=FEW_SEEDS if num_seeds < MIN_SEEDS else of_means,
        of_differences=FEW_SEEDS if num_seeds < MIN_SEEDS else of_differences,
        unrounded=UNROUNDED,
    )


def _title(evaluation: Evaluation) -> str:
    """What is compared, where the file has no name for it."""
    policies, rates = evaluation.labels, evaluation.rates_per_min
    who = policies[0] if len(policies) == 1 else f"{len(policies)} policies"
    load = f"{rates[0]:g}" if len(rates) == 1 else f"{min(rates):g} to {max(rates):g}"
    return f"{who} on {evaluation.pool} at {load} queries a minute"


def _about(evaluation: Evaluation) -> dict[str, str]:
    budgets = ", ".join(f"{budget:g}" for budget in evaluation.budgets.tiers_s)
    kind = "each in runs of its own" if evaluation.single_tier else "mixed in each run"
    num = f"{evaluation.num_queries:,} queries count in each run"
    protocols = {
        "transient": f"finite transient: {num}, from idle servers to the last answer",
        "steady-state": f"steady state: {num}, {evaluation.warm_up_queries:,} before them and as many after do not",
    }
    software = versions()
    return {
        "Pool": evaluation.pool,
        "Queries": f"{', '.join(evaluation.domains)}; {evaluation.part} part; Poisson arrivals",
        "Budgets": f"{budgets} s, {kind}",
        "Protocol": protocols[evaluation.protocol],
        "Seeds": ", ".join(map(str, evaluation.seeds)),
        "Plan": evaluation.planner,
        "Strategy": evaluation.strategy,
        "When due": "workflows answer with the last message they have"
        if evaluation.answer_when_due
        else "workflows go on, and are late",
        "Latency predictors": evaluation.predictors or "none: by step times",
        "Software": f"inframind-router {software['packages'].get('inframind-router', '')}, Python {software['python']}",
    }


def _compared(shown: pd.DataFrame) -> pd.DataFrame:
    compared = shown[shown["policy"] != BOUND]
    return compared if len(compared) else shown


def _best(shown: pd.DataFrame, figure: str) -> "pd.Series[float]":
    best: pd.Series[float] = _compared(shown).groupby("rate_per_min")[figure].max()
    return best


def _finding(shown: pd.DataFrame, rate: float) -> str:
    """Who is best at a load, in a sentence."""
    at_rate = shown[shown["rate_per_min"] == rate]
    compared = _compared(at_rate).sort_values("goodput", ascending=False, kind="stable")
    best = compared.iloc[0]
    level = compared[compared["goodput"] == best["goodput"]]
    names = [f"{row['policy']} under {row['scheduler'].upper()}" for row in level.to_dict("records")]
    who, interval = f"{names[0]} answers", ""
    if len(names) > 1:
        who = f"{', '.join(names[:-1])} and {names[-1]} each answer"
    elif pd.notna(best["goodput_low"]):
        interval = f" (95 % interval {100 * best['goodput_low']:.1f} to {100 * best['goodput_high']:.1f})"
    bound = at_rate.loc[at_rate["policy"] == BOUND, "goodput"]
    above = f"; {BOUND} {100 * bound.max():.1f} %" if len(bound) and best["policy"] != BOUND else ""
    return f"At {rate:g}/min {who} {100 * best['goodput']:.1f} % rightly and in time{interval}{above}."


def _trained_rows(gains: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """For each trained policy and scheduler, by rate: points of goodput over the best rule, and which that is."""
    return [
        (
            f"{policy}, {str(scheduler).upper()}",
            [f"{points(row)} over {row.rival}" for row in group.itertuples()],
        )
        for (policy, scheduler), group in gains.groupby(["policy", "scheduler"], sort=False)
    ]


def _gains(overall: pd.DataFrame, evaluation: Evaluation) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """For each scheduler but the first, a row for each policy: points of on-time share by rate."""
    table = scheduler_gains(overall, evaluation.schedulers[0])
    found = {(row.scheduler, row.policy, row.rate_per_min): row for row in table.itertuples()}
    return [
        (
            scheduler.upper(),
            [
                (policy, [points(found[scheduler, policy, rate]) for rate in evaluation.rates_per_min])
                for policy in evaluation.labels
            ],
        )
        for scheduler in evaluation.schedulers[1:]
    ]


def points(row: Any) -> str:
    """A gain in points, with half of its interval."""
    half = "" if pd.isna(row.gain_high) else f" ± {100 * (row.gain_high - row.gain):.1f}"
    return f"{100 * row.gain:+.1f}{half}"


def _rows(shown: pd.DataFrame) -> list[tuple[str, list[str]]]:
    return [
        (
            f"{row['policy']}, {row['scheduler'].upper()}",
            [cell(row[name], kind) for name, (_, kind) in _COLUMNS.items()],
        )
        for row in shown.to_dict("records")
    ]
