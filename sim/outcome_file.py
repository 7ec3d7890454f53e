"""The file of fitted outcomes: abilities, lengths and teams, as ``inframind.calibration.outcome_fit`` writes them."""

from pathlib import Path
from typing import Any

from inframind.traces import Section

OUTCOMES = Path(__file__).parent / "data" / "outcomes.json"


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
