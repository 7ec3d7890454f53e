"""Trained policies as folders."""

from pathlib import Path

import numpy as np
import pytest

from inframind.agents import Knowledge
from inframind.agents.features import FEATURE_SIZES
from inframind.agents.networks import NetworkOptions, executor_network, planner_network
from inframind.agents.trained import PolicyRecord, load_policy, save_policy
from inframind.sim import load_pool
from inframind.sim.outcomes import OutcomeModel
from inframind.traces import ConfigError
from inframind.workflows import Context, Query, ServerInfo, ServerTable, build_workflow, observe

OUTCOMES = OutcomeModel.shipped()
SIZE = OUTCOMES.bank.embedding.shape[1]


def saved(folder: Path, kind: str = "set", fixed: str = "", query: int = 8) -> Path:
    options = NetworkOptions.model_validate({"kind": kind, "query": query})
    of_planner = NetworkOptions(query=query)
    planner = None if fixed else planner_network(of_planner, SIZE)
    record = PolicyRecord(
        name="x",
        planner=None if fixed else of_planner,
        fixed_planner=fixed,
        mask_infeasible=True,
        executor=options,
        embedding_size=SIZE,
        feature_sizes=FEATURE_SIZES,
        servers=tuple(server.model for server in POOL),
        training={},
    )
    save_policy(folder, record, planner, executor_network(options, SIZE, len(POOL)))
    return folder


POOL = [server.options() for server in load_pool("h200", Path()).servers]


def look(  # type: ignore[no-untyped-def]
    servers: list,  # type: ignore[type-arg]
    budget_s: float = 50.0,
    node: int | None = None,
    embedding: int | None = 3,
):
    table = ServerTable([ServerInfo(each.name, each.model, each.scheduler.max_num_seqs) for each in servers])
    workflow = build_workflow("math", "Chain", "MathSolver+Inspector")
    return observe(
        0.0,
        0.0,
        Query("q", "math", 3, 80, budget_s, embedding=embedding),
        table,
        Context(OUTCOMES.bank.embedding, None, dead_reckoning=True),
        0,
        workflow=None if node is None else workflow,
        node=None if node is None else workflow.nodes[node],
    )


def test_what_was_saved_decides_as_before(tmp_path: Path) -> None:
    folder = saved(tmp_path / "p")
    policies = [load_policy(folder, POOL, Knowledge(POOL, OUTCOMES, 2048)) for _ in range(2)]

    for budget_s in (5.0, 50.0, 500.0):
        plans = [policy.planner.plan(look(POOL, budget_s)) for policy in policies]
        choices = [policy.executor.choose(look(POOL, budget_s, node=1)) for policy in policies]
        assert plans[0] == plans[1]
        assert choices[0] == choices[1]


def test_a_policy_that_does_not_read_embeddings_needs_none(tmp_path: Path) -> None:
    knowledge = Knowledge(POOL, OUTCOMES, 2048)
    without = load_policy(saved(tmp_path / "without", query=0), POOL, knowledge)
    reading = load_policy(saved(tmp_path / "reading"), POOL, knowledge)

    assert without.executor.choose(look(POOL, node=0, embedding=None)) == without.executor.choose(look(POOL, node=0))
    with pytest.raises(ConfigError, match="has no embedding, and the policy reads it"):
        reading.executor.choose(look(POOL, node=0, embedding=None))


def test_a_set_policy_serves_a_pool_of_another_size(tmp_path: Path) -> None:
    folder = saved(tmp_path / "p")
    half = POOL[:2]

    policy = load_policy(folder, half, Knowledge(half, OUTCOMES, 2048))

    assert policy.executor.choose(look(half, node=0))[0] in (0, 1)


def test_a_flat_policy_refuses_another_pool(tmp_path: Path) -> None:
    folder = saved(tmp_path / "p", kind="flat", fixed="single")

    with pytest.raises(ConfigError, match=r"serves a pool of .* in this order alone"):
        load_policy(folder, POOL[::-1], Knowledge(POOL[::-1], OUTCOMES, 2048))


def test_a_plan_that_cannot_be_in_time_is_masked(tmp_path: Path) -> None:
    """Ten milliseconds are less than any call takes: one call is what is left."""
    policy = load_policy(saved(tmp_path / "p"), POOL, Knowledge(POOL, OUTCOMES, 2048))

    topology, role_set = policy.planner.plan(look(POOL, budget_s=0.01))

    assert build_workflow("math", topology, role_set).depth == 1


@pytest.mark.parametrize("file", ["policy.json", "weights.safetensors"])
@pytest.mark.parametrize("damage", ["absent", "cut"])
def test_a_damaged_folder_is_a_clear_mistake(tmp_path: Path, file: str, damage: str) -> None:
    path = saved(tmp_path / "p") / file
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(ConfigError, match=file):
        load_policy(tmp_path / "p", POOL, Knowledge(POOL, OUTCOMES, 2048))


def test_weights_of_another_network_are_a_clear_mistake(tmp_path: Path) -> None:
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two", kind="flat", fixed="single")
    (one / "weights.safetensors").write_bytes((two / "weights.safetensors").read_bytes())

    with pytest.raises(ConfigError, match="does not hold this policy"):
        load_policy(one, POOL, Knowledge(POOL, OUTCOMES, 2048))


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")

    with pytest.raises(ConfigError, match="not a policy's folder"):
        saved(tmp_path)


def test_features_are_of_the_observation_alone(tmp_path: Path) -> None:
    """In a batch or alone, an observation's features are the same."""
    from inframind.agents.features import FeatureBuilder

    knowledge = Knowledge(POOL, OUTCOMES, 2048)
    observations = [look(POOL, budget, node) for budget in (5.0, 70.0) for node in (None, 0, 1)]
    together = FeatureBuilder(knowledge).build(observations)

    for row, observation in enumerate(observations):
        alone = FeatureBuilder(knowledge).build([observation])
        for name in ("context", "servers", "actions", "latency_s", "role", "is_open"):
            assert np.array_equal(getattr(alone, name)[0], getattr(together, name)[row]), name
    assert np.allclose(together.latency_s[1], knowledge.latency_s(observations[1]))
