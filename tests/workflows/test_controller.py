"""The controller by hand: which commands follow which events. Servers do not exist here."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import numpy as np
import pytest
from policies import FixedPlan, JoinShortestQueue

from inframind.traces import ConfigError
from inframind.workflows import (
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
)

POOL = [ServerInfo("a", "large", 16), ServerInfo("b", "small", 16)]


@dataclass
class Watching:
    """An executor that keeps what it saw."""

    inner: JoinShortestQueue = field(default_factory=JoinShortestQueue)
    seen: list[Observation] = field(default_factory=list)

    def choose(self, observation: Observation) -> tuple[int, str]:
        self.seen.append(observation)
        return self.inner.choose(observation)


def controller(topology: str = "IO", role_set: str = "MathSolver", **options: object) -> Controller:
    return Controller(
        POOL,
        FixedPlan(topology, role_set),
        Watching(),
        ControllerOptions(**options),  # type: ignore[arg-type]
    )


def query(name: str = "q", budget_s: float = 50.0) -> Query:
    return Query(name, "math", 1, 20, budget_s)


def finished(t: float, call_id: str, output_tokens: int = 7) -> CallFinished:
    return CallFinished(t, call_id, 30, output_tokens)


def play(control: Controller, *events: Event) -> list[Command]:
    """All commands of some events."""
    return [command for event in events for command in control.receive(event)]


def told(commands: list[Command]) -> list[object]:
    """Commands in short: ``(call, server)``, ``-call`` for a cancelled one, the outcome."""
    return [
        (command.call_id, command.server)
        if isinstance(command, Submit)
        else f"-{command.call_id}"
        if isinstance(command, Cancel)
        else str(command.outcome)
        for command in commands
    ]


def the_end(commands: list[Command]) -> WorkflowFinished:
    (end,) = (command for command in commands if isinstance(command, WorkflowFinished))
    return end


def test_a_chain_from_arrival_to_answer() -> None:
    control = controller("Chain", "MathSolver+Inspector")
    commands = play(control, Arrived(10.0, query()), finished(14.0, "q.0.0"), finished(19.5, "q.1.0", 3))

    assert told(commands) == [("q.0.0", 0), ("q.1.0", 0), "finished"]
    end = the_end(commands)
    assert (end.latency_s, end.on_time, end.topology, end.role_set) == (9.5, True, "Chain", "MathSolver+Inspector")
    assert [(c.slot, c.role, c.model, c.output_tokens) for c in end.calls] == [
        (0, "MathSolver", "large", 7),
        (1, "Inspector", "large", 3),
    ]
    assert (control.num_active, control.num_calls) == (0, 0)


def test_a_wave_goes_out_together_and_the_decision_waits_for_all() -> None:
    """JSQ sees its own calls at once: the second agent goes to the other server."""
    control = controller("IO", "MathSolver+Mathematician")

    assert told(play(control, Arrived(0.0, query()))) == [("q.0.0", 0), ("q.1.0", 1)]
    assert told(play(control, finished(3.0, "q.1.0"))) == []
    assert told(play(control, finished(5.0, "q.0.0"))) == [("q.2.0", 0)]
    assert told(play(control, finished(6.0, "q.2.0"))) == ["finished"]


def test_nodes_start_as_soon_as_they_can() -> None:
    """Reflection: each agent's second call follows its own first, without waiting for the other agent."""
    control = controller("Reflection", "MathSolver+Inspector")
    play(control, Arrived(0.0, query()))

    assert told(play(control, finished(3.0, "q.1.0"))) == [("q.3.0", 1)]


def test_remaining_budget_is_real_elapsed_time() -> None:
    control = controller("Chain", "MathSolver+Inspector")
    play(control, Arrived(10.0, query(budget_s=5.0)), finished(17.0, "q.0.0"))

    seen = control.executor.seen  # type: ignore[attr-defined]
    assert [(o.t, o.remaining_s, o.role) for o in seen] == [(10.0, 5.0, "MathSolver"), (17.0, -2.0, "Inspector")]


def test_late_is_not_on_time() -> None:
    end = the_end(play(controller(), Arrived(0.0, query(budget_s=5.0)), finished(5.5, "q.0.0")))
    exact = the_end(play(controller(), Arrived(0.0, query(budget_s=5.0)), finished(5.0, "q.0.0")))

    assert (end.outcome, end.on_time) == (Outcome.FINISHED, False)
    assert exact.on_time


def test_all_calls_of_a_workflow_share_its_deadline() -> None:
    commands = play(controller("Chain", "MathSolver+Inspector"), Arrived(10.0, query()), finished(14.0, "q.0.0"))

    assert [(c.deadline_s, c.priority) for c in commands if isinstance(c, Submit)] == [(60.0, 60_000)] * 2


@pytest.mark.parametrize(("priority", "ahead"), [("edf", [0, 0, 1]), ("none", [0, 1, 2]), ("least-slack", [0, 0, 1])])
def test_a_call_sees_who_goes_before_it(priority: str, ahead: list[int]) -> None:
    """Budgets of 1000, 10 and 500 s in turn, all on one server; planner and executor are told the same."""
    control = controller(priority=priority)
    fixed, plans_saw = control.planner, []

    class WatchingPlanner:
        def plan(self, observation: Observation) -> tuple[str, str]:
            plans_saw.append(observation.ahead[0])
            return fixed.plan(observation)

    control.planner = WatchingPlanner()
    play(control, ServerClosed(0.0, 1))
    for name, budget_s in (("a", 1000.0), ("b", 10.0), ("c", 500.0)):
        play(control, Arrived(0.0, query(name, budget_s)))

    seen = control.executor.seen  # type: ignore[attr-defined]
    assert [each.ahead[0] for each in seen] == ahead
    assert plans_saw == ahead


def test_what_has_ended_goes_before_nobody() -> None:
    """A call that failed and was tried again, one that was stopped, one that finished."""
    control = controller("IO", "MathSolver+Mathematician", max_attempts=2)
    play(control, Arrived(0.0, query("a")), CallFailed(1.0, "a.0.0", "refused"))
    play(control, CallFailed(2.0, "a.0.1", "refused"), CallFailed(2.0, "a.1.0", "cancelled"))
    play(control, Arrived(3.0, query("b")), finished(4.0, "b.0.0"), finished(5.0, "b.1.0"), finished(6.0, "b.2.0"))
    assert (control.num_active, control.num_calls) == (0, 0)

    play(control, Arrived(7.0, query("c", budget_s=1000.0)))

    seen = control.executor.seen  # type: ignore[attr-defined]
    assert [each.ahead for each in seen[-2:]] == [(0, 0), (1, 0)]


def test_least_slack_counts_the_calls_to_come() -> None:
    """Before any call has ended each is taken for 10 s: 60 - 20 and 60 - 6, for 6 s is what the first then took."""
    control = controller("Chain", "MathSolver+Inspector", priority="least-slack")
    commands = play(control, Arrived(10.0, query()), finished(16.0, "q.0.0"))

    assert [c.priority for c in commands if isinstance(c, Submit)] == [40_000, 54_000]


def test_a_failed_call_goes_elsewhere_at_once() -> None:
    control = controller()
    commands = play(control, Arrived(0.0, query()), CallFailed(1.0, "q.0.0", "503"), finished(2.0, "q.0.1"))

    assert told(commands) == [("q.0.0", 0), ("q.0.1", 1), "finished"]
    assert control.executor.seen[1].is_open == (False, True)  # type: ignore[attr-defined]


def test_a_failed_call_goes_back_after_a_while_if_no_other_server_is_open() -> None:
    control = controller(retry_wait_s=2.0)
    commands = play(control, ServerClosed(0.0, 1), Arrived(0.0, query()), CallFailed(1.0, "q.0.0", "503"))

    assert told(commands) == [("q.0.0", 0)]
    assert control.wake_at == 3.0
    assert told(play(control, Woken(3.0))) == [("q.0.1", 0)]
    assert control.wake_at == math.inf


def test_a_call_fails_for_good_after_its_tries() -> None:
    """The other call of the workflow is cancelled; when it ends after all, nothing follows."""
    control = controller("IO", "MathSolver+Mathematician", max_attempts=2)
    commands = play(
        control,
        Arrived(0.0, query()),
        CallFailed(1.0, "q.0.0", "503"),
        CallFailed(2.0, "q.0.1", "killed"),
    )

    assert told(commands) == [("q.0.0", 0), ("q.1.0", 1), ("q.0.1", 1), "-q.1.0", "failed: call failed"]
    end = the_end(commands)
    assert (end.reason, end.on_time, end.latency_s) == ("killed", False, 2.0)
    assert control.num_calls == 1
    assert play(control, finished(3.0, "q.1.0")) == []
    assert control.num_calls == 0


def test_a_wait_that_would_outlast_the_budget_is_not_begun() -> None:
    """The only open server has just failed the call, and the deadline is before the next try."""
    control = controller(retry_wait_s=5.0)
    commands = play(control, ServerClosed(0.0, 1), Arrived(0.0, query(budget_s=5.5)), CallFailed(0.5, "q.0.0", "503"))

    assert told(commands) == [("q.0.0", 0), "failed: call failed"]
    assert the_end(commands).reason == "503"


def test_no_new_try_after_the_deadline() -> None:
    commands = play(controller(), Arrived(0.0, query(budget_s=5.0)), CallFailed(5.0, "q.0.0", "timed out"))

    assert told(commands) == [("q.0.0", 0), "failed: call failed"]


def test_without_an_open_server_calls_wait_for_one() -> None:
    control = controller()
    play(control, ServerClosed(0.0, 0), ServerClosed(0.0, 1))

    assert play(control, Arrived(0.0, query()), Woken(1.0)) == []
    assert control.wake_at == 2.0
    assert told(play(control, ServerOpened(1.5, 1), Woken(2.0))) == [("q.0.0", 1)]


def test_without_an_open_server_until_the_deadline_the_workflow_fails() -> None:
    control = controller()
    commands = play(control, ServerClosed(0.0, 0), ServerClosed(0.0, 1), Arrived(0.0, query(budget_s=2.5)))

    assert told([*commands, *play(control, Woken(1.0), Woken(2.0))]) == ["failed: no open server"]
    assert control.wake_at == math.inf


def test_a_hopeless_workflow_is_cancelled_at_its_deadline_if_asked_for() -> None:
    control = controller("Chain", "MathSolver+Inspector", cancel_hopeless=True)
    play(control, Arrived(0.0, query(budget_s=5.0)), finished(3.0, "q.0.0"))

    assert control.wake_at == 5.0
    assert told(play(control, Woken(5.0))) == ["-q.1.0", "cancelled: hopeless"]
    assert control.wake_at == math.inf
    assert play(control, CallFailed(6.0, "q.1.0", "aborted")) == []


def test_a_plan_above_its_latency_floor_is_not_begun() -> None:
    """Two calls of at least 3 s do not fit into 5 s."""
    options = {"cancel_hopeless": True, "min_call_s": 3.0}
    chain = controller("Chain", "MathSolver+Inspector", **options)

    assert told(play(chain, Arrived(0.0, query(budget_s=5.0)))) == ["cancelled: hopeless"]
    assert told(play(controller(**options), Arrived(0.0, query(budget_s=5.0)))) == [("q.0.0", 0)]


def test_hopelessness_is_seen_between_calls() -> None:
    control = controller("Chain", "MathSolver+Inspector", cancel_hopeless=True, min_call_s=2.0)
    commands = play(control, Arrived(0.0, query(budget_s=5.0)), finished(3.5, "q.0.0"))

    assert told(commands) == [("q.0.0", 0), "cancelled: hopeless"]


def test_a_workflow_that_is_due_answers_with_what_it_has_if_asked_for() -> None:
    """Of several messages with that of the last node; 50 ms before the deadline, and once."""
    control = controller("FullConnected", "MathAnalyst+Mathematician+Inspector", answer_when_due=True)
    ended = [CallFinished(1.0, "q.0.0", 30, 7, "first"), CallFinished(3.0, "q.1.0", 30, 7, "second")]
    play(control, Arrived(0.0, query(budget_s=5.0)), *ended)

    assert control.wake_at == 5.0 - 0.05
    cancel, end = play(control, Woken(control.wake_at))
    assert cancel == Cancel("q.2.0")
    assert isinstance(end, WorkflowFinished)
    assert (end.outcome, end.answer, end.on_time, end.latency_s) == (Outcome.FINISHED, "second", True, 4.95)
    assert [call.slot for call in end.calls] == [0, 1]
    assert control.wake_at == math.inf
    assert play(control, CallFailed(5.0, "q.2.0", "aborted")) == []


def test_a_workflow_that_is_due_and_has_nothing_is_late() -> None:
    """As one of a single call always is; one that is done in time is not asked again."""
    late = controller("Chain", "MathSolver+Inspector", answer_when_due=True)
    assert play(late, Arrived(0.0, query(budget_s=5.0)), Woken(4.95))[1:] == []
    assert told(play(late, finished(6.0, "q.0.0"), finished(8.0, "q.1.0"))) == [("q.1.0", 0), "finished"]

    done = controller(answer_when_due=True)
    play(done, Arrived(0.0, query(budget_s=5.0)), finished(3.0, "q.0.0"))
    assert done.wake_at == math.inf


def test_a_budget_below_the_notice_is_due_at_once() -> None:
    control = controller(answer_when_due=True)
    play(control, Arrived(1.0, query(budget_s=0.01)))

    assert control.wake_at == 1.0


def test_by_default_late_workflows_run_to_their_end() -> None:
    control = controller("Chain", "MathSolver+Inspector")
    commands = play(control, Arrived(0.0, query(budget_s=1.0)), finished(3.0, "q.0.0"), finished(9.0, "q.1.0"))

    assert control.wake_at == math.inf
    assert told(commands) == [("q.0.0", 0), ("q.1.0", 0), "finished"]


def test_stopping_ends_everything() -> None:
    control = controller()
    commands = play(control, Arrived(0.0, query("x")), Arrived(1.0, query("y")), Stopped(2.0))

    assert told(commands)[2:] == ["-x.0.0", "stopped", "-y.0.0", "stopped"]


def test_messages_are_passed_along_the_edges() -> None:
    """Texts reach the prompt of the successor, and the last one is the answer."""
    control = controller("Chain", "MathSolver+Inspector")
    first, second, end = play(
        control,
        Arrived(0.0, Query("q", "math", 1, 20, 50.0, text="What is 7 times 8?")),
        CallFinished(1.0, "q.0.0", 30, 7, "I think 56."),
        CallFinished(2.0, "q.1.0", 40, 7, "Indeed: 56."),
    )

    assert isinstance(first, Submit)
    assert isinstance(second, Submit)
    assert isinstance(end, WorkflowFinished)
    assert "What is 7 times 8?" in (first.prompt.text or "")
    assert "MathSolver wrote:\nI think 56." in (second.prompt.text or "")
    assert end.answer == "Indeed: 56."
    growth = second.prompt.tokens - first.prompt.tokens
    headline = math.ceil(len("MathSolver wrote:\n") / 4)
    instructions = [math.ceil(len(node.instruction) / 4) for node in control.executor.seen[1].workflow.nodes]  # type: ignore[attr-defined]
    assert growth == headline + 7 + instructions[1] - instructions[0]


def test_whoever_iterates_decides() -> None:
    """The same controller, asked from outside: a trainer's way in."""
    control = controller()
    decisions = control.decisions(Arrived(0.0, query()))

    assert next(decisions).node is None
    observation = decisions.send(("Chain", "MathSolver+Inspector"))
    assert observation.role == "MathSolver"
    with pytest.raises(StopIteration) as done:
        decisions.send((1, "DeepThink"))
    (submit,) = done.value.value
    assert (submit.server, submit.strategy) == (1, "DeepThink")


def test_servers_chosen_with_numpy_are_plain_numbers() -> None:
    class Argmin:
        def choose(self, observation: Observation) -> tuple[int, str]:
            return np.argmin(observation.server_features[:, 1] - [0, 1]), "Flash"  # type: ignore[return-value]

    (submit,) = Controller(POOL, FixedPlan(), Argmin()).receive(Arrived(0.0, query()))

    assert isinstance(submit, Submit)
    assert type(submit.server) is int
    assert submit.server == 1


@dataclass
class Always:
    answer: object

    def plan(self, observation: Observation) -> tuple[str, str]:
        return self.answer  # type: ignore[return-value]

    def choose(self, observation: Observation) -> tuple[int, str]:
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (("Star", "MathSolver"), "unknown topology 'Star'; known: IO, CoT, Chain, FullConnected, Debate, Reflection"),
        (("IO", "Critic"), "role set 'Critic': unknown role 'Critic' of math; known: MathSolver, Mathematician, "),
    ],
)
def test_a_plan_that_does_not_exist_is_named(plan: object, message: str) -> None:
    control = Controller(POOL, Always(plan), JoinShortestQueue())
    with pytest.raises(ConfigError, match="planner Always: 1 problem") as caught:
        control.receive(Arrived(0.0, query()))

    assert caught.value.problems[0].startswith(message)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ((2, "Flash"), "server 2 does not exist; the pool has servers 0 to 1"),
        ((-1, "Flash"), "server -1 does not exist; the pool has servers 0 to 1"),
        ((None, "Flash"), "server None does not exist; the pool has servers 0 to 1"),
        ((1, "Flash"), "server 1 (b) is closed, or has just failed this call"),
        ((0, "Slow"), "unknown strategy 'Slow'; known: Flash, Concise, DeepThink"),
    ],
)
def test_a_choice_that_cannot_be_carried_out_is_named(choice: object, message: str) -> None:
    control = Controller(POOL, FixedPlan(), Always(choice))
    control.receive(ServerClosed(0.0, 1))
    with pytest.raises(ConfigError, match="executor Always: 1 problem") as caught:
        control.receive(Arrived(0.0, query()))

    assert caught.value.problems == (message,)


def test_bad_input_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"query q: 1 problem\n  budget_s \(0\) must be greater than 0"):
        query(budget_s=0.0)
    with pytest.raises(ConfigError, match=r"budget_s \(nan\) must be greater than 0"):
        query(budget_s=math.nan)
    with pytest.raises(ConfigError, match=r"budget_s \(inf\) must be greater than 0, and finite"):
        query(budget_s=math.inf)
    with pytest.raises(ConfigError, match=r"prompt_tokens \(0\) must be at least 1"):
        Query("q", "math", 1, 0, 1.0)
    with pytest.raises(ConfigError, match="unknown domain 'law'"):
        Query("q", "law", 1, 10, 1.0)
    with pytest.raises(ConfigError, match="server names used more than once: a"):
        Controller([POOL[0], POOL[0]], FixedPlan(), JoinShortestQueue())
    with pytest.raises(ConfigError, match=r"pool: 1 problem.*\n  has no servers"):
        Controller([], FixedPlan(), JoinShortestQueue())


def test_all_mistakes_in_the_options_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ControllerOptions(priority="sjf", max_tokens=0, max_attempts=0, retry_wait_s=0.0, min_call_s=-1.0)

    assert caught.value.problems == (
        "priority ('sjf') must be one of none, edf, edf-late-last, least-slack",
        "max_tokens (0) must be at least 1",
        "max_attempts (0) must be at least 1",
        "retry_wait_s (0) must be greater than 0",
        "min_call_s (-1) must not be below 0",
    )


def test_a_query_arrives_once() -> None:
    control = controller()
    play(control, Arrived(0.0, query()), finished(1.0, "q.0.0"))

    with pytest.raises(ConfigError, match=r"query q: 1 problem.*\n  has arrived before"):
        control.receive(Arrived(2.0, query()))


def test_a_call_ends_once() -> None:
    control = controller()
    play(control, Arrived(0.0, query()), finished(1.0, "q.0.0"))

    with pytest.raises(ValueError, match=r"call 'q.0.0' is not in flight"):
        control.receive(finished(2.0, "q.0.0"))


def test_polls_reach_the_policies() -> None:
    control = controller()
    play(control, MetricsPolled(1.0, 0, 5, 16, 0.5), Arrived(2.5, query()))

    (seen,) = control.executor.seen  # type: ignore[attr-defined]
    assert (seen.waiting, seen.running, seen.kv_usage, seen.polled_at) == ((5, 0), (16, 0), (0.5, 0.0), (1.0, 0.0))


def test_a_call_that_takes_too_long_is_given_up_and_its_workflow_goes_on() -> None:
    """The second agent's call is cancelled at 5 s; the decision reads the first one's message alone."""
    control = controller("IO", "MathSolver+Mathematician", call_timeout_s=5.0)
    commands = play(control, Arrived(0.0, query()), finished(3.0, "q.0.0"))

    assert control.wake_at == 5.0
    commands += play(control, Woken(5.0), CallFailed(5.1, "q.1.0", "aborted"), finished(9.0, "q.2.0"))
    assert told(commands) == [("q.0.0", 0), ("q.1.0", 1), "-q.1.0", ("q.2.0", 0), "finished"]
    assert [call.slot for call in the_end(commands).calls] == [0, 2]
    alone = controller("Chain", "MathSolver+Inspector")
    (_, read) = (c for c in play(alone, Arrived(0.0, query()), finished(3.0, "q.0.0")) if isinstance(c, Submit))
    (*_, decides) = (command for command in commands if isinstance(command, Submit))
    # One message of "MathSolver wrote:" and 7 tokens in each, between instructions of known lengths.
    assert decides.prompt.prefix[2][1] - decides.prompt.prefix[1][1] == 5 + 7
    assert read.prompt.prefix[2][1] - read.prompt.prefix[1][1] == 5 + 7
    assert len(decides.prompt.prefix) == len(read.prompt.prefix) == 4


def test_a_call_given_up_may_still_finish_and_changes_nothing() -> None:
    control = controller("Chain", "MathSolver+Inspector", call_timeout_s=5.0)
    play(control, Arrived(0.0, query()), Woken(5.0))

    assert told(play(control, finished(5.0, "q.0.0"))) == []
    assert told(play(control, finished(7.0, "q.1.0"))) == ["finished"]
    assert control.num_calls == 0


def test_without_its_last_call_a_workflow_has_no_answer() -> None:
    control = controller(call_timeout_s=5.0)
    commands = play(control, Arrived(2.0, query()), Woken(7.0))

    assert told(commands) == [("q.0.0", 0), "-q.0.0", "failed: call failed"]
    assert (the_end(commands).reason, the_end(commands).latency_s) == ("given up after 5 s", 5.0)


def test_calls_that_ended_set_no_alarm() -> None:
    control = controller("Chain", "MathSolver+Inspector", call_timeout_s=5.0)
    play(control, Arrived(0.0, query()), finished(3.0, "q.0.0"))
    assert control.wake_at == 8.0

    play(control, finished(4.0, "q.1.0"))
    assert control.wake_at == math.inf


def test_a_limit_on_parallel_calls_makes_them_wait_for_their_turn() -> None:
    control = controller("IO", "MathSolver+Mathematician+Inspector", max_parallel_calls=2)

    assert told(play(control, Arrived(0.0, query()))) == [("q.0.0", 0), ("q.1.0", 1)]
    assert told(play(control, finished(3.0, "q.1.0"))) == [("q.2.0", 1)]
    assert told(play(control, finished(4.0, "q.2.0"), finished(5.0, "q.0.0"))) == [("q.3.0", 0)]


def test_a_retry_that_had_to_wait_waits_for_its_turn_too() -> None:
    """Both servers are closed when the first call fails; when it may be tried again, the other agent waits already."""
    control = controller("IO", "MathSolver+Mathematician", max_parallel_calls=1)
    play(control, Arrived(0.0, query()), ServerClosed(1.0, 0), ServerClosed(1.0, 1), CallFailed(1.0, "q.0.0", "lost"))
    play(control, ServerOpened(1.5, 1))

    assert told(play(control, Woken(2.0))) == [("q.1.0", 1)]
    assert told(play(control, finished(3.0, "q.1.0"))) == [("q.0.1", 1)]


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        ({"call_timeout_s": 0.0}, "call_timeout_s (0.0) must be greater than 0"),
        ({"call_timeout_s": -1.0}, "call_timeout_s (-1.0) must be greater than 0"),
        ({"max_parallel_calls": 0}, "max_parallel_calls (0) must be at least 1"),
        ({"max_parallel_calls": -2}, "max_parallel_calls (-2) must be at least 1"),
    ],
)
def test_limits_out_of_range_are_refused(option: dict[str, float], rule: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(rule)):
        ControllerOptions(**option)  # type: ignore[arg-type]


def fitted(max_model_len: int | None, outputs: tuple[int, int], max_tokens: int = 2048) -> Submit:
    """The decision's call, after two agents whose answers have these lengths."""
    control = Controller(
        [ServerInfo("a", "large", 16, max_model_len)],
        FixedPlan("IO", "MathSolver+Mathematician"),
        JoinShortestQueue(),
        ControllerOptions(max_tokens=max_tokens),
    )
    events = [Arrived(0.0, query()), *(finished(1.0 + slot, f"q.{slot}.0", outputs[slot]) for slot in range(2))]
    (*_, submit) = (command for command in play(control, *events) if isinstance(command, Submit))
    return submit


def test_messages_are_cut_until_prompt_and_output_fit() -> None:
    whole = fitted(None, (3000, 400))
    roomy, tight = fitted(whole.prompt.tokens + 2048, (3000, 400)), fitted(4096, (3000, 400))

    assert (roomy.prompt.tokens, roomy.max_tokens) == (whole.prompt.tokens, 2048)
    assert (tight.prompt.tokens, tight.max_tokens) == (2048, 2048)


def test_an_output_has_no_claim_on_more_than_half_of_the_context() -> None:
    """Of 1,000 tokens the messages get what the fixed parts leave of 500, and the output the rest."""
    small = fitted(1000, (1500, 1500))

    assert small.prompt.tokens in (499, 500)
    assert small.max_tokens == 1000 - small.prompt.tokens


def test_a_question_too_long_for_a_server_is_the_servers_to_refuse() -> None:
    """Even without a token of the messages it does not fit: nothing is asked for but one token of output."""
    fixed = fitted(None, (1, 1)).prompt.tokens - 2
    submit = fitted(fixed - 10, (1500, 1500))

    assert (submit.prompt.tokens, submit.max_tokens) == (fixed, 1)
