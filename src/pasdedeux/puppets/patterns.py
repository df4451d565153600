"""Stripes, dots, checks and emblems, laid out on the trunk and along the limbs."""

import numpy as np

from .anatomy import SIDES
from .character import Character
from .shapes import Array, Colour, Shape, capsule, darker, disc
from .trunk import Trunk, band, patches


def pattern_on(trunk: Trunk, character: Character, low: float, high: float) -> list[Shape]:
    outfit = character.outfit
    scale, trim, pattern = outfit.pattern_scale, outfit.trim, outfit.pattern
    if pattern == "stripes":
        edges = np.arange(low + 0.05, high, 0.2 * scale)
        return [Shape(points=band(trunk, a, min(a + 0.1 * scale, high)), colour=trim) for a in edges]
    if pattern == "band":
        return [Shape(points=band(trunk, 0.45, 0.72), colour=trim)]
    if pattern in ("pinstripes", "buttons"):
        return _uprights(trunk, low, high, trim, scale) if pattern == "pinstripes" else _buttons(trunk, low, trim)
    if pattern in ("dots", "diamonds", "checks"):
        return _scatter(trunk, pattern, low, high, trim, scale)
    if pattern in ("star", "heart"):
        outline = star() if pattern == "star" else heart()
        return patches(trunk, np.array([0.52]), np.array([0.0]), outline, trim, 0.055 * scale)
    return []


def _uprights(trunk: Trunk, low: float, high: float, trim: Colour, scale: float) -> list[Shape]:
    t = np.linspace(low, high, 5)
    shapes = []
    for phi in np.arange(-3, 3.1, 0.6 * scale):
        sides = [trunk.on(row, np.full(5, phi + d)) for row, d in ((t, 0.09), (t[::-1], -0.09))]
        shapes.append(Shape(points=np.concatenate(sides, 1)[:, None], colour=trim, visible=trunk.seen(phi)))
    return shapes


def _buttons(trunk: Trunk, low: float, trim: Colour) -> list[Shape]:
    seam = [trunk.on(np.linspace(low, 0.95, 4), np.full(4, phi)) for phi in (-0.03, 0.03)]
    line = np.concatenate([seam[0], seam[1][:, ::-1]], 1)[:, None]
    heights = np.array([0.2, 0.42, 0.64, 0.84])
    front = patches(trunk, heights, np.full(4, 0.0), circle(8), trim, 0.013)
    return [Shape(points=line, colour=darker(trim, 0.5), visible=trunk.seen(0.0)), *front]


def _scatter(trunk: Trunk, pattern: str, low: float, high: float, trim: Colour, scale: float) -> list[Shape]:
    outlines = {"dots": circle(9), "diamonds": circle(4) * [0.9, 1.4], "checks": square()}
    step = 0.045 * scale
    size = {"dots": 0.36, "diamonds": 0.5, "checks": 0.5}[pattern] * step
    rows = np.arange(low + 0.1, high - 0.04, step / 0.24)
    columns = int(2 * np.pi * 0.1 / step / 2) * 2
    grid = [(t, 2 * np.pi * (j + 0.5 * (i % 2)) / columns) for i, t in enumerate(rows) for j in range(columns)]
    places = np.array(grid)
    return patches(trunk, places[:, 0], places[:, 1], outlines[pattern], trim, size)


def limb_pattern(chain: list[Array], radii: list[float], kind: str, colour: Colour, side: int) -> list[Shape]:
    shapes = []
    for p, q, a, b in zip(chain[:-1], chain[1:], radii[:-1], radii[1:], strict=True):
        axis = (q - p) / np.maximum(np.linalg.norm(q - p, axis=-1, keepdims=True), 1e-9)
        across = np.stack([-axis[:, 1], axis[:, 0]], -1)
        if kind == "seam":
            shapes.append(
                capsule(p - SIDES[side] * 0.6 * a * across, q - SIDES[side] * 0.6 * b * across, 0.008, 0.007, 4)
            )
        for i, u in enumerate((0.22, 0.5, 0.78) if kind != "seam" else ()):
            middle, radius = p + u * (q - p), a + (b - a) * u
            if kind == "dots":
                shapes.append(disc(middle + 0.45 * radius * (-1) ** i * across, 0.3 * radius, 9))
            else:
                half = across * radius * 0.97
                ends = [
                    middle - half,
                    middle + half,
                    middle + half + 0.5 * radius * axis,
                    middle - half + 0.5 * radius * axis,
                ]
                shapes.append(np.stack(ends, 1)[:, None])
    return [Shape(points=points, colour=colour) for points in shapes]


def circle(corners: int) -> Array:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def square() -> Array:
    return np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])


def star() -> Array:
    angle = np.pi / 2 + np.arange(10) * np.pi / 5
    return np.stack([np.cos(angle), np.sin(angle)], -1) * np.where(np.arange(10) % 2, 0.45, 1.0)[:, None]


def heart() -> Array:
    a = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    y = 13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)
    return np.stack([np.sin(a) ** 3, y / 16], -1)
