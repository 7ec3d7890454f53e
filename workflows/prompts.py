"""What a call sends: text for a real server, and what a simulated one needs to know of it.

The parts of a prompt, in order: the domain's introduction, the question, the messages of the predecessors in the
order of their slots, the instruction of role and topology, the instruction of the strategy. What most calls share
comes first, what is a call's own comes last, because vLLM's prefix cache finds only what is equal token by token from
the very start: the agents of a wave share all but their own instructions, and an agent of FullConnected or of a
second round continues the prompt of the one before it.

All of it is the one ``user`` message. Chat templates differ in the rest: Gemma's has no system message, Mistral's
wants user and assistant to alternate and puts the system text before the last user message, DeepSeek-R1 asks to have
no system message. Messages of other agents are quoted, not given as ``assistant`` turns, which would have to
alternate too, and from which R1's template strips the reasoning. A template adds its few tokens around the whole,
before and after; they are not counted here.
"""

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from .query import Query
from .tokens import estimate_tokens
from .workflow import Node, Workflow

STRATEGIES = {
    "Flash": "Go straight to the answer, without explanation.",
    "Concise": "Reason in two or three short points, then answer.",
    "DeepThink": "Reason thoroughly: consider alternatives, verify each step, then answer.",
}
"""Instruction of each prompting strategy (InfraMind's three), in the order that arrays over strategies have."""

_STRATEGY_TOKENS = {name: estimate_tokens(text) for name, text in STRATEGIES.items()}
_BREAK = "\n\n"
"""Between the parts of a prompt; of no length of its own, because it begins or ends one of their tokens."""
_CUT = "[...] "
"""Where the begin of a message is missing; not counted, as the tokens of the chat template."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt of one call."""

    tokens: int
    prefix: tuple[tuple[Hashable, int], ...]
    """``(key, end)`` of each part: equal keys stand for equal tokens from the start up to ``end``."""
    text: str | None
    """None where the question is known by its length only."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a node has written, for its successors to read."""

    call_id: str
    role: str
    output_tokens: int
    text: str | None


def prompt_tokens(query: Query, workflow: Workflow, node: Node, messages: Sequence[Message]) -> int:
    """Length of a prompt before a strategy is chosen, which adds its instruction."""
    shared = estimate_tokens(workflow.domain.introduction) + query.prompt_tokens
    return shared + sum(map(_message_tokens, messages)) + node.instruction_tokens


def build_prompt(query: Query, workflow: Workflow, node: Node, messages: Sequence[Message], strategy: str) -> Prompt:
    """The prompt of a node's call, given what its predecessors wrote."""
    end = estimate_tokens(workflow.domain.introduction)
    key: Hashable = query.domain
    prefix: list[tuple[Hashable, int]] = [(key, end)]
    end += query.prompt_tokens
    key = (query.domain, query.question)
    prefix.append((key, end))
    for message in messages:
        end += _message_tokens(message)
        key = (key, message.call_id)
        prefix.append((key, end))
    end += node.instruction_tokens + _STRATEGY_TOKENS[strategy]
    # The same role may come twice in a role set: then even this part is shared.
    prefix.append(((key, node.instruction, strategy), end))
    return Prompt(end, tuple(prefix), _text(query, workflow, node, messages, strategy))


def shortened(messages: Sequence[Message], excess: int) -> list[Message]:
    """Messages that are so many tokens shorter in all, as far as there is enough to cut.

    The longest are cut first, down to one length for all that are cut, and each keeps its end, where its answer is.
    """
    longest = max((message.output_tokens for message in messages), default=0)
    room = sum(message.output_tokens for message in messages) - excess

    def fits(length: int) -> bool:
        return sum(min(message.output_tokens, length) for message in messages) <= room

    length = max(0, bisect_left(range(longest + 1), True, key=lambda each: not fits(each)) - 1)
    return [_ending(message, length) for message in messages]


def _ending(message: Message, tokens: int) -> Message:
    """The last tokens of a message; of its text the same share, for only the server knows where its tokens end."""
    if message.output_tokens <= tokens:
        return message
    text = message.text
    if text is not None:
        text = _CUT + text[len(text) - len(text) * tokens // message.output_tokens :]
    return replace(message, output_tokens=tokens, text=text)


def _message_tokens(message: Message) -> int:
    return _headline_tokens(message.role) + message.output_tokens


def _headline(role: str) -> str:
    return f"{role} wrote:\n"


@cache
def _headline_tokens(role: str) -> int:
    return estimate_tokens(_headline(role))


def _text(query: Query, workflow: Workflow, node: Node, messages: Sequence[Message], strategy: str) -> str | None:
    if query.text is None:
        return None
    quoted = (f"{_headline(message.role)}{message.text or ''}" for message in messages)
    parts = (workflow.domain.introduction, query.text, *quoted, f"{node.instruction} {STRATEGIES[strategy]}")
    return _BREAK.join(parts)
