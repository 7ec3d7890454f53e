"""The golden log of a run: every event and every command in order, as JSON lines (``events.jsonl``).

The first line says what the controller ran with. Each event is followed by the commands it led to. That is all it
takes to take every decision again, without simulator or servers.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from inframind.traces import TraceError

from .commands import CallRecord, Command
from .controller import Controller, ControllerOptions
from .events import Arrived, Event
from .observation import LatencyModel
from .policy import ExecutorPolicy, PlannerPolicy
from .prompts import Prompt
from .query import Query
from .servers import ServerInfo

VERSION = 1
_EVENTS: dict[str, Any] = {kind.__name__: kind for kind in get_args(Event)}
_NAMES = {
    kind: tuple(field.name for field in fields(kind))
    for kind in (*get_args(Event), *get_args(Command), Query, CallRecord)
}


def to_json(item: Event | Command) -> str:
    """One line: the kind, then every field. A prompt is its length and a checksum of its text."""
    return _ENCODER.encode(item)


def _as_dict(item: Any) -> dict[str, Any]:
    kind = type(item)
    if kind is Prompt:
        crc32 = None if item.text is None else zlib.crc32(item.text.encode())
        return {"tokens": item.tokens, "crc32": crc32}
    values = {name: getattr(item, name) for name in _NAMES[kind]}
    return values if kind in _PARTS else {"kind": kind.__name__, **values}


_PARTS = (Query, CallRecord)
_ENCODER = json.JSONEncoder(default=_as_dict, separators=(",", ":"), allow_nan=False)


def log_lines(controller: Controller, entries: Iterable[Event | Command]) -> Iterator[str]:
    """The lines of a log, without line ends."""
    servers = [asdict(info) for info in controller.servers]
    header = {"kind": "Header", "version": VERSION, "servers": servers, "options": asdict(controller.options)}
    yield json.dumps(header, separators=(",", ":"))
    yield from map(to_json, entries)


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of taking the decisions of a log again."""

    num_events: int
    num_commands: int
    """Commands of the log that came out again, up to the first difference."""
    difference: str | None
    """The first one, in words; None if there is none."""


def replay(
    lines: Iterable[str],
    planner: PlannerPolicy,
    executor: ExecutorPolicy,
    *,
    embeddings: NDArray[np.float32] | None = None,
    latency: LatencyModel | None = None,
) -> Replay:
    """Feed a log's events to a new controller, and compare its commands with those of the log.

    It ends at the first difference: what comes after answers to another history.

    Parameters
    ----------
    planner, executor
        As they were when the run began, the state of their random generators included.

    Raises
    ------
    TraceError
        This is no log.
    """
    servers, options, turns = read_log(lines)
    controller = Controller(servers, planner, executor, options, embeddings=embeddings, latency=latency)
    num_events = num_commands = 0
    for event, recorded in turns:
        commands = [to_json(command) for command in controller.receive(event)]
        num_events += 1
        for index in range(max(len(commands), len(recorded))):
            ours, theirs = (text[index] if index < len(text) else "nothing" for text in (commands, recorded))
            if ours != theirs:
                return Replay(num_events, num_commands, f"after {to_json(event)}: recorded {theirs}, replayed {ours}")
            num_commands += 1
    return Replay(num_events, num_commands, None)


Turn = tuple[Event, list[str]]
"""An event and the commands that followed it, as they stand in the log."""


def read_log(lines: Iterable[str]) -> tuple[Sequence[ServerInfo], ControllerOptions, list[Turn]]:
    """What a log says.

    Raises
    ------
    TraceError
        A line is not what it must be.
    """
    turns: list[Turn] = []
    header: tuple[list[ServerInfo], ControllerOptions] | None = None
    for number, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
            if header is None:
                header = _header(content)
            elif content["kind"] in _EVENTS:
                turns.append((_event(content), []))
            else:
                turns[-1][1].append(line.rstrip("\n"))
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise TraceError("events.jsonl", [f"line {number}: not a line of this log: {error!r}"]) from None
    if header is None:
        raise TraceError("events.jsonl", ["is empty"])
    return *header, turns


def _header(content: dict[str, Any]) -> tuple[list[ServerInfo], ControllerOptions]:
    if content["version"] != VERSION:
        raise ValueError(f"version {content['version']}, not {VERSION}")
    return [ServerInfo(**info) for info in content["servers"]], ControllerOptions(**content["options"])


def _event(content: dict[str, Any]) -> Event:
    kind = _EVENTS[content.pop("kind")]
    if kind is Arrived:
        content["query"] = Query(**content["query"])
    event: Event = kind(**content)
    return event
