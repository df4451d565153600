"""Eyes, brows, nose and mouth: their curves on the head, drawn and labelled from the same numbers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .anatomy import FACE_POINTS, SIDES
from .character import Character, Face
from .head import Head, front
from .poses import Poses
from .shapes import Array, Colour, Shape, darker, lighter, mix, stroke

WHITE: Colour = (0.99, 0.98, 0.96)
DARK: Colour = (0.13, 0.09, 0.11)

Curves = Callable[[Array], tuple[Array, Array, Array]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What is painted on the face, the brows (painted over any fringe), and the 70 labelled points.

    points [T, 70, 3]: x, y and visibility.
    """

    shapes: list[Shape]
    brows: list[Shape]
    points: Array


def features(head: Head, character: Character, poses: Poses) -> Features:
    """All features of the face, and iBUG's 68 points plus both pupils, exactly where they are drawn."""
    points = np.zeros((len(poses), FACE_POINTS, 3))
    shapes = _cheeks(head, character)
    angle = np.pi + np.linspace(0.08, 0.92, 17) * np.pi
    jaw = np.stack([np.cos(angle), np.sin(angle), np.full(17, 0.12)], -1)
    _label(points, head, range(17), jaw / np.linalg.norm(jaw, axis=-1, keepdims=True))
    shapes += _mouth(head, character, poses, points)
    for side in (0, 1):
        shapes += _eye(head, character, poses, points, side)
    shapes += _nose(head, character, points)
    brows = [_brow(head, character, poses, points, side) for side in (0, 1)]
    return Features(shapes=shapes, brows=brows, points=points)


def _label(points: Array, head: Head, indices: range | list[int], where: Array, limit: float = 0.0) -> None:
    points[:, indices, :2] = head.place(where)
    points[:, indices, 2] = head.depth(where) > limit


def _shape(
    head: Head, where: Array, colour: Colour, seen: NDArray[np.bool_] | None, shade: float | None = None
) -> Shape:
    return Shape(points=head.place(where)[:, None], colour=colour, visible=seen, shade=shade)


def _line(
    head: Head, where: Array, width: float, colour: Colour, seen: NDArray[np.bool_] | None, taper: float
) -> Shape:
    return Shape(points=stroke(head.place(where), width * head.body.head_height, taper), colour=colour, visible=seen)


def _cheeks(head: Head, character: Character) -> list[Shape]:
    face, shapes = character.face, []
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    if character.kind in ("bear", "cat", "bunny"):
        muzzle = front(0.44 * np.cos(angle), face.mouth_y + 0.12 + 0.3 * np.sin(angle))
        shapes.append(_shape(head, muzzle, lighter(character.skin, 0.5), head.facing(front(0.0, face.mouth_y), -0.1)))
    rosy = mix(character.skin, (0.95, 0.35, 0.35), 0.55 * face.blush)
    for side in SIDES if face.blush > 0.1 else ():
        cheek = front(side * 0.58 + 0.16 * np.cos(angle), -0.34 + 0.12 * np.sin(angle))
        shapes.append(_shape(head, cheek, rosy, head.facing(front(side * 0.58, -0.34))))
    for side in SIDES if face.freckles else ():
        for x, y in ((0.4, -0.22), (0.52, -0.28), (0.5, -0.17), (0.62, -0.22)):
            dot = front(side * x + 0.025 * np.cos(angle[::2]), y + 0.025 * np.sin(angle[::2]))
            shapes.append(_shape(head, dot, darker(character.skin, 0.35), head.facing(front(side * x, y))))
    return shapes


def _eye(head: Head, character: Character, poses: Poses, points: Array, side: int) -> list[Shape]:
    """Subject's right or left eye. s runs from the picture-left corner (0) to the picture-right corner
    (1).
    """
    face, sign = character.face, SIDES[side]
    shut = np.clip(poses.eyes[:, side].astype(float), 0, 1)[:, None]
    smile = np.clip(poses.mouth[:, 2].astype(float), 0, 1)[:, None]
    middle, wide, tall = sign * face.eye_x, face.eye_width, face.eye_height

    def curves(s: Array) -> tuple[Array, Array, Array]:
        bulge = np.clip(np.sin(np.pi * s), 0, 1) ** 0.7
        base = face.eye_y + sign * face.eye_slant * wide * (2 * s - 1)
        low = base - tall * (0.85 - 0.2 * smile) * bulge
        top = base + tall * bulge
        return low, np.maximum(top + (base - 0.55 * tall * bulge - top) * shut, low), top

    s = np.broadcast_to(np.linspace(0, 1, 11), (len(poses), 11))
    low, lid, _ = curves(s)
    x = middle + wide * (2 * s - 1)
    seen = head.facing(front(middle, face.eye_y))
    outline = front(np.concatenate([x, x[:, ::-1]], 1), np.concatenate([lid, low[:, ::-1]], 1))
    iris, pupil, glint, centre = _iris(face, poses, middle, curves)
    awake = seen & (shut[:, 0] < 0.85)
    lash = darker(character.hair_colour, 0.75)
    shapes = [
        _shape(head, outline, WHITE, seen),
        _shape(head, iris, face.iris, awake),
        _shape(head, pupil, DARK, awake),
        _shape(head, glint, WHITE, awake),
        _line(head, front(x, lid), 0.075, lash, seen, 0.5),
    ]
    third = np.broadcast_to(np.array([0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]), (len(poses), 6))
    low, lid, _ = curves(third)
    ring = front(middle + wide * (2 * third - 1), np.where(np.arange(6) < 4, lid, low))
    _label(points, head, range(36 + 6 * side, 42 + 6 * side), ring)
    _label(points, head, [68 + side], centre)
    points[:, 68 + side, 2] *= awake
    return shapes


def _iris(face: Face, poses: Poses, middle: float, curves: Curves) -> tuple[Array, Array, Array, Array]:
    wide, tall = face.eye_width, face.eye_height
    gaze = np.clip(poses.eyes[:, 2:].astype(float), -1, 1)
    x = middle + 0.42 * wide * gaze[:, :1]
    y = face.eye_y + 0.4 * tall * gaze[:, 1:]
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    size = 0.66 * min(wide, tall)

    def clipped(dx: float, dy: float, radius: float) -> Array:
        px = np.clip(x + dx + radius * np.cos(angle), middle - wide, middle + wide)
        low, lid, _ = curves((px - middle + wide) / (2 * wide))
        return front(px, np.clip(y + dy + radius * np.sin(angle), low, lid))

    low, lid, _ = curves((x - middle + wide) / (2 * wide))
    centre = front(x, np.clip(y, low, lid))
    glint = clipped(-0.35 * size, 0.4 * size, 0.3 * size)
    return clipped(0, 0, size), clipped(0, 0, 0.6 * size), glint, centre


def _brow(head: Head, character: Character, poses: Poses, points: Array, side: int) -> Shape:
    face, sign = character.face, SIDES[side]
    lift = 0.16 * np.clip(poses.brows[:, side].astype(float), -1, 1)[:, None]
    frown = 0.14 * np.clip(poses.brows[:, 2].astype(float), -1, 1)[:, None]
    s = np.linspace(-1, 1, 5)
    x = sign * face.eye_x + 1.15 * face.eye_width * s
    inward = -sign * s
    arch = 0.09 * (1 - s**2)
    y = face.eye_y + face.eye_height + face.brow_y + lift + arch + (0.035 - frown) * inward
    where = front(np.broadcast_to(x, y.shape), y)
    seen = head.facing(front(sign * face.eye_x, face.eye_y + 0.3))
    _label(points, head, range(17 + 5 * side, 22 + 5 * side), where)
    ink = character.hair_colour if character.kind == "person" else character.skin
    return _line(head, where, 1.5 * face.brow_width, darker(ink, 0.45), seen, 0.55)


def _nose(head: Head, character: Character, points: Array) -> list[Shape]:
    face = character.face
    size, tip_y = face.nose_size, face.nose_y
    bridge = front(0.0, np.linspace(face.eye_y, tip_y, 4)) * np.linspace(1.0, 1.12, 4)[:, None]
    base = front(np.linspace(-size, size, 5), tip_y - size * np.array([0.55, 0.85, 0.95, 0.85, 0.55]), 1.06)
    _label(points, head, range(27, 31), bridge)
    _label(points, head, range(31, 36), base)
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ball = front(size * np.cos(angle), tip_y - 0.1 * size + 0.85 * size * np.sin(angle), 1.1)
    animal = character.kind in ("bear", "cat", "bunny")
    colour = DARK if animal else mix(character.skin, (0.85, 0.3, 0.28), 0.28)
    seen = head.facing(front(0.0, tip_y), -0.15)
    edge = head.place(ball, wrap=False)[:, None]
    glint = head.place(ball * 0.5 + 0.5 * ball.mean(0) + np.array([-0.2, 0.25, 0.02]) * size, wrap=False)[:, None]
    return [
        Shape(points=edge, colour=colour, visible=seen),
        Shape(points=glint, colour=lighter(colour, 0.35), visible=seen),
    ]


def _mouth(head: Head, character: Character, poses: Poses, points: Array) -> list[Shape]:
    """Four curves over s (picture-left corner 0, right corner 1): outer and inner edges of both lips."""
    face = character.face
    agape, stretch, smile = np.clip(poses.mouth.astype(float), -1, 1).T[:, :, None]
    agape = np.clip(agape, 0, 1)
    half = face.mouth_width * (1 + 0.25 * stretch + 0.15 * smile - 0.12 * agape)

    def at(s: Array, lip: float, edge: float) -> Array:
        bulge = np.clip(np.sin(np.pi * s), 0, 1) ** 0.8
        base = face.mouth_y + 0.2 * smile * (4 * (s - 0.5) ** 2 - 0.4)
        inner = base + np.where(lip > 0, 0.1, -0.3) * agape * bulge
        return front(half * (2 * s - 1), inner + lip * edge * face.lip_height * bulge)

    s = np.linspace(0, 1, 13)
    upper, lower = at(s, 1.0, 1.0), at(s, -1.0, 1.3)
    inside_top, inside_low = at(s, 1.0, 0.0), at(s, -1.0, 0.0)
    seen = head.facing(front(0.0, face.mouth_y))
    parted = seen & (agape[:, 0] > 0.04)
    teeth = inside_top + 0.35 * (inside_low - inside_top)
    tongue = inside_low + 0.35 * (inside_top - inside_low)
    shapes = [
        _shape(head, np.concatenate([upper, lower[:, ::-1]], 1), face.lips, seen),
        _shape(head, np.concatenate([inside_top, inside_low[:, ::-1]], 1), (0.3, 0.07, 0.1), parted),
        _shape(head, np.concatenate([tongue, inside_low[:, ::-1]], 1)[:, 3:-3], (0.88, 0.4, 0.42), parted),
        _shape(
            head,
            np.concatenate([inside_top, teeth[:, ::-1]], 1)[:, 2:-2],
            WHITE,
            parted & (agape[:, 0] > 0.3),
        ),
        _line(head, inside_top, 0.05, darker(face.lips, 0.6), seen & ~parted, 0.6),
    ]
    sixth = np.arange(1, 6) / 6
    outer = [at(np.r_[0, sixth, 1], 1.0, 1.0), at(sixth[::-1], -1.0, 1.3)]
    inner = [at(np.array([0.06, 0.3, 0.5, 0.7, 0.94]), 1.0, 0.0), at(np.array([0.7, 0.5, 0.3]), -1.0, 0.0)]
    _label(points, head, range(48, 68), np.concatenate(outer + inner, 1))
    return shapes


def glasses(head: Head, character: Character) -> list[Shape]:
    """Round or square frames."""
    face = character.face
    if face.glasses == "none":
        return []
    angle = np.linspace(0, 2 * np.pi, 17)
    bend = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.4 if face.glasses == "square" else np.cos(angle)
    rise = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.4 if face.glasses == "square" else np.sin(angle)
    size = max(face.eye_width, face.eye_height) * 1.25
    shapes = []
    for sign in SIDES:
        rim = front(sign * face.eye_x + min(size, 0.95 * face.eye_x) * bend, face.eye_y + size * rise, 1.05)
        seen = head.facing(front(sign * face.eye_x, face.eye_y), 0.15)
        shapes.append(_line(head, rim, 0.06, darker(character.outfit.hat_colour, 0.5), seen, 1.0))
    bridge = front(np.linspace(-0.1, 0.1, 4), face.eye_y + 0.05, 1.08)
    shapes.append(_line(head, bridge, 0.06, darker(character.outfit.hat_colour, 0.5), head.facing(bridge[1]), 1.0))
    return shapes
