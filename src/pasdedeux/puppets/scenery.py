"""The painters of places. Coordinates: y from 0 (top) to 1 (bottom), x from 0 (the picture's middle) in the same unit."""

from collections.abc import Callable
from typing import Final

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
        corners = ((np.asarray(points, float) + [self.half, 0]) * self.height - 0.5) * 16
        cv2.fillPoly(
            self.canvas, [np.rint(corners).astype(np.int32)], [255 * c for c in colour], cv2.LINE_AA, 4
        )

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def disc(self, x: float, y: float, rx: float, colour: Colour, ry: float | None = None) -> None:
        angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        self.polygon(
            np.stack([x + rx * np.cos(angle), y + (rx if ry is None else ry) * np.sin(angle)], -1), colour
        )

    def fade(self, top: Colour, low: Colour, y0: float = 0.0, y1: float = 1.0) -> None:
        """A vertical gradient between two heights over the whole width."""
        a, b = round(y0 * self.height), round(y1 * self.height)
        t = np.linspace(0, 1, max(b - a, 1))[:, None, None]
        self.canvas[a:b] = np.round(255 * (np.array(top) * (1 - t) + np.array(low) * t))

    def picture(self) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(self.canvas, self.size, interpolation=cv2.INTER_AREA), np.uint8)


def _soft(rng: Rng, low: float = 0.74, high: float = 0.97, depth: float = 0.3) -> Colour:
    """A quiet colour for large areas."""
    hue, value = rng.uniform(0, 1), rng.uniform(low, high)
    wave = 0.5 + 0.5 * np.cos(2 * np.pi * (hue - np.array([0, 1 / 3, 2 / 3])))
    r, g, b = value * (1 - depth * rng.uniform(0.4, 1) * (1 - wave))
    return (float(r), float(g), float(b))


def _one(rng: Rng, *colours: Colour) -> Colour:
    return colours[rng.integers(len(colours))]


def _floor(easel: Easel, rng: Rng, horizon: float, colour: Colour) -> None:
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
            _soft(rng, 0.5, 0.9, 0.55),
            0.45 * (1 - horizon),
        )
        easel.disc(
            0,
            0.5 * (horizon + 1.0) + 0.02,
            rng.uniform(0.2, 0.3),
            _soft(rng, 0.6, 0.95, 0.5),
            0.3 * (1 - horizon),
        )


def _cloud(easel: Easel, rng: Rng, x: float, y: float, size: float, colour: Colour) -> None:
    for dx in (-1.1, -0.4, 0.45, 1.1):
        easel.disc(
            x + dx * size,
            y - rng.uniform(0, 0.5) * size * (abs(dx) < 1),
            size * rng.uniform(0.6, 0.9),
            colour,
        )
    easel.box(x - 1.2 * size, y, x + 1.2 * size, y + 0.62 * size, colour)


def _sky(easel: Easel, rng: Rng, horizon: float) -> None:
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
        _cloud(
            easel,
            rng,
            rng.uniform(-1, 1) * easel.half,
            rng.uniform(0.06, 0.35),
            rng.uniform(0.03, 0.06),
            lighter(low, 0.7),
        )


def _hills(easel: Easel, rng: Rng, y: float, height: float, colour: Colour) -> None:
    x = np.linspace(-easel.half, easel.half, 40)
    waves = sum(
        np.sin(x * f + p) * a
        for f, p, a in zip(rng.uniform(2, 9, 3), rng.uniform(0, 6, 3), (0.5, 0.3, 0.2), strict=True)
    )
    ridge = np.stack([x, y - height * (0.6 + 0.6 * np.asarray(waves))], -1)
    easel.polygon(np.concatenate([ridge, [[easel.half, 1], [-easel.half, 1]]]), colour)


def _tree(easel: Easel, rng: Rng, x: float, y: float, size: float, leaf: Colour) -> None:
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
            easel.polygon(
                [(x - w, top), (x + w, top), (x, top - 0.45 * size)], mix(leaf, (1, 1, 1), 0.07 * k)
            )
        return
    for dx, dy, r in ((-0.2, 0.65, 0.25), (0.22, 0.62, 0.24), (0, 0.88, 0.3)):
        easel.disc(x + dx * size, y - dy * size, r * size, leaf)
    easel.disc(x - 0.08 * size, y - 0.92 * size, 0.15 * size, lighter(leaf, 0.15))


def _sides(easel: Easel, rng: Rng, count: int) -> list[float]:
    """Places left and right of the middle, where the character leaves room."""
    return [float(s * easel.half * rng.uniform(0.42, 1.0)) for s in rng.permutation([-1, 1] * count)[:count]]


def room(easel: Easel, rng: Rng) -> None:
    """A wall with paper, a window or pictures, and furniture on a floor."""
    horizon, wall = rng.uniform(0.7, 0.78), _soft(rng)
    easel.fade(wall, lighter(wall, 0.12), 0, horizon)
    _paper(easel, rng, horizon, mix(wall, _one(rng, (1, 1, 1), darker(wall)), 0.25))
    left = rng.choice([-1, 1])
    _window(easel, rng, left * easel.half * 0.6) if rng.random() < 0.7 else _frame(
        easel, rng, left * easel.half * 0.6
    )
    _frame(easel, rng, -left * easel.half * rng.uniform(0.55, 0.75))
    _floor(
        easel,
        rng,
        horizon,
        _one(rng, (0.72, 0.52, 0.36), (0.82, 0.66, 0.48), (0.6, 0.62, 0.68), _soft(rng, 0.5, 0.8)),
    )
    easel.box(-9, horizon - 0.025, 9, horizon, lighter(wall, 0.6))
    side = -left * easel.half * rng.uniform(0.75, 0.9)
    (_plant, _lamp, _shelf)[rng.integers(3)](easel, rng, side, horizon + 0.07)


def _paper(easel: Easel, rng: Rng, horizon: float, colour: Colour) -> None:
    kind, step = rng.integers(4), rng.uniform(0.08, 0.14)
    marks = np.arange(-12, 13) * step
    for x in marks if kind == 0 else ():
        easel.box(x, 0, x + 0.45 * step, horizon, colour)
    for i, x in enumerate(marks if kind in (1, 2) else ()):
        for j in np.arange(0, 9):
            spot = (x, (j + 0.5 * (i % 2)) * step)
            if spot[1] < horizon - 0.04 and kind == 1:
                easel.disc(*spot, 0.16 * step, colour)
            elif spot[1] < horizon - 0.04:
                easel.polygon(
                    [
                        (spot[0], spot[1] - 0.022),
                        (spot[0] + 0.016, spot[1]),
                        (spot[0], spot[1] + 0.022),
                        (spot[0] - 0.016, spot[1]),
                    ],
                    colour,
                )
    if kind == 3:
        easel.box(-9, 0.5 * horizon, 9, horizon, colour)


def _window(easel: Easel, rng: Rng, x: float) -> None:
    w, y0, y1 = rng.uniform(0.13, 0.18), rng.uniform(0.1, 0.16), rng.uniform(0.44, 0.52)
    white, sky = (0.97, 0.96, 0.93), _one(rng, (0.62, 0.84, 0.95), (0.99, 0.82, 0.62), (0.2, 0.24, 0.45))
    easel.box(x - w - 0.02, y0 - 0.02, x + w + 0.02, y1 + 0.02, white)
    easel.box(x - w, y0, x + w, y1, sky)
    easel.disc(x + 0.3 * w, y0 + 0.1, 0.03, lighter(sky, 0.7))
    easel.polygon(
        [(x - w, y1), (x - w, y1 - 0.07), (x, y1 - 0.12), (x + w, y1 - 0.05), (x + w, y1)],
        mix(sky, (0.3, 0.55, 0.35), 0.6),
    )
    easel.box(x - 0.008, y0, x + 0.008, y1, white)
    easel.box(x - w, 0.5 * (y0 + y1), x + w, 0.5 * (y0 + y1) + 0.016, white)
    curtain = _soft(rng, 0.7, 0.95, 0.6)
    for s in (-1, 1):
        easel.polygon(
            [
                (x + s * (w + 0.05), y0 - 0.04),
                (x + s * 0.45 * w, y0 - 0.04),
                (x + s * 0.8 * w, y1 + 0.04),
                (x + s * (w + 0.05), y1 + 0.04),
            ],
            curtain,
        )


def _frame(easel: Easel, rng: Rng, x: float) -> None:
    for k in range(rng.integers(1, 3)):
        cx, cy, w, h = (
            x + 0.05 * k,
            0.2 + 0.2 * k + rng.uniform(-0.03, 0.03),
            rng.uniform(0.05, 0.09),
            rng.uniform(0.05, 0.08),
        )
        easel.box(
            cx - w - 0.012,
            cy - h - 0.012,
            cx + w + 0.012,
            cy + h + 0.012,
            _one(rng, (0.45, 0.3, 0.2), (0.9, 0.85, 0.7), (0.2, 0.2, 0.25)),
        )
        easel.box(cx - w, cy - h, cx + w, cy + h, _soft(rng, 0.7, 0.98))
        easel.disc(cx + rng.uniform(-0.3, 0.3) * w, cy, 0.4 * h, _soft(rng, 0.5, 0.9, 0.7))
        easel.polygon(
            [(cx - w, cy + h), (cx - 0.2 * w, cy + 0.2 * h), (cx + w, cy + h)], _soft(rng, 0.4, 0.8, 0.6)
        )


def _plant(easel: Easel, rng: Rng, x: float, y: float) -> None:
    leaf = mix((0.25, 0.55, 0.35), _soft(rng), 0.25)
    for a in np.linspace(-1.1, 1.1, 6):
        tip = (x + 0.15 * np.sin(a), y - 0.1 - 0.2 * np.cos(a))
        easel.polygon(
            [
                (x - 0.012, y - 0.08),
                (x + 0.07 * np.sin(a) - 0.03, y - 0.17),
                tip,
                (x + 0.07 * np.sin(a) + 0.03, y - 0.17),
            ],
            mix(leaf, (1, 1, 0.8), 0.12 * (a > 0)),
        )
    easel.polygon(
        [(x - 0.06, y - 0.1), (x + 0.06, y - 0.1), (x + 0.045, y), (x - 0.045, y)],
        _one(rng, (0.8, 0.45, 0.3), (0.93, 0.9, 0.85), (0.3, 0.4, 0.55)),
    )


def _lamp(easel: Easel, rng: Rng, x: float, y: float) -> None:
    easel.box(x - 0.008, y - 0.42, x + 0.008, y, (0.35, 0.3, 0.3))
    easel.disc(x, y, 0.05, (0.35, 0.3, 0.3), 0.012)
    easel.polygon(
        [(x - 0.045, y - 0.52), (x + 0.045, y - 0.52), (x + 0.09, y - 0.38), (x - 0.09, y - 0.38)],
        mix(_soft(rng), (1, 0.85, 0.5), 0.6),
    )


def _shelf(easel: Easel, rng: Rng, x: float, y: float) -> None:
    wood = _one(rng, (0.55, 0.38, 0.26), (0.9, 0.87, 0.8), (0.36, 0.42, 0.5))
    easel.box(x - 0.13, y - 0.42, x + 0.13, y, wood)
    for row in range(3):
        low = y - 0.02 - 0.135 * row
        easel.box(x - 0.115, low - 0.115, x + 0.115, low, darker(wood, 0.3))
        edge = x - 0.11
        while edge < x + 0.06:
            wide = rng.uniform(0.016, 0.035)
            easel.box(
                edge, low - rng.uniform(0.07, 0.105), edge + wide - 0.003, low, _soft(rng, 0.6, 0.95, 0.75)
            )
            edge += wide


def street(easel: Easel, rng: Rng) -> None:
    """A row of houses behind a pavement."""
    horizon = rng.uniform(0.7, 0.76)
    _sky(easel, rng, horizon)
    x = -easel.half - rng.uniform(0, 0.1)
    while x < easel.half:
        wide, top = rng.uniform(0.18, 0.34), rng.uniform(0.12, 0.4)
        _house(easel, rng, x, x + wide, top, horizon)
        x += wide
    stone = _one(rng, (0.72, 0.7, 0.68), (0.8, 0.74, 0.66), (0.6, 0.62, 0.66))
    _floor(easel, rng, horizon, stone)
    easel.box(-9, horizon, 9, horizon + 0.018, lighter(stone, 0.35))
    for x in _sides(easel, rng, 1):
        easel.box(x - 0.009, 0.3, x + 0.009, horizon + 0.05, (0.2, 0.22, 0.26))
        easel.disc(x, 0.29, 0.035, (1.0, 0.92, 0.65))
    if rng.random() < 0.6:
        _tree(easel, rng, _sides(easel, rng, 1)[0], horizon + 0.05, rng.uniform(0.35, 0.5), (0.36, 0.6, 0.36))


def _house(easel: Easel, rng: Rng, x0: float, x1: float, top: float, low: float) -> None:
    wall = _soft(rng, 0.6, 0.95, 0.5)
    roof = darker(_soft(rng, 0.5, 0.8, 0.6), 0.25)
    easel.box(x0, top, x1, low, wall)
    middle, eave = 0.5 * (x0 + x1), 0.015
    if rng.random() < 0.5:
        easel.polygon([(x0 - eave, top), (x1 + eave, top), (middle, top - rng.uniform(0.06, 0.14))], roof)
    else:
        easel.box(x0 - eave, top - 0.03, x1 + eave, top, roof)
    glass, columns = (
        _one(rng, (0.98, 0.9, 0.6), (0.65, 0.82, 0.9), (0.35, 0.45, 0.58)),
        int((x1 - x0) / 0.085),
    )
    for y in np.arange(top + 0.05, low - 0.16, 0.12):
        for c in range(columns):
            x = x0 + (c + 0.5) * (x1 - x0) / columns
            easel.box(x - 0.027, y - 0.006, x + 0.027, y + 0.066, lighter(wall, 0.55))
            easel.box(x - 0.02, y, x + 0.02, y + 0.06, glass)
    easel.box(middle - 0.03, low - 0.12, middle + 0.03, low, roof)


def park(easel: Easel, rng: Rng) -> None:
    """Hills, trees, a meadow with flowers and perhaps a path."""
    horizon, grass = rng.uniform(0.62, 0.7), mix((0.5, 0.74, 0.38), _soft(rng), 0.3)
    _sky(easel, rng, horizon)
    _hills(easel, rng, horizon, 0.16, mix(grass, (0.6, 0.78, 0.9), 0.5))
    _hills(easel, rng, horizon + 0.02, 0.07, mix(grass, (0.4, 0.6, 0.5), 0.35))
    for x in _sides(easel, rng, int(rng.integers(2, 5))):
        _tree(
            easel,
            rng,
            x,
            horizon + rng.uniform(0.02, 0.08),
            rng.uniform(0.25, 0.5),
            mix((0.3, 0.58, 0.34), _soft(rng), 0.3),
        )
    easel.fade(darker(grass, 0.08), lighter(grass, 0.1), horizon + 0.05, 1)
    if rng.random() < 0.5:
        easel.polygon(
            [(-0.06, horizon + 0.05), (0.06, horizon + 0.05), (0.5, 1), (-0.5, 1)], (0.88, 0.78, 0.6)
        )
    for _ in range(rng.integers(10, 40)):
        x, y = rng.uniform(-1, 1) * easel.half, rng.uniform(horizon + 0.08, 0.99)
        easel.disc(
            x,
            y,
            0.008 + 0.006 * y,
            _one(rng, (1, 1, 0.9), (1, 0.8, 0.3), (0.95, 0.5, 0.5), (0.75, 0.6, 0.95)),
        )


def beach(easel: Easel, rng: Rng) -> None:
    """Sea, sand, and something to lie under."""
    horizon, sand = rng.uniform(0.48, 0.56), mix((0.96, 0.85, 0.62), _soft(rng, 0.8, 1), 0.2)
    _sky(easel, rng, horizon)
    sea = mix((0.2, 0.58, 0.72), _soft(rng), 0.25)
    easel.fade(sea, lighter(sea, 0.3), horizon, 0.72)
    for _ in range(9):
        x, y = rng.uniform(-1, 1) * easel.half, rng.uniform(horizon + 0.02, 0.66)
        easel.box(x, y, x + rng.uniform(0.06, 0.18), y + 0.006, lighter(sea, 0.55))
    easel.fade(sand, lighter(sand, 0.2), 0.72, 1)
    x = np.linspace(-easel.half, easel.half, 40)
    shore = np.stack([x, 0.71 + 0.012 * np.sin(x * 9 + rng.uniform(0, 6))], -1)
    easel.polygon(np.concatenate([shore, (shore + [0, 0.02])[::-1]]), (0.98, 0.99, 1))
    side = rng.choice([-1, 1]) * easel.half * 0.72
    _parasol(easel, rng, side, 0.8)
    if rng.random() < 0.5:
        easel.polygon(
            [
                (-side - 0.1, horizon + 0.01),
                (-side + 0.1, horizon + 0.01),
                (-side + 0.06, horizon + 0.04),
                (-side - 0.06, horizon + 0.04),
            ],
            (0.75, 0.3, 0.25),
        )
        easel.polygon(
            [(-side, horizon), (-side, horizon - 0.17), (-side + 0.09, horizon - 0.01)], (0.98, 0.97, 0.92)
        )


def _parasol(easel: Easel, rng: Rng, x: float, y: float) -> None:
    easel.box(x - 0.008, y - 0.42, x + 0.008, y, (0.9, 0.88, 0.82))
    colours = (_soft(rng, 0.8, 0.98, 0.75), (0.98, 0.96, 0.9))
    edges = np.linspace(-0.2, 0.2, 7)
    for k in range(6):
        arch = [
            (x + e, y - 0.4 - 0.13 * np.sqrt(max(0.0, 1 - (e / 0.2) ** 2)))
            for e in np.linspace(edges[k], edges[k + 1], 5)
        ]
        easel.polygon([*arch, (x + edges[k + 1], y - 0.38), (x + edges[k], y - 0.38)], colours[k % 2])


def stage(easel: Easel, rng: Rng) -> None:
    """Curtains, boards and a spotlight."""
    cloth, back = _soft(rng, 0.65, 0.9, 0.85), darker(_soft(rng, 0.3, 0.7, 0.5), 0.35)
    easel.fade(darker(back, 0.4), back, 0, 0.74)
    beam = lighter(back, 0.22)
    easel.polygon([(-0.06, 0), (0.06, 0), (0.4, 0.88), (-0.4, 0.88)], beam)
    _floor(easel, rng, 0.74, _one(rng, (0.6, 0.42, 0.3), (0.45, 0.35, 0.36), (0.75, 0.58, 0.42)))
    for s in (-1, 1):
        for k in range(4):
            x0, x1 = s * (easel.half - 0.05 * k), s * (easel.half - 0.05 * (k + 1))
            easel.polygon(
                [(x0, 0), (x1, 0), (x1 + s * 0.012, 0.82), (x0, 0.84)], mix(cloth, (0, 0, 0), 0.2 * (k % 2))
            )
    for k in np.arange(-8, 9):
        easel.disc(k * 0.14, 0.04, 0.085, mix(cloth, (1, 1, 1), 0.1 * (k % 2)), 0.075)


def night(easel: Easel, rng: Rng) -> None:
    """Stars and a moon over dark hills or lit houses."""
    top = mix((0.09, 0.1, 0.27), _soft(rng, 0.1, 0.3), 0.3)
    horizon = rng.uniform(0.66, 0.73)
    easel.fade(top, mix(top, (0.5, 0.42, 0.62), 0.55), 0, horizon + 0.05)
    for _ in range(60):
        easel.disc(
            rng.uniform(-1, 1) * easel.half,
            rng.uniform(0, horizon - 0.1),
            rng.uniform(0.002, 0.006),
            (1, 0.98, 0.85),
        )
    x, y = rng.choice([-1, 1]) * easel.half * rng.uniform(0.45, 0.8), rng.uniform(0.12, 0.25)
    easel.disc(x, y, 0.085, mix(top, (0.95, 0.9, 0.7), 0.25))
    easel.disc(x, y, 0.065, (0.99, 0.95, 0.8))
    _hills(easel, rng, horizon, 0.14, mix(top, (0.3, 0.35, 0.5), 0.4))
    for x in _sides(easel, rng, 3):
        _tree(easel, rng, x, horizon + 0.05, rng.uniform(0.25, 0.45), mix(top, (0.15, 0.4, 0.4), 0.5))
    ground = mix((0.24, 0.38, 0.42), top, 0.35)
    easel.fade(ground, lighter(ground, 0.15), horizon + 0.03, 1)


def snow(easel: Easel, rng: Rng) -> None:
    """White hills, firs, snowflakes."""
    horizon = rng.uniform(0.62, 0.7)
    sky = _one(rng, (0.68, 0.8, 0.92), (0.85, 0.82, 0.92), (0.5, 0.62, 0.8))
    easel.fade(sky, lighter(sky, 0.5), 0, horizon)
    _hills(easel, rng, horizon, 0.2, mix(sky, (0.95, 0.97, 1), 0.55))
    for x in _sides(easel, rng, 4):
        base, size = horizon + rng.uniform(0, 0.08), rng.uniform(0.25, 0.45)
        for k in range(3):
            w, top = (0.36 - 0.09 * k) * size, base - (0.1 + 0.27 * k) * size
            easel.polygon([(x - w, top), (x + w, top), (x, top - 0.42 * size)], (0.2, 0.42, 0.42))
            easel.polygon(
                [(x - 0.4 * w, top - 0.26 * size), (x + 0.4 * w, top - 0.26 * size), (x, top - 0.42 * size)],
                (0.97, 0.98, 1),
            )
    easel.fade((0.9, 0.94, 0.99), (0.98, 0.99, 1.0), horizon + 0.05, 1)
    for _ in range(45):
        easel.disc(
            rng.uniform(-1, 1) * easel.half, rng.uniform(0, 0.95), rng.uniform(0.003, 0.009), (1, 1, 1)
        )


def studio(easel: Easel, rng: Rng) -> None:
    """A plain backdrop with large shapes: nothing to look at but the character."""
    colour, horizon = _soft(rng, 0.7, 0.98, 0.5), rng.uniform(0.7, 0.8)
    easel.fade(colour, lighter(colour, 0.3), 0, horizon)
    accent, kind = mix(colour, _soft(rng, 0.6, 0.98, 0.7), 0.55), rng.integers(4)
    if kind == 0:
        easel.disc(rng.uniform(-0.1, 0.1), 0.45, rng.uniform(0.3, 0.4), accent)
    for k in range(-7, 8) if kind == 1 else ():
        easel.polygon(
            [(0.2 * k, 0), (0.2 * k + 0.1, 0), (0.2 * k - 0.2, horizon), (0.2 * k - 0.3, horizon)], accent
        )
    for _ in range(14 if kind == 2 else 0):
        easel.disc(
            rng.uniform(-1, 1) * easel.half,
            rng.uniform(0, horizon),
            rng.uniform(0.02, 0.09),
            mix(accent, _soft(rng), 0.4),
        )
    for a in np.arange(16) * np.pi / 8 if kind == 3 else ():
        easel.polygon(
            [
                (0, 0.45),
                (2 * np.cos(a), 0.45 + 2 * np.sin(a)),
                (2 * np.cos(a + 0.2), 0.45 + 2 * np.sin(a + 0.2)),
            ],
            accent,
        )
    easel.fade(mix(colour, darker(colour), 0.3), mix(colour, darker(colour), 0.1), horizon, 1)


SCENES: Final[dict[str, Callable[[Easel, Rng], None]]] = {
    "room": room,
    "street": street,
    "park": park,
    "beach": beach,
    "stage": stage,
    "night": night,
    "snow": snow,
    "studio": studio,
}
