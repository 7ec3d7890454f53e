"""Expectations by server and strategy, and latencies by hand."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from agent_world import SERVERS, Expected, look
from numpy.typing import NDArray

from inframind.agents import Knowledge
from inframind.sim import StepTime
from inframind.workflows import Context


def test_prospects_are_in_the_order_of_servers_and_strategies() -> None:
    """The outcomes list the large LLM and DeepThink first."""
    prospect = Knowledge(SERVERS, Expected(), 2048).prospect(look().query)

    assert prospect.quality.tolist() == [[0.4, 0.5, 0.6], [0.7, 0.8, 0.9]]
    assert prospect.tokens.tolist() == [[10.0, 100.0, 200.0]] * 2
    assert np.exp(prospect.right_log_tokens) == pytest.approx(np.array([[10, 50, 100]] * 2))
    assert prospect.right_log_sd.tolist() == [[0.1, 0.5, 1.0]] * 2


def test_call_s_by_hand() -> None:
    """20 prompt tokens at 1 ms, 100 steps of 10 ms and for each of 2 requests 1 ms and 70 tokens at 10 us."""
    slow = replace(SERVERS[0], step_time=StepTime(0.01, 0.001, 0.001, 0.00001))
    seconds = Knowledge([slow], Expected(), 2048).call_s(20, np.array([[100.0]]), np.array([[2.0]]))

    assert seconds[0, 0] == pytest.approx(0.02 + 100 * (0.01 + 2 * (0.001 + 0.0007)))


def test_several_engines_share_the_requests_that_run() -> None:
    """Of 4 requests on two engines 2 are on each: as above. One that is alone has an engine to itself."""
    slow = replace(SERVERS[0], step_time=StepTime(0.01, 0.001, 0.001, 0.00001), data_parallel_size=2)
    knowledge = Knowledge([slow], Expected(), 2048)

    seconds = knowledge.call_s(20, np.array([[100.0]]), np.array([[4.0]]))

    assert seconds[0, 0] == pytest.approx(0.02 + 100 * (0.01 + 2 * (0.001 + 0.0007)))
    assert knowledge.token_s[0, 0] == pytest.approx(0.01 + 0.001)
    assert knowledge.max_num_seqs[0, 0] == 2 * SERVERS[0].scheduler.max_num_seqs


def test_a_batch_reads_more_of_a_mixture_of_experts() -> None:
    """As above, and of experts that take 4 ms those that 2 tokens ask for, or 1 where the call is alone."""
    slow = replace(SERVERS[0], step_time=StepTime(0.01, 0.001, 0.001, 0.00001, expert_s=0.004, expert_tokens=2.0))
    knowledge = Knowledge([slow], Expected(), 2048)

    seconds = knowledge.call_s(20, np.array([[100.0]]), np.array([[2.0]]))

    experts_s = 0.004 * (1 - np.exp(-1))
    assert seconds[0, 0] == pytest.approx(0.02 + 100 * (0.01 + experts_s + 2 * (0.001 + 0.0007)))
    assert knowledge.token_s[0, 0] == pytest.approx(0.01 + 0.001 + 0.004 * (1 - np.exp(-0.5)))


def test_waiting_takes_rounds_of_the_mean_call() -> None:
    """Two slots. With 1 other nothing waits; with 3 others a call waits for (3 + 1 - 2) / 2 = 1 round."""
    knowledge = Knowledge(SERVERS, Expected(), 2048)
    mean_s = (0.1 + 1.0 + 2.0) / 3

    assert knowledge.latency_s(look(outstanding=(1, 0)))[0] == pytest.approx([0.1, 1.0, 2.0])
    assert knowledge.latency_s(look(outstanding=(3, 0)))[0] == pytest.approx(np.array([0.1, 1.0, 2.0]) + mean_s)


def test_a_call_that_overtakes_those_that_wait_waits_for_a_slot() -> None:
    """Two of three own calls run, the third is due later: (2 + 1 - 2) / 2, half a round, in place of a whole one."""
    knowledge = Knowledge(SERVERS, Expected(), 2048)
    mean_s = (0.1 + 1.0 + 2.0) / 3

    seen = replace(look(outstanding=(3, 0)), in_flight=(3, 0), ahead=(1, 0))

    assert knowledge.latency_s(seen)[0] == pytest.approx(np.array([0.1, 1.0, 2.0]) + mean_s / 2)


def test_predictors_come_first() -> None:
    class Predicted:
        def latency_map(
            self, prompt_tokens: int, running: Sequence[int], waiting: Sequence[int], embedding: object
        ) -> NDArray[np.float64]:
            return np.full((2, 3), 7.0)

    seen = replace(look(), context=Context(None, Predicted(), dead_reckoning=True))

    assert (Knowledge(SERVERS, Expected(), 2048).latency_s(seen) == 7.0).all()
