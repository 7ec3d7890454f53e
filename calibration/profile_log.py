"""The folder that a profile writes: what happened, line by line as it happens, and the tables made of it.

================== ===========================================================================================
file               holds
================== ===========================================================================================
requests.jsonl     one line for each request when it ends, failed ones too: the truth; only appended to
conditions.jsonl   one line when a condition begins, one when it ends; only appended to
samples.csv        polled queue lengths; only appended to
server.json        the server's and the client's facts, and the options of the profile
requests.csv       the requests that were served, as ``inframind calibrate fit`` reads them; made from the above
server.toml        the server's options, as far as they can be told; made from the above
================== ===========================================================================================
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd

from inframind.live import Call, Gauges, Outcome
from inframind.traces import ConfigError, write_whole

from .profile_plan import WARM_UP, Answer, Ask, Condition, Ended

REQUESTS_LOG, CONDITIONS_LOG, SAMPLES_LOG, SERVER_FACTS = (
    "requests.jsonl",
    "conditions.jsonl",
    "samples.csv",
    "server.json",
)
REQUESTS_TABLE, SERVER_FILE = "requests.csv", "server.toml"
SAMPLES_HEADER = ("time_s", "server", "waiting", "running", "kv_usage")
COLUMNS = (
    *("arrival_s", "prompt_tokens", "output_tokens", "priority", "prefix_group", "prefix_tokens", "ttft_s", "e2e_s"),
    *("closed_loop", "condition", "attempt", "outcome", "late_s"),
)
COMPLETE, STOPPED = "complete", "stopped"


@dataclass(frozen=True, slots=True)
class Stay:
    """One try at a condition: between its two lines in conditions.jsonl."""

    condition: str
    attempt: int
    begin_s: float
    end_s: float
    outcome: str
    """``complete``, or ``stopped``: by the person or by the server."""
    step_tokens: Mapping[str, float]
    """Engine steps of that time by an upper bound of their tokens, where the server tells."""
    process_start_s: float | None = None
    """When the server's process began, Unix time; None where it does not tell."""


class ProfileLog:
    """Append to the files of one profile, and read them back; use as a context manager.

    Parameters
    ----------
    folder
        Made if it is not there.
    begun
        What server.json of a new profile holds, ``started_at`` among it; None: go on with the profile in ``folder``.

    Raises
    ------
    ConfigError
        If there is a profile and should not be one, or the other way round, or the folder cannot be written.
    """

    def __init__(self, folder: Path, begun: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = _facts_of(folder) if begun is None else begun
        try:
            if begun is not None:
                check_folder(folder, resume=False)
                folder.mkdir(parents=True, exist_ok=True)
                # Before the logs: whatever happens next, there is a profile to go on with.
                self.write_facts(begun)
            self._requests, self._conditions, self._samples = (
                _appendable(folder / name) for name in (REQUESTS_LOG, CONDITIONS_LOG, SAMPLES_LOG)
            )
        except OSError as error:
            raise ConfigError(folder, [f"cannot be written: {error.strerror}"]) from None
        self.requests = list(_lines(folder / REQUESTS_LOG))
        self.stays = list(_stays(folder / CONDITIONS_LOG))
        self.begun = [line for line in _lines(folder / CONDITIONS_LOG) if "end_s" not in line]
        self.samples = list(_samples(folder / SAMPLES_LOG))
        if not self._samples.tell():
            self._append(self._samples, ",".join(SAMPLES_HEADER))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sink in (self._requests, self._conditions, self._samples):
            sink.close()

    # What is appended.

    def begin(self, condition: str, at_s: float) -> int:
        """Note that a condition begins; returns which attempt at it this is, from 1 on."""
        attempt = 1 + len([line for line in self.begun if line["condition"] == condition])
        self.begun.append({"condition": condition, "attempt": attempt, "begin_s": at_s})
        self._append(self._conditions, json.dumps(self.begun[-1]))
        return attempt

    def end(self, stay: Stay) -> None:
        """Note that a condition ended; all its requests are then safe on the disk."""
        self.stays.append(stay)
        self._append(self._conditions, json.dumps(asdict(stay)))
        for sink in (self._requests, self._conditions, self._samples):
            os.fsync(sink.fileno())

    def add_request(
        self, condition: Condition, attempt: int, ask: Ask, call: Call, origin_s: float, due_s: float
    ) -> None:
        """Note a request that was sent and has ended; ``origin_s`` is the profile's begin on the clock of ``call``."""
        if call.sent_s is None:
            return
        prompt, output = call.usage or (ask.prompt_tokens, call.num_chunks)
        line = {
            "condition": condition.name,
            "attempt": attempt,
            "closed_loop": condition.concurrency,
            "outcome": call.outcome.value,
            "detail": call.detail,
            "arrival_s": round(call.sent_s - origin_s, 6),
            "late_s": round(call.sent_s - due_s, 6),
            "prompt_tokens": prompt,
            "output_tokens": output,
            "asked_output_tokens": ask.output_tokens,
            "priority": ask.priority,
            "prefix_group": None if ask.prefix_group is None else f"{condition.name}-{attempt}-{ask.prefix_group}",
            "prefix_tokens": ask.prefix_tokens,
            "ttft_s": None if call.first_token_s is None else round(call.first_token_s - call.sent_s, 6),
            "e2e_s": None if call.last_token_s is None else round(call.last_token_s - call.sent_s, 6),
        }
        self.requests.append(line)
        self._append(self._requests, json.dumps(line))

    def add_sample(self, at_s: float, server: str, gauges: Gauges) -> None:
        """Note polled queue lengths."""
        row = {
            "time_s": round(at_s, 4),
            "server": server,
            "waiting": gauges.waiting,
            "running": gauges.running,
            "kv_usage": round(gauges.kv_usage, 6),
        }
        self.samples.append(row)
        text = StringIO()
        csv.DictWriter(text, SAMPLES_HEADER, lineterminator="").writerow(row)
        self._append(self._samples, text.getvalue())

    def _append(self, sink: Any, line: str) -> None:
        """One whole line to the operating system, so that a crash of ours loses nothing."""
        try:
            sink.write(line + "\n")
            sink.flush()
        except OSError as error:
            raise ConfigError(self.folder, [f"cannot be written: {error.strerror}"]) from None

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Replace server.json."""
        self.facts = facts
        write_whole(self.folder / SERVER_FACTS, json.dumps(facts, indent=2) + "\n")

    # What is read back.

    @property
    def last_s(self) -> float:
        """When the latest thing in the log happened."""
        times = [sample["time_s"] for sample in self.samples]
        times += [line["arrival_s"] + (line["e2e_s"] or 0.0) for line in self.requests]
        return max(times, default=0.0)

    @property
    def num_finished(self) -> int:
        """Requests that finished, warm-up included."""
        return sum(line["outcome"] == Outcome.FINISHED for line in self.requests)

    def ended(self) -> dict[str, Ended]:
        """What each complete condition showed the first time: each process of a server has a warm-up of its own."""
        first: dict[str, Stay] = {}
        for stay in self.stays:
            if stay.outcome == COMPLETE:
                first.setdefault(stay.condition, stay)
        return {name: self.shown(stay) for name, stay in first.items()}

    def shown(self, stay: Stay) -> Ended:
        """What one stay showed."""
        lines = sorted(self._of(stay), key=lambda line: float(line["arrival_s"]))
        return Ended(
            name=stay.condition,
            duration_s=stay.end_s - stay.begin_s,
            answers=[
                Answer(**{name: line[name] for name in Answer.__dataclass_fields__})
                for line in lines
                if line["outcome"] == Outcome.FINISHED
            ],
            queues=[
                (sample["waiting"], sample["running"])
                for sample in self.samples
                if stay.begin_s <= sample["time_s"] <= stay.end_s
            ],
        )

    def _of(self, stay: Stay) -> list[dict[str, Any]]:
        key = stay.condition, stay.attempt
        return [line for line in self.requests if (line["condition"], line["attempt"]) == key]

    def requests_table(self) -> pd.DataFrame:
        """The requests that put load on the server, in order of arrival, without the warm-up.

        One that was cut off has the tokens that came and no times: a load that is not compared. Attempts that ended
        with a crash of the client are left out, because the requests that were then open are in no log.
        """
        lines = [
            line | {"output_tokens": max(line["output_tokens"], 1)} | _times(line)
            for stay in self.stays
            if stay.condition != WARM_UP
            for line in self._of(stay)
            if line["ttft_s"] is not None
        ]
        frame = pd.DataFrame(lines, columns=list(COLUMNS))
        return frame.sort_values("arrival_s", kind="stable", ignore_index=True).astype(
            {"priority": "Int64", "prefix_tokens": "Int64", "closed_loop": "Int64"}
        )

    def write_tables(self, server_file: str) -> None:
        """Replace requests.csv and server.toml."""
        write_whole(self.folder / REQUESTS_TABLE, self.requests_table().to_csv(index=False))
        write_whole(self.folder / SERVER_FILE, server_file)


def _times(line: Mapping[str, Any]) -> dict[str, float | None]:
    finished = line["outcome"] == Outcome.FINISHED
    return {name: line[name] if finished else None for name in ("ttft_s", "e2e_s")}


def check_folder(folder: Path, *, resume: bool) -> None:
    """Whether a profile can begin there, or go on.

    Raises
    ------
    ConfigError
        If not.
    """
    if resume:
        _facts_of(folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        has_profile = (folder / SERVER_FACTS).is_file()
        hint = "--resume goes on with the profile in it" if has_profile else "name another folder"
        raise ConfigError(folder, [f"is there already: {hint}"])


def _facts_of(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / SERVER_FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = None
    if not isinstance(facts, dict) or "started_at" not in facts:
        raise ConfigError(folder, [f"has no profile to resume: {SERVER_FACTS} cannot be read"])
    return facts


def _appendable(path: Path) -> Any:
    """Open a log at its end; a line that a crash left without its end is closed first."""
    torn = path.exists() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
    sink = path.open("a", encoding="utf-8")
    if torn:
        sink.write("\n")
    return sink


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file, torn ones left out."""
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def _stays(path: Path) -> Iterator[Stay]:
    yield from (Stay(**line) for line in _lines(path) if "end_s" in line)


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as source:
        for row in csv.DictReader(source):
            try:
                yield {
                    "time_s": float(row["time_s"]),
                    "server": row["server"],
                    "waiting": int(row["waiting"]),
                    "running": int(row["running"]),
                    "kv_usage": float(row["kv_usage"]),
                }
            except (TypeError, ValueError):
                continue
