"""A pool file's ``[live]`` sections as the live pool takes them: what to start, where to send calls, what to check."""

import asyncio
import os
import signal
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from inframind.live import (
    Checked,
    Client,
    Endpoint,
    Expected,
    Launch,
    VllmServer,
    check_pool,
    running_pool,
    wait_until_idle,
)
from inframind.sim import LiveSection, PoolSection, ServerSection
from inframind.traces import ConfigError
from inframind.traces.mistakes import did_you_mean

from .output import progress

SEMANTICS = {"vllm-0.32": "0.32"}
"""How the version of a server begins whose decisions are simulated by these semantics."""


class RunningPool(NamedTuple):
    """A live pool."""

    endpoints: list[Endpoint]
    """In the pool's order."""
    started: Mapping[str, VllmServer]
    """Those that were started here, by name."""


def launch_of(server: ServerSection, base: Path, vllm_python: Path | None) -> Launch:
    """How to start a server that has a ``model_path``.

    Parameters
    ----------
    base
        The pool file's folder.
    vllm_python
        The interpreter, where the section names none.
    """
    live = _live(server)
    assert live.model_path is not None  # the caller's business
    model = base / live.model_path
    named = None if live.vllm_python is None else base / live.vllm_python
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, live.device_ids))} if live.device_ids else {}
    return Launch(
        server.name,
        named or vllm_python or sys.executable,
        str(model.resolve()) if model.exists() else live.model_path,
        (*_arguments(server), *live.extra_args),
        live.port,
        devices | live.env,
        live.cpus,
    )


def _arguments(server: ServerSection) -> Iterator[str]:
    """vLLM's, as the pool file has the options: a server that is started so is the one that is simulated."""
    scheduler = server.scheduler
    values: dict[str, object] = {
        "served-model-name": served_model(server),
        "scheduling-policy": scheduler.policy,
        "max-num-seqs": scheduler.max_num_seqs,
        "max-num-batched-tokens": scheduler.max_num_batched_tokens,
        "block-size": scheduler.block_size,
        "num-gpu-blocks-override": scheduler.num_blocks,
        "max-model-len": scheduler.max_model_len,
    }
    if scheduler.long_prefill_token_threshold:
        values["long-prefill-token-threshold"] = scheduler.long_prefill_token_threshold
    if scheduler.watermark:
        values["watermark"] = scheduler.watermark
    if server.max_num_queued_reqs is not None:
        values["max-num-queued-reqs"] = server.max_num_queued_reqs
    if server.data_parallel_size > 1:
        values["data-parallel-size"] = server.data_parallel_size
    for name, value in values.items():
        yield from (f"--{name}", str(value))
    switches = {
        "enable-prefix-caching": scheduler.enable_prefix_caching,
        "async-scheduling": scheduler.async_scheduling,
        "enable-chunked-prefill": scheduler.enable_chunked_prefill,
        "scheduler-reserve-full-isl": scheduler.scheduler_reserve_full_isl,
    }
    yield from (f"--{name}" if is_on else f"--no-{name}" for name, is_on in switches.items())
    yield "--enable-prompt-tokens-details"


def served_model(server: ServerSection) -> str:
    """The name under which a server serves its model."""
    return _live(server).served_model or server.model


def expected_of(server: ServerSection) -> Expected:
    """What a server must be."""
    scheduler = server.scheduler
    return Expected(
        version=SEMANTICS[server.semantics],
        honours_priority=scheduler.policy == "priority",
        data_parallel_size=server.data_parallel_size,
        max_num_seqs=scheduler.max_num_seqs,
        max_model_len=scheduler.max_model_len,
        num_blocks=scheduler.num_blocks,
        block_size=scheduler.block_size,
        enable_prefix_caching=scheduler.enable_prefix_caching,
    )


@contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM is as Ctrl-C: what was started is stopped."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def live_pool(
    pool: PoolSection,
    base: Path,
    logs: Path,
    *,
    vllm_python: Path | None = None,
    urls: Mapping[str, str] | None = None,
) -> Iterator[RunningPool]:
    """A pool whose servers all run; those that do not run yet are started, and stopped again.

    Parameters
    ----------
    urls
        Of servers that run, by name, instead of what the pool file says of them.

    Raises
    ------
    ConfigError
        Servers without a ``[live]`` section, or an unknown name in ``urls``.
    LaunchError
        A server could not be started.
    """
    urls = dict(urls or {})
    names = [server.name for server in pool.servers]
    problems = [f"{name}: no such server in the pool{did_you_mean(name, names)}" for name in urls if name not in names]
    problems += [
        f"{server.name}: has no [servers.live] section; it says where the server runs, or how to start it"
        for server in pool.servers
        if server.live is None and server.name not in urls
    ]
    if problems:
        raise ConfigError("live pool", problems)
    to_start = [
        launch_of(server, base, vllm_python)
        for server in pool.servers
        if server.name not in urls and _live(server).url is None
    ]
    with (
        progress("starting servers", len(to_start)) as on_progress,
        running_pool(to_start, logs, on_progress=lambda num, _: on_progress(num)) as started,
    ):
        found = urls | {name: vllm.url for name, vllm in started.items()}
        endpoints = [
            Endpoint(
                found.get(server.name) or str(_live(server).url),
                served_model(server),
                os.environ.get(_live(server).api_key_env),
            )
            for server in pool.servers
        ]
        yield RunningPool(endpoints, started)


def check_endpoints(pool: PoolSection, endpoints: Sequence[Endpoint]) -> list[Checked]:
    """What the servers are.

    Raises
    ------
    ConfigError
        With a line for each mismatch between a server and the pool file.
    """
    checked = asyncio.run(_checked(pool, endpoints))
    problems = [
        f"{server.name}: {problem}"
        for server, found in zip(pool.servers, checked, strict=True)
        for problem in found.problems
    ]
    if problems:
        raise ConfigError("live pool", problems)
    for server, found in zip(pool.servers, checked, strict=True):
        for note in found.notes:
            print(f"note: {server.name}: {note}", file=sys.stderr)
    return checked


async def _checked(pool: PoolSection, endpoints: Sequence[Endpoint]) -> list[Checked]:
    async with _clients(endpoints) as clients:
        return await check_pool(
            clients,
            [endpoint.model for endpoint in endpoints],
            [expected_of(server) for server in pool.servers],
        )


def await_idle(endpoints: Sequence[Endpoint]) -> None:
    """Return when no server does anything any more, or say on stderr which goes on for too long.

    Raises
    ------
    ServerError
        A server does not answer.
    """
    for endpoint, is_idle in zip(endpoints, asyncio.run(_idle(endpoints)), strict=True):
        if not is_idle:
            print(f"note: {endpoint.url}: is still busy before the next run", file=sys.stderr)


async def _idle(endpoints: Sequence[Endpoint]) -> list[bool]:
    async with _clients(endpoints) as clients:
        return await asyncio.gather(*map(wait_until_idle, clients))


@asynccontextmanager
async def _clients(endpoints: Sequence[Endpoint]) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Client(each.url, api_key=each.api_key)) for each in endpoints]


def with_policy(pool: PoolSection, policy: str) -> PoolSection:
    """The pool with another scheduling policy of all servers."""
    return PoolSection(
        servers=tuple(
            server.model_copy(update={"scheduler": server.scheduler.model_copy(update={"policy": policy})})
            for server in pool.servers
        )
    )


def read_urls(path: Path) -> dict[str, str]:
    """What ``inframind live up`` has written: the URL of each server, by name.

    Raises
    ------
    ConfigError
        It is not such a file.
    """
    try:
        urls = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {error.strerror}; does `inframind live up` run?"]) from None
    except ValueError as error:
        raise ConfigError(path, [f"not valid TOML: {error}"]) from None
    if wrong := [f"{name}: must be a URL, got {url!r}" for name, url in urls.items() if not isinstance(url, str)]:
        raise ConfigError(path, wrong)
    return urls


def _live(server: ServerSection) -> LiveSection:
    """Its section; that of a server known by its URL alone if it has none."""
    return server.live or LiveSection(url="given")
