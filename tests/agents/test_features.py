"""What networks read is what rules read."""

from pathlib import Path

import numpy as np
import pytest

from inframind.agents import Knowledge
from inframind.agents.features import SERVER_FEATURES, FeatureBuilder
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
