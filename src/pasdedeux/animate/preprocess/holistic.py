"""People found offline by MediaPipe Holistic, with the models in its wheel, and a gate against its
imagination.

The models are sure of themselves even about what they cannot see. So a body that does not fit its face, limbs
outside the picture, legs behind a desk and hands far from their wrists are given confidence 0.
"""

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from pasdedeux.animate.inputs import InputError, Keypoints
from pasdedeux.animate.preprocess.detector import Detected

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


class MediapipeDetector:
    """MediaPipe Holistic, middle complexity; `still` looks at each frame afresh. Keeps the rules of
    `Detector`.
    """

    def __init__(self, *, still: bool = False) -> None:
        self.still = still

    def detect(self, frames: Iterable[np.ndarray], fps: float) -> Detected:
        """One person in frames uint8 [H, W, 3]; see `Detector`. Raises InputError without mediapipe or
        frames.
        """
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        size = (0, 0)
        with contextlib.closing(_opened(self.still)) as holistic:
            for frame in frames:
                size = (frame.shape[1], frame.shape[0])
                with _silence():
                    answer = holistic.process(np.ascontiguousarray(frame))
                found.append(_converted(answer, size))
        if not found:
            raise InputError("There are no frames to look for a person in.")
        body, hands, face, mask = (np.stack(part) for part in zip(*found, strict=True))
        return Detected(keypoints=Keypoints(body=body, hands=hands, face=face, size=size), mask=mask)


def _opened(still: bool) -> Any:
    """The models. Complexity 1 is the only one in the wheel; smoothing is left to us, who can look ahead."""
    with _silence():
        holistic = _mediapipe().solutions.holistic.Holistic(
            static_image_mode=still,
            model_complexity=1,
            smooth_landmarks=False,
            enable_segmentation=True,
            smooth_segmentation=not still,
            refine_face_landmarks=True,
        )
        holistic.process(np.zeros((64, 64, 3), np.uint8))  # models load in the background, and log when they are done
        return holistic


def _mediapipe() -> ModuleType:
    try:
        import mediapipe
    except ImportError as error:
        raise InputError("Finding a person needs mediapipe: pip install 'pasdedeux[people]'.") from error
    if not hasattr(mediapipe, "solutions"):
        raise InputError("This mediapipe is too new to carry its models: version 0.10.14 is needed.")
    return mediapipe


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The models log to the process's own standard error, past Python; kept off the user's screen."""
    with warnings.catch_warnings(action="ignore"), open(os.devnull, "w") as nowhere:  # noqa: PTH123
        screen = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(screen, 2)
            os.close(screen)


def _converted(answer: Any, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """MediaPipe's answer for one frame as body [20, 3], hands [2, 21, 3], face [70, 3] and mask [H, W]."""
    body, hands, face = np.zeros((20, 3)), np.zeros((2, 21, 3)), np.zeros((70, 3))
    mask = np.zeros((size[1], size[0]), np.uint8)
    if answer.pose_landmarks is not None:
        body = _body(_points(answer.pose_landmarks, size))
    if answer.face_landmarks is not None:
        mesh = _points(answer.face_landmarks, size)
        face = mesh[list(FACE_MESH)]
        body[[NOSE, RIGHT_EYE, LEFT_EYE]] = mesh[[MESH_NOSE, FACE_MESH[68], FACE_MESH[69]]]
    for side, found in enumerate((answer.left_hand_landmarks, answer.right_hand_landmarks)):
        if found is not None:
            hands[side] = _points(found, size)
    if answer.segmentation_mask is not None:
        mask[answer.segmentation_mask > SEEN] = 255
    body, hands, face = gate(body, hands, face, size)
    return body.astype(np.float32), hands.astype(np.float32), face.astype(np.float32), mask


def _points(landmarks: Any, size: tuple[int, int]) -> np.ndarray:
    """[N, 3] in pixels. Only the body's points say how visible they are; the others are, once found."""
    sure = [point.visibility if point.HasField("visibility") else 1.0 for point in landmarks.landmark]
    places = [(point.x * size[0], point.y * size[1]) for point in landmarks.landmark]
    return np.concatenate([np.array(places), np.clip(np.array(sure), 0, 1)[:, None]], axis=1)


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
