"""The golden log: its lines as they are written, and what a replay finds."""

from __future__ import annotations

import json

import pytest
from policies import FixedPlan, JoinShortestQueue, RoundRobin

from inframind.traces import TraceError
from inframind.workflows import (
    Arrived,
    CallFailed,
    CallFinished,
    Command,
    Controller,
    Event,
    MetricsPolled,
    Query,
    ServerClosed,
    ServerInfo,
    ServerOpened,
    Stopped,
    Woken,
    log_lines,
    read_log,
    replay,
)

POOL = [ServerInfo("a", "large", 16), ServerInfo("b", "small", 8, 4096)]
EVENTS: list[Event] = [
    MetricsPolled(0.0, 0, 0, 2, 0.1),
    Arrived(0.1, Query("q", "math", 1, 20, 50.0, "1 + 1?", 3)),
    ServerClosed(0.2, 1),
    CallFailed(0.25, "q.0.0", "503"),
    Woken(1.25),
    ServerOpened(1.5, 0),
    CallFinished(2.0, "q.0.1", 30, 5, "2"),
    Stopped(3.0),
]


def log() -> list[str]:
    """A run with every kind of event."""
    control = Controller(POOL, FixedPlan("Chain", "MathSolver+Inspector"), JoinShortestQueue())
    entries: list[Event | Command] = []
    for event in EVENTS:
        # The pool's second server is closed before the first one fails: the call has to wait for a second try.
        entries += [event, *control.receive(event)]
    return list(log_lines(control, entries))


GOLDEN = """\
{"kind":"Header","version":1,"servers":[{"name":"a","model":"large","max_num_seqs":16,"max_model_len":null},\
{"name":"b","model":"small","max_num_seqs":8,"max_model_len":4096}],"options":{"priority":"edf","max_tokens":2048,\
"max_attempts":3,"retry_wait_s":1.0,"cancel_hopeless":false,"answer_when_due":false,"call_timeout_s":null,\
"max_parallel_calls":null,"min_call_s":0.0,"dead_reckoning":true}}
{"kind":"MetricsPolled","t":0.0,"server":0,"waiting":0,"running":2,"kv_usage":0.1}
{"kind":"Arrived","t":0.1,"query":{"query_id":"q","domain":"math","question":1,"prompt_tokens":20,"budget_s":50.0,\
"text":"1 + 1?","embedding":3}}
"""


def test_the_lines_as_they_are_written() -> None:
    lines = log()

    assert "".join(f"{line}\n" for line in lines[:3]) == GOLDEN
    assert [json.loads(line)["kind"] for line in lines] == [
        *("Header", "MetricsPolled", "Arrived", "Submit", "ServerClosed", "CallFailed", "Submit", "Woken"),
        *("ServerOpened", "CallFinished", "Submit", "Stopped", "Cancel", "WorkflowFinished"),
    ]


def test_what_is_written_is_read_again() -> None:
    servers, options, turns = read_log(log())

    assert list(servers) == POOL
    assert options == Controller(POOL, FixedPlan(), JoinShortestQueue()).options
    assert [event for event, _ in turns] == EVENTS
    assert sum(len(commands) for _, commands in turns) == 5


def test_a_replay_takes_every_decision_again() -> None:
    planner = FixedPlan("Chain", "MathSolver+Inspector")

    assert replay(log(), planner, JoinShortestQueue()) == replay(log(), planner, JoinShortestQueue())
    result = replay(log(), planner, JoinShortestQueue())
    assert (result.num_events, result.num_commands, result.difference) == (8, 5, None)


def test_a_replay_tells_the_first_difference() -> None:
    result = replay(log(), FixedPlan("Chain", "MathSolver+Inspector"), RoundRobin())

    assert (result.num_events, result.num_commands) == (2, 0)
    assert result.difference is not None
    assert 'recorded {"kind":"Submit","call_id":"q.0.0"' in result.difference
    assert '"strategy":"Concise"' in result.difference
    assert '"strategy":"Flash"' in result.difference


def test_a_replay_notices_commands_that_were_not_recorded() -> None:
    lines = log()
    submits = [index for index, line in enumerate(lines) if '"Submit"' in line]
    result = replay(
        [*lines[: submits[-1]], *lines[submits[-1] + 1 :]],
        FixedPlan("Chain", "MathSolver+Inspector"),
        JoinShortestQueue(),
    )

    assert result.difference is not None
    assert "recorded nothing, replayed" in result.difference


def test_a_changed_prompt_is_a_difference() -> None:
    """Prompts are logged by length and checksum: the same length with other words is noticed."""
    lines = [line.replace("1 + 1?", "1 + 2?") for line in log()]
    result = replay(lines, FixedPlan("Chain", "MathSolver+Inspector"), JoinShortestQueue())

    assert result.difference is not None
    assert "crc32" in result.difference


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: not a line of this log: JSONDecodeError"),
        ('{"kind":"Woken"}', "line 3: not a line of this log: TypeError"),
        ('{"kind":"Woken","t":1.0,"server":3}', "line 3: not a line of this log: TypeError"),
    ],
)
def test_a_broken_line_is_named(line: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_log([*log()[:2], line])

    assert caught.value.problems[0].startswith(message)


def test_a_log_begins_with_its_header() -> None:
    with pytest.raises(TraceError, match="is empty"):
        read_log([])
    with pytest.raises(TraceError, match="line 1: not a line of this log"):
        read_log(log()[1:])
    with pytest.raises(TraceError, match="version 2, not 1"):
        read_log([log()[0].replace('"version":1', '"version":2')])
