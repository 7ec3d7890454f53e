"""How long a step takes, by hand."""

from dataclasses import replace
from math import exp

import pytest

from inframind.sim import StepTime, to_seconds
from inframind.sim.step_time import StepTicks
from inframind.sim.vllm_0_32 import Step

STEP_TIME = StepTime(
    fixed_s=1.0, prefill_token_s=0.1, decode_s=0.5, context_token_s=0.001, prefill_pair_s=0.01, free_prefill_tokens=10
)
MS = 10**12
"""Ticks (femtoseconds) of a millisecond."""


def make_step(prefill_tokens: int = 0, num_decodes: int = 0, context_tokens: int = 0, prefill_pairs: int = 0) -> Step:
    step = Step()
    step.prefill_tokens, step.num_decodes = prefill_tokens, num_decodes
    step.context_tokens, step.prefill_pairs = context_tokens, prefill_pairs
    return step


@pytest.mark.parametrize(
    ("step", "ms"),
    [
        pytest.param(make_step(num_decodes=2, context_tokens=30), 1000 + 1000 + 30, id="no prefill"),
        pytest.param(make_step(9, 0, 9, 45), 1000 + 9 + 450, id="prefill below the free tokens"),
        pytest.param(make_step(10, 0, 10, 55), 1000 + 10 + 550, id="as many as are free"),
        pytest.param(make_step(11, 0, 11, 66), 1000 + 100 + 11 + 660, id="one beyond"),
        pytest.param(make_step(13, 2, 40, 91), 1000 + 300 + 1000 + 40 + 910, id="prefill beside decodes"),
    ],
)
def test_seconds_and_ticks_of_one_step(step: Step, ms: int) -> None:
    ticks = StepTicks(STEP_TIME).step(step)

    assert ticks == ms * MS
    assert STEP_TIME.seconds(step) == pytest.approx(ms / 1000, rel=1e-12)
    assert to_seconds(ticks) == ms / 1000


def test_no_tokens_are_free_by_default() -> None:
    step_time = StepTime(fixed_s=1.0, prefill_token_s=0.1, decode_s=0.5)

    assert step_time == replace(step_time, free_prefill_tokens=0)
    assert StepTicks(step_time).step(make_step(2)) == 1200 * MS
    assert step_time.seconds(make_step(2)) == pytest.approx(1.2)


def test_the_free_tokens_are_those_of_a_step_not_of_a_request() -> None:
    """Two prompts of 10 tokens in one step read the weights once."""
    ticks = StepTicks(STEP_TIME)

    together = ticks.step(make_step(20, 0, 20, 2 * 55))
    apart = 2 * ticks.step(make_step(10, 0, 10, 55))

    assert together == (1000 + 10 * 100 + 20 + 1100) * MS
    assert apart == (2000 + 20 + 1100) * MS


def test_decode_rounds_add_up_to_single_steps() -> None:
    """3 requests that have computed 50 tokens, one more each in every round: 53, 56, 59, ... tokens of context."""
    ticks = StepTicks(STEP_TIME)

    first, growth = ticks.decode_rounds(3, 50)

    assert first == (1000 + 1500 + 53) * MS
    assert growth == 3 * MS
    singles = [ticks.step(make_step(num_decodes=3, context_tokens=50 + 3 * k)) for k in range(1, 8)]
    assert [first + k * growth for k in range(7)] == singles
    assert 7 * first + growth * (7 * 6 // 2) == sum(singles)


EXPERTS = StepTime(fixed_s=1.0, prefill_token_s=0.1, decode_s=0.5, expert_s=2.0, expert_tokens=4.0)


@pytest.mark.parametrize(
    ("step", "seconds"),
    [
        pytest.param(make_step(num_decodes=4), 1 + 4 * 0.5 + 2 * (1 - exp(-1)), id="decodes"),
        pytest.param(make_step(3, 1), 1 + 3 * 0.1 + 0.5 + 2 * (1 - exp(-1)), id="prefill tokens ask for experts too"),
        pytest.param(make_step(1000), 1 + 1000 * 0.1 + 2, id="all experts"),
    ],
)
def test_a_step_reads_the_experts_that_its_tokens_ask_for(step: Step, seconds: float) -> None:
    assert EXPERTS.seconds(step) == pytest.approx(seconds, rel=1e-9)
    assert to_seconds(StepTicks(EXPERTS).step(step)) == pytest.approx(seconds, rel=1e-8)


def test_experts_of_tokens_that_ask_at_random() -> None:
    """8 of 128 for each token: the expected share of the experts that 5 tokens ask for, to a per cent of all."""
    step_time = replace(EXPERTS, expert_tokens=128 / 8)

    assert step_time.experts_s(5) == pytest.approx(2 * (1 - (1 - 8 / 128) ** 5), abs=2 * 0.01)


def test_decode_rounds_with_experts_add_up_to_single_steps() -> None:
    ticks = StepTicks(replace(EXPERTS, context_token_s=0.001))

    first, growth = ticks.decode_rounds(3, 50)

    singles = [ticks.step(make_step(num_decodes=3, context_tokens=50 + 3 * k)) for k in range(1, 8)]
    assert [first + k * growth for k in range(7)] == singles
