"""A run of decode steps as one thing: when each of them ends, in closed form."""

from math import sqrt

_ROUNDING = 1e-6
"""More than floats err in a number of rounds: by one part in 10^15."""


class DecodeRun:
    """A number of uniform steps after those that were in flight when the run began, and perhaps one more: the tail.

    Under asynchronous scheduling the step that gives somebody its last token is followed by one more before the
    engine knows that token. That step is the tail.

    Parameters
    ----------
    oldest_end
        When the oldest step in flight ends.
    origin
        When the run's first round starts: the youngest step in flight ends.
    first, growth
        Duration of the first round, and what each further one takes longer than the one before.
    missing
        Rounds that are scheduled at once; each further one when the oldest step in flight has ended.
    lag
        Steps in flight beside the oldest.
    rounds, has_tail
        Uniform rounds, at least one, and whether the tail follows.
    """

    __slots__ = (
        "_first",
        "_growth",
        "_lag",
        "_oldest_end",
        "has_tail",
        "is_cut",
        "missing",
        "origin",
        "rounds",
        "stop",
    )

    def __init__(
        self, oldest_end: int, origin: int, first: int, growth: int, missing: int, lag: int, rounds: int, has_tail: bool
    ) -> None:
        self._oldest_end = oldest_end
        self.origin = origin
        self._first = first
        self._growth = growth
        self.missing = missing
        self._lag = lag
        self.rounds = rounds
        self.has_tail = has_tail
        self.is_cut = False
        ended = rounds + has_tail - lag
        self.stop = origin + ended * first + growth * (ended * (ended - 1) // 2)
        """When the engine must look again: all rounds are scheduled, and the oldest step in flight ends."""

    def cut(self, tick: int) -> bool:
        """Let the run stop at the first look at ``tick`` or later, if that is before its end."""
        rounds = self.rounds_by(tick)
        if rounds == self.rounds + self.has_tail:
            return False
        self.rounds, self.has_tail, self.is_cut = rounds, False, True
        self.stop = self._oldest_end if rounds < self._lag else self.origin + self._ticks(rounds - self._lag)
        return True

    def last_ticks(self) -> int:
        """Duration of the last uniform round."""
        return self._first + self._growth * (self.rounds - 1)

    def rounds_by(self, tick: int) -> int:
        """How many rounds, the tail included, are scheduled just before ``tick``: when they are, the next look is at
        ``tick`` or later."""
        elapsed = tick - self.origin
        if elapsed <= 0:
            rounds = self._lag if tick > self._oldest_end else 0
            return rounds if rounds > self.missing else self.missing
        # The fewest rounds that last as long: the root of growth/2 n^2 + (first - growth/2) n = elapsed, rounded up.
        b = self._first - self._growth / 2
        root = 2 * elapsed / (b + sqrt(b * b + 2.0 * self._growth * elapsed))
        ended = round(root)
        if root - ended > _ROUNDING or (root - ended > -_ROUNDING and self._ticks(ended) < elapsed):
            ended += 1
        rounds = ended + self._lag
        most = self.rounds + self.has_tail
        return rounds if rounds < most else most

    def _ticks(self, rounds: int) -> int:
        """How long the first so many rounds last."""
        return rounds * self._first + self._growth * (rounds * (rounds - 1) // 2)
