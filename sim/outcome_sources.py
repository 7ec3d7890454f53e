"""What one benchmark's questions make of LLMs and strategies: chances and lengths, as arrays."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from .outcome_file import OutcomesSection

Array = NDArray[np.float64]


class SourceTable:
    """Numbers of one source as arrays (LLMs, strategies) or (LLMs, 1)."""

    def __init__(self, parameters: OutcomesSection, name: str) -> None:
        source = parameters.sources[name]
        strategies = parameters.domains[source.domain].strategies
        llms = [source.models[model] for model in parameters.models]
        share = np.array(
            [
                parameters.reasoning.strategy_share if model in parameters.reasoning.models else 1.0
                for model in parameters.models
            ]
        )[:, None]

        def of_llm(field: str) -> Array:
            return np.array([getattr(llm, field) for llm in llms])[:, None]

        def of_strategy(field: str) -> Array:
            effects = np.array([getattr(strategies[each], field) for each in parameters.strategies])
            return np.asarray(share * effects[None, :])

        self._guess = source.guess
        self._ability = of_llm("ability") + of_strategy("ability")
        self._log_tokens = of_llm("log_tokens") + of_strategy("log_tokens")
        self._per_logit = of_llm("log_tokens_per_logit")
        self._follows_question = (share == 1.0).astype(float)
        self.sd = np.hypot(of_llm("log_tokens_sd"), of_strategy("log_tokens_sd"))
        self.sd_of_unknown = np.hypot(self.sd, self._follows_question * source.wordiness_sd)
        """For one who does not know the question's wordiness."""
        self.if_wrong = of_llm("log_tokens_if_wrong")
        # Who answers at once has nothing to go round in.
        self.loops_if_wrong = of_llm("loops_if_wrong") * (np.array(parameters.strategies) != "Flash")[None, :]

    def at(self, difficulty: float, wordiness: float) -> tuple[Array, Array, Array, Array, Array]:
        """Chance, mean log tokens of a right answer, their sd, what a wrong one adds, share of endless wrong ones."""
        shape = self._ability.shape
        if_wrong = np.broadcast_to(self.if_wrong, shape)
        return (
            self.chance(difficulty),
            self.mean_log_tokens(difficulty, wordiness),
            self.sd,
            if_wrong,
            self.loops_if_wrong,
        )

    def chance(self, difficulty: float | Array) -> Array:
        """Probability of a right answer if nothing cuts it."""
        return np.asarray(self._guess + (1 - self._guess) * expit(self._ability - difficulty))

    def mean_log_tokens(self, difficulty: float | Array, wordiness: float) -> Array:
        """Of a right answer."""
        mean: Array = self._log_tokens + self._per_logit * difficulty + self._follows_question * wordiness
        return mean


def capped(log_mean: Array, sd: Array, cap: int) -> tuple[Array, Array]:
    """Of a log-normal: probability to be above the cap, and the mean of what the cap leaves."""
    z = (np.log(cap) - log_mean) / sd
    cut = ndtr(-z)
    return cut, np.exp(log_mean + sd**2 / 2) * ndtr(z - sd) + cap * cut
