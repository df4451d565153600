"""Poses and a body's lengths -> joints in space, seen from the front and a little above (orthographic)."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from .anatomy import SIDES
from .character import Body
from .poses import Poses
from .shapes import Array

TILT: Final = 0.2
"""How far above the floor's plane the viewer looks down, in radians: feet that point at us stay visible."""
FINGERS: Final = ((0.2, 0.92), (0.07, 1.05), (-0.07, 0.98), (-0.2, 0.78))
"""Sideways place of a finger's root and its length, in hand lengths: index to little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Joints:
    """Points in view space, [T, 3] or [T, 2, 3] (right, left): x right, y up, z towards us; frames [T, 3,
    3].
    """

    pelvis: Array
    neck: Array
    skull: Array
    shoulder: Array
    elbow: Array
    wrist: Array
    hip: Array
    knee: Array
    ankle: Array
    toe: Array
    hands: Array
    chest_frame: Array
    head_frame: Array


def solve(poses: Poses, body: Body) -> Joints:
    """Forward kinematics; the lowest foot stands on the floor (y = 0) unless root says it is in the air."""
    facing = _turn(1, poses.pelvis[:, 1])
    hips = facing @ _turn(0, poses.pelvis[:, 0]) @ _turn(2, poses.pelvis[:, 2])
    chest = hips @ _euler(poses.spine)
    head = chest @ _euler(poses.head)
    legs = [_leg(poses, body, facing, hips, side) for side in (0, 1)]
    hip, knee, ankle, toe = (np.stack(points, 1) for points in zip(*legs, strict=True))
    trunk = _trunk(body, hips, chest, head)
    arms = [_arm(poses, body, chest, trunk[1], side) for side in (0, 1)]
    shoulder, elbow, wrist, hands = (np.stack(points, 1) for points in zip(*arms, strict=True))
    lowest = np.minimum(ankle[..., 1] - body.ankle, toe[..., 1] - 0.5 * body.ankle).min(axis=1)
    root = poses.root.astype(float) * body.leg
    root[:, 1] = np.maximum(root[:, 1], 0) - lowest
    view = _turn(0, np.array([TILT]))[0]
    limbs = (*trunk, shoulder, elbow, wrist, hip, knee, ankle, toe, hands)
    seen = [(p + root.reshape(len(root), *[1] * (p.ndim - 2), 3)) @ view.T for p in limbs]
    names = ("pelvis", "neck", "skull", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "toe", "hands")
    return Joints(**dict(zip(names, seen, strict=True)), chest_frame=view @ chest, head_frame=_level(head))


def _trunk(body: Body, hips: Array, chest: Array, head: Array) -> tuple[Array, Array, Array]:
    pelvis = np.zeros((len(hips), 3))
    middle = hips @ np.array([0, 0.4 * body.torso, 0])
    neck = middle + chest @ np.array([0, 0.6 * body.torso, 0])
    skull = neck + chest @ np.array([0, body.neck, 0]) + head @ np.array([0, 0.88 * body.head_height, 0])
    return pelvis, neck, skull


def _leg(poses: Poses, body: Body, facing: Array, hips: Array, side: int) -> tuple[Array, Array, Array, Array]:
    flex, abduct, twist, bend = poses.legs[:, side].T
    upper = facing @ _turn(0, -flex) @ _turn(2, SIDES[side] * abduct) @ _turn(1, -SIDES[side] * twist)
    lower = upper @ _turn(0, bend)
    hip = hips @ np.array([SIDES[side] * body.hips * 0.5, 0, 0])
    knee = hip + upper @ np.array([0, -0.5 * body.leg, 0])
    ankle = knee + lower @ np.array([0, -0.5 * body.leg, 0])
    out = np.array([0.22 * SIDES[side], 0, 1.0])
    forward = 0.4 * (facing @ out) + 0.6 * (lower @ out)
    forward[:, 1] += np.tan(np.clip(poses.feet[:, side], -1.2, 1.2))
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    toe = ankle + body.foot * forward
    toe[:, 1] -= 0.5 * body.ankle
    return hip, knee, ankle, toe


def _arm(poses: Poses, body: Body, chest: Array, neck: Array, side: int) -> tuple[Array, Array, Array, Array]:
    flex, abduct, twist, bend = poses.arms[:, side].T
    upper = chest @ _turn(0, -flex) @ _turn(2, SIDES[side] * abduct) @ _turn(1, -SIDES[side] * twist)
    lower = upper @ _turn(0, -bend)
    shoulder = neck + chest @ np.array([SIDES[side] * body.shoulders * 0.5, -0.1 * body.torso, 0])
    elbow = shoulder + upper @ np.array([0, -0.52 * body.arm, 0])
    wrist = elbow + lower @ np.array([0, -0.48 * body.arm, 0])
    return shoulder, elbow, wrist, _hand(poses, body, lower, wrist, side)


def _hand(poses: Poses, body: Body, lower: Array, wrist: Array, side: int) -> Array:
    """21 points [T, 21, 3]: the wrist, then four points for the thumb and each finger, root to tip."""
    bend, curl, spread, roll = poses.hands[:, side].astype(float).T
    frame = lower @ _turn(1, -SIDES[side] * roll) @ _turn(2, -SIDES[side] * bend)
    along, thumbward, palm = -frame[..., 1], frame[..., 2], -SIDES[side] * frame[..., 0]
    points = [wrist, *_thumb(wrist, along, thumbward, palm, curl, body.hand)]
    for place, length in FINGERS:
        fan = (place * 1.6 * spread)[:, None]
        ahead = along * np.cos(fan) + thumbward * np.sin(fan)
        points += _finger(wrist + body.hand * (0.5 * along + place * thumbward), ahead, palm, curl, length * body.hand)
    return np.stack(points, 1)


def _finger(root: Array, ahead: Array, palm: Array, curl: Array, length: float) -> list[Array]:
    points: list[Array] = [root]
    angle = np.zeros_like(curl)
    for joint, part in ((1.2, 0.24), (1.4, 0.16), (0.8, 0.12)):
        angle = angle + joint * np.clip(curl, 0, 1)
        points.append(points[-1] + part * length * (np.cos(angle)[:, None] * ahead + np.sin(angle)[:, None] * palm))
    return points


def _thumb(wrist: Array, along: Array, thumbward: Array, palm: Array, curl: Array, hand: float) -> list[Array]:
    points: list[Array] = [wrist + hand * (0.12 * along + 0.16 * thumbward)]
    for joint, part in ((0.9, 0.2), (0.7, 0.16), (0.5, 0.13)):
        fold = (np.clip(curl, 0, 1) * 0.9)[:, None]
        step = joint * (1 - fold) * thumbward + 0.6 * along + 0.6 * fold * palm
        points.append(points[-1] + part * hand * step / np.linalg.norm(step, axis=-1, keepdims=True))
    return points


def _level(head: Array) -> Array:
    """The head as seen by a viewer who looks down less on it than on the floor: faces stay readable."""
    return _turn(0, np.array([0.3 * TILT]))[0] @ head


def _euler(angles: Array) -> Array:
    return _turn(1, angles[:, 1]) @ _turn(0, angles[:, 0]) @ _turn(2, angles[:, 2])


def _turn(axis: int, angle: Array) -> Array:
    """Right-handed rotations about x (0), y (1) or z (2): [T] -> [T, 3, 3]."""
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.zeros((len(angle), 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[:, axis, axis] = 1
    matrix[:, i, i], matrix[:, i, j], matrix[:, j, i], matrix[:, j, j] = c, -s, s, c
    return matrix
