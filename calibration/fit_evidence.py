"""Whether the logs speak for a richer model: a mixture of experts, or engines in lockstep.

A richer model explains any log a little better, its own scatter included. So it is taken only if it brings the loss
down to a share, and if that is no matter of a few requests: the difference of the two losses, request by request, is
added up in stretches of time, and what these sum up to must be beyond chance (Vuong, Likelihood Ratio Tests for Model
Selection and Non-Nested Hypotheses, 1989; by stretches, for in a queue the errors of neighbours are one error).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .fit_objective import MeasuredLog
from .fit_options import Completed

Floats = NDArray[np.float64]

IMPROVEMENT = 0.85
"""A richer model is taken for real if it brings the loss down to this share, or less."""
BEYOND_CHANCE = 2.0
"""Standard errors of the difference by which it must be better."""
NUM_STRETCHES = 20
"""That the requests are cut into."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model of the logs, fitted."""

    logs: Sequence[MeasuredLog]
    completed: Completed
    start: Floats
    """Where the search for it began."""
    parameters: Floats
    losses: pd.Series
    """Of each measured request, by log and row."""
    is_continued: bool
    """Whether the logs have a continuation."""
    is_preempting: bool
    """Whether the simulated server preempts requests."""
    plain: "Candidate | None" = None
    """Of a mixture of experts that only the logs speak for, what it was preferred to."""

    @property
    def loss(self) -> float:
        """How far off it is: the mean of all requests."""
        return float(self.losses.mean())

    def loss_of(self, logs: Sequence[int]) -> float:
        """The same of some logs, by their place; NaN if nothing of them is compared."""
        return float(self.losses[self.losses.index.get_level_values(0).isin(logs)].mean())

    def is_clearly_better_than(self, other: "Candidate") -> bool:
        """Whether the logs speak for it: its loss is less by more than chance, and by enough to matter."""
        return self.loss < IMPROVEMENT * other.loss and _is_beyond_chance((other.losses - self.losses).dropna())


def _is_beyond_chance(gains: pd.Series) -> bool:
    """Whether the gains of all requests, in order of arrival, sum up to more than their scatter could."""
    num = min(NUM_STRETCHES, len(gains))
    if num < 2:
        return False
    by_stretch = np.bincount(np.arange(len(gains)) * num // len(gains), gains)
    return float(by_stretch.sum()) > BEYOND_CHANCE * float(np.sqrt(num) * by_stretch.std(ddof=1))
