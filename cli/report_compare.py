"""The report of a comparison of simulated with live runs: one HTML file that loads nothing."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from inframind.calibration import ConditionComparison, Contest, FoldersComparison, figure_name, headlines

from .report_check_tables import SHORT
from .report_compare_figures import all_conditions, distributions, errors_by_load, queues, sources
from .report_compare_tables import (
    CONDITION_HEADS,
    DECISION_HEADS,
    LATENCY_HEADS,
    LOAD_HEADS,
    RANKING_HEADS,
    SERVER_HEADS,
    SIGN_HEADS,
    STEP_HEADS,
    TIER_HEADS,
    condition_cells,
    decision_rows,
    latency_rows,
    load_row,
    measure_lines,
    ranking_rows,
    server_row,
    sign_row,
    step_rows,
    table_notes,
    tier_row,
    warnings,
)
from .report_page import render_page

MAX_DRAWN = 12
"""A page with the figures of more conditions is slow."""


def render_comparison(comparison: FoldersComparison, *, title: str, about: Mapping[str, str]) -> str:
    """Return the report as HTML; equal arguments give equal text.

    Parameters
    ----------
    comparison
        As `inframind.calibration.compare_folders` returns it.
    title
        Heading of the page.
    about
        What was compared, in pairs of label and text.
    """
    of_workflows = [each for each in comparison.conditions if each.latency is not None]
    return render_page(
        "compare.html.j2",
        title=title,
        about=about,
        findings=headlines(comparison),
        warnings=warnings(comparison),
        notes=comparison.notes,
        table_notes=table_notes(comparison),
        overview=Markup(all_conditions(of_workflows)) if len(of_workflows) > 1 else None,
        heads={
            "condition": CONDITION_HEADS,
            "latency": LATENCY_HEADS,
            "tier": TIER_HEADS,
            "server": SERVER_HEADS,
            "decision": DECISION_HEADS,
            "step": STEP_HEADS,
            "load": LOAD_HEADS,
            "ranking": RANKING_HEADS,
            "sign": SIGN_HEADS,
        },
        summary=[[each.name or "the runs", *condition_cells(each)] for each in comparison.conditions],
        ranking=[row for contest in comparison.contests for row in ranking_rows(contest)],
        signs=[part for contest in comparison.contests for part in _signs(contest)],
        conditions=[_condition(each, is_drawn=index < MAX_DRAWN) for index, each in enumerate(comparison.conditions)],
        max_drawn=MAX_DRAWN,
    )


def _signs(contest: Contest) -> list[tuple[str, list[list[str]]]]:
    return [
        (
            f"{contest.name}: {figure_name(ranking.figure)}".removeprefix(": "),
            [sign_row(sign, ranking.figure) for sign in ranking.signs],
        )
        for ranking in contest.rankings
    ]


def _condition(each: ConditionComparison, *, is_drawn: bool) -> dict[str, Any]:
    latencies = [("Workflow latency", latency_rows(each.latency))] if each.latency else []
    figures = {}
    if is_drawn:
        figures = {"distributions": Markup(distributions(each)), "queues": Markup(queues(each))}
        if each.sources is not None:
            figures["sources"] = Markup(sources(each))
        elif each.by_load:
            figures["sources"] = Markup(errors_by_load(each))
    return {
        "name": each.name or "The runs",
        "seeds": ", ".join(str(pair.live.seed) for pair in each.pairs if pair.live.seed is not None),
        "notes": each.notes,
        "warnings": [f"Not the same experiment: {line}." for line in each.warnings],
        "latencies": [*latencies, *((name, latency_rows(each.calls[metric])) for metric, name in SHORT.items())],
        "tiers": list(map(tier_row, each.tiers)),
        "servers": list(map(server_row, each.servers)),
        "decisions": list(decision_rows(each.decisions)) if each.decisions else [],
        "steps": list(step_rows(each.sources)) if each.sources else [],
        "num_workflows": f"{each.sources.num_workflows:,}" if each.sources else "",
        "measures": list(measure_lines(each.sources)) if each.sources else [],
        "by_load": list(map(load_row, each.by_load)),
        "figures": figures,
    }
