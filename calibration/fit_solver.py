"""Least squares through the simulator, without its derivatives.

Decisions of the scheduler make the residuals jump wherever a parameter moves: a hair's breadth shifts all later steps,
and each arrival then finds another part of a step still to go. So neither a difference of two runs nor the cost of a
single one says much. Here the residuals at a place are those of the mean of replays around it, a hair apart, and their
slopes are fitted to many runs in a region around it, at random, which averages the jumps; the least-squares problem of
this linear model and of the prior, which is known and no line, is solved within bounds (scipy's ``least_squares``); and
a move is kept if there is less cost at the new place (but for the last one, which promises next to nothing). The region
grows while moves end at its edge, and shrinks when one fails. That is Gauss-Newton with regression models in a trust
region, as DFO-LS does it (Cartis, Fiala, Marteau and Roberts, Improving the Flexibility and Robustness of Model-Based
Derivative-Free Optimization Solvers, 2019, sections 2 and 4).

The weights of the residuals come from such means too: of a single replay, whichever requests happened to jump would
count less, and each search would have another minimum.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from inframind.sim import ServerOptions

from .fit_objective import NUM_AVERAGED, OVERLAP, Objective, Simulated, moved_as_usual

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MAX_MOVES = 6
"""In one region."""
GROWTH, SHRINKAGE = 1.5, 0.5
"""Of a region's radius, after a move to its edge, and after one that was none for the better."""
SMALLEST_RADIUS = 0.2
"""To which the last region may shrink, relative to what it began with."""
MAX_RADIUS, MAX_REACH = 0.4, 0.7
REACH = 3.0
"""A move goes so many radii far at most: slopes that an average of jumps has shown hold beyond it."""
AT_EDGE = 0.9
NEAR = 1.5
"""Runs at up to so many radii belong to a region too."""
GAIN = 0.03
"""Share of the cost that a move must promise to be worth its runs."""
SMALLEST = 0.3
"""Size of a parameter that is near 0, in its unit (see `Objective.units`): its moves must show beside the jumps."""
MAX_OVERLAP = 1.0
SMALLEST_USUAL = 0.01
"""Size in its unit of a parameter that the logs do not tell."""
MAX_STEPS = 50
"""Of the search for the minimum of a model: a few are usual."""
NUM_STRETCHES = 20
"""Stretches of time that a log is cut into for the standard errors."""
NUM_FOLDS = 5
"""Parts of the runs of a region; each is left out once."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region of the search."""

    radius: float
    """Relative to the size of a parameter, at first."""
    runs: float
    """Runs in it, for each free parameter."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the simulator, or the mean of a few."""

    z: Floats
    """Free parameters in their units."""
    parameters: Floats
    simulated: Sequence[Simulated]


@dataclass(frozen=True, slots=True)
class _Model:
    """Residuals around a place: ``residuals + jacobian @ (z - center)``, and those of the prior, as they are."""

    center: Floats
    residuals: Floats
    jacobian: Floats
    jumps: Floats
    """Variance of each residual that no slope explains."""
    prior: Callable[[Floats], Floats]
    """Of z."""

    def after(self, step: Floats) -> Floats:
        """All residuals."""
        return np.concatenate([self.residuals + self.jacobian @ step, self.prior(self.center + step)])

    def cost_after(self, step: Floats) -> float:
        left = self.after(step)
        return float(left @ left)

    @property
    def cost(self) -> float:
        return self.cost_after(np.zeros(len(self.center)))

    def slopes(self, step: Floats) -> Floats:
        """Of all residuals; the prior's by differences, for it is smooth."""
        z = self.center + step
        here, hair = self.prior(z), 1e-6 * np.maximum(z, 1e-3)
        columns = [(self.prior(z + move) - here) / move.sum() for move in np.diag(hair)]
        return np.vstack([self.jacobian, np.array(columns).T])


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Standard errors, and which parameters the logs determine."""

    std_errors: Floats
    """NaN for a parameter that is not free."""
    is_identified: Bools


class Solver:
    """A search on its way: the runs so far, and where it stands.

    Parameters
    ----------
    start
        Parameters in the order of `PARAMETERS`; those that are not free stay as they are.
    seed
        Of the places around the present parameters at which the simulator is run.
    """

    def __init__(
        self, objective: Objective, options: ServerOptions, start: Floats, free: Bools, *, seed: int = 0
    ) -> None:
        self._objective = objective
        self._options = options
        self._free = free
        self._start = start
        self._random = np.random.default_rng(seed)
        self._is_overlap: Bools = np.flatnonzero(free) == OVERLAP
        self._upper = np.where(self._is_overlap, MAX_OVERLAP, np.inf)
        self._runs: list[Run] = []
        self.best = self._run(np.clip((start / objective.units)[free], 0.0, self._upper))
        """The replay at the minimum that was found."""

    def minimise(self, regions: Sequence[Region]) -> Floats:
        """Search in one region after the other; returns all parameters, in the order of `PARAMETERS`."""
        center = self.best.z
        for region, following in zip_longest(regions, regions[1:]):
            smallest = following.radius if following else SMALLEST_RADIUS * region.radius
            center = self._settle(center, region, smallest)
        self.best = self._run(center)
        self._objective.reweigh(self._averaged(center, NUM_AVERAGED).simulated)
        return self.best.parameters

    def _settle(self, center: Floats, region: Region, smallest: float) -> Floats:
        """Where the model of a region that moves as far as it pays has its minimum.

        ``smallest`` is the radius that it may shrink to: there the next one begins.
        """
        radius, num = region.radius, int(np.ceil(region.runs * len(center)))
        here = self._averaged(center, num // 2)
        self._objective.reweigh(here.simulated)
        model = self._sampled(here, radius, num)
        for _ in range(MAX_MOVES):
            step = self._step(model, radius)
            if model.cost_after(step) > (1 - GAIN) * model.cost:
                break
            there = self._averaged(here.z + step, num // 2)
            if self._cost(there) > model.cost:
                radius *= SHRINKAGE
                if radius < smallest:
                    break
            else:
                if self._distance(there.z, here.z) > AT_EDGE * REACH * radius:
                    radius = min(GROWTH * radius, MAX_RADIUS)
                here = there
            model = self._sampled(here, radius, num)
        return here.z + self._step(model, radius)

    def uncertainty(self, region: Region) -> Uncertainty:
        """Standard errors from the slopes of the model, with residuals that are alike in a stretch of time as one.

        In a queue, errors of neighbours are one error. So the covariance is the sandwich estimate clustered by
        stretches of time, ``H^-1 (sum_b g_b g_b^T) H^-1`` with ``H = J^T J`` and ``g_b`` the gradient of stretch b
        (Cameron and Miller, A Practitioner's Guide to Cluster-Robust Inference, 2015, equation 11): what a bootstrap
        over these stretches would tend to, without its thousands of simulations. Added are the jumps of the residuals,
        for the real server's are as large, and how far the minimum moves with the runs that it was found by (the
        jackknife over `NUM_FOLDS` parts of them), and how far it moves with each parameter that is held at a usual
        value, if that is off by what is usual; and it is never less than what follows from the model's own error.

        A parameter is identified if its standard error, without the prior, is less than half of it, or than a tenth of
        a usual step for what it adds to one.
        """
        objective = self._objective
        num = int(np.ceil(region.runs * len(self.best.z)))
        around = self._averaged(self.best.z, num // 2)
        model = self._sampled(around, region.radius, num)
        data, all_slopes = model.jacobian, model.slopes(np.zeros(len(model.center)))
        inverse = np.linalg.pinv(all_slopes.T @ all_slopes, rcond=1e-12)
        scores = data.T @ objective.by_stretch(around.simulated, NUM_STRETCHES)
        scores -= scores.mean(axis=1, keepdims=True)
        columns = scores.shape[1]
        meat = columns / (columns - 1) * scores @ scores.T + (data.T * model.jumps) @ data
        variance = np.maximum(np.diag(inverse @ meat @ inverse), np.diag(inverse))
        variance += self._search_variance(model, region.radius)
        variance += self._tied_variance(inverse @ data.T)

        # Without the prior: a ridge far below any information stands in for what has none at all.
        information = data.T @ data
        bare = np.linalg.inv(information + 1e-9 * np.trace(information) * np.eye(len(information)))
        bare_error = np.sqrt(np.diag(bare))
        enough = np.where(self._is_overlap, 0.5, np.maximum(0.5 * self.best.z, 0.1))

        std_errors = np.full(len(self._free), np.nan)
        std_errors[self._free] = np.sqrt(variance) * objective.units[self._free]
        is_identified = np.zeros(len(self._free), dtype=bool)
        is_identified[self._free] = bare_error <= enough
        return Uncertainty(std_errors, is_identified)

    def _search_variance(self, model: _Model, radius: float) -> Floats:
        runs = self._near(model.center, radius)
        found = []
        for fold in range(NUM_FOLDS):
            others = [run for i, run in enumerate(runs) if i % NUM_FOLDS != fold]
            found.append(self._step(self._model(model.center, model.residuals, others), radius))
        return np.asarray((NUM_FOLDS - 1) * np.var(found, axis=0))

    def _tied_variance(self, response: Floats) -> Floats:
        """``response`` is how far the minimum moves with each residual."""
        variance = np.zeros(len(response))
        for index in np.flatnonzero(~self._free).tolist():
            up, down = (self._data_residuals(moved_as_usual(self.best.parameters, index, sign)) for sign in (1, -1))
            variance += (response @ (up - down) / 2) ** 2
        return variance

    def _data_residuals(self, parameters: Floats) -> Floats:
        return self._objective.data_residuals(self._objective.simulate(self._options, parameters))

    def _step(self, model: _Model, radius: float) -> Floats:
        """To the minimum of the model in its region."""
        reach = min(REACH * radius, MAX_REACH) * self._sizes(model.center)
        low = np.maximum(-reach, -model.center)
        high = np.minimum(reach, self._upper - model.center)
        # The data's part is linear, so a small triangle says all of it.
        orthogonal, triangle = np.linalg.qr(model.jacobian)
        small = replace(model, residuals=orthogonal.T @ model.residuals, jacobian=triangle)
        step = least_squares(
            small.after,
            np.zeros(len(reach)),
            small.slopes,
            bounds=(low - 1e-9, high + 1e-9),
            x_scale=np.maximum(model.center, SMALLEST_USUAL),
            max_nfev=MAX_STEPS,
        ).x
        return np.asarray(np.clip(step, low, high))

    def _sampled(self, here: Run, radius: float, num: int) -> _Model:
        """A model of the region around it, with runs at random places of it until it has so many."""
        center = here.z
        for _ in range(num - len(self._near(center, radius))):
            signs = self._random.choice((-1.0, 1.0), len(center))
            move = signs * self._random.uniform(0.3, 1.0, len(center)) * radius * self._sizes(center)
            # At a bound, the other direction is as good.
            outside = (center + move < 0) | (center + move > self._upper)
            self._run(np.clip(center + np.where(outside, -move, move), 0.0, self._upper))
        residuals = self._objective.data_residuals(here.simulated)
        return self._model(center, residuals, self._near(center, radius))

    def _cost(self, run: Run) -> float:
        residuals = self._objective.residuals(run.simulated, run.parameters)
        return float(residuals @ residuals)

    def _averaged(self, z: Floats, num: int) -> Run:
        """The mean of so many replays around a place, or of `NUM_AVERAGED` if that is more."""
        parameters = self._parameters(z)
        return Run(z, parameters, self._objective.averaged(self._options, parameters, max(num, NUM_AVERAGED)))

    def _model(self, center: Floats, residuals: Floats, runs: Sequence[Run]) -> _Model:
        """The slopes that runs around a center show; ``residuals`` are those at it."""
        sizes = self._sizes(center)
        rows = np.array([(run.z - center) / sizes for run in runs])
        values = np.array([self._objective.data_residuals(run.simulated) for run in runs]) - residuals
        solution = np.linalg.lstsq(rows, values, rcond=None)[0]
        jumps = ((values - rows @ solution) ** 2).sum(axis=0) / max(1, len(runs) - rows.shape[1])
        return _Model(center, residuals, (solution / sizes[:, np.newaxis]).T, jumps, self._prior)

    def _near(self, center: Floats, radius: float) -> list[Run]:
        return [run for run in self._runs if self._distance(run.z, center) <= NEAR * radius]

    def _distance(self, z: Floats, center: Floats) -> float:
        """In the direction in which it is largest, relative to the sizes of the parameters."""
        return float((np.abs(z - center) / self._sizes(center)).max(initial=0.0))

    def _sizes(self, z: Floats) -> Floats:
        return np.where(self._is_overlap, 1.0, np.maximum(z, SMALLEST))

    def _parameters(self, z: Floats) -> Floats:
        parameters = self._start.copy()
        parameters[self._free] = z * self._objective.units[self._free]
        return parameters

    def _prior(self, z: Floats) -> Floats:
        # Bounds are kept to a hair's breadth only.
        return self._objective.prior(self._parameters(np.maximum(z, 0.0)))

    def _run(self, z: Floats) -> Run:
        parameters = self._parameters(z)
        run = Run(z, parameters, self._objective.simulate(self._options, parameters))
        self._runs.append(run)
        return run
