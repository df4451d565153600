"""Whole-body pose by an ONNX model that the user has: ViTPose as Wan-Animate uses it, or DWPose and RTMW.

A model sees one person, cut out by their box, and answers for COCO-WholeBody's 133 points: by a heatmap for each
(ViTPose), or by two axes for each (DWPose, RTMW). What it was given is told by the model itself.
"""

import hashlib
import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.preprocess.coco133 import POINTS, from_wholebody
from pasdedeux.animate.preprocess.detector import Box, Bytes, Sighting
from pasdedeux.animate.preprocess.heatmaps import dark, simcc

NEEDED = "Whole-body pose by an ONNX model needs onnxruntime: pip install 'pasdedeux[pose]'."
USUAL_SIDES = (256, 192)  # height, width: ViTPose's, where a file leaves them open
MARGIN = 1.25
SMALLEST = 10.0  # pixels: a box this narrow is no person's, and the whole picture is taken, as the released code does
# Of ImageNet's pictures, per channel of RGB.
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
RTMW, RTMW_TOP = "rtmw", 5.0
"""RTMW's axes answer about five where a point is well seen, DWPose's about one: they were trained on other scales."""
DIGESTED = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class _Model:
    """An opened model: sides are its input's (height, width), most the people it takes at once (None: any number)."""

    session: Any
    input: str
    sides: tuple[int, int]
    most: int | None
    half: bool
    axes: bool
    name: str

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, 3, H, W] -> [N, 133, 3]: x and y in pixels of the input, and how sure. Raises InputError."""
        given = pixels.astype(np.float16 if self.half else np.float32)
        try:
            answers = self.session.run(None, {self.input: given})
        except _faults() as error:
            raise InputError(f"{self.name} cannot be run: {_first_line(error)}") from error
        if answers[0].ndim != (3 if self.axes else 4) or answers[0].shape[:2] != (len(pixels), POINTS):
            found = "x".join(map(str, answers[0].shape[1:]))
            raise InputError(f"{self.name} answers {found} a person; a whole-body model answers for {POINTS} points.")
        size = (self.sides[1], self.sides[0])
        if self.axes:
            return simcc(answers[0], answers[1], size)
        points = dark(answers[0])
        return points * np.array([size[0] / answers[0].shape[3], size[1] / answers[0].shape[2], 1], np.float32)


class VitPose:
    """A `PoseDetector`: a whole-body ONNX file, or the folder that holds one (as vitpose_h_wholebody/end2end.onnx).

    as_released: ViTPose is given blue, green, red with the statistics of red, green, blue, as the preprocessing
    released with Wan-Animate gives it, whose poses the model has learnt from; False gives it the order it was trained
    on. DWPose and RTMW always get theirs. top: the answer that means certainty; None is 1, and 5 for RTMW by its name.
    batch: frames looked at together. It runs by CUDA where the installed onnxruntime can.
    """

    def __init__(self, path: Path, *, as_released: bool = True, top: float | None = None, batch: int = 8) -> None:
        if batch < 1:
            raise InputError(f"{batch} frames cannot be looked at together; at least 1 can.")
        self._model = _opened(path)
        self._swapped = as_released and not self._model.axes
        rtmw = self._model.axes and RTMW in self._model.name.lower()
        self._top = top or (RTMW_TOP if rtmw else 1.0)
        self._batch = min(batch, self._model.most or batch)
        self.name = f"{self._model.name}{' bgr' if self._swapped else ''}"

    def watch(self, frames: Iterable[tuple[Bytes, Box | None]], fps: float) -> Iterator[Sighting]:
        """One sighting per frame, see `PoseDetector`; without a box the whole picture is looked at as one person."""
        del fps  # each frame is looked at by itself
        group: list[tuple[Bytes, Box | None]] = []
        for frame in frames:
            group.append(frame)
            if len(group) == self._batch:
                yield from self._sightings(group)
                group = []
        if group:
            yield from self._sightings(group)

    def _sightings(self, group: list[tuple[Bytes, Box | None]]) -> Iterator[Sighting]:
        height, width = self._model.sides
        boxes = [widened(box, (frame.shape[1], frame.shape[0]), width / height) for frame, box in group]
        crops = [cut(frame, box, (width, height)) for (frame, _), box in zip(group, boxes, strict=True)]
        found = self._model(prepared(crops, self._swapped)) / np.array([width, height, self._top], np.float32)
        for (frame, _), box, points in zip(group, boxes, found, strict=True):
            left, top, right, bottom = box
            placed = points * np.array([right - left, bottom - top, 1]) + np.array([left, top, 0])
            yield sighting(placed, (frame.shape[1], frame.shape[0]))


def widened(box: Box | None, size: tuple[int, int], aspect: float) -> Box:
    """The box with room around it, of this width per height; of the whole picture where there is none of use."""
    left, top, right, bottom = box or (0.0, 0.0, *map(float, size))
    if right - left < SMALLEST or bottom - top < SMALLEST:
        left, top, right, bottom = 0.0, 0.0, float(size[0]), float(size[1])
    height = MARGIN * max(bottom - top, (right - left) / aspect)
    x, y, width = (left + right) / 2, (top + bottom) / 2, height * aspect
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def cut(picture: Bytes, box: Box, size: tuple[int, int]) -> Bytes:
    """What lies in the box, at `size` (width, height); black beyond the picture."""
    across, down = size[0] / (box[2] - box[0]), size[1] / (box[3] - box[1])
    place = np.array([[across, 0, -box[0] * across], [0, down, -box[1] * down]])
    return cv2.warpAffine(picture, place, size, flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0)).astype(np.uint8)


def prepared(crops: list[Bytes], swapped: bool) -> NDArray[np.float32]:
    """uint8 [H, W, 3] each -> float32 [N, 3, H, W] by ImageNet's statistics; swapped: red and blue change places."""
    pixels = np.stack([crop[..., ::-1] if swapped else crop for crop in crops]).astype(np.float32) / 255
    return np.ascontiguousarray(((pixels - MEAN) / STD).transpose(0, 3, 1, 2), np.float32)


def sighting(points: NDArray[np.floating], size: tuple[int, int]) -> Sighting:
    """[133, 3] in pixels of a picture of `size`; what lies outside it is not seen."""
    within = np.all((points[:, :2] >= 0) & (points[:, :2] < size), axis=-1, keepdims=True)
    seen = np.concatenate([points[:, :2], points[:, 2:] * within], axis=-1)
    found = from_wholebody(seen[None], size)
    return Sighting(body=found.body[0], hands=found.hands[0], face=found.face[0])


def onnxruntime() -> ModuleType:
    """The package. Raises InputError where it is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(NEEDED) from error
    return onnxruntime


def _opened(path: Path) -> _Model:
    runtime, file = onnxruntime(), model_file(path)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors: warnings about the graph help nobody who did not make it
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in runtime.get_available_providers()]
    try:
        session = runtime.InferenceSession(str(file), options, providers=providers)
    except _faults() as error:
        raise InputError(f"{file} is no ONNX model that can be opened: {_first_line(error)}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or len(outputs) not in (1, 2):
        raise InputError(f"{file} is not a pose model: it takes {len(inputs)} and answers {len(outputs)} arrays.")
    count, _, *sides = inputs[0].shape
    height, width = (
        side if isinstance(side, int) and side > 0 else usual for side, usual in zip(sides, USUAL_SIDES, strict=True)
    )
    return _Model(
        session=session,
        input=inputs[0].name,
        sides=(height, width),
        most=count if isinstance(count, int) and count > 0 else None,
        half="float16" in inputs[0].type,
        axes=len(outputs) == 2,
        name=f"{_title(file)} onnxruntime {runtime.__version__}",
    )


def model_file(path: Path) -> Path:
    """The .onnx file meant by `path`: itself, or the only or usual one in a folder. Raises InputError."""
    if path.is_file():
        return path
    files = sorted(path.glob("*.onnx")) if path.is_dir() else []
    usual = [file for file in files if file.name == "end2end.onnx"]
    if len(usual or files) != 1:
        raise InputError(f"{path} holds {len(files)} ONNX files; name the one that finds poses.")
    return (usual or files)[0]


def _title(file: Path) -> str:
    """A name by which results are cached: the file's, its length, and a digest of its ends."""
    name = file.parent.name if file.stem == "end2end" else file.stem
    with file.open("rb") as content:
        digest = hashlib.sha256(content.read(DIGESTED))
        length = content.seek(0, 2)
        content.seek(max(length - DIGESTED, 0))
        digest.update(content.read())
    return f"{name} {length} {digest.hexdigest()[:12]}"


def _faults() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; the classes have nothing in common but Exception."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("EngineError", "EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel")
    names += ("NoSuchFile", "NotImplemented", "RuntimeException")
    return tuple(getattr(state, name) for name in names if hasattr(state, name))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
