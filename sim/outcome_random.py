"""Random numbers that are hashes of what they belong to, by SplitMix64 (Steele et al. 2014, OOPSLA).

Nothing depends on the order in which they are asked for.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]
Keys = NDArray[np.uint64]


def names_to_keys(names: Sequence[str]) -> Keys:
    """Their CRCs: the same wherever a name stands."""
    return np.array([zlib.crc32(name.encode()) for name in names], np.uint64)


def mix(key: Keys, with_: Keys) -> Keys:
    """One round of SplitMix64, the other key added; arrays, which wrap around."""
    z = (key ^ (with_ * np.uint64(0xD1342543DE82EF95))) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = z ^ (z >> np.uint64(31))
    return mixed


def uniform(key: Keys, purpose: int) -> Array:
    """In (0, 1), one for each key and purpose."""
    bits = mix(key, np.array([purpose], np.uint64)) >> np.uint64(11)
    return np.asarray((bits.astype(float) + 0.5) * 2.0**-53)


def normal(key: Keys, purpose: int) -> Array:
    """A standard normal, one for each key and purpose."""
    return np.asarray(ndtri(uniform(key, purpose)))


def blend(shared: float, first: Array, second: Array) -> Array:
    """A standard normal of two independent ones."""
    return np.asarray(np.sqrt(shared) * first + np.sqrt(1 - shared) * second)
