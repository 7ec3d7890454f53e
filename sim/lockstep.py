"""The schedulers of several engines that step together, as one.

Engines of a mixture of experts (``--data-parallel-size``) exchange tokens in each layer, so they step in lockstep: each
schedules its own requests, all wait for the slowest, and one with nothing to do takes part with an empty batch
(``vllm/v1/engine/core.py: DPEngineCoreProc``, 0.32.0).
"""

from collections import deque
from collections.abc import Sequence

from .fast_forward import FastForwardScheduler
from .request import Request
from .step_time import StepTicks
from .vllm_0_32 import Scheduler, SchedulerOptions, Step


class LockstepScheduler:
    """So many schedulers, for a `Server`: each request has its ``data_parallel_rank`` already.

    With fast-forward a run of uniform rounds is one of all engines: it ends where the first of theirs does, or another
    engine becomes the slowest.
    """

    def __init__(self, options: SchedulerOptions, num_engines: int, *, fast_forward: bool) -> None:
        self._fast = [FastForwardScheduler(options) for _ in range(num_engines)] if fast_forward else []
        self.parts: Sequence[Scheduler] = self._fast or [Scheduler(options) for _ in range(num_engines)]
        """By rank."""
        self.in_flight: deque[Step] = deque()
        """As ``Scheduler.in_flight``; that of each part has its part of each step."""

    # As of one engine.

    @property
    def running(self) -> list[Request]:
        """Of all engines."""
        return [request for part in self.parts for request in part.running]

    @property
    def waiting(self) -> list[Request]:
        """Of all engines."""
        return [request for part in self.parts for request in part.waiting.requests()]

    def add_request(self, request: Request) -> None:
        """As ``Scheduler.add_request``."""
        self._of(request).add_request(request)

    def may_admit(self, request: Request) -> bool:
        """As ``Scheduler.may_admit``."""
        return self._of(request).may_admit(request)

    def why_never(self, request: Request) -> str | None:
        """As ``Scheduler.why_never``: the engines are alike."""
        return self.parts[0].why_never(request)

    def has_unfinished_requests(self) -> bool:
        """Whether anything waits or runs."""
        return any(part.running or part.waiting for part in self.parts)

    def unfinished_requests(self) -> list[Request]:
        """Those that run, then those that wait."""
        return [*self.running, *self.waiting]

    def abort(self, request: Request) -> None:
        """As ``Scheduler.abort``."""
        self._of(request).abort(request)

    def schedule(self) -> Step:
        """Decide the next batch of each engine."""
        step = _joint([part.schedule() for part in self.parts])
        self.in_flight.append(step)
        return step

    def update_from_output(self) -> tuple[Sequence[Request], Sequence[Request]]:
        """As ``Scheduler.update_from_output``, engine by engine."""
        self.in_flight.popleft()
        first_tokens: list[Request] = []
        finished: list[Request] = []
        for part in self.parts:
            begun, ended = part.update_from_output()
            first_tokens += begun
            finished += ended
        return first_tokens, finished

    def _of(self, request: Request) -> Scheduler:
        assert request.data_parallel_rank is not None
        return self.parts[request.data_parallel_rank]

    # Runs of rounds: as of ``FastForwardScheduler``.

    def get_kv_cache_usage(self, rounds: int = 0) -> float:
        """The mean of the engines' after so many more rounds."""
        usages = self.kv_cache_usages(rounds)
        return sum(usages) / len(usages)

    def kv_cache_usages(self, rounds: int) -> list[float]:
        """Of each engine after so many more rounds."""
        usages = [part.get_kv_cache_usage(rounds) for part in self._fast]
        return usages or [part.get_kv_cache_usage() for part in self.parts]

    def uniform_rounds(self) -> int:
        """How many of the next steps would do nothing but give each decoding request one token, on all engines."""
        return min((part.uniform_rounds() for part in self._fast if part.has_unfinished_requests()), default=0)

    def timing(self, ticks: StepTicks, rounds: int) -> tuple[int, int, int]:
        """Of the engine that is the slowest in the first round, and for how many rounds it is."""
        alone = []
        for part in self._fast:
            first, growth = ticks.decode_rounds(part.num_decoding, part.context_tokens)
            alone.append((first - ticks.experts(part.num_decoding), growth))
        first, growth = max(alone)
        for other_first, other_growth in alone:
            if other_growth > growth:
                rounds = min(rounds, 1 + (first - other_first) // (other_growth - growth))
        return first + ticks.experts(sum(part.num_decoding for part in self._fast)), growth, rounds

    def has_tail(self, rounds: int) -> bool:
        """A tail is not looked for: it would have to be as plain on all engines."""
        return False

    def advance(self, rounds: int) -> None:
        """Schedule that many rounds at once."""
        for part in self._fast:
            part.advance(rounds)

    def take_oldest(self) -> Step:
        """Take the oldest step in flight as processed, one that finishes nobody."""
        step = self.in_flight.popleft()
        step.first_tokens = [request for part in self._fast for request in part.take_oldest().first_tokens]
        return step

    def add_plain(self) -> Step:
        """A step in flight that is one of those which were advanced by."""
        step = _joint([part.add_plain() for part in self._fast])
        self.in_flight.append(step)
        return step


def _joint(parts: Sequence[Step]) -> Step:
    step = Step()
    step.parts = parts
    step.scheduled = {}
    preempted: list[Request] = []
    for part in parts:
        step.scheduled |= part.scheduled
        preempted += part.preempted
        step.num_decodes += part.num_decodes
        step.prefill_tokens += part.prefill_tokens
        step.context_tokens += part.context_tokens
        step.prefill_pairs += part.prefill_pairs
    step.preempted = preempted
    return step
