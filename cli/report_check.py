"""The report of a check: one HTML file that loads nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from inframind.calibration import LogCheck, headline

from .report_cells import UNKNOWN
from .report_check_figures import MAX_DOTS, distributions, loads_over_time, single_requests
from .report_check_tables import (
    REQUEST_HEADS,
    SHORT,
    error_cell,
    key_cells,
    key_heads,
    marks,
    request_rows,
    spread_note,
    statistic_heads,
    statistic_rows,
    warnings,
)
from .report_page import render_page

MAX_DRAWN = 12
"""A page with the figures of more logs is slow."""


def render_check(checks: Sequence[LogCheck], *, title: str, about: Mapping[str, str]) -> str:
    """Return the report as HTML; equal arguments give equal text.

    Parameters
    ----------
    checks
        As `inframind.calibration.check_logs` returns them, at least one.
    title
        Heading of the page.
    about
        What was checked, in pairs of label and text.
    """
    return render_page(
        "check.html.j2",
        title=title,
        about=about,
        findings=[headline(checks), *(_finding(check) for check in checks)],
        key_heads=key_heads(),
        request_heads=REQUEST_HEADS,
        logs=[_log(check, is_drawn=index < MAX_DRAWN) for index, check in enumerate(checks)],
        max_drawn=MAX_DRAWN,
        max_dots=f"{MAX_DOTS:,}",
    )


def _finding(check: LogCheck) -> str:
    """The errors of a log's means, in a line."""
    means = (
        f"{SHORT[metric]} {error_cell(one.comparison.relative_error['mean'])}"
        for metric, one in check.whole.metrics.items()
    )
    in_brackets = f" ({marks(check)})" if marks(check) else ""
    return f"{check.name}{in_brackets}: errors of the means: {', '.join(means)}."


def _log(check: LogCheck, *, is_drawn: bool) -> dict[str, Any]:
    return {
        "name": check.name,
        "marks": marks(check) or UNKNOWN,
        "warnings": warnings(check),
        "notes": check.notes,
        "num_requests": f"{check.whole.num_requests:,}",
        "key_cells": key_cells(check.whole),
        "heads": statistic_heads(check.whole),
        "metrics": [(name, statistic_rows(check.whole, metric)) for metric, name in SHORT.items()],
        "spread_note": spread_note(check.whole.metrics["e2e_s"].spread),
        "request_rows": request_rows(check.whole),
        "conditions": [
            [condition.name, f"{condition.num_requests:,}", *key_cells(condition)] for condition in check.conditions
        ],
        "figures": [Markup(draw(check)) for draw in (distributions, single_requests, loads_over_time)]
        if is_drawn
        else [],
        "has_all_dots": len(check.rows) <= MAX_DOTS,
        "has_samples": len(check.observed_samples) > 0,
    }
