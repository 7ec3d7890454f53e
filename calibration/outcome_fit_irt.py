"""Item response theory: difficulties as random effects, abilities as fixed ones, and how errors of one LLM repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import multivariate_normal, norm

Array: TypeAlias = NDArray[np.float64]

_NODES = np.linspace(-5.0, 5.0, 61)
"""Difficulties in standard deviations; the normal prior is summed over these."""
_PRIOR = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()


@dataclass(frozen=True, slots=True)
class Rasch:
    """P(correct) = guess + (1 - guess) * sigmoid(ability - difficulty), difficulty ~ N(0, sigma^2).

    Marginal maximum likelihood with the items as random effects: there are few LLMs and many questions, so abilities
    are parameters, and a question's difficulty is known only up to its posterior.
    """

    abilities: Array
    """One for each LLM."""
    sigma: float
    """Spread of the difficulties."""
    guess: float
    log_likelihood: Array
    """Of each question's answers (rows) at each of `nodes` (columns)."""

    @property
    def nodes(self) -> Array:
        """The difficulties that the posterior is summed over."""
        return self.sigma * _NODES

    def posterior(self, mean: Array | float = 0.0, sd: float | None = None) -> Array:
        """Weights of `nodes` for each question, under a normal prior for its difficulty."""
        spread = self.sigma if sd is None else sd
        prior = -(((self.nodes - np.reshape(mean, (-1, 1))) / spread) ** 2) / 2
        log_weights = self.log_likelihood + prior
        weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    @property
    def difficulties(self) -> Array:
        """The posterior mean (EAP) of each question's difficulty."""
        return np.asarray(self.posterior() @ self.nodes)

    @property
    def reliability(self) -> float:
        """Share of the variance of difficulty that the answers tell: var(EAP) / sigma^2."""
        return float(self.difficulties.var() / self.sigma**2)

    def accuracy(self, ability: float) -> float:
        """The share of such questions that an LLM of this ability answers."""
        return float(_PRIOR @ _probability(np.array([ability]), self.nodes, self.guess)[:, 0])

    def ability_of(self, accuracy: float) -> float:
        """The ability at which `accuracy` comes out."""
        return float(brentq(lambda ability: self.accuracy(ability) - accuracy, -15, 15))


def fit_rasch(answers: Array, guess: float = 0.0, tolerance: float = 1e-9, max_rounds: int = 3000) -> Rasch:
    """Fit by EM, with a Newton step on all parameters in each round.

    Parameters
    ----------
    answers
        Questions x LLMs: 1 right, 0 wrong, nan not asked.
    guess
        Probability of a right answer without knowledge.
    """
    asked = ~np.isnan(answers)
    right = np.where(asked, answers, 0.0)
    share = np.clip(right.sum(axis=0) / asked.sum(axis=0), guess + 0.01, 0.99)
    abilities = 1.5 * np.log((np.maximum(share, guess + 0.01) - guess) / (1 - share))
    sigma = 1.5
    for _ in range(max_rounds):
        likelihood = _log_likelihood(right, asked, abilities, sigma, guess)
        weights = _normalised(likelihood + np.log(_PRIOR))
        num_asked, num_right = weights.T @ asked, weights.T @ right
        step, sigma_step = _newton_step(num_asked, num_right, abilities, sigma, guess)
        # Far from the optimum a whole Newton step may overshoot.
        abilities, sigma = abilities + np.clip(step, -0.5, 0.5), sigma + float(np.clip(sigma_step, -0.2, 0.2))
        if max(np.abs(step).max(), abs(sigma_step)) < tolerance:
            break
    return Rasch(abilities, float(sigma), guess, _log_likelihood(right, asked, abilities, sigma, guess))


def _probability(abilities: Array, difficulties: Array, guess: float) -> Array:
    """Difficulties x abilities."""
    return np.asarray(guess + (1 - guess) * expit(abilities[None, :] - difficulties[:, None]))


def _log_likelihood(right: Array, asked: NDArray[np.bool_], abilities: Array, sigma: float, guess: float) -> Array:
    chance = _probability(abilities, sigma * _NODES, guess)
    return np.asarray(right @ np.log(chance).T + (asked - right) @ np.log1p(-chance).T)


def _normalised(log_weights: Array) -> Array:
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _newton_step(
    num_asked: Array, num_right: Array, abilities: Array, sigma: float, guess: float
) -> tuple[Array, float]:
    """Fisher scoring on the expected counts; abilities only meet sigma, so the system is a bordered diagonal."""
    logistic = expit(abilities[None, :] - sigma * _NODES[:, None])
    chance = guess + (1 - guess) * logistic
    slope = (1 - guess) * logistic * (1 - logistic)
    variance = chance * (1 - chance)
    score = (num_right - num_asked * chance) / variance * slope
    information = num_asked * slope**2 / variance
    gradient, curvature = score.sum(axis=0), information.sum(axis=0)
    cross = -(_NODES[:, None] * information).sum(axis=0)
    sigma_gradient = -(_NODES[:, None] * score).sum()
    sigma_curvature = (_NODES[:, None] ** 2 * information).sum()
    sigma_step = (sigma_gradient - (cross * gradient / curvature).sum()) / (
        sigma_curvature - (cross**2 / curvature).sum()
    )
    return np.asarray((gradient - cross * sigma_step) / curvature), float(sigma_step)


def plausible_values(rasch: Rasch, mean: Array, sd: float, uniform: Array) -> Array:
    """One draw from each question's posterior (Mislevy 1991, *Psychometrika* 56, 177-196).

    Posterior means vary less than the difficulties do, and a prior that leaves the predictor out would dilute what the
    predictor tells: hence draws, under a prior whose mean is the prediction (latent regression).

    Parameters
    ----------
    mean, sd
        Of each question's prior.
    uniform
        One number in (0, 1) for each question.
    """
    weights = rasch.posterior(mean, sd)
    # A node stands for what is around it, half of which lies below.
    below = weights.cumsum(axis=1) - weights / 2
    nodes = rasch.nodes
    return np.array([np.interp(u, row, nodes) for u, row in zip(uniform, below, strict=True)])


def tetrachoric(first: Sequence[int], second: Sequence[int]) -> float:
    """Correlation of two standard normal traits of which only the signs are seen."""
    a, b = np.asarray(first, float), np.asarray(second, float)
    both, cuts = float((a * b).mean()), norm.ppf([a.mean(), b.mean()])

    def excess(correlation: float) -> float:
        return float(multivariate_normal.cdf(cuts, cov=[[1.0, correlation], [correlation, 1.0]])) - both

    return float(brentq(excess, -0.999, 0.9999, xtol=1e-10))


def shared_noise(same: float, other: float) -> float:
    """Share of the noise beyond difficulty that repeats, from the correlations of like and of unlike answers."""
    return (same - other) / (1 - other)
