"""What the controller asks for. A command changes nothing by itself: events say what came of it."""

from dataclasses import dataclass
from enum import StrEnum

from .prompts import Prompt


class Outcome(StrEnum):
    """How a workflow ended."""

    FINISHED = "finished"
    """With an answer, in time or late."""
    CALL_FAILED = "failed: call failed"
    """A call failed, and there was no try or no time left."""
    NO_SERVER = "failed: no open server"
    """No server was open until the budget was spent."""
    HOPELESS = "cancelled: hopeless"
    """It could not have been on time any more, and such workflows are cancelled (an option)."""
    STOPPED = "stopped"
    """The run was broken off."""


@dataclass(frozen=True, slots=True)
class Submit:
    """Send a call. Exactly one ``CallFinished`` or ``CallFailed`` must follow, even if it is cancelled."""

    call_id: str
    """``<workflow>.<slot>.<attempt>``: unique in the run."""
    workflow_id: str
    slot: int
    role: str
    server: int
    strategy: str
    priority: int
    """vLLM's: lower first."""
    deadline_s: float
    """The workflow's."""
    max_tokens: int
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give up a call; it is still to end with an event, whichever comes first."""

    call_id: str


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A finished call of a workflow, as far as it bears on the answer."""

    slot: int
    role: str
    server: int
    model: str
    strategy: str
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class WorkflowFinished:
    """A workflow has ended; told once for each query."""

    workflow_id: str
    outcome: Outcome
    reason: str
    """Why, where the outcome alone does not say it; else empty."""
    topology: str
    role_set: str
    latency_s: float
    """Time from the query's arrival to now, decision node included."""
    on_time: bool
    """Finished, and within its budget."""
    calls: tuple[CallRecord, ...]
    """The finished ones, in the order of their ends."""
    answer: str | None
    """What the last of its nodes wrote, or of those that had written when it was due, if it answered then. None if it
    did not come to an answer, or only its length is known."""


Command = Submit | Cancel | WorkflowFinished
