"""What decisions are drawn with."""

import numpy as np
import pytest

from inframind.agents.acting import Noise


def test_noise_does_not_hang_on_the_portions_in_which_it_is_asked_for() -> None:
    """Across blocks, too."""
    num = 2 * Noise.BLOCK + 10
    at_once, noise = Noise(3).gumbel((num,)), Noise(3)

    portions = [noise.gumbel(shape) for shape in [(2, 5), (num - 17,), (7, 1)]]

    assert np.array_equal(np.concatenate([portion.ravel() for portion in portions]), at_once)


def test_noise_is_standard_gumbel() -> None:
    """Its mean is Euler's constant, its variance pi^2 / 6."""
    numbers = Noise(0).gumbel((100_000,))

    assert numbers.mean() == pytest.approx(0.5772, abs=0.02)
    assert numbers.var() == pytest.approx(np.pi**2 / 6, rel=0.02)
    assert np.isfinite(numbers).all()
