"""Distributions of prompt and output lengths, in tokens."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from .typed_files import NotEmpty, Section

Tokens = NDArray[np.int64]

PositiveInt = Annotated[int, Field(ge=1)]


class Constant(Section):
    """Every length the same."""

    kind: Literal["constant"] = "constant"
    tokens: PositiveInt
    """The length."""

    def sample(self, rng: np.random.Generator, num: int) -> Tokens:
        """Return ``num`` lengths."""
        return np.full(num, self.tokens, dtype=np.int64)


class Uniform(Section):
    """Every whole number from ``low`` to ``high`` equally likely, both included."""

    kind: Literal["uniform"] = "uniform"
    low: PositiveInt
    """Shortest length."""
    high: PositiveInt
    """Longest length."""

    @model_validator(mode="after")
    def _low_is_at_most_high(self) -> Uniform:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must be at most high ({self.high})")
        return self

    def sample(self, rng: np.random.Generator, num: int) -> Tokens:
        """Return ``num`` lengths."""
        return rng.integers(self.low, self.high, size=num, endpoint=True)


class LogNormal(Section):
    """Log-normal lengths, those above ``max`` cut to ``max``.

    A server cuts too: generation stops at ``max_tokens``, so a share of the requests has exactly that
    length. ``mean`` is the mean of what comes out, after the cut, so two workloads with equal ``mean``
    load a server equally whatever their ``max``. (Rounding to whole tokens, at least 1, is on top; it moves
    means below about 10 tokens.)
    """

    kind: Literal["lognormal"] = "lognormal"
    mean: Annotated[float, Field(ge=1)]
    """Mean length after the cut."""
    sigma: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Standard deviation of the logarithm; about 1 for chat traffic, larger has a heavier tail."""
    max: PositiveInt
    """Longest length."""

    @model_validator(mode="after")
    def _mean_is_below_max(self) -> LogNormal:
        if self.mean >= self.max:
            raise ValueError(f"mean ({self.mean:g}) must be less than max ({self.max})")
        return self

    def sample(self, rng: np.random.Generator, num: int) -> Tokens:
        """Return ``num`` lengths."""
        drawn = np.exp(self._mu() + self.sigma * rng.standard_normal(num))
        return np.clip(np.rint(np.minimum(drawn, self.max)), 1, None).astype(np.int64)

    def _mu(self) -> float:
        """Return the mean of the logarithm that makes the mean after the cut equal ``mean``."""
        # The mean grows with mu: without a cut it would be exp(mu + sigma^2 / 2), so mu is at least this.
        low = math.log(self.mean) - self.sigma**2 / 2
        high = math.log(self.max) + 40 * self.sigma
        for _ in range(100):
            middle = (low + high) / 2
            if _mean_of_cut_lognormal(middle, self.sigma, self.max) < self.mean:
                low = middle
            else:
                high = middle
        return high


class Empirical(Section):
    """Lengths drawn from a list of observed ones."""

    kind: Literal["empirical"] = "empirical"
    values: Annotated[tuple[PositiveInt, ...], NotEmpty]
    """The lengths."""
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    """How often each occurs, in any unit; all equally often by default."""

    @model_validator(mode="after")
    def _weights_fit(self) -> Empirical:
        check_weights(self.weights, "values", len(self.values))
        return self

    def sample(self, rng: np.random.Generator, num: int) -> Tokens:
        """Return ``num`` lengths."""
        chosen = weighted_choice(rng, num, len(self.values), self.weights)
        return np.array(self.values, dtype=np.int64)[chosen]


Length = Annotated[Constant | Uniform | LogNormal | Empirical, Field(discriminator="kind")]
"""A distribution of lengths; ``sample(rng, n)`` begins with the same numbers as ``sample(rng, m)``."""


def check_weights(weights: tuple[float, ...] | None, name: str, num: int) -> None:
    """Raise ValueError unless there is one weight for each of the ``num`` entries of the field ``name``."""
    if weights is None:
        return
    if len(weights) != num:
        raise ValueError(f"weights has {len(weights)} entries where {name} has {num}")
    if sum(weights) <= 0:
        raise ValueError("weights must not all be 0")


def weighted_choice(
    rng: np.random.Generator, num: int, num_options: int, weights: tuple[float, ...] | None
) -> NDArray[np.intp]:
    """Return ``num`` indices below ``num_options``, one uniform number spent on each."""
    cumulative = np.cumsum(np.ones(num_options) if weights is None else np.array(weights))
    chosen: NDArray[np.intp] = np.searchsorted(cumulative, rng.random(num) * cumulative[-1], side="right")
    return chosen


def _mean_of_cut_lognormal(mu: float, sigma: float, cut: float) -> float:
    """E[min(X, cut)] for log X ~ Normal(mu, sigma): the part below the cut, then the part at it."""
    z = (math.log(cut) - mu) / sigma
    return math.exp(mu + sigma**2 / 2) * _normal_cdf(z - sigma) + cut * _normal_cdf(-z)


def _normal_cdf(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2
