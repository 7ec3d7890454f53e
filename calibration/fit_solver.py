"""Least squares through the simulator, without its derivatives.

Decisions of the scheduler make the residuals jump a little wherever a parameter moves, so a difference of two runs
says little about their slope. Here a linear model of all residuals is fitted to many runs around the present
parameters, at random, and the least-squares problem of the model is solved within bounds (scipy's ``lsq_linear``);
then the region gets smaller. That is Gauss-Newton with regression models, as DFO-LS does it (Cartis, Fiala, Marteau and
Roberts, Improving the Flexibility and Robustness of Model-Based Derivative-Free Optimization Solvers, 2019, sections 2
and 4).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from inframind.sim import ServerOptions

from .fit_objective import OVERLAP, Objective, Simulated

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RADII = (0.4, 0.2, 0.1, 0.05, 0.03)
"""Of the regions, relative to the size of a parameter."""
POINTS = 2.5
"""Runs in each region for each free parameter."""
REPEATS = 2
"""A region is moved so often, if the solution lies at its edge."""
SMALLEST = 0.1
"""Size of a parameter that is near 0, in its unit (see `Objective.units`)."""
MAX_OVERLAP = 1.0
NUM_STRETCHES = 20
"""Stretches of time that a log is cut into for the standard errors."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the simulator."""

    z: Floats
    """Free parameters in their units."""
    parameters: Floats
    simulated: Sequence[Simulated]


class Solver:
    """A search on its way: the runs so far, and the best of them.

    Parameters
    ----------
    start
        Parameters in the order of `PARAMETERS`; those that are not free stay as they are.
    on_run
        Called after each run.
    """

    def __init__(
        self,
        objective: Objective,
        options: ServerOptions,
        start: Floats,
        free: Bools,
        on_run: Callable[[], None] = lambda: None,
    ) -> None:
        self._objective = objective
        self._options = options
        self._free = free
        self._start = start
        self._on_run = on_run
        self._random = np.random.default_rng(0)
        self._upper = np.where(np.arange(len(start)) == OVERLAP, MAX_OVERLAP, np.inf)[free]
        self._runs: list[Run] = []
        self.best = self._run(np.clip((start / objective.units)[free], 0.0, self._upper))
        objective.reweigh(self.best.simulated)

    def minimise(self, radii: Sequence[float] = RADII) -> Floats:
        """Search in smaller and smaller regions; returns all parameters."""
        for radius in radii:
            self._objective.reweigh(self.best.simulated)
            self.best = min(self._runs, key=self._cost)
            for _ in range(1 + REPEATS):
                if not self._improve(radius):
                    break
        return self.best.parameters

    def uncertainty(self, radius: float = 0.05) -> "Uncertainty":
        """Standard errors from the slopes of the model, with residuals that are alike in a stretch of time as one.

        In a queue, errors of neighbours are one error. So the covariance is the sandwich estimate clustered by
        stretches of time, ``H^-1 (sum_b g_b g_b^T) H^-1`` with ``H = J^T J`` and ``g_b`` the gradient of stretch b
        (Cameron and Miller, A Practitioner's Guide to Cluster-Robust Inference, 2015, equation 11): what a bootstrap
        over these stretches would tend to, without its thousands of simulations. Added are the jumps of the residuals,
        for the real server's are as large; and it is never less than what follows from the model's own error.

        A parameter is identified if its standard error, without the prior, is less than half of it, or than a tenth of
        a usual step for what it adds to one.
        """
        objective = self._objective
        self._sample(self.best.z, radius)
        _, jacobian, jumps = self._model(self.best.z, radius)
        data = jacobian[: -objective.num_prior]
        inverse = np.linalg.pinv(jacobian.T @ jacobian, rcond=1e-12)
        scores = data.T @ objective.by_stretch(self.best.simulated, NUM_STRETCHES)
        scores -= scores.mean(axis=1, keepdims=True)
        num = scores.shape[1]
        meat = num / (num - 1) * scores @ scores.T + (data.T * jumps[: -objective.num_prior]) @ data
        variance = np.maximum(np.diag(inverse @ meat @ inverse), np.diag(inverse))

        # Without the prior: a ridge far below any information stands in for what has none at all.
        information = data.T @ data
        bare = np.linalg.inv(information + 1e-9 * np.trace(information) * np.eye(len(information)))
        bare_error = np.sqrt(np.diag(bare))
        enough = np.where(np.flatnonzero(self._free) == OVERLAP, 0.5, np.maximum(0.5 * self.best.z, 0.1))

        std_errors = np.full(len(self._free), np.nan)
        std_errors[self._free] = np.sqrt(variance) * objective.units[self._free]
        is_identified = np.zeros(len(self._free), dtype=bool)
        is_identified[self._free] = bare_error <= enough
        return Uncertainty(std_errors, is_identified)

    def _improve(self, radius: float) -> bool:
        """Solve the model of one region; whether the solution was better and lay at its edge."""
        center = self.best
        self._sample(center.z, radius)
        constant, jacobian, _ = self._model(center.z, radius)
        reach = 1.5 * radius * self._sizes(center.z)
        low = np.maximum(-reach, -center.z)
        high = np.minimum(reach, self._upper - center.z)
        step = lsq_linear(jacobian, -constant, bounds=(low - 1e-12, high + 1e-12)).x
        self._run(np.clip(center.z + step, 0.0, self._upper))
        self.best = min(self._runs, key=self._cost)
        moved = np.abs(self.best.z - center.z) / reach
        return self.best is not center and bool((moved > 0.6).any())

    def _sample(self, center: Floats, radius: float) -> None:
        """Run at random places of the region, so that all in it are enough for a model."""
        num = int(np.ceil(POINTS * len(center))) - sum(self._is_near(run.z, center, radius) for run in self._runs)
        for _ in range(num):
            signs = self._random.choice((-1.0, 1.0), len(center))
            move = signs * self._random.uniform(0.3, 1.0, len(center)) * radius * self._sizes(center)
            # At a bound, the other direction is as good.
            outside = (center + move < 0) | (center + move > self._upper)
            self._run(np.clip(center + np.where(outside, -move, move), 0.0, self._upper))

    def _model(self, center: Floats, radius: float) -> tuple[Floats, Floats, Floats]:
        """Residuals at the centre, their slopes, and the variance of what no slope explains: least squares over the
        runs of the region."""
        near = [run for run in self._runs if self._is_near(run.z, center, radius)]
        sizes = self._sizes(center)
        moves = np.array([(run.z - center) / sizes for run in near])
        rows = np.column_stack([np.ones(len(near)), moves])
        values = np.array([self._objective.residuals(run.simulated, run.parameters) for run in near])
        solution = np.linalg.lstsq(rows, values, rcond=None)[0]
        spare = max(1, len(near) - rows.shape[1])
        jumps = ((values - rows @ solution) ** 2).sum(axis=0) / spare
        return solution[0], (solution[1:] / sizes[:, np.newaxis]).T, jumps

    def _is_near(self, z: Floats, center: Floats, radius: float) -> bool:
        return bool((np.abs(z - center) <= 1.6 * radius * self._sizes(center)).all())

    def _sizes(self, z: Floats) -> Floats:
        return np.where(np.flatnonzero(self._free) == OVERLAP, 1.0, np.maximum(z, SMALLEST))

    def _run(self, z: Floats) -> Run:
        parameters = self._start.copy()
        parameters[self._free] = z * self._objective.units[self._free]
        run = Run(z, parameters, self._objective.simulate(self._options, parameters))
        self._runs.append(run)
        self._on_run()
        return run

    def _cost(self, run: Run) -> float:
        residuals = self._objective.residuals(run.simulated, run.parameters)
        return float(residuals @ residuals)


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Standard errors, and which parameters the logs determine."""

    std_errors: Floats
    """NaN for a parameter that is not free."""
    is_identified: Bools
