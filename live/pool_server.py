"""One server of a live pool, as the workflow driver sees it."""

import math
from collections.abc import Callable

from inframind.workflows import Submit

from .asks import Ask
from .client import Call, Client, Outcome, RequestError, ServerError
from .metrics import Gauges, MetricsError, parse_gauges
from .workflow_driver import ABORTED, CallEnd, Poll

POLL_TIMEOUT_S = 2.0
FROZEN_CHUNKS = 20
"""So many pieces of output have come while the polls showed one number of generated tokens: the metrics stand still.
Fewer may just have been under way."""


class PoolServer:
    """Makes calls, reads gauges, and judges what comes back.

    Parameters
    ----------
    model
        The name under which the server serves it.
    ask
        Makes the request of a call.
    on_call
        Told of each call when it has ended, whatever its outcome.
    """

    def __init__(self, client: Client, model: str, ask: Ask, on_call: Callable[[Submit, Call], None]) -> None:
        self.num_polls = self.num_failed_polls = self.num_restarts = 0
        self._client = client
        self._model = model
        self._ask = ask
        self._on_call = on_call
        self._process_start_s = math.nan
        self._last_tokens = math.nan
        """Generated, as of the last poll."""
        self._last_chunks = 0
        """Received, as of the poll that showed this number first."""

    async def serve(self, submit: Submit) -> CallEnd:
        """Make a call; its failures are told in what is returned."""
        call = self._ask(submit)
        try:
            await self._client.complete(call, self._model)
        finally:
            self._on_call(submit, call)
        if call.outcome is Outcome.FINISHED and call.usage is not None:
            return CallEnd(*call.usage, call.text if call.is_chat else None)
        return CallEnd(
            submit.prompt.tokens,
            call.num_chunks,
            None,
            failure=f"{call.outcome}: {call.detail}" if call.detail else f"{call.outcome}",
            is_unreachable=call.outcome is Outcome.UNREACHABLE,
        )

    async def poll(self) -> Poll:
        """Read ``/metrics``. Gauges that cannot be read, or that stand still while the server works, are not told."""
        self.num_polls += 1
        poll = await self._look()
        if poll.gauges is None:
            self.num_failed_polls += 1
        return poll

    async def _look(self) -> Poll:
        try:
            response = await self._client.get("/metrics", POLL_TIMEOUT_S)
            gauges = parse_gauges(response.text)
        except (RequestError, MetricsError):
            return Poll(None, is_alive=True)
        except ServerError:
            return Poll(None, is_alive=False)
        return Poll(None if self._stands_still(gauges) else gauges, is_alive=True)

    def _stands_still(self, gauges: Gauges) -> bool:
        if abs(gauges.process_start_s - self._process_start_s) > 0:
            self.num_restarts += 1
        self._process_start_s = gauges.process_start_s
        if gauges.generation_tokens != self._last_tokens:
            self._last_tokens, self._last_chunks = gauges.generation_tokens, self._client.num_chunks
        return self._client.num_chunks - self._last_chunks > FROZEN_CHUNKS


def outcome_name(call: Call) -> str:
    """As it stands in the table of calls."""
    return ABORTED if call.outcome is Outcome.STOPPED else str(call.outcome)
