"""A performance fitted to another body: the performer's angles and expression, the character's proportions.

Every limb keeps its angle and takes the character's length, and the body is rebuilt outward from the neck (as
in Wan-Animate's preprocessing, with lengths measured over the whole clip in place of its first frame). One
frame of the performance, the one most like the character's picture, ties the two together: there the result
stands where the character stands, and moves from there as the performer does, in steps as long as the character's
legs ask. Where both pictures were drawn and their views are known, those tie the two together instead. The head is
as far from the neck as the face is large, unless the two have heads of another kind.

`retarget_wan` has the rule of Wan-Animate's own program, which measures limbs in the performance's first frame. Where
that frame shows the performer standing it places joints about as well; where it does not, several times worse, which
`experiments/2026-11-25-retargeting` measures.
"""

import numpy as np

from pasdedeux.animate.inputs import InputError, Keypoints, View
from pasdedeux.animate.preprocess import proportions as body_plan
from pasdedeux.animate.preprocess.heads import carried_head, head_ratio
from pasdedeux.animate.preprocess.proportions import HIPS, NECK, NOSE, SEEN

ANKLES = [10, 13]
LEGS = ((8, 9, (10, 19)), (11, 12, (13, 18)))  # hip, knee, and what stands on the ground
ARMS = ((0, (6, 7)), (1, (3, 4)))  # which hand, and the limb from elbow to wrist
SLACK = 0.35  # of the torso: how far the body sways before feet the performer does not show are dragged along
PALM = (0, 9)  # the hand's wrist and the root of its middle finger
HAND_LIMITS = (0.5, 2.0)  # a palm's ratio over the forearm's
ALIKE = 0.25  # of the shoulders' width: mean distance of joints between poses that pass for one
OTHER_KIND = 1.6  # times as large a head on a body of the same size


def retarget(performance: Keypoints, character: Keypoints, *, reference_frame: int | None = None) -> Keypoints:
    """The performance's keypoints with the character's proportions, in the character's picture.

    character has one frame. reference_frame (default: the performance's frame most like the character) is the
    one that is laid on the character's place; given, limb lengths are measured there too. Joints the
    performer never shows are the character's own, legs standing still. Confidence is that of whoever a point
    comes from. Raises InputError where the two show no common part of a body to compare.
    """
    theirs = body_plan.filled(body_plan.with_hips(performance.body))
    own = body_plan.character_joints(character)
    whole = body_plan.scale(theirs, own[None])
    if whole is None:
        raise InputError(
            "The performer and the character cannot be compared: neither torso, shoulders nor eyes are seen in both."
        )
    reference = nearest_frame(performance, character) if reference_frame is None else reference_frame
    theirs = body_plan.with_elbows(_with_neck(theirs, own, whole, reference))
    measured = _measured(theirs, performance, character) if reference_frame is None else theirs[[reference]]
    ratios = body_plan.ratios(measured, own[None], whole)
    head = head_ratio(performance.face, theirs, character.face[0], own, whole)
    if 1 / OTHER_KIND < head / whole < OTHER_KIND:
        # A nose comes forward as much as up: a nod changes how far it looks from the neck more than anatomy does. But a
        # real person's face is half as large, for neck and body, as a drawn one's; there anatomy does more.
        ratios[NECK, NOSE] = head
    drives = _driven(theirs)
    body = _rebuilt(theirs, own, ratios, drives)
    standing = _standing(drives, own)
    pace = _stride(ratios) if standing else whole
    if performance.view and character.view and standing:
        track = _viewed(theirs, body, pace, performance.view, character.view)
    else:
        track = _carried(theirs, own, body, drives, pace, reference)
    body[..., :2] += _kept_inside(track, own[NECK], character.size)
    _plant(body, own, drives)
    face = carried_head(performance.face, theirs, character.face[0], own, body, head, reference)
    hands = _hands(performance.hands, theirs, character.hands[0], own, body, ratios, drives)
    arrays = (part.astype(np.float32) for part in (body[:, :HIPS], hands, face))
    points = dict(zip(("body", "hands", "face"), arrays, strict=True))
    return Keypoints(**points, size=character.size, view=character.view)


def _measured(theirs: np.ndarray, performance: Keypoints, character: Keypoints) -> np.ndarray:
    """The frames in which limbs are measured: one that stands just as the character does, else all of them.

    Seen from the same side in the same pose, both are foreshortened alike, which no other frame tells.
    """
    pose = _unlikeness(performance.body, character.body, NECK, (2, 5))
    frame, shown = int(np.argmin(pose)), body_plan.driven(theirs)
    alike = pose[frame] < ALIKE and (theirs[frame, shown, 2] >= SEEN).all()
    return theirs[[frame]] if alike else theirs


def nearest_frame(performance: Keypoints, character: Keypoints) -> int:
    """The frame whose pose and expression, apart from place and size, are most like the character's."""
    pose = _unlikeness(performance.body, character.body, NECK, (2, 5))
    expression = _unlikeness(performance.face, character.face, 30, (36, 45))
    return int(np.argmin(pose + expression))


def _unlikeness(theirs: np.ndarray, own: np.ndarray, origin: int, span: tuple[int, int]) -> np.ndarray:
    """Mean distance [T] between points [T, N, 3] and [1, N, 3], from `origin`, in spans; frames without any
    get 1e3.
    """
    both = (theirs[..., 2] >= SEEN) & (own[..., 2] >= SEEN)
    placed = [_normal(points.astype(np.float64), origin, span) for points in (theirs, own)]
    distance = np.linalg.norm(placed[0] - placed[1], axis=-1)
    total = (distance * both).sum(axis=1) / np.maximum(both.sum(axis=1), 1)
    return np.where(both[:, origin] & both.any(axis=1), total, 1e3 * both.any())


def _normal(points: np.ndarray, origin: int, span: tuple[int, int]) -> np.ndarray:
    size = body_plan.span(points[:, span[0]], points[:, span[1]]) or 1.0
    return (points[..., :2] - points[:, [origin], :2]) / size


def _with_neck(theirs: np.ndarray, own: np.ndarray, whole: float, reference: int) -> np.ndarray:
    """A face on its own gets a neck that keeps still, so that the head can move against it."""
    if body_plan.driven(theirs)[NECK]:
        return theirs
    theirs = theirs.copy()
    theirs[:, NECK, :2] = theirs[reference, NOSE, :2] + (own[NECK, :2] - own[NOSE, :2]) / whole
    theirs[:, NECK, 2] = max(own[NECK, 2], SEEN)
    return theirs


def _driven(theirs: np.ndarray) -> np.ndarray:
    """Joints the performer drives: bool [21]. One beyond a joint that is not shown cannot be."""
    drives = body_plan.driven(theirs)
    for parent, child in body_plan.LIMBS:
        drives[child] &= drives[parent]
    return drives


def _rebuilt(
    theirs: np.ndarray, own: np.ndarray, ratios: dict[tuple[int, int], float], drives: np.ndarray
) -> np.ndarray:
    """The body [T, 21, 3] with the neck at (0, 0)."""
    body = np.zeros_like(theirs)
    body[:, NECK, 2] = theirs[:, NECK, 2]
    for parent, child in body_plan.LIMBS:
        source = theirs if drives[child] else own[None]
        ratio = ratios[parent, child] if drives[child] else 1.0
        body[:, child, :2] = body[:, parent, :2] + ratio * (source[:, child, :2] - source[:, parent, :2])
        body[:, child, 2] = source[:, child, 2]
    return body


def _carried(
    theirs: np.ndarray, own: np.ndarray, body: np.ndarray, drives: np.ndarray, pace: float, reference: int
) -> np.ndarray:
    """Where the neck goes, [T, 1, 2]: led by the ground and the hips where feet are seen, else by itself."""

    def led(track: np.ndarray, home: np.ndarray) -> np.ndarray:
        return home + pace * (track - track[reference])

    if not _standing(drives, own):
        return led(theirs[:, NECK, :2], own[NECK, :2])[:, None]
    across = led(theirs[:, HIPS, 0], own[HIPS, 0]) - body[:, HIPS, 0]
    down = led(_ground(theirs), _ground(own[None])[0]) - _ground(body)
    return np.stack([across, down], axis=-1)[:, None]


def _standing(drives: np.ndarray, own: np.ndarray) -> bool:
    """Whether both show their feet."""
    return bool(drives[ANKLES].all() and (own[ANKLES, 2] >= SEEN).all())


def _stride(ratios: dict[tuple[int, int], float]) -> float:
    """The character's legs over the performer's."""
    return (ratios[8, 9] + ratios[9, 10] + ratios[11, 12] + ratios[12, 13]) / 4


def _viewed(theirs: np.ndarray, body: np.ndarray, pace: float, view: View, own_view: View) -> np.ndarray:
    """Where the neck goes, [T, 1, 2]: hips and lower ankle as many steps from the floor's origin as the performer's."""
    across = own_view.x + pace * (theirs[:, HIPS, 0] - view.x) - body[:, HIPS, 0]
    down = own_view.y + pace * (_ground(theirs) - view.y) - _ground(body)
    return np.stack([across, down], axis=-1)[:, None]


def _ground(body: np.ndarray) -> np.ndarray:
    """Height [T] of the lower ankle."""
    return body[:, ANKLES, 1].max(axis=1)


def _kept_inside(track: np.ndarray, home: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """track [T, 1, 2] moved as a whole, by the least that brings it into the picture (or centres what is too
    wide).
    """
    low, high = track.min(axis=(0, 1)), track.max(axis=(0, 1))
    first, last = np.minimum(home[:2], 0), np.maximum(home[:2], size)
    inward = np.maximum(first - low, 0) + np.minimum(last - high, 0)
    return track + np.where(high - low > last - first, (first + last - low - high) / 2, inward)


def _plant(body: np.ndarray, own: np.ndarray, drives: np.ndarray) -> None:
    """Hips and legs the performer does not show stand as the character's, until the body pulls too far."""
    slack = SLACK * float(np.linalg.norm(own[HIPS, :2] - own[NECK, :2]))
    if not drives[HIPS]:
        pulled = _pull(body[:, NECK] - own[NECK], slack)
        for joint in (HIPS, 8, 11):
            body[:, joint, :2] = own[joint, :2] + pulled
    for hip, knee, feet in LEGS:
        if not drives[knee]:
            moved = (body[:, hip] - own[hip])[:, :2]
            pulled = _pull(moved, slack)
            body[:, knee, :2] = own[knee, :2] + (moved + pulled) / 2
            for foot in feet:
                body[:, foot, :2] = own[foot, :2] + pulled


def _pull(moved: np.ndarray, slack: float) -> np.ndarray:
    return moved[:, :2] - np.clip(moved[:, :2], -slack, slack)


def _hands(
    hands: np.ndarray,
    theirs: np.ndarray,
    own_hands: np.ndarray,
    own: np.ndarray,
    body: np.ndarray,
    ratios: dict[tuple[int, int], float],
    drives: np.ndarray,
) -> np.ndarray:
    """Hands [T, 2, 21, 3] at the new wrists, as large as the character's; the character's own where arms are
    not seen.
    """
    moved = hands.astype(np.float64)
    for side, (elbow, wrist) in ARMS:
        if drives[wrist]:
            size = _hand_ratio(hands[:, side], own_hands[side], ratios[elbow, wrist])
            offsets = size * (moved[:, side, :, :2] - theirs[:, [wrist], :2])
        else:
            offsets = own_hands[None, side, :, :2] - own[wrist, :2]
            moved[:, side, :, 2] = own_hands[side, :, 2]
        moved[:, side, :, :2] = body[:, [wrist], :2] + offsets
    return moved


def _hand_ratio(theirs: np.ndarray, own: np.ndarray, forearm: float) -> float:
    palm = body_plan.span(theirs[:, PALM[0]], theirs[:, PALM[1]])
    own_palm = body_plan.span(own[None, PALM[0]], own[None, PALM[1]])
    if palm is None or own_palm is None:
        return forearm
    return float(np.clip(own_palm / palm, HAND_LIMITS[0] * forearm, HAND_LIMITS[1] * forearm))
