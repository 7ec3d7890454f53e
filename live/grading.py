"""Is an answer right? What is compared with what, and how the answer is read out of the text around it.

Texts and letters are compared here. Numbers and formulas (math-verify), the scorers of reasoning-gym (some of which
``eval`` the answer) and code run in a `Sandbox`. ``docs/grading.md`` has the rules and their limits.
"""

import asyncio
import contextlib
import re
import string
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from .sandbox import Guarantees, Limits, Sandbox

Job: TypeAlias = Mapping[str, object]
"""What a `Sandbox` judges."""

MAX_CHARACTERS = 100_000
"""Of an answer; what comes before is not read."""
MAX_FORMULA_CHARACTERS = 1_000
"""A longer one is wrong; math-verify would take seconds for it."""
_THOUGHT = "</think>"
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
# Spaces and tabs, not \s: a run of blank lines would be tried again from each of them.
_ANSWER = re.compile(r"(?im)^[ \t*_#>-]*(?:the[ \t]+)?(?:final[ \t]+)?answer(?:[ \t]+is)?[ \t*_]*:[ \t*_]*")
# A and I before a word are an article and a pronoun.
_LETTER = re.compile(r"\W*(?:(?:[Oo]ption|[Cc]hoice)\W+|(?![AI]\s+\w))([A-Z])(?:\W|$)")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class Grade:
    """Whether an answer is right, and why in a few words."""

    correct: bool
    reason: str


class Check(Protocol):
    """What the right answer to a task is."""

    def examine(self, text: str) -> Grade | Job:
        """The grade of an answer, or the job that finds it in a sandbox; raises for no text."""
        ...


@dataclass(frozen=True, slots=True)
class MathCheck:
    """A number or a formula, equal by math-verify: 1/2 and 0.5 are, and so are sets in any order."""

    answer: str
    """In LaTeX, without ``\\boxed{}`` or ``$``."""

    def examine(self, text: str) -> Grade | Job:
        """See `Check`."""
        given = final_answer(text)
        if not given:
            return Grade(False, "no answer")
        if len(given) > MAX_FORMULA_CHARACTERS:
            return Grade(False, f"longer than {MAX_FORMULA_CHARACTERS} characters")
        # Of a box math-verify takes the whole, of a line the last number or formula in it: "42 apples" is 42.
        is_boxed = given == boxed(text)
        return {"kind": "math", "gold": _box(self.answer), "answer": _box(given) if is_boxed else given}


@dataclass(frozen=True, slots=True)
class CodeCheck:
    """Tests that must pass."""

    tests: str
    names: tuple[str, ...]
    """What the tests use of the answer; of everything else they have their own."""
    setup: str = ""
    """Runs before the answer, and again before the tests: imports, and helpers that the question defines."""

    def examine(self, text: str) -> Grade | Job:
        """See `Check`."""
        code = python_code(text, self.names)
        if code is None:
            return Grade(False, "no code")
        return {"kind": "code", "solution": code, "setup": self.setup, "tests": self.tests, "names": self.names}


@dataclass(frozen=True, slots=True)
class ReasoningGymCheck:
    """One entry of a reasoning-gym data set; right is what its scorer gives the full score."""

    dataset: str
    seed: int
    size: int
    index: int
    question: str
    """The sandbox makes the entry again, and compares."""
    lines: int = 1
    """Of the right answer."""

    def examine(self, text: str) -> Grade | Job:
        """See `Check`."""
        given = final_answer(text, self.lines)
        if not given:
            return Grade(False, "no answer")
        entry = {"dataset": self.dataset, "seed": self.seed, "size": self.size, "index": self.index}
        return {"kind": "reasoning_gym", **entry, "question": self.question, "answer": given}


@dataclass(frozen=True, slots=True)
class TextCheck:
    """Words: one of several wordings, or close to one."""

    answers: tuple[str, ...]
    min_f1: float = 1.0
    """Token F1 from which on an answer is right; at 1 the words must be the same, in the same order."""

    def examine(self, text: str) -> Grade:
        """See `Check`."""
        given = final_answer(text)
        if any(normalised(given) == normalised(answer) for answer in self.answers):
            return Grade(True, "equal")
        f1 = max(token_f1(given, answer) for answer in self.answers)
        return Grade(self.min_f1 < 1.0 and f1 >= self.min_f1, f"token F1 {f1:.2f}")


@dataclass(frozen=True, slots=True)
class ChoiceCheck:
    """One of several choices, by its letter or by its words."""

    choices: tuple[str, ...]
    right: int
    """Which of them, counted from 0; its letter is A for 0."""

    def examine(self, text: str) -> Grade:
        """See `Check`."""
        given = final_answer(text)
        letter, words = _LETTER.match(given), normalised(given)
        chosen = next((place for place, choice in enumerate(self.choices) if normalised(choice) == words), -1)
        # "X-rays" may be the words of a choice; a letter alone is one, whatever the choices are.
        if letter and (chosen < 0 or letter.end() == len(given)):
            chosen = ord(letter[1]) - ord("A")
        if chosen < 0:
            return Grade(False, "no choice")
        return Grade(chosen == self.right, f"chose {chr(ord('A') + chosen)}")


class Grader:
    """Grades answers, some at once, each in a `Sandbox`; use as an async context manager, which leaves nothing running.

    Parameters
    ----------
    workers
        How many answers are judged at a time; each takes a process.
    limits
        What one judgement may use.
    """

    def __init__(self, workers: int = 2, limits: Limits | None = None) -> None:
        if workers < 1:
            raise ValueError(f"workers ({workers}) must be at least 1")
        self._sandboxes = [Sandbox(limits) for _ in range(workers)]
        self._idle: asyncio.LifoQueue[Sandbox] = asyncio.LifoQueue()
        self._is_open = False
        self.guarantees: Guarantees | None = None
        """What the sandboxes keep an answer from, on this machine; known once entered."""

    async def __aenter__(self) -> Self:
        try:
            self.guarantees = (await asyncio.gather(*(sandbox.start() for sandbox in self._sandboxes)))[0]
        except BaseException:
            await self._stop()
            raise
        for sandbox in self._sandboxes:
            self._idle.put_nowait(sandbox)
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        await self._stop()

    async def grade(self, check: Check, answer: str) -> Grade:
        """Grade one answer; any number may be under way at once.

        Parameters
        ----------
        check
            What is right.
        answer
            The text as the model wrote it, reasoning and all. None is so hostile that this raises.

        Raises
        ------
        SandboxError
            The fault is not the answer's: a package is missing, or the worker does not start. So it is ungraded.
        RuntimeError
            Outside of ``async with``.
        """
        if not self._is_open:
            raise RuntimeError("a Grader grades inside of its `async with`")
        examined = check.examine(answer[-MAX_CHARACTERS:])
        if isinstance(examined, Grade):
            return examined
        async with self._sandbox() as sandbox:
            verdict = await sandbox.judge(examined)
        return Grade(verdict.passed, verdict.reason)

    @contextlib.asynccontextmanager
    async def _sandbox(self) -> AsyncIterator[Sandbox]:
        sandbox = await self._idle.get()
        try:
            yield sandbox
        finally:
            self._idle.put_nowait(sandbox)

    async def _stop(self) -> None:
        await asyncio.gather(*(sandbox.stop() for sandbox in self._sandboxes))


# Reading an answer


def final_answer(text: str, lines: int = 1) -> str:
    """What a text says in the end: its last ``\\boxed{}``, or what follows its last ``Answer:``, whichever is later.

    A text with neither says its last line. Thoughts up to ``</think>`` are not read. Empty where there is nothing.

    Parameters
    ----------
    text
        All that the model wrote.
    lines
        How many lines the answer has, blank ones aside.
    """
    text = _after_thoughts(text)
    stated = [match.end() for match in _ANSWER.finditer(text)]
    box = _last_box(text)
    if box is not None and (not stated or box[0] >= stated[-1]):
        return box[1]
    written = [line.strip() for line in text[stated[-1] if stated else 0 :].splitlines()]
    written = [line for line in written if line and not line.startswith("```")]
    chosen = written[:lines] if stated else written[-lines:]
    return "\n".join(chosen).strip("*_ \t")


def boxed(text: str) -> str | None:
    """What stands in the last ``\\boxed{}`` after the thoughts; None where there is none that ends."""
    box = _last_box(_after_thoughts(text))
    return None if box is None else box[1]


def python_code(text: str, names: Sequence[str] = ()) -> str | None:
    """The code of an answer: its last fenced block that defines one of ``names``, or else its last one.

    A last block without an end counts, because a model may run into its limit; so does a text without any fence that
    is itself the definition of one of ``names``. None where there is no code.
    """
    text = _after_thoughts(text)
    blocks = list(_fenced(text))
    defines = re.compile(rf"^[ \t]*(?:async +def|def|class) +(?:{'|'.join(map(re.escape, names))})\b", re.MULTILINE)
    if names and (defining := [block for block in blocks or [text] if defines.search(block)]):
        return defining[-1]
    return blocks[-1] if blocks else None


def normalised(text: str) -> str:
    """Small letters, neither punctuation nor articles, one space between words (SQuAD's evaluation script, v1.1)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(given: str, right: str) -> float:
    """Harmonic mean of the shares of common words in both, after `normalised` (SQuAD, arXiv 1606.05250, 6.1)."""
    words, wanted = normalised(given).split(), normalised(right).split()
    common = sum((Counter(words) & Counter(wanted)).values())
    return 2.0 * common / (len(words) + len(wanted)) if common else 0.0


def _after_thoughts(text: str) -> str:
    return text.rpartition(_THOUGHT)[2]


def _box(formula: str) -> str:
    return rf"\boxed{{{formula}}}"


def _last_box(text: str) -> tuple[int, str] | None:
    """Where the last complete box begins, and what is in it."""
    found: tuple[int, str] | None = None
    opened: list[re.Match[str]] = []
    for token in _BRACES.finditer(text):
        if token[0].endswith("{") and token[0] != r"\{":
            opened.append(token)
        elif token[0] == "}" and opened:
            opening = opened.pop()
            if opening[0] != "{" and (found is None or opening.start() > found[0]):
                found = opening.start(), text[opening.end() : token.start()].strip()
    return found


def _fenced(text: str) -> Iterator[str]:
    block: list[str] | None = None
    for line in text.splitlines():
        if not line.lstrip().startswith("```"):
            if block is not None:
                block.append(line)
        elif block is None:
            block = []
        else:
            yield "\n".join(block) + "\n"
            block = None
    if block:
        yield "\n".join(block) + "\n"
