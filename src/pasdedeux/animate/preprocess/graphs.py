"""MediaPipe's models joined into graphs of our own: who is in a picture, and one person's points where we say.

The wheel's own solutions decide by themselves whom they look at, find one person only, and have to be made anew to
look elsewhere. Their parts are registered in the wheel by name. Joined here, the place to look at is an input: several
people are found, nothing hops from one to another, and a place that jumps needs no reset, which would leak memory.
"""

import contextlib
import math
import os
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.preprocess.detector import Bytes

MEDIAPIPE = "mediapipe 0.10.14"
FIGURE = 1.25  # side of the square the pose model looks at, in diameters of the circle about the hips

BLANK = np.zeros(
    (64, 64, 3), np.uint8
)  # models load in the background, and log when they are done: they are waited for

FIND = """
input_stream: "image"
output_stream: "detections"
node { calculator: "PoseDetectionCpu" input_stream: "IMAGE:image" output_stream: "DETECTIONS:detections" }
"""
FIND_THRESHOLD = "posedetectioncpu__TensorsToDetectionsCalculator.min_score_thresh"

POSE = """
input_stream: "image"
input_stream: "place"
input_side_packet: "model_complexity"
input_side_packet: "enable_segmentation"
output_stream: "pose"
output_stream: "circle"
node {
  calculator: "PoseLandmarkByRoiCpu"
  input_side_packet: "MODEL_COMPLEXITY:model_complexity"
  input_side_packet: "ENABLE_SEGMENTATION:enable_segmentation"
  input_stream: "IMAGE:image"
  input_stream: "ROI:place"
  output_stream: "LANDMARKS:pose"
  output_stream: "AUXILIARY_LANDMARKS:circle"
  output_stream: "SEGMENTATION_MASK:raw_mask"
}
"""
FACE = """
input_side_packet: "refine_face_landmarks"
output_stream: "face"
node {
  calculator: "SplitNormalizedLandmarkListCalculator"
  input_stream: "pose"
  output_stream: "head"
  options: { [mediapipe.SplitVectorCalculatorOptions.ext] { ranges: { begin: 0 end: 11 } } }
}
node {
  calculator: "FaceLandmarksFromPoseCpu"
  input_side_packet: "REFINE_LANDMARKS:refine_face_landmarks"
  input_stream: "IMAGE:image"
  input_stream: "FACE_LANDMARKS_FROM_POSE:head"
  output_stream: "FACE_LANDMARKS:face"
}
"""
REST = """
input_side_packet: "smooth_segmentation"
output_stream: "left_hand"
output_stream: "right_hand"
output_stream: "mask"
node {
  calculator: "HandLandmarksLeftAndRightCpu"
  input_stream: "IMAGE:image"
  input_stream: "POSE_LANDMARKS:pose"
  output_stream: "LEFT_HAND_LANDMARKS:left_hand"
  output_stream: "RIGHT_HAND_LANDMARKS:right_hand"
}
node {
  calculator: "PoseSegmentationFiltering"
  input_side_packet: "ENABLE:smooth_segmentation"
  input_stream: "SEGMENTATION_MASK:raw_mask"
  output_stream: "FILTERED_SEGMENTATION_MASK:steady_mask"
}
node { calculator: "FromImageCalculator" input_stream: "IMAGE:steady_mask" output_stream: "IMAGE_CPU:mask" }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """The turned square that a pose model looks at: middle and side in pixels, and by how much it is turned."""

    x: float
    y: float
    side: float
    radians: float = 0.0

    @classmethod
    def about(cls, hips: tuple[float, float], rim: tuple[float, float]) -> "Place":
        """Of a figure whose circle has its middle at the hips and goes through `rim`, which is above an upright one."""
        across, up = rim[0] - hips[0], hips[1] - rim[1]
        turned = math.pi / 2 - math.atan2(up, across)
        turned -= 2 * math.pi * math.floor((turned + math.pi) / (2 * math.pi))
        return cls(x=hips[0], y=hips[1], side=2 * FIGURE * math.hypot(across, up), radians=turned)

    def moved(self, x: float, y: float) -> "Place":
        """The same in a picture of which this one is a part that begins at (x, y)."""
        return replace(self, x=self.x + x, y=self.y + y)

    def apart(self, other: "Place") -> tuple[float, float, float]:
        """How far another one is: distance in own sides, ratio of sides >= 1, angle in radians."""
        ratio = max(self.side, other.side) / max(min(self.side, other.side), 1e-6)
        angle = abs((self.radians - other.radians + math.pi) % (2 * math.pi) - math.pi)
        return math.hypot(self.x - other.x, self.y - other.y) / max(self.side, 1e-6), ratio, angle


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Found:
    """What the pose detector says of one person: its score, and where to look for points."""

    score: float
    place: Place


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Look:
    """One person's points as the models give them, float64 [N, 3]: x and y in pixels, confidence; None for not there.

    pose has 33 points, face 478, a hand 21; mask float32 [H, W], 0..1. `place` is where the figure is by these points.
    """

    pose: np.ndarray | None = None
    left_hand: np.ndarray | None = None
    right_hand: np.ndarray | None = None
    face: np.ndarray | None = None
    mask: np.ndarray | None = None
    place: Place | None = None


class FinderGraph:
    """The pose detector alone: everybody in one picture whom it sees at 224x224."""

    def __init__(self, least: float) -> None:
        self._graph = _opened(FIND, params={FIND_THRESHOLD: least})
        # The library's graph keeps its models, some 130 MB, where it is only forgotten.
        self._end = weakref.finalize(self, self._graph.close)
        self.find(BLANK)

    def find(self, picture: Bytes) -> list[Found]:
        """Everybody in uint8 [H, W, 3], surest first; the detector's scores lie in 0..1."""
        answer = _processed(self._graph, {"image": np.ascontiguousarray(picture)})
        height, width = picture.shape[:2]
        found: list[Found] = []
        for detection in answer.detections or []:
            points = [(p.x * width, p.y * height) for p in detection.location_data.relative_keypoints]
            found.append(Found(score=float(detection.score[0]), place=Place.about(points[0], points[1])))
        return sorted(found, key=lambda person: -person.score)

    def close(self) -> None:
        """Let go of the model."""
        self._end()


class LookerGraph:
    """The landmark models: one person's body and face at a place. With `whole`, hands and mask as well."""

    def __init__(self, *, whole: bool) -> None:
        sides = {"model_complexity": 1, "enable_segmentation": whole, "refine_face_landmarks": whole}
        text = POSE + FACE + REST if whole else POSE + FACE
        self._graph = _opened(text, sides=sides | ({"smooth_segmentation": True} if whole else {}))
        self._end = weakref.finalize(self, self._graph.close)
        self.look(BLANK, Place(x=32, y=32, side=64))

    def look(self, picture: Bytes, place: Place) -> Look:
        """Who is at that place in uint8 [H, W, 3]; a Look without pose where the model says that nobody is.

        With `whole`, all pictures are of one size, for the mask is steadied from one to the next.
        """
        size = (picture.shape[1], picture.shape[0])
        answer = _processed(self._graph, {"image": np.ascontiguousarray(picture), "place": _roi(place, size)})
        if answer.pose is None or answer.circle is None:
            return Look()
        circle = points_of(answer.circle, size)[:, :2].tolist()
        left, right, face = (
            None if part is None else points_of(part, size)
            for part in (getattr(answer, "left_hand", None), getattr(answer, "right_hand", None), answer.face)
        )
        return Look(
            pose=points_of(answer.pose, size),
            left_hand=left,
            right_hand=right,
            face=face,
            mask=getattr(answer, "mask", None),
            place=Place.about(tuple(circle[0]), tuple(circle[1])),
        )

    def close(self) -> None:
        """Let go of the models."""
        self._end()


def mediapipe() -> ModuleType:
    """The library. Raises InputError where it is missing, or of a version without models."""
    try:
        import mediapipe
    except ImportError as error:
        raise InputError("Finding a person needs mediapipe: pip install 'pasdedeux[people]'.") from error
    if not hasattr(mediapipe, "solutions"):
        raise InputError("This mediapipe is too new to carry its models: version 0.10.14 is needed.")
    return mediapipe


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """The models log to the process's own standard error, past Python; kept off the user's screen."""
    with warnings.catch_warnings(action="ignore"), open(os.devnull, "w") as nowhere:  # noqa: PTH123
        screen = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(screen, 2)
            os.close(screen)


def points_of(landmarks: Any, size: tuple[int, int]) -> np.ndarray:
    """[N, 3] in pixels. Only the body's points say how visible they are; the others are, once found."""
    sure = [point.visibility if point.HasField("visibility") else 1.0 for point in landmarks.landmark]
    places = [(point.x * size[0], point.y * size[1]) for point in landmarks.landmark]
    return np.concatenate([np.array(places), np.clip(np.array(sure), 0, 1)[:, None]], axis=1)


def _opened(text: str, *, sides: dict[str, Any] | None = None, params: dict[str, Any] | None = None) -> Any:
    with silence():
        mediapipe()
        from google.protobuf import text_format
        from mediapipe.calculators.core import split_vector_calculator_pb2 as _options  # noqa: F401  # the text names it
        from mediapipe.framework import calculator_pb2
        from mediapipe.python.solution_base import SolutionBase

        empty: Any = vars(calculator_pb2)["CalculatorGraphConfig"]()
        config = text_format.Parse(text, empty)
        return SolutionBase(graph_config=config, side_inputs=sides, calculator_params=params)


def _processed(graph: Any, inputs: dict[str, Any]) -> Any:
    with silence():
        return graph.process(inputs)


def _roi(place: Place, size: tuple[int, int]) -> Any:
    from mediapipe.framework.formats import rect_pb2

    return vars(rect_pb2)["NormalizedRect"](
        x_center=place.x / size[0],
        y_center=place.y / size[1],
        width=place.side / size[0],
        height=place.side / size[1],
        rotation=place.radians,
    )
