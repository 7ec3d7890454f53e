"""Replay a schedule recording through our scheduler, on the recorder's own virtual clock.

A recording is one JSON document: ``config`` and ``requests`` (the question), ``steps`` and ``finished`` (what a
scheduler answered). ``docs/scheduler.md`` has the schema.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import ConfigDict, model_validator

from inframind.traces import Section

from .request import Request
from .vllm_0_32 import Scheduler, SchedulerOptions, Step

EOS_SLACK_TOKENS = 400
"""How far ``max_tokens`` lies beyond the output of a request that stops by a stop token."""

MAX_STEPS_WITHOUT_END = 1_000_000
"""Two requests of equal priority and arrival can preempt each other for ever, in vLLM too; then this stops us."""

_OPTION_NAMES = {"prefix_caching": "enable_prefix_caching", "chunked_prefill": "enable_chunked_prefill"}
_CLOCK_NAMES = ("c0", "c1", "c2")


class WorkloadConfig(Section):
    """The ``config`` of a recording: scheduler options, and the made-up step time of its clock."""

    policy: Literal["fcfs", "priority"]
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    num_blocks: int
    max_model_len: int
    prefix_caching: bool
    long_prefill_token_threshold: int
    chunked_prefill: bool
    async_scheduling: bool
    scheduler_reserve_full_isl: bool = True
    watermark: float = 0.0
    c0: float
    """Seconds for each step."""
    c1: float
    """Seconds for each token."""
    c2: float
    """Seconds for each context token."""


class WorkloadRequest(Section):
    """One of the ``requests`` of a recording."""

    id: str
    uid: int
    arrival: float
    prompt_tokens: int
    output_tokens: int
    priority: int
    prefix: tuple[int, int] | None
    """Group, and how many first tokens the requests of that group share."""
    stop: Literal["length", "eos"]
    """By ``max_tokens``, or by a stop token."""

    @model_validator(mode="after")
    def _prefix_is_within_the_prompt(self) -> Self:
        if self.prefix is not None and self.prefix[1] > self.prompt_tokens:
            raise ValueError(f"prefix ({self.prefix[1]} tokens) is longer than the prompt ({self.prompt_tokens})")
        return self


class WorkloadFile(Section):
    """A recording, of which only the question is read."""

    model_config = ConfigDict(extra="ignore")

    config: WorkloadConfig
    requests: tuple[WorkloadRequest, ...]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        counts = Counter(request.id for request in self.requests)
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            raise ValueError(f"requests: ids used more than once: {', '.join(twice)}")
        return self


def scheduler_options(config: Mapping[str, Any]) -> SchedulerOptions:
    """The scheduler options of a recording's ``config``."""
    return SchedulerOptions(
        **{_OPTION_NAMES.get(name, name): value for name, value in config.items() if name not in _CLOCK_NAMES}
    )


def recorded_request(row: Mapping[str, Any]) -> Request:
    """One entry of a recording's ``requests``."""
    prefix = row["prefix"]
    slack = EOS_SLACK_TOKENS if row["stop"] == "eos" else 0
    return Request(
        row["id"],
        row["arrival"],
        row["prompt_tokens"],
        row["output_tokens"],
        max_tokens=row["output_tokens"] + slack,
        priority=row["priority"],
        prefix=() if prefix is None else ((prefix[0], prefix[1]),),
    )


def schedule_workload(config: Mapping[str, Any], requests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Run a workload step by step; returns ``{"steps": ..., "finished": ...}`` as a recording has them.

    The clock adds up floats in the recorder's order, so that ties between arrivals and step ends fall alike.

    Raises
    ------
    ValueError
        A request can never be served, or two preempt each other for ever.
    """
    run = _Run(config)
    pending = deque(sorted((recorded_request(row) for row in requests), key=lambda r: r.arrival))
    for request in pending:
        reason = run.scheduler.why_never(request)
        if reason is not None:
            raise ValueError(f"request {request.request_id}: {reason}")
    while pending or run.is_busy:
        if not run.is_busy:
            run.now = max(run.now, pending[0].arrival)
        while pending and pending[0].arrival <= run.now:
            run.add_request(pending.popleft())
        run.turn()
    return {"steps": run.steps, "finished": run.finished}


class _Run:
    """The engine core's loop (``vllm/v1/engine/core.py: step``, ``step_with_batch_queue``) on a virtual clock."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.scheduler = Scheduler(scheduler_options(config))
        self.steps: list[list[Any]] = []
        self.finished: dict[str, list[Any]] = {}
        self.now = 0.0
        self._device_free = 0.0
        self._c0, self._c1, self._c2 = (config[name] for name in _CLOCK_NAMES)
        self._depth = 2 if config["async_scheduling"] else 1
        self._ends: dict[Step, float] = {}
        self._first_token: dict[str, float] = {}
        self._arrivals: dict[str, int] = {}
        self._last_end = 0
        """Steps when a request last ended."""

    def add_request(self, request: Request) -> None:
        self._arrivals[request.request_id] = len(self._arrivals)
        self.scheduler.add_request(request)

    @property
    def is_busy(self) -> bool:
        return bool(self.scheduler.in_flight) or self.scheduler.has_unfinished_requests()

    def turn(self) -> None:
        """Schedule one step; once as many are in flight as there may be, wait for the oldest."""
        if self.scheduler.has_unfinished_requests():
            step = self.scheduler.schedule()
            self._launch(step)
            has_more = step.num_tokens > 0 or self.scheduler.has_unfinished_requests()
            if len(self.scheduler.in_flight) < self._depth and has_more:
                return
        if self.scheduler.in_flight:
            self._process(self._ends.pop(self.scheduler.in_flight[0]))

    def _launch(self, step: Step) -> None:
        start = end = self.now
        if step.num_tokens:
            start = max(self.now, self._device_free)
            end = start + (self._c0 + self._c1 * step.num_tokens + self._c2 * step.context_tokens)
            self._device_free = end
        if len(self.steps) - self._last_end > MAX_STEPS_WITHOUT_END:
            raise ValueError(f"no request has ended for {MAX_STEPS_WITHOUT_END} steps: two preempt each other for ever")
        if step.num_tokens or step.preempted:
            scheduler = self.scheduler
            self.steps.append(
                [
                    self.now,
                    start,
                    end,
                    {request.request_id: tokens for request, tokens in step.scheduled.items()},
                    # The recorder lists the preempted in order of arrival.
                    sorted((request.request_id for request in step.preempted), key=self._arrivals.__getitem__),
                    len(scheduler.running),
                    len(scheduler.waiting),
                    scheduler.kv_cache.num_free,
                ]
            )
        self._ends[step] = end

    def _process(self, end: float) -> None:
        self.now = max(self.now, end)
        first_tokens, finished = self.scheduler.update_from_output()
        for request in first_tokens:
            self._first_token[request.request_id] = self.now
        if finished:
            self._last_end = len(self.steps)
        for request in finished:
            times = [self._first_token[request.request_id], self.now, request.num_preemptions]
            self.finished[request.request_id] = times
