"""One LLM request on its way through a simulated server."""

from collections.abc import Hashable, Iterator
from enum import Enum

from .kv_cache import Block

Prefix = tuple[tuple[Hashable, int], ...]
"""Segments ``(key, end)`` of a prompt that other requests may share: ``key`` stands for all tokens up to ``end``,
those of earlier segments included. Tokens after the last segment are the request's own."""


class Status(Enum):
    """The states of ``vllm/v1/request.py: RequestStatus`` that a text-only request passes through."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"
    ABORTED = "aborted"


# Bound once: reading a member off its Enum costs as much as a method call, and the scheduler does it all the time.
WAITING, RUNNING, PREEMPTED, FINISHED, ABORTED = Status


class Request:
    """What was asked (set by the caller) and how far it has come (set by the scheduler and the server).

    Parameters
    ----------
    request_id
        Unique on its server; under ``priority`` it breaks ties of priority and arrival, as text.
    arrival
        When it reached the server. The scheduler only compares it.
    prompt_tokens, output_tokens
        Lengths; the outputs are those it will generate if nothing stops it earlier.
    max_tokens
        As in vLLM; ``None`` means ``output_tokens``, so that the request stops by length. With a larger value it
        stops by a stop token, of which an asynchronous scheduler learns one step late.
    priority
        Lower is more urgent; read only under the ``priority`` policy.
    prefix
        Parts of the prompt that other requests may share (prefix caching).

    Raises
    ------
    ValueError
        A length below 1.
    """

    __slots__ = (
        "admission",
        "arrival",
        "cached_blocks",
        "data_parallel_rank",
        "final_tokens",
        "finished_at",
        "first_token_at",
        "group_base",
        "group_finish",
        "group_last",
        "is_prefill_chunk",
        "max_tokens",
        "num_blocks",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_in_flight_tokens",
        "num_output_placeholders",
        "num_output_tokens",
        "num_preemptions",
        "num_stale_output_tokens",
        "outcome",
        "output_tokens",
        "prefix",
        "priority",
        "prompt_tokens",
        "refusal",
        "request_id",
        "scheduled_at",
        "server_name",
        "status",
    )

    def __init__(
        self,
        request_id: str,
        arrival: float,
        prompt_tokens: int,
        output_tokens: int,
        max_tokens: int | None = None,
        priority: int = 0,
        prefix: Prefix = (),
    ) -> None:
        if prompt_tokens < 1 or output_tokens < 1:
            raise ValueError(f"{request_id}: {prompt_tokens} prompt and {output_tokens} output tokens; each needs 1")
        self.request_id = request_id
        self.arrival = arrival
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.max_tokens = output_tokens if max_tokens is None else max_tokens
        self.priority = priority
        self.prefix = prefix

        self.status = WAITING
        self.num_computed_tokens = 0
        self.num_output_tokens = 0
        self.num_output_placeholders = 0
        """Tokens scheduled but not yet sampled (asynchronous scheduling)."""
        self.num_in_flight_tokens = 0
        self.num_stale_output_tokens = 0
        """In-flight tokens at the last preemption that have not come back yet (asynchronous scheduling)."""
        self.num_preemptions = 0
        self.is_prefill_chunk = False
        self.num_blocks = 0
        self.cached_blocks: list[Block] = []
        """The hashed blocks it holds: always the first ones of its block table."""
        self.num_cached_tokens = 0
        """Prompt tokens that its first admission found in the prefix cache."""
        self.admission = -1
        """Rank among all admissions of the server: the order of ``running``."""
        self.final_tokens = 0
        """Prompt and output tokens at which it stops; set by ``Scheduler.why_never``."""

        # Set by the server; times are in clock ticks.
        self.server_name = ""
        self.data_parallel_rank: int | None = None
        """Which of its server's engines has it; None if there is one, or while it is with none."""
        self.scheduled_at: int | None = None
        self.first_token_at: int | None = None
        self.finished_at: int | None = None
        self.outcome: str | None = None
        self.refusal: str | None = None
        """Why the server can never serve it, in words."""

        # Set by the fast-forwarding scheduler for the members of its decode group.
        self.group_finish = 0
        """The round that samples its last token; 0: not a member."""
        self.group_last = 0
        """The last round that gives it a token."""
        self.group_base = 0
        """After round r it has computed this many tokens, and r."""

    def __repr__(self) -> str:
        return f"<Request {self.request_id} {self.status.value} {self.prompt_tokens}+{self.num_output_tokens}>"

    @property
    def num_tokens(self) -> int:
        """Prompt and sampled output tokens."""
        return self.prompt_tokens + self.num_output_tokens

    def block_keys(self, block_size: int, start: int, stop: int) -> Iterator[Hashable]:
        """What stands for the hashes of its blocks ``start`` to ``stop - 1``, generated tokens included."""
        ends = iter(self.prefix)
        key, end = next(ends, (self.request_id, -1))
        for index in range(start, stop):
            while end >= 0 and end < (index + 1) * block_size:
                key, end = next(ends, (self.request_id, -1))
            yield (key, index)
