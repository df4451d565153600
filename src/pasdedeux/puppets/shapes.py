"""Flat shapes over time: polygons [T, N, K, 2] in the world's units (x right, y up), and how they take
paint and light.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Colour = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """N polygons of K corners in T frames.

    points: [T, N, K, 2]. colour: RGB in [0, 1], or None to leave the paint alone. shade: light received,
    0 (far side) to 1 (lit side), or None to leave it alone. visible: [T] bool, or None for always.
    """

    points: Array
    colour: Colour | None = None
    shade: float | None = None
    visible: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Shapes that are painted one after another; groups are painted from far to near, by depth [T]."""

    depth: Array
    shapes: Sequence[Shape]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ink:
    """How solid things are drawn: outline width (world units) and the unit vector [2] towards the light."""

    width: float
    towards: Array


def darker(colour: Colour, amount: float = 0.5) -> Colour:
    """The colour of an outline or a fold: scaled towards a warm black."""
    warm = (0.16, 0.09, 0.13)
    return tuple(c * (1 - amount) + w * amount for c, w in zip(colour, warm, strict=True))  # pyright: ignore[reportReturnType]


def lighter(colour: Colour, amount: float = 0.4) -> Colour:
    return tuple(c + (1 - c) * amount for c in colour)  # pyright: ignore[reportReturnType]


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    return tuple(x * (1 - amount) + y * amount for x, y in zip(a, b, strict=True))  # pyright: ignore[reportReturnType]


def capsule(p: Array, q: Array, start: Array | float, end: Array | float, corners: int = 7) -> Array:
    """Hull of two discs: centres p, q [T, 2], radii start, end (scalars or [T]) -> [T, 1, 2 * corners, 2]."""
    delta = q - p
    length = np.maximum(np.hypot(delta[:, 0], delta[:, 1]), 1e-9)
    inner = np.maximum(start, end - 0.95 * length)
    outer = np.maximum(end, inner - 0.95 * length)
    bearing = np.arctan2(delta[:, 1], delta[:, 0])[:, None]
    touch = np.arccos(np.clip((inner - outer) / length, -0.99, 0.99))[:, None]
    turn = np.linspace(0, 1, corners)
    tip = bearing - touch + 2 * touch * turn
    tail = bearing + touch + 2 * (np.pi - touch) * turn
    at_tip = q[:, None] + np.broadcast_to(outer, length.shape)[:, None, None] * _unit(tip)
    at_tail = p[:, None] + np.broadcast_to(inner, length.shape)[:, None, None] * _unit(tail)
    return np.concatenate([at_tip, at_tail], axis=1)[:, None]


def disc(centre: Array, radius: Array | float, corners: int = 16) -> Array:
    """Discs around centre [T, 2] or [T, N, 2] -> [T, N, corners, 2]."""
    centre = centre[:, None] if centre.ndim == 2 else centre
    ring = _unit(np.linspace(0, 2 * np.pi, corners, endpoint=False))
    radius = np.asarray(radius, float).reshape(-1, 1, 1, 1)
    return centre[:, :, None] + radius * ring


def stroke(path: Array, width: float, taper: float = 1.0) -> Array:
    """A line of the given full width along path [T, K, 2] -> [T, 1, 2 K, 2]; taper scales the width at
    both ends.
    """
    along = np.gradient(path, axis=1)
    along /= np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-9)
    across = np.stack([-along[..., 1], along[..., 0]], -1)
    bulge = np.sin(np.linspace(0, np.pi, path.shape[1]))[None, :, None]
    half = 0.5 * width * (taper + (1 - taper) * bulge)
    return np.concatenate([path + across * half, (path - across * half)[:, ::-1]], axis=1)[:, None]


def grow(points: Array, amount: float) -> Array:
    """Polygons with every corner pushed away from the centre by about `amount`."""
    out = points - points.mean(axis=2, keepdims=True)
    return points + amount * out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-9)


def solid(
    points: Array, colour: Colour, ink: Ink, visible: NDArray[np.bool_] | None = None, low: float = 0.0
) -> list[Shape]:
    """One outlined, lit thing: its outline, its paint (`low`: light on its far side), and its lit part."""
    return [
        Shape(points=grow(points, ink.width), colour=darker(colour), visible=visible),
        Shape(points=points, colour=colour, shade=low, visible=visible),
        Shape(points=lit(points, ink), shade=1.0, visible=visible),
    ]


def lit(points: Array, ink: Ink) -> Array:
    """The part of a convex thing that faces the light: smaller, and moved towards it."""
    centre = points.mean(axis=2, keepdims=True)
    reach = np.linalg.norm(points - centre, axis=-1).min(axis=2)[..., None, None]
    return centre + 0.84 * (points - centre) + 0.2 * reach * ink.towards


def tube(joints: Sequence[Array], radii: Sequence[Array | float], colour: Colour, ink: Ink) -> list[Shape]:
    """A chain of capsules drawn as one thing: all outlines first, then all paint, then all light."""
    links = list(zip(joints[:-1], joints[1:], radii[:-1], radii[1:], strict=True))
    outline = [Shape(points=capsule(p, q, a + ink.width, b + ink.width), colour=darker(colour)) for p, q, a, b in links]
    paint = [Shape(points=capsule(p, q, a, b), colour=colour, shade=0.0) for p, q, a, b in links]
    light = [_lit_link(p, q, a, b, ink) for p, q, a, b in links]
    return outline + paint + light


def _lit_link(p: Array, q: Array, start: Array | float, end: Array | float, ink: Ink) -> Shape:
    shift = 0.3 * 0.5 * (np.mean(start) + np.mean(end)) * ink.towards
    return Shape(points=capsule(p + shift, q + shift, start * 0.72, end * 0.72, 5), shade=1.0)


def _unit(angle: Array) -> Array:
    return np.stack([np.cos(angle), np.sin(angle)], -1)
