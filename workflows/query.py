"""What arrives: a question with a time by which its answer must be there."""

import math
from dataclasses import dataclass

from inframind.traces import ConfigError

from .roles import domain_of


@dataclass(frozen=True, slots=True)
class Query:
    """One query.

    Raises
    ------
    ConfigError
        A budget that is not above 0, a prompt without tokens, or an unknown domain.
    """

    query_id: str
    """Unique in the run; the workflow that answers it has the same name."""
    domain: str
    """A key of ``DOMAINS``."""
    question: int
    """Which question of its domain it is: equal numbers, equal words, equal difficulty."""
    prompt_tokens: int
    """Length of the question alone."""
    budget_s: float
    """Its deadline is its arrival plus this."""
    text: str | None = None
    """The question itself; None where only its length is known."""
    embedding: int | None = None
    """Its row in the table of query embeddings."""

    def __post_init__(self) -> None:
        if not 0 < self.budget_s < math.inf:
            mistake = f"budget_s ({self.budget_s:g}) must be greater than 0, and finite"
            raise ConfigError(f"query {self.query_id}", [mistake])
        if self.prompt_tokens < 1:
            raise ConfigError(f"query {self.query_id}", [f"prompt_tokens ({self.prompt_tokens}) must be at least 1"])
        domain_of(self.domain)
