"""The simulation clock counts whole femtoseconds.

With integer time, k equal steps at once end exactly where k single steps do, and two things at the same time are at
the same time: fast-forward can equal the step-by-step engine, ties included. Everything that leaves the simulator is
in seconds (float).
"""

import simpy

TICKS_PER_S = 10**15


def to_ticks(seconds: float) -> int:
    """Seconds as whole ticks, to the nearest."""
    return round(seconds * TICKS_PER_S)


def to_seconds(ticks: int) -> float:
    """Ticks as seconds, to the nearest float."""
    return ticks / TICKS_PER_S


class Environment(simpy.Environment):
    """A SimPy environment that counts ticks: delays given to ``timeout()`` are whole ticks too."""

    def __init__(self) -> None:
        super().__init__(initial_time=0)
        self.wake_tick = -1
        """When a server woke last, and the highest rank of those that woke then: see `Server`."""
        self.wake_rank = -1

    @property
    def now(self) -> int:
        """The time in ticks."""
        return self._now  # type: ignore[return-value]

    @property
    def now_s(self) -> float:
        """The time in seconds."""
        return to_seconds(self.now)

    def timeout_at(self, seconds: float) -> simpy.Timeout:
        """A timeout at an absolute time, which must not have passed."""
        return self.timeout(to_ticks(seconds) - self.now)
