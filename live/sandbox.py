"""Judges hostile text in a process that can do nothing else: the end of `sandbox_worker` that the live driver holds."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("sandbox_worker.py")
ERRORS = "errors"
"""What the worker itself says on stderr, in its folder."""
STARTUP_S = 60.0
"""For the worker's own work, which hostile text does not prolong: its start, and the import of what judges."""
INTERPRETER = (sys.executable, "-s", "-P", "-B")
"""Finds only what is installed. Not ``-I``, which is the same but for ignoring ``PYTHONHASHSEED`` too."""
PASSED_ON = ("PATH", "LD_LIBRARY_PATH")
"""Environment variables that an interpreter may need; nothing else is handed on, no key among them."""


class SandboxError(RuntimeError):
    """Answers cannot be judged on this machine, whatever they say."""


def clean_environment() -> dict[str, str]:
    """Environment variables under which reasoning-gym makes the same entries each time, and nothing is given away.

    Some of its data sets follow the order of sets of words (0.1.25: ``word_ladder``, ``ransom_note``, three more).
    """
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    # One thread, because jobs may not start any.
    return environment | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LANG": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one judgement may use."""

    wall_s: float = 30.0
    """Generous: on a busy machine it would otherwise be the load that decides what is right."""
    cpu_s: int = 8
    memory_bytes: int = 1 << 30
    """Address space, interpreter included."""
    disk_bytes: int = 64 << 20
    """Largest file; of all files together where the worker has mounts of its own."""


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What a judged answer was tried to do, and could not. The limits of `Limits` hold everywhere."""

    network: bool
    """Opening a connection, even to this machine."""
    processes: bool
    """Starting a process or a thread."""
    signals: bool
    """Signalling another process."""
    reading: bool
    """Reading a file that anyone may read, but for those that Python consists of."""
    writing: bool
    """Writing a file in a folder where anyone may, but for its own, which is thrown away."""
    disk: bool
    """Filling more of the disk than the limit, with many files; they lie in memory."""

    def missing(self) -> tuple[str, ...]:
        """The names of what this machine does not keep an answer from."""
        return tuple(field.name for field in fields(self) if not getattr(self, field.name))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge found."""

    passed: bool
    reason: str


class Sandbox:
    """One worker, which judges one job at a time; started at its first job, and again after one that broke it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._process: asyncio.subprocess.Process | None = None
        self._folder: Path | None = None
        self._guarantees: Guarantees | None = None

    async def start(self) -> Guarantees:
        """Start the worker, unless it runs, and return what it guarantees.

        Raises
        ------
        SandboxError
            It does not start, or cannot isolate a job as it should.
        """
        if self._process is not None and self._process.returncode is None and self._guarantees is not None:
            return self._guarantees
        await self.stop()
        self._folder = Path(tempfile.mkdtemp(prefix="inframind-grading-"))
        # Its jobs may run as another user, who must get through.
        self._folder.chmod(0o711)
        with (self._folder / ERRORS).open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *(*INTERPRETER, str(WORKER)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=clean_environment(),
                cwd="/",
                start_new_session=True,
            )
        hello = await self._ask({**asdict(self._limits), "folder": str(self._folder)})
        if "refused" not in hello:
            await self.stop()
            raise SandboxError(f"answers cannot be graded here: {hello['failure']}")
        self._guarantees = Guarantees(**hello["refused"])
        return self._guarantees

    async def judge(self, job: Mapping[str, object]) -> Verdict:
        """Judge one job, whose ``kind`` and keys are those of `sandbox_worker`.

        Raises
        ------
        SandboxError
            The fault is not the answer's: the worker does not start, or lacks a package.
        """
        await self.start()
        reply = await self._ask(job)
        if "failure" in reply:
            raise SandboxError(f"answers cannot be graded here: {reply['failure']}")
        return Verdict(reply["passed"], reply["reason"])

    async def stop(self) -> None:
        """End the worker with all that it started, and remove its folder."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        folder, self._folder = self._folder, None
        if folder is not None:
            # Not rmtree, which recurses: the answer under way may have left folders in folders without end.
            remover = await asyncio.create_subprocess_exec("rm", "-rf", "--", str(folder))
            await remover.wait()

    async def _ask(self, message: Mapping[str, object]) -> dict[str, Any]:
        """Send one line, wait for one; a worker that does not answer is ended."""
        assert self._process is not None
        assert self._folder is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(self._limits.wall_s + STARTUP_S):
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                await self._process.stdin.drain()
                if line := await self._process.stdout.readline():
                    reply: dict[str, Any] = json.loads(line)
                    return reply
                raise ConnectionResetError
        except (TimeoutError, ConnectionError):
            said = (self._folder / ERRORS).read_text(errors="replace").strip().splitlines()
            await self.stop()
            return {"failure": f"the worker ended or hangs; it said: {said[-1] if said else 'nothing'}"}
        except BaseException:
            # Its answer to this question must not be taken for the answer to the next.
            await self.stop()
            raise
