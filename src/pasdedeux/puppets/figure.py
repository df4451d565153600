"""A whole puppet over time: every body part as shapes, sorted into groups by depth, and all labelled
points.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from . import clothes, limbs
from . import head as heads
from .anatomy import BODY, SIDES
from .character import Character
from .face import Features, features, glasses
from .headwear import headwear
from .poses import Poses
from .shapes import Array, Group, Ink, solid
from .skeleton import Joints, solve
from .trunk import make_trunk

OUTLINE: Final = 0.0062
"""Width of every outline, in units of an average standing height."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """groups: what to draw. body [T, 20, 3], hands [T, 2, 21, 3], face [T, 70, 3]: world x, y and
    confidence.
    """

    groups: list[Group]
    body: Array
    hands: Array
    face: Array


def build(character: Character, poses: Poses, towards: Array) -> Figure:
    """Pose the character; `towards` [2] points to the light on the picture."""
    ink = Ink(width=OUTLINE, towards=towards)
    joints = solve(poses, character.body)
    drop = np.clip(poses.mouth[:, 0].astype(float), 0, 1)
    head = heads.make(joints.head_frame, joints.skull[:, :2], drop, character.body, character.face)
    painted = features(head, character, poses)
    face = _hide(painted.points, joints, character)
    groups = [*_limbs(joints, character, ink), *_middle(joints, head, character, painted, ink)]
    return Figure(
        groups=groups, body=_body_points(joints, head, face, character), hands=_hand_points(joints), face=face
    )


def _limbs(joints: Joints, character: Character, ink: Ink) -> list[Group]:
    covered = 0.6 if character.outfit.bottom in ("skirt", "dress") else 0.12
    groups = []
    for side in (0, 1):
        reach = (joints.knee[:, side, 2] + joints.ankle[:, side, 2]) / 2 - joints.hip[:, :, 2].mean(1)
        groups.append(Group(depth=reach - covered, shapes=limbs.leg(joints, character, side, ink)))
        swing = 0.3 * joints.shoulder[:, side] + 0.3 * joints.elbow[:, side] + 0.4 * joints.wrist[:, side]
        depth = swing[:, 2] - joints.neck[:, 2] + 0.04
        shapes = limbs.arm(joints, character, side, ink)
        groups.append(Group(depth=depth + np.where(depth > 0, 0.05, 0), shapes=shapes))
    return groups


def _middle(joints: Joints, head: heads.Head, character: Character, face: Features, ink: Ink) -> list[Group]:
    """Trunk, head, and what hangs behind them (in front of them when the character shows its back)."""
    trunk, zero = make_trunk(joints, character), np.zeros(len(joints.neck))
    wear = headwear(head, character, ink)
    skull = solid(head.outline(), character.skin, ink, low=0.35)
    shapes = [
        *wear.behind,
        *skull,
        *wear.beard,
        *face.shapes,
        *wear.over,
        *face.brows,
        *glasses(head, character),
        *wear.hat,
    ]
    away = np.where(head.turn[:, 2, 2] > -0.1, -1.0, 0.04)
    turned = np.where(np.cos(trunk.yaw) > 0, -2.0, 0.02)
    return [
        Group(depth=turned, shapes=clothes.cape(trunk, character, ink)),
        Group(depth=away, shapes=wear.mane),
        Group(depth=zero, shapes=clothes.torso(trunk, character, joints, ink)),
        Group(depth=zero + 0.03, shapes=shapes),
    ]


def _body_points(joints: Joints, head: heads.Head, face: Array, character: Character) -> Array:
    points = np.ones((len(face), len(BODY), 3))
    ears = [np.array([[1.04 * side, -0.08, 0.0]]) for side in SIDES]
    for side, name in enumerate(("right", "left")):
        for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "toe"):
            points[:, BODY[f"{name}_{joint}"], :2] = getattr(joints, joint)[:, side, :2]
        eye = face[:, 36 + 6 * side : 42 + 6 * side]
        points[:, BODY[f"{name}_eye"], :2] = eye[..., :2].mean(1)
        points[:, BODY[f"{name}_eye"], 2] = eye[..., 2].min(1)
        points[:, BODY[f"{name}_ear"], :2] = head.place(ears[side], wrap=False)[:, 0]
        points[:, BODY[f"{name}_ear"], 2] = head.depth(ears[side])[:, 0] > -0.35
    points[:, BODY["nose"]] = face[:, 30]
    points[:, BODY["neck"], :2] = joints.shoulder[:, :, :2].mean(1)
    return points


def _hand_points(joints: Joints) -> Array:
    """Left hand first: the order in which hands are stored."""
    both = joints.hands[:, ::-1, :, :2]
    return np.concatenate([both, np.ones((*both.shape[:-1], 1))], -1)


def _hide(points: Array, joints: Joints, character: Character) -> Array:
    """Face points under a hand or forearm that is nearer to us are not visible."""
    points = points.copy()
    for side in (0, 1):
        near = joints.wrist[:, side, 2] > joints.neck[:, 2]
        for a, b, radius in (
            (joints.elbow[:, side, :2], joints.wrist[:, side, :2], character.body.arm_radius),
            (joints.wrist[:, side, :2], joints.hands[:, side, 12, :2], 0.3 * character.body.hand),
        ):
            points[..., 2] *= ~((_gap(points[..., :2], a, b) < radius) & near[:, None])
    return points


def _gap(points: Array, a: Array, b: Array) -> Array:
    """Distance of points [T, K, 2] from the segments a to b [T, 2]."""
    axis = (b - a)[:, None]
    along = ((points - a[:, None]) * axis).sum(-1) / np.maximum((axis**2).sum(-1), 1e-9)
    return np.linalg.norm(points - a[:, None] - np.clip(along, 0, 1)[..., None] * axis, axis=-1)
