"""Networks: any number of servers in any order, and nothing seen that is hidden."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from agent_world import features_of

from inframind.agents.features import CONTEXT_SIZE, SCALARS, Features
from inframind.agents.networks import (
    NEVER,
    FlatExecutor,
    NetworkOptions,
    critic_network,
    executor_network,
    planner_network,
)
from inframind.agents.tensors import FeatureTensors

SIZE = 16


def scores(network: torch.nn.Module, features: Features) -> Any:
    with torch.no_grad():
        return network(FeatureTensors.of(features)).numpy()


def reordered(features: Features, order: list[int]) -> Features:
    per_server = ("servers", "actions", "is_open", "latency_s")
    return replace(features, **{name: np.ascontiguousarray(getattr(features, name)[:, order]) for name in per_server})


def test_servers_may_come_in_any_order() -> None:
    """A set network's scores move with the servers."""
    torch.manual_seed(0)
    network = executor_network(NetworkOptions(prior=3.0), SIZE, num_servers=4)
    features = features_of(num=5, num_servers=4, embedding_size=SIZE)
    order = [2, 0, 3, 1]

    plain = scores(network, features).reshape(5, 4, 3)

    assert scores(network, reordered(features, order)).reshape(5, 4, 3) == pytest.approx(plain[:, order], abs=1e-5)


@pytest.mark.parametrize("num_servers", [1, 3, 40])
def test_a_set_network_takes_any_number_of_servers(num_servers: int) -> None:
    network = executor_network(NetworkOptions(), SIZE, num_servers=5)

    assert scores(network, features_of(2, num_servers, SIZE)).shape == (2, 3 * num_servers)


@pytest.mark.parametrize("kind", ["set", "flat", "dual"])
@pytest.mark.parametrize("heads", ["joint", "factored"])
def test_a_closed_server_is_never_chosen(kind: str, heads: str) -> None:
    network = executor_network(NetworkOptions.model_validate({"kind": kind, "heads": heads}), SIZE, num_servers=3)
    features = features_of(4, 3, SIZE)
    features.is_open[:, 1] = False

    result = scores(network, features).reshape(4, 3, 3)

    assert (result[:, 1] == NEVER).all()
    assert (result[:, [0, 2]] > NEVER / 2).all()


def test_factored_heads_are_a_sum_of_one_for_each() -> None:
    """Score of (server, strategy): what a server adds does not depend on the strategy."""
    for kind in ("set", "flat"):
        network = executor_network(
            NetworkOptions.model_validate({"kind": kind, "heads": "factored"}), SIZE, num_servers=3
        )
        result = scores(network, features_of(1, 3, SIZE)).reshape(3, 3)
        assert np.ptp(result[0] - result[1]) == pytest.approx(0.0, abs=1e-5)


def test_before_training_the_prior_decides() -> None:
    """P(right) P(in time), a little of the slack: the best known pair has the highest score."""
    torch.manual_seed(1)
    network = executor_network(NetworkOptions(prior=100.0), SIZE, num_servers=3)
    features = features_of(20, 3, SIZE)
    good = features.actions[..., 3] + features.actions[..., 1] / 40

    assert (scores(network, features).argmax(1) == good.reshape(20, -1).argmax(1)).all()


@pytest.mark.parametrize(
    ("hidden", "fields"),
    [
        ({"system": "none"}, ("servers", "load")),
        ({"budget": "none"}, ("budget", "remaining")),
    ],
)
def test_what_is_hidden_changes_nothing(hidden: dict[str, str], fields: tuple[str, ...]) -> None:
    planner = planner_network(NetworkOptions.model_validate(hidden), SIZE)
    features = features_of(3, 2, SIZE)
    changed = features_of(3, 2, SIZE, seed=1)
    if "servers" in fields:
        # Gauges and all that follows from them; what is known of the LLMs stays.
        servers = features.servers.copy()
        servers[..., :7] = changed.servers[..., :7]
        actions = features.actions.copy()
        actions[..., 1:4] = changed.actions[..., 1:4]
        other = replace(features, servers=servers, actions=actions, latency_s=changed.latency_s)
    else:
        context = features.context.copy()
        context[:, :4] = changed.context[:, :4]
        other = replace(features, context=context, budget_s=changed.budget_s, remaining_s=changed.remaining_s)

    with torch.no_grad():
        before, after = planner(FeatureTensors.of(features)), planner(FeatureTensors.of(other))

    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def inputs_of_the_first_layer(network: torch.nn.Module) -> int:
    assert any(isinstance(layer, torch.nn.LayerNorm) for layer in network.modules())
    return next(layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)).in_features


def test_the_flat_executor_reads_the_state_of_the_theory() -> None:
    """3.2: query, role, remaining budget, and for each of M servers S latencies, running and waiting."""
    network = executor_network(NetworkOptions(kind="flat", hidden=32), SIZE, num_servers=5)

    assert inputs_of_the_first_layer(network) == SIZE + 16 + 1 + 5 * (3 + 2)


def test_the_flat_planner_reads_the_state_of_the_theory() -> None:
    """3.1: query and budget, d_q + 1 numbers; nothing else that an observation has changes a plan."""
    network = planner_network(NetworkOptions(kind="flat", system="none", hidden=32), SIZE)
    features, other = features_of(3, 2, SIZE), features_of(3, 2, SIZE, seed=1)
    same = replace(other, embedding=features.embedding, budget_s=features.budget_s)
    with torch.no_grad():
        plans = [network(FeatureTensors.of(each)) for each in (features, same, replace(same, budget_s=other.budget_s))]

    assert inputs_of_the_first_layer(network) == SIZE + 1
    assert torch.equal(plans[0][0], plans[1][0])
    assert not torch.equal(plans[0][0], plans[2][0])


def test_the_value_is_on_the_executors_state() -> None:
    """8.3: one backbone; the logits do not depend on the value's head."""
    network = FlatExecutor(NetworkOptions(kind="flat", hidden=32), SIZE, 3)
    features = FeatureTensors.of(features_of(4, 3, SIZE))

    logits, values = network.with_value(features)
    values.sum().backward()

    assert torch.equal(logits, network(features))
    assert values.shape == (4,)
    trained = {name.split(".")[0] for name, weight in network.named_parameters() if weight.grad is not None}
    assert trained == {"_state", "_value"}


def test_a_critic_has_a_value_for_reward_and_one_for_cost() -> None:
    for kind in ("set", "flat"):
        critic = critic_network(NetworkOptions.model_validate({"kind": kind}), SIZE, num_servers=3)
        with torch.no_grad():
            values = critic(FeatureTensors.of(features_of(4, 3, SIZE)), torch.zeros(4, 3, 3, 2))
        assert values.shape == (4, 2)


def test_features_have_the_shape_that_weights_were_made_for() -> None:
    assert features_of(2, 3, SIZE).context.shape == (2, CONTEXT_SIZE)


def test_who_does_not_see_budgets_sees_the_prompt() -> None:
    torch.manual_seed(0)
    planner = planner_network(NetworkOptions(budget="none"), SIZE)
    features = features_of(3, 2, SIZE)
    context = features.context.copy()
    context[:, SCALARS.index("log_prompt")] += 1.0

    with torch.no_grad():
        before, after = (
            planner(FeatureTensors.of(features)),
            planner(FeatureTensors.of(replace(features, context=context))),
        )

    assert not torch.equal(before[0], after[0])
