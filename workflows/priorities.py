"""In which order servers should take calls: rules that give each call its vLLM priority.

vLLM compares priorities, lower first, and a priority is set once, when the call is submitted. So a rule must give
numbers that stay comparable as time goes on. Deadlines do. Slack does not, it shrinks while a call waits; but it
shrinks for all calls alike, so that the order by slack is the order by latest start, deadline less remaining work,
which stays.
"""

from collections.abc import Callable

LATE = 10**15
"""In milliseconds, some 30,000 years: beyond every deadline, within vLLM's 64 bits and JSON's 53."""

PriorityRule = Callable[[float, float, float], int]
"""``(time, deadline, predicted seconds of the remaining critical path, this call included) -> priority``."""


def none(t: float, deadline_s: float, path_s: float) -> int:
    """All alike: first come, first served."""
    return 0


def edf_priority(deadline_s: float) -> int:
    """Earliest deadline first, in milliseconds: in whole seconds too many would tie."""
    return round(1000 * deadline_s)


def edf(t: float, deadline_s: float, path_s: float) -> int:
    """`edf_priority`, whatever the time and the work."""
    return edf_priority(deadline_s)


def edf_late_last(t: float, deadline_s: float, path_s: float) -> int:
    """As EDF, but whoever is late already comes after all others, the least late first.

    Under overload EDF serves the calls that cannot be saved before those that can; as JITServe's SRTF policy (arXiv
    2504.20068) does not.
    """
    return edf_priority(deadline_s) if t <= deadline_s else LATE - edf_priority(deadline_s)


def least_slack(t: float, deadline_s: float, path_s: float) -> int:
    """Least slack first: by the latest time, in milliseconds, to begin what remains."""
    return round(1000 * (deadline_s - path_s))


PRIORITY_RULES: dict[str, PriorityRule] = {
    "none": none,
    "edf": edf,
    "edf-late-last": edf_late_last,
    "least-slack": least_slack,
}


class CallTimes:
    """Predicts a call's time from those that have ended: running means by server and strategy, and over all."""

    WEIGHT = 0.05
    """Of the newest call: the mean reaches back some 20 calls."""
    FIRST_GUESS_S = 10.0
    """Until a call has ended."""

    def __init__(self) -> None:
        self._mean_s = self.FIRST_GUESS_S
        self._means_s: dict[tuple[int, str], float] = {}

    def add(self, server: int, strategy: str, seconds: float) -> None:
        """A call has finished."""
        if not self._means_s:
            self._mean_s = seconds
        key = server, strategy
        mean = self._means_s.get(key, seconds)
        self._means_s[key] = mean + self.WEIGHT * (seconds - mean)
        self._mean_s += self.WEIGHT * (seconds - self._mean_s)

    def mean_path_s(self, calls_to_go: int) -> float:
        """Seconds of a critical path, wherever its calls go."""
        return calls_to_go * self._mean_s

    def path_s(self, server: int, strategy: str, calls_to_go: int) -> float:
        """Seconds of a critical path whose first call goes to this server, and the others wherever calls go."""
        return self._means_s.get((server, strategy), self._mean_s) + self.mean_path_s(calls_to_go - 1)
