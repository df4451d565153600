"""The performer's face on the character's head: the character's features, the performer's expression.

Each feature (an eye, the mouth, ...) has its place and size from the character's picture. It is moved, opened
and turned as the performer's is, measured against the reference frame and relative to the face's size.
"""

import numpy as np

from pasdedeux.animate.preprocess.proportions import CLOSEST, FARTHEST, L_EYE, LONGEST_SHARE, NOSE, R_EYE, SEEN, span

HEAD_JOINTS = (14, 15, 16, 17)  # eyes and ears: the body's points that go with the face
PROFILE = 0.25  # eyes closer together than this share of their widest distance do not tell the head's roll
FEATURE_LIMITS = (0.5, 2.0)  # a feature's ratio over the whole face's
MOST = 0.75  # a face of which so much is seen tells how large the head is
CLOSED = 0.1  # an eye's height over its width, below which it does not tell how large the eye is

JAW, RIGHT_BROW, LEFT_BROW, NOSE_LINES, MOUTH = (
    range(17),
    range(17, 22),
    range(22, 27),
    range(27, 36),
    range(48, 68),
)
RIGHT_EYE, LEFT_EYE, RIGHT_PUPIL, LEFT_PUPIL = range(36, 42), range(42, 48), 68, 69
# Feature: the points that say where and how large it is, all points that go with it, and whether its height
# is compared on its own (brows and mouth open by their width).
FEATURES = (
    (JAW, (*JAW,), True),
    (RIGHT_BROW, (*RIGHT_BROW,), False),
    (LEFT_BROW, (*LEFT_BROW,), False),
    (NOSE_LINES, (*NOSE_LINES,), True),
    (MOUTH, (*MOUTH,), False),
    (RIGHT_EYE, (*RIGHT_EYE, RIGHT_PUPIL), True),
    (LEFT_EYE, (*LEFT_EYE, LEFT_PUPIL), True),
)


def carried_head(
    face: np.ndarray,
    theirs: np.ndarray,
    own_face: np.ndarray,
    own: np.ndarray,
    body: np.ndarray,
    ratio: float,
    reference: int,
) -> np.ndarray:
    """The face [T, 70, 3] for the rebuilt body; also puts that body's eyes and ears where they go with it.

    face [T, 70, 3] and theirs [T, 21, 3] are the performer's, own_face [70, 3] and own [21, 3] the
    character's, body [T, 21, 3] the one being rebuilt (its nose in place). ratio is the character's head over
    the performer's, reference the frame laid on the character.
    """
    carried = face.astype(np.float64)
    joints = list(HEAD_JOINTS)
    body[:, joints, :2] = body[:, [NOSE], :2] + ratio * (theirs[:, joints, :2] - theirs[:, [NOSE], :2])
    frontal = _frontal(theirs)
    if not frontal.any() or not _frontal(own[None])[0]:
        carried[..., :2] = body[:, [NOSE], :2] + ratio * (carried[..., :2] - theirs[:, [NOSE], :2])
        return carried
    reference = int(np.flatnonzero(frontal)[np.abs(np.flatnonzero(frontal) - reference).argmin()])
    roll, own_roll = _roll(theirs, frontal), _roll(own[None], np.array([True]))
    local = _turned(carried[..., :2] - theirs[:, [NOSE], :2], -roll)
    own_local = _turned(own_face[None, :, :2] - own[None, [NOSE], :2], -own_roll)[0]
    shaped = _shaped(local, own_local, reference, ratio) if _seen(own_face, face[reference]) else ratio * local
    carried[..., :2] = body[:, [NOSE], :2] + _turned(shaped, roll)
    return carried


def _seen(*faces: np.ndarray) -> bool:
    return all((face[:68, 2] >= SEEN).all() for face in faces)


def head_ratio(face: np.ndarray, theirs: np.ndarray, own_face: np.ndarray, own: np.ndarray, whole: float) -> float:
    """The character's head over the performer's; arguments as in `carried_head`.

    By the whole face, which changes least as a head turns or nods; else by the distance between the eyes; else `whole`.
    """
    other, mine = _extent(face), _extent(own_face[None])
    if other is None or mine is None:
        other, mine = span(theirs[:, R_EYE], theirs[:, L_EYE]), span(own[None, R_EYE], own[None, L_EYE])
    return whole if other is None or mine is None else float(np.clip(mine / other, CLOSEST * whole, FARTHEST * whole))


def _extent(face: np.ndarray) -> float | None:
    """Mean distance of the points of face [T, 70, 3] from their middle: 90th percentile of frames that show most."""
    whole = face[(face[:, :68, 2] >= SEEN).mean(axis=1) >= MOST, :68, :2].astype(np.float64)
    if not len(whole):
        return None
    spread = np.linalg.norm(whole - whole.mean(axis=1, keepdims=True), axis=-1).mean(axis=1)
    return float(np.percentile(spread, LONGEST_SHARE)) or None


def _frontal(body: np.ndarray) -> np.ndarray:
    """Frames, bool [T], in which eyes and nose are seen from the front: the nose on the right side of the
    eyes.
    """
    seen = (body[:, [NOSE, R_EYE, L_EYE], 2] >= SEEN).all(axis=1)
    eyes = body[:, L_EYE, :2] - body[:, R_EYE, :2]
    down = body[:, NOSE, :2] - (body[:, L_EYE, :2] + body[:, R_EYE, :2]) / 2
    facing = eyes[:, 0] * down[:, 1] - eyes[:, 1] * down[:, 0] > 0
    widest = span(body[:, R_EYE], body[:, L_EYE]) or np.inf
    return seen & facing & (np.linalg.norm(eyes, axis=1) > PROFILE * widest)


def _roll(body: np.ndarray, frontal: np.ndarray) -> np.ndarray:
    """The angle [T] of the line from right to left eye, in radians; frames not frontal lie between their
    neighbours.
    """
    eyes = body[:, L_EYE, :2] - body[:, R_EYE, :2]
    known = np.flatnonzero(frontal)
    angles = np.unwrap(np.arctan2(eyes[known, 1], eyes[known, 0]))
    return np.interp(np.arange(len(body)), known, angles)


def _turned(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """points [T, N, 2] turned about the origin by angle [T]."""
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = points[..., 0], points[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def _shaped(local: np.ndarray, own: np.ndarray, reference: int, ratio: float) -> np.ndarray:
    """local [T, 70, 2], an upright face round its nose, with every feature at its place and size in own [70,
    2].
    """
    shaped = local.copy()
    for measured, members, tall in FEATURES:
        middle = local[:, list(measured)].mean(axis=1, keepdims=True)
        home = own[list(measured)].mean(axis=0)
        size = _feature_ratio(local[reference, list(measured)], own[list(measured)], ratio, tall)
        offsets = local[:, list(members)] - middle
        shaped[:, list(members)] = home + ratio * (middle - middle[reference]) + size * offsets
    return shaped


def _feature_ratio(theirs: np.ndarray, own: np.ndarray, ratio: float, tall: bool) -> np.ndarray:
    """(width, height) of the character's feature over the performer's, points [N, 2] each, near the face's
    ratio.
    """
    sizes, own_sizes = np.maximum(np.ptp(theirs, axis=0), 1e-3), np.ptp(own, axis=0)
    width, height = own_sizes / sizes
    closed = min(sizes[1] / sizes[0], own_sizes[1] / max(own_sizes[0], 1e-3)) < CLOSED
    both = np.array([width, width if closed or not tall else height])
    return np.clip(both, FEATURE_LIMITS[0] * ratio, FEATURE_LIMITS[1] * ratio)
