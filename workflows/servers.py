"""What the controller knows of its servers: gauges as last polled, and what it has done itself since."""

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

from inframind.traces import ConfigError


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What does not change about a server."""

    name: str
    model: str
    max_num_seqs: int
    """vLLM's limit on requests that run at once."""
    max_model_len: int | None = None
    """Most tokens of prompt and output together, to which calls are made to fit; None where it is not known."""


class ServerTable:
    """One entry for each server in every list.

    Before its first poll a server counts as idle, and as polled when the run began.

    Raises
    ------
    ConfigError
        No servers, or two of one name.
    """

    def __init__(self, infos: Sequence[ServerInfo]) -> None:
        names = [info.name for info in infos]
        if not names:
            raise ConfigError("pool", ["has no servers"])
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError("pool", [f"server names used more than once: {', '.join(twice)}"])
        self.infos = tuple(infos)
        num = len(names)
        self.is_open = [True] * num
        self.waiting = [0] * num
        self.running = [0] * num
        self.kv_usage = [0.0] * num
        self.polled_at = [0.0] * num
        self.since_poll = [0] * num
        """Own calls submitted less those ended since the last poll."""
        self._priorities: list[list[int]] = [[] for _ in names]
        """Of own calls in flight, in order."""

    @property
    def in_flight(self) -> list[int]:
        """Own calls submitted and not ended."""
        return [len(each) for each in self._priorities]

    def ahead_of(self, priority: int) -> tuple[int, ...]:
        """Own calls in flight on each server that it takes before a call that comes now with this priority."""
        return tuple([bisect_right(each, priority) for each in self._priorities])

    def polled(self, t: float, server: int, waiting: int, running: int, kv_usage: float) -> None:
        """New gauges: what happened before is in them."""
        self.waiting[server] = waiting
        self.running[server] = running
        self.kv_usage[server] = kv_usage
        self.polled_at[server] = t
        self.since_poll[server] = 0

    def submitted(self, server: int, priority: int) -> None:
        """A call has gone there."""
        insort(self._priorities[server], priority)
        self.since_poll[server] += 1

    def ended(self, server: int, priority: int) -> None:
        """A call there has ended."""
        self._priorities[server].remove(priority)
        self.since_poll[server] -= 1
