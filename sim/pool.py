"""Servers that share a clock."""

from collections.abc import Callable, Iterator

from .clock import Environment
from .data_parallel import start_server
from .request import Request
from .server import Server, ServerOptions


class Pool:
    """The simulated servers of one run; they may come and go while it runs.

    Parameters
    ----------
    on_end
        Called with each request when it ends, see `Server`; ``request.server_name`` says where.
    fast_forward
        As for `Server`, for all of them.
    """

    def __init__(self, env: Environment, on_end: Callable[[Request], None], *, fast_forward: bool = True) -> None:
        self.env = env
        self.servers: dict[str, Server] = {}
        """By name, in the order in which they came; those drained or killed stay listed."""
        self._num_engines = 0
        self._on_end = on_end
        self._fast_forward = fast_forward

    def __iter__(self) -> Iterator[Server]:
        return iter(self.servers.values())

    def add(self, options: ServerOptions) -> Server:
        """Start a server now."""
        if options.name in self.servers:
            raise ValueError(f"the pool has a server {options.name!r} already")
        server = start_server(self.env, options, self._on_end, rank=self._num_engines, fast_forward=self._fast_forward)
        self._num_engines += options.data_parallel_size
        self.servers[options.name] = server
        return server

    def drain(self, name: str) -> None:
        """Let a server finish what it has and take nothing more."""
        self.servers[name].drain()

    def kill(self, name: str) -> None:
        """Let a server die with all that is in it."""
        self.servers[name].kill()
