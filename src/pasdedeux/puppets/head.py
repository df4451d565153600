"""A head as a unit ball that turns, is flattened onto the picture and bent into a face's outline.

Everything on a head is given on the ball (x to the picture's right when it faces us, y up, z out of the
face), so hair, hats and features turn with it and disappear behind its edge.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .character import Body, Face
from .shapes import Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """One head over T frames. turn [T, 3, 3]: its yaw and pitch; roll [T]; centre [T, 2]; drop [T]: jaw
    opening.
    """

    turn: Array
    roll: Array
    centre: Array
    drop: Array
    body: Body
    face: Face

    def depth(self, points: Array) -> Array:
        """Points on the ball [K, 3] or [T, K, 3] -> how far each is turned towards us, [T, K]."""
        return (points @ self.turn.transpose(0, 2, 1))[..., 2]

    def place(self, points: Array, wrap: bool = True) -> Array:
        """Points on the ball [K, 3] or [T, K, 3] -> the picture's plane [T, K, 2]; hidden ones slide to
        the edge.
        """
        seen = points @ self.turn.transpose(0, 2, 1)
        flat = seen[..., :2]
        if wrap:
            edge = np.linalg.norm(points, axis=-1, keepdims=True) * flat
            edge = edge / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-6)
            flat = np.where(seen[..., 2:] < 0, edge, flat)
        return self.plane(flat)

    def plane(self, flat: Array) -> Array:
        """Unit-head plane coordinates [T, K, 2], after turning -> the picture's plane: outline, size,
        roll, place.
        """
        x, y = flat[..., 0], flat[..., 1]
        low = np.clip(-y, 0, 1)
        x = x * (1 - self.face.chin * low**2 + self.face.cheek * np.sin(np.pi * low))
        y = y - 0.12 * self.drop[:, None] * np.clip((low - 0.15) / 0.85, 0, 1)
        x, y = x * self.body.head_width, y * self.body.head_height
        c, s = np.cos(self.roll)[:, None], np.sin(self.roll)[:, None]
        return np.stack([c * x - s * y, s * x + c * y], -1) + self.centre[:, None]

    def outline(self, radius: float = 1.0, corners: int = 40) -> Array:
        """The edge of the ball as seen, [T, 1, corners, 2]."""
        angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        ring = radius * np.stack([np.cos(angle), np.sin(angle)], -1)
        return self.plane(np.broadcast_to(ring, (len(self.roll), corners, 2)))[:, None]

    def cap(self, axis: tuple[float, float, float], cut: float, radius: float = 1.0, corners: int = 20) -> Array:
        """The seen part of the ball where axis . p > cut, [T, 1, 2 * corners, 2]: an edge arc and the
        cutting circle.
        """
        normal = np.asarray(axis, float) / np.linalg.norm(axis)
        n = self.turn @ normal
        flat = np.maximum(np.hypot(n[:, 0], n[:, 1]), 1e-6)[:, None]
        toward = n[:, None, :2] / flat[..., None]
        rim = np.sqrt(1 - cut**2)
        steps = np.linspace(-1, 1, corners)
        half = np.arccos(np.clip(-cut * n[:, 2:] / (rim * flat), -1, 1)) * steps
        along = cut * flat - rim * np.cos(half) * n[:, 2:]
        circle = along[..., None] * toward + (rim * np.sin(half))[..., None] * _left(toward)
        reach = np.arccos(np.clip(cut / flat, -1, 1)) * steps[::-1]
        arc = np.cos(reach)[..., None] * toward + np.sin(reach)[..., None] * _left(toward)
        lost = (np.abs(cut) >= flat) & (np.abs(half[:, -1:]) > 3)
        arc = np.where((lost & (cut > 0))[..., None], circle[:, -1:], arc)
        return self.plane(radius * np.concatenate([circle, arc], 1))[:, None]

    def facing(self, point: Array, threshold: float = 0.05) -> NDArray[np.bool_]:
        """Whether a point of the ball [3] is on our side, [T] bool."""
        return self.depth(point[None])[:, 0] > threshold


def make(frame: Array, centre: Array, drop: Array, body: Body, face: Face) -> Head:
    """Split a head's rotation [T, 3, 3] into what is seen in depth (yaw, pitch) and what is a turn of the
    picture.
    """
    pitch = np.arcsin(np.clip(frame[:, 2, 1], -1, 1))
    yaw = np.arctan2(-frame[:, 2, 0], frame[:, 2, 2])
    roll = np.arctan2(-frame[:, 0, 1], frame[:, 1, 1])
    cp, sp, cy, sy, nought = np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)
    rows = [[cy, nought, sy], [sp * sy, cp, -sp * cy], [-cp * sy, sp, cp * cy]]
    turn = np.stack([np.stack(row, -1) for row in rows], 1)
    return Head(turn=turn, roll=roll, centre=centre, drop=drop, body=body, face=face)


def front(x: Array | float, y: Array | float, lift: float = 1.0) -> Array:
    """Points of the face at (x, y), on the front half of the ball: [..., 3], raised by `lift`."""
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    z = np.sqrt(np.maximum(1 - x**2 - y**2, 0.02))
    return lift * np.stack([x, y, z], -1)


def _left(direction: Array) -> Array:
    return np.stack([-direction[..., 1], direction[..., 0]], -1)
