"""The repertoire: small functions of time that say how far each joint is from standing at ease.

Every move takes local times [T] in seconds and a generator (its own for each time it is danced), and
returns offsets by channel, shaped like the fields of Poses.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from .shapes import Array

Offsets = dict[str, Array]
Rng = np.random.Generator
Move = Callable[[Array, Rng], Offsets]

TAU: Final = 2 * np.pi


def wobble(t: Array, rng: Rng, hz: float, columns: int = 1) -> Array:
    """Smooth noise [T, columns] of standard size: three sines whose frequencies have no common period."""
    rate = hz * np.array([0.61803, 1.0, 1.41421]) * rng.uniform(0.85, 1.18, (columns, 3))
    phase = rng.uniform(0, TAU, (columns, 3))
    return (np.sin(TAU * rate * t[:, None, None] + phase) * [0.5, 0.6, 0.4]).sum(-1)


def beat(t: Array, rng: Rng, low: float, high: float) -> Array:
    return TAU * rng.uniform(low, high) * t + rng.uniform(0, TAU)


def fill(t: Array, shape: tuple[int, ...]) -> Array:
    return np.zeros((len(t), *shape))
