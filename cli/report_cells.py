"""Numbers as the tables of a report show them, and what is said of them."""

from typing import Any

import pandas as pd

from inframind.agents import MIN_SEEDS

UNKNOWN = "\N{EN DASH}"
FEW_SEEDS = f"No intervals (\N{PLUS-MINUS SIGN}) over fewer than {MIN_SEEDS} seeds: two may agree by chance."
"""What stands where they are missing."""
UNROUNDED = "Differences are of unrounded figures: beside rounded ones they may look off by 0.1."


def cell(value: Any, kind: str) -> str:
    """A number as text; `UNKNOWN` where there is none.

    Parameters
    ----------
    kind
        ``share``, shown in percent; ``count``; ``ms``, given in seconds; ``depth`` of a queue; ``ratio``; ``seconds``.
    """
    if pd.isna(value):
        return UNKNOWN
    match kind:
        case "share":
            return f"{100 * value:.1f} %"
        case "count":
            return f"{value:,.0f}"
        case "ms":
            return f"{1000 * value:,.1f}"
        case "depth":
            return f"{value:,.1f}"
        case "ratio":
            return f"{value:.2f}"
        case _:
            return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
