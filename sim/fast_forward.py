"""The same scheduler, with runs of decode steps done at once.

Most of a server's steps are alike: every decoding request gets one token. Those requests form the *decode group*. The
group advances by *rounds*; a request's own counters are brought up to date only when somebody must see them. Per round
the group costs nothing for each member: blocks are counted by phase (a request needs a new block once in
``block_size`` rounds), context as a sum, ends in a heap. ``uniform_rounds()`` says how many rounds nothing but the
group can move, and ``advance()`` takes them at once.

Every decision equals that of ``Scheduler``, which does the rest: admissions always, and whole steps where the budget
or the blocks do not suffice for all (``tests/sim/test_fast_forward.py`` compares them on random workloads).
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Protocol

from .request import FINISHED, RUNNING, Request
from .vllm_0_32 import Scheduler, SchedulerOptions, Step


class RoundTicks(Protocol):
    """What a scheduler, which knows no clock, is told of time: as of `inframind.sim.step_time.StepTicks`."""

    def decode_rounds(self, num_decodes: int, context_tokens: int) -> tuple[int, int]:
        """The duration of the first of a run of rounds, and what each further one takes longer."""
        ...


class FastForwardScheduler(Scheduler):
    """A ``Scheduler`` whose decoding requests advance together.

    Every step is a round, whether the group has part in it or not. Inside the group a request's own counters lag
    behind: they are those of the round in which it joined, before the output of that round. ``kv_cache``, ``running``
    and ``waiting`` never lag.
    """

    def __init__(self, options: SchedulerOptions) -> None:
        super().__init__(options)
        self._block_size = options.block_size
        self.round = 0
        """Rounds scheduled so far; the output of the last ``len(in_flight)`` of them has not come in."""
        self._single_round = 0
        """The last round that was left to ``Scheduler``: up to here, steps list all their requests."""
        self.num_decoding = 0
        """Requests that the next round will give a token."""
        self.context_tokens = 0
        """Tokens computed by these."""
        self._phases = [0] * (2 * options.block_size)
        """How many decoding requests need a block in the round after a round of that number (modulo ``block_size``);
        twice over, so that every stretch of up to ``block_size`` rounds is a slice."""
        self._finishing: dict[int, list[Request]] = {}
        """Whose last token a round samples, for all rounds whose output has not come in."""
        self._finish_rounds: list[int] = []
        """The keys of ``_finishing``, as a heap."""
        self._overrunning: dict[int, list[Request]] = {}
        """Whom a stop token ends with the round before that one: asynchronous scheduling does not foresee it, and lets
        one round more give them a token."""
        self._prefilling: list[Request] = []
        """Those of ``running`` that stay in mid-prefill, in order of admission."""

    # One step.

    def schedule(self) -> Step:
        """As ``Scheduler.schedule``; the group's tokens are counted in the step but not listed in it."""
        free = self.kv_cache.num_free
        cap = self._long_prefill_cap()
        chunks = self._next_chunks(cap) if self._prefilling else {}
        if chunks is None or (self.num_decoding > free and self._blocks_needed(1) > free):
            return self._schedule_singly()
        step = Step()
        step.scheduled = chunks
        step.num_decodes = num_decodes = self.num_decoding
        step.context_tokens = self.context_tokens + num_decodes
        self.in_flight.append(step)
        self.advance(1)
        budget = self.options.max_num_batched_tokens - num_decodes
        for request, tokens in chunks.items():
            self._allocate(request, tokens)
            budget -= tokens
        self._schedule_waiting(step, budget, cap)
        self._after_schedule(step)
        first_tokens, prefilling = [], []
        for request in step.scheduled:
            if request.is_prefill_chunk:
                prefilling.append(request)
            else:
                self._join(request)
                if request.num_output_tokens == 0:
                    first_tokens.append(request)
        if self._prefilling:
            # Those for which the budget did not last are the last.
            prefilling += [request for request in self._prefilling if request not in chunks]
        self._prefilling = prefilling
        step.first_tokens = first_tokens
        return step

    def _next_chunks(self, cap: int) -> dict[Request, int] | None:
        """What the next step computes of the prompts in mid-prefill beside a round of the group; None if it may be no
        such step: somebody in the group gets nothing, or somebody loses what it has."""
        if self.running[-len(self._prefilling) :] != self._prefilling:
            return None  # Somebody decodes behind a capped prompt: the batch is in another order.
        budget = self.options.max_num_batched_tokens - self.num_decoding
        blocks = self._blocks_needed(1)
        chunks = {}
        for request in self._prefilling:
            tokens = self._next_tokens(request, cap, budget)
            if tokens:
                chunks[request] = tokens
                budget -= tokens
                blocks += -(-(request.num_computed_tokens + tokens) // self._block_size) - request.num_blocks
        return chunks if blocks <= self.kv_cache.num_free else None

    def _schedule_singly(self) -> Step:
        """Leave the whole step to ``Scheduler``: somebody may get nothing, or lose what it has."""
        self._dissolve()
        step = super().schedule()
        self.round = self._single_round = self.round + 1
        self._prefilling = [request for request in self.running if request.is_prefill_chunk]
        for request in self.running:
            if not request.is_prefill_chunk:
                self._join(request)
        return step

    def update_from_output(self) -> tuple[Sequence[Request], Sequence[Request]]:
        """As ``Scheduler.update_from_output``."""
        step = self.in_flight.popleft()
        number = self.round - len(self.in_flight)
        first_tokens = step.first_tokens
        finished: list[Request] = []
        if self._finish_rounds and self._finish_rounds[0] == number:
            heappop(self._finish_rounds)
            finished = self._finishing.pop(number)
            if len(finished) > 1:
                # In the order of the batch, which is that of admission: blocks are freed in this order.
                finished.sort(key=_admission)
        if number <= self._single_round:
            first_tokens, finished = self._append_tokens(step)
        elif step.chunks:
            _land_chunks(step)
        for request in finished:
            if request.group_finish:
                self._finish(request)
            self._end(request, FINISHED)
        return first_tokens, finished

    def abort(self, request: Request) -> None:
        """As ``Scheduler.abort``."""
        if request.group_finish:
            for step in self.in_flight:
                step.first_tokens = [r for r in step.first_tokens if r is not request]
            is_in_newest_step = self._joined(request) < self.round <= request.group_last
            self._withdraw(request)
            self._settle(request)
            if self._has_prefix_caching and is_in_newest_step:
                # Aborts come before the output of the step in flight, which computes the last known token.
                self._cache_blocks(request, request.num_tokens)
        elif request.is_prefill_chunk and request.status is RUNNING:
            self._prefilling.remove(request)
        super().abort(request)

    # Runs of rounds.

    def uniform_rounds(self) -> int:
        """How many of the next steps would do nothing but give each decoding request one token, up to and including
        the first that is somebody's last; 0 if not even the next one, or if a step in flight may finish somebody."""
        if not self.num_decoding or self._prefilling or (self.waiting and not self.is_admission_blocked):
            return 0
        rounds = self._finish_rounds[0] - self.round
        if rounds <= 0 or self._single_round > self.round - len(self.in_flight):
            return 0
        free = self.kv_cache.num_free
        block_size = self._block_size
        if (rounds // block_size + 1) * self.num_decoding > free and self._blocks_needed(rounds) > free:
            rounds = free // self.num_decoding * block_size
            while self._blocks_needed(rounds + 1) <= free:
                rounds += 1
        return rounds

    def timing(self, ticks: RoundTicks, rounds: int) -> tuple[int, int, int]:
        """Duration of the first of so many uniform rounds, what each further one takes longer than the one before, and
        for how many of them that holds: here for all."""
        first, growth = ticks.decode_rounds(self.num_decoding, self.context_tokens)
        return first, growth, rounds

    def has_tail(self, rounds: int) -> bool:
        """Under asynchronous scheduling the output of the last of ``uniform_rounds()`` comes in after one more round
        is scheduled, without those who are known to have got their last token but hold their blocks still. Whether
        that round is sure to be as plain as the others."""
        last = self.round + rounds
        if last != self._finish_rounds[0] or len(self._finishing[last]) == self.num_decoding:
            return False
        return (rounds // self._block_size + 2) * self.num_decoding <= self.kv_cache.num_free

    def get_kv_cache_usage(self, rounds: int = 0) -> float:
        """As ``Scheduler.get_kv_cache_usage``, after so many more rounds."""
        if not rounds or not self.num_decoding:
            return self.kv_cache.usage
        return 1.0 - self.free_blocks_after(rounds) / (self.kv_cache.num_blocks - 1)

    def free_blocks_after(self, rounds: int) -> int:
        """Free blocks after so many more rounds: uniform ones, and perhaps the tail."""
        uniform = min(rounds, self._finish_rounds[0] - self.round)
        blocks = self._blocks_needed(uniform)
        if rounds > uniform:
            last = self.round + uniform
            blocks += self._phases[last % self._block_size]
            leaving = (r for r in self._finishing[last] if r.group_last == last)
            blocks -= sum((r.group_base + last) % self._block_size == 0 for r in leaving)
        return self.kv_cache.num_free - blocks

    def advance(self, rounds: int) -> None:
        """Schedule that many rounds at once, at most ``uniform_rounds()``; which of them are in flight still, the
        caller has to say by steps in ``in_flight``."""
        blocks = self._blocks_needed(rounds)
        if self._has_prefix_caching:
            self.kv_cache.take(blocks)
        else:
            self.kv_cache.num_free -= blocks
        self.round = newest = self.round + rounds
        self.context_tokens += rounds * self.num_decoding
        finishing = self._finishing.get(newest)
        if finishing is not None:
            for request in finishing:
                if request.group_last == newest:
                    self._leave(request)
        if newest in self._overrunning:
            for request in self._overrunning.pop(newest):
                self._leave(request)

    def take_oldest(self) -> Step:
        """Take the oldest step in flight as processed, one that finishes nobody."""
        step = self.in_flight.popleft()
        if step.chunks:
            _land_chunks(step)
        return step

    def add_plain(self) -> Step:
        """A step in flight that is one of those which were advanced by, and lists nobody."""
        step = Step()
        self.in_flight.append(step)
        return step

    def _blocks_needed(self, rounds: int) -> int:
        """Blocks that the next ``rounds`` rounds take."""
        block_size = self._block_size
        start = self.round % block_size
        if rounds == 1:
            return self._phases[start]
        return rounds // block_size * self.num_decoding + sum(self._phases[start : start + rounds % block_size])

    # The group.

    def _join(self, request: Request) -> None:
        """Take in a request whose prompt is computed with the newest round, or was before."""
        now = self.round
        computed = request.num_computed_tokens
        base = computed - now
        final = request.final_tokens
        finish = last = final - 1 - base
        if self._is_async and final < request.prompt_tokens + request.max_tokens and final < self.options.max_model_len:
            last += 1
        if last <= self._single_round:
            return  # The steps in flight list its last token.
        request.group_base, request.group_finish, request.group_last = base, finish, last
        if last > finish:
            self._overrunning.setdefault(last, []).append(request)
        finishing = self._finishing.get(finish)
        if finishing is None:
            self._finishing[finish] = [request]
            heappush(self._finish_rounds, finish)
        else:
            finishing.append(request)
        if last > now:
            self.num_decoding += 1
            self.context_tokens += computed
            phase = -base % self._block_size
            self._phases[phase] += 1
            self._phases[phase + self._block_size] += 1

    def _leave(self, request: Request) -> None:
        """No further round gives it a token. It stays in ``running`` until its last one is sampled."""
        base = request.group_base
        self.num_decoding -= 1
        self.context_tokens -= base + self.round
        phase = -base % self._block_size
        self._phases[phase] -= 1
        self._phases[phase + self._block_size] -= 1

    def _finish(self, request: Request) -> None:
        """A member's last token is in: bring up to date what is still asked for."""
        last = request.group_last
        if last > self.round:
            self._withdraw(request)
            last = self.round
        request.num_output_tokens = request.final_tokens - request.prompt_tokens
        request.num_blocks = -(-(request.group_base + last) // self._block_size)
        request.group_finish = 0
        if self._has_prefix_caching:
            self._cache_blocks(request, request.num_tokens - 1)

    def _withdraw(self, request: Request) -> None:
        """Take a member out before its time."""
        if request.group_last > self.round:
            self._leave(request)
        overrunning = self._overrunning.get(request.group_last, [])
        if request in overrunning:
            overrunning.remove(request)
        number = request.group_finish
        finishing = self._finishing.get(number, [])
        if request in finishing:
            finishing.remove(request)
            if not finishing:
                # Nobody stops at this round any more, and an engine with nothing to do is taken past it by others.
                del self._finishing[number]
                self._finish_rounds.remove(number)
                heapify(self._finish_rounds)

    def _settle(self, request: Request) -> None:
        """Bring all of a member's own counters up to date; it is a member no longer."""
        joined = self._joined(request)
        scheduled = min(self.round, request.group_last)
        processed = min(self.round - len(self.in_flight), request.group_last)
        if processed >= joined:
            missing = max(0, request.group_finish - processed)
            request.num_output_tokens = request.final_tokens - request.prompt_tokens - missing
            request.num_in_flight_tokens = request.num_output_placeholders = scheduled - processed
        else:
            request.num_in_flight_tokens += scheduled - joined
            request.num_output_placeholders += scheduled - joined
        if not self._is_async:
            request.num_output_placeholders = 0
        request.num_computed_tokens = request.group_base + scheduled
        request.num_blocks = -(-request.num_computed_tokens // self._block_size)
        request.group_finish = 0
        if self._has_prefix_caching:
            # Once a step's output is in, the tokens both known and computed, hence hashed, are all but the last.
            self._cache_blocks(request, request.num_tokens - 1)

    def _joined(self, request: Request) -> int:
        """The newest round when a member joined: its counters are of then."""
        return request.num_computed_tokens - request.group_base

    def _dissolve(self) -> None:
        """Settle every member and list its tokens in the steps in flight: ``Scheduler`` can take over."""
        members = [request for request in self.running if request.group_finish]
        number = self.round - len(self.in_flight)
        for step in self.in_flight:
            number += 1
            tokens = {r: 1 for r in members if self._joined(r) < number <= r.group_last}
            step.scheduled = tokens | step.scheduled
        for request in members:
            self._settle(request)
        self._single_round = self.round
        self.num_decoding = self.context_tokens = 0
        self._phases = [0] * len(self._phases)
        self._finishing.clear()
        self._finish_rounds.clear()
        self._overrunning.clear()


def _land_chunks(step: Step) -> None:
    """Their tokens are in flight no longer; of the group that is counted by rounds."""
    for request in step.chunks:
        request.num_in_flight_tokens -= step.scheduled[request]


def _admission(request: Request) -> int:
    return request.admission
