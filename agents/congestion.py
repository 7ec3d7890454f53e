"""What a call costs the workflows that come while it runs: the externality that a workflow's own return does not show.

A small network learns how good a workflow turns out, given the calls that it finds before its own on each server when
it arrives. Its slope in those of server m, summed over the arrivals that find a call there before theirs, is what that
call takes from others (a Pigouvian price: with it, each decision is charged with its marginal effect on the whole). It
is a first-order estimate that leaves out workflows which are already under way.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .features import SERVER_FEATURES
from .rollouts import Batch

BEFORE, SLOTS, PRICE = (SERVER_FEATURES.index(name) for name in ("before", "log_slots", "log_token_s"))
HIDDEN = 32


class CongestionNetwork(nn.Module):
    """Expected reward of a workflow: ``[B]``, for any number of servers."""

    def __init__(self, context_size: int) -> None:
        super().__init__()
        self._server = nn.Sequential(nn.Linear(4, HIDDEN), nn.Tanh())
        self._rest = nn.Sequential(
            nn.Linear(HIDDEN + context_size + 2, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh()
        )
        self._value = nn.Linear(HIDDEN, 1)

    def forward(self, loads: Tensor, servers: Tensor, context: Tensor, luck: Tensor) -> Tensor:
        """Value.

        Parameters
        ----------
        loads
            Requests before its own, over slots, on each server: ``[B, n]``; what the slope is taken in.
        servers
            Slots and price of each: ``[B, n, 2]``.
        context
            Of the query: ``[B, context_size]``.
        luck
            Share of right answers: ``[B, n, S]``; see `networks.SetCritic`.
        """
        best = luck.amax(-1)
        each = self._server(torch.cat([torch.log1p(loads)[..., None], servers, best[..., None]], -1))
        summary = torch.stack([best.amax(-1), best.mean(-1)], -1)
        value: Tensor = self._value(self._rest(torch.cat([each.mean(1), context, summary], -1)))
        return value.squeeze(-1)


def first_rows(batch: Batch) -> NDArray[np.int64]:
    """Each workflow's first decision: what was seen when it came."""
    _, first = np.unique(batch.workflow, return_index=True)
    return first


def inputs_of(batch: Batch, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the network reads of some decisions."""
    servers = torch.from_numpy(batch.features.servers[rows])
    return (
        2 * servers[:, :, BEFORE],
        servers[:, :, [SLOTS, PRICE]],
        torch.from_numpy(batch.features.context[rows]),
        torch.from_numpy(batch.luck[rows][..., 0]),
    )


def fit(network: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, reward: Tensor, passes: int) -> float:
    """Learn from a batch's arrivals; ``reward``: of each decision ``[N]``. Returns the share of variance explained."""
    rows = first_rows(batch)
    inputs, target = inputs_of(batch, rows), reward[torch.from_numpy(rows)]
    for _ in range(passes):
        loss = (network(*inputs) - target).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(1 - loss.detach() / target.var(correction=0).clamp(min=1e-9))


def charges(network: nn.Module, batch: Batch, priority: str) -> NDArray[np.float64]:
    """What each decision's call takes from later arrivals, at most 0: ``[N]``; 0 for plans.

    Parameters
    ----------
    priority
        A key of `PRIORITY_RULES`. Except under ``none``, a call that waits takes nothing from arrivals that overtake
        it: those due before it (as is taken for ``least-slack``, too), and under ``edf-late-last`` all if it is late.
    """
    rows = first_rows(batch)
    loads, *rest = inputs_of(batch, rows)
    loads = loads.requires_grad_()
    (slope,) = torch.autograd.grad(network(loads, *rest).sum(), loads)
    slopes = np.minimum(slope.numpy().astype(float), 0.0)

    server = batch.choice // batch.luck.shape[2]
    slots = np.exp(3 * batch.features.servers[:, :, SLOTS].astype(float))
    due_s = batch.time_s + batch.features.remaining_s
    if priority == "edf-late-last":
        due_s[batch.features.remaining_s < 0] = np.inf
    result = np.zeros(len(batch.choice))
    is_call = ~batch.is_plan & np.isfinite(batch.call_s)
    for simulation in np.unique(batch.simulation):
        of_arrivals = np.flatnonzero(batch.simulation[rows] == simulation)
        arrivals = rows[of_arrivals]
        own = np.flatnonzero(is_call & (batch.simulation == simulation))
        call, of_arrival = _meetings(batch.time_s[arrivals], batch.time_s[own], batch.call_s[own])
        taken = slopes[of_arrivals[of_arrival], server[own[call]]]
        if priority != "none":
            met, arrival = own[call], arrivals[of_arrival]
            runs = batch.time_s[arrival] > batch.time_s[met] + batch.wait_s[met]
            taken = taken * (runs | (due_s[arrival] >= due_s[met]))
        result[own] = np.bincount(call, taken, len(own)) / slots[own, server[own]]
    return result


def _meetings(
    came_s: NDArray[np.float64], submitted_s: NDArray[np.float64], call_s: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of a call and an arrival that comes while it is there; arrivals are in order of time."""
    first = np.searchsorted(came_s, submitted_s, side="right")
    num = np.searchsorted(came_s, submitted_s + call_s, side="right") - first
    call = np.repeat(np.arange(len(num)), num)
    return call, np.arange(len(call)) + np.repeat(first - np.cumsum(num) + num, num)


def to_go(values: NDArray[np.float64], next_row: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum over a decision and all later ones of its workflow: ``[N]``; a next row is a later one."""
    total = values.copy()
    # From the back, so that what comes next is complete.
    for row in np.flatnonzero(next_row >= 0)[::-1]:
        total[row] += total[next_row[row]]
    return total
