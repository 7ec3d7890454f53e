"""The V1 scheduler of vLLM 0.32 for a dense text model on one device, decision for decision.

Pure: no clock, no SimPy, no randomness. The names, the order of the loops and their surprises are vLLM's
(``vllm/v1/core/sched/scheduler.py``, cited as S:line, and ``async_scheduler.py``, both 0.32.0); ``docs/scheduler.md``
says how equality is checked. Left out, because such a server never takes these paths: speculative decoding, KV
connectors, LoRA, encoder inputs, pipeline parallelism.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from .kv_cache import Block, KVCache
from .request import ABORTED, FINISHED, PREEMPTED, RUNNING, WAITING, Request, Status


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """vLLM's options under vLLM's names (``vllm/config/scheduler.py``, ``vllm/config/cache.py``).

    So are the defaults, those of a large GPU; but ``num_blocks`` and ``max_model_len`` vLLM itself finds from the GPU's
    memory and from the model.
    """

    policy: str = "fcfs"
    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 8192
    num_blocks: int = 4096
    block_size: int = 16
    max_model_len: int = 16384
    enable_prefix_caching: bool = True
    async_scheduling: bool = True
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    scheduler_reserve_full_isl: bool = True
    watermark: float = 0.0


class Step:
    """What one ``schedule()`` call decided, and the sums that its duration depends on.

    The defaults are those of an empty step; whoever makes a step sets what differs.
    """

    scheduled: dict[Request, int] = {}  # noqa: RUF012 - never filled in place, see Scheduler.schedule
    """Tokens per request, in vLLM's order: running ones first, then those admitted in this step."""
    chunks: Sequence[Request] = ()
    """Those of ``scheduled`` that stay in mid-prefill, so no token is sampled for them."""
    preempted: Sequence[Request] = ()
    num_decodes: int = 0
    """Requests with one token: what the attention kernels batch as decodes."""
    prefill_tokens: int = 0
    """Tokens of the other requests."""
    context_tokens: int = 0
    """Sum of ``num_computed_tokens`` over the batch, after this step."""
    prefill_pairs: int = 0
    """(query, key) pairs of the causal attention of all prefill chunks."""
    first_tokens: Sequence[Request] = ()
    """Set by fast-forward: who gets its first token from this step."""
    end: int = 0
    """Set by the server: when its output is ready, in clock ticks."""
    parts: Sequence["Step"] = ()
    """Of several engines in lockstep: the step of each; the sums are those of all."""

    @property
    def num_tokens(self) -> int:
        """Tokens in the batch."""
        return self.prefill_tokens + self.num_decodes


class FCFSQueue(deque[Request]):
    """First come, first served; a preempted request goes back to the head (``request_queue.py``)."""

    requests = deque.__iter__
    push = deque.append
    push_back = deque.appendleft
    take = deque.popleft

    def peek(self) -> Request:
        """The next request."""
        return self[0]

    def would_be_head(self, request: Request) -> bool:
        """Whether a new request would be next."""
        return not self

    drop = deque.remove


class PriorityQueue(list[tuple[int, float, str, Request]]):
    """Lowest ``(priority, arrival, request_id)`` first, preempted or not (``request_queue.py``, ``request.py``)."""

    def requests(self) -> Iterator[Request]:
        """All of them, in no particular order."""
        return (entry[3] for entry in self)

    def push(self, request: Request) -> None:
        """Add a request."""
        heappush(self, _rank(request))

    push_back = push

    def take(self) -> Request:
        """Remove and return the next request."""
        return heappop(self)[3]

    def peek(self) -> Request:
        """The next request."""
        return self[0][3]

    def would_be_head(self, request: Request) -> bool:
        """Whether a new request would be next."""
        return not self or _rank(request) < self[0]

    def drop(self, request: Request) -> None:
        """Remove one request from anywhere in the queue."""
        self.remove(_rank(request))
        heapify(self)


def _rank(request: Request) -> tuple[int, float, str, Request]:
    return (request.priority, request.arrival, request.request_id, request)


class Scheduler:
    """Decides which request gets how many tokens in each step.

    Call ``schedule()`` and, when the step has run, ``update_from_output()``; under asynchronous scheduling one more
    ``schedule()`` may come in between. Sampled tokens are made up: a request stops after ``output_tokens``.
    """

    def __init__(self, options: SchedulerOptions) -> None:
        self.options = options
        self.kv_cache = KVCache(options.num_blocks, options.block_size)
        self.running: list[Request] = []
        """In order of admission; never sorted, under ``priority`` neither."""
        self.waiting: FCFSQueue | PriorityQueue = PriorityQueue() if options.policy == "priority" else FCFSQueue()
        self.in_flight: deque[Step] = deque()
        """Scheduled steps whose output has not come in, oldest first."""
        self.is_admission_blocked = False
        """Whether no step can admit anything until a request comes, ends or frees blocks."""
        self._is_async = options.async_scheduling
        self._has_prefix_caching = options.enable_prefix_caching
        self._must_fit_whole = options.scheduler_reserve_full_isl
        self._watermark_blocks = int(options.watermark * options.num_blocks)
        self._num_admissions = 0

    # Requests come and go.

    def add_request(self, request: Request) -> None:
        """Queue a request for which ``why_never`` has found no reason."""
        if self.is_admission_blocked and self.may_admit(request):
            self.is_admission_blocked = False
        self.waiting.push(request)

    def may_admit(self, request: Request) -> bool:
        """Whether a new request could be admitted as things stand, so far as this is seen without a look at its
        blocks: a slot is free, and it would be the head of the queue or the head is not known to be blocked."""
        if len(self.running) >= self.options.max_num_seqs:
            return False
        return not self.is_admission_blocked or self.waiting.would_be_head(request)

    def why_never(self, request: Request) -> str | None:
        """The reason why this server can never serve the request to its end, or None; sets ``final_tokens``.

        vLLM refuses prompts of ``max_model_len`` at its front end (``vllm/v1/engine/input_processor.py:
        _validate_prompt_len``), and does not start with a KV cache smaller than one sequence of ``max_model_len``.
        """
        options = self.options
        outputs = request.output_tokens
        if outputs > request.max_tokens:
            outputs = request.max_tokens
        final = request.prompt_tokens + outputs
        if final > options.max_model_len:  # vllm/v1/core/sched/utils.py: check_stop
            final = options.max_model_len
            if request.prompt_tokens >= final:
                return f"a prompt of {request.prompt_tokens} tokens leaves no room for output in max_model_len {final}"
        request.final_tokens = final
        blocks = -(-final // options.block_size)
        if blocks > options.num_blocks - 1:
            return f"needs {blocks} KV blocks, more than the {options.num_blocks - 1} usable ones"
        return None

    def has_unfinished_requests(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.running or self.waiting)

    def unfinished_requests(self) -> list[Request]:
        """Those that run, then those that wait."""
        return [*self.running, *self.waiting.requests()]

    def get_kv_cache_usage(self) -> float:
        """Share of the usable blocks that are held."""
        return self.kv_cache.usage

    def abort(self, request: Request) -> None:
        """Take an unfinished request out and free its blocks (S:2649); its tokens in flight will be ignored."""
        self._end(request, ABORTED)

    # One step.

    def schedule(self) -> Step:
        """Decide the next batch (S:591); the step is empty if nothing can run."""
        step = Step()
        step.scheduled = {}
        cap = self._long_prefill_cap()
        budget = self._schedule_running(step, cap)
        if not step.preempted:  # S:900
            self._schedule_waiting(step, budget, cap)
        self._after_schedule(step)
        self.in_flight.append(step)
        return step

    def update_from_output(self) -> tuple[Sequence[Request], Sequence[Request]]:
        """Hand out the tokens that the oldest step in flight sampled (S:2026).

        Returns the requests that got their first token and those that finished, each in the order of the batch.
        """
        first_tokens, finished = self._append_tokens(self.in_flight.popleft())
        for request in finished:
            self._end(request, FINISHED)
        return first_tokens, finished

    def _long_prefill_cap(self) -> int:
        """The cap is off for a request that is alone (S:640)."""
        cap = self.options.long_prefill_token_threshold
        return cap if cap and len(self.running) + len(self.waiting) > 1 else 0

    def _schedule_running(self, step: Step, cap: int) -> int:
        """First those that run, in order of admission (S:658); returns the tokens left in the budget."""
        running = self.running
        budget = self.options.max_num_batched_tokens
        preempted: list[Request] = []
        step.preempted = preempted
        index = 0
        while index < len(running) and budget > 0:
            request = running[index]
            index += 1
            if self._ends_with_tokens_in_flight(request):
                continue
            tokens = self._next_tokens(request, cap, budget)
            if tokens == 0:
                continue
            while not self._allocate(request, tokens):
                victim = self._victim()
                position = running.index(victim)
                del running[position]
                if position < index:
                    index -= 1
                budget += step.scheduled.pop(victim, 0)
                self._preempt(victim)
                preempted.append(victim)
                if victim is request:
                    # The rest of the list gets nothing in this step, whether it needs blocks or not (S:849).
                    return budget
            step.scheduled[request] = tokens
            budget -= tokens
        return budget

    def _next_tokens(self, request: Request, cap: int, budget: int) -> int:
        """How many tokens a running request would like to have computed in a step, within its limits (S:701)."""
        tokens = request.num_tokens + request.num_output_placeholders - request.num_computed_tokens
        if 0 < cap < tokens:
            tokens = cap
        return min(tokens, budget, self.options.max_model_len - request.num_computed_tokens - 1)

    def _ends_with_tokens_in_flight(self, request: Request) -> bool:
        """Asynchronous scheduling: its last token by ``max_tokens`` is on its way already (S:665)."""
        placeholders = request.num_output_placeholders
        end = request.prompt_tokens + request.max_tokens
        return placeholders > 0 and request.num_computed_tokens + 2 - placeholders >= end

    def _victim(self) -> Request:
        """Whom to preempt: the last admitted, or under ``priority`` the least urgent, wherever it stands (S:796)."""
        if self.options.policy == "priority":
            return max(self.running, key=lambda r: (r.priority, r.arrival))
        return self.running[-1]

    def _preempt(self, request: Request) -> None:
        """Back to the queue with nothing computed; sampled tokens are kept (S:1571)."""
        self._free(request)
        request.status = PREEMPTED
        request.num_computed_tokens = 0
        request.num_stale_output_tokens = request.num_in_flight_tokens
        request.num_output_placeholders = 0
        request.num_preemptions += 1
        self.waiting.push_back(request)

    def _schedule_waiting(self, step: Step, budget: int, cap: int) -> None:
        """Then those that wait, until the head of the queue does not fit (S:899): nobody overtakes it."""
        options, waiting, running = self.options, self.waiting, self.running
        aside: list[Request] = []
        is_blocked = True
        while waiting:
            if budget == 0:
                is_blocked = False
                break
            if len(running) >= options.max_num_seqs:
                break
            request = waiting.peek()
            if request.num_stale_output_tokens > 0:  # S:934
                aside.append(waiting.take())
                continue
            hit = self._longest_hit(request) if self._has_prefix_caching else []
            computed = len(hit) * options.block_size
            tokens = request.num_tokens - computed
            if 0 < cap < tokens:
                tokens = cap
            if tokens > budget:
                if not options.enable_chunked_prefill:
                    is_blocked = False
                    break
                tokens = budget
            if not self._allocate_admission(request, hit, tokens):
                break
            waiting.take()
            if request.status is WAITING:
                request.num_cached_tokens = computed
            request.status = RUNNING
            request.num_computed_tokens = computed
            request.admission = self._num_admissions
            self._num_admissions += 1
            running.append(request)
            step.scheduled[request] = tokens
            budget -= tokens
        self.is_admission_blocked = is_blocked and not aside
        while aside:
            waiting.push_back(aside.pop())

    def _after_schedule(self, step: Step) -> None:
        """Count the step's tokens as computed, before they are (S:1616, ``async_scheduler.py``)."""
        chunks: list[Request] = []
        for request, tokens in step.scheduled.items():
            computed = request.num_computed_tokens + tokens
            if tokens == 1:
                step.num_decodes += 1
            else:
                step.prefill_tokens += tokens
                step.prefill_pairs += tokens * request.num_computed_tokens + tokens * (tokens + 1) // 2
            step.context_tokens += computed
            request.num_computed_tokens = computed
            request.num_in_flight_tokens += tokens
            expected = request.prompt_tokens + request.num_output_tokens + request.num_output_placeholders
            request.is_prefill_chunk = computed < expected
            if request.is_prefill_chunk:
                chunks.append(request)
            elif self._is_async:
                request.num_output_placeholders += 1
        step.chunks = chunks

    def _append_tokens(self, step: Step) -> tuple[list[Request], list[Request]]:
        first_tokens: list[Request] = []
        finished: list[Request] = []
        for request, tokens in step.scheduled.items():
            request.num_in_flight_tokens -= tokens
            is_stale = request.num_stale_output_tokens > 0
            if is_stale:
                request.num_stale_output_tokens -= tokens
            if request.status in _ENDED or request in step.chunks:
                continue
            request.num_output_tokens += 1
            if self._is_async:
                # A stale token is delivered, but its placeholder went with the preemption.
                if not is_stale:
                    request.num_output_placeholders -= 1
                if self._has_prefix_caching and request.status is RUNNING:
                    self._cache_blocks(request, request.num_computed_tokens - request.num_output_placeholders)
            if request.num_output_tokens == 1:
                first_tokens.append(request)
            if request.num_tokens >= request.final_tokens:
                finished.append(request)
        return first_tokens, finished

    def _end(self, request: Request, status: Status) -> None:
        if request.status is RUNNING:
            self.running.remove(request)
        else:
            self.waiting.drop(request)
        self._free(request)
        request.status = status

    # Blocks (vllm/v1/core/kv_cache_manager.py, cited as K:line).

    def _longest_hit(self, request: Request) -> list[Block]:
        """Cached blocks of its start; the last token is always computed, for its logits (K:295)."""
        block_size = self.options.block_size
        return self.kv_cache.longest_hit(request.block_keys(block_size, 0, (request.num_tokens - 1) // block_size))

    def _allocate(self, request: Request, tokens: int) -> bool:
        """Blocks for a running request's next tokens, or False."""
        computed = request.num_computed_tokens + tokens
        blocks = -(-computed // self.options.block_size) - request.num_blocks
        if blocks > self.kv_cache.num_free:
            return False
        if blocks > 0:
            self.kv_cache.take(blocks)
            request.num_blocks += blocks
        if self._has_prefix_caching:
            self._cache_blocks(request, min(computed, request.num_tokens))
        return True

    def _allocate_admission(self, request: Request, hit: list[Block], tokens: int) -> bool:
        """Blocks for a waiting request's first tokens, or False; nothing is reserved for the rest (K:519-579)."""
        kv_cache, block_size = self.kv_cache, self.options.block_size
        free = kv_cache.num_free - self._watermark_blocks if self.running else kv_cache.num_free
        num_tokens = request.prompt_tokens + request.num_output_tokens
        if hit:
            # Taking a hit block that nobody holds uses up a free block too.
            free += len(hit) - sum(block.ref_cnt == 0 for block in hit)
        computed = len(hit) * block_size + tokens
        blocks = -(-computed // block_size)
        if (-(-num_tokens // block_size) if self._must_fit_whole else blocks) > free:
            return False
        if hit:
            kv_cache.touch(hit)
        kv_cache.take(blocks - len(hit))
        request.num_blocks = blocks
        if self._has_prefix_caching:
            request.cached_blocks = hit
            self._cache_blocks(request, min(computed, num_tokens))
        return True

    def _cache_blocks(self, request: Request, tokens: int) -> None:
        """Hash the blocks that are full up to ``tokens``; they can be hit from now on (K:606)."""
        block_size = self.options.block_size
        cached = request.cached_blocks
        for key in request.block_keys(block_size, len(cached), tokens // block_size):
            cached.append(self.kv_cache.cache(key))

    def _free(self, request: Request) -> None:
        """Give back all its blocks."""
        self.kv_cache.free(request.num_blocks - len(request.cached_blocks), request.cached_blocks)
        request.num_blocks = 0
        request.cached_blocks = []
        self.is_admission_blocked = False


_ENDED = (FINISHED, ABORTED)
