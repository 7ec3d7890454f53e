"""What is sent for a call."""

import asyncio

from fake_vllm import Behaviour, FakeVllm

from inframind.live import Call, Client, ExactLengths, Outcome, ask_text
from inframind.workflows import Message, Prompt, Query, Submit, build_prompt, build_workflow


def submit(prompt: Prompt, name: str = "q.0.0") -> Submit:
    return Submit(name, "q", 0, "MathSolver", 0, "Flash", 17, 60.0, 100, prompt)


def prompts(text: str | None = None) -> list[Prompt]:
    """Two agents of a wave, and the decision that reads both."""
    query = Query("q", "math", 3, 50, 60.0, text=text)
    workflow = build_workflow("math", "IO", "MathSolver+Inspector")
    first, second, last = workflow.nodes
    messages = [Message(f"q.{slot}.0", "MathSolver", 30, text and "so it is") for slot in range(2)]
    return [
        build_prompt(query, workflow, first, [], "Flash"),
        build_prompt(query, workflow, second, [], "Flash"),
        build_prompt(query, workflow, last, messages, "Concise"),
    ]


def common(first: list[int], second: list[int]) -> int:
    return next(index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)


def test_exact_prompts_have_the_simulated_lengths_and_share_what_simulated_ones_share() -> None:
    exact = ExactLengths(lambda _: 23, salt=5)
    one, two, three = prompts()
    calls = [exact(submit(prompt)) for prompt in (one, two, three)]
    ids = [list(call.prompt) for call in calls]

    assert [len(each) for each in ids] == [one.tokens, two.tokens, three.tokens]
    shared = one.prefix[1][1]
    assert common(ids[0], ids[1]) == common(ids[0], ids[2]) == shared
    assert {(call.output_tokens, call.priority, call.is_exact, call.is_chat) for call in calls} == {
        (23, 17, True, False)
    }
    assert list(exact(submit(one)).prompt) == ids[0]


def test_another_salt_shares_nothing() -> None:
    """A second run does not find the first one's blocks in the prefix cache."""
    (prompt, *_) = prompts()
    first, second = (list(ExactLengths(lambda _: 1, salt)(submit(prompt)).prompt) for salt in (1, 2))  # type: ignore[arg-type]

    assert common(first, second) == 0


def test_a_text_is_one_message_of_a_user_and_the_model_ends_where_it_wants() -> None:
    (prompt, *_) = prompts("What is 7 times 8?")
    call = ask_text(submit(prompt))

    async def complete(url: str) -> None:
        async with Client(url) as client:
            await client.complete(call, Behaviour.model)

    with FakeVllm(Behaviour(answer="It is \\boxed{56} .")) as server:
        asyncio.run(complete(server.url))

    assert isinstance(call, Call)
    assert call.outcome is Outcome.FINISHED
    assert call.text == "It is \\boxed{56} ."
    assert call.num_chunks == 4
    assert call.usage == (-(-len(prompt.text or "") // 4), 4)
    (body,) = server.seen
    assert body["messages"] == [{"role": "user", "content": prompt.text}]
    assert body["max_tokens"] == 100
    assert body["priority"] == 17
    assert not body.keys() & {"min_tokens", "ignore_eos", "prompt"}
