"""Whether an answer is right, whatever stands around it."""

import asyncio
import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inframind.live.grading import (
    MAX_CHARACTERS,
    Check,
    ChoiceCheck,
    CodeCheck,
    Grade,
    Grader,
    MathCheck,
    ReasoningGymCheck,
    TextCheck,
    boxed,
    final_answer,
    normalised,
    python_code,
    token_f1,
)
from inframind.live.sandbox import Limits, Sandbox, Verdict

needs_reasoning_gym = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed: it needs a C compiler"
)


def graded(*pairs: tuple[Check, str], workers: int = 2, limits: Limits | None = None) -> list[Grade]:
    """The grades of some answers, all asked for at once."""

    async def grade() -> list[Grade]:
        async with Grader(workers, limits) as grader:
            return await asyncio.gather(*(grader.grade(check, answer) for check, answer in pairs))

    return asyncio.run(grade())


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So \boxed{42}.", "42"),
        (r"First \boxed{1}, then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {x \in \{1, 2\}}", r"x \in \{1, 2\}"),
        (r"\boxed{1} and then \boxed{2", "1"),
        ("Because.\nAnswer: Paris", "Paris"),
        ("**Answer:** Paris", "Paris"),
        ("**Final Answer: Paris**", "Paris"),
        ("The answer is: 7\nAnswer: 8\nDone.", "8"),
        ("Answer:\n\nParis\nbecause", "Paris"),
        (r"Answer: \boxed{5}", "5"),
        ("\\boxed{4}, no:\nAnswer: 5", "5"),
        ("It is\nParis\n", "Paris"),
        ("<think>Answer: 1</think>\nAnswer: 2", "2"),
        (r"<think>\boxed{1}</think> so 2", "so 2"),
        ("", ""),
        ("\n \n", ""),
        ("the answer: unclear what is answer: here", "unclear what is answer: here"),
    ],
)
def test_an_answer_is_what_a_text_says_last(text: str, answer: str) -> None:
    """In a box or after ``Answer:``, whichever is later; else its last line. Thoughts are no answer."""
    assert final_answer(text) == answer


def test_an_answer_of_several_lines_is_read_whole() -> None:
    """Such as a grid; a fence around it is not part of it."""
    assert final_answer("Answer:\n```\n1 2\n3 4\n```\nI hope so.", lines=2) == "1 2\n3 4"
    assert final_answer("I think\n1 2\n3 4", lines=2) == "1 2\n3 4"


def test_a_box_counts_only_when_it_ends() -> None:
    """The output may have been cut."""
    assert boxed(r"\boxed{\frac{1}{2}") is None
    assert boxed("no box") is None
    assert boxed(r"\fbox{3}") is None
    assert boxed(r"\boxed{\{}") == r"\{"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Sure:\n```python\ndef f(): pass\n```\n", "def f(): pass\n"),
        ("```\nx = 1\n```\nthen\n```python\ny = 2\n```", "y = 2\n"),
        ("```python\ndef f(): pass\n```\nUse it:\n```python\nf()\n```", "def f(): pass\n"),
        ("```python\ndef f():\n    return 1\n", "def f():\n    return 1\n"),
        ("<think>```python\ndef f(): 1\n```</think>\n```python\ndef f(): 2\n```", "def f(): 2\n"),
        ("def f(): pass", "def f(): pass"),
        ("class f: pass", "class f: pass"),
        ("I cannot.", None),
        ("", None),
        ("```", None),
    ],
)
def test_code_is_the_last_block_that_defines_what_was_asked_for(text: str, code: str | None) -> None:
    """An example of its use may follow; the end of the fence may be missing."""
    assert python_code(text, ["f"]) == code


def test_without_names_the_last_block_is_the_code() -> None:
    """Whatever it defines."""
    assert python_code("```python\nx = 1\n```\n```python\ny = 2\n```") == "y = 2\n"


def test_normalised_words_and_their_f1() -> None:
    """By hand: 2 common words of 3 and of 2 give 2 * 2 / (3 + 2)."""
    assert normalised("  The Eiffel-Tower, in Paris! ") == "eiffeltower in paris"
    assert token_f1("tower in Paris", "the Paris tower") == pytest.approx(0.8)
    assert token_f1("Rome", "Paris") == 0.0
    assert token_f1("", "Paris") == 0.0


def test_words_are_equal_or_close() -> None:
    """At a threshold of 1 the order counts, below it only the words."""
    exact, close = TextCheck(("Eiffel Tower", "La Tour Eiffel")), TextCheck(("the Paris tower",), min_f1=0.8)

    assert exact.examine("Answer: the Eiffel tower.") == Grade(True, "equal")
    assert exact.examine("Answer: la tour Eiffel").correct
    assert exact.examine("Answer: Tower Eiffel") == Grade(False, "token F1 1.00")
    assert close.examine("Answer: tower in Paris") == Grade(True, "token F1 0.80")
    assert close.examine("Answer: Rome") == Grade(False, "token F1 0.00")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Answer: B", "chose B"),
        ("Answer: (B) Paris", "chose B"),
        ("Answer: B. Paris", "chose B"),
        ("Answer: **B**", "chose B"),
        ("Answer: option B", "chose B"),
        ("Answer: Option (B)", "chose B"),
        ("Answer: paris", "chose B"),
        (r"\boxed{B}", "chose B"),
        ("Answer: C", "chose C"),
        ("Answer: **B** because it is", "chose B"),
        ("Answer: B - Paris", "chose B"),
        ("Answer: B Paris", "chose B"),
        ("Answer: A - Rome", "chose A"),
        ("Answer: Option A it is", "chose A"),
        ("Answer: A dog", "no choice"),
        ("Answer: I think so", "no choice"),
        ("Answer: Bordeaux", "no choice"),
        ("Answer: Z", "chose Z"),
        ("", "no choice"),
    ],
)
def test_a_choice_is_a_letter_or_its_words(answer: str, reason: str) -> None:
    """B is right."""
    assert ChoiceCheck(("Rome", "Paris", "Oslo"), right=1).examine(answer) == Grade(reason == "chose B", reason)


def test_a_letter_may_begin_the_words_of_a_choice() -> None:
    """Unless nothing follows it: the question asks for a letter."""
    check = ChoiceCheck(("B-52", "X-rays", "A"), right=1)

    assert check.examine("Answer: X-rays") == Grade(True, "chose B")
    assert check.examine("Answer: B-52") == Grade(False, "chose A")
    assert check.examine("Answer: A") == Grade(False, "chose A")
    assert check.examine("Answer: B") == Grade(True, "chose B")


MATHEMATICS = [
    ("72", r"\boxed{72}", True),
    ("72", r"\boxed{72.0}", True),
    ("72", r"\boxed{73}", False),
    ("72", "Answer: 72 clips", True),
    ("72", "so she sold 72 clips.", True),
    ("1000", r"\boxed{1,000}", True),
    (r"\frac{1}{2}", r"\boxed{0.5}", True),
    (r"\frac{1}{2}", r"Answer: $1/2$", True),
    (r"x^2+2x+1", r"\boxed{(x+1)^2}", True),
    (r"\{1, 2\}", r"\boxed{\{2, 1\}}", True),
    (r"\left(3, \frac{\pi}{2}\right)", r"\boxed{(3, \pi/2)}", True),
    (r"(1, 2]", r"\boxed{[1, 2]}", False),
    ("5", "I do not know.", False),
    ("5", "", False),
]


def test_mathematics_is_compared_by_what_it_means() -> None:
    """By math-verify, in a sandbox."""
    pytest.importorskip("math_verify")
    grades = graded(*((MathCheck(right), answer) for right, answer, _ in MATHEMATICS), workers=1)
    for (right, answer, is_right), grade in zip(MATHEMATICS, grades, strict=True):
        assert grade.correct == is_right, (right, answer, grade)


HOSTILE = [
    "\\boxed{" * 5_000,
    "\\boxed{" + "{" * 5_000 + "}" * 5_000 + "}",
    "\n" * 200_000 + "x",
    "Answer: " * 5_000,
    "Answer:\n" * 5_000,
    "```python\n" * 5_000,
    "* " * 50_000 + "answer",
    "\\boxed{\ud800\x00\u202e}",
    "```python\n\x00\ud800\ndef f(): pass\n```",
    "\\boxed{" + "7" * 900 + "}",
    "\\boxed{9^{9^{9^{9}}}}",
    "Answer: $" + "(" * 400 + "1" + ")" * 400 + "$",
    "Answer: __import__('os').system('true')",
]


def test_no_text_is_too_hostile_to_be_graded() -> None:
    """Each gets a grade by every kind of check; none is right; the grader goes on."""
    pytest.importorskip("math_verify")
    checks: list[Check] = [
        MathCheck("5"),
        CodeCheck("assert f() == 4", ("f",)),
        TextCheck(("5",)),
        ChoiceCheck(("5", "6"), 0),
    ]
    pairs = [(check, text) for check in checks for text in HOSTILE]
    *grades, right = graded(*pairs, (MathCheck("5"), r"\boxed{5}"), limits=Limits(cpu_s=1), workers=1)

    wrongly_right = [text[:40] for (_, text), grade in zip(pairs, grades, strict=True) if grade.correct]
    assert wrongly_right == []
    assert right.correct


@given(st.text(max_size=200))
def test_reading_an_answer_never_raises(text: str) -> None:
    """For any text; and what is read stands in it."""
    assert all(line in text for line in final_answer(text).split("\n"))
    python_code(text, ["f"])
    assert ChoiceCheck(("x", "y"), 0).examine(text).reason
    assert TextCheck(("x",), 0.5).examine(text).reason


@given(st.text(st.characters(exclude_characters="\\{}", exclude_categories=["Cs"])))
def test_what_is_boxed_is_read(inside: str) -> None:
    """Whatever it is, if its braces match."""
    assert boxed(rf"so \boxed{{{inside}}} it is") == inside.strip()


def test_only_the_end_of_a_long_text_is_read() -> None:
    """Enough for any answer; a box before it does not count."""
    text = "Answer: 5\n" + "x" * MAX_CHARACTERS

    assert not graded((TextCheck(("5",)), text), workers=1)[0].correct


def test_answers_are_graded_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten, as many as there are workers; the others wait, and all get their grades."""
    at_once: list[int] = []
    under_way: set[Sandbox] = set()

    async def judge(self: Sandbox, job: object) -> Verdict:
        assert self not in under_way
        under_way.add(self)
        at_once.append(len(under_way))
        await asyncio.sleep(0.01)
        under_way.remove(self)
        return Verdict(True, "judged")

    monkeypatch.setattr(Sandbox, "judge", judge)
    grades = graded(*[(CodeCheck("", ("f",)), "def f(): pass")] * 10, workers=3)

    assert grades == [Grade(True, "judged")] * 10
    assert max(at_once) == 3


def test_the_event_loop_goes_on_while_answers_are_graded() -> None:
    """Nothing of a judgement runs in it."""
    answer = "```python\ndef f():\n    while True: pass\n```"

    async def scenario() -> tuple[Grade, int]:
        async with Grader(workers=1, limits=Limits(wall_s=1.0, cpu_s=5)) as grader:
            task = asyncio.create_task(grader.grade(CodeCheck("f()", ("f",)), answer))
            ticks = 0
            while not task.done():
                await asyncio.sleep(0.01)
                ticks += 1
            return await task, ticks

    grade, ticks = asyncio.run(scenario())

    assert grade == Grade(False, "took longer than 1 s")
    assert ticks > 20


def test_a_grader_is_open_only_within_its_block() -> None:
    """A worker that nobody would stop is not started."""
    grader = Grader()
    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(grader.grade(TextCheck(("x",)), "x"))
    with pytest.raises(ValueError, match=r"workers \(0\) must be at least 1"):
        Grader(workers=0)


@needs_reasoning_gym
def test_reasoning_gyms_own_scorers_decide() -> None:
    """Right is the full score; an answer that one of them would ``eval`` does nothing."""
    chain_sum = ReasoningGymCheck(
        "chain_sum", 3, 2, 0, "State the final answer to the following arithmetic problem: 57 + 87 + 70 ="
    )
    right, partial, wrong = graded(
        (chain_sum, r"\boxed{214}"), (chain_sum, "Answer: 214 or so"), (chain_sum, "Answer: 1")
    )

    assert right == Grade(True, "score 1")
    assert not partial.correct
    assert wrong == Grade(False, "score 0")
