"""A run of decode steps as one thing: when each of them ends, in closed form."""

from math import sqrt


class DecodeRun:
    """A number of uniform steps after those that were in flight when the run began, and perhaps one more: the tail.

    Under asynchronous scheduling the step in which somebody gets its last token is followed by one without it, before
    the engine knows that token. That step is the tail.

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
    """

    __slots__ = (
        "_first",
        "_growth",
        "_lag",
        "_oldest_end",
        "has_tail",
        "missing",
        "origin",
        "rounds",
    )

    def __init__(self, oldest_end: int, origin: int, first: int, growth: int, missing: int, lag: int) -> None:
        self._oldest_end = oldest_end
        self.origin = origin
        self._first = first
        self._growth = growth
        self.missing = missing
        self._lag = lag
        self.rounds = 0
        self.has_tail = False

    def stop_after(self, rounds: int, *, has_tail: bool = False) -> int:
        """Let the run have so many rounds, and a tail or none. Returns when the engine must look again: all of them
        are scheduled, and the oldest step in flight ends."""
        self.rounds = rounds
        self.has_tail = has_tail
        ended = rounds - self._lag + has_tail
        if ended > 0:
            return self.origin + ended * self._first + self._growth * (ended * (ended - 1) // 2)
        return self.origin if ended == 0 else self._oldest_end

    def round_end(self, rounds: int) -> int:
        """When so many of its rounds have ended."""
        return self.origin + rounds * self._first + self._growth * (rounds * (rounds - 1) // 2)

    def rounds_by(self, tick: int) -> int:
        """How many rounds, the tail included, are scheduled just before ``tick``: when they are, the next look is at
        ``tick`` or later."""
        elapsed = tick - self.origin
        if elapsed <= 0:
            rounds = self._lag if tick > self._oldest_end else 0
            return rounds if rounds > self.missing else self.missing
        # The fewest rounds that last as long as the time elapsed: a float guess, made exact.
        first, growth = self._first, self._growth
        b = first - growth / 2
        ended = 1 + int((sqrt(b * b + 2 * growth * elapsed) - b) / growth if growth else elapsed / first)
        while ended * first + growth * (ended * (ended - 1) // 2) < elapsed:
            ended += 1
        while ended > 1 and (ended - 1) * first + growth * ((ended - 1) * (ended - 2) // 2) >= elapsed:
            ended -= 1
        rounds = ended + self._lag
        most = self.rounds + self.has_tail
        return rounds if rounds < most else most
