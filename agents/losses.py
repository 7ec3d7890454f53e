"""The losses of policy gradients, and the advantages that they weigh with."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from .features import ROLE_SETS
from .networks import NEVER


def log_probability(logits: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
    """Of what was chosen, and the entropy of the choice: ``[B]`` each; ``logits``: ``[B, actions]``."""
    logs = log_softmax(logits, -1)
    entropy = -(logs.exp() * logs).sum(-1)
    return logs.gather(-1, choice[:, None]).squeeze(-1), entropy


def plan_log_probability(
    topology_logits: Tensor, role_set_logits: Tensor, allowed: Tensor, choice: Tensor
) -> tuple[Tensor, Tensor]:
    """Joint log-probability of topology and role set, the sum of both heads', and the sum of their entropies: ``[B]``.

    Parameters
    ----------
    allowed
        ``[B, topologies, role sets]``: the second head is masked by what the first has chosen.
    choice
        ``topology * role sets + role set``.
    """
    topology, role_set = choice // len(ROLE_SETS), choice % len(ROLE_SETS)
    first, first_entropy = log_probability(topology_logits.masked_fill(~allowed.any(-1), NEVER), topology)
    of_topology = allowed[torch.arange(len(choice)), topology]
    second, second_entropy = log_probability(role_set_logits.masked_fill(~of_topology, NEVER), role_set)
    return first + second, first_entropy + second_entropy


def advantages(values: Tensor, returns: Tensor, next_row: Tensor, trace: float) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016) of decisions whose only reward comes at the end.

    A workflow's decisions are a chain; there is no discount, since a workflow ends with its deadline in any case. With
    ``trace`` 1 an advantage is return less value, with 0 the next decision's value less one's own.

    Parameters
    ----------
    values, returns
        Of each decision: ``[B]``; the return is that of its workflow.
    next_row
        Row of the workflow's next decision, which must be a later one; -1 for the last: ``[B]``.
    trace
        Their lambda, 0 to 1.
    """
    result = returns - values
    if trace == 1.0:
        return result
    is_last = next_row < 0
    delta = torch.where(is_last, returns, values[next_row.clamp(min=0)]) - values
    estimate = delta.clone()
    # One pass for each decision of the longest workflow: afterwards every sum has reached its end.
    for _ in range(len(values)):
        further = delta + trace * torch.where(is_last, torch.zeros_like(delta), estimate[next_row.clamp(min=0)])
        if torch.equal(further, estimate):
            break
        estimate = further
    return estimate


def standardised(values: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1."""
    return (values - values.mean()) / (values.std(correction=0) + 1e-8)


def lagrangian(reward: Tensor, cost: Tensor, multiplier: Tensor) -> Tensor:
    """``(A_r - lambda A_c) / (1 + lambda)``: one scale, however large the price (OmniSafe's PPOLag)."""
    return (reward - multiplier * cost) / (1 + multiplier)


def ppo_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The clipped surrogate (Schulman et al. 2017, eq. 7), to be minimised."""
    ratio = (log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantage, clipped * advantage).mean()


def reinforce_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """``-mean(log pi A)`` (theory, 8.2 and 8.3)."""
    return -(log_prob * advantage).mean()


def critic_loss(values: Tensor, returns: Tensor) -> Tensor:
    """``mean((V - R)^2)`` (theory, 8.3)."""
    return (values - returns).pow(2).mean()


def approx_kl(log_prob: Tensor, old_log_prob: Tensor) -> float:
    """How far the policy has moved: Schulman's estimate of low variance."""
    with torch.no_grad():
        log_ratio = log_prob - old_log_prob
        return float((log_ratio.exp() - 1 - log_ratio).mean())


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1: the critic knows the return; 0: no more than its mean."""
    spread = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / spread) if spread > 0 else float("nan")
