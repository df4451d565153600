"""The torso as a bent cylinder: what is laid out on it (clothes, patterns) moves and turns with it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .character import Character
from .shapes import Array, Colour, Ink, Shape, darker, grow, lit
from .skeleton import Joints


@dataclass(frozen=True, kw_only=True, slots=True)
class Trunk:
    """The torso as a bent cylinder: at height t (0 hips, 1 shoulders) and longitude phi it has a place on
    the picture.

    base, tip, across [T, 2]: its axis' ends and the picture's direction of its width; yaw [T]; profile:
    half-widths at t; flat [T]: how much of the width is seen; length: of the axis when it is seen in
    full.
    """

    base: Array
    tip: Array
    across: Array
    yaw: Array
    profile: Callable[[Array], Array]
    flat: Array
    length: float

    def at(self, t: Array | float, s: Array | float) -> Array:
        """Picture place at height t and s in [-1, 1] across the seen width: [T, K, 2]."""
        t, s = np.broadcast_arrays(np.atleast_1d(np.asarray(t, float)), np.atleast_1d(np.asarray(s, float)))
        axis = self.base[:, None] + (self.tip - self.base)[:, None] * t[..., None]
        sag = -0.012 * (1 - s**2)[..., None] * np.array([0, 1.0])
        return axis + self.across[:, None] * (self.flat[:, None] * self.profile(t) * s)[..., None] + sag

    def on(self, t: Array, phi: Array) -> Array:
        """Picture place [T, K, 2] at height t and longitude phi (0: the front); hidden ones at the edge."""
        turned = np.clip(_wrap(phi + self.yaw[:, None]), -np.pi / 2, np.pi / 2)
        return self.at(np.broadcast_to(t, turned.shape), np.sin(turned))

    def seen(self, phi: float) -> NDArray[np.bool_]:
        return np.abs(_wrap(phi + self.yaw)) < 1.35


def _wrap(angle: Array) -> Array:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def make_trunk(joints: Joints, character: Character) -> Trunk:
    """Widths come from the character; turned sideways, the trunk is as wide as it is deep."""
    body, frame = character.body, joints.chest_frame
    yaw = np.arctan2(frame[:, 0, 2], frame[:, 2, 2])
    base, tip = joints.pelvis[:, :2], joints.neck[:, :2]
    upright = tip - base + np.array([0, 0.02])
    upright /= np.linalg.norm(upright, axis=-1, keepdims=True)
    knots = np.array([-0.12, 0.0, 0.25, 0.5, 0.85, 1.0])
    widths = 0.5 * np.array([
        body.hips + 0.03, body.hips + 0.06, body.waist + 0.05 * body.belly + 0.02,
        0.5 * (body.waist + body.shoulders) + 0.02 * body.belly, body.shoulders + 0.02, 0.68 * body.shoulders,
    ])  # fmt: skip
    flat = np.sqrt(np.cos(yaw) ** 2 + (0.72 + 0.2 * body.belly) ** 2 * np.sin(yaw) ** 2)
    across = np.stack([upright[:, 1], -upright[:, 0]], -1)
    return Trunk(
        base=base,
        tip=tip,
        across=across,
        yaw=yaw,
        flat=flat,
        length=body.torso,
        profile=lambda t: np.interp(t, knots, widths),
    )


def band(trunk: Trunk, low: float, high: float, steps: int = 4) -> Array:
    t = np.linspace(low, high, steps)
    s = np.linspace(-1, 1, 6)
    rows = [
        trunk.at(high, s),
        trunk.at(t[::-1], 1.0)[:, 1:-1],
        trunk.at(low, s[::-1]),
        trunk.at(t, -1.0)[:, 1:-1],
    ]
    return np.concatenate(rows, 1)[:, None]


def panel(trunk: Trunk, low: float, high: float, colour: Colour, ink: Ink) -> list[Shape]:
    points = band(trunk, low, high, 8)
    return [
        Shape(points=grow(points, ink.width), colour=darker(colour)),
        Shape(points=points, colour=colour, shade=0.0),
        Shape(points=lit(points, ink), shade=1.0),
    ]


def patches(trunk: Trunk, t: Array, phi: Array, outline: Array, colour: Colour, size: float) -> list[Shape]:
    """Copies of a small outline [K, 2] laid on the trunk at heights t and longitudes phi [N]."""
    dt = outline[:, 1] * size / trunk.length
    dphi = outline[:, 0] * size / trunk.profile(np.array(0.6))
    shapes = []
    for height, longitude in zip(t, phi, strict=True):
        place = trunk.on((height + dt)[None], (longitude + dphi)[None])
        shapes.append(Shape(points=place[:, None], colour=colour, visible=trunk.seen(longitude)))
    return shapes
