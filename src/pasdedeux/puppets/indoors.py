"""Places under a roof: rooms, stages and studios."""

import numpy as np

from .easel import Easel, Rng, one_of, paint_floor, soft
from .shapes import Colour, darker, lighter, mix


def room(easel: Easel, rng: Rng) -> None:
    """A wall with paper, a window or pictures, and furniture on a floor."""
    horizon, wall = rng.uniform(0.7, 0.78), soft(rng)
    easel.fade(wall, lighter(wall, 0.12), 0, horizon)
    _paper(easel, rng, horizon, mix(wall, one_of(rng, (1, 1, 1), darker(wall)), 0.25))
    left = rng.choice([-1, 1])
    _window(easel, rng, left * easel.half * 0.6) if rng.random() < 0.7 else _frame(easel, rng, left * easel.half * 0.6)
    _frame(easel, rng, -left * easel.half * rng.uniform(0.55, 0.75))
    paint_floor(
        easel,
        rng,
        horizon,
        one_of(rng, (0.72, 0.52, 0.36), (0.82, 0.66, 0.48), (0.6, 0.62, 0.68), soft(rng, 0.5, 0.8)),
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
    white, sky = (0.97, 0.96, 0.93), one_of(rng, (0.62, 0.84, 0.95), (0.99, 0.82, 0.62), (0.2, 0.24, 0.45))
    easel.box(x - w - 0.02, y0 - 0.02, x + w + 0.02, y1 + 0.02, white)
    easel.box(x - w, y0, x + w, y1, sky)
    easel.disc(x + 0.3 * w, y0 + 0.1, 0.03, lighter(sky, 0.7))
    easel.polygon(
        [(x - w, y1), (x - w, y1 - 0.07), (x, y1 - 0.12), (x + w, y1 - 0.05), (x + w, y1)],
        mix(sky, (0.3, 0.55, 0.35), 0.6),
    )
    easel.box(x - 0.008, y0, x + 0.008, y1, white)
    easel.box(x - w, 0.5 * (y0 + y1), x + w, 0.5 * (y0 + y1) + 0.016, white)
    curtain = soft(rng, 0.7, 0.95, 0.6)
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
            one_of(rng, (0.45, 0.3, 0.2), (0.9, 0.85, 0.7), (0.2, 0.2, 0.25)),
        )
        easel.box(cx - w, cy - h, cx + w, cy + h, soft(rng, 0.7, 0.98))
        easel.disc(cx + rng.uniform(-0.3, 0.3) * w, cy, 0.4 * h, soft(rng, 0.5, 0.9, 0.7))
        easel.polygon([(cx - w, cy + h), (cx - 0.2 * w, cy + 0.2 * h), (cx + w, cy + h)], soft(rng, 0.4, 0.8, 0.6))


def _plant(easel: Easel, rng: Rng, x: float, y: float) -> None:
    leaf = mix((0.25, 0.55, 0.35), soft(rng), 0.25)
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
        one_of(rng, (0.8, 0.45, 0.3), (0.93, 0.9, 0.85), (0.3, 0.4, 0.55)),
    )


def _lamp(easel: Easel, rng: Rng, x: float, y: float) -> None:
    easel.box(x - 0.008, y - 0.42, x + 0.008, y, (0.35, 0.3, 0.3))
    easel.disc(x, y, 0.05, (0.35, 0.3, 0.3), 0.012)
    easel.polygon(
        [(x - 0.045, y - 0.52), (x + 0.045, y - 0.52), (x + 0.09, y - 0.38), (x - 0.09, y - 0.38)],
        mix(soft(rng), (1, 0.85, 0.5), 0.6),
    )


def _shelf(easel: Easel, rng: Rng, x: float, y: float) -> None:
    wood = one_of(rng, (0.55, 0.38, 0.26), (0.9, 0.87, 0.8), (0.36, 0.42, 0.5))
    easel.box(x - 0.13, y - 0.42, x + 0.13, y, wood)
    for row in range(3):
        low = y - 0.02 - 0.135 * row
        easel.box(x - 0.115, low - 0.115, x + 0.115, low, darker(wood, 0.3))
        edge = x - 0.11
        while edge < x + 0.06:
            wide = rng.uniform(0.016, 0.035)
            easel.box(edge, low - rng.uniform(0.07, 0.105), edge + wide - 0.003, low, soft(rng, 0.6, 0.95, 0.75))
            edge += wide


def stage(easel: Easel, rng: Rng) -> None:
    """Curtains, boards and a spotlight."""
    cloth, back = soft(rng, 0.65, 0.9, 0.85), darker(soft(rng, 0.3, 0.7, 0.5), 0.35)
    easel.fade(darker(back, 0.4), back, 0, 0.74)
    beam = lighter(back, 0.22)
    easel.polygon([(-0.06, 0), (0.06, 0), (0.4, 0.88), (-0.4, 0.88)], beam)
    paint_floor(easel, rng, 0.74, one_of(rng, (0.6, 0.42, 0.3), (0.45, 0.35, 0.36), (0.75, 0.58, 0.42)))
    for s in (-1, 1):
        for k in range(4):
            x0, x1 = s * (easel.half - 0.05 * k), s * (easel.half - 0.05 * (k + 1))
            easel.polygon([(x0, 0), (x1, 0), (x1 + s * 0.012, 0.82), (x0, 0.84)], mix(cloth, (0, 0, 0), 0.2 * (k % 2)))
    for k in np.arange(-8, 9):
        easel.disc(k * 0.14, 0.04, 0.085, mix(cloth, (1, 1, 1), 0.1 * (k % 2)), 0.075)


def studio(easel: Easel, rng: Rng) -> None:
    """A plain backdrop with large shapes: nothing to look at but the character."""
    colour, horizon = soft(rng, 0.7, 0.98, 0.5), rng.uniform(0.7, 0.8)
    easel.fade(colour, lighter(colour, 0.3), 0, horizon)
    accent, kind = mix(colour, soft(rng, 0.6, 0.98, 0.7), 0.55), rng.integers(4)
    if kind == 0:
        easel.disc(rng.uniform(-0.1, 0.1), 0.45, rng.uniform(0.3, 0.4), accent)
    for k in range(-7, 8) if kind == 1 else ():
        easel.polygon([(0.2 * k, 0), (0.2 * k + 0.1, 0), (0.2 * k - 0.2, horizon), (0.2 * k - 0.3, horizon)], accent)
    for _ in range(14 if kind == 2 else 0):
        easel.disc(
            rng.uniform(-1, 1) * easel.half,
            rng.uniform(0, horizon),
            rng.uniform(0.02, 0.09),
            mix(accent, soft(rng), 0.4),
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
