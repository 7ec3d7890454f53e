"""Losses against closed forms and finite differences."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from inframind.agents.features import ROLE_SETS
from inframind.agents.losses import (
    advantages,
    approx_kl,
    critic_loss,
    explained_variance,
    lagrangian,
    log_probability,
    plan_log_probability,
    ppo_loss,
    reinforce_loss,
    standardised,
)


def test_log_probability_and_entropy_of_known_odds() -> None:
    """Odds of 1 to 3."""
    logits = torch.tensor([[0.0, math.log(3)]])

    log_prob, entropy = log_probability(logits, torch.tensor([1]))

    assert log_prob.item() == pytest.approx(math.log(0.75))
    assert entropy.item() == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))


CHAIN = torch.tensor([1, 2, -1, -1])
"""Three decisions of one workflow, one of another."""


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        # Return less value.
        (1.0, [1 - 0.2, 1 - 0.5, 1 - 0.4, 0 - 0.3]),
        # One step: the next value less one's own.
        (0.0, [0.5 - 0.2, 0.4 - 0.5, 1 - 0.4, 0 - 0.3]),
        # delta_0 + trace delta_1 + trace^2 delta_2, by hand.
        (0.5, [0.3 + 0.5 * -0.1 + 0.25 * 0.6, -0.1 + 0.5 * 0.6, 0.6, -0.3]),
    ],
)
def test_generalised_advantages_in_closed_form(trace: float, expected: list[float]) -> None:
    values, returns = torch.tensor([0.2, 0.5, 0.4, 0.3]), torch.tensor([1.0, 1.0, 1.0, 0.0])

    assert advantages(values, returns, CHAIN, trace).tolist() == pytest.approx(expected)


def test_advantages_do_not_depend_on_how_workflows_are_interleaved() -> None:
    """The same two workflows, rows in another order."""
    values, returns = torch.tensor([0.2, 0.3, 0.5, 0.4]), torch.tensor([1.0, 0.0, 1.0, 1.0])

    mixed = advantages(values, returns, torch.tensor([2, -1, 3, -1]), 0.5)

    ordered = advantages(values[[0, 2, 3, 1]], returns[[0, 2, 3, 1]], CHAIN, 0.5)
    assert mixed[[0, 2, 3, 1]].tolist() == pytest.approx(ordered.tolist())


def test_the_lagrangian_weighs_and_keeps_the_scale() -> None:
    gain = lagrangian(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.0, 3.0]))

    assert gain.tolist() == pytest.approx([1.0, (1 - 1.5) / 4])


def test_ppo_does_not_gain_beyond_its_clip() -> None:
    """Ratios 1.5 and 0.5, clip 0.2: what would raise the surrogate is cut, what lowers it is not."""
    old = torch.zeros(2)
    new = torch.log(torch.tensor([1.5, 0.5]))

    assert ppo_loss(new[:1], old[:1], torch.tensor([1.0]), 0.2).item() == pytest.approx(-1.2)
    assert ppo_loss(new[:1], old[:1], torch.tensor([-1.0]), 0.2).item() == pytest.approx(1.5)
    assert ppo_loss(new[1:], old[1:], torch.tensor([-1.0]), 0.2).item() == pytest.approx(0.8)


def plan(topology: Tensor, role_set: Tensor) -> tuple[Tensor, Tensor]:
    return plan_log_probability(topology, role_set, ALLOWED, CHOICE * len(ROLE_SETS) + 2)


def widened(logits: Tensor) -> Tensor:
    """Logits of all role sets, from four numbers."""
    return logits.repeat(1, len(ROLE_SETS) // 4 + 1)[:, : len(ROLE_SETS)] * ROLE_SET


Loss = Callable[[Tensor], Tensor]
CHOICE, ADVANTAGE = torch.tensor([0, 2, 1]), torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
ROLE_SET = torch.randn(3, len(ROLE_SETS), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
ALLOWED = torch.rand(3, 4, len(ROLE_SETS), generator=torch.Generator().manual_seed(5)) < 0.4
ALLOWED[torch.arange(3), CHOICE, 2] = True
ALLOWED[:, 3] = False
"""Of four topologies one is never allowed, of each other some role sets."""
OLD = torch.tensor([-1.0, -1.2, -0.9], dtype=torch.float64)
LOSSES: dict[str, Loss] = {
    "reinforce": lambda logits: reinforce_loss(log_probability(logits, CHOICE)[0], ADVANTAGE),
    "ppo": lambda logits: ppo_loss(log_probability(logits, CHOICE)[0], OLD, ADVANTAGE, 0.2),
    "entropy": lambda logits: log_probability(logits, CHOICE)[1].mean(),
    "critic": lambda logits: critic_loss(logits[:, 0], ADVANTAGE),
    "plan": lambda logits: reinforce_loss(plan(logits, ROLE_SET)[0], ADVANTAGE),
    "plan's role set": lambda logits: reinforce_loss(plan(ROLE_SET[:, :4], widened(logits))[0], ADVANTAGE),
    "plan's entropy": lambda logits: plan(logits, widened(logits))[1].mean(),
    "lagrangian": lambda logits: lagrangian(logits[:, 0], logits[:, 1], ADVANTAGE.abs()).square().sum(),
    "advantages": lambda logits: advantages(logits[:, 0], logits[:, 1], torch.tensor([1, 2, -1]), 0.7).square().sum(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)

    assert LOSSES[name](logits).requires_grad
    assert torch.autograd.gradcheck(LOSSES[name], (logits,), eps=1e-6, atol=1e-6)


def test_what_is_masked_has_no_gradient() -> None:
    """A topology that is not allowed, and role sets that the chosen one does not leave."""
    topology = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    role_set = torch.zeros(3, len(ROLE_SETS), dtype=torch.float64, requires_grad=True)

    reinforce_loss(plan(topology, role_set)[0], ADVANTAGE).backward()

    assert topology.grad is not None
    assert role_set.grad is not None
    left = ALLOWED[torch.arange(3), CHOICE]
    assert (topology.grad != 0).tolist() == ALLOWED.any(-1).tolist()
    assert (role_set.grad[~left] == 0).all()
    assert (role_set.grad[left] != 0).all()


def test_the_gradient_of_reinforce_is_the_score_times_the_advantage() -> None:
    """d/dlogits of -log pi(a) A: A (pi - 1[a])."""
    logits = torch.tensor([[0.0, math.log(3)]], requires_grad=True)

    reinforce_loss(log_probability(logits, torch.tensor([0]))[0], torch.tensor([2.0])).backward()

    assert logits.grad is not None
    assert logits.grad.tolist()[0] == pytest.approx([2 * (0.25 - 1), 2 * 0.75])


def test_figures_of_the_log() -> None:
    same = torch.tensor([-1.0, -2.0])
    returns = torch.tensor([0.0, 1.0])

    assert approx_kl(same, same) == 0.0
    assert approx_kl(same, same + 0.1) > 0
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(torch.tensor([0.5, 0.5]), returns) == 0.0
    assert standardised(torch.tensor([1.0, 3.0])).tolist() == pytest.approx([-1.0, 1.0], abs=1e-6)
