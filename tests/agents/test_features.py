"""What networks read is what rules read."""

from pathlib import Path

import numpy as np
import pytest
from agent_world import SERVERS, Expected, look
from scipy.special import ndtr

from inframind.agents import Knowledge
from inframind.agents.features import ACTION_FEATURES, SERVER_FEATURES, FeatureBuilder
from inframind.sim import load_pool
from inframind.sim.outcomes import OutcomeModel
from inframind.workflows import Context, Observation, Query, ServerInfo, ServerTable, observe

OUTCOMES = OutcomeModel.shipped(1)
POOL = [server.options() for server in load_pool("h200", Path()).servers]


def busy(seed: int, *, dead_reckoning: bool) -> Observation:
    """Own calls and those of others on every server, gauges that are right or not, and a call somewhere among them."""
    rng = np.random.default_rng(seed)
    table = ServerTable([ServerInfo(each.name, each.model, each.scheduler.max_num_seqs) for each in POOL])
    for server, options in enumerate(POOL):
        slots = options.scheduler.max_num_seqs
        for priority in rng.integers(0, 100, rng.integers(0, 3 * slots)):
            table.submitted(server, int(priority))
        table.polled(1.0, server, int(rng.integers(0, 2 * slots)), int(rng.integers(0, slots + 1)), 0.5)
        for priority in rng.integers(0, 100, rng.integers(0, 3)):
            table.submitted(server, int(priority))
    query = Query("q", "math", int(rng.integers(100)), 80, 50.0, embedding=3)
    context = Context(OUTCOMES.bank.embedding, None, dead_reckoning=dead_reckoning)
    return observe(2.0, 0.0, query, table, context, priority=int(rng.integers(100)))


@pytest.mark.parametrize("dead_reckoning", [True, False])
def test_load_and_latencies_are_the_observations(dead_reckoning: bool) -> None:
    knowledge = Knowledge(POOL, OUTCOMES, 2048)
    observations = [busy(seed, dead_reckoning=dead_reckoning) for seed in range(20)]
    features = FeatureBuilder(knowledge).build(observations)
    load, before = (features.servers[:, :, SERVER_FEATURES.index(name)] for name in ("load", "before"))

    for row, seen in enumerate(observations):
        assert features.latency_s[row] == pytest.approx(knowledge.latency_s(seen), rel=1e-5)
        for server, options in enumerate(POOL):
            slots = options.scheduler.max_num_seqs
            assert load[row, server] == pytest.approx(min(seen.outstanding(server) / slots, 8) / 2)
            assert before[row, server] == pytest.approx(min(seen.before(server) / slots, 8) / 2)


@pytest.mark.parametrize(("others", "budget_s"), [(0, 0.5), (3, 0.5 + 3.1 / 3)])
def test_a_right_answer_may_be_shorter_than_answers_are(others: int, budget_s: float) -> None:
    """At 10 ms a token half a second, waiting aside, is time for 50: the median of right answers with Concise, half of
    that with DeepThink, five times that with Flash."""
    seen = look(budget_s, outstanding=(others, 0))

    features = FeatureBuilder(Knowledge(SERVERS, Expected(), 2048), with_embedding=False).build([seen])

    in_time, good = (features.actions[0, 0, :, ACTION_FEATURES.index(name)] for name in ("in_time", "good"))
    assert in_time == pytest.approx([1.0, 0.5, ndtr(np.log(0.5) / 1.0)], abs=1e-6)
    assert good == pytest.approx([0.4, 0.5 * 0.5, 0.6 * ndtr(np.log(0.5) / 1.0)], abs=1e-6)
