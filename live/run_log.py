"""What a live run writes while it goes on, append-only: ``events.jsonl`` and ``calls.jsonl`` of its folder.

An event and its commands are written together and handed to the operating system at once, so that a run that is killed
has lost at most the turn that it was taking. `resumed` goes on from there.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from inframind.traces import TraceError
from inframind.workflows import (
    Arrived,
    CallFailed,
    Command,
    Controller,
    Event,
    ServerClosed,
    ServerOpened,
    Stopped,
    Submit,
    WorkflowFinished,
    log_lines,
    read_log,
    to_json,
)

from .client import Call
from .pool_server import outcome_name
from .workflow_driver import ABORTED

EVENTS, CALLS = "events.jsonl", "calls.jsonl"


class RunLog:
    """The two files of a run, open for writing; use as a context manager.

    Parameters
    ----------
    folder
        Must be there.
    controller
        Of the run; its header begins a new log.
    """

    def __init__(self, folder: Path, controller: Controller) -> None:
        self.folder = folder
        is_new = not (folder / EVENTS).exists()
        self._events = (folder / EVENTS).open("a", encoding="utf-8")
        self._calls = (folder / CALLS).open("a", encoding="utf-8")
        if is_new:
            self._write_events(log_lines(controller, []))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.close()
        self._calls.close()

    def on_turn(self, event: Event, commands: Iterable[Command]) -> None:
        """Write an event and the commands that it led to."""
        self._write_events(map(to_json, [event, *commands]))

    def on_call(self, submit: Submit, call: Call, origin_s: float, now_s: float) -> None:
        """Write how a call went; times are the run's.

        Parameters
        ----------
        origin_s
            When the run's time was 0, by the clock of the call's times.
        now_s
            The run's time.
        """
        prompt_tokens, output_tokens = call.usage or (submit.prompt.tokens, call.num_chunks)
        times = {"sent_s": call.sent_s, "first_token_s": call.first_token_s, "last_token_s": call.last_token_s}
        line = {
            "call_id": submit.call_id,
            **{name: None if value is None else round(value - origin_s, 6) for name, value in times.items()},
            "ended_s": round(now_s, 6),
            "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens,
            "cached_tokens": call.cached_tokens,
            "chunks": call.num_chunks,
            "outcome": outcome_name(call),
            "detail": call.detail,
        }
        self._calls.write(json.dumps(line) + "\n")
        self._calls.flush()

    def _write_events(self, lines: Iterable[str]) -> None:
        self._events.write("".join(f"{line}\n" for line in lines))
        self._events.flush()


class Resumed(NamedTuple):
    """Where a run is gone on with."""

    begin_s: float
    """The run's time."""
    begun: set[str]
    """Queries that have begun; all of them have ended."""
    num_on_time: int
    """Of those."""


def resumed(folder: Path, controller: Controller) -> Resumed:
    """Bring a new controller, and its policies, to where the run in ``folder`` was broken off.

    The log is replayed. What was under way then has ended: the log is given the turns that say so.

    Raises
    ------
    TraceError
        The log cannot be read, or the controller now decides otherwise than it did.
    """
    for name in (EVENTS, CALLS):
        _drop_torn_end(folder / name)
    _, _, turns = read_log(_lines(folder / EVENTS))
    t = 0.0
    num_on_time = 0
    begun: set[str] = set()
    in_flight: dict[str, None] = {}
    closed: set[int] = set()
    for number, (event, recorded) in enumerate(turns, start=1):
        commands = controller.receive(event)
        again = list(map(to_json, commands))
        is_torn = number == len(turns) and recorded == again[: len(recorded)]
        if recorded != again and not is_torn:
            raise TraceError(folder / EVENTS, [f"event {number} ({to_json(event)}): decided otherwise now; start anew"])
        t = event.t
        num_on_time += sum(isinstance(command, WorkflowFinished) and command.on_time for command in commands)
        _follow(event, commands, begun, in_flight, closed)
    with RunLog(folder, controller) as log:
        if turns:
            log._write_events(again[len(recorded) :])
        ends: list[Event] = [Stopped(t)] if controller.num_active else []
        ends += [CallFailed(t, call_id, ABORTED) for call_id in in_flight]
        ends += [ServerOpened(t, server) for server in sorted(closed)]
        for end in ends:
            log.on_turn(end, controller.receive(end))
    return Resumed(t, begun, num_on_time)


def read_events(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Events and commands of a run, as they stand in its log."""
    return map(json.loads, _lines(folder / EVENTS))


def read_calls(folder: Path) -> dict[str, Mapping[str, Any]]:
    """How each call went that a request was made for, by its id."""
    return {line["call_id"]: line for line in map(json.loads, _lines(folder / CALLS))}


def _follow(
    event: Event, commands: Iterable[Command], begun: set[str], in_flight: dict[str, None], closed: set[int]
) -> None:
    match event:
        case Arrived(query=query):
            begun.add(query.query_id)
        case ServerClosed(server=server):
            closed.add(server)
        case ServerOpened(server=server):
            closed.discard(server)
    if (ended := getattr(event, "call_id", None)) is not None:
        in_flight.pop(ended)
    in_flight.update((command.call_id, None) for command in commands if isinstance(command, Submit))


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as source:
        yield from source


def _drop_torn_end(path: Path) -> None:
    """A line without its end was being written when the run was killed."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
