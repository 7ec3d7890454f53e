"""What a policy sees, with every number by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inframind.traces import ConfigError
from inframind.workflows import (
    SERVER_FEATURES,
    STRATEGIES,
    Context,
    Observation,
    Query,
    ServerInfo,
    ServerTable,
    build_workflow,
    observe,
)

QUERY = Query("q", "math", 1, 20, 50.0, embedding=2)
EMBEDDINGS = np.arange(12, dtype=np.float32).reshape(3, 4)


class Latencies:
    """Predictors that say what they were asked: ten times the running, plus the waiting, plus the strategy's place."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def latency_map(
        self, prompt_tokens: int, running: Sequence[int], waiting: Sequence[int], embedding: NDArray[np.float32] | None
    ) -> NDArray[np.float64]:
        self.asked.append((prompt_tokens, list(running), list(waiting), embedding))
        per_server = 10.0 * np.array(running) + np.array(waiting)
        return per_server[:, None] + np.arange(len(STRATEGIES))


def table(num: int = 2) -> ServerTable:
    return ServerTable([ServerInfo(f"s{index}", "model", 8) for index in range(num)])


def look(servers: ServerTable, context: Context | None = None, t: float = 12.0) -> Observation:
    return observe(t, 10.0, QUERY, servers, context or Context(None, None, dead_reckoning=True), 0)


def test_dead_reckoning_adds_own_calls_since_the_poll() -> None:
    """Polled 3 + 8 at 11; then two sent and one ended: 12, and as some had to wait, 8 run."""
    servers = table()
    servers.submitted(0, 0)
    servers.polled(11.0, 0, 3, 8, 0.5)
    servers.submitted(0, 0)
    servers.submitted(0, 0)
    servers.ended(0, 0)
    seen = look(servers)

    assert (seen.in_flight, seen.since_poll) == ((2, 0), (1, 0))
    assert (seen.outstanding(0), seen.running_now(0), seen.waiting_now(0)) == (12, 8, 4)
    assert (seen.outstanding(1), seen.running_now(1), seen.waiting_now(1)) == (0, 0, 0)


def test_a_call_overtakes_those_that_wait_with_later_deadlines() -> None:
    """8 run, 5 wait, all of them own calls; 3 of the 13 are due before this one, so it waits for a slot and no call."""
    servers = table()
    for priority in (10, 20, 30, *range(100, 110)):
        servers.submitted(0, priority)
    servers.polled(11.0, 0, 5, 8, 0.5)

    def before(priority: int) -> tuple[tuple[int, ...], int]:
        seen = observe(12.0, 10.0, QUERY, servers, Context(None, None, dead_reckoning=True), priority=priority)
        return seen.ahead, seen.before(0)

    assert before(30) == ((3, 0), 8)
    assert before(108) == ((12, 0), 12)
    assert before(200) == ((13, 0), 13)
    servers.ended(0, 20)
    assert before(30) == ((2, 0), 8)
    assert before(200) == ((12, 0), 12)


def test_requests_of_others_go_first() -> None:
    """Nothing is known of their deadlines: 12 are there, 4 of them own, all due after this one."""
    servers = table()
    for _ in range(4):
        servers.submitted(0, 100)
    servers.polled(11.0, 0, 4, 8, 0.5)

    seen = observe(12.0, 10.0, QUERY, servers, Context(None, None, dead_reckoning=True), priority=50)

    assert (seen.outstanding(0), seen.before(0)) == (12, 8)
    for _ in range(6):
        servers.submitted(0, 100)
    seen = observe(12.0, 10.0, QUERY, servers, Context(None, None, dead_reckoning=True), priority=50)
    assert (seen.outstanding(0), seen.before(0)) == (18, 8)


def test_without_priorities_all_are_before() -> None:
    """And where a policy is not told of own calls, it takes all that was polled to be."""
    servers = table()
    for _ in range(13):
        servers.submitted(0, 0)
    servers.polled(11.0, 0, 5, 8, 0.5)

    told, polled = (
        observe(12.0, 10.0, QUERY, servers, Context(None, None, dead_reckoning=each), priority=0)
        for each in (True, False)
    )

    assert (told.ahead, told.before(0)) == ((13, 0), 13)
    assert (polled.ahead, polled.before(0)) == ((0, 0), 13)


def test_own_calls_fill_the_batch_before_they_wait() -> None:
    servers = table()
    servers.polled(11.0, 0, 0, 6, 0.1)
    for _ in range(3):
        servers.submitted(0, 0)
    seen = look(servers)

    assert (seen.outstanding(0), seen.running_now(0), seen.waiting_now(0)) == (9, 8, 1)


def test_where_some_waited_beside_a_small_batch_the_cache_was_full() -> None:
    """5 of 8 ran while 4 waited: the next ones wait too."""
    servers = table()
    servers.polled(11.0, 0, 4, 5, 0.98)
    servers.submitted(0, 0)

    assert (look(servers).running_now(0), look(servers).waiting_now(0)) == (5, 5)


def test_a_poll_that_missed_own_calls_does_not_hide_them() -> None:
    """A live poll may have been read before a call reached the server: own calls in flight are there all the same."""
    servers = table()
    servers.submitted(0, 0)
    servers.submitted(0, 0)
    servers.polled(11.0, 0, 0, 0, 0.0)
    assert look(servers).outstanding(0) == 2

    servers.ended(0, 0)
    servers.ended(0, 0)
    assert look(servers).outstanding(0) == 0


def test_without_dead_reckoning_only_polls_count() -> None:
    servers = table()
    servers.polled(11.0, 0, 0, 3, 0.1)
    servers.submitted(0, 0)
    seen = look(servers, Context(None, None, dead_reckoning=False))

    assert (seen.in_flight, seen.since_poll, seen.outstanding(0)) == ((0, 0), (0, 0), 3)


def test_server_features() -> None:
    servers = table()
    servers.polled(11.5, 1, 3, 8, 0.25)
    servers.submitted(1, 0)
    servers.is_open[0] = False
    features = look(servers).server_features

    polled = ("is_open", "waiting", "running", "kv_usage", "poll_age_s")
    assert (*polled, "in_flight", "since_poll", "ahead") == SERVER_FEATURES
    np.testing.assert_array_equal(features, [[0, 0, 0, 0, 12.0, 0, 0, 0], [1, 3, 8, 0.25, 0.5, 1, 1, 1]])


def test_a_snapshot_stays_as_it_was() -> None:
    servers = table()
    seen = look(servers)
    before = seen.server_features
    servers.submitted(0, 0)
    servers.polled(12.0, 1, 3, 8, 0.25)

    np.testing.assert_array_equal(seen.server_features, before)


def test_the_latency_map_is_asked_for_once_and_only_when_read() -> None:
    latency = Latencies()
    servers = table()
    servers.polled(11.0, 1, 2, 4, 0.1)
    seen = look(servers, Context(EMBEDDINGS, latency, dead_reckoning=True))
    assert latency.asked == []

    np.testing.assert_array_equal(seen.latency_map, [[0, 1, 2], [42, 43, 44]])
    assert seen.latency_map is seen.latency_map
    ((prompt_tokens, running, waiting, embedding),) = latency.asked
    assert (prompt_tokens, running, waiting) == (20, [0, 4], [0, 2])
    np.testing.assert_array_equal(embedding, EMBEDDINGS[2])


def test_without_predictors_there_is_no_latency_map() -> None:
    assert look(table()).latency_map is None


def test_the_embedding_is_the_row_that_the_query_names() -> None:
    seen = look(table(), Context(EMBEDDINGS, None, dead_reckoning=True))

    np.testing.assert_array_equal(seen.query_embedding, [8, 9, 10, 11])
    with pytest.raises(ConfigError, match=r"query q: 1 problem.*\n  has no embedding, and the policy reads it"):
        _ = look(table()).query_embedding


def test_planner_and_executor_see_the_same_kind_of_thing() -> None:
    workflow = build_workflow("math", "IO", "MathSolver")
    context = Context(None, None, dead_reckoning=True)
    planners = look(table())
    executors = observe(
        12.0, 10.0, QUERY, table(), context, 0, workflow=workflow, node=workflow.nodes[0], prompt_tokens=77
    )

    assert (planners.role, planners.prompt_tokens, planners.budget_s, planners.remaining_s) == (None, 20, 50.0, 48.0)
    assert (executors.role, executors.prompt_tokens) == ("MathSolver", 77)
