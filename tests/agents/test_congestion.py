"""What calls take from others, counted by hand."""

import numpy as np
import pytest
import torch
from agent_world import features_of
from torch import Tensor, nn

from inframind.agents.congestion import (
    BEFORE,
    PRICE,
    SLOTS,
    CongestionNetwork,
    charges,
    first_rows,
    fit,
    inputs_of,
    to_go,
)
from inframind.agents.features import CONTEXT_SIZE, ROLE_SETS, TOPOLOGY_NAMES
from inframind.agents.rollouts import Batch

SIZE, SERVERS, STRATEGIES = 8, 2, 3
MAX_NUM_SEQS = 4


class Linear(nn.Module):
    """A unit of load on server 0 costs a workflow 0.1, on server 1 it is worth 0.1."""

    def forward(self, loads: Tensor, servers: Tensor, context: Tensor, luck: Tensor) -> Tensor:
        return -0.1 * loads[:, 0] + 0.1 * loads[:, 1]


def batch(
    time_s: list[float],
    server: list[int],
    call_s: list[float],
    *,
    wait_s: list[float] | None = None,
    deadline_s: list[float] | None = None,
    simulation: list[int] | None = None,
) -> Batch:
    """Workflows of one call each."""
    num = len(time_s)
    features = features_of(num, SERVERS, SIZE)
    if deadline_s is not None:
        features.remaining_s[:] = np.array(deadline_s) - time_s
    features.servers[:, :, SLOTS] = np.log(MAX_NUM_SEQS) / 3
    return Batch(
        features=features,
        choice=np.array(server) * STRATEGIES,
        log_prob=np.zeros(num, np.float32),
        is_plan=np.zeros(num, np.bool_),
        allowed=np.empty((0, len(TOPOLOGY_NAMES), len(ROLE_SETS)), np.bool_),
        workflow=np.arange(num),
        next_row=np.full(num, -1),
        call_s=np.array(call_s),
        wait_s=np.zeros(num) if wait_s is None else np.array(wait_s),
        time_s=np.array(time_s),
        simulation=np.zeros(num, np.int64) if simulation is None else np.array(simulation),
        luck=np.zeros((num, SERVERS, STRATEGIES, 2), np.float32),
        tier=np.zeros(num, np.int64),
        budget_s=np.full(num, 10.0),
        latency_s=np.full(num, 1.0),
        correct=np.ones(num, np.bool_),
        on_time=np.ones(num, np.bool_),
        rate_per_min=np.full(num, 60.0),
    )


def test_a_call_is_charged_for_who_comes_while_it_runs() -> None:
    """Four slots: a call is a quarter of a unit of load. It does not meet itself, nor who comes after its end."""
    made = batch([0.0, 1.0, 2.0, 9.0], [0, 0, 0, 0], [5.0, 1.5, 100.0, 1.0])

    assert charges(Linear(), made, "none") == pytest.approx([-0.1 / 4 * 2, -0.1 / 4 * 1, -0.1 / 4 * 1, 0.0])


def test_nobody_is_paid_and_failed_calls_cost_nothing() -> None:
    made = batch([0.0, 1.0, 2.0], [1, 0, 0], [5.0, np.nan, 1.0])

    assert charges(Linear(), made, "none") == pytest.approx([0.0, 0.0, 0.0])


def test_who_overtakes_a_call_that_waits_loses_nothing_by_it() -> None:
    """The first call, due at 50, waits until 3 and ends at 9: of those at 1 and 2 the one that is due before it goes
    first. At 4 it runs, and whoever comes finds it."""
    made = batch(
        [0.0, 1.0, 2.0, 4.0],
        [0, 1, 1, 1],
        [9.0, 0.1, 0.1, 0.1],
        wait_s=[3.0, 0.0, 0.0, 0.0],
        deadline_s=[50.0, 11.0, 60.0, 14.0],
    )

    assert charges(Linear(), made, "edf")[0] == pytest.approx(-0.1 / 4 * 2)
    assert charges(Linear(), made, "none")[0] == pytest.approx(-0.1 / 4 * 3)


def test_a_late_call_that_waits_is_overtaken_by_all_under_late_last() -> None:
    """It was due at 3 and is submitted at 5; until 8 it waits. Under EDF it would go before all that come."""
    made = batch(
        [5.0, 6.0, 7.0, 9.0],
        [0, 1, 1, 1],
        [9.0, 0.1, 0.1, 0.1],
        wait_s=[3.0, 0.0, 0.0, 0.0],
        deadline_s=[3.0, 16.0, 60.0, 19.0],
    )

    assert charges(Linear(), made, "edf-late-last")[0] == pytest.approx(-0.1 / 4 * 1)
    assert charges(Linear(), made, "edf")[0] == pytest.approx(-0.1 / 4 * 3)


def test_simulations_do_not_meet() -> None:
    made = batch([0.0, 1.0, 2.0], [0, 0, 0], [5.0, 5.0, 5.0], simulation=[0, 1, 0])

    assert charges(Linear(), made, "none") == pytest.approx([-0.1 / 4, 0.0, 0.0])


def test_a_plan_answers_for_all_calls_that_follow_from_it() -> None:
    """Rows 0, 2, 3 are a chain, row 1 is alone."""
    assert to_go(np.array([0.0, -1.0, -2.0, -3.0]), np.array([2, -1, 3, -1])) == pytest.approx([-5, -1, -5, -3])


def test_the_first_decision_of_a_workflow_is_what_it_met() -> None:
    made = batch([0.0, 1.0, 2.0], [0, 0, 0], [1.0] * 3)
    made.workflow[:] = [0, 1, 0]

    assert first_rows(made).tolist() == [0, 1]


def test_the_slope_is_learnt_from_what_workflows_earn() -> None:
    """They earn 1 less 0.2 for each unit of load on server 0; the other server costs nothing."""
    torch.manual_seed(0)
    num = 2_000
    made = batch([float(t) for t in range(num)], [0] * num, [1.0] * num)
    loads = np.random.default_rng(0).uniform(0, 4, (num, SERVERS)).astype(np.float32)
    made.features.servers[:, :, BEFORE] = loads / 2
    # Which server is which: by their price.
    made.features.servers[:, :, PRICE] = [0.0, 1.0]
    reward = torch.from_numpy(1 - 0.2 * loads[:, 0])
    network = CongestionNetwork(CONTEXT_SIZE)

    explained = fit(network, torch.optim.Adam(network.parameters(), 1e-2), made, reward, passes=200)

    inputs = [each.detach() for each in inputs_of(made, np.arange(num))]
    inputs[0].requires_grad_()
    (slope,) = torch.autograd.grad(network(*inputs).sum(), inputs[0])
    assert explained > 0.9
    assert slope.mean(0).tolist() == pytest.approx([-0.2, 0.0], abs=0.03)
