"""Start the servers of a pool on this machine, together, and stop them together."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from inframind.traces import ConfigError

from .launch import VllmServer, wait_until_healthy


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one server."""

    name: str
    """Of the server; its log is ``NAME.log``."""
    python: str | Path
    """The interpreter that has vLLM."""
    model: str
    """A model folder or a name on Hugging Face."""
    arguments: tuple[str, ...]
    """Of vLLM's ``serve``."""
    port: int | None = None
    """A free one if None."""
    environment: Mapping[str, str] = field(default_factory=dict)
    cpus: tuple[int, ...] = ()
    """The only ones that it may run on; any if empty."""


@contextmanager
def running_pool(
    launches: Sequence[Launch],
    logs: Path,
    *,
    timeout_s: float = 1800.0,
    on_progress: Callable[[int, float], None] = lambda num_healthy, elapsed_s: None,
) -> Iterator[dict[str, VllmServer]]:
    """Servers by name, all of them healthy; whatever ends the block, none is left behind.

    Parameters
    ----------
    logs
        Folder for the servers' output; it is made.
    timeout_s
        How long all of them may take; loading a large model from a slow disk takes minutes.
    on_progress
        Called with how many are healthy, and the seconds so far.

    Raises
    ------
    ConfigError
        Two ask for one port.
    LaunchError
        A server could not be started, ended before it was healthy, or took too long.
    """
    if launches:
        logs.mkdir(parents=True, exist_ok=True)
    ports = _ports(launches)
    servers = {
        launch.name: VllmServer(
            launch.python,
            launch.model,
            port=port,
            log=logs / f"{launch.name}.log",
            arguments=launch.arguments,
            environment=launch.environment,
            cpus=launch.cpus,
        )
        for launch, port in zip(launches, ports, strict=True)
    }
    try:
        for server in servers.values():
            server.start()
        wait_until_healthy(list(servers.values()), timeout_s, on_progress)
        yield servers
    finally:
        if servers:
            with ThreadPoolExecutor(len(servers)) as stoppers:
                list(stoppers.map(VllmServer.stop, servers.values()))


def _ports(launches: Sequence[Launch]) -> list[int]:
    """Those asked for, and free ones, no two alike."""
    asked = [launch.port for launch in launches if launch.port is not None]
    if twice := sorted({port for port in asked if asked.count(port) > 1}):
        raise ConfigError("live pool", [f"port {port}: asked for by {_names_at(port, launches)}" for port in twice])
    probes = []
    ports = []
    for launch in launches:
        port = launch.port
        while port is None:
            probe = socket.socket()
            probes.append(probe)
            probe.bind(("127.0.0.1", 0))
            free: int = probe.getsockname()[1]
            port = None if free in asked else free
        ports.append(port)
    for probe in probes:
        probe.close()
    return ports


def _names_at(port: int, launches: Sequence[Launch]) -> str:
    return " and ".join(launch.name for launch in launches if launch.port == port)
