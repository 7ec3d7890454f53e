"""What must hold whatever happens: random arrivals, ends, failures, closures and polls, in any order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from policies import EveryPlan, RandomChoice

from inframind.workflows import (
    PRIORITY_RULES,
    Arrived,
    CallFailed,
    CallFinished,
    Cancel,
    Command,
    Controller,
    ControllerOptions,
    Event,
    MetricsPolled,
    Observation,
    Outcome,
    Query,
    ServerClosed,
    ServerInfo,
    ServerOpened,
    Stopped,
    Submit,
    Woken,
    WorkflowFinished,
    build_workflow,
    log_lines,
    replay,
)

POOL = [ServerInfo(name, "model", 8) for name in "abc"]


@dataclass
class Checking:
    """A random executor that checks each observation against what really happened."""

    history: History
    inner: RandomChoice

    def choose(self, observation: Observation) -> tuple[int, str]:
        history = self.history
        assert observation.node is not None
        assert observation.query.query_id not in history.ended
        elapsed = observation.t - history.arrived[observation.query.query_id].t
        assert observation.remaining_s == observation.budget_s - elapsed
        true_in_flight = [0] * len(POOL)
        for submit in history.in_flight.values():
            true_in_flight[submit.server] += 1
        # Commands of the same turn are in flight too, though their driver has not heard of them yet.
        assert all(seen >= true for seen, true in zip(observation.in_flight, true_in_flight, strict=True))
        for server in range(len(POOL)):
            assert observation.outstanding(server) >= observation.in_flight[server] >= 0
            assert observation.running_now(server) >= 0
            assert observation.waiting_now(server) >= 0
            assert observation.poll_age_s(server) >= 0
        choice = self.inner.choose(observation)
        assert history.is_open[choice[0]]
        return choice


@dataclass
class History:
    """A driver without servers: keeps the log, and checks each command when it comes."""

    options: ControllerOptions
    seed: int
    log: list[Event | Command] = field(default_factory=list)
    arrived: dict[str, Arrived] = field(default_factory=dict)
    in_flight: dict[str, Submit] = field(default_factory=dict)
    written: set[tuple[str, int]] = field(default_factory=set)
    ended: dict[str, WorkflowFinished] = field(default_factory=dict)
    plans: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.is_open = [True] * len(POOL)
        self.executor = Checking(self, RandomChoice(self.seed))
        self.planner = Noting(self)
        self.controller = Controller(POOL, self.planner, self.executor, self.options)
        self.t = 0.0

    def feed(self, event: Event) -> None:
        self.log.append(event)
        match event:
            case Arrived():
                self.arrived[event.query.query_id] = event
            case ServerClosed(server=server):
                self.is_open[server] = False
            case ServerOpened(server=server):
                self.is_open[server] = True
            case CallFinished(call_id=call_id) | CallFailed(call_id=call_id):
                submit = self.in_flight.pop(call_id)
                if isinstance(event, CallFinished):
                    self.written.add((submit.workflow_id, submit.slot))
        commands = self.controller.receive(event)
        self.log += commands
        for command in commands:
            self.check(command)
        assert self.controller.num_calls == len(self.in_flight)
        assert self.controller.num_active == len(self.arrived) - len(self.ended)
        assert self.controller.wake_at > self.t

    def check(self, command: Command) -> None:
        match command:
            case Submit():
                assert command.workflow_id not in self.ended
                assert not any(
                    (other.workflow_id, other.slot) == (command.workflow_id, command.slot)
                    for other in self.in_flight.values()
                )
                arrived = self.arrived[command.workflow_id]
                workflow = build_workflow(arrived.query.domain, *self.plans[command.workflow_id])
                node = workflow.nodes[command.slot]
                assert all((command.workflow_id, slot) in self.written for slot in node.predecessors)
                assert (command.workflow_id, command.slot) not in self.written
                assert command.deadline_s == arrived.t + arrived.query.budget_s
                self.in_flight[command.call_id] = command
            case Cancel(call_id):
                assert call_id in self.in_flight
            case WorkflowFinished():
                assert command.workflow_id not in self.ended
                assert command.outcome in Outcome
                self.ended[command.workflow_id] = command
                is_answered = (command.workflow_id, self.last_slot(command.workflow_id)) in self.written
                answers_early = self.options.answer_when_due and command.on_time and bool(command.calls)
                assert command.outcome is Outcome.FINISHED or not is_answered
                assert is_answered or answers_early or command.outcome is not Outcome.FINISHED

    def last_slot(self, workflow_id: str) -> int:
        domain = self.arrived[workflow_id].query.domain
        return len(build_workflow(domain, *self.plans[workflow_id]).nodes) - 1

    def advance(self, seconds: float) -> None:
        """Time passes; the controller is woken whenever it wants to be."""
        until = self.t + seconds
        while self.controller.wake_at <= until:
            self.t = self.controller.wake_at
            self.feed(Woken(self.t))
        self.t = until


@dataclass
class Noting:
    """All plans in turn; remembers which query got which."""

    history: History
    inner: EveryPlan = field(default_factory=EveryPlan)

    def plan(self, observation: Observation) -> tuple[str, str]:
        plan = self.inner.plan(observation)
        self.history.plans[observation.query.query_id] = plan
        return plan


def live_through(history: History, rng: random.Random, num_events: int) -> None:
    """Random events, then everything left is brought to its end."""
    for number in range(num_events):
        history.advance(rng.choice([0.0, 0.1, 1.0, 5.0]))
        kind = rng.choice(["arrive", "arrive", "finish", "finish", "finish", "fail", "close", "open", "poll", "poll"])
        server = rng.randrange(len(POOL))
        if kind == "arrive":
            budget_s = rng.choice([0.5, 5.0, 50.0])
            query = Query(f"q{number}", rng.choice(["math", "code", "qa"]), number, 20, budget_s)
            history.feed(Arrived(history.t, query))
        elif kind == "poll":
            history.feed(MetricsPolled(history.t, server, rng.randrange(9), rng.randrange(9), rng.random()))
        elif kind == "close":
            history.feed(ServerClosed(history.t, server))
        elif kind == "open":
            history.feed(ServerOpened(history.t, server))
        elif history.in_flight:
            end_one(history, rng, fails=kind == "fail")
    if rng.random() < 0.2:
        history.feed(Stopped(history.t))
    while history.in_flight or history.controller.num_active:
        history.advance(rng.choice([0.1, 1.0, 20.0]))
        if history.in_flight:
            end_one(history, rng, fails=rng.random() < 0.2)


def end_one(history: History, rng: random.Random, *, fails: bool) -> None:
    call_id = rng.choice(list(history.in_flight))
    if fails:
        history.feed(CallFailed(history.t, call_id, "503"))
    else:
        history.feed(CallFinished(history.t, call_id, 30, rng.randrange(1, 500)))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_events=st.integers(0, 120),
    priority=st.sampled_from(sorted(PRIORITY_RULES)),
    max_attempts=st.integers(1, 3),
    cancel_hopeless=st.booleans(),
    answer_when_due=st.booleans(),
    min_call_s=st.sampled_from([0.0, 1.0]),
)
def test_whatever_happens(
    seed: int,
    num_events: int,
    priority: str,
    max_attempts: int,
    cancel_hopeless: bool,
    answer_when_due: bool,
    min_call_s: float,
) -> None:
    """Each workflow ends once, with a named outcome; no call after that, none before its predecessors have finished,
    none on a closed server; elapsed time and calls in flight are as they were; the log alone repeats every decision."""
    options = ControllerOptions(
        priority,
        max_attempts=max_attempts,
        cancel_hopeless=cancel_hopeless,
        answer_when_due=answer_when_due,
        min_call_s=min_call_s,
    )
    history = History(options, seed)
    live_through(history, random.Random(seed), num_events)

    assert set(history.ended) == set(history.arrived)
    for workflow_id, end in history.ended.items():
        arrived = history.arrived[workflow_id]
        assert end.on_time == (end.outcome is Outcome.FINISHED and end.latency_s <= arrived.query.budget_s)
        assert not (cancel_hopeless and end.outcome is Outcome.FINISHED and not end.on_time)

    again = replay(log_lines(history.controller, history.log), EveryPlan(), RandomChoice(seed))
    assert again.difference is None
    assert again.num_events + again.num_commands == len(history.log)
