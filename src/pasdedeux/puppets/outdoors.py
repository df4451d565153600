"""Places under the sky: streets, parks, beaches, nights and snow."""

import numpy as np

from .easel import Easel, Rng, beside, one_of, paint_floor, paint_hills, paint_sky, paint_tree, soft
from .shapes import darker, lighter, mix


def street(easel: Easel, rng: Rng) -> None:
    """A row of houses behind a pavement."""
    horizon = rng.uniform(0.7, 0.76)
    paint_sky(easel, rng, horizon)
    x = -easel.half - rng.uniform(0, 0.1)
    while x < easel.half:
        wide, top = rng.uniform(0.18, 0.34), rng.uniform(0.12, 0.4)
        _house(easel, rng, x, x + wide, top, horizon)
        x += wide
    stone = one_of(rng, (0.72, 0.7, 0.68), (0.8, 0.74, 0.66), (0.6, 0.62, 0.66))
    paint_floor(easel, rng, horizon, stone)
    easel.box(-9, horizon, 9, horizon + 0.018, lighter(stone, 0.35))
    for x in beside(easel, rng, 1):
        easel.box(x - 0.009, 0.3, x + 0.009, horizon + 0.05, (0.2, 0.22, 0.26))
        easel.disc(x, 0.29, 0.035, (1.0, 0.92, 0.65))
    if rng.random() < 0.6:
        paint_tree(easel, rng, beside(easel, rng, 1)[0], horizon + 0.05, rng.uniform(0.35, 0.5), (0.36, 0.6, 0.36))


def _house(easel: Easel, rng: Rng, x0: float, x1: float, top: float, low: float) -> None:
    wall = soft(rng, 0.6, 0.95, 0.5)
    roof = darker(soft(rng, 0.5, 0.8, 0.6), 0.25)
    easel.box(x0, top, x1, low, wall)
    middle, eave = 0.5 * (x0 + x1), 0.015
    if rng.random() < 0.5:
        easel.polygon([(x0 - eave, top), (x1 + eave, top), (middle, top - rng.uniform(0.06, 0.14))], roof)
    else:
        easel.box(x0 - eave, top - 0.03, x1 + eave, top, roof)
    glass, columns = (
        one_of(rng, (0.98, 0.9, 0.6), (0.65, 0.82, 0.9), (0.35, 0.45, 0.58)),
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
    horizon, grass = rng.uniform(0.62, 0.7), mix((0.5, 0.74, 0.38), soft(rng), 0.3)
    paint_sky(easel, rng, horizon)
    paint_hills(easel, rng, horizon, 0.16, mix(grass, (0.6, 0.78, 0.9), 0.5))
    paint_hills(easel, rng, horizon + 0.02, 0.07, mix(grass, (0.4, 0.6, 0.5), 0.35))
    for x in beside(easel, rng, int(rng.integers(2, 5))):
        paint_tree(
            easel,
            rng,
            x,
            horizon + rng.uniform(0.02, 0.08),
            rng.uniform(0.25, 0.5),
            mix((0.3, 0.58, 0.34), soft(rng), 0.3),
        )
    easel.fade(darker(grass, 0.08), lighter(grass, 0.1), horizon + 0.05, 1)
    if rng.random() < 0.5:
        easel.polygon([(-0.06, horizon + 0.05), (0.06, horizon + 0.05), (0.5, 1), (-0.5, 1)], (0.88, 0.78, 0.6))
    for _ in range(rng.integers(10, 40)):
        x, y = rng.uniform(-1, 1) * easel.half, rng.uniform(horizon + 0.08, 0.99)
        easel.disc(
            x,
            y,
            0.008 + 0.006 * y,
            one_of(rng, (1, 1, 0.9), (1, 0.8, 0.3), (0.95, 0.5, 0.5), (0.75, 0.6, 0.95)),
        )


def beach(easel: Easel, rng: Rng) -> None:
    """Sea, sand, and something to lie under."""
    horizon, sand = rng.uniform(0.48, 0.56), mix((0.96, 0.85, 0.62), soft(rng, 0.8, 1), 0.2)
    paint_sky(easel, rng, horizon)
    sea = mix((0.2, 0.58, 0.72), soft(rng), 0.25)
    easel.fade(sea, lighter(sea, 0.3), horizon, 0.72)
    for _ in range(9):
        x, y = rng.uniform(-1, 1) * easel.half, rng.uniform(horizon + 0.02, 0.66)
        easel.box(x, y, x + rng.uniform(0.06, 0.18), y + 0.006, lighter(sea, 0.55))
    easel.fade(sand, lighter(sand, 0.2), 0.72, 1)
    x = np.linspace(-easel.half, easel.half, 40)
    shore = np.stack([x, 0.71 + 0.012 * np.sin(x * 9 + rng.uniform(0, 6))], -1)
    easel.polygon(np.concatenate([shore, (shore + np.array([0, 0.02]))[::-1]]), (0.98, 0.99, 1))
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
        easel.polygon([(-side, horizon), (-side, horizon - 0.17), (-side + 0.09, horizon - 0.01)], (0.98, 0.97, 0.92))


def _parasol(easel: Easel, rng: Rng, x: float, y: float) -> None:
    easel.box(x - 0.008, y - 0.42, x + 0.008, y, (0.9, 0.88, 0.82))
    colours = (soft(rng, 0.8, 0.98, 0.75), (0.98, 0.96, 0.9))
    edges = np.linspace(-0.2, 0.2, 7)
    for k in range(6):
        arch = [
            (x + e, y - 0.4 - 0.13 * np.sqrt(max(0.0, 1 - (e / 0.2) ** 2)))
            for e in np.linspace(edges[k], edges[k + 1], 5)
        ]
        easel.polygon([*arch, (x + edges[k + 1], y - 0.38), (x + edges[k], y - 0.38)], colours[k % 2])


def night(easel: Easel, rng: Rng) -> None:
    """Stars and a moon over dark hills or lit houses."""
    top = mix((0.09, 0.1, 0.27), soft(rng, 0.1, 0.3), 0.3)
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
    paint_hills(easel, rng, horizon, 0.14, mix(top, (0.3, 0.35, 0.5), 0.4))
    for x in beside(easel, rng, 3):
        paint_tree(easel, rng, x, horizon + 0.05, rng.uniform(0.25, 0.45), mix(top, (0.15, 0.4, 0.4), 0.5))
    ground = mix((0.24, 0.38, 0.42), top, 0.35)
    easel.fade(ground, lighter(ground, 0.15), horizon + 0.03, 1)


def snow(easel: Easel, rng: Rng) -> None:
    """White hills, firs, snowflakes."""
    horizon = rng.uniform(0.62, 0.7)
    sky = one_of(rng, (0.68, 0.8, 0.92), (0.85, 0.82, 0.92), (0.5, 0.62, 0.8))
    easel.fade(sky, lighter(sky, 0.5), 0, horizon)
    paint_hills(easel, rng, horizon, 0.2, mix(sky, (0.95, 0.97, 1), 0.55))
    for x in beside(easel, rng, 4):
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
        easel.disc(rng.uniform(-1, 1) * easel.half, rng.uniform(0, 0.95), rng.uniform(0.003, 0.009), (1, 1, 1))
