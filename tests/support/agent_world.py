"""A pool of two servers on which policies decide, and evaluations small enough to compute by hand."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from policies import FixedOutcomes

from inframind.agents import Cell, CellResult, Knowledge, Setting
from inframind.agents.features import ACTION_FEATURES, CONTEXT_SIZE, PLANNER_ROLE, SERVER_FEATURES, Features
from inframind.sim import SchedulerOptions, ServerOptions, StepTime
from inframind.workflows import (
    STRATEGIES,
    Context,
    Observation,
    Query,
    ServerInfo,
    ServerTable,
    build_workflow,
    observe,
)

SMALL, LARGE = 0, 1


def server(name: str, fixed_s: float) -> ServerOptions:
    scheduler = SchedulerOptions(max_num_seqs=2, num_blocks=1000, max_model_len=4000, async_scheduling=False)
    return ServerOptions(name, name, scheduler, StepTime(fixed_s=fixed_s, prefill_token_s=0.0, decode_s=0.0))


SERVERS = (server("small", 0.01), server("large", 0.1))
"""10 ms and 100 ms a token, however many run; two at a time."""


class Expected:
    """Flash, Concise, DeepThink: 10, 100 and 200 tokens, right ones 10, 50 and 100 by the median; the large model is
    better by 0.3."""

    models = ("large", "small")
    strategies = ("DeepThink", "Concise", "Flash")

    def expected_quality(self, domain: str, question: int, max_tokens: int = 0) -> NDArray[np.float64]:
        return np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]])

    def expected_tokens(self, domain: str, question: int, max_tokens: int = 0) -> NDArray[np.float64]:
        return np.array([[200.0, 100.0, 10.0]] * 2)

    def expected_right_log_tokens(self, domain: str, question: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.log([[100.0, 50.0, 10.0]] * 2), np.array([[1.0, 0.5, 0.1]] * 2)


def setting(outcomes: FixedOutcomes | None = None, seed: int = 0) -> Setting:
    knowledge = Knowledge(SERVERS, Expected(), 2048)
    return Setting(SERVERS, knowledge, outcomes or FixedOutcomes(), "single", "Concise", seed)


def look(
    budget_s: float = 50.0,
    *,
    outstanding: Sequence[int] = (0, 0),
    is_open: Sequence[bool] = (True, True),
    topology: str = "IO",
    role_set: str = "MathSolver",
    slot: int = 0,
    query_id: str = "q",
    question: int = 0,
) -> Observation:
    """What is seen when a query has just come."""
    table = ServerTable([ServerInfo(each.name, each.model, each.scheduler.max_num_seqs) for each in SERVERS])
    for index, num in enumerate(outstanding):
        table.polled(0.0, index, max(0, num - 2), min(num, 2), 0.0)
    workflow = build_workflow("math", topology, role_set)
    return observe(
        *(
            0.0,
            0.0,
            Query(query_id, "math", question, 20, budget_s),
            table,
            Context(None, None, dead_reckoning=True),
            0,
        ),
        workflow=workflow,
        node=workflow.nodes[slot],
        is_open=is_open,
    )


def result(cell: Cell, latency_s: Sequence[float], correct: Sequence[bool], budget_s: Sequence[float]) -> CellResult:
    """A cell whose queries each made one call of 100 tokens, given up after 50 s where no latency is known.

    The two servers were busy 0.6 and 0.2 of the time.
    """
    num = len(latency_s)
    workflows = pd.DataFrame(
        {
            "workflow_id": [f"q{index}" for index in range(num)],
            "domain": "math",
            "question": range(num),
            "arrival_s": np.arange(num, dtype=float),
            "budget_s": budget_s,
            "topology": "IO",
            "role_set": "MathSolver",
            "outcome": ["failed: call failed" if np.isnan(each) else "finished" for each in latency_s],
            "correct": correct,
            "latency_s": latency_s,
            "on_time": [each <= budget for each, budget in zip(latency_s, budget_s, strict=True)],
            "num_calls": 1,
            "tokens": 100,
            "path_s": [50.0 if np.isnan(each) else each for each in latency_s],
        }
    )
    return CellResult(
        cell,
        workflows,
        pd.DataFrame(
            {
                "server": ["small", "large"],
                "model": ["small", "large"],
                "utilisation": [0.6, 0.2],
                "running": [1.5, 0.5],
                "waiting": [3.0, 0.0],
            }
        ),
        pd.DataFrame({"server": ["small"], "strategy": ["Flash"], "num_calls": [num]}),
        pd.DataFrame({"time_s": [0.0, 1.0], "small": [0, 1], "large": [0, 0]}),
        1000.0,
    )


def features_of(num: int, num_servers: int, embedding_size: int, seed: int = 0) -> Features:
    """Of decisions that never were: every number drawn."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    seconds = rng.uniform(1, 100, (num, 2)).astype(np.float32)
    return Features(
        embedding=normal(num, embedding_size),
        context=normal(num, CONTEXT_SIZE),
        role=rng.integers(PLANNER_ROLE, size=num),
        servers=np.abs(normal(num, num_servers, len(SERVER_FEATURES))),
        actions=normal(num, num_servers, len(STRATEGIES), len(ACTION_FEATURES)),
        is_open=np.ones((num, num_servers), np.bool_),
        budget_s=seconds[:, 0],
        remaining_s=seconds[:, 1],
        latency_s=rng.uniform(1, 100, (num, num_servers, len(STRATEGIES))).astype(np.float32),
    )
