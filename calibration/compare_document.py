"""A comparison of runs in words and numbers: the sentences on top, and the JSON document."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from .compare_folders import ConditionComparison, FoldersComparison
from .compare_ranking import Contest, Ranking

SCHEMA_VERSION = 1
"""Of `comparison_document`: it changes with each change that breaks a reader."""
_FIGURE_NAMES = {"goodput": "goodput", "on_time": "on-time share", "latency_mean_s": "mean latency"}


def comparison_document(comparison: FoldersComparison) -> dict[str, Any]:
    """Return the comparison as JSON values; a figure that does not exist is null.

    The keys are stable: readers of ``schema_version`` 1 find each of them in later releases of that version.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "headlines": headlines(comparison),
        "conditions": [_condition(each) for each in comparison.conditions],
        "contests": [_contest(each) for each in comparison.contests],
        "notes": list(comparison.notes),
    }


def headlines(comparison: FoldersComparison) -> list[str]:
    """Say how close the simulator was, and whether it ranked the policies rightly; the worst of all conditions."""
    return [
        *_latency_headline(comparison.conditions),
        *_share_headline(comparison.conditions, "on_time"),
        *_share_headline(comparison.conditions, "goodput"),
        *_ranking_headlines(comparison.contests),
    ]


def figure_name(figure: str) -> str:
    """Of a share or a ranked figure, for a reader."""
    return _FIGURE_NAMES.get(figure, figure)


def count_signs(ranking: Ranking, *, clear_only: bool = False) -> tuple[int, int]:
    """How many pairs of contenders come in the same order on both sides, and of how many."""
    signs = [sign for sign in ranking.signs if sign.is_clear or not clear_only]
    return sum(sign.agrees for sign in signs), len(signs)


def _latency_headline(conditions: Sequence[ConditionComparison]) -> list[str]:
    of_workflows = [each for each in conditions if each.latency is not None]
    figures = [(each, each.latency or each.calls["e2e_s"]) for each in of_workflows or conditions]
    known = [(each, figure) for each, figure in figures if not math.isnan(figure.relative_error["mean"])]
    if not known:
        return ["Nothing finished on both sides: no latency can be compared."]
    worst, figure = max(known, key=lambda item: abs(item[1].relative_error["mean"]))
    what = "workflow latency" if of_workflows else "E2E of calls"
    spread = figure.spread["mean"]
    own = (
        f"the real system's own run-to-run spread is {100 * spread:.1f} %"
        if not math.isnan(spread)
        else "the real system's own run-to-run spread was not measured (name a second live run of the same)"
    )
    return [
        f"Mean {what}: simulated {in_words(figure.relative_error['mean'])}{_worst(worst, len(known))}; {own}.",
    ]


def _share_headline(conditions: Sequence[ConditionComparison], share: str) -> list[str]:
    shares = [(each, each.tiers[0].shares[share]) for each in conditions if each.tiers]
    known = [(each, figure) for each, figure in shares if not math.isnan(figure.difference)]
    if not known:
        return []
    worst, figure = max(known, key=lambda item: abs(item[1].difference))
    own = "" if math.isnan(figure.spread) else f"; own spread {100 * figure.spread:.1f} points"
    name = figure_name(share).capitalize()
    points = round(100 * figure.difference, 1) + 0.0  # no "-0.0"
    return [f"{name}: simulated {points:+.1f} points off{_worst(worst, len(known))}{own}."]


def _ranking_headlines(contests: Sequence[Contest]) -> list[str]:
    found = []
    for figure in _FIGURE_NAMES:
        rankings = [(contest, each) for contest in contests for each in contest.rankings if each.figure == figure]
        known = [(contest, each) for contest, each in rankings if not math.isnan(each.tau)]
        if not known:
            continue
        contest, worst = min(known, key=lambda item: item[1].tau)
        again = [each.live_tau for _, each in known if not math.isnan(each.live_tau)]
        among = "" if len(known) == 1 else f", the worst of {len(known)} rankings ({contest.name})"
        own = f"; the real system against itself: {min(again):.2f}" if again else ""
        # Each pair once.
        counted = [each for contest, each in known if not contest.is_over_schedulers] or [each for _, each in known]
        same, num = map(sum, zip(*(count_signs(each, clear_only=True) for each in counted), strict=True))
        clear = f"; {same} of {num} pairs that the live runs tell apart come in the same order" if num else ""
        found.append(f"Ranking by {figure_name(figure)}: Kendall's tau {worst.tau:.2f}{among}{own}{clear}.")
    return found


def in_words(error: float) -> str:
    """A relative error."""
    if abs(error) < 0.0005:
        return "to within 0.05 %"
    return f"{100 * abs(error):.1f} % too {'low' if error < 0 else 'high'}"


def _worst(condition: ConditionComparison, among: int) -> str:
    on = f" ({condition.name})" if condition.name else ""
    return on if among == 1 else f"{on}, the worst of {among} conditions"


def _condition(each: ConditionComparison) -> dict[str, Any]:
    return {
        "name": each.name,
        "condition": dict(each.condition),
        "runs": [
            {
                "seed": pair.live.seed,
                "simulated": str(pair.simulated.path),
                "live": str(pair.live.path),
                "repeats": [str(run.path) for run in pair.repeats],
            }
            for pair in each.pairs
        ],
        "calls": _values(each.calls),
        "workflow_latency": _values(each.latency),
        "tiers": _values(each.tiers),
        "servers": _values(each.servers),
        "decisions": _values(each.decisions),
        "sources": _values(each.sources),
        "errors_by_load": _values(each.by_load),
        "warnings": list(each.warnings),
        "notes": list(each.notes),
    }


def _contest(contest: Contest) -> dict[str, Any]:
    content: dict[str, Any] = _values(contest)
    for ranking, written in zip(contest.rankings, content["rankings"], strict=True):
        for sign, row in zip(ranking.signs, written["signs"], strict=True):
            row |= {"agrees": sign.agrees, "is_clear": sign.is_clear}
    return content


def _values(value: Any) -> Any:
    """Dataclasses as objects; null for what is no number."""
    if is_dataclass(value) and not isinstance(value, type):
        return _values(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_values(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
