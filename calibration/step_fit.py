"""Fit the parameters of `inframind.sim.step_time.StepTime` to measured steps.

The fit minimises the squared *relative* error, so that a decode step of 3 ms counts as much as a prefill of 800 ms, and
keeps every parameter at 0 or above: each is the time of some work.

For a given ``free_prefill_tokens`` the duration is linear in the others: non-negative least squares finds them. That
is done for each whole number of free tokens, and the smallest error of all wins.

What the model cannot follow: reading the weights turns into computing gradually, not at one number of tokens.
`relative_errors` says how far off it is for the steps at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from inframind.sim.server_file import FittedOn, StepTimeSection

Floats = NDArray[np.float64]
Phase = Literal["prefill", "decode"]

LINEAR_PARAMETERS = ("fixed_s", "prefill_token_s", "decode_s", "context_token_s", "prefill_pair_s")
"""In the order of the columns of the least-squares problem."""
PARAMETERS = (*LINEAR_PARAMETERS, "free_prefill_tokens")
"""All that are fitted."""
MAX_FREE_PREFILL_TOKENS = 1024
"""No more are tried. A dense model in bf16 on a GPU computes for as long as it reads weights at some 150 (A100) to 420
(L40S) tokens: the peak FLOP/s over the memory's bytes/s."""

MAX_USUAL_DECODES = 64
"""Servers rarely decode more requests in a step."""
MIN_USUAL_PREFILL_TOKENS = 256
"""Prompts are rarely shorter."""
UNUSUAL_WEIGHT = 0.1
"""What the squared error of a step beyond these two counts for; that of any other counts for 1."""


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """One engine step: what its duration depends on, counted as in `inframind.sim.vllm_0_32.Step`."""

    seconds: float
    prefill_tokens: int = 0
    num_decodes: int = 0
    context_tokens: float = 0.0
    """A mean over several steps need not be whole."""
    prefill_pairs: int = 0

    @property
    def phase(self) -> Phase:
        """A step with any prompt token in it is a prefill."""
        return "prefill" if self.prefill_tokens else "decode"

    @property
    def is_usual(self) -> bool:
        """Whether servers often run such a step."""
        is_small_prefill = 0 < self.prefill_tokens < MIN_USUAL_PREFILL_TOKENS
        return not is_small_prefill and self.num_decodes <= MAX_USUAL_DECODES


def prefill_step(seconds: float, num_prompts: int, prompt_tokens: int) -> MeasuredStep:
    """A step of nothing but ``num_prompts`` whole prompts of ``prompt_tokens`` each."""
    tokens = num_prompts * prompt_tokens
    pairs = num_prompts * prompt_tokens * (prompt_tokens + 1) // 2
    return MeasuredStep(seconds, prefill_tokens=tokens, context_tokens=tokens, prefill_pairs=pairs)


def decode_step(seconds: float, num_decodes: int, context_tokens_each: float) -> MeasuredStep:
    """A step of nothing but decodes with so much context each, the token of this step included."""
    return MeasuredStep(seconds, num_decodes=num_decodes, context_tokens=num_decodes * context_tokens_each)


def fit_step_time(
    steps: Sequence[MeasuredStep], *, source: str = "not named", licence: str = "not named"
) -> StepTimeSection:
    """Fit by weighted non-negative least squares of the relative error, for each number of free prefill tokens.

    The standard errors are those of ordinary least squares with all six parameters free and the model taken as linear
    around its best fit, which for ``free_prefill_tokens`` is the curvature of the error that the others, fitted anew,
    leave. Beside a parameter that came out as 0, the bound, it says up to what size (about twice the standard error)
    the steps do not rule it out. If ``prefill_token_s`` is 0, ``free_prefill_tokens`` has no effect: it is 0 without a
    standard error. They cover scatter only: what the model itself cannot follow is in `relative_errors`.

    Parameters
    ----------
    steps
        More of them than parameters; see `prefill_step` and `decode_step`.
    source
        Where the steps were measured, and how.
    licence
        Under which they may be used.

    Raises
    ------
    ValueError
        If the steps do not determine every parameter, or allow no time at all for an empty step.
    """
    if len(steps) <= len(PARAMETERS):
        raise ValueError(f"{len(PARAMETERS)} parameters need at least {len(PARAMETERS) + 1} steps, got {len(steps)}")
    if not all(0 < step.seconds < np.inf for step in steps):
        raise ValueError("the seconds of every step must be greater than 0 and finite")
    # Root of the weights: it is the squared errors that these count.
    weights = np.sqrt([1.0 if step.is_usual else UNUSUAL_WEIGHT for step in steps])
    # Row i of a @ parameters = b is fitted_s / measured_s = 1.
    row_factors = (weights / _seconds(steps))[:, np.newaxis]
    free = _best_free_prefill_tokens(steps, row_factors, weights)

    scaled, residual, scale = _solve(_features(steps, free) * row_factors, weights)
    if scaled[0] == 0:
        raise ValueError("fixed_s came out as 0: the steps get short without bound, as those of no real server do")
    values = dict(zip(LINEAR_PARAMETERS, (scaled / scale).tolist(), strict=True))
    fitted = StepTimeSection(**values, free_prefill_tokens=free)
    gradient = _gradient(steps, fitted) * row_factors
    std_errors = _std_errors(gradient, residual**2 / (len(steps) - len(PARAMETERS)))

    errors = np.abs(predict_s(steps, fitted) / _seconds(steps) - 1)
    return fitted.model_copy(
        update={
            "std_error": dict(zip(PARAMETERS, std_errors, strict=False)),  # the last may lack one
            "fitted_on": FittedOn(
                source=source,
                licence=licence,
                num_points=len(steps),
                error_p50=float(np.quantile(errors, 0.5)),
                error_p95=float(np.quantile(errors, 0.95)),
                max_prefill_tokens=max(step.prefill_tokens for step in steps),
                max_num_decodes=max(step.num_decodes for step in steps),
                max_context_tokens=int(max(step.context_tokens for step in steps)),
            ),
        }
    )


def predict_s(steps: Sequence[MeasuredStep], step_time: StepTimeSection) -> Floats:
    """Duration of each step, shape ``(len(steps),)``, as the simulator would have it."""
    parameters: Floats = np.array([getattr(step_time, name) for name in LINEAR_PARAMETERS])
    predicted: Floats = _features(steps, step_time.free_prefill_tokens) @ parameters
    return predicted


@dataclass(frozen=True, slots=True)
class RelativeErrors:
    """Quantiles of |fitted - measured| / measured."""

    num_steps: int
    p50: float
    p95: float
    max: float


def relative_errors(
    steps: Sequence[MeasuredStep], step_time: StepTimeSection, *, only_usual: bool = False
) -> dict[Phase, RelativeErrors]:
    """The errors of each phase that the steps have; ``only_usual``: leave out steps that servers rarely run."""
    phases: tuple[Phase, ...] = ("prefill", "decode")
    errors: dict[Phase, RelativeErrors] = {}
    for phase in phases:
        chosen = [step for step in steps if step.phase == phase and (step.is_usual or not only_usual)]
        if chosen:
            off = np.abs(predict_s(chosen, step_time) / _seconds(chosen) - 1)
            errors[phase] = RelativeErrors(len(chosen), *np.quantile(off, (0.5, 0.95, 1.0)).tolist())
    return errors


def _seconds(steps: Sequence[MeasuredStep]) -> Floats:
    return np.array([step.seconds for step in steps])


def _features(steps: Sequence[MeasuredStep], free_prefill_tokens: int) -> Floats:
    """What each linear parameter is multiplied with, shape ``(len(steps), len(LINEAR_PARAMETERS))``."""
    rows = [
        (
            1,
            max(0, step.prefill_tokens - free_prefill_tokens),
            step.num_decodes,
            step.context_tokens,
            step.prefill_pairs,
        )
        for step in steps
    ]
    return np.array(rows, dtype=np.float64)


def _gradient(steps: Sequence[MeasuredStep], step_time: StepTimeSection) -> Floats:
    """What each step's duration grows by with each parameter; without a column for the free tokens if of no effect."""
    free = step_time.free_prefill_tokens
    columns = _features(steps, free)
    if step_time.prefill_token_s == 0:
        return columns
    return np.column_stack([columns, -step_time.prefill_token_s * _is_beyond(steps, free)])


def _is_beyond(steps: Sequence[MeasuredStep], free_prefill_tokens: int) -> Floats:
    """1 for each step with more prefill tokens than these, else 0."""
    return np.array([float(step.prefill_tokens > free_prefill_tokens) for step in steps])


def _best_free_prefill_tokens(steps: Sequence[MeasuredStep], row_factors: Floats, weights: Floats) -> int:
    """The number with the smallest error; of those with the same one up to rounding, the smallest number.

    So it is 0 if the best ``prefill_token_s`` is.
    """
    candidates = range(_num_candidates(steps, row_factors))
    tokens = np.array([step.prefill_tokens for step in steps])
    columns = _features(steps, 0) * row_factors
    residuals = []
    for free in candidates:
        columns[:, 1] = np.maximum(0, tokens - free) * row_factors[:, 0]
        residuals.append(_solve(columns, weights)[1])
    enough = min(residuals) + 1e-9
    return next(free for free, residual in zip(candidates, residuals, strict=True) if residual <= enough)


def _num_candidates(steps: Sequence[MeasuredStep], row_factors: Floats) -> int:
    """Tokens up to which the steps beyond them determine every parameter; raises if even all steps do not.

    Which steps are beyond changes only at their own numbers of tokens, and a number of free tokens adds to the rows
    beyond a multiple of one column: what they determine is the same from one such number to the next.
    """
    for free in sorted({0, *(step.prefill_tokens for step in steps)}):
        if free > MAX_FREE_PREFILL_TOKENS:
            break
        columns = np.column_stack([_features(steps, free), _is_beyond(steps, free)]) * row_factors
        names = _not_determined(columns)
        if names and free == 0:
            raise ValueError(
                f"the steps do not determine {', '.join(names)}: there must be prefills of at least three lengths, "
                "and decodes of at least two batch sizes and two contexts"
            )
        if names:
            return free
    return MAX_FREE_PREFILL_TOKENS + 1


def _not_determined(columns: Floats) -> list[str]:
    """Every combination of parameters must change some row, or the steps cannot tell these parameters apart."""
    _, singular, directions = np.linalg.svd(columns / _scale(columns))
    without_effect = directions[singular < 1e-9 * singular[0]]
    mixed_up = (np.abs(without_effect) > 1e-6).any(axis=0)
    return [name for name, is_mixed_up in zip(PARAMETERS, mixed_up, strict=True) if is_mixed_up]


def _solve(columns: Floats, weights: Floats) -> tuple[Floats, float, Floats]:
    """The linear parameters times ``scale``, the norm of what they leave, and ``scale``."""
    scale = _scale(columns)
    scaled, residual = nnls(columns / scale, weights)
    return scaled, residual, scale


def _scale(columns: Floats) -> Floats:
    """Length of each column, for they differ by 10^9; 1 for an empty one."""
    lengths: Floats = np.linalg.norm(columns, axis=0)
    return np.where(lengths > 0, lengths, 1.0)


def _std_errors(gradient: Floats, variance: float) -> list[float]:
    """Of the parameters that have a column in the gradient."""
    scale = _scale(gradient)
    covariance = variance * np.linalg.inv((gradient / scale).T @ (gradient / scale))
    std_errors: list[float] = (np.sqrt(np.diag(covariance)) / scale).tolist()
    return std_errors
