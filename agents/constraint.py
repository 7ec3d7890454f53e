"""The constraint on latency, and the multipliers that price it.

Each tier k of budgets has a cost d_k that its workflows may not exceed on average, and a multiplier lambda_k >= 0 that
grows while they do and *shrinks* while they do not (signed dual ascent: theory, 7.4). With an unsigned step a
multiplier can only grow, and the policy ends with the cheapest of all actions.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from inframind.traces import Section

Array = NDArray[np.float64]
NotNegative = Annotated[float, Field(ge=0)]


class ConstraintOptions(Section):
    """What is bounded, and how its price is found."""

    cost: Literal["violation", "mean-ratio", "ratio-of-means"] = "violation"
    """``violation``: share of workflows that are late or fail. ``mean-ratio``: mean of C / beta, the InfraMind authors'
    code. ``ratio-of-means``: mean C over mean beta (theory, 7.4)."""
    limit: NotNegative = 0.05
    """What the cost may be on average; where a file does not say, 0.05 of ``violation`` and 1 of the two ratios."""
    per_tier: bool = True
    """One multiplier for each tier. Off: one for all, and slack tiers pay for tight ones."""
    form: Literal["projected", "softplus"] = "projected"
    """``max(0, .)`` of the sum of steps, or its softplus (theory, 7.4)."""
    initial: float = 0.1
    """The multiplier before training; with ``softplus`` its argument."""
    rate: NotNegative = 0.05
    """Step for a gap of 1: slower than the policy learns."""
    proportional: NotNegative = 0.0
    """PID (Stooke et al., ICML 2020): what the present gap adds."""
    derivative: NotNegative = 0.0
    """PID: what a rising cost adds."""
    smoothing: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Weight of the newest batch in the averaged cost."""
    floor: float = -6.0
    """Of the argument of softplus: without it a long slack winds it down so far that it comes back late."""
    maximum: NotNegative = 2.0
    """Of a multiplier. A right answer is worth 1: beyond 1, late and right is worse than wrong and in time."""
    max_gap: NotNegative = 1.0
    """A gap counts up to this: C / beta has heavy tails."""

    @model_validator(mode="before")
    @classmethod
    def _with_limit_of_cost(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("cost") in ("mean-ratio", "ratio-of-means"):
            return {"limit": 1.0} | given
        return given


class Multipliers:
    """One price for each tier.

    Parameters
    ----------
    num_tiers
        How many tiers of budgets there are.
    """

    def __init__(self, options: ConstraintOptions, num_tiers: int) -> None:
        num = num_tiers if options.per_tier else 1
        self.options = options
        self._num_tiers = num_tiers
        self._sum = np.full(num, options.initial)
        self._cost = np.full(num, np.nan)
        self._extra = np.zeros(num)

    @property
    def values(self) -> Array:
        """lambda, for each tier: ``[tiers]``."""
        options = self.options
        total = self._sum + self._extra
        own = np.logaddexp(0.0, total) if options.form == "softplus" else np.maximum(total, 0.0)
        return np.broadcast_to(np.minimum(own, options.maximum), self._num_tiers).copy()

    @property
    def costs(self) -> Array:
        """The averaged cost that the last update saw, for each tier; NaN before the first."""
        return np.broadcast_to(self._cost, self._num_tiers).copy()

    def update(self, costs_by_tier: Sequence[Array]) -> Array:
        """One signed step, from the costs of all workflows that ended, late and failed ones too.

        Parameters
        ----------
        costs_by_tier
            One cost for each workflow of a tier, as `cost_of` has it; a tier without workflows keeps its price.

        Returns
        -------
        The new multipliers, ``[tiers]``.
        """
        options = self.options
        groups = list(costs_by_tier) if options.per_tier else [np.concatenate(list(costs_by_tier))]
        seen = np.array([len(group) > 0 for group in groups])
        mean = np.array([group.mean() if len(group) else np.nan for group in groups])
        before = np.where(np.isnan(self._cost), mean, self._cost)
        self._cost = np.where(seen, before + options.smoothing * (mean - before), self._cost)
        gap = np.where(seen, np.clip(self._cost - options.limit, -options.max_gap, options.max_gap), 0.0)
        low, high = 0.0, options.maximum
        if options.form == "softplus":
            # Where softplus is the maximum: a long overload is no more to be wound up than a long slack.
            maximum = max(options.maximum, 1e-9)
            low, high = options.floor, max(options.floor, maximum + float(np.log(-np.expm1(-maximum))))
        self._sum = np.clip(self._sum + options.rate * gap, low, high)
        rise = np.where(seen, np.maximum(self._cost - before, 0.0), 0.0)
        self._extra = np.where(seen, options.proportional * gap + options.derivative * rise, self._extra)
        return self.values

    def state(self) -> dict[str, list[float | None]]:
        """For a checkpoint."""
        cost = [None if np.isnan(value) else float(value) for value in self._cost]
        return {"sum": self._sum.tolist(), "cost": cost, "extra": self._extra.tolist()}

    def restore(self, state: dict[str, list[float | None]]) -> None:
        """As it was."""
        self._sum, self._cost, self._extra = (np.array(state[key], dtype=float) for key in ("sum", "cost", "extra"))


def cost_of(
    options: ConstraintOptions,
    latency_s: Array,
    budget_s: Array,
    on_time: NDArray[np.bool_],
    tier: NDArray[np.int64],
) -> Array:
    """What each workflow costs.

    Parameters
    ----------
    latency_s
        From arrival to end, of failed ones to their failure: ``[workflows]``.
    """
    if options.cost == "violation":
        return (~on_time).astype(float)
    if options.cost == "mean-ratio":
        return np.asarray(latency_s / budget_s)
    # So that the mean over those that share a multiplier is mean C over mean beta.
    group = tier if options.per_tier else np.zeros_like(tier)
    mean_s = np.bincount(group, budget_s) / np.maximum(np.bincount(group), 1)
    return np.asarray(latency_s / mean_s[group])
