"""What the controller is told: facts, each with the time at which they became known.

Times are seconds since the run began, and never go back. Servers are meant by their place in the controller's list,
from 0. What happens at the same instant is told in the order of `tie_order`.
"""

from dataclasses import dataclass
from typing import get_args

from .query import Query


@dataclass(frozen=True, slots=True)
class MetricsPolled:
    """A server's gauges as just read."""

    t: float
    server: int
    waiting: int
    """``vllm:num_requests_waiting``."""
    running: int
    """``vllm:num_requests_running``."""
    kv_usage: float
    """``vllm:kv_cache_usage_perc``: 0 to 1."""


@dataclass(frozen=True, slots=True)
class ServerClosed:
    """A server takes no more calls. Those it has still end, each with an event of its own."""

    t: float
    server: int


@dataclass(frozen=True, slots=True)
class ServerOpened:
    """A server takes calls again. All are open at the start."""

    t: float
    server: int


@dataclass(frozen=True, slots=True)
class CallFinished:
    """A call's last token has come."""

    t: float
    call_id: str
    prompt_tokens: int
    """As the server counted them."""
    output_tokens: int
    text: str | None = None
    """What was written; None where only its length is known."""


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call ended without its last token: refused, cut off, timed out, cancelled, or its server died."""

    t: float
    call_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A query has come; its budget runs from now on."""

    t: float
    query: Query


@dataclass(frozen=True, slots=True)
class Woken:
    """The time has come that the controller gave as ``wake_at``."""

    t: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """The run is broken off: whatever is unfinished ends now."""

    t: float


Event = MetricsPolled | ServerClosed | ServerOpened | CallFinished | CallFailed | Arrived | Woken | Stopped

_ORDER = {kind: rank for rank, kind in enumerate(get_args(Event))}


def tie_order(event: Event) -> tuple[int, str | int]:
    """Sort key for the events of one instant: by kind as listed in ``Event``, then by server, call or query.

    First what became of servers and calls, then who comes anew: an arrival finds the state as it is.
    """
    match event:
        case MetricsPolled() | ServerClosed() | ServerOpened():
            return _ORDER[type(event)], event.server
        case CallFinished() | CallFailed():
            return _ORDER[type(event)], event.call_id
        case Arrived():
            return _ORDER[Arrived], event.query.query_id
        case Woken() | Stopped():
            return _ORDER[type(event)], 0
