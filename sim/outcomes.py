"""What simulated LLMs write: how long, and whether it is right.

An item-response model fitted to public answers of real LLMs to real questions; ``docs/outcomes.md`` has the equations,
every assumption, and how it compares with published numbers. Random numbers are hashes of what they belong to (seed,
question, LLM, strategy, slot), so that an outcome does not depend on what was asked before it: all policies meet the
same world.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from scipy.special import expit, ndtr, ndtri

from inframind.traces import ConfigError, Section, load_json
from inframind.traces.mistakes import did_you_mean
from inframind.workflows import DECIDER, TOPOLOGIES, build_workflow

Array: TypeAlias = NDArray[np.float64]
Keys: TypeAlias = NDArray[np.uint64]

OUTCOMES = Path(__file__).parent / "data" / "outcomes.json"
QUESTIONS = Path(__file__).parent / "data" / "questions.safetensors"
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


class LLMSection(Section):
    """One LLM on one source of questions."""

    ability: float
    """In logits, under the prompt that the source's answers are from."""
    ability_sd: float
    """How sure that is."""
    ability_basis: str
    log_tokens: float
    """Mean of the log length of a right answer to a question of difficulty 0."""
    log_tokens_per_logit: float
    log_tokens_if_wrong: float
    log_tokens_sd: float
    loops_if_wrong: float
    """Share of wrong answers that never end."""
    length_basis: str


class SourceSection(Section):
    """One benchmark that questions are from."""

    domain: str
    guess: float
    """Probability of a right answer without knowledge."""
    difficulty_mean: float
    difficulty_sd: float
    wordiness_sd: float
    """How much longer or shorter LLMs answer one question than its difficulty says, in log tokens."""
    models: dict[str, LLMSection]


class StrategySection(Section):
    """What a strategy changes, in one domain."""

    ability: float
    ability_se: float
    log_tokens: float
    log_tokens_sd: float


class DomainSection(Section):
    """One domain."""

    strategies: dict[str, StrategySection]
    review_log_odds: float
    """What a review adds to a right answer over a wrong one."""
    same_wrong: float
    """Probability that a wrong answer is the most common wrong one."""
    estimate_sd: float
    """Of difficulty, around what the embedding tells."""


class ReasoningSection(Section):
    """LLMs that think before they answer, whatever the prompt says."""

    models: tuple[str, ...]
    strategy_share: float
    """How much of a strategy's effect they show."""


class ReadIfCutSection(Section):
    """Probability that a right answer can be read off an output that was cut."""

    reasoning: float
    plain: float


class NoiseSection(Section):
    """What repeats when an LLM meets a question again."""

    shared: float
    """Share of what ability and difficulty leave open."""
    length_shared: float


class TeamsSection(Section):
    """How an agent chooses between its own answer and those that it reads."""

    vote: float
    """Log odds for each agent with the same answer."""
    own: float
    """Log odds for one's own."""
    decision_length: float
    """Output of the decision node over that of an agent."""


class OutcomesSection(Section):
    """A file of fitted outcomes."""

    version: int
    models: tuple[str, ...]
    strategies: tuple[str, ...]
    sources: dict[str, SourceSection]
    domains: dict[str, DomainSection]
    reasoning: ReasoningSection
    read_if_cut: ReadIfCutSection
    noise: NoiseSection
    teams: TeamsSection
    evidence: dict[str, Any]
    """What the fit found on its way; only the documentation reads it."""


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


class QuestionBank:
    """The questions of the default workload: fitted difficulties and embeddings of real questions, without texts.

    A question is a number in its domain. Its row in the arrays is that number plus the domain's `start`.
    """

    def __init__(self, path: str | Path = QUESTIONS) -> None:
        try:
            with safe_open(path, "numpy") as file:
                names = json.loads((file.metadata() or {})["questions"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            self.embedding: NDArray[np.float32] = arrays["embedding"].astype(np.float32)
            """(questions, 384), unit length; from float16."""
            self.prompt_tokens: NDArray[np.int32] = arrays["prompt_tokens"]
            """Of the question alone."""
            self.difficulty = arrays["difficulty"].astype(float)
            """In logits, on the scale of the domain. Not for policies."""
            self.wordiness = arrays["wordiness"].astype(float)
            """How much longer LLMs answer it than its difficulty says, in log tokens. Not for policies."""
            self.estimate = arrays["estimate"].astype(float)
            """What the embedding tells of the difficulty."""
            self.is_train: NDArray[np.bool_] = arrays["is_train"].astype(bool)
            """Of the part that policies and estimators may be trained on."""
            self.source: NDArray[np.uint8] = arrays["source"]
            """Index in `sources`."""
            self._estimator = arrays["estimator"].astype(float)
            self.sources: tuple[str, ...] = tuple(names["sources"])
            self.domains: tuple[str, ...] = tuple(names["domains"])
            self.ids: tuple[str, ...] = tuple(names["ids"])
            domain = np.array([self.domains.index(names["domain_of"][source]) for source in self.sources])[self.source]
        except OSError as error:
            raise ConfigError(path, [f"cannot be read: {error.strerror or error}"]) from None
        except (SafetensorError, KeyError, ValueError) as error:
            raise ConfigError(path, [f"is not a question bank: {error}"]) from None
        self.start = {name: int(np.searchsorted(domain, number)) for number, name in enumerate(self.domains)}
        """Row of the domain's first question."""
        self.num = {name: int((domain == number).sum()) for number, name in enumerate(self.domains)}
        """How many questions a domain has."""

    def __len__(self) -> int:
        return len(self.difficulty)

    def row(self, domain: str, question: int) -> int:
        """Where a question's numbers stand in the arrays.

        Raises
        ------
        ConfigError
            There is no such domain or question.
        """
        if domain not in self.num:
            raise ConfigError("outcomes", [f"unknown domain {domain!r}; known: {', '.join(self.domains)}"])
        if not 0 <= question < self.num[domain]:
            raise ConfigError("outcomes", [f"question {question} of {domain} must be in 0 to {self.num[domain] - 1}"])
        return self.start[domain] + question

    def questions(self, domain: str, *, train: bool) -> list[int]:
        """The numbers of the questions of one part of a domain."""
        start = self.row(domain, 0)
        rows = slice(start, start + self.num[domain])
        return [int(number) for number in np.flatnonzero(self.is_train[rows] == train)]

    def estimate_difficulty(self, domain: str, embedding: NDArray[np.float32]) -> float:
        """What an embedding, of a question in the bank or not, tells of the difficulty; in logits."""
        self.row(domain, 0)
        weights = self._estimator[self.domains.index(domain)]
        return float(embedding @ weights[:-1] + weights[-1])


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
    """

    def __init__(self, parameters: OutcomesSection, bank: QuestionBank, cache_size: int = 16) -> None:
        self.models = parameters.models
        self.strategies = parameters.strategies
        self.bank = bank
        self._parameters = parameters
        self._model_index = {name: index for index, name in enumerate(self.models)}
        self._strategy_index = {name: index for index, name in enumerate(self.strategies)}
        # Keys are names, so that an LLM's fate does not depend on its place in the file.
        self._model_keys = _names_to_keys(self.models)[:, None]
        self._strategy_keys = _names_to_keys(self.strategies)
        self._sources = [_SourceTable(parameters, name) for name in bank.sources]
        reasons = np.isin(self.models, parameters.reasoning.models)[:, None]
        self._read_if_cut = np.where(reasons, parameters.read_if_cut.reasoning, parameters.read_if_cut.plain)
        self._draws: Callable[[str, int, int], Draws] = lru_cache(cache_size)(self._draw)
        # Quality and tokens are asked for one after the other.
        self._expected: Callable[[str, int, int], tuple[Array, Array]] = lru_cache(1)(self._expect)

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
    def shipped(cls, cache_size: int = 16) -> OutcomeModel:
        """The outcomes that ship with the package."""
        return cls(load_json(OUTCOMES, OutcomesSection), QuestionBank(), cache_size)

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
        self, question: int, domain: str, model: str, strategy: str, role: str, slot: int, seed: int
    ) -> int:
        """Length of an answer that nothing cuts short, at least 1; equal arguments give equal lengths.

        Raises
        ------
        ConfigError
            An unknown domain, question, model or strategy.
        """
        draws, at = self._at(domain, question, model, strategy, slot, seed)
        return int((draws.decision_tokens if role == DECIDER.name else draws.tokens)[at])

    def call_correct(
        self,
        question: int,
        domain: str,
        model: str,
        strategy: str,
        role: str,
        slot: int,
        seed: int,
        max_tokens: int = MAX_TOKENS,
    ) -> bool:
        """Whether an agent that reads no other answers is right, with its output cut at `max_tokens`.

        Raises
        ------
        ConfigError
            An unknown domain, question, model or strategy.
        """
        draws, at = self._at(domain, question, model, strategy, slot, seed)
        tokens = (draws.decision_tokens if role == DECIDER.name else draws.tokens)[at]
        return bool(draws.is_right[at] and (tokens <= max_tokens or draws.is_readable[at]))

    def answer_correct(
        self, domain: str, question: int, topology: str, role_set: str, calls: Sequence[FinishedCall], seed: int
    ) -> bool:
        """Whether the answer of a finished workflow is right.

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
        return answers.get(workflow.nodes[-1].slot) == _RIGHT

    def expected_quality(self, question: int, domain: str, max_tokens: int = MAX_TOKENS) -> Array:
        """Probability that a call alone is right, for one who knows the embedding only: (LLMs, strategies)."""
        return self._expected(domain, question, max_tokens)[0]

    def expected_tokens(self, question: int, domain: str, max_tokens: int = MAX_TOKENS) -> Array:
        """Mean length of a call's output, for one who knows the embedding only: (LLMs, strategies)."""
        return self._expected(domain, question, max_tokens)[1]

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
        of_question = _mix(np.array([seed], np.uint64), rows.astype(np.uint64))
        of_node = _mix(of_question[:, None], slots)
        of_slot = _mix(_mix(of_node[:, :, None, None], self._model_keys), self._strategy_keys)
        of_model = _mix(rows.astype(np.uint64)[:, None, None, None], self._model_keys)

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
        is_right = _blend(noise.shared, _normal(of_model, 1), _normal(of_slot, 2)) < ndtri(chance)
        length_noise = _blend(noise.length_shared, _normal(of_model, 3), _normal(of_slot, 4))
        tokens = np.exp(np.minimum(mean_log + sd * length_noise + np.where(is_right, 0.0, if_wrong), 20.0))
        is_endless = ~is_right & (_uniform(of_slot, 5) < loops)
        answers = np.arange((block + 1) * _SLOTS + 2, dtype=np.uint64)
        return Draws(
            is_right,
            np.where(is_endless, _ENDLESS, np.ceil(tokens)).astype(np.int64),
            np.where(is_endless, _ENDLESS, np.ceil(tokens * self._parameters.teams.decision_length)).astype(np.int64),
            _uniform(of_slot, 6) < readable,
            _uniform(of_node, 7) < self._parameters.domains[domain].same_wrong,
            -np.log(-np.log(_uniform(_mix(of_node[:, :, None], answers), 8))),
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

    def _expect(self, domain: str, question: int, max_tokens: int) -> tuple[Array, Array]:
        row = self.bank.row(domain, question)
        source, spread = self._sources[self.bank.source[row]], self._parameters.domains[domain].estimate_sd
        difficulty = (self.bank.estimate[row] + spread * _NODES)[:, None, None]
        chance = source.chance(difficulty)
        if_right = source.mean_log_tokens(difficulty, 0.0)
        cut, right_tokens = _capped(if_right, source.sd_of_unknown, max_tokens)
        wrong_tokens = _capped(if_right + source.if_wrong, source.sd_of_unknown, max_tokens)[1]
        loops = source.loops_if_wrong
        wrong_tokens = loops * max_tokens + (1 - loops) * wrong_tokens
        weight = _WEIGHTS[:, None, None]
        quality = weight * chance * (1 - cut * (1 - self._read_if_cut))
        mean_tokens = weight * (chance * right_tokens + (1 - chance) * wrong_tokens)
        return quality.sum(0), mean_tokens.sum(0)


class _SourceTable:
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


_ENDLESS = 10.0**9
"""Tokens of an answer that goes round in circles: any cap comes first."""


def _capped(log_mean: Array, sd: Array, cap: int) -> tuple[Array, Array]:
    """Of a log-normal: probability to be above the cap, and the mean of what the cap leaves."""
    z = (np.log(cap) - log_mean) / sd
    cut = ndtr(-z)
    return cut, np.exp(log_mean + sd**2 / 2) * ndtr(z - sd) + cap * cut


def _blend(shared: float, first: Array, second: Array) -> Array:
    """A standard normal of two independent ones."""
    return np.asarray(np.sqrt(shared) * first + np.sqrt(1 - shared) * second)


def _names_to_keys(names: Sequence[str]) -> Keys:
    return np.array([zlib.crc32(name.encode()) for name in names], np.uint64)


def _mix(key: Keys, with_: Keys) -> Keys:
    """One round of SplitMix64 (Steele et al. 2014, OOPSLA), the other key added; arrays, which wrap around."""
    z = (key ^ (with_ * np.uint64(0xD1342543DE82EF95))) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = z ^ (z >> np.uint64(31))
    return mixed


def _uniform(key: Keys, purpose: int) -> Array:
    """In (0, 1), one for each key and purpose."""
    bits = _mix(key, np.array([purpose], np.uint64)) >> np.uint64(11)
    return np.asarray((bits.astype(float) + 0.5) * 2.0**-53)


def _normal(key: Keys, purpose: int) -> Array:
    return np.asarray(ndtri(_uniform(key, purpose)))
