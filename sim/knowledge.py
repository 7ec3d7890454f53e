"""What can be known of LLMs before a query comes: how good their answers are, how long, and how fast they come."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inframind.workflows import STRATEGIES, Observation, Query

from .server import ServerOptions

Map: TypeAlias = NDArray[np.float64]
"""``[server, strategy]``, strategies in the order of ``STRATEGIES``."""


class Expectations(Protocol):
    """What an embedding tells of a question, as of `inframind.sim.outcomes.OutcomeModel`."""

    @property
    def models(self) -> tuple[str, ...]:
        """The LLMs."""
        ...

    @property
    def strategies(self) -> tuple[str, ...]:
        """The prompting strategies."""
        ...

    def expected_quality(self, domain: str, question: int, max_tokens: int = ...) -> Map:
        """Probability that a call alone is right: ``[LLM, strategy]``."""
        ...

    def expected_tokens(self, domain: str, question: int, max_tokens: int = ...) -> Map:
        """Mean output of a call: ``[LLM, strategy]``."""
        ...

    def expected_right_log_tokens(self, domain: str, question: int) -> tuple[Map, Map]:
        """Mean and standard deviation of the log of a right answer's length: each ``[LLM, strategy]``."""
        ...


class Prospect(NamedTuple):
    """What to expect of a query's calls, on each server with each strategy."""

    quality: Map
    """Probability that a call alone is right."""
    tokens: Map
    """Mean length of the output."""
    right_log_tokens: Map
    """Mean of the log of a right answer's length."""
    right_log_sd: Map
    """Its standard deviation."""


class Knowledge:
    """Expectations by server, and latencies from the servers' step times.

    Parameters
    ----------
    servers
        The pool, in the controller's order.
    expectations
        Know all its LLMs.
    max_tokens
        Cap of an output.
    """

    def __init__(self, servers: Sequence[ServerOptions], expectations: Expectations, max_tokens: int) -> None:
        rows = [expectations.models.index(server.model) for server in servers]
        columns = [expectations.strategies.index(strategy) for strategy in STRATEGIES]
        self._at = np.ix_(rows, columns)
        self._expectations = expectations
        self.max_tokens = max_tokens
        # A query is asked of once for each of its calls, and comes in every run of an evaluation.
        self._known: Callable[[str, int], Prospect] = lru_cache(None)(self._look_up)
        self.max_num_seqs = np.array([[server.num_slots] for server in servers])
        """Slots of each server, ``[server, 1]``."""
        times = [
            (time.fixed_s, time.decode_s, time.context_token_s, time.prefill_token_s, time.expert_s, time.expert_tokens)
            for time in (server.step_time for server in servers)
        ]
        of_steps = np.array(times).T[:, :, None]
        self._fixed_s, self._decode_s, self._context_token_s, self._prefill_token_s = of_steps[:4]
        self._expert_s, self._expert_tokens = of_steps[4:]
        self._has_experts = bool(self._expert_s.any())
        self.token_s = self._fixed_s + self._decode_s + self._experts_s(np.ones_like(self._fixed_s))
        """Seconds of a server for each token of a request that is alone, ``[server, 1]``: its price, and its size."""
        # Of several engines each has its share of the requests that run.
        of_steps[1:3] /= np.array([[server.data_parallel_size] for server in servers])

    def prospect(self, query: Query) -> Prospect:
        """What to expect of a query."""
        return self._known(query.domain, query.question)

    def call_s(self, prompt_tokens: int | NDArray[np.float64], tokens: Map, num_running: Map) -> Map:
        """Seconds of a call that does not wait: ``[server, strategy]``.

        By `inframind.sim.StepTime`: each output token takes a step, which decodes all running requests, and these are
        taken to be as long as the call is in the middle of its output.

        Parameters
        ----------
        tokens
            Its output: ``[server, strategy]``.
        num_running
            Requests in the batch, this one included: ``[server, 1]``.
        """
        decode_s = self._decode_s + self._context_token_s * (prompt_tokens + tokens / 2)
        step_s = self._fixed_s + num_running * decode_s
        if self._has_experts:
            step_s = step_s + self._experts_s(num_running)
        call_s: Map = self._prefill_token_s * prompt_tokens + tokens * step_s
        return call_s

    def latency_s(self, observation: Observation) -> Map:
        """Seconds to a call's last token: ``[server, strategy]``.

        The observation's latency map where there are predictors. Else what the step times say, and that a call waits
        until as many requests have ended as are before it, ``max_num_seqs`` of them at a time.
        """
        if (predicted := observation.latency_map) is not None:
            return predicted
        before = np.array([[observation.before(server)] for server in range(len(observation.servers))])
        wait_s, call_s = self.wait_and_call_s(
            observation.prompt_tokens, self.prospect(observation.query).tokens, before
        )
        latency_s: Map = wait_s + call_s
        return latency_s

    def wait_and_call_s(
        self, prompt_tokens: int | NDArray[np.float64], tokens: Map, before: NDArray[np.float64]
    ) -> tuple[Map, Map]:
        """What step times say of a call's wait, ``[..., server, 1]``, and of itself, ``[..., server, strategy]``.

        Parameters
        ----------
        tokens
            Of the output: ``[..., server, strategy]``.
        before
            Requests that the call finds before it: ``[..., server, 1]``; see `Observation.before`.
        """
        call_s = self.call_s(prompt_tokens, tokens, np.minimum(before + 1, self.max_num_seqs))
        rounds = np.maximum(before + 1 - self.max_num_seqs, 0) / self.max_num_seqs
        # sum() and a division: mean() does the same, three times as slowly on arrays as small as one decision's.
        return rounds * (call_s.sum(axis=-1, keepdims=True) / call_s.shape[-1]), call_s

    def _experts_s(self, num_running: Map) -> Map:
        """As `inframind.sim.StepTime.experts_s`."""
        experts_s: Map = -self._expert_s * np.expm1(-num_running / self._expert_tokens)
        return experts_s

    def _look_up(self, domain: str, question: int) -> Prospect:
        expected = self._expectations
        return Prospect(
            expected.expected_quality(domain, question, self.max_tokens)[self._at],
            expected.expected_tokens(domain, question, self.max_tokens)[self._at],
            *(each[self._at] for each in expected.expected_right_log_tokens(domain, question)),
        )
