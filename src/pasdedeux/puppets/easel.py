"""The painter's tools: a fine canvas, quiet colours, and what many places share.

Coordinates: y from 0 (top) to 1 (bottom), x from 0 (the picture's middle) in the same unit.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from .shapes import Colour, darker, lighter, mix

Rng = np.random.Generator


class Easel:
    """A fine canvas that is painted once and brought down to size."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size, self.fine = size, 3 if min(size) <= 192 else 2
        self.height = size[1] * self.fine
        self.half = 0.5 * size[0] / size[1]
        self.canvas = np.zeros((self.height, size[0] * self.fine, 3), np.uint8)

    def polygon(self, points: list[tuple[float, float]] | NDArray[np.float64], colour: Colour) -> None:
        corners = ((np.asarray(points, float) + np.array([self.half, 0])) * self.height - 0.5) * 16
        cv2.fillPoly(self.canvas, [np.rint(corners).astype(np.int32)], [255 * c for c in colour], cv2.LINE_AA, 4)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def disc(self, x: float, y: float, rx: float, colour: Colour, ry: float | None = None) -> None:
        angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        self.polygon(np.stack([x + rx * np.cos(angle), y + (rx if ry is None else ry) * np.sin(angle)], -1), colour)

    def fade(self, top: Colour, low: Colour, y0: float = 0.0, y1: float = 1.0) -> None:
        """A vertical gradient between two heights over the whole width."""
        a, b = round(y0 * self.height), round(y1 * self.height)
        t = np.linspace(0, 1, max(b - a, 1))[:, None, None]
        self.canvas[a:b] = np.round(255 * (np.array(top) * (1 - t) + np.array(low) * t))

    def picture(self) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(self.canvas, self.size, interpolation=cv2.INTER_AREA), np.uint8)


def soft(rng: Rng, low: float = 0.74, high: float = 0.97, depth: float = 0.3) -> Colour:
    """A quiet colour for large areas."""
    hue, value = rng.uniform(0, 1), rng.uniform(low, high)
    wave = 0.5 + 0.5 * np.cos(2 * np.pi * (hue - np.array([0, 1 / 3, 2 / 3])))
    r, g, b = value * (1 - depth * rng.uniform(0.4, 1) * (1 - wave))
    return (float(r), float(g), float(b))


def one_of(rng: Rng, *colours: Colour) -> Colour:
    return colours[rng.integers(len(colours))]


def paint_floor(easel: Easel, rng: Rng, horizon: float, colour: Colour) -> None:
    """Boards or tiles that run towards a vanishing point above the horizon."""
    easel.fade(darker(colour, 0.12), lighter(colour, 0.08), horizon, 1.0)
    line, spread = darker(colour, 0.16), rng.uniform(0.1, 0.22)
    kind = rng.integers(3)
    for i in np.arange(-16, 17) if kind < 2 else ():
        top, low = i * spread * 0.6, i * spread
        easel.polygon([(top, horizon), (top + 0.004, horizon), (low + 0.007, 1), (low, 1)], line)
    for k in range(1, 5) if kind == 1 else ():
        y = horizon + (1 - horizon) * (k / 5) ** 1.4
        easel.box(-9, y, 9, y + 0.005, line)
    if kind == 2:
        easel.disc(
            0,
            0.5 * (horizon + 1.0) + 0.02,
            rng.uniform(0.32, 0.5),
            soft(rng, 0.5, 0.9, 0.55),
            0.45 * (1 - horizon),
        )
        easel.disc(
            0,
            0.5 * (horizon + 1.0) + 0.02,
            rng.uniform(0.2, 0.3),
            soft(rng, 0.6, 0.95, 0.5),
            0.3 * (1 - horizon),
        )


def paint_sky(easel: Easel, rng: Rng, horizon: float) -> None:
    top, low = (
        ((0.42, 0.7, 0.93), (0.82, 0.93, 0.98)), ((0.98, 0.72, 0.55), (1.0, 0.9, 0.72)),
        ((0.55, 0.8, 0.86), (0.95, 0.95, 0.85)), ((0.62, 0.6, 0.86), (0.98, 0.8, 0.82)),
    )[rng.integers(4)]  # fmt: skip
    easel.fade(top, low, 0, horizon + 0.02)
    if rng.random() < 0.6:
        easel.disc(
            rng.uniform(-1, 1) * easel.half * 0.85,
            rng.uniform(0.08, 0.25),
            rng.uniform(0.05, 0.09),
            (1.0, 0.95, 0.75),
        )
    for _ in range(rng.integers(1, 5)):
        paint_cloud(
            easel,
            rng,
            rng.uniform(-1, 1) * easel.half,
            rng.uniform(0.06, 0.35),
            rng.uniform(0.03, 0.06),
            lighter(low, 0.7),
        )


def paint_cloud(easel: Easel, rng: Rng, x: float, y: float, size: float, colour: Colour) -> None:
    for dx in (-1.1, -0.4, 0.45, 1.1):
        easel.disc(
            x + dx * size,
            y - rng.uniform(0, 0.5) * size * (abs(dx) < 1),
            size * rng.uniform(0.6, 0.9),
            colour,
        )
    easel.box(x - 1.2 * size, y, x + 1.2 * size, y + 0.62 * size, colour)


def paint_hills(easel: Easel, rng: Rng, y: float, height: float, colour: Colour) -> None:
    x = np.linspace(-easel.half, easel.half, 40)
    waves = sum(
        np.sin(x * f + p) * a
        for f, p, a in zip(rng.uniform(2, 9, 3), rng.uniform(0, 6, 3), (0.5, 0.3, 0.2), strict=True)
    )
    ridge = np.stack([x, y - height * (0.6 + 0.6 * np.asarray(waves))], -1)
    easel.polygon(np.concatenate([ridge, [[easel.half, 1], [-easel.half, 1]]]), colour)


def paint_tree(easel: Easel, rng: Rng, x: float, y: float, size: float, leaf: Colour) -> None:
    easel.polygon(
        [
            (x - 0.06 * size, y),
            (x + 0.06 * size, y),
            (x + 0.04 * size, y - 0.6 * size),
            (x - 0.04 * size, y - 0.6 * size),
        ],
        (0.45, 0.3, 0.2),
    )
    if rng.random() < 0.35:
        for k in range(3):
            w, top = (0.36 - 0.08 * k) * size, y - (0.3 + 0.28 * k) * size
            easel.polygon([(x - w, top), (x + w, top), (x, top - 0.45 * size)], mix(leaf, (1, 1, 1), 0.07 * k))
        return
    for dx, dy, r in ((-0.2, 0.65, 0.25), (0.22, 0.62, 0.24), (0, 0.88, 0.3)):
        easel.disc(x + dx * size, y - dy * size, r * size, leaf)
    easel.disc(x - 0.08 * size, y - 0.92 * size, 0.15 * size, lighter(leaf, 0.15))


def beside(easel: Easel, rng: Rng, count: int) -> list[float]:
    """Places left and right of the middle, where the character leaves room."""
    return [float(s * easel.half * rng.uniform(0.42, 1.0)) for s in rng.permutation([-1, 1] * count)[:count]]
