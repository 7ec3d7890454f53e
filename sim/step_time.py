"""How long one engine step takes: a few physical parameters, almost linear in what the batch holds."""

from dataclasses import dataclass

from .clock import to_ticks
from .vllm_0_32 import Step


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step, as a sum; for a fixed batch of decodes it is affine in their context.

    A memory-bound decode step reads the weights (``fixed_s``) and the KV cache (``context_token_s``); a compute-bound
    prefill pays per token (``prefill_token_s``) and, quadratically in the prompt, for attention (``prefill_pair_s``).
    Reading the weights and computing overlap, so the first tokens of a prefill cost nothing extra
    (``free_prefill_tokens``).
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

    def seconds(self, step: Step) -> float:
        """Duration of a non-empty step."""
        return (
            self.fixed_s
            + self.prefill_token_s * max(0, step.prefill_tokens - self.free_prefill_tokens)
            + self.decode_s * step.num_decodes
            + self.context_token_s * step.context_tokens
            + self.prefill_pair_s * step.prefill_pairs
        )


class StepTicks:
    """``StepTime`` in clock ticks: integers, so that sums over steps are exact."""

    __slots__ = ("_context_token", "_decode", "_fixed", "_free_prefill_tokens", "_prefill_pair", "_prefill_token")

    def __init__(self, step_time: StepTime) -> None:
        self._fixed = to_ticks(step_time.fixed_s)
        if self._fixed < 1:
            raise ValueError(f"fixed_s ({step_time.fixed_s}) must be at least a clock tick: a step takes time")
        self._prefill_token = to_ticks(step_time.prefill_token_s)
        self._decode = to_ticks(step_time.decode_s)
        self._context_token = to_ticks(step_time.context_token_s)
        self._prefill_pair = to_ticks(step_time.prefill_pair_s)
        self._free_prefill_tokens = step_time.free_prefill_tokens

    def step(self, step: Step) -> int:
        """Duration of a non-empty step."""
        ticks = (
            self._fixed
            + self._decode * step.num_decodes
            + self._context_token * step.context_tokens
            + self._prefill_pair * step.prefill_pairs
        )
        paid_tokens = step.prefill_tokens - self._free_prefill_tokens
        return ticks + self._prefill_token * paid_tokens if paid_tokens > 0 else ticks

    def decode_rounds(self, num_decodes: int, context_tokens: int) -> tuple[int, int]:
        """A run of rounds in which requests that have computed ``context_tokens`` take one token each: the duration
        of the first, and what each further one takes longer than the one before."""
        growth = self._context_token * num_decodes
        return self._fixed + self._decode * num_decodes + self._context_token * context_tokens + growth, growth
