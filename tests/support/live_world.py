"""Fake servers under the real client, and what runs on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from zlib import crc32

from fake_vllm import Behaviour, FakeVllm
from policies import FixedPlan, JoinShortestQueue

from inframind.live import Endpoint, ExactLengths, ReplayOptions, RunView, replay_live, run_tables
from inframind.live.run_tables import RunTables
from inframind.workflows import (
    Arrived,
    Controller,
    ControllerOptions,
    ExecutorPolicy,
    PlannerPolicy,
    Query,
    ServerInfo,
    Submit,
    replay,
)

INFOS = [ServerInfo("s0", "m0", 4), ServerInfo("s1", "m1", 4)]


def arrive(t: float, name: str, budget_s: float = 30.0) -> Arrived:
    return Arrived(t, Query(name, "math", crc32(name.encode()) % 1000, 20, budget_s))


def every(gap_s: float, num: int, budget_s: float = 30.0) -> list[Arrived]:
    return [arrive(gap_s * number, f"q{number}", budget_s) for number in range(num)]


def ten_tokens(submit: Submit) -> int:
    return 10


@contextmanager
def fake_pool(*behaviours: Behaviour) -> Iterator[list[FakeVllm]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FakeVllm(behaviour)) for behaviour in behaviours]


def controller(
    planner: PlannerPolicy | None = None,
    executor: ExecutorPolicy | None = None,
    options: ControllerOptions | None = None,
    infos: Sequence[ServerInfo] = INFOS,
) -> Controller:
    options = options or ControllerOptions(retry_wait_s=0.2)
    return Controller(infos, planner or FixedPlan(), executor or JoinShortestQueue(), options)


def ignore(view: RunView) -> None:
    """Progress."""


def replay_on(
    urls: Sequence[str],
    arrivals: Sequence[Arrived],
    folder: Path,
    core: Controller,
    on_progress: Callable[[RunView], None] = ignore,
    *,
    max_open: int = 900,
) -> bool:
    endpoints = [Endpoint(url, f"m{index}") for index, url in enumerate(urls)]
    exact = ExactLengths(ten_tokens, salt=1)
    options = ReplayOptions(poll_s=0.1, max_open=max_open)
    return replay_live(core, endpoints, arrivals, exact, folder, options=options, on_progress=on_progress)


def run_on(
    servers: Sequence[FakeVllm], arrivals: Sequence[Arrived], folder: Path, core: Controller | None = None
) -> RunTables:
    """Replay, then read the logs; the log must repeat every decision."""
    folder.mkdir(exist_ok=True)
    replay_on([server.url for server in servers], arrivals, folder, core or controller())
    planner, executor = (core.planner, core.executor) if core else (FixedPlan(), JoinShortestQueue())
    again = replay((folder / "events.jsonl").read_text().splitlines(), planner, executor)
    assert again.difference is None
    return run_tables(folder, INFOS)
