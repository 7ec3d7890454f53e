"""Runs workflows: events in, commands out, time as an argument.

What becomes of a call that fails: it is tried again while fewer than ``max_attempts`` of its tries have failed and
the deadline has not passed. At once on another server, which the executor policy chooses; where no other is open, on
the same one after ``retry_wait_s``. While no server is open at all, calls wait in steps of ``retry_wait_s``. A
workflow that cannot go on by this rule ends, its other calls are cancelled, and its outcome says why.

What becomes of a call that takes longer than ``call_timeout_s``: it is cancelled and not tried again, for the server is
overloaded already; its node stays silent, and those that would have read its message do without. Where it is the last
node, the workflow ends without an answer.

What becomes of a workflow that is due: nothing by default, it goes on and is late. With ``answer_when_due`` it answers
just before its deadline with the message of the last of its nodes that has one, for every message ends with a complete
answer (``roles.Domain.introduction``); its other calls are cancelled.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from inframind.traces import ConfigError

from .active import ActiveCall, ActiveWorkflow
from .commands import CallRecord, Cancel, Command, Outcome, Submit, WorkflowFinished
from .events import (
    Arrived,
    CallFailed,
    CallFinished,
    Event,
    MetricsPolled,
    ServerClosed,
    ServerOpened,
    Stopped,
    Woken,
)
from .observation import Context, LatencyModel, Observation, observe
from .policy import ExecutorPolicy, PlannerPolicy
from .priorities import PRIORITY_RULES, CallTimes
from .prompts import STRATEGIES, Message, Prompt, build_prompt, prompt_tokens, shortened
from .query import Query
from .servers import ServerInfo, ServerTable
from .workflow import Node, Workflow, build_workflow

ANSWER_AHEAD_S = 0.05
"""So long before its deadline a workflow answers that would be late: the answer has a way to go."""


class _Due(Enum):
    """What a timer of a workflow is for, where it is not for one of its calls."""

    ANSWER = "answer"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    """How workflows are run, whoever decides.

    Raises
    ------
    ConfigError
        A value out of range.
    """

    priority: str = "edf"
    """A key of ``PRIORITY_RULES``."""
    max_tokens: int = 2048
    """Most tokens that a call may generate."""
    max_attempts: int = 3
    """Tries of one call."""
    retry_wait_s: float = 1.0
    """Before a call goes to the server that has just failed it, and while no server is open."""
    cancel_hopeless: bool = False
    """Whether a workflow ends as soon as it cannot be on time any more."""
    answer_when_due: bool = False
    """Whether a workflow that would be late answers with the last message that it has."""
    call_timeout_s: float | None = None
    """After so long a call is given up; never by default."""
    max_parallel_calls: int | None = None
    """Calls of one workflow that are in flight at once; others that are ready wait for their turn. No limit by
    default."""
    min_call_s: float = 0.0
    """No call takes less; how early hopelessness is seen."""
    dead_reckoning: bool = True
    """Whether policies are told of own calls since the last poll."""

    def __post_init__(self) -> None:
        rules = {
            f"priority ({self.priority!r}) must be one of {', '.join(PRIORITY_RULES)}": self.priority in PRIORITY_RULES,
            f"max_tokens ({self.max_tokens}) must be at least 1": self.max_tokens >= 1,
            f"max_attempts ({self.max_attempts}) must be at least 1": self.max_attempts >= 1,
            f"retry_wait_s ({self.retry_wait_s:g}) must be greater than 0": self.retry_wait_s > 0,
            f"call_timeout_s ({self.call_timeout_s}) must be greater than 0": self.call_timeout_s is None
            or self.call_timeout_s > 0,
            f"max_parallel_calls ({self.max_parallel_calls}) must be at least 1": self.max_parallel_calls is None
            or self.max_parallel_calls >= 1,
            f"min_call_s ({self.min_call_s:g}) must not be below 0": self.min_call_s >= 0,
        }
        if mistakes := [rule for rule, holds in rules.items() if not holds]:
            raise ConfigError("controller options", mistakes)


Answer = tuple[str, str] | tuple[int, str]
"""To an observation without a node a ``Plan``, to one with a node a ``Choice``."""

Decisions = Generator[Observation, Answer, list[Command]]
"""Yields each observation on which somebody must decide, is sent the answer, and returns the commands."""


class Controller:
    """All workflows of one run.

    Parameters
    ----------
    servers
        The pool; events and policies mean a server by its place here.
    planner, executor
        The policies.
    embeddings
        Of the queries, ``[rows, dimensions]``; policies that read them need them.
    latency
        Predictors; policies that read the latency map need them.

    Raises
    ------
    ConfigError
        No servers, or two of one name.
    """

    def __init__(
        self,
        servers: Sequence[ServerInfo],
        planner: PlannerPolicy,
        executor: ExecutorPolicy,
        options: ControllerOptions | None = None,
        *,
        embeddings: NDArray[np.float32] | None = None,
        latency: LatencyModel | None = None,
    ) -> None:
        self.options = options or ControllerOptions()
        self.planner = planner
        self.executor = executor
        self._table = ServerTable(servers)
        self._context = Context(embeddings, latency, self.options.dead_reckoning)
        self._rule = PRIORITY_RULES[self.options.priority]
        self._times = CallTimes()
        self._seen: set[str] = set()
        self._active: dict[str, ActiveWorkflow] = {}
        self._calls: dict[str, ActiveCall] = {}
        self._timers: list[tuple[float, int, ActiveWorkflow, int | str | _Due]] = []
        """``(time, number, workflow, slot to try again, or call to give up, or what the workflow is due for)``."""
        self._num_timers = 0

    @property
    def servers(self) -> tuple[ServerInfo, ...]:
        """The pool."""
        return self._table.infos

    @property
    def num_active(self) -> int:
        """Workflows that have begun and not ended."""
        return len(self._active)

    @property
    def num_calls(self) -> int:
        """Calls submitted, cancelled ones included, whose end has not been told."""
        return len(self._calls)

    @property
    def wake_at(self) -> float:
        """When ``Woken`` is due next; infinity if never. It may change with each event."""
        while self._timers and _is_void(*self._timers[0][2:]):
            heappop(self._timers)
        return self._timers[0][0] if self._timers else math.inf

    def receive(self, event: Event) -> list[Command]:
        """What to do about an event, as the policies decide.

        Raises
        ------
        ConfigError
            A policy has chosen something that does not exist, or a server that is closed.
        """
        decisions = self.decisions(event)
        try:
            observation = next(decisions)
            while True:
                observation = decisions.send(self.answer(observation))
        except StopIteration as done:
            commands: list[Command] = done.value
            return commands

    def answer(self, observation: Observation) -> Answer:
        """What the policies decide."""
        return self.planner.plan(observation) if observation.node is None else self.executor.choose(observation)

    def decisions(self, event: Event) -> Decisions:
        """As ``receive()``, but whoever iterates decides; it must be run to its end before the next event.

        A trainer advances many runs up to their next decision, and answers all of them with one pass of its network.
        """
        match event:
            case CallFinished():
                return (yield from self._call_finished(event))
            case MetricsPolled(t, server, waiting, running, kv_usage):
                self.polled(t, server, waiting, running, kv_usage)
            case Arrived():
                return (yield from self._arrived(event))
            case CallFailed():
                return (yield from self._call_failed(event))
            case Woken(t):
                return (yield from self._woken(t))
            case ServerClosed(server=server):
                self._table.is_open[server] = False
            case ServerOpened(server=server):
                self._table.is_open[server] = True
            case Stopped(t):
                return [
                    command
                    for active in list(self._active.values())
                    for command in self._end(active, t, Outcome.STOPPED)
                ]
        return []

    def polled(self, t: float, server: int, waiting: int, running: int, kv_usage: float) -> None:
        """As ``receive()`` of ``MetricsPolled``, the most frequent of events: nobody has to decide anything, and no
        command follows."""
        self._table.polled(t, server, waiting, running, kv_usage)

    # Events.

    def _arrived(self, event: Arrived) -> Decisions:
        t, query = event.t, event.query
        if query.query_id in self._seen:
            raise ConfigError(f"query {query.query_id}", ["has arrived before; the ids of a run must differ"])
        self._seen.add(query.query_id)
        topology, role_set = yield observe(
            t, t, query, self._table, self._context, self._priority(t, t + query.budget_s)
        )
        try:
            workflow = build_workflow(query.domain, str(topology), role_set)
        except ConfigError as error:
            raise ConfigError(f"planner {type(self.planner).__name__}", error.problems) from None
        active = self._active[query.query_id] = ActiveWorkflow(query, t, workflow)
        if self.options.cancel_hopeless:
            self._set_timer(active.deadline_s, active, _Due.DEADLINE)
        if self.options.answer_when_due:
            self._set_timer(max(t, active.deadline_s - ANSWER_AHEAD_S), active, _Due.ANSWER)
        return (yield from self._try_all(active, t, [node for node in workflow.nodes if not node.predecessors]))

    def _call_finished(self, event: CallFinished) -> Decisions:
        t = event.t
        call = self._take(event.call_id)
        active, node, submit = call.workflow, call.node, call.submit
        self._times.add(submit.server, submit.strategy, t - call.submitted_at)
        if event.call_id not in active.in_flight:
            return []
        del active.in_flight[event.call_id]
        active.records.append(
            CallRecord(
                slot=submit.slot,
                role=submit.role,
                server=submit.server,
                model=self._table.infos[submit.server].model,
                strategy=submit.strategy,
                prompt_tokens=event.prompt_tokens,
                output_tokens=event.output_tokens,
            )
        )
        active.messages[node.slot] = Message(event.call_id, submit.role, event.output_tokens, event.text)
        if not node.successors:
            return self._end(active, t, Outcome.FINISHED, answer=event.text)
        return (yield from self._try_all(active, t, active.ready_after(node)))

    def _gave_up(self, active: ActiveWorkflow, t: float, call_id: str) -> Decisions:
        node = self._calls[call_id].node
        del active.in_flight[call_id]
        cancel: list[Command] = [Cancel(call_id)]
        if not node.successors:
            active.failure = f"given up after {self.options.call_timeout_s:g} s"
            return cancel + self._end(active, t, Outcome.CALL_FAILED)
        return cancel + (yield from self._try_all(active, t, active.ready_after(node)))

    def _call_failed(self, event: CallFailed) -> Decisions:
        call = self._take(event.call_id)
        active, slot = call.workflow, call.node.slot
        if event.call_id not in active.in_flight:
            return []
        del active.in_flight[event.call_id]
        active.failures[slot] += 1
        active.failure = event.reason
        if active.failures[slot] >= self.options.max_attempts or event.t >= active.deadline_s:
            return self._end(active, event.t, Outcome.CALL_FAILED)
        return (yield from self._try(active, event.t, call.node, avoid=call.submit.server))

    def _woken(self, t: float) -> Decisions:
        commands: list[Command] = []
        while self.wake_at <= t:
            _, _, active, due = heappop(self._timers)
            if due is _Due.DEADLINE:
                commands += self._end(active, t, Outcome.HOPELESS)
            elif due is _Due.ANSWER:
                commands += self._answer(active, t)
            elif isinstance(due, str):
                commands += yield from self._gave_up(active, t, due)
            else:
                commands += yield from self._try_all(active, t, [active.workflow.nodes[due]])
        return commands

    # Steps.

    def _try_all(self, active: ActiveWorkflow, t: float, nodes: Sequence[Node]) -> Decisions:
        """Begin what is ready, these nodes and those before them whose turn had not come."""
        active.ready += nodes
        limit = self.options.max_parallel_calls or len(active.workflow.nodes)
        commands: list[Command] = []
        while active.ready and len(active.in_flight) < limit and not active.has_ended:
            commands += yield from self._try(active, t, active.ready.pop(0))
        return commands

    def _answer(self, active: ActiveWorkflow, t: float) -> list[Command]:
        """With what there is, if there is anything."""
        written = [message for message in active.messages if message is not None]
        return self._end(active, t, Outcome.FINISHED, answer=written[-1].text) if written else []

    def _try(self, active: ActiveWorkflow, t: float, node: Node, avoid: int | None = None) -> Decisions:
        """Submit a node's call, or wait for a server, or give the workflow up."""
        options = self.options
        if options.cancel_hopeless and t + node.calls_to_go * options.min_call_s > active.deadline_s:
            return self._end(active, t, Outcome.HOPELESS)
        is_open = [*self._table.is_open]
        if avoid is not None:
            is_open[avoid] = False
        if not any(is_open):
            return self._wait(active, t, node)
        return [(yield from self._submit(active, t, node, is_open))]

    def _wait(self, active: ActiveWorkflow, t: float, node: Node) -> list[Command]:
        again = t + self.options.retry_wait_s
        if again >= active.deadline_s:
            return self._end(active, t, Outcome.CALL_FAILED if any(self._table.is_open) else Outcome.NO_SERVER)
        self._set_timer(again, active, node.slot)
        return []

    def _submit(
        self, active: ActiveWorkflow, t: float, node: Node, is_open: Sequence[bool]
    ) -> Generator[Observation, Answer, Submit]:
        query, workflow, slot = active.query, active.workflow, node.slot
        messages = active.messages_for(node)
        observation = observe(
            t,
            active.arrived_at,
            query,
            self._table,
            self._context,
            self._priority(t, active.deadline_s, node.calls_to_go),
            workflow=workflow,
            node=node,
            prompt_tokens=prompt_tokens(query, workflow, node, messages),
            is_open=is_open,
        )
        server, strategy = self._checked((yield observation), is_open)
        prompt, max_tokens = self._fitted(query, workflow, node, messages, server, strategy)
        path_s = self._times.path_s(server, strategy, node.calls_to_go)
        submit = Submit(
            call_id=f"{query.query_id}.{slot}.{active.failures[slot]}",
            workflow_id=query.query_id,
            slot=slot,
            role=node.role.name,
            server=server,
            strategy=strategy,
            priority=self._rule(t, active.deadline_s, path_s),
            deadline_s=active.deadline_s,
            max_tokens=max_tokens,
            prompt=prompt,
        )
        if self.options.call_timeout_s is not None:
            self._set_timer(t + self.options.call_timeout_s, active, submit.call_id)
        active.in_flight[submit.call_id] = None
        self._calls[submit.call_id] = ActiveCall(active, node, submit, t)
        self._table.submitted(server, submit.priority)
        return submit

    def _priority(self, t: float, deadline_s: float, calls_to_go: int = 1) -> int:
        """Of a call of which nobody has decided yet: as if it took as long as calls do."""
        return self._rule(t, deadline_s, self._times.mean_path_s(calls_to_go))

    def _fitted(
        self,
        query: Query,
        workflow: Workflow,
        node: Node,
        messages: Sequence[Message],
        server: int,
        strategy: str,
    ) -> tuple[Prompt, int]:
        """The prompt and the most tokens to generate, so that both together fit into the server's context.

        The output has the first claim, up to half of the context; then the messages are cut, and what does not fit
        even without them is taken from the output. A question that is too long as it is, is the server's to refuse.
        """
        prompt, max_tokens = build_prompt(query, workflow, node, messages, strategy), self.options.max_tokens
        context = self._table.infos[server].max_model_len
        if context is None or prompt.tokens + max_tokens <= context:
            return prompt, max_tokens
        excess = prompt.tokens + min(max_tokens, context // 2) - context
        if excess > 0:
            prompt = build_prompt(query, workflow, node, shortened(messages, excess), strategy)
        return prompt, max(1, min(max_tokens, context - prompt.tokens))

    def _checked(self, answer: Answer, is_open: Sequence[bool]) -> tuple[int, str]:
        """An executor's choice, its server as Python's own int: policies like to return numpy's."""
        server, strategy = answer
        num = len(is_open)
        if not isinstance(server, (int, np.integer)) or not 0 <= server < num:
            mistake = f"server {server!r} does not exist; the pool has servers 0 to {num - 1}"
        elif not is_open[server]:
            mistake = f"server {server} ({self._table.infos[server].name}) is closed, or has just failed this call"
        elif strategy not in STRATEGIES:
            mistake = f"unknown strategy {strategy!r}; known: {', '.join(STRATEGIES)}"
        else:
            return int(server), strategy
        raise ConfigError(f"executor {type(self.executor).__name__}", [mistake])

    def _end(self, active: ActiveWorkflow, t: float, outcome: Outcome, answer: str | None = None) -> list[Command]:
        active.has_ended = True
        cancelled = [*map(Cancel, active.in_flight)]
        active.in_flight.clear()
        del self._active[active.query.query_id]
        latency_s = t - active.arrived_at
        finished = WorkflowFinished(
            workflow_id=active.query.query_id,
            outcome=outcome,
            reason=active.failure if outcome is Outcome.CALL_FAILED else "",
            topology=active.workflow.topology.name,
            role_set=active.workflow.role_set,
            latency_s=latency_s,
            on_time=outcome is Outcome.FINISHED and latency_s <= active.query.budget_s,
            calls=tuple(active.records),
            answer=answer,
        )
        return [*cancelled, finished]

    def _take(self, call_id: str) -> ActiveCall:
        call = self._calls.pop(call_id, None)
        if call is None:
            raise ValueError(f"call {call_id!r} is not in flight: it was never submitted, or has ended before")
        self._table.ended(call.submit.server, call.submit.priority)
        return call

    def _set_timer(self, t: float, active: ActiveWorkflow, due: int | str | _Due) -> None:
        heappush(self._timers, (t, self._num_timers, active, due))
        self._num_timers += 1


def _is_void(active: ActiveWorkflow, due: int | str | _Due) -> bool:
    """Whether a timer has nothing to do any more."""
    return active.has_ended or (isinstance(due, str) and due not in active.in_flight)
