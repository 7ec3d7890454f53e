"""What the controller remembers of workflows and calls that have begun."""

from dataclasses import dataclass

from .commands import CallRecord, Submit
from .prompts import Message
from .query import Query
from .workflow import Node, Workflow


class ActiveWorkflow:
    """One that has begun; the controller forgets it when it has ended."""

    __slots__ = (
        "arrived_at",
        "deadline_s",
        "failure",
        "failures",
        "has_ended",
        "in_flight",
        "is_over",
        "messages",
        "query",
        "ready",
        "records",
        "workflow",
    )

    def __init__(self, query: Query, arrived_at: float, workflow: Workflow) -> None:
        self.query = query
        self.arrived_at = arrived_at
        self.deadline_s = arrived_at + query.budget_s
        self.workflow = workflow
        self.has_ended = False
        num = len(workflow.nodes)
        self.messages: list[Message | None] = [None] * num
        """What each node has written."""
        self.ready: list[Node] = []
        """Nodes that have nothing to wait for but their turn."""
        self.is_over = [False] * num
        """Whether each node has written its message, or never will."""
        self.failures = [0] * num
        """Tries of each node's call that have failed."""
        self.failure = ""
        """Why the last of them failed."""
        self.in_flight: dict[str, None] = {}
        """Its calls, in the order in which they were submitted."""
        self.records: list[CallRecord] = []
        """Its finished calls, in the order of their ends."""

    def messages_for(self, node: Node) -> list[Message]:
        """What a node has to read, as far as it is written."""
        return [message for slot in node.predecessors if (message := self.messages[slot]) is not None]

    def ready_after(self, node: Node) -> list[Node]:
        """The nodes for which this one was the last to wait for, now that it is over."""
        self.is_over[node.slot] = True
        followers = (self.workflow.nodes[slot] for slot in node.successors)
        return [each for each in followers if all(self.is_over[slot] for slot in each.predecessors)]


@dataclass(slots=True)
class ActiveCall:
    """One whose end has not been told."""

    workflow: ActiveWorkflow
    node: Node
    submit: Submit
    submitted_at: float
