"""How long prompts are, what they share, and how they read."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inframind.workflows import DOMAINS, STRATEGIES, Message, Prompt, Query, Workflow, build_prompt, build_workflow
from inframind.workflows.prompts import shortened

QUESTION = "What is 7 times 8?"


def query(text: str | None = None) -> Query:
    return Query("q1", "math", 4, 20, 50.0, text)


def tokens(text: str) -> int:
    return ceil(len(text) / 4)


def message(workflow: Workflow, slot: int, output_tokens: int) -> Message:
    name = workflow.nodes[slot].role.name
    return Message(f"q1.{slot}.0", name, output_tokens, f"<answer of {slot}>")


def prompt(
    workflow: Workflow, slot: int, outputs: dict[int, int], strategy: str = "Flash", text: str | None = None
) -> Prompt:
    node = workflow.nodes[slot]
    messages = [message(workflow, i, outputs[i]) for i in node.predecessors]
    return build_prompt(query(text), workflow, node, messages, strategy)


def shared_tokens(a: Prompt, b: Prompt) -> int:
    """Length of the longest common part."""
    return max(end for key, end in a.prefix if (key, end) in b.prefix)


BASE = tokens(DOMAINS["math"].introduction) + 20
"""Introduction and question."""


def test_context_grows_with_what_predecessors_wrote() -> None:
    """Each message costs its tokens and its headline; FullConnected reads all before, Chain only the last."""
    role_set = "MathSolver+Mathematician+MathTeacher"
    full, chain = (build_workflow("math", topology, role_set) for topology in ("FullConnected", "Chain"))
    outputs = {0: 100, 1: 200}
    solver, mathematician = tokens("MathSolver wrote:\n"), tokens("Mathematician wrote:\n")
    own = full.nodes[2].instruction_tokens + tokens(STRATEGIES["Flash"])

    assert prompt(full, 2, outputs).tokens == BASE + solver + 100 + mathematician + 200 + own
    assert prompt(chain, 2, outputs).tokens == BASE + mathematician + 200 + own


def test_a_longer_strategy_costs_its_tokens() -> None:
    workflow = build_workflow("math", "IO", "MathSolver")
    lengths = {strategy: prompt(workflow, 0, {}, strategy).tokens for strategy in STRATEGIES}

    assert lengths["DeepThink"] - lengths["Flash"] == tokens(STRATEGIES["DeepThink"]) - tokens(STRATEGIES["Flash"])


def test_agents_of_a_wave_share_all_but_their_instructions() -> None:
    debate = build_workflow("math", "Debate", "MathSolver+Inspector")
    outputs = {0: 100, 1: 50}
    messages = tokens("MathSolver wrote:\n") + 100 + tokens("Inspector wrote:\n") + 50

    assert shared_tokens(prompt(debate, 0, {}), prompt(debate, 1, {})) == BASE
    assert shared_tokens(prompt(debate, 2, outputs), prompt(debate, 3, outputs)) == BASE + messages
    assert shared_tokens(prompt(debate, 0, {}), prompt(debate, 2, outputs)) == BASE


def test_an_agent_of_full_connected_continues_the_prompt_of_the_one_before() -> None:
    full = build_workflow("math", "FullConnected", "MathSolver+Mathematician+MathTeacher")
    outputs = {0: 100, 1: 200}

    assert (
        shared_tokens(prompt(full, 1, outputs), prompt(full, 2, outputs)) == BASE + tokens("MathSolver wrote:\n") + 100
    )


def test_a_message_is_shared_only_where_all_before_it_is() -> None:
    """The cache finds equal starts: the same message after another one is something else."""
    full = build_workflow("math", "FullConnected", "MathSolver+Mathematician+MathTeacher")
    node, first, second = full.nodes[2], message(full, 0, 100), message(full, 1, 200)
    both = build_prompt(query(), full, node, [first, second], "Flash")
    only_second = build_prompt(query(), full, node, [second], "Flash")

    assert shared_tokens(both, only_second) == BASE


def test_the_same_role_twice_shares_everything() -> None:
    workflow = build_workflow("math", "IO", "MathSolver+MathSolver")
    first, second = prompt(workflow, 0, {}), prompt(workflow, 1, {})

    assert shared_tokens(first, second) == first.tokens
    assert shared_tokens(first, prompt(workflow, 1, {}, "Concise")) == BASE


def test_other_questions_share_the_introduction_only() -> None:
    workflow = build_workflow("math", "IO", "MathSolver")
    other = build_prompt(Query("q2", "math", 5, 20, 50.0), workflow, workflow.nodes[0], [], "Flash")

    assert shared_tokens(prompt(workflow, 0, {}), other) == tokens(DOMAINS["math"].introduction)


@pytest.mark.parametrize("topology", ["FullConnected", "Debate", "Reflection"])
def test_equal_keys_stand_for_equal_text(topology: str) -> None:
    """The promise that the simulated prefix cache relies on, held against the text that servers get."""
    workflow = build_workflow("math", topology, "MathSolver+Mathematician+MathSolver")
    prompts = [
        prompt(workflow, node.slot, dict.fromkeys(range(8), 30), strategy, QUESTION)
        for node in workflow.nodes
        for strategy in ("Flash", "DeepThink")
    ]
    texts_by_key: dict[object, set[str]] = {}
    for one in prompts:
        assert one.text is not None
        parts = one.text.split("\n\n")
        assert len(parts) == len(one.prefix)
        for index, (key, _) in enumerate(one.prefix):
            texts_by_key.setdefault(key, set()).add("\n\n".join(parts[: index + 1]))

    assert all(len(texts) == 1 for texts in texts_by_key.values())
    assert [end for _, end in prompts[0].prefix] == sorted(end for _, end in prompts[0].prefix)
    assert prompts[0].prefix[-1][1] == prompts[0].tokens


def test_the_text_as_a_server_gets_it() -> None:
    chain = build_workflow("math", "Chain", "MathSolver+Inspector")

    assert prompt(chain, 1, {0: 9}, "Concise", QUESTION).text == (
        "Several experts work together on a mathematical problem. Every answer ends with the final result in \\boxed{}."
        "\n\nWhat is 7 times 8?"
        "\n\nMathSolver wrote:\n<answer of 0>"
        "\n\nYou are an inspector. Check the reasoning and the arithmetic so far, and correct mistakes. "
        "Reason in two or three short points, then answer."
    )


def test_topologies_add_their_words() -> None:
    reflection = build_workflow("math", "Reflection", "MathSolver")
    cot = build_workflow("math", "CoT", "MathSolver")

    assert "Think step by step." in cot.nodes[0].instruction
    assert "your own answer" not in reflection.nodes[0].instruction
    assert "your own answer" in reflection.nodes[1].instruction


def messages(*lengths: int) -> list[Message]:
    """Four characters a token, so that text and tokens can be compared."""
    return [
        Message(f"q.{slot}.0", "MathSolver", num, "".join(f"{index:03d} " for index in range(num)))
        for slot, num in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    ("lengths", "excess", "left"),
    [
        ((10, 20, 30), 0, (10, 20, 30)),
        ((10, 20, 30), 5, (10, 20, 25)),
        ((10, 20, 30), 20, (10, 15, 15)),
        ((10, 20, 30), 21, (10, 14, 14)),
        ((10, 20, 30), 60, (0, 0, 0)),
        ((10, 20, 30), 99, (0, 0, 0)),
        ((), 5, ()),
    ],
)
def test_the_longest_messages_are_cut_first(lengths: tuple[int, ...], excess: int, left: tuple[int, ...]) -> None:
    """Down to one length: 21 tokens less leave 10 + 14 + 14, one below what there is room for."""
    assert tuple(message.output_tokens for message in shortened(messages(*lengths), excess)) == left


def test_a_message_that_is_cut_keeps_its_end_in_tokens_and_in_text() -> None:
    """The last 2 of 4 tokens, and the last 2 of 4 words; what is not cut keeps its text."""
    short, cut = shortened(messages(1, 4), 2)

    assert (short.output_tokens, short.text) == (1, "000 ")
    assert (cut.output_tokens, cut.text) == (2, "[...] 002 003 ")


@given(st.lists(st.integers(0, 3000), max_size=6), st.integers(0, 20_000))
def test_cutting_frees_what_is_asked_for_and_little_more(lengths: list[int], excess: int) -> None:
    """As far as there is enough, and less than one token for each message beyond it."""
    cut = sum(lengths) - sum(message.output_tokens for message in shortened(messages(*lengths), excess))

    assert min(excess, sum(lengths)) <= cut <= min(sum(lengths), excess + max(0, len(lengths) - 1))
