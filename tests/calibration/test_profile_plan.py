"""The sweep, against a server that is arithmetic: slots, seconds for a prompt token, seconds for an output token."""

import heapq
import itertools
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inframind.calibration.profile_plan import (
    BURST,
    BURST_PROMPT,
    PRIORITY,
    WARM_UP,
    Answer,
    Ask,
    Condition,
    Ended,
    Limits,
    Sweep,
    with_shared_starts,
)


@dataclass
class Arithmetic:
    """Takes each request in turn, in one of its slots."""

    slots: int = 8
    prompt_s: float = 1e-3
    output_s: float = 0.01
    most_in_condition: int = 3000

    def serve(self, condition: Condition) -> Ended:
        free = [0.0] * self.slots
        workers = [0.0] * (condition.concurrency or 0)
        answers: list[Answer] = []
        queues: list[tuple[int, int]] = []
        for ask in itertools.islice(condition.asks, self.most_in_condition):
            arrival_s = heapq.heappop(workers) if workers else ask.at_s
            if arrival_s > condition.window_s:
                break
            begin_s = max(arrival_s, heapq.heappop(free))
            ttft_s = begin_s - arrival_s + self.prompt_s * ask.prompt_tokens + self.output_s
            e2e_s = ttft_s + self.output_s * (ask.output_tokens - 1)
            heapq.heappush(free, arrival_s + e2e_s)
            if condition.concurrency:
                heapq.heappush(workers, arrival_s + e2e_s)
            queues.append((int(begin_s > arrival_s), sum(end_s > arrival_s for end_s in free)))
            answers.append(Answer(ask.prompt_tokens, ask.output_tokens, arrival_s, ttft_s, e2e_s, ask.priority))
        ends = [answer.arrival_s + answer.e2e_s for answer in answers]
        return Ended(condition.name, max(ends, default=0.0), answers, queues)

    def per_s(self, answers: list[Answer]) -> float:
        """The rate at which it is full with such requests."""
        mean_s = sum(self.prompt_s * a.prompt_tokens + self.output_s * a.output_tokens for a in answers) / len(answers)
        return self.slots / mean_s


LIMITS = Limits(budget_s=600, max_model_len=4096, block_size=16, enable_prefix_caching=True)


def swept(limits: Limits = LIMITS, server: Arithmetic | None = None) -> dict[str, Ended]:
    """Every condition of a sweep, by name."""
    server = server or Arithmetic()
    steps = Sweep(limits).conditions()
    done: dict[str, Ended] = {}
    condition = next(steps)
    while True:
        assert condition.name not in done
        done[condition.name] = server.serve(condition)
        try:
            condition = steps.send(done[condition.name])
        except StopIteration:
            return done


def test_the_conditions_go_from_one_at_a_time_to_overload_and_back() -> None:
    names = list(swept())

    assert names[0] == WARM_UP
    assert [name for name in names if name.startswith("ladder")] == names[1 : names.index("light")]
    assert names[names.index("light") + 1 :] == [
        *("saturate-2", "saturate-4", "saturate-8", "saturate-16", BURST, "open-1.2", PRIORITY),
        *("open-0.95", "open-0.75", "open-0.75-repeat", "open-0.5", "open-0.25", "prefix"),
    ]


def test_it_finds_where_the_server_is_full() -> None:
    """8 slots: 16 at a time wait, and the overload asks for 1.2 of what the slots can do."""
    done = swept()

    assert not done["saturate-8"].is_full
    assert done["saturate-16"].is_full
    assert done["saturate-16"].most_while_queued == 8
    overload = list(done["open-1.2"].answers)
    offered_per_s = len(overload) / overload[-1].arrival_s
    assert offered_per_s == pytest.approx(1.2 * Arithmetic().per_s(overload), rel=0.15)
    quiet = list(done["open-0.25"].answers)
    assert len(quiet) / quiet[-1].arrival_s == pytest.approx(0.25 * Arithmetic().per_s(quiet), rel=0.3)


def test_prompts_are_long_where_the_time_allows_it() -> None:
    """A prompt may take 600 / 80 = 7.5 s; this server needs 1 ms for a token, the slow one 20 ms."""
    fast = swept()["light"].answers
    slow = swept(server=Arithmetic(prompt_s=0.02))["light"].answers

    assert max(a.prompt_tokens for a in fast) > 3000
    assert 100 < max(a.prompt_tokens for a in slow) <= 375


def test_the_light_load_has_every_pair_of_a_prompt_and_an_output() -> None:
    """Prompts of one token of output tell prefill apart from decode; a grid tells both apart from the constant."""
    seen = Counter((a.prompt_tokens, a.output_tokens) for a in swept(server=Arithmetic(prompt_s=1e-5))["light"].answers)
    prompts, outputs = {prompt for prompt, _ in seen}, {output for _, output in seen}

    assert len(prompts) == 6
    assert 1 in outputs
    assert seen.keys() == set(itertools.product(prompts, outputs))


def test_the_repeat_is_the_same_load() -> None:
    done = swept()

    assert done["open-0.75"].answers == done["open-0.75-repeat"].answers
    assert done["open-0.75"].answers != done["open-0.5"].answers


def test_a_seed_gives_one_sweep_and_another_seed_another() -> None:
    assert swept() == swept()
    assert swept()["open-0.5"].answers != swept(replace(LIMITS, seed=1))["open-0.5"].answers


def test_nobody_is_asked_what_was_told() -> None:
    """The person says 20 slots: the probe has three times as many requests, their priorities in no order."""
    priorities = [a.priority for a in swept(replace(LIMITS, slots=20))[PRIORITY].answers]

    assert sorted(priorities) == list(range(60))
    assert priorities != sorted(priorities)


def test_a_server_that_is_never_full_is_not_probed() -> None:
    done = swept(server=Arithmetic(slots=600, prompt_s=1e-6, output_s=1e-3, most_in_condition=800))

    assert PRIORITY not in done
    assert "open-1.2-raised" in done  # the first guess at saturation did not overload it


def test_a_server_without_prefix_caching_gets_no_shared_prompts() -> None:
    assert "prefix" not in swept(replace(LIMITS, enable_prefix_caching=False))


def test_a_burst_is_many_prompts_at_once_if_the_time_allows_it() -> None:
    """0.04 of 600 s at 1 ms a token: 23 prompts of 1000; with 10 ms there would be two, too few to fill a step."""
    burst = swept()[BURST].answers

    assert {(a.prompt_tokens, a.output_tokens, a.arrival_s) for a in burst} == {(BURST_PROMPT, 1, 0.0)}
    assert len(burst) == 23
    assert BURST not in swept(server=Arithmetic(prompt_s=0.01))


def test_a_person_may_bound_the_lengths() -> None:
    done = swept(replace(LIMITS, max_prompt_tokens=300, max_output_tokens=50))
    answers = [answer for ended in done.values() for answer in ended.answers]

    assert max(a.prompt_tokens for a in answers) == 300
    assert max(a.output_tokens for a in answers) == 50


def test_shared_starts_leave_lengths_that_hold_them() -> None:
    asks = with_shared_starts([Ask(20, 5), Ask(500, 5), Ask(90, 5), Ask(30, 5), Ask(40, 5)], 64)

    assert [ask.prompt_tokens for ask in asks] == [80, 500, 90, 80, 80]
    assert [ask.prefix_group for ask in asks] == ["group-0", "group-1", "group-2", "group-3", "group-0"]
    assert {ask.prefix_tokens for ask in asks} == {64}


@settings(max_examples=15, deadline=None)
@given(
    budget_s=st.floats(30, 1200),
    max_model_len=st.integers(64, 131_072),
    block_size=st.sampled_from([16, 128]),
    slots=st.sampled_from([1, 4, 16, 64]),
    prompt_s=st.floats(1e-5, 5e-3),
    output_s=st.floats(2e-3, 0.1),
    seed=st.integers(0, 9),
)
def test_any_server_is_swept_in_time_and_within_its_context(
    budget_s: float, max_model_len: int, block_size: int, slots: int, prompt_s: float, output_s: float, seed: int
) -> None:
    """From 10 to 500 output tokens a second for one request, from 200 to 100,000 prompt tokens: no request is longer
    than the server takes, and only what has begun goes beyond the time."""
    limits = Limits(budget_s, max_model_len, block_size, enable_prefix_caching=True, seed=seed)
    done = swept(limits, Arithmetic(slots, prompt_s, output_s, most_in_condition=200))

    lengths = [(a.prompt_tokens, a.output_tokens) for ended in done.values() for a in ended.answers]
    assert all(prompt >= 1 and output >= 1 and prompt + output <= max_model_len for prompt, output in lengths)
    spent_s = [ended.duration_s for ended in done.values()]
    assert sum(spent_s[:-1]) < budget_s
