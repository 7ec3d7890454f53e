"""How heavy a load was: what a fit has seen, and whether a replay goes beyond it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inframind.sim import ServerSection

Floats = NDArray[np.float64]

WINDOW_S = 10.0
"""Arrival rates are means over so long, or over the log if it is shorter."""
TOLERANCE = 1.1
"""So far beyond what was seen is no extrapolation yet."""


@dataclass(frozen=True, slots=True)
class LoadRange:
    """The largest values of one log."""

    max_rate_per_s: float
    max_prompt_tokens: int
    max_output_tokens: int
    max_num_running: int
    max_context_tokens: float
    max_prefill_tokens: int
    """Of the requests that waited for their first token at a time: no step has held more."""


def load_range(requests: pd.DataFrame, first_token_s: Floats, end_s: Floats) -> LoadRange:
    """Of a log in order of arrival, from when each request had its first and last token; NaN where not known."""
    arrival = requests["arrival_s"].to_numpy(dtype=np.float64)
    prompt = requests["prompt_tokens"].to_numpy(dtype=np.float64)
    output = requests["output_tokens"].to_numpy(dtype=np.float64)
    is_known = np.isfinite(first_token_s) & np.isfinite(end_s)
    first, end = first_token_s[is_known], end_s[is_known]
    # A request's context when it ends: while it runs it has no more than that.
    context = _most(first, end, (prompt + output)[is_known])
    return LoadRange(
        max_rate_per_s=_max_rate(arrival),
        max_prompt_tokens=int(prompt.max()),
        max_output_tokens=int(output.max()),
        max_num_running=int(_most(first, end, np.ones(len(first)))),
        max_context_tokens=context,
        max_prefill_tokens=max(1, int(_most(arrival[is_known], first, prompt[is_known]))),
    )


def _most(begin: Floats, end: Floats, amount: Floats) -> float:
    """The largest sum at one time of what is there from its begin to its end."""
    order = np.argsort(np.concatenate([begin, end]), kind="stable")
    return float(np.cumsum(np.concatenate([amount, -amount])[order]).max(initial=0.0))


def _max_rate(arrival_s: Floats) -> float:
    window = min(WINDOW_S, max(float(arrival_s[-1] - arrival_s[0]), 1e-9))
    within = np.searchsorted(arrival_s, arrival_s + window, side="right") - np.arange(len(arrival_s))
    # n arrivals have n - 1 gaps; a log shorter than the window is one window.
    return float(max(within.max() - 1, 1) / max(window, 1.0))


def extrapolations(requests: pd.DataFrame, calls: pd.DataFrame, server: ServerSection) -> tuple[str, ...]:
    """In words, where a replay goes beyond the logs that its server was fitted on; nothing if it was fitted on none.

    Parameters
    ----------
    requests
        The log, columns of ``traces.REQUESTS``.
    calls
        What came out, columns of ``traces.CALLS``, in the same order.
    """
    fitted_on = server.step_time.fitted_on
    if fitted_on is None or fitted_on.requests is None or requests.empty:
        return ()
    seen = fitted_on.requests
    served = (calls["outcome"] == "finished").to_numpy()
    first, end = (
        np.where(served, calls[name].to_numpy(dtype=np.float64), np.nan) for name in ("first_token_s", "finish_s")
    )
    now = load_range(requests, first, end)
    pairs = [
        ("arrivals in a second", now.max_rate_per_s, seen.max_rate_per_s),
        ("tokens in a prompt", now.max_prompt_tokens, seen.max_prompt_tokens),
        ("tokens in an output", now.max_output_tokens, seen.max_output_tokens),
        ("requests running at a time", now.max_num_running, seen.max_num_running),
        ("tokens of context at a time", now.max_context_tokens, fitted_on.max_context_tokens),
    ]
    return tuple(
        f"up to {value:,.4g} {what}, the fit has seen {limit:,.4g}"
        for what, value, limit in pairs
        if value > TOLERANCE * limit
    )
