"""What a server file predicts for a request log: the one path that replaying, fitting and checking share."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inframind.sim import ServerSection, simulate_calls

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A log, replayed."""

    requests: pd.DataFrame
    """What `as_client_sees` makes of it."""
    calls: pd.DataFrame
    """Columns of ``traces.CALLS``, as the server sees it, in the order of the requests."""
    samples: pd.DataFrame
    """Queue depth and KV usage over time; empty without ``sample_s``."""


def replay(
    requests: pd.DataFrame,
    server: ServerSection,
    *,
    sample_s: float | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Prediction:
    """Serve a whole log, in its order of arrival, on one simulated server.

    Parameters
    ----------
    requests
        Columns of ``traces.REQUESTS``; what was measured is not looked at.
    server
        As `inframind.sim.load_server` reads it.
    sample_s
        How often queue depth and KV usage are noted; None: never.
    on_progress
        Called now and then with the number of requests that have ended.
    """
    run = simulate_calls(
        [server.options()], requests, sample_s=sample_s, client_s=server.client.overhead_s, on_progress=on_progress
    )
    return Prediction(as_client_sees(requests, run.calls, server), run.calls, run.samples)


def predict(
    requests: pd.DataFrame, server: ServerSection, *, on_progress: Callable[[int], None] | None = None
) -> pd.DataFrame:
    """Return the requests as `replay` predicts them: with ``sim_ttft_s`` and ``sim_e2e_s``."""
    return replay(requests, server, on_progress=on_progress).requests


def as_client_sees(requests: pd.DataFrame, calls: pd.DataFrame, server: ServerSection) -> pd.DataFrame:
    """Return the requests with ``sim_ttft_s`` and ``sim_e2e_s``, see `client_times`.

    ``calls`` (columns of ``traces.CALLS``) are in the order of the requests.
    """
    ttft_s, e2e_s = client_times(calls, server.client.overhead_s)
    return requests.assign(sim_ttft_s=ttft_s, sim_e2e_s=e2e_s)


def client_times(calls: pd.DataFrame, overhead_s: float) -> tuple[Floats, Floats]:
    """TTFT and E2E of each call: the server's and the client's overhead; NaN where it was not served."""
    served = (calls["outcome"] == "finished").to_numpy()
    ttft_s, e2e_s = (calls[name].to_numpy(dtype=np.float64) + overhead_s for name in ("ttft_s", "e2e_s"))
    return np.where(served, ttft_s, np.nan), np.where(served, e2e_s, np.nan)
