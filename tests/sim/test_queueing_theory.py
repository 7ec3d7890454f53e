"""The server as a queue with known answers: steps of constant cost, ``max_num_seqs`` of 1 or c.

A request with n output tokens takes n steps, its prefill included, so service times are n step costs. With outputs
from a geometric distribution they are all but exponential (the step is 1/100 of the mean), and the exact moments are
used where a formula takes them. Little's law is checked by `World.run` in every run, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_world import World, options

from inframind.sim import Request, SchedulerOptions, to_seconds

MEAN_TOKENS = 100
STEP_S = 1.0
MEAN_SERVICE_S = MEAN_TOKENS * STEP_S
NUM_CALLS = 40_000
WARM_UP = 2_000


@dataclass(frozen=True)
class Queue:
    waits_s: NDArray[np.float64]
    """From arrival to the first step, in order of arrival, after warm-up."""
    sojourns_s: NDArray[np.float64]
    priorities: NDArray[np.int64]


def serve(
    rate: float,
    outputs: NDArray[np.int64],
    *,
    servers: int = 1,
    priorities: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Queue:
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, NUM_CALLS))
    policy = "fcfs" if priorities is None else "priority"
    ranks = np.zeros(NUM_CALLS, dtype=np.int64) if priorities is None else priorities
    scheduler = SchedulerOptions(
        policy=policy,
        max_num_seqs=servers,
        num_blocks=1_000_000,
        async_scheduling=False,
        max_model_len=100_000,
    )
    world = World(options(scheduler))
    requests = [
        Request(str(i), 0, 1, int(output), priority=int(rank))
        for i, (output, rank) in enumerate(zip(outputs, ranks, strict=True))
    ]
    world.send_all(zip(arrivals, requests, strict=True))
    world.run()
    arrived = np.array([to_seconds(int(r.arrival)) for r in requests])
    started = np.array([to_seconds(r.scheduled_at or 0) for r in requests])
    ended = np.array([to_seconds(r.finished_at or 0) for r in requests])
    return Queue(
        waits_s=(started - arrived)[WARM_UP:],
        sojourns_s=(ended - arrived)[WARM_UP:],
        priorities=ranks[WARM_UP:],
    )


def geometric_outputs(seed: int = 1) -> NDArray[np.int64]:
    return np.random.default_rng(seed).geometric(1 / MEAN_TOKENS, NUM_CALLS)


def check(measured: NDArray[np.float64], expected: float, *, bias: float = 0.0) -> None:
    """The mean agrees with theory to 4 standard errors, estimated from 20 batches because waits are correlated."""
    batches = np.array([batch.mean() for batch in np.array_split(measured, 20)])
    error = batches.std(ddof=1) / np.sqrt(len(batches))

    assert error < 0.2 * expected, "too few calls for a test that could fail"
    assert abs(measured.mean() - expected) < 4 * error + bias


def pollaczek_khinchine(rate: float, mean: float, second_moment: float) -> float:
    """Mean wait of M/G/1."""
    return rate * second_moment / (2 * (1 - rate * mean))


GEOMETRIC_SECOND_MOMENT = MEAN_SERVICE_S * (2 * MEAN_TOKENS - 1) * STEP_S


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_mm1(load: float) -> None:
    """The wait of M/M/1, and its sojourn time 1 / (mu - lambda)."""
    rate = load / MEAN_SERVICE_S
    queue = serve(rate, geometric_outputs())

    check(queue.waits_s, pollaczek_khinchine(rate, MEAN_SERVICE_S, GEOMETRIC_SECOND_MOMENT))
    check(queue.sojourns_s, 1 / (1 / MEAN_SERVICE_S - rate), bias=STEP_S)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_md1(load: float) -> None:
    """Constant outputs: half the wait of M/M/1."""
    rate = load / MEAN_SERVICE_S
    queue = serve(rate, np.full(NUM_CALLS, MEAN_TOKENS))

    check(queue.waits_s, pollaczek_khinchine(rate, MEAN_SERVICE_S, MEAN_SERVICE_S**2))


def test_mmc() -> None:
    """Four slots: Erlang C. A request that comes to a busy server waits for the end of the step, up to one step."""
    slots = 4
    offered = 0.75 * slots
    rate = offered / MEAN_SERVICE_S
    queue = serve(rate, geometric_outputs(), servers=slots)
    tail = offered**slots / factorial(slots) / (1 - offered / slots)
    wait_probability = tail / (sum(offered**k / factorial(k) for k in range(slots)) + tail)

    check(queue.waits_s, wait_probability * MEAN_SERVICE_S / (slots - offered), bias=STEP_S)


def test_non_preemptive_priority_mm1() -> None:
    """Two classes at one slot: Cobham's formula; the urgent one hardly waits."""
    load = 0.8
    rate = load / MEAN_SERVICE_S
    priorities = np.random.default_rng(2).integers(0, 2, NUM_CALLS)
    queue = serve(rate, geometric_outputs(), priorities=priorities)
    residual = rate * GEOMETRIC_SECOND_MOMENT / 2
    urgent = residual / (1 - load / 2)

    check(queue.waits_s[queue.priorities == 0], urgent)
    check(queue.waits_s[queue.priorities == 1], urgent / (1 - load))
