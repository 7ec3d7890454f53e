"""How long one engine step takes: a few physical parameters, almost linear in what the batch holds."""

from dataclasses import dataclass
from math import ceil, expm1

from .clock import to_ticks
from .vllm_0_32 import Step

EXPERTS_READ = 20.0
"""Tokens in a step, relative to ``expert_tokens``, from which on all experts are read, to 2e-9 of them."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step, as a sum; for a fixed batch of decodes it is affine in their context.

    A memory-bound decode step reads the weights (``fixed_s``) and the KV cache (``context_token_s``); a compute-bound
    prefill pays per token (``prefill_token_s``) and, quadratically in the prompt, for attention (``prefill_pair_s``).
    Reading the weights and computing overlap, so the first tokens of a prefill cost nothing extra
    (``free_prefill_tokens``).

    Of a mixture of experts, ``n`` tokens ask for ``1 - (1 - k / E)^n`` of the weights in the E experts of a layer, if
    each asks for k of them at random; here ``1 - exp(-n / expert_tokens)``.

    Engines in lockstep (data parallel, with experts that all of them share) wait for the slowest, layer by layer: only
    the experts' part depends on the tokens of all, of the others the longest counts.
    """

    fixed_s: float
    """Every step: weights read, launches, the engine's own overhead."""
    prefill_token_s: float
    """Each token of a request with more than one token in the step, beyond the free ones."""
    decode_s: float
    """Each request with one token in the step."""
    context_token_s: float = 0.0
    """Each token that the batch's requests have computed so far, those of this step included."""
    prefill_pair_s: float = 0.0
    """Each (query, key) pair of a prefill chunk's causal attention."""
    free_prefill_tokens: int = 0
    """Prefill tokens of a step that cost nothing extra: while the GEMMs are still bound by reading the weights."""
    expert_s: float = 0.0
    """Reading all experts of a mixture of experts; a step reads those that its tokens ask for."""
    expert_tokens: float = 16.0
    """``num_experts / num_experts_per_tok``: so many tokens ask for 63 % of the experts."""

    def experts_s(self, num_tokens: float) -> float:
        """Reading the experts that so many tokens ask for."""
        return -self.expert_s * expm1(-num_tokens / self.expert_tokens)

    def seconds(self, step: Step) -> float:
        """Duration of a non-empty step."""
        slowest_s = max(
            self.prefill_token_s * max(0, part.prefill_tokens - self.free_prefill_tokens)
            + self.decode_s * part.num_decodes
            + self.context_token_s * part.context_tokens
            + self.prefill_pair_s * part.prefill_pairs
            for part in step.parts or (step,)
        )
        return self.fixed_s + slowest_s + self.experts_s(step.num_tokens)


class StepTicks:
    """``StepTime`` in clock ticks: integers, so that sums over steps are exact."""

    __slots__ = (
        *("_fixed", "_prefill_token", "_decode", "_context_token", "_prefill_pair"),
        *("_free_prefill_tokens", "_experts", "_all_experts"),
    )

    def __init__(self, step_time: StepTime) -> None:
        self._fixed = to_ticks(step_time.fixed_s)
        if self._fixed < 1:
            raise ValueError(f"fixed_s ({step_time.fixed_s}) must be at least a clock tick: a step takes time")
        self._prefill_token = to_ticks(step_time.prefill_token_s)
        self._decode = to_ticks(step_time.decode_s)
        self._context_token = to_ticks(step_time.context_token_s)
        self._prefill_pair = to_ticks(step_time.prefill_pair_s)
        self._free_prefill_tokens = step_time.free_prefill_tokens
        self._all_experts = ceil(EXPERTS_READ * step_time.expert_tokens) if step_time.expert_s > 0 else 0
        self._experts = [to_ticks(step_time.experts_s(tokens)) for tokens in range(self._all_experts + 1)]
        """By tokens in a step, up to as many as ask for all."""

    def step(self, step: Step) -> int:
        """Duration of a non-empty step."""
        if step.parts:
            return max(self.step(part) - self.experts(part.num_tokens) for part in step.parts) + self.experts(
                step.num_tokens
            )
        ticks = (
            self._fixed
            + self._decode * step.num_decodes
            + self._context_token * step.context_tokens
            + self._prefill_pair * step.prefill_pairs
        )
        if self._all_experts:
            ticks += self._experts[min(step.num_tokens, self._all_experts)]
        paid_tokens = step.prefill_tokens - self._free_prefill_tokens
        return ticks + self._prefill_token * paid_tokens if paid_tokens > 0 else ticks

    def experts(self, num_tokens: int) -> int:
        """Reading the experts that so many tokens ask for."""
        return self._experts[min(num_tokens, self._all_experts)]

    def decode_rounds(self, num_decodes: int, context_tokens: int) -> tuple[int, int]:
        """A run of rounds in which requests that have computed ``context_tokens`` take one token each: the duration
        of the first, and what each further one takes longer than the one before."""
        growth = self._context_token * num_decodes
        first = self._fixed + self._decode * num_decodes + self._context_token * context_tokens + growth
        if self._all_experts:
            first += self._experts[min(num_decodes, self._all_experts)]
        return first, growth
