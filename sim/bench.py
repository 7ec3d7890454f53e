"""How fast and how big: the simulator against bare SimPy, in one process on one core."""

import gc
import resource
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import pandas as pd
import simpy

from inframind.traces import LogNormal, Poisson, SyntheticWorkload, Uniform, build_requests
from inframind.workflows import edf_priority

from .server import ServerOptions
from .server_file import load_pool
from .simulate import simulate_calls

CALLS_PER_S = 15.0
MAX_NUM_SEQS = 64
MAX_NUM_BATCHED_TOKENS = 2048
PROMPT_TOKENS = Uniform(low=50, high=600)
OUTPUT_MEAN_TOKENS = 200
OUTPUT_MAX_TOKENS = 1500
BUDGETS_S = (10.0, 50.0, 200.0)

Policy = Literal["fcfs", "priority"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One workload, several times, each time beside bare SimPy."""

    name: str
    num_calls: int
    calls_per_s: float
    """Simulated LLM calls per second of the machine's time, everything recorded (median)."""
    simulated_s_per_s: float
    simpy_timeouts_per_s: float
    """Bare SimPy, right before and after each run (median), see `simpy_timeouts_per_s`."""
    timeouts_per_call: float
    """Median over the runs of (timeouts per second) / (calls per second): the cost of one call."""
    timeouts_per_call_range: tuple[float, float]
    mean_running: float
    """Requests running on a server, averaged over servers and time."""


def simpy_timeouts_per_s(num: int, num_processes: int = 5) -> float:
    """Bare SimPy: processes that do nothing but wait again and again, as many as the workload has servers."""
    env = simpy.Environment()

    def wait(delay: float) -> Generator[simpy.Event]:
        while True:
            yield env.timeout(delay)

    for index in range(num_processes):
        env.process(wait(1.0 + 0.001 * index))
    start = time.perf_counter()
    env.run(until=num / num_processes)
    return num / (time.perf_counter() - start)


def bench_pool(
    policy: Policy = "fcfs", *, max_num_seqs: int = MAX_NUM_SEQS, async_scheduling: bool = True
) -> list[ServerOptions]:
    """The five shipped servers with the benchmark's limits."""
    pool = load_pool("h200", Path())
    options = [server.options(policy=policy) for server in pool.servers]
    return [
        replace(
            server,
            scheduler=replace(
                server.scheduler,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
                async_scheduling=async_scheduling,
            ),
        )
        for server in options
    ]


def bench_requests(
    num_calls: int, *, calls_per_s: float = CALLS_PER_S, output_scale: float = 1.0, seed: int = 0
) -> pd.DataFrame:
    """The fixed workload: Poisson arrivals, uniform prompts, lognormal outputs, deadlines as priorities."""
    workload = SyntheticWorkload(
        kind="synthetic",
        arrivals=Poisson(kind="poisson", rate_per_min=60 * calls_per_s),
        num=num_calls,
        prompt_tokens=PROMPT_TOKENS,
        output_tokens=LogNormal(
            kind="lognormal",
            mean=OUTPUT_MEAN_TOKENS * output_scale,
            sigma=0.8,
            max=round(OUTPUT_MAX_TOKENS * output_scale),
        ),
    )
    requests = build_requests(workload, None, seed, Path())
    budgets = np.random.default_rng(seed).choice(BUDGETS_S, num_calls)
    requests["priority"] = [edf_priority(t) for t in requests["arrival_s"] + budgets]
    return requests


def measure(
    name: str,
    servers: list[ServerOptions],
    requests: pd.DataFrame,
    *,
    repeats: int = 3,
    sample_s: float = 1.0,
    on_repeat: Callable[[], None] | None = None,
) -> Measurement:
    """Run a workload ``repeats`` times, calls spread evenly over the servers, gauges read every ``sample_s``."""
    server_index = np.random.default_rng(1).integers(0, len(servers), len(requests))
    num_timeouts = 20 * len(requests)
    calls_per_s, timeouts_per_s, ratios, sim_s_per_s, running = [], [], [], [], 0.0
    for _ in range(repeats):
        gc.collect()
        before = simpy_timeouts_per_s(num_timeouts)
        start = time.perf_counter()
        run = simulate_calls(servers, requests, server_index=server_index, sample_s=sample_s)
        wall_s = time.perf_counter() - start
        timeouts = (before + simpy_timeouts_per_s(num_timeouts)) / 2
        calls_per_s.append(len(requests) / wall_s)
        timeouts_per_s.append(timeouts)
        ratios.append(timeouts * wall_s / len(requests))
        sim_s_per_s.append(float(run.calls["finish_s"].max()) / wall_s)
        running = float(run.samples["running"].mean())
        if on_repeat is not None:
            on_repeat()
    return Measurement(
        name,
        len(requests),
        median(calls_per_s),
        median(sim_s_per_s),
        median(timeouts_per_s),
        median(ratios),
        (min(ratios), max(ratios)),
        running,
    )


def bench_sim(num_calls: int, repeats: int, on_progress: Callable[[float], None] | None = None) -> dict[str, object]:
    """All of it, as ``inframind bench sim --json`` prints it.

    The fixed workload under both policies and both engines; then what one call costs with outputs four times as
    long, in a run four times as long, and with larger batches.
    """
    done = 0

    def on_repeat() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done / (8 * repeats))

    def run(name: str, servers: list[ServerOptions], requests: pd.DataFrame, sample_s: float = 1.0) -> Measurement:
        return measure(name, servers, requests, repeats=repeats, sample_s=sample_s, on_repeat=on_repeat)

    requests = bench_requests(num_calls)
    fixed = [
        run(f"{policy}, {'async' if is_async else 'sync'}", bench_pool(policy, async_scheduling=is_async), requests)
        for policy in ("fcfs", "priority")
        for is_async in (False, True)
    ]
    # The same number of requests runs at a time: outputs four times as long at a quarter of the rate. The run is then
    # four times as long too; the gauges are read as often in all.
    long_outputs = run(
        "fcfs, async, outputs x4",
        bench_pool(),
        bench_requests(num_calls, calls_per_s=CALLS_PER_S / 4, output_scale=4.0),
        sample_s=4.0,
    )
    long_run = run("fcfs, async, calls x4", bench_pool(), bench_requests(4 * num_calls))
    batches = [
        run(
            f"fcfs, async, rate x{factor}",
            bench_pool(max_num_seqs=256),
            bench_requests(num_calls, calls_per_s=CALLS_PER_S * factor),
        )
        for factor in (2, 3)
    ]
    base = fixed[1]
    return {
        "workload": {
            "servers": 5,
            "max_num_seqs": MAX_NUM_SEQS,
            "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS,
            "prompt_tokens": [PROMPT_TOKENS.low, PROMPT_TOKENS.high],
            "output_tokens_mean": OUTPUT_MEAN_TOKENS,
            "output_tokens_max": OUTPUT_MAX_TOKENS,
            "calls_per_s": CALLS_PER_S,
        },
        "measurements": [asdict(m) for m in [*fixed, long_outputs, long_run, *batches]],
        "time_per_call_ratio": {
            "outputs_x4": long_outputs.timeouts_per_call / base.timeouts_per_call,
            "calls_x4": long_run.timeouts_per_call / base.timeouts_per_call,
            **{
                f"running_x{m.mean_running / base.mean_running:.1f}": m.timeouts_per_call / base.timeouts_per_call
                for m in batches
            },
        },
        "peak_memory_mib": peak_memory_mib(),
    }


def peak_memory_mib() -> float:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
