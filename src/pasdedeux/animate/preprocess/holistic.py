"""People found offline by MediaPipe Holistic, with the models in its wheel, and a gate against its
imagination.

The models are sure of themselves even about what they cannot see. So a body that does not fit its face, limbs
outside the picture, legs behind a desk and hands far from their wrists are given confidence 0.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pasdedeux.animate.preprocess.detector import Box, Bytes, Sighting
from pasdedeux.animate.preprocess.graphs import (
    MEDIAPIPE,
    FinderGraph,
    Look,
    LookerGraph,
    Place,
)
from pasdedeux.animate.preprocess.people import brightened, is_dark

# Body points 0-19 from BlazePose's 33; the neck is midway between the shoulders.
BLAZEPOSE = (0, 11, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7, 31, 32)
# iBUG's 68 and the pupils (right, left) from the 478 points of the face mesh with irises.
FACE_MESH = (
    *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),
    *(71, 63, 105, 66, 107, 336, 296, 334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87),
    *(468, 473),
)
MESH_NOSE = 1
NOSE, NECK, RIGHT_EYE, LEFT_EYE = 0, 1, 14, 15
SHOULDERS, HIPS, KNEES, ANKLES, TOES = [2, 5], [8, 11], [9, 12], [10, 13], [19, 18]
LIMBS_BELOW, CHIN, JAW_ENDS = [*range(1, 14), 18, 19], 8, (0, 16)
ARMS = ((6, 7), (3, 4))  # elbow and wrist of the left and the right hand

SEEN = 0.5
LOWER_BODY_SEEN = 0.65  # hips and legs are claimed with too much confidence
HIP_MARGIN = 0.1  # of the picture's height: hips without legs this near its lower edge are guesses
NARROWEST_SHOULDERS = 0.6  # in widths of the face
HAND_REACH = 0.5  # of the forearm, between the hand's wrist and the body's

AIM_LEAST = 0.3  # the pose detector's score where somebody is known to be
BLAZE_SHOULDERS, GREY = (11, 12), 127
# The place looked at is kept while the figure stays within these: distance in sides, ratio of sides, radians.
STILL, STILL_RATIO, STILL_TURNED = 0.04, 1.06, 0.12
# Beyond these the first look was at the wrong place.
FAR, FAR_RATIO, FAR_TURNED = 0.15, 1.3, 0.6


class HolisticDetector:
    """A `PoseDetector`: MediaPipe's landmark models at a place that follows one person, and rests when they do.

    Without a box nobody is looked for, so that whoever stands in for the one who is gone is left alone; with `anybody`
    whoever is seen best is followed then.
    """

    name = f"{MEDIAPIPE} holistic"

    def __init__(self, *, anybody: bool = False) -> None:
        self.anybody = anybody

    def watch(
        self,
        frames: Iterable[tuple[Bytes, Box | None]],
        fps: float,
        *,
        others: Iterable[Sequence[Box]] | None = None,
    ) -> Iterator[Sighting]:
        """One sighting per frame, see `PoseDetector`; fps is not needed, for the models know frames only.

        others: for each frame the boxes of people who are not meant. Those who stand apart are greyed out.
        Raises InputError without mediapipe.
        """
        with contextlib.ExitStack() as stack:
            looker = stack.enter_context(contextlib.closing(LookerGraph(whole=True)))
            finder = stack.enter_context(contextlib.closing(FinderGraph(AIM_LEAST)))
            place: Place | None = None
            for (frame, box), apart in zip(frames, itertools.repeat(()) if others is None else others, strict=False):
                look = Look()
                if box is None and not self.anybody:
                    place = None
                else:
                    look, place = _followed(looker, finder, _prepared(frame, box, apart), box, place)
                yield sighting(look, (frame.shape[1], frame.shape[0]))


def _prepared(frame: Bytes, box: Box | None, others: Sequence[Box]) -> Bytes:
    """The picture as the models see it: light enough, and without people who stand apart from the one who is meant."""
    picture = frame
    for other in others:
        left, top, right, bottom = (round(side) for side in other)
        if box is not None and not _overlap(box, other):
            picture = picture.copy() if picture is frame else picture
            picture[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = GREY
    return brightened(picture) if is_dark(picture) else picture


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _followed(
    looker: LookerGraph, finder: FinderGraph, picture: Bytes, box: Box | None, place: Place | None
) -> tuple[Look, Place | None]:
    """A look at the person in the box, and where to look in the next frame; None where they are lost.

    The place is kept while the figure stays about where it was: points tremble with the place they are looked for in.
    """
    kept = place is not None
    place = place or _aimed(finder, picture, box)
    look = Look() if place is None else _settled(looker, picture, place)
    if kept and not _is_meant(look, box):
        again = _aimed(finder, picture, box)
        look = Look() if again is None else _settled(looker, picture, again)
    if look.pose is None or look.place is None or not _is_meant(look, box):
        return Look(), None
    return look, place if place is not None and _is_still(place, look.place) else look.place


def _settled(looker: LookerGraph, picture: Bytes, place: Place) -> Look:
    """A look, and a second one where the first says that the figure is elsewhere: after a cut, or a leap."""
    look = looker.look(picture, place)
    if look.place is None:
        return look
    away, ratio, turned = place.apart(look.place)
    if away < FAR and ratio < FAR_RATIO and turned < FAR_TURNED:
        return look
    second = looker.look(picture, look.place)
    return second if second.pose is not None else look


def _is_still(place: Place, now: Place) -> bool:
    away, ratio, turned = place.apart(now)
    return away < STILL and ratio < STILL_RATIO and turned < STILL_TURNED


def _is_meant(look: Look, box: Box | None) -> bool:
    """Whether the points that are seen lie in the box, on the whole."""
    if look.pose is None:
        return False
    if box is None:
        return True
    head = look.pose[: max(BLAZE_SHOULDERS) + 1, :2]
    room = 0.15 * np.array([box[2] - box[0], box[3] - box[1]])
    inside = (head >= np.array(box[:2]) - room) & (head <= np.array(box[2:]) + room)
    return bool(inside.all(axis=1).mean() >= SEEN)


def _aimed(finder: FinderGraph, picture: Bytes, box: Box | None) -> Place | None:
    """Where to look without a frame before: what the pose detector says of the box's surroundings, else the box."""
    height, width = picture.shape[:2]
    if box is None:
        return next((one.place for one in finder.find(picture)), None)
    left, top, right, bottom = box
    middle, side = np.array([(left + right) / 2, (top + bottom) / 2]), max(right - left, bottom - top)
    low = np.clip(np.floor(middle - 0.6 * side), 0, [width - 1, height - 1]).astype(int)
    high = np.clip(np.ceil(middle + 0.6 * side), low + 1, [width, height]).astype(int)
    found = finder.find(picture[low[1] : high[1], low[0] : high[0]])
    places = [one.place.moved(float(low[0]), float(low[1])) for one in found]
    inside = [place for place in places if left <= place.x <= right]
    guess = Place(x=float(middle[0]), y=float(middle[1]), side=1.25 * side)
    return min(inside, key=lambda place: abs(place.x - middle[0]), default=guess)


def sighting(look: Look, size: tuple[int, int]) -> Sighting:
    """What the models gave in a picture of (width, height), in our order and past the gate."""
    body, hands, face, mask = _parts(look, size)
    return Sighting(body=body, hands=hands, face=face, mask=mask)


def _parts(look: Look, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, Bytes]:
    """One frame as body [20, 3], hands [2, 21, 3], face [70, 3] float32 and mask [H, W]."""
    body, hands, face = np.zeros((20, 3)), np.zeros((2, 21, 3)), np.zeros((70, 3))
    mask = np.zeros((size[1], size[0]), np.uint8)
    if look.pose is not None:
        body = _body(look.pose)
    if look.face is not None:
        face = look.face[list(FACE_MESH)]
        body[[NOSE, RIGHT_EYE, LEFT_EYE]] = look.face[[MESH_NOSE, FACE_MESH[68], FACE_MESH[69]]]
    for side, found in enumerate((look.left_hand, look.right_hand)):
        if found is not None:
            hands[side] = found
    if look.mask is not None:
        mask[look.mask > SEEN] = 255
    body, hands, face = gate(body, hands, face, size)
    return body.astype(np.float32), hands.astype(np.float32), face.astype(np.float32), mask


def _body(pose: np.ndarray) -> np.ndarray:
    body = pose[list(BLAZEPOSE)]
    body[NECK, :2] = body[SHOULDERS, :2].mean(axis=0)
    body[NECK, 2] = body[SHOULDERS, 2].min()
    return body


def gate(
    body: np.ndarray, hands: np.ndarray, face: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """body [20, 3], hands [2, 21, 3], face [70, 3] with confidence 0 where what was claimed cannot be so."""
    body, hands, face = (_inside(points, size) for points in (body, hands, face))
    if not _fits_face(body, face):
        body[LIMBS_BELOW, 2] = 0
    _gate_legs(body, size)
    for side, (elbow, wrist) in enumerate(ARMS):
        _gate_hand(body, hands[side], elbow, wrist)
    return body, hands, face


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    points = points.copy()
    inside = ((points[..., :2] >= 0) & (points[..., :2] < size)).all(axis=-1)
    points[..., 2] *= inside
    return points


def _fits_face(body: np.ndarray, face: np.ndarray) -> bool:
    """Whether the shoulders are below the chin and no narrower than a face allows; true where no face says
    so.
    """
    if face[[CHIN, *JAW_ENDS], 2].min() < SEEN or body[NECK, 2] < SEEN:
        return True
    width = np.linalg.norm(face[JAW_ENDS[0], :2] - face[JAW_ENDS[1], :2])
    shoulders = np.linalg.norm(body[SHOULDERS[0], :2] - body[SHOULDERS[1], :2])
    return bool(body[NECK, 1] > face[CHIN, 1] and shoulders >= NARROWEST_SHOULDERS * width)


def _gate_legs(body: np.ndarray, size: tuple[int, int]) -> None:
    """Legs need ankles in the picture; hips need legs, or to be well inside it. Changes body in place."""
    legs = [*HIPS, *KNEES, *ANKLES, *TOES]
    body[legs, 2] *= body[legs, 2] >= LOWER_BODY_SEEN
    for knee, ankle, toe in zip(KNEES, ANKLES, TOES, strict=True):
        if body[ankle, 2] == 0:
            body[[knee, toe], 2] = 0
    if body[ANKLES, 2].max() == 0 and body[HIPS, 1].max() > (1 - HIP_MARGIN) * size[1]:
        body[HIPS, 2] = 0


def _gate_hand(body: np.ndarray, hand: np.ndarray, elbow: int, wrist: int) -> None:
    """A hand must hang on its wrist, which it then places, better than the body did. Changes both."""
    if hand[0, 2] < SEEN:
        return
    forearm = np.linalg.norm(body[wrist, :2] - body[elbow, :2])
    apart = np.linalg.norm(hand[0, :2] - body[wrist, :2])
    if body[wrist, 2] == 0 or apart > HAND_REACH * forearm:
        hand[:, 2] = 0
    else:
        body[wrist] = hand[0]
