"""The questions that workloads ask."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from inframind.traces import ConfigError

QUESTIONS = Path(__file__).parent / "data" / "questions.safetensors"


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
