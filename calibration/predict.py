"""What a server file predicts for a request log: the one path that replaying, fitting and checking share."""

from collections.abc import Callable

import pandas as pd

from inframind.sim import ServerSection, simulate_calls


def predict(
    requests: pd.DataFrame, server: ServerSection, *, on_progress: Callable[[int], None] | None = None
) -> pd.DataFrame:
    """Replay a whole log, in its order of arrival, on one simulated server.

    Parameters
    ----------
    requests
        Columns of ``traces.REQUESTS``; what was measured is not looked at.
    server
        As `inframind.sim.load_server` reads it.
    on_progress
        Called now and then with the number of requests that have ended.

    Returns
    -------
    pandas.DataFrame
        What `as_client_sees` makes of it.
    """
    run = simulate_calls([server.options()], requests, sample_s=None, on_progress=on_progress)
    return as_client_sees(requests, run.calls, server)


def as_client_sees(requests: pd.DataFrame, calls: pd.DataFrame, server: ServerSection) -> pd.DataFrame:
    """Return the requests with ``sim_ttft_s`` and ``sim_e2e_s``: the server's times and the client's overhead.

    Both are empty where the request was not served. ``calls`` (columns of ``traces.CALLS``) are in the order of the
    requests.
    """
    served = calls["outcome"] == "finished"
    times = calls[["ttft_s", "e2e_s"]].where(served).to_numpy(dtype="float64") + server.client.overhead_s
    return requests.assign(sim_ttft_s=times[:, 0], sim_e2e_s=times[:, 1])
