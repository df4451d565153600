"""How long a body's limbs are: measured over a clip, compared with another body's. Knows the body's tree."""

import numpy as np

from pasdedeux.animate.inputs import Keypoints

SEEN = 0.5
HIPS = 20  # a joint of our own, midway between the two hips, after the twenty of Keypoints
NOSE, NECK, R_SHOULDER, R_WRIST, L_SHOULDER, L_WRIST, R_HIP, L_HIP, R_EYE, L_EYE = (
    0,
    1,
    2,
    4,
    5,
    7,
    8,
    11,
    14,
    15,
)

# Each limb (parent, child), parents before children: a body is rebuilt outward from the neck.
SPINE = (NECK, HIPS)
RIGHT = ((1, 2), (2, 3), (3, 4), (HIPS, 8), (8, 9), (9, 10), (10, 19), (0, 14), (14, 16))
LEFT = ((1, 5), (5, 6), (6, 7), (HIPS, 11), (11, 12), (12, 13), (13, 18), (0, 15), (15, 17))
LIMBS = (SPINE, (NECK, NOSE), *RIGHT, *LEFT)
TWIN = {**dict(zip(RIGHT, LEFT, strict=True)), **dict(zip(LEFT, RIGHT, strict=True))}

LONGEST_SHARE = 90  # percentile: a limb is as long as it looks when it lies in the picture plane
FEET, USUAL_SHARE = ((10, 19), (13, 18)), 50  # but a foot points at us where somebody stands, as in most pictures
PARTNERS = (((2, 3), (3, 4)), ((5, 6), (6, 7)), ((8, 9), (9, 10)), ((11, 12), (12, 13)))
LEAST_OF_PARTNER = 0.7  # forearms and upper arms, shins and thighs: what looks shorter points at us
ARMS = [3, 4, 6, 7]
SHOWN, ARMS_SHOWN = 0.5, 0.1  # of the frames: hands come and go in a close picture, and are what is said with
CLOSEST, FARTHEST = 0.3, 1 / 0.3  # how far a limb's ratio may stray from the whole body's


def with_hips(body: np.ndarray) -> np.ndarray:
    """body [T, 20, 3] and the point midway between the hips: float64 [T, 21, 3]."""
    middle = body[:, [R_HIP, L_HIP]].astype(np.float64).mean(axis=1, keepdims=True)
    middle[..., 2] = body[:, [R_HIP, L_HIP], 2].min(axis=1)[:, None]
    return np.concatenate([body.astype(np.float64), middle], axis=1)


def lengths(body: np.ndarray) -> dict[tuple[int, int], float]:
    """Each limb's length in pixels from body [T, 21, 3]: the 90th percentile over frames where both ends are
    seen; of feet the median.

    The longer of left and right counts for both, and halves of an arm or a leg are nowhere near as unlike as they look
    when one of them points at us. Limbs never seen, or without length, are left out.
    """
    shares = {limb: USUAL_SHARE if limb in FEET else LONGEST_SHARE for limb in LIMBS}
    own = {limb: length for limb in LIMBS if (length := span(body[:, limb[0]], body[:, limb[1]], shares[limb]))}
    both = {limb: max(own.get(limb, 0.0), own.get(TWIN.get(limb, limb), 0.0)) for limb in LIMBS if _known(limb, own)}
    for pair in PARTNERS:
        if all(limb in both for limb in pair):
            least = LEAST_OF_PARTNER * max(both[limb] for limb in pair)
            both.update({limb: max(both[limb], least) for limb in pair})
    return both


def _known(limb: tuple[int, int], own: dict[tuple[int, int], float]) -> bool:
    return limb in own or TWIN.get(limb) in own


def span(a: np.ndarray, b: np.ndarray, share: float = LONGEST_SHARE) -> float | None:
    """The `share`th percentile of the distance between two points' tracks [T, 3]; None where they are not seen
    together.
    """
    seen = (a[:, 2] >= SEEN) & (b[:, 2] >= SEEN)
    if not seen.any():
        return None
    length = float(np.percentile(np.linalg.norm((a - b)[seen, :2], axis=-1), share))
    return length if length > 1e-3 else None


def scale(performer: np.ndarray, character: np.ndarray) -> float | None:
    """How much larger the character is, from the first that both show: torso, shoulders, eyes. None where
    nothing.
    """
    for a, b in (SPINE, (R_SHOULDER, L_SHOULDER), (NECK, NOSE), (R_EYE, L_EYE)):
        own, other = span(performer[:, a], performer[:, b]), span(character[:, a], character[:, b])
        if own is not None and other is not None:
            return other / own
    return None


def ratios(performer: np.ndarray, character: np.ndarray, whole: float) -> dict[tuple[int, int], float]:
    """Character's length over performer's by limb; `whole` (the body's) where one is not seen in both."""
    own, other = lengths(performer), lengths(character)
    return {
        limb: float(np.clip(other[limb] / own[limb], CLOSEST * whole, FARTHEST * whole))
        if limb in own and limb in other
        else whole
        for limb in LIMBS
    }


def filled(points: np.ndarray) -> np.ndarray:
    """points [T, N, 3] with x and y of unseen frames taken from the seen ones around them, as float64."""
    points = points.astype(np.float64)
    for track in points.transpose(1, 0, 2):
        seen = np.flatnonzero(track[:, 2] >= SEEN)
        if 0 < len(seen) < len(track):
            hidden = np.flatnonzero(track[:, 2] < SEEN)
            track[hidden, 0] = np.interp(hidden, seen, track[seen, 0])
            track[hidden, 1] = np.interp(hidden, seen, track[seen, 1])
    return points


def with_elbows(body: np.ndarray) -> np.ndarray:
    """body [T, N, 3] with an elbow that is never shown midway between shoulder and wrist, not seen: hands may be, as
    where arms leave the picture above.
    """
    body, shown = body.copy(), driven(body)
    for shoulder, elbow, wrist in ((R_SHOULDER, 3, R_WRIST), (L_SHOULDER, 6, L_WRIST)):
        if shown[[shoulder, elbow, wrist]].all() and (body[:, elbow, 2] < SEEN).all():
            body[:, elbow, :2] = body[:, [shoulder, wrist], :2].mean(axis=1)
    return body


def driven(body: np.ndarray) -> np.ndarray:
    """Which joints of body [T, N, 3] the performer really shows, bool [N]: seen in at least half of the frames.

    A tenth is enough for arms, and for an elbow that its shoulder and wrist are shown.
    """
    share = (body[..., 2] >= SEEN).mean(axis=0)
    least = np.full(len(share), SHOWN)
    least[ARMS] = ARMS_SHOWN
    shown = share >= least
    for shoulder, elbow, wrist in ((R_SHOULDER, 3, R_WRIST), (L_SHOULDER, 6, L_WRIST)):
        shown[elbow] |= shown[shoulder] and shown[wrist]
    return shown


def character_joints(keypoints: Keypoints) -> np.ndarray:
    """The character's one frame as float64 [21, 3]."""
    return with_hips(keypoints.body)[0]
