"""Least squares through the simulator: scipy's trust region with derivatives by differences.

Decisions of the scheduler make the residuals jump a little as a parameter moves. So differences are taken over a few
per cent of a parameter, and what the trust region could not improve any more a search along each parameter tries to.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from inframind.sim import ServerOptions

from .fit_objective import OVERLAP, Objective

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

STEP = 0.02
"""Difference, relative to the parameter."""
MIN_STEP = 0.01
"""Smallest difference, in units of the parameter (see `Objective.units`)."""
OVERLAP_STEP = 0.15
"""Difference of the overlap: less moves ``free_prefill_tokens`` by too little."""
MAX_OVERLAP = 1.0
NUM_STRETCHES = 20
"""Stretches of time that a log is cut into for the standard errors."""
MIN_NOISE = 0.01
"""Deviations are taken to scatter by at least so much: a log may be reproduced exactly and yet say nothing."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Parameters in the order of `PARAMETERS`, and the sum of squared residuals that they leave."""

    parameters: Floats
    cost: float


def solve(
    objective: Objective,
    options: ServerOptions,
    start: Floats,
    free: Bools,
    *,
    rounds: int,
    evaluations: int,
    on_step: Callable[[], None] = lambda: None,
) -> Solution:
    """Minimise, with new weights in each of the rounds; parameters that are not free stay as they are."""
    parameters = _inside(objective, start, free)
    cost = np.inf
    for _ in range(rounds):
        simulated = objective.simulate(options, parameters)
        objective.reweigh(simulated)
        problem = _Problem(objective, options, parameters, free, on_step)
        problem.remember(objective.residuals(simulated, parameters))
        upper = np.full(len(parameters), np.inf)
        upper[OVERLAP] = MAX_OVERLAP
        result = least_squares(
            problem.residuals,
            (parameters / objective.units)[free],
            problem.jacobian,
            bounds=(np.zeros(int(free.sum())), upper[free]),
            x_scale=np.where(np.arange(len(parameters)) == OVERLAP, 0.3, 0.2)[free],
            ftol=1e-4,
            xtol=1e-4,
            max_nfev=evaluations,
        )
        parameters = problem.full(result.x)
        cost = float(2 * result.cost)
    return Solution(parameters, cost)


def polish(
    objective: Objective,
    options: ServerOptions,
    solution: Solution,
    free: Bools,
    *,
    sizes: tuple[float, ...] = (0.03, 0.01),
    on_step: Callable[[], None] = lambda: None,
) -> Solution:
    """Search along each free parameter, up and down, with the weights as they are."""
    problem = _Problem(objective, options, solution.parameters, free, on_step)
    best = (solution.parameters / objective.units)[free]
    residuals = problem.residuals(best)
    cost = float(residuals @ residuals)
    indices = np.flatnonzero(free)
    for size in sizes:
        for position, index in enumerate(indices):
            step = size * 5 if index == OVERLAP else size * max(best[position], 0.5 * MIN_STEP / STEP)
            for direction in (1.0, -1.0):
                trial = best.copy()
                trial[position] = np.clip(
                    best[position] + direction * step, 0.0, MAX_OVERLAP if index == OVERLAP else None
                )
                residuals = problem.residuals(trial)
                trial_cost = float(residuals @ residuals)
                if trial_cost < cost:
                    best, cost = trial, trial_cost
                    break
    return Solution(problem.full(best), cost)


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Standard errors, and which parameters the logs do not determine."""

    std_errors: Floats
    """NaN for a parameter that is not free."""
    is_identified: Bools


def uncertainty(objective: Objective, options: ServerOptions, parameters: Floats, free: Bools) -> Uncertainty:
    """Standard errors from the Jacobian, with residuals that are alike in a stretch of time taken as one.

    In a queue, errors of neighbours are one error. So the covariance is the sandwich estimate clustered by stretches of
    time, ``H^-1 (sum_b g_b g_b^T) H^-1`` with ``H = J^T J`` and ``g_b`` the gradient of stretch b (Cameron & Miller, A
    Practitioner's Guide to Cluster-Robust Inference, 2015, eq. 11): what a bootstrap over these stretches would tend to,
    without its thousands of simulations. It is never less than that of independent residuals which scatter by 1 %.

    A parameter is identified if its standard error, without the prior, is less than half of it, or than a tenth of a usual
    step for what it adds to one.
    """
    problem = _Problem(objective, options, parameters, free, lambda: None)
    z = (parameters / objective.units)[free]
    jacobian = problem.jacobian(z)
    data = jacobian[: -objective.num_prior]
    inverse = np.linalg.pinv(jacobian.T @ jacobian, rcond=1e-12)
    scores = data.T @ objective.by_stretch(objective.simulate(options, parameters), NUM_STRETCHES)
    scores -= scores.mean(axis=1, keepdims=True)
    num = scores.shape[1]
    sandwich = inverse @ (num / (num - 1) * scores @ scores.T) @ inverse
    noise = (MIN_NOISE / objective.scale) ** 2
    variance = np.maximum(np.diag(sandwich), noise * np.diag(inverse))

    # Without the prior: a ridge far below any information stands in for what has none at all.
    information = data.T @ data
    bare = np.linalg.inv(information + 1e-9 * np.trace(information) * np.eye(len(z)))
    bare_error = np.sqrt(np.maximum(np.diag(bare @ (scores @ scores.T) @ bare), noise * np.diag(bare)))
    enough = np.where(np.flatnonzero(free) == OVERLAP, 0.5, np.maximum(0.5 * z, 0.1))

    std_errors = np.full(len(parameters), np.nan)
    std_errors[free] = np.sqrt(variance) * objective.units[free]
    is_identified = np.zeros(len(parameters), dtype=bool)
    is_identified[free] = bare_error <= enough
    return Uncertainty(std_errors, is_identified)


class _Problem:
    """The free parameters in their units, as scipy sees them."""

    def __init__(
        self, objective: Objective, options: ServerOptions, parameters: Floats, free: Bools, on_step: Callable[[], None]
    ) -> None:
        self._objective = objective
        self._options = options
        self._parameters = parameters
        self._free = free
        self._on_step = on_step
        self._last: tuple[bytes, Floats] | None = None

    def full(self, z: Floats) -> Floats:
        """All parameters in seconds."""
        parameters = self._parameters.copy()
        parameters[self._free] = z * self._objective.units[self._free]
        return parameters

    def remember(self, residuals: Floats) -> None:
        """Residuals at the parameters given, which are known already."""
        z = (self._parameters / self._objective.units)[self._free]
        self._last = (z.tobytes(), residuals)

    def residuals(self, z: Floats) -> Floats:
        if self._last is None or self._last[0] != z.tobytes():
            parameters = self.full(z)
            simulated = self._objective.simulate(self._options, parameters)
            self._last = (z.tobytes(), self._objective.residuals(simulated, parameters))
            self._on_step()
        return self._last[1]

    def jacobian(self, z: Floats) -> Floats:
        here = self.residuals(z)
        columns = []
        for position, index in enumerate(np.flatnonzero(self._free)):
            if index == OVERLAP:
                step = OVERLAP_STEP if z[position] + OVERLAP_STEP <= MAX_OVERLAP else -OVERLAP_STEP
            else:
                step = max(STEP * z[position], MIN_STEP)
            moved = z.copy()
            moved[position] += step
            parameters = self.full(moved)
            simulated = self._objective.simulate(self._options, parameters)
            columns.append((self._objective.residuals(simulated, parameters) - here) / step)
            self._on_step()
        return np.column_stack(columns)


def _inside(objective: Objective, start: Floats, free: Bools) -> Floats:
    """A start within the bounds: scipy's trust region begins at none of them."""
    parameters = start.copy()
    low = np.where(free, 1e-3 * objective.units, 0.0)
    parameters = np.maximum(parameters, low)
    parameters[OVERLAP] = min(parameters[OVERLAP], MAX_OVERLAP - 1e-3)
    return parameters
