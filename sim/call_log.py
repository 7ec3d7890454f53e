"""What happened to each call, in compact columns: a million calls take some 150 MB."""

from array import array

import numpy as np
import pandas as pd

from inframind.traces import CALLS

from .clock import TICKS_PER_S
from .request import Request
from .server import FINISHED, Server

_NEVER = float("nan")


class CallLog:
    """Takes ended requests in, gives a table out."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._servers: list[Server] = []
        self._outcomes: list[str] = []
        self._lengths = array("q")
        """Prompt and output tokens, priority, preemptions and cached tokens of each call, one after the other."""
        self._ticks = array("d")
        """Arrival, first scheduled, first token and end of each call."""

    def __len__(self) -> int:
        return len(self._ids)

    def record(self, server: Server, request: Request) -> None:
        """Note a request that has just ended."""
        self._ids.append(request.request_id)
        self._servers.append(server)
        self._outcomes.append(request.outcome or "")
        self._lengths.extend(
            (
                request.prompt_tokens,
                request.num_output_tokens,
                request.priority,
                request.num_preemptions,
                request.num_cached_tokens,
            )
        )
        scheduled, first_token = request.scheduled_at, request.first_token_at
        self._ticks.extend(
            (
                request.arrival,
                _NEVER if scheduled is None else scheduled,
                _NEVER if first_token is None else first_token,
                request.finished_at or 0,
            )
        )

    def frame(self) -> pd.DataFrame:
        """One row for each call in the columns of ``traces.CALLS``, in the order of their ends."""
        lengths = np.frombuffer(self._lengths, dtype=np.int64).reshape(-1, 5)
        seconds = np.frombuffer(self._ticks, dtype=np.float64).reshape(-1, 4) / TICKS_PER_S
        arrival, scheduled, first_token, end = seconds.T
        outcome = pd.Series(self._outcomes, dtype="str")
        finished = (outcome == FINISHED).to_numpy()
        output_tokens = lengths[:, 1]
        with np.errstate(invalid="ignore", divide="ignore"):
            tpot = np.where(finished & (output_tokens > 1), (end - first_token) / (output_tokens - 1), np.nan)
        calls = pd.DataFrame(
            {
                "call_id": pd.Series(self._ids, dtype="str"),
                "workflow_id": None,
                "role": None,
                "server": pd.Series([server.options.name for server in self._servers], dtype="str"),
                "model": pd.Series([server.options.model for server in self._servers], dtype="str"),
                "arrival_s": arrival,
                "prompt_tokens": lengths[:, 0],
                "output_tokens": output_tokens,
                "priority": lengths[:, 2],
                "budget_s": np.nan,
                "deadline_s": np.nan,
                "scheduled_s": scheduled,
                "first_token_s": first_token,
                "finish_s": end,
                "num_preemptions": lengths[:, 3].astype(np.int32),
                "num_cached_tokens": lengths[:, 4],
                "outcome": outcome,
                "ttft_s": first_token - arrival,
                "tpot_s": tpot,
                "e2e_s": np.where(finished, end - arrival, np.nan),
            }
        )
        return calls.reindex(columns=CALLS.names)
