"""Hair, beards and ears: what surrounds the face."""

from typing import Final

import numpy as np

from .anatomy import SIDES
from .character import Character
from .head import Head, front
from .shapes import Array, Colour, Ink, Shape, capsule, darker, disc, lighter, solid

MANES: Final = {"bob": (0.75, 1.15), "long": (1.5, 1.16)}
CURLS: Final = tuple((np.cos(a), np.sin(a), z) for a in np.linspace(-0.35, np.pi + 0.35, 8) for z in (0.25, -0.4))


def cap(
    head: Head, axis: tuple[float, float, float], cut: float, radius: float, colour: Colour, ink: Ink
) -> list[Shape]:
    """A piece of the ball, outlined; its shine is the smaller cap inside it."""
    points = head.cap(axis, cut, radius)
    shine = head.cap((axis[0] + 0.5 * ink.towards[0], axis[1], axis[2]), min(cut + 0.3, 0.97), radius * 0.97)
    return [
        Shape(
            points=head.cap(axis, cut - 0.04, radius + ink.width / head.body.head_height),
            colour=darker(colour),
        ),
        Shape(points=points, colour=colour, shade=0.15),
        Shape(points=shine, shade=1.0),
    ]


def hair_caps(head: Head, character: Character, ink: Ink) -> list[Shape]:
    style, colour, fringe = character.hair, character.hair_colour, character.fringe
    if style == "bald":
        return []
    radius = 1.03 if style in ("buzz", "mohawk") else 1.1
    caps = [((0.0, 0.74, -0.67), -0.06 if style != "buzz" else 0.05, radius)]
    side = 1.0 if fringe > 0 else -1.0
    if style in ("swept", "long", "ponytail", "short", "buns"):
        caps += [
            ((side * 0.6, 0.75, 0.35), 0.82 - 0.06 * abs(fringe), radius),
            ((-side * 0.8, 0.6, 0.1), 0.84, radius),
        ]
    if style in ("bowl", "bob", "pigtails", "bun"):
        caps += [((0.0, 0.86, 0.5), 0.82 - 0.05 * abs(fringe), radius)]
    if style in ("curly", "afro"):
        caps += [((0.0, 0.9, 0.3), 0.78, 1.14)]
    if style == "mohawk":
        caps = []
    shapes: list[Shape] = []
    for axis, cut, size in caps:
        shapes += cap(head, axis, cut, size, colour, ink)
    return [
        *[s for s in shapes if s.colour == darker(colour)],
        *[s for s in shapes if s.colour != darker(colour)],
    ]


def beard_shapes(head: Head, character: Character) -> list[Shape]:
    if not character.beard:
        return []
    x = np.linspace(-1, 1, 13)
    top = -0.25 - 0.16 * np.cos(0.5 * np.pi * x) - 0.07 * np.cos(2.5 * np.pi * x)
    edge = np.pi + np.linspace(0.1, 0.9, 13) * np.pi
    low = 1.06 * np.stack([np.cos(edge), np.sin(edge), np.full(13, 0.05)], -1)[::-1]
    upper = front(0.94 * x, np.minimum(top, character.face.mouth_y + 0.3 - 0.34 * np.exp(-((x / 0.42) ** 6))))
    points = head.place(np.concatenate([upper, low]))[:, None]
    return [Shape(points=points, colour=character.hair_colour, visible=head.facing(front(0.0, -0.5), 0.0))]


def balls(character: Character) -> list[tuple[tuple[float, float, float], float, Colour]]:
    """Balls of hair, bear ears, pompoms: place on the unit head, radius, colour."""
    style, colour, length = character.hair, character.hair_colour, character.hair_length
    blobs: list[tuple[tuple[float, float, float], float, Colour]] = []
    if style == "bun":
        blobs.append(((0.0, 1.05, -0.4), 0.36, colour))
    if style == "buns":
        blobs += [((s * 0.8, 0.85, -0.1), 0.34, colour) for s in SIDES]
    if style == "pigtails":
        blobs += [
            ((s * 1.12, 0.1 - 0.34 * k, -0.15), 0.3 - 0.05 * k, colour) for s in SIDES for k in range(2 + round(length))
        ]
    if style == "ponytail":
        blobs += [
            ((0.0, 0.62 - 0.36 * k, -1.12 - 0.1 * (k == 1)), 0.32 - 0.03 * k, colour) for k in range(3 + round(length))
        ]
    if style in ("curly", "afro"):
        size = 0.3 if style == "curly" else 0.46
        blobs += [((1.02 * x, 0.06 + 1.0 * y, z), size, colour) for x, y, z in CURLS]
    if character.kind == "bear":
        blobs += [((s * 0.78, 0.72, -0.05), 0.32, character.skin) for s in SIDES]
    return blobs


def ball_shapes(head: Head, place: Array, radius: float, colour: Colour, ink: Ink) -> tuple[list[Shape], list[Shape]]:
    points = disc(head.place(place[None], wrap=False), radius * head.body.head_height, 14)
    near = head.depth(place[None])[:, 0] > 0.12
    return solid(points, colour, ink, ~near), solid(points, colour, ink, near)


def spike_shapes(head: Head, character: Character, ink: Ink) -> list[Shape]:
    """Pointed things that stick out behind the head: spiky hair, mohawk, cat and bunny ears, antennas."""
    shapes: list[Shape] = []
    if character.hair in ("spiky", "mohawk"):
        angles = np.linspace(0.1, 0.9, 8) * np.pi if character.hair == "spiky" else np.linspace(0.36, 0.64, 4) * np.pi
        for angle in angles:
            flat = character.hair == "mohawk"
            x, y = np.cos(angle), np.sin(angle)
            z = 0.0 if not flat else 2.2 * x
            foot = np.array([[0.9 * x * (not flat), 0.8 * y, 0.6 * z]])
            shapes += spike(head, foot, foot * (1.75 if flat else 1.5), 0.3, character.hair_colour, ink)
    for side in SIDES if character.kind in ("cat", "bunny") else ():
        tall = 1.55 if character.kind == "cat" else 2.0
        foot = np.array([[side * 0.55, 0.72, 0.0]])
        tip = foot * np.array([1.15 if character.kind == "cat" else 0.9, tall, 1])
        round_tip = 0.05 if character.kind == "cat" else 0.17
        shapes += spike(head, foot, tip, 0.3 if character.kind == "cat" else 0.2, character.skin, ink, round_tip)
        shapes += spike(head, foot, 0.2 * foot + 0.8 * tip, 0.14, lighter(character.skin, 0.45), ink, 0.5 * round_tip)[
            1:2
        ]
    if character.kind in ("robot", "alien"):
        for side in SIDES if character.kind == "alien" else (0.0,):
            foot, tip = np.array([[side * 0.3, 0.85, 0.0]]), np.array([[side * 0.55, 1.5, 0.0]])
            shapes += spike(head, foot, tip, 0.05, darker(character.skin, 0.4), ink, 0.05)
            shapes += solid(disc(head.place(tip, wrap=False), 0.14 * head.body.head_height), (0.95, 0.4, 0.3), ink)
    return shapes


def spike(
    head: Head, foot: Array, tip: Array, wide: float, colour: Colour, ink: Ink, blunt: float = 0.02
) -> list[Shape]:
    p, q = head.place(foot, wrap=False)[:, 0], head.place(tip, wrap=False)[:, 0]
    size = head.body.head_height
    return [
        Shape(points=capsule(p, q, wide * size + ink.width, blunt * size + ink.width), colour=darker(colour)),
        Shape(points=capsule(p, q, wide * size, blunt * size), colour=colour, shade=0.6),
    ]


def ear_shapes(head: Head, character: Character, ink: Ink, near: bool) -> list[Shape]:
    if character.kind in ("bear", "cat", "bunny"):
        return []
    shapes, size = [], character.face.ear
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    for side in SIDES:
        middle = np.array([side, -0.08, 0.0])
        visible = (head.depth(middle[None])[:, 0] > 0.1) == near
        offsets = np.stack([0.75 * size * np.cos(angle), size * np.sin(angle)], -1) * head.body.head_height
        points = (head.place(1.04 * middle[None], wrap=False) + offsets)[:, None]
        shapes += solid(points, character.skin, ink, visible)
        shapes.append(Shape(points=_inner(points), colour=darker(character.skin, 0.25), visible=visible))
    return shapes


def _inner(points: Array) -> Array:
    middle = points.mean(axis=2, keepdims=True)
    return middle + 0.5 * (points - middle)


def mane_shapes(head: Head, character: Character, ink: Ink) -> list[Shape]:
    if character.hair not in MANES:
        return []
    length, wide = MANES[character.hair]
    length += 0.7 * character.hair_length * (character.hair == "long")
    y = np.r_[0.7, 0.3, -0.3, -0.8 * length, -length, -1.05 * length]
    x = wide * np.r_[0.6, 0.98, 1.05, 1.0, 0.82, 0.4]
    outline = np.concatenate([np.stack([x, y], -1), np.stack([-x, y], -1)[::-1]])
    shift = head.turn @ np.array([0, 0, -0.45])
    points = head.plane(outline[None] + np.stack([shift[:, 0], 0 * shift[:, 0]], -1)[:, None])[:, None]
    return solid(points, character.hair_colour, ink)
