"""The search, on residuals that are known."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inframind.calibration.fit_objective import (
    CONTEXT,
    DECODE,
    EXPERT_TOKENS,
    EXPERTS,
    FIXED,
    PARAMETERS,
    PREFILL,
    USUAL_CONTEXT_SHARE,
    USUAL_DECODE_SHARE,
    USUAL_EXPERT_TOKENS,
    USUAL_TOKENS_PER_FIXED,
    Objective,
)
from inframind.calibration.fit_solver import Region, Solver

Floats = NDArray[np.float64]


class StepsAlone(Objective):
    """A log that tells nothing but the length of a step: 10 ms, to a thousandth."""

    def __init__(self, *, has_experts: bool = False) -> None:
        # One request at a time: a decode of a usual server adds a 300th of the unit, a token of context a 200,000th.
        self.units = np.array([0.01, 1e-4, 0.01, 1e-5, 1e-7, 1.0, 0.01, 16.0, 0.01])
        self._step_s = 0.01
        self._has_experts = has_experts

    def simulate(self, options: Any, parameters: Floats) -> Any:
        return parameters

    def averaged(self, options: Any, parameters: Floats, num: int = 0) -> Any:
        return parameters

    def reweigh(self, simulated: Any) -> None:
        pass

    def data_residuals(self, simulated: Any) -> Floats:
        return 1000 * (simulated[[FIXED]] / 0.01 - 1)


class Jumping(StepsAlone):
    """A single replay is off by chance, a mean is not."""

    def __init__(self) -> None:
        super().__init__()
        self._random = np.random.default_rng(0)
        self.weighed_by: list[tuple[str, Floats]] = []

    def simulate(self, options: Any, parameters: Floats) -> Any:
        return "single", parameters * (1 + 0.05 * self._random.standard_normal(len(parameters)))

    def averaged(self, options: Any, parameters: Floats, num: int = 0) -> Any:
        return "mean", parameters

    def reweigh(self, simulated: Any) -> None:
        self.weighed_by.append(simulated)

    def data_residuals(self, simulated: Any) -> Floats:
        return super().data_residuals(simulated[1])


def test_weights_come_from_means_of_replays_at_the_place_itself() -> None:
    """Of a single one, they would be chance, and each search would have another minimum."""
    start = np.array([0.012, 4e-5, 3e-5, 6e-8, 2e-9, 0.15, 0.0, 16.0, 0.0])
    objective, free = Jumping(), np.arange(len(PARAMETERS)) == FIXED

    found = Solver(objective, None, start, free).minimise([Region(0.3, 5), Region(0.1, 20)])  # type: ignore[arg-type]

    assert {kind for kind, _ in objective.weighed_by} == {"mean"}
    assert objective.weighed_by[0][1].tolist() == pytest.approx(start.tolist())
    assert objective.weighed_by[-1][1].tolist() == pytest.approx(found.tolist())
    assert found[FIXED] == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("has_experts", [False, True])
def test_what_the_logs_do_not_tell_ends_at_what_is_usual(has_experts: bool) -> None:
    """Wherever the search begins, and however little a usual value adds to a step. A known mixture of experts is taken
    to read as much of them as of all else, where a decode counts for more, and a prompt's token and its context do
    not."""
    start = np.array([0.012, 2e-4, 1e-3, 1e-6, 1e-8, 0.5, 1e-3, 8.0, 0.0])
    free = np.ones(len(PARAMETERS), dtype=bool)
    solver = Solver(StepsAlone(has_experts=has_experts), None, start, free)  # type: ignore[arg-type]

    found = solver.minimise([Region(0.3, 2.5), Region(0.1, 2.5), Region(0.07, 3)])

    experts_s = 0.01 if has_experts else 0.0
    assert found[FIXED] == pytest.approx(0.01, rel=0.002)
    assert found[PREFILL] == pytest.approx(0.01 / USUAL_TOKENS_PER_FIXED, rel=0.01)
    assert found[DECODE] == pytest.approx((0.01 + experts_s) * USUAL_DECODE_SHARE, rel=0.01)
    assert found[CONTEXT] == pytest.approx(0.01 * USUAL_CONTEXT_SHARE, rel=0.01)
    assert found[EXPERTS] == pytest.approx(experts_s, rel=0.01, abs=0.001 * 0.01)
    assert found[EXPERT_TOKENS] == pytest.approx(USUAL_EXPERT_TOKENS, rel=0.01)
