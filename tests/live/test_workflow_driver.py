"""The asyncio driver under virtual time, on servers that do as told; `tests/sim` has it beside the SimPy driver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from live_world import arrive, controller
from virtual_time import VirtualTimeLoop

from inframind.live import CallEnd, Gauges, Poll, WorkflowDriver
from inframind.workflows import (
    Arrived,
    CallFailed,
    Cancel,
    Command,
    Controller,
    ControllerOptions,
    Event,
    MetricsPolled,
    ServerClosed,
    ServerOpened,
    Stopped,
    Submit,
    WorkflowFinished,
)


@dataclass
class Told:
    """A server: its calls take two seconds; what its polls and calls come to may be set for a time."""

    poll_s: float = 0.0
    polls: Callable[[float], Poll] = lambda t: Poll(Gauges(0, 1, 0.5, 0.0), is_alive=True)
    ends: Callable[[float], CallEnd] = lambda t: CallEnd(20, 5, None)
    cancelled: list[str] = field(default_factory=list)

    async def serve(self, submit: Submit) -> CallEnd:
        try:
            await asyncio.sleep(2.0)
        except asyncio.CancelledError:
            self.cancelled.append(submit.call_id)
            raise
        return self.ends(asyncio.get_running_loop().time())

    async def poll(self) -> Poll:
        await asyncio.sleep(self.poll_s)
        return self.polls(asyncio.get_running_loop().time())


def drive(
    servers: list[Told],
    *arrivals: Arrived,
    core: Controller | None = None,
    stop_s: float | None = None,
    begin_s: float = 0.0,
) -> list[Event | Command]:
    log: list[Event | Command] = []
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        driver = WorkflowDriver(
            core or controller(),
            servers,
            lambda event, commands: log.extend([event, *commands]),
            begin_s=begin_s,
            defer=loop.call_at_end_of_instant,
        )
        if stop_s is not None:
            loop.call_at(stop_s, driver.stop)
        runner.run(driver.run(arrivals))
    return log


def times(log: list[Event | Command], *kinds: type) -> list[float]:
    return [item.t for item in log if isinstance(item, kinds)]  # type: ignore[union-attr]


def test_a_server_is_closed_after_three_polls_without_an_answer_and_open_with_the_next_one() -> None:
    """Nothing answers at 1, 2, 3 and 4."""
    away = Told(polls=lambda t: Poll(None, is_alive=not 0.5 < t < 4.5))
    log = drive([away, Told()], arrive(0.0, "a"), arrive(8.0, "b"))

    assert times(log, ServerClosed) == [3.0]
    assert times(log, ServerOpened) == [5.0]


def test_gauges_that_cannot_be_had_are_not_told() -> None:
    blind = Told(polls=lambda t: Poll(None, is_alive=True))
    log = drive([blind, Told()], arrive(2.5, "a"))

    assert {event.server for event in log if isinstance(event, MetricsPolled)} == {1}
    assert times(log, ServerClosed) == []


def test_a_call_that_finds_nobody_closes_the_server_at_once() -> None:
    gone = Told(ends=lambda t: CallEnd(20, 0, None, failure="unreachable", is_unreachable=True))
    log = drive([gone, Told()], arrive(0.25, "a"))

    assert times(log, ServerClosed) == [2.25]
    assert [(item.call_id, item.server) for item in log if isinstance(item, Submit)] == [("a.0.0", 0), ("a.0.1", 1)]
    assert times(log, ServerOpened) == [3.0]


def test_stopping_ends_what_is_under_way_and_what_was_to_come() -> None:
    servers = [Told(), Told()]
    log = drive(servers, arrive(0.0, "a"), arrive(9.0, "b"), stop_s=1.5)

    assert [type(item) for item in log[-4:]] == [Stopped, Cancel, WorkflowFinished, CallFailed]
    assert times(log, Stopped, CallFailed) == [1.5, 1.5]
    assert servers[0].cancelled == ["a.0.0"]
    assert len(times(log, Arrived)) == 1


def test_stopping_while_the_servers_are_looked_at_first_ends_it_before_anything_arrives() -> None:
    log = drive([Told(poll_s=2.0), Told()], arrive(0.0, "a"), stop_s=1.0)

    assert times(log, Arrived) == []


def test_time_goes_on_where_an_earlier_part_stopped_and_begins_when_all_servers_were_looked_at() -> None:
    log = drive([Told(poll_s=0.5), Told()], arrive(7.0, "a"), begin_s=5.0)

    assert times(log, MetricsPolled)[:2] == [5.0, 5.0]
    assert times(log, Arrived) == [7.0]


def test_the_controller_is_woken_when_it_asks() -> None:
    """The workflow is hopeless at its deadline."""
    options = ControllerOptions(cancel_hopeless=True)
    log = drive([Told(), Told()], arrive(0.5, "a", budget_s=1.25), core=controller(options=options))
    (end,) = (item for item in log if isinstance(item, WorkflowFinished))

    assert str(end.outcome) == "cancelled: hopeless"
    assert end.latency_s == 1.25


def test_what_breaks_in_a_server_ends_the_run_and_gives_up_the_other_calls() -> None:
    def broken(t: float) -> CallEnd:
        raise ZeroDivisionError("a bug")

    servers = [Told(ends=broken), Told()]
    with pytest.raises(ZeroDivisionError, match="a bug"):
        drive(servers, arrive(0.0, "a"), arrive(1.0, "b"))
    assert [call_id for server in servers for call_id in server.cancelled] == ["b.0.0"]
