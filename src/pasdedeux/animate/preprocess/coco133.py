"""COCO-WholeBody's 133 points and our `Keypoints`, each made of the other.

The 133 are 17 of the body, 6 of the feet, 68 of the face, 21 of the left and 21 of the right hand, each x px, y px,
confidence. Ours has a neck and two pupils that the 133 lack, and one toe a foot where they have two and a heel. What
both can hold comes back unchanged from a round trip.
"""

import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.inputs import BODY_POINTS, FACE_POINTS, InputError, Keypoints

Floats = NDArray[np.float32]
POINTS = 133
FEET, FACE, LEFT_HAND, RIGHT_HAND = slice(17, 23), slice(23, 91), slice(91, 112), slice(112, 133)
OUTLINE = 68
"""Face points without the pupils."""

# Our body point for each of COCO's 17, which lists left before right.
BODY_OF_COCO = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
NECK, SHOULDERS = 1, [2, 5]
# Our toe, and the big and the small toe that it stands for: left, then right.
TOES = ((18, (17, 18)), (19, (20, 21)))
# Our pupil, and the outline of the eye around it: right, then left.
PUPILS = ((68, slice(36, 42)), (69, slice(42, 48)))
SEEN = 0.5

_SIDES = ("left", "right")
_BODY_NAMES = ("nose", *(f"{s}_{part}" for part in ("eye", "ear", "shoulder", "elbow", "wrist") for s in _SIDES))
_LEG_NAMES = tuple(f"{s}_{part}" for part in ("hip", "knee", "ankle") for s in _SIDES)
_FOOT_NAMES = tuple(f"{s}_{part}" for s in _SIDES for part in ("big_toe", "small_toe", "heel"))
_FINGERS = ("thumb", "forefinger", "middlefinger", "ringfinger", "pinky_finger")
NAMES: tuple[str, ...] = (
    *(_BODY_NAMES + _LEG_NAMES + _FOOT_NAMES),
    *(f"face-{i}" for i in range(OUTLINE)),
    *(
        name
        for s in _SIDES
        for name in (f"{s}_hand_root", *(f"{s}_{finger}{joint}" for finger in _FINGERS for joint in range(1, 5)))
    ),
)
"""What the 133 points are called in the COCO-WholeBody data."""
EXTRA_NAMES = ("neck", "right_pupil", "left_pupil")
"""What our keypoints hold beyond the 133."""
SKELETON: tuple[tuple[int, int], ...] = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    *((15, 17), (15, 18), (15, 19), (16, 20), (16, 21), (16, 22)),
    *(
        (root + (0 if joint == 0 else 4 * finger + joint), root + 4 * finger + joint + 1)
        for root in (LEFT_HAND.start, RIGHT_HAND.start)
        for finger in range(5)
        for joint in range(4)
    ),
)
"""Pairs of points (counted from 0) that are joined in a drawing."""


def to_wholebody(keypoints: Keypoints) -> Floats:
    """float32 [T, 133, 3] in the same pixels. Both toes of a foot are ours; heels are not known: confidence 0."""
    points = np.zeros((len(keypoints), POINTS, 3), np.float32)
    points[:, : len(BODY_OF_COCO)] = keypoints.body[:, BODY_OF_COCO]
    for ours, theirs in TOES:
        points[:, theirs] = keypoints.body[:, [ours]]
    points[:, FACE] = keypoints.face[:, :OUTLINE]
    points[:, LEFT_HAND], points[:, RIGHT_HAND] = keypoints.hands[:, 0], keypoints.hands[:, 1]
    return points


def from_wholebody(points: NDArray[np.floating], size: tuple[int, int]) -> Keypoints:
    """Keypoints in a picture of `size` (width, height) from [T, 133, 3]; confidences beyond 0..1 are cut.

    The neck is midway between the shoulders and as sure as the less sure one, a pupil is the middle of its eye's
    outline, a toe the middle of the two where both are seen, and else the surer one. Raises InputError for another
    shape, or a value that is no number.
    """
    if points.ndim != 3 or points.shape[1:] != (POINTS, 3):
        raise InputError(f"Whole-body points must be [T, {POINTS}, 3], but are {list(points.shape)}.")
    points = points.astype(np.float32)
    points[..., 2] = np.clip(points[..., 2], 0, 1)
    return Keypoints(
        body=_body(points),
        hands=np.stack([points[:, LEFT_HAND], points[:, RIGHT_HAND]], axis=1),
        face=with_pupils(points[:, FACE]),
        size=size,
    )


def _body(points: Floats) -> Floats:
    body = np.zeros((len(points), BODY_POINTS, 3), np.float32)
    body[:, BODY_OF_COCO] = points[:, : len(BODY_OF_COCO)]
    body[:, NECK] = middle(body[:, SHOULDERS])
    for ours, theirs in TOES:
        body[:, ours] = toe(points[:, theirs])
    return body


def middle(points: Floats) -> Floats:
    """[..., N, 3] -> [..., 3]: their mean place, as sure as the least sure one."""
    return np.concatenate([points[..., :2].mean(axis=-2), points[..., 2:].min(axis=-2)], axis=-1)


def toe(pair: Floats) -> Floats:
    """Big and small toe [T, 2, 3] as one [T, 3]: the middle where both are seen, else the surer one."""
    both = np.all(pair[..., 2] >= SEEN, axis=-1, keepdims=True)
    surer = pair[np.arange(len(pair)), pair[..., 2].argmax(axis=-1)]
    return np.where(both, middle(pair), surer)


def with_pupils(face: Floats) -> Floats:
    """The 68 points [T, 68, 3] of a face as our 70: the pupils are the middles of the eyes."""
    whole = np.zeros((len(face), FACE_POINTS, 3), np.float32)
    whole[:, :OUTLINE] = face
    for pupil, eye in PUPILS:
        whole[:, pupil] = middle(face[:, eye])
    return whole
