"""What is worn on the head."""

import numpy as np

from .anatomy import SIDES
from .character import Character
from .hair import cap, spike
from .head import Head
from .shapes import Array, Colour, Ink, Shape, darker, disc, grow, lit, solid


def hat_shapes(head: Head, character: Character, ink: Ink) -> list[Shape]:
    hat, colour, trim = character.outfit.hat, character.outfit.hat_colour, character.outfit.trim
    if hat == "beanie":
        rim = _ring(head, 0.54, 0.74, 1.0, trim, ink, 0.08)
        ball = solid(disc(head.place(np.array([[0, 1.25, -0.1]]), wrap=False), 0.22 * head.body.head_height), trim, ink)
        return ball + cap(head, (0, 0.97, -0.2), 0.5, 1.16, colour, ink) + rim
    if hat == "cap":
        peak = _brim(head, 0.56, 0.82, darker(colour, 0.15), ink, (0.0, 0.02, 0.62))
        return cap(head, (0, 0.97, -0.2), 0.46, 1.13, colour, ink) + peak
    if hat == "brim":
        return _brim(head, 0.6, 1.6, trim, ink) + cap(head, (0, 1, 0), 0.56, 1.2, colour, ink)
    if hat == "top":
        return _brim(head, 0.62, 1.3, colour, ink) + _column(head, 0.62, 1.75, 0.72, 0.8, colour, trim, ink)
    if hat == "crown":
        return _crown(head, (0.96, 0.78, 0.25), ink)
    if hat == "party":
        return _column(head, 0.7, 1.95, 0.62, 0.03, colour, trim, ink)
    if hat == "bow":
        return _bow(head, colour, ink)
    if hat == "headband":
        return _ring(head, 0.56, 0.76, 1.1, colour, ink, 0.0)
    return []


def _ring(head: Head, low: float, high: float, radius: float, colour: Colour, ink: Ink, thick: float) -> list[Shape]:
    """A band around the head between two heights: the seen half of both circles."""
    circle = _circle(radius)
    near = head.depth(circle) > -0.05
    order = np.argsort(np.where(near, _screen_x(head, circle), np.inf), axis=1)[:, :12, None]
    tall = [head.place(circle + np.array([0, y, 0]), wrap=False) for y in (low, high + thick)]
    under, over = (np.take_along_axis(row, order, axis=1) for row in tall)
    points = np.concatenate([under, over[:, ::-1]], 1)[:, None]
    return [
        Shape(points=grow(points, ink.width), colour=darker(colour)),
        Shape(points=points, colour=colour, shade=0.7),
    ]


def _brim(
    head: Head,
    y: float,
    radius: float,
    colour: Colour,
    ink: Ink,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> list[Shape]:
    """A flat disc at height y of the head, a little thick so that it is seen edge on."""
    thick = 0.05 * head.body.head_height
    points = grow(head.place(_circle(radius) + np.array([0, y, 0]) + shift, wrap=False)[:, None], thick)
    return [
        Shape(points=grow(points, 1.3 * ink.width), colour=darker(colour)),
        Shape(points=points, colour=colour, shade=0.6),
    ]


def _circle(radius: float) -> Array:
    angle = np.linspace(-np.pi, np.pi, 24, endpoint=False)
    return radius * np.stack([np.sin(angle), 0 * angle, np.cos(angle)], -1)


def _screen_x(head: Head, points: Array) -> Array:
    return (points @ head.turn.transpose(0, 2, 1))[..., 0]


def _column(
    head: Head, low: float, high: float, wide: float, top: float, colour: Colour, trim: Colour, ink: Ink
) -> list[Shape]:
    """A hat that stands on the head: from half-width `wide` at `low` to `top` at `high`, with a ribbon."""
    ends = [head.place(np.array([[0.0, y, -0.05]]), wrap=False)[:, 0] for y in (low, high)]
    axis = ends[1] - ends[0]
    across = np.stack([np.cos(head.roll), np.sin(head.roll)], -1) * head.body.head_width

    def level(t: float) -> list[Array]:
        half = across * (wide + (top - wide) * t)
        return [ends[0] + axis * t - half, ends[0] + axis * t + half]

    outline = np.stack([*level(0), *level(1)[::-1]], 1)[:, None]
    ribbon = np.stack([*level(0.08), *level(0.26)[::-1]], 1)[:, None]
    light = Shape(points=lit(outline, ink), shade=1.0)
    edge = Shape(points=grow(outline, 1.4 * ink.width), colour=darker(colour))
    return [edge, Shape(points=outline, colour=colour, shade=0.1), light, Shape(points=ribbon, colour=trim)]


def _crown(head: Head, colour: Colour, ink: Ink) -> list[Shape]:
    x = np.linspace(-0.72, 0.72, 9)
    top = np.where(np.arange(9) % 2 == 0, 1.5, 1.1)
    low = np.stack([x[::-1], np.full(9, 0.72), np.sqrt(0.6 - x**2)], -1)
    rim = np.stack([x, top, np.sqrt(0.6 - x**2)], -1)
    points = head.place(np.concatenate([rim, low]), wrap=False)[:, None]
    return [
        Shape(points=grow(points, ink.width), colour=darker(colour)),
        Shape(points=points, colour=colour, shade=0.8),
    ]


def _bow(head: Head, colour: Colour, ink: Ink) -> list[Shape]:
    knot, shapes = np.array([0.55, 0.92, 0.15]), []
    for sign in SIDES:
        shapes += spike(head, (knot + np.array([sign * 0.36, 0.05, 0]))[None], knot[None], 0.24, colour, ink, 0.06)
    return shapes + solid(
        disc(head.place(knot[None], wrap=False), 0.11 * head.body.head_height), darker(colour, 0.2), ink
    )
