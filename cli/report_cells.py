"""Numbers as the tables of a report show them."""

from typing import Any

import pandas as pd

UNKNOWN = "\N{EN DASH}"


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
