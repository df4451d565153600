"""One of several people whose points somebody else has found, chosen and followed from frame to frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.inputs import BODY_POINTS, FACE_POINTS, HAND_POINTS, InputError
from pasdedeux.animate.preprocess.coco133 import Floats


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pose:
    """One person's points in T frames, as in `Keypoints`: body [T, 20, 3], hands [T, 2, 21, 3], face [T, 70, 3]."""

    body: Floats
    hands: Floats
    face: Floats


def unseen(frames: int) -> Pose:
    """Nobody."""
    return Pose(
        body=np.zeros((frames, BODY_POINTS, 3), np.float32),
        hands=np.zeros((frames, 2, HAND_POINTS, 3), np.float32),
        face=np.zeros((frames, FACE_POINTS, 3), np.float32),
    )


def followed(frames: Sequence[Sequence[Pose]], person: int | None, path: Path) -> Pose:
    """One person through all frames, each of which holds any number of them; nothing is seen where they are not.

    It is number `person`, counted from 1 in the first frame that has so many, or the largest; from there on it is who
    is nearest to where they were. Raises InputError where there is no such person.
    """
    most = max(map(len, frames))
    if most < (person or 1):
        raise InputError(f"{path} holds at most {most} people in a frame; person {person or 1} is not among them.")
    chosen: list[Pose] = []
    last: Pose | None = None
    missed = 0
    for people in frames:
        found = _first(people, person) if last is None else _next(people, last, person, missed)
        chosen.append(found or unseen(1))
        last, missed = (last, missed + 1) if found is None else (found, 0)
    parts = ("body", "hands", "face")
    return Pose(**{part: np.concatenate([getattr(pose, part) for pose in chosen]) for part in parts})


def _first(people: Sequence[Pose], person: int | None) -> Pose | None:
    if len(people) < (person or 1):
        return None
    return max(people, key=_extent) if person is None else people[person - 1]


def _next(people: Sequence[Pose], last: Pose, person: int | None, missed: int) -> Pose | None:
    """Who is nearest, if they have not moved by more than their own extent, and a tenth of it for each frame missed;
    else the largest, if nobody was named.
    """
    if not people:
        return None
    nearest = min(people, key=lambda pose: _apart(pose, last))
    if _apart(nearest, last) <= (1 + missed / 10) * _extent(last):
        return nearest
    return max(people, key=_extent) if person is None else None


def _extent(pose: Pose) -> float:
    """The diagonal of what is seen of the body, in pixels."""
    points = pose.body[0, _seen(pose), :2]
    return float(np.linalg.norm(np.ptp(points, axis=0))) if len(points) else 0.0


def _apart(pose: Pose, other: Pose) -> float:
    """The mean distance of points seen in both, in pixels."""
    both = _seen(pose) & _seen(other)
    far = np.linalg.norm(pose.body[0, both, :2] - other.body[0, both, :2], axis=-1)
    return float(far.mean()) if both.any() else np.inf


def _seen(pose: Pose) -> NDArray[np.bool_]:
    return pose.body[0, :, 2] > 0
