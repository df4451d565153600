"""Endless performances: layers of moves on jittered timelines, each danced with its own numbers,
cross-faded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from .gestures import UPPER
from .moods import MOODS
from .poses import LAYOUT, Poses
from .rhythm import Move, Offsets, wobble
from .shapes import Array
from .steps import LOWER

FADE: Final = 0.5
"""Seconds from one move to the next."""
BOUNDS: Final[dict[str, tuple[Sequence[float] | float, Sequence[float] | float]]] = {
    "root": ((-0.35, 0.0, -0.3), (0.35, 0.35, 0.3)),
    "spine": (-0.7, 0.7),
    "head": ((-0.45, -0.9, -0.4), (0.5, 0.9, 0.4)),
    "arms": ((-0.9, -0.15, -1.7, 0.0), (2.6, 2.7, 1.3, 2.3)),
    "legs": ((-0.7, -0.15, -0.5, 0.0), (1.9, 0.95, 0.5, 2.2)),
    "feet": (-0.8, 0.6),
    "hands": ((-0.7, 0.0, 0.0, -0.6), (0.7, 1.0, 1.0, 1.6)),
    "eyes": ((0.0, 0.0, -1.0, -1.0), 1.0),
    "brows": (-1.0, 1.0),
    "mouth": ((0.0, -1.0, -1.0), 1.0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Choreography:
    """A performance without end. The same seed is the same performance at any frame rate, from any start."""

    seed: int

    @classmethod
    def from_seed(cls, seed: int) -> Self:
        """The choreography of this seed. Raises ValueError for a negative seed."""
        if seed < 0:
            raise ValueError(f"a choreography's seed must be 0 or more, not {seed}")
        return cls(seed=seed)

    def poses(self, frames: int, fps: float, start: float = 0.0) -> Poses:
        """`frames` poses, one every 1 / fps seconds from `start` (seconds). Raises ValueError if fps or
        frames is not positive, or start is negative.
        """
        if frames < 1 or fps <= 0 or start < 0:
            raise ValueError(f"frames >= 1, fps > 0 and start >= 0 are needed, not {frames}, {fps} and {start}")
        t = start + np.arange(frames) / fps
        still = Poses.still(frames)
        total = {name: getattr(still, name).astype(float) for name in LAYOUT}
        for layer, (moves, pace) in enumerate(((LOWER, 3.4), (UPPER, 2.7), (MOODS, 3.1))):
            self._add(total, t, layer, moves, pace)
        self._turn(total, t)
        self._glance(total, t)
        for name, (low, high) in BOUNDS.items():
            total[name] = np.clip(total[name], low, high)
        return Poses(**{name: value.astype(np.float32) for name, value in total.items()})

    def _rng(self, layer: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 4, layer, index + 2])

    def _segments(self, t: Array, layer: int, pace: float) -> list[tuple[int, float, Array]]:
        """Every part of the layer's timeline that t touches: its index, its beginning, and its weight [T]."""

        def edge(k: int) -> float:
            return pace * (k + 0.3 * self._rng(layer + 100, k).uniform(-1, 1))

        parts = []
        for k in range(int(t[0] / pace) - 2, int(t[-1] / pace) + 3):
            weight = _rise(t - edge(k)) - _rise(t - edge(k + 1))
            if weight.max() > 0:
                parts.append((max(k, -2), edge(k), weight))
        return parts

    def _add(self, total: dict[str, Array], t: Array, layer: int, moves: tuple[Move, ...], pace: float) -> None:
        for index, begin, weight in self._segments(t, layer, pace):
            rng = self._rng(layer, index)
            offsets: Offsets = moves[rng.integers(len(moves))](t - begin, rng)
            for name, value in offsets.items():
                total[name] += value * weight.reshape(-1, *[1] * (value.ndim - 1))

    def _turn(self, total: dict[str, Array], t: Array) -> None:
        """Which way the body faces: mostly towards us, now and then well away; and where on the floor it
        stands.
        """
        for index, _, weight in self._segments(t, 10, 3.0):
            rng = self._rng(10, index)
            far = rng.random() < 0.12
            total["pelvis"][:, 1] += weight * (rng.uniform(-2.8, 2.8) if far else rng.normal(0, 0.42))
        rng = self._rng(11, 0)
        total["root"] += wobble(t, rng, 0.11, 3) * [0.12, 0.0, 0.1]
        total["pelvis"] += wobble(t, rng, 0.3, 3) * [0.02, 0.06, 0.02]
        total["spine"] += wobble(t, rng, 0.37, 3) * [0.03, 0.06, 0.04]
        total["hands"] += wobble(t, rng, 0.4, 8).reshape(-1, 2, 4) * [0.12, 0.14, 0.15, 0.15]

    def _glance(self, total: dict[str, Array], t: Array) -> None:
        """Head and eyes look around, the head in part against the body's turn; eyes blink, at times only
        one.
        """
        for index, begin, weight in self._segments(t, 12, 1.7):
            rng = self._rng(12, index)
            gaze, nod = rng.normal(0, 0.5, 2), rng.normal(0, [0.12, 0.3, 0.1])
            total["eyes"][:, 2:] += weight[:, None] * gaze
            total["head"] += weight[:, None] * (nod + np.array([-0.1 * gaze[1], 0.25 * gaze[0], 0]))
            blink = 1.15 * np.exp(-(((t - begin - rng.uniform(0.3, 1.4)) / 0.075) ** 2))
            wink = rng.random()
            total["eyes"][:, 0] += blink * (wink > 0.06)
            total["eyes"][:, 1] += blink * (wink < 0.94)
        yaw = (total["pelvis"][:, 1] + np.pi) % (2 * np.pi) - np.pi
        total["head"][:, 1] -= 0.55 * np.clip(yaw, -1, 1) * (np.abs(yaw) < 2)


def _rise(t: Array) -> Array:
    """From 0 to 1 with no jump in speed, around t = 0, in FADE seconds."""
    u = np.clip(t / FADE + 0.5, 0, 1)
    return u * u * (3 - 2 * u)
