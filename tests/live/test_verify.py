"""The scheduler and the balancer against those of a real vLLM: ``make test-live`` installs one."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inframind.cli import main
from inframind.sim import Request
from inframind.sim.balancer import PUBLISHED_EVERY, Balancer

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
COUNT = 24
"""Three times the eight kinds: both policies, both engines, caching on and off."""


@pytest.fixture
def vllm_python() -> str:
    """The interpreter that has vLLM. On CI its absence is a failure, not a reason to skip."""
    command = [str(PYTHON), "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"]
    if not PYTHON.exists() or subprocess.run(command, check=False).returncode != 0:
        reason = f"no vLLM in {PYTHON.parents[1].name}; make test-live installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return str(PYTHON)


@pytest.mark.live
@pytest.mark.timeout(900)
def test_fresh_workloads_are_scheduled_as_vllm_does(vllm_python: str, capsys: pytest.CaptureFixture[str]) -> None:
    """24 random workloads that are in no recording: no step and no finish time differs."""
    assert (
        main(["sim", "verify", "--vllm-python", vllm_python, "--count", f"{COUNT}", "--seed", "900000", "--json"]) == 0
    )

    answer = json.loads(capsys.readouterr().out)
    assert answer["differences"] == []
    assert answer["workloads"] == COUNT
    assert answer["covered"] == {"priority": 12, "async_scheduling": 12, "prefix_caching": 12}
    assert answer["vllm_version"].startswith("0.32")
    assert answer["preemptions"] > 0


ROUTE = """
import json, sys
from collections import Counter
from types import SimpleNamespace
from vllm.v1.engine.core_client import DPLBAsyncMPClient

def chosen(num_engines, events):
    client = object.__new__(DPLBAsyncMPClient)
    client.client_count, client.eng_start_index = 1, 0
    client.reqs_in_flight, client.engine_inflight = {}, Counter()
    client.core_engines = list(range(num_engines))
    client.lb_engines = [[0, 0, 0.0] for _ in client.core_engines]
    for number, (kind, value) in enumerate(events):
        if kind == "published":
            client.lb_engines = [list(counts) for counts in value]
        elif kind == "ended":
            client.engine_inflight[value] -= 1
        else:
            request = SimpleNamespace(request_id=str(number), data_parallel_rank=None, pooling_params=None)
            yield client.get_core_engine_for_request(request)

print(json.dumps([list(chosen(*case)) for case in json.load(sys.stdin)]))
"""
"""vLLM's choices for the cases that it reads."""
Case = tuple[int, list[tuple[str, Any]]]
"""Engines, and what happens."""


def ours(seed: int) -> tuple[Case, list[int]]:
    """A random sequence of requests, ends and published counts, and where our balancer sends the requests."""
    random = np.random.default_rng(seed)
    num_engines = int(random.integers(2, 5))
    balancer = Balancer(num_engines)
    ended = balancer.told_of(lambda request: None)
    events: list[tuple[str, Any]] = []
    chosen: list[int] = []
    open_on: list[int] = []
    now = 0
    told = [(0, 0, 0.0)] * num_engines
    for kind in random.choice(["sent", "ended", "published"], 300, p=[0.6, 0.25, 0.15]):
        if kind == "sent":
            chosen.append(balancer.choose(now))
            open_on.append(chosen[-1])
            events.append((kind, None))
        elif kind == "ended" and open_on:
            request = Request("r", 0, 1, 1)
            request.data_parallel_rank = open_on.pop(int(random.integers(len(open_on))))
            ended(request)
            events.append((kind, request.data_parallel_rank))
        elif kind == "published":
            # Usage is told with other counts only, so none may stay the same.
            told = [
                ((waiting + int(random.integers(1, 6))) % 9, int(random.integers(0, 30)), float(random.random()))
                for waiting, _, _ in told
            ]
            for engine, counts in enumerate(told):
                balancer.tell(engine, now, *counts)
            now += PUBLISHED_EVERY
            events.append((kind, told))
    return (num_engines, events), chosen


@pytest.mark.live
@pytest.mark.timeout(300)
def test_requests_go_to_the_engines_that_vllm_sends_them_to(vllm_python: str) -> None:
    """Fifty random sequences, in vLLM's own `DPLBAsyncMPClient`."""
    cases, expected = zip(*(ours(seed) for seed in range(50)), strict=True)

    answer = subprocess.run(
        [vllm_python, "-c", ROUTE], input=json.dumps(cases), capture_output=True, text=True, check=True
    )

    assert json.loads(answer.stdout.splitlines()[-1]) == list(expected)
