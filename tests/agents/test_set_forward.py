"""Acting in numpy says what the networks say."""

from typing import Any

import numpy as np
import pytest
import torch
from agent_world import features_of

from inframind.agents.features import Features
from inframind.agents.networks import NetworkOptions, SetExecutor, SetPlanner
from inframind.agents.set_forward import ExecutorScores, PlannerScores
from inframind.agents.tensors import FeatureTensors

SIZE = 16


def options(**given: Any) -> NetworkOptions:
    return NetworkOptions.model_validate({"prior": 3.0, **given})


def some_features() -> Features:
    features = features_of(num=7, num_servers=4, embedding_size=SIZE)
    features.is_open[2, 1] = False
    features.is_open[3, :3] = False
    return features


def with_weights_everywhere(network: torch.nn.Module) -> torch.nn.Module:
    """Layers that begin with ones or zeros would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("heads", ["joint", "factored"])
@pytest.mark.parametrize("query", [0, 5])
@pytest.mark.parametrize("budget", ["seconds", "none"])
@pytest.mark.parametrize("system", ["latency-map", "raw-metrics", "none"])
def test_both_ways_agree(system: str, budget: str, query: int, heads: str) -> None:
    """Whatever the networks may see; with closed servers, whose logit is the same number."""
    executor = SetExecutor(options(system=system, budget=budget, query=query, heads=heads), SIZE)
    planner = SetPlanner(options(system=system, budget=budget, query=query), SIZE)
    with_weights_everywhere(executor)
    with_weights_everywhere(planner)
    features = some_features()

    with torch.no_grad():
        of_calls = executor(FeatureTensors.of(features)).numpy()
        of_plans = [each.numpy() for each in planner(FeatureTensors.of(features))]

    assert ExecutorScores(executor)(features) == pytest.approx(of_calls, abs=1e-5)
    for ours, theirs in zip(PlannerScores(planner)(features), of_plans, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_features_stay_as_they_are() -> None:
    """A batch is learnt from after it has been decided upon."""
    features, before = some_features(), some_features()

    ExecutorScores(SetExecutor(options(), SIZE))(features)
    PlannerScores(SetPlanner(options(), SIZE))(features)

    for name in FeatureTensors._fields:
        assert np.array_equal(getattr(features, name), getattr(before, name)), name
