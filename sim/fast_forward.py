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
from heapq import heappop, heappush

from .request import ABORTED, FINISHED, RUNNING, Request, Status
from .vllm_0_32 import Scheduler, SchedulerOptions, Step


class FastForwardScheduler(Scheduler):
    """A ``Scheduler`` whose decoding requests advance together.

    Inside the group a request's ``num_computed_tokens``, ``num_output_tokens`` and ``num_blocks`` lag behind;
    ``kv_cache``, ``running`` and ``waiting`` never do.
    """

    def __init__(self, options: SchedulerOptions) -> None:
        super().__init__(options)
        self._block_size = options.block_size
        self.round = 0
        """Rounds scheduled so far."""
        self.num_decoding = 0
        """Requests that the next round will give a token."""
        self._processed_round = 0
        self.context_tokens = 0
        """Tokens computed by these."""
        self._phases = [0] * (2 * options.block_size)
        """How many decoding requests need a block in the round after a round of that number (modulo ``block_size``);
        twice over, so that every stretch of up to ``block_size`` rounds is a slice."""
        self._last_rounds: dict[int, list[Request]] = {}
        """Whom a round is the last to give a token. Under asynchronous scheduling with a stop token that is one
        round after the request's last token."""
        self._finish_rounds: dict[int, list[Request]] = {}
        """Whose last token a round samples."""
        self._ends: list[int] = []
        self._prefilling: list[Request] = []
        """Those of ``running`` that stay in mid-prefill, in order of admission."""

    # One step.

    def schedule(self) -> Step:
        """As ``Scheduler.schedule``; the group's tokens are counted in the step but not listed in it."""
        blocks = self._phases[self.round % self._block_size]
        if self._prefilling or blocks > self.kv_cache.num_free:
            return self._schedule_singly()
        cap = self._long_prefill_cap()
        step = Step()
        step.scheduled = {}
        step.num_decodes = num_decodes = self.num_decoding
        step.decode_round = self.round = self.round + 1
        step.context_tokens = self.context_tokens = self.context_tokens + num_decodes
        self.in_flight.append(step)
        self._end_round(blocks)
        self._schedule_waiting(step, self.options.max_num_batched_tokens - num_decodes, cap)
        self._after_schedule(step)
        for request in step.scheduled:
            if request.is_prefill_chunk:
                self._prefilling.append(request)
            else:
                self._join(request)
                step.ends_request |= request.group_finish == step.decode_round
        return step

    def _schedule_singly(self) -> Step:
        """Leave the whole step to ``Scheduler``: somebody may get nothing, or lose what it has."""
        self._dissolve()
        step = super().schedule()
        self._prefilling = [request for request in self.running if request.is_prefill_chunk]
        for request in self.running:
            if not request.is_prefill_chunk:
                self._join(request)
        return step

    def update_from_output(self) -> tuple[Sequence[Request], Sequence[Request]]:
        """As ``Scheduler.update_from_output``."""
        step = self.in_flight.popleft()
        first_tokens, finished = self._append_tokens(step) if step.scheduled else _NOBODY
        if step.decode_round:
            self._processed_round = step.decode_round
            members = self._finish_rounds.pop(step.decode_round, None)
            if members is not None:
                # In the order of the batch, which is that of admission: blocks are freed in this order.
                finished = sorted([*members, *finished], key=_admission) if finished or len(members) > 1 else members
        for request in finished:
            self._end(request, FINISHED)
        return first_tokens, finished

    def skip_output(self) -> bool:
        """Take the oldest step in flight as processed, if its output is nobody's first or last token."""
        step = self.in_flight[0]
        if step.scheduled or step.decode_round == 0 or step.decode_round in self._finish_rounds:
            return False
        self._processed_round = step.decode_round
        self.in_flight.popleft()
        return True

    # Runs of rounds.

    def uniform_rounds(self) -> int:
        """How many of the next steps would do nothing but give each decoding request one token, up to and including
        the first that is somebody's last; 0 if not even the next one, or if a step in flight may finish somebody."""
        if not self.num_decoding or self._prefilling or (self.waiting and not self.is_admission_blocked):
            return 0
        for step in self.in_flight:
            if step.decode_round == 0 or step.ends_request or step.decode_round in self._finish_rounds:
                return 0
        rounds = self._ends[0] - self.round
        free = self.kv_cache.num_free
        block_size = self._block_size
        if (rounds // block_size + 1) * self.num_decoding > free and self._blocks_needed(rounds) > free:
            rounds = free // self.num_decoding * block_size
            while self._blocks_needed(rounds + 1) <= free:
                rounds += 1
        return rounds

    def has_tail(self, rounds: int) -> bool:
        """Under asynchronous scheduling the output of the last of ``uniform_rounds()`` comes in after one more round
        is scheduled, without those who got their last token but hold their blocks still. Whether that round is sure
        to be as plain as the others."""
        last = self.round + rounds
        leaving = self._last_rounds.get(last)
        if leaving is None or len(leaving) == self.num_decoding or last - 1 in self._finish_rounds:
            return False
        return (rounds // self._block_size + 2) * self.num_decoding <= self.kv_cache.num_free

    def free_blocks_after(self, rounds: int) -> int:
        """Free blocks after so many more rounds: uniform ones, and perhaps the tail."""
        uniform = min(rounds, self._ends[0] - self.round)
        blocks = self._blocks_needed(uniform)
        if rounds > uniform:
            last = self.round + uniform
            bases = (r.num_computed_tokens - r.group_join for r in self._last_rounds[last])
            blocks += self._phases[last % self._block_size]
            blocks -= sum((base + last) % self._block_size == 0 for base in bases)
        return self.kv_cache.num_free - blocks

    def advance(self, rounds: int, keep: int) -> None:
        """Schedule that many rounds at once, at most ``uniform_rounds()``; the last ``keep`` (1 or 2) join the steps in
        flight, the output of the others is in."""
        blocks = self._blocks_needed(rounds)
        in_flight = self.in_flight
        last = self.round = self.round + rounds
        self.context_tokens += rounds * self.num_decoding
        if keep == 2:
            step = Step()
            step.decode_round = last - 1
            in_flight.append(step)
        step = Step()
        step.decode_round = last
        in_flight.append(step)
        processed = last - len(in_flight)
        if processed > self._processed_round:
            self._processed_round = processed
        self._end_round(blocks)

    def _end_round(self, blocks: int) -> None:
        """Take the blocks of the rounds up to the newest, which is the last for some."""
        if self._has_prefix_caching:
            self.kv_cache.take(blocks)
        else:
            self.kv_cache.num_free -= blocks
        ends, newest = self._ends, self.round
        if ends and ends[0] == newest:
            heappop(ends)
            for request in self._last_rounds.pop(newest):
                self._leave(request)

    def _blocks_needed(self, rounds: int) -> int:
        """Blocks that the next ``rounds`` rounds take."""
        block_size = self._block_size
        start = self.round % block_size
        if rounds == 1:
            return self._phases[start]
        return rounds // block_size * self.num_decoding + sum(self._phases[start : start + rounds % block_size])

    # The group.

    def _join(self, request: Request) -> None:
        """Take in a request whose prompt is computed, unless all its tokens have been scheduled."""
        now = self.round
        finish = last = now + request.final_tokens - 1 - request.num_computed_tokens
        if self._is_async and request.final_tokens < self._length_limit(request):
            last += 1
        request.group_finish, request.group_last = finish, last
        if last <= now:
            return
        request.group_join = now
        if finish > now:
            self._finish_rounds.setdefault(finish, []).append(request)
        leaving = self._last_rounds.get(last)
        if leaving is None:
            self._last_rounds[last] = [request]
            heappush(self._ends, last)
        else:
            leaving.append(request)
        self.num_decoding += 1
        self.context_tokens += request.num_computed_tokens
        phase = (now - request.num_computed_tokens) % self._block_size
        self._phases[phase] += 1
        self._phases[phase + self._block_size] += 1

    def _length_limit(self, request: Request) -> int:
        """Tokens at which it stops by length, which a scheduler foresees; a stop token it does not."""
        return min(request.prompt_tokens + request.max_tokens, self.options.max_model_len)

    def _leave(self, request: Request) -> None:
        """No further round gives it a token. It stays in ``running`` until its last one is sampled."""
        self.num_decoding -= 1
        base = request.num_computed_tokens - request.group_join
        self.context_tokens -= base + self.round
        phase = -base % self._block_size
        self._phases[phase] -= 1
        self._phases[phase + self._block_size] -= 1

    def _settle(self, request: Request) -> None:
        """Bring a member's own counters up to date; it is a member no longer."""
        join, last = request.group_join, request.group_last
        scheduled = (self.round if self.round < last else last) - join
        sampled = (self._processed_round if self._processed_round < last else last) - join
        if sampled < 0:
            sampled = 0
        request.group_join = -1
        request.num_computed_tokens += scheduled
        request.num_in_flight_tokens += scheduled - sampled
        # The round after its last token samples one more under asynchronous scheduling, which nobody gets.
        request.num_output_tokens += sampled if join + sampled <= request.group_finish else request.group_finish - join
        if self._is_async:
            request.num_output_placeholders += scheduled - sampled
        request.num_blocks = -(-request.num_computed_tokens // self._block_size)
        if self._has_prefix_caching:
            # Once a step's output is in, the tokens both known and computed, hence hashed, are all but the last.
            self._cache_blocks(request, request.num_tokens - 1)

    def _dissolve(self) -> None:
        """Settle every member and list its tokens in the steps in flight: ``Scheduler`` can take over."""
        members = [request for request in self.running if request.group_join >= 0]
        for step in self.in_flight:
            tokens = {r: 1 for r in members if r.group_join < step.decode_round <= r.group_last}
            step.scheduled = tokens | step.scheduled
            step.decode_round = 0
        for request in members:
            self._settle(request)
        self.num_decoding = self.context_tokens = 0
        self._phases = [0] * len(self._phases)
        self._last_rounds.clear()
        self._finish_rounds.clear()
        self._ends.clear()

    def _end(self, request: Request, status: Status) -> None:
        if request.group_join >= 0:
            if request.group_last > self.round:
                self._leave(request)
                self._last_rounds[request.group_last].remove(request)
            if status is ABORTED:
                self._settle_aborted(request)
            else:
                self._settle(request)
        elif request.is_prefill_chunk and request.status is RUNNING:
            self._prefilling.remove(request)
        super()._end(request, status)

    def _settle_aborted(self, request: Request) -> None:
        is_in_newest_step = request.group_join < self.round <= request.group_last
        if request.group_finish > max(request.group_join, self._processed_round):
            self._finish_rounds[request.group_finish].remove(request)
        self._settle(request)
        if self._has_prefix_caching and is_in_newest_step:
            # Aborts come before the output of the step in flight, which computes the last known token.
            self._cache_blocks(request, request.num_tokens)


_NOBODY: tuple[Sequence[Request], Sequence[Request]] = ((), ())


def _admission(request: Request) -> int:
    return request.admission
