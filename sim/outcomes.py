"""What simulated LLMs write: how long, and whether it is right.

An item-response model fitted to public answers of real LLMs to real questions; ``docs/outcomes.md`` has the equations,
every assumption, and how it compares with published numbers. Random numbers are hashes of what they belong to (seed,
question, LLM, strategy, slot), so that an outcome does not depend on what was asked before it: all policies meet the
same world.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from inframind.traces import ConfigError, load_json
from inframind.traces.mistakes import did_you_mean
from inframind.workflows import DECIDER, TOPOLOGIES, build_workflow

from .outcome_file import OUTCOMES, OutcomesSection
from .outcome_random import blend, mix, names_to_keys, normal, uniform
from .outcome_sources import SourceTable, capped
from .question_bank import QUESTIONS, QuestionBank

Array = NDArray[np.float64]

MAX_TOKENS = 2048
"""Cap of an output in the InfraMind authors' set-up."""

REVIEWERS = frozenset({"Inspector", "TestAnalyst", "BugFixer", "Critic", "Reflector"})
"""Roles that check what they read; so does every agent of a topology that says so (Reflection)."""

_SLOTS = 8
"""Drawn at once; more than most workflows have."""
_RIGHT = -1
_COMMON_WRONG = -2
"""Names of answers; a wrong answer of its own has its slot for a name."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_ENDLESS = 10.0**9
"""Tokens of an answer that goes round in circles: any cap comes first."""


class FinishedCall(Protocol):
    """What `OutcomeModel.answer_correct` reads of a call, as of ``workflows.CallRecord``."""

    @property
    def slot(self) -> int:
        """Number of its node."""
        ...

    @property
    def role(self) -> str:
        """Name of its role."""
        ...

    @property
    def model(self) -> str:
        """The LLM."""
        ...

    @property
    def strategy(self) -> str:
        """The prompting strategy."""
        ...

    @property
    def output_tokens(self) -> int:
        """What it was given to write; less than it wanted, if it was cut."""
        ...


class Draws(NamedTuple):
    """Answers to all questions of a domain at some slots; (questions, slots, LLMs, strategies) by default."""

    is_right: NDArray[np.bool_]
    """If nothing cuts it."""
    tokens: NDArray[np.int64]
    """If nothing cuts it."""
    decision_tokens: NDArray[np.int64]
    """The same of a decision node."""
    is_readable: NDArray[np.bool_]
    """If it is cut."""
    is_common_wrong: NDArray[np.bool_]
    """(questions, slots): if it is wrong."""
    choice: Array
    """(questions, slots, answers): Gumbel noise with which an agent at the slot chooses between answers."""


class OutcomeModel:
    """Lengths and correctness of calls and workflows.

    Parameters
    ----------
    parameters
        Fitted numbers.
    bank
        The questions.
    cache_size
        How many (domain, seed) are remembered, about 3 MB each. Drawing one takes some 50 ms, asking it 2 microseconds.
    luck_by_seed
        Whether each seed draws anew what an LLM owes to luck with a question, which else is the same under all of them.
        For training: a bank has so few questions that over those of a source LLMs are lucky or unlucky by some points,
        which is not true of others, and would be learnt.
    """

    def __init__(
        self, parameters: OutcomesSection, bank: QuestionBank, cache_size: int = 16, *, luck_by_seed: bool = False
    ) -> None:
        self.models = parameters.models
        self.strategies = parameters.strategies
        self.bank = bank
        self._parameters = parameters
        self._luck_by_seed = luck_by_seed
        self._model_index = {name: index for index, name in enumerate(self.models)}
        self._strategy_index = {name: index for index, name in enumerate(self.strategies)}
        # Keys are names, so that an LLM's fate does not depend on its place in the file.
        self._model_keys = names_to_keys(self.models)[:, None]
        self._strategy_keys = names_to_keys(self.strategies)
        self._sources = [SourceTable(parameters, name) for name in bank.sources]
        reasons = np.isin(self.models, parameters.reasoning.models)[:, None]
        self._read_if_cut = np.where(reasons, parameters.read_if_cut.reasoning, parameters.read_if_cut.plain)
        self._draws: Callable[[str, int, int], Draws] = lru_cache(cache_size)(self._draw)
        # Quality and tokens are asked for one after the other.
        self._expected: Callable[[str, int, int], tuple[Array, Array, Array, Array]] = lru_cache(1)(self._expect)

    @classmethod
    def from_file(cls, path: str | Path, questions: str | Path = QUESTIONS) -> OutcomeModel:
        """Read fitted outcomes, JSON as ``inframind.calibration.outcome_fit`` writes it.

        Raises
        ------
        ConfigError
            If a file is not what it should be.
        """
        return cls(load_json(path, OutcomesSection), QuestionBank(questions))

    @classmethod
    def shipped(cls, cache_size: int = 16, *, luck_by_seed: bool = False) -> OutcomeModel:
        """The outcomes that ship with the package."""
        return cls(load_json(OUTCOMES, OutcomesSection), QuestionBank(), cache_size, luck_by_seed=luck_by_seed)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains."""
        return self.bank.domains

    def check_models(self, names: Sequence[str]) -> None:
        """Make sure that there are outcomes for all of these LLMs.

        Raises
        ------
        ConfigError
            Names each that has none.
        """
        problems = [
            f"no outcome data for model {name!r}{did_you_mean(name, self.models) or f'; known: {known}'}"
            for known in [", ".join(self.models)]
            for name in dict.fromkeys(names)
            if name not in self._model_index
        ]
        if problems:
            raise ConfigError("outcomes", problems)

    def output_tokens(
        self, domain: str, question: int, model: str, strategy: str, role: str, slot: int, seed: int
    ) -> int:
        """Length of an answer that nothing cuts short, at least 1; equal arguments give equal lengths.

        Raises
        ------
        ConfigError
            An unknown domain, question, model or strategy.
        """
        draws, at = self._at(domain, question, model, strategy, slot, seed)
        return int((draws.decision_tokens if role == DECIDER.name else draws.tokens)[at])

    def answer_correct(
        self, domain: str, question: int, topology: str, role_set: str, calls: Sequence[FinishedCall], seed: int
    ) -> bool:
        """Whether the answer of a finished workflow is right: that of the last of its nodes which has finished.

        Raises
        ------
        ConfigError
            An unknown domain, question, topology, role, model or strategy.
        """
        workflow = build_workflow(domain, topology, role_set)
        by_slot = {call.slot: call for call in calls}
        answers: dict[int, int] = {}
        for node in workflow.nodes:
            if (call := by_slot.get(node.slot)) is None:
                continue
            read = [answers[slot] for slot in node.predecessors if slot in answers]
            is_review = bool(read) and (call.role in REVIEWERS or TOPOLOGIES[topology].is_review)
            if (answer := self._settle(domain, question, call, read, is_review, seed)) is not None:
                answers[node.slot] = answer
        return answers.get(max(by_slot, default=-1)) == _RIGHT

    def expected_quality(self, domain: str, question: int, max_tokens: int = MAX_TOKENS) -> Array:
        """Probability that a call alone is right, for one who knows the embedding only: (LLMs, strategies)."""
        return self._expected(domain, question, max_tokens)[0]

    def expected_tokens(self, domain: str, question: int, max_tokens: int = MAX_TOKENS) -> Array:
        """Mean length of a call's output, for one who knows the embedding only: (LLMs, strategies)."""
        return self._expected(domain, question, max_tokens)[1]

    def expected_right_log_tokens(self, domain: str, question: int) -> tuple[Array, Array]:
        """Mean and standard deviation of the log of a right answer's length that nothing cuts, for one who knows the
        embedding only: each (LLMs, strategies).
        """
        return self._expected(domain, question, MAX_TOKENS)[2:]

    def right_calls(self, domain: str, question: int, seed: int, max_tokens: int = MAX_TOKENS) -> NDArray[np.bool_]:
        """Which calls would be right alone, at the first slots of a workflow: (8, LLMs, strategies).

        The future of a seed: for critics in training, which may know what policies do not.
        """
        self.bank.row(domain, question)
        draws = self._draws(domain, seed, 0)
        is_whole = draws.tokens[question] <= max_tokens
        right: NDArray[np.bool_] = draws.is_right[question] & (is_whole | draws.is_readable[question])
        return right

    def _at(
        self, domain: str, question: int, model: str, strategy: str, slot: int, seed: int
    ) -> tuple[Draws, tuple[int, int, int, int]]:
        self.bank.row(domain, question)
        try:
            at = (question, slot % _SLOTS, self._model_index[model], self._strategy_index[strategy])
        except KeyError:
            self.check_models([model])
            known = ", ".join(self.strategies)
            raise ConfigError("outcomes", [f"unknown strategy {strategy!r}; known: {known}"]) from None
        return self._draws(domain, seed, slot // _SLOTS), at

    def _draw(self, domain: str, seed: int, block: int) -> Draws:
        bank, noise = self.bank, self._parameters.noise
        rows = np.arange(bank.start[domain], bank.start[domain] + bank.num[domain])
        source, readable = bank.source[rows], self._read_if_cut
        slots = np.arange(block * _SLOTS, (block + 1) * _SLOTS, dtype=np.uint64)
        of_question = mix(np.array([seed], np.uint64), rows.astype(np.uint64))
        of_node = mix(of_question[:, None], slots)
        of_slot = mix(mix(of_node[:, :, None, None], self._model_keys), self._strategy_keys)
        luck = of_question if self._luck_by_seed else rows.astype(np.uint64)
        of_model = mix(luck[:, None, None, None], self._model_keys)

        chance, mean_log, sd, if_wrong, loops = (
            np.stack(each)[:, None]
            for each in zip(
                *(
                    self._sources[number].at(difficulty, wordiness)
                    for number, difficulty, wordiness in zip(
                        source, bank.difficulty[rows], bank.wordiness[rows], strict=True
                    )
                ),
                strict=True,
            )
        )
        is_right = blend(noise.shared, normal(of_model, 1), normal(of_slot, 2)) < ndtri(chance)
        length_noise = blend(noise.length_shared, normal(of_model, 3), normal(of_slot, 4))
        tokens = np.exp(np.minimum(mean_log + sd * length_noise + np.where(is_right, 0.0, if_wrong), 20.0))
        is_endless = ~is_right & (uniform(of_slot, 5) < loops)
        answers = np.arange((block + 1) * _SLOTS + 2, dtype=np.uint64)
        return Draws(
            is_right,
            np.where(is_endless, _ENDLESS, np.ceil(tokens)).astype(np.int64),
            np.where(is_endless, _ENDLESS, np.ceil(tokens * self._parameters.teams.decision_length)).astype(np.int64),
            uniform(of_slot, 6) < readable,
            uniform(of_node, 7) < self._parameters.domains[domain].same_wrong,
            -np.log(-np.log(uniform(mix(of_node[:, :, None], answers), 8))),
        )

    def _settle(
        self, domain: str, question: int, call: FinishedCall, read: Sequence[int], is_review: bool, seed: int
    ) -> int | None:
        """The answer that an agent ends with, having read those of others; None if it is cut and not readable."""
        draws, at = self._at(domain, question, call.model, call.strategy, call.slot, seed)
        wanted = (draws.decision_tokens if call.role == DECIDER.name else draws.tokens)[at]
        if call.output_tokens < wanted and not draws.is_readable[at]:
            return None
        own = _RIGHT
        if not draws.is_right[at]:
            own = _COMMON_WRONG if draws.is_common_wrong[at[:2]] else call.slot
        if not read:
            return own
        teams, noise = self._parameters.teams, draws.choice[at[:2]]
        known = self._parameters.domains[domain].review_log_odds if is_review else 0.0

        def worth(answer: int) -> float:
            """Log odds with Gumbel noise: the largest is a draw from the softmax."""
            votes = teams.vote * (read.count(answer) + (answer == own))
            return float(votes + teams.own * (answer == own) + known * (answer == _RIGHT) + noise[answer + 2])

        return max({*read, own}, key=worth)

    def _expect(self, domain: str, question: int, max_tokens: int) -> tuple[Array, Array, Array, Array]:
        row = self.bank.row(domain, question)
        source, spread = self._sources[self.bank.source[row]], self._parameters.domains[domain].estimate_sd
        difficulty = (self.bank.estimate[row] + spread * _NODES)[:, None, None]
        chance = source.chance(difficulty)
        if_right = source.mean_log_tokens(difficulty, 0.0)
        cut, right_tokens = capped(if_right, source.sd_of_unknown, max_tokens)
        wrong_tokens = capped(if_right + source.if_wrong, source.sd_of_unknown, max_tokens)[1]
        loops = source.loops_if_wrong
        wrong_tokens = loops * max_tokens + (1 - loops) * wrong_tokens
        weight = _WEIGHTS[:, None, None]
        quality = weight * chance * (1 - cut * (1 - self._read_if_cut))
        mean_tokens = weight * (chance * right_tokens + (1 - chance) * wrong_tokens)
        share = weight * chance / (weight * chance).sum(0)
        mean_log = (share * if_right).sum(0)
        log_sd = np.hypot(source.sd_of_unknown, np.sqrt((share * (if_right - mean_log) ** 2).sum(0)))
        return quality.sum(0), mean_tokens.sum(0), mean_log, log_sd
