"""Which ways to find people, poses and masks can be used here, why others cannot, and opening them by name.

What mediapipe's wheel brings works offline. Larger models are used where their files are found; nothing is downloaded.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from pasdedeux.animate.inputs import BODY_POINTS, FACE_POINTS, HAND_POINTS, InputError, Keypoints
from pasdedeux.animate.preprocess.detector import Box, Bytes, Masker, PersonFinder, PoseDetector
from pasdedeux.animate.preprocess.model_files import PLACE, Models, entries, find_models

__all__ = [
    "Backend",
    "HolisticMasker",
    "Models",
    "check_backend",
    "find_models",
    "open_finder",
    "open_masker",
    "open_pose",
    "usable",
]

Task = Literal["people", "pose", "mask"]
NONE, AUTO = "none", "auto"
WITHOUT_MODELS = (0, 10, 30)
"""The first mediapipe whose wheel has no models in it."""

_LICENCES = {
    "mediapipe": "Apache-2.0; the models come in mediapipe's own wheel",
    "vitpose": "Apache-2.0; trained with COCO-WholeBody's annotations, which are for research and not commercial use",
    "rtdetr": "Apache-2.0",
    "sam2": "Apache-2.0",
}
_HEAVY = "made for a GPU: without one it takes seconds a frame"
_NOTES = {"mediapipe": "", "vitpose": _HEAVY, "rtdetr": "", "sam2": _HEAVY}
_FILES = {
    "vitpose": "vitpose_h_wholebody.onnx of Wan-AI/Wan2.2-Animate-14B (process_checkpoint/pose2d), or DWPose's or "
    "RTMW's whole-body ONNX",
    "rtdetr": "the folder of PekingU/rtdetr_v2_r50vd (config.json, preprocessor_config.json, model.safetensors)",
    "sam2": "the folder of facebook/sam2.1-hiera-large (config.json, model.safetensors)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """One way to do a task; where it is not usable here, the one reason why and what would change that.

    note: what is good to know of it where it is.
    """

    name: str
    task: Task
    usable: bool
    reason: str
    licence: str
    path: Path | None = None
    note: str = ""


class HolisticMasker:
    """A `Masker` by mediapipe, for pose detectors that make no masks: each frame is looked at once more."""

    name = "mediapipe holistic"

    def masks(self, frames: Iterable[Bytes], keypoints: Keypoints) -> Iterator[Bytes]:
        """See `Masker`; nothing is masked where no points are seen."""
        from pasdedeux.animate.preprocess.holistic import HolisticDetector

        boxes = [box_of(body) for body in keypoints.body]
        frames_and_boxes = zip(frames, boxes, strict=True)
        for box, sighting in zip(boxes, HolisticDetector().watch(frames_and_boxes, 1.0), strict=True):
            empty = np.zeros((keypoints.size[1], keypoints.size[0]), np.uint8)
            yield empty if box is None or sighting.mask is None else sighting.mask


def usable(folder: Path | None = None, beside: Path | None = None) -> list[Backend]:
    """All backends, the best first for each task, each with whether it is usable here. Nothing is loaded or run."""
    models = find_models(folder, beside)
    return [
        _backend("rtdetr", "people", models),
        _backend("mediapipe", "people", models),
        _backend("vitpose", "pose", models),
        _backend("mediapipe", "pose", models),
        _backend("sam2", "mask", models),
        _backend("mediapipe", "mask", models),
    ]


def open_finder(name: str = AUTO, folder: Path | None = None, beside: Path | None = None) -> PersonFinder | None:
    """By name: "rtdetr", "mediapipe", "auto" for the best that is usable, or "none". Raises InputError."""
    backend = _picked("people", name, folder, beside)
    return None if backend is None else _finder(backend)


def open_pose(name: str = AUTO, folder: Path | None = None, beside: Path | None = None) -> PoseDetector:
    """By name: "vitpose", "mediapipe", or "auto" for the best that is usable. Raises InputError."""
    backend = _picked("pose", name, folder, beside)
    if backend is None:
        raise InputError("A pose detector is needed; only people's boxes and masks can be left out.")
    return _watcher(backend)


def open_masker(
    name: str = AUTO, folder: Path | None = None, beside: Path | None = None, *, watcher: PoseDetector | None = None
) -> Masker | None:
    """By name: "sam2", "mediapipe", "auto" for the best that is usable, or "none". Raises InputError.

    None also where mediapipe is to do it and `watcher`, the pose detector of the same frames, is mediapipe's: it makes
    the masks itself.
    """
    backend = _picked("mask", name, folder, beside)
    if backend is None or (backend.name == "mediapipe" and watcher is not None and _is_holistic(watcher)):
        return None
    return _masker(backend)


def check_backend(backend: Backend) -> Backend:
    """The backend after it was really opened and run on one small picture: usable or not, and the reason."""
    if not backend.usable:
        return backend
    picture = np.full((256, 192, 3), 128, np.uint8)
    try:
        if backend.task == "people":
            _finder(backend).find(picture)
        elif backend.task == "pose":
            list(_watcher(backend).watch([(picture, None)], 1.0))
        else:
            list(_masker(backend).masks([picture], _standing((192, 256))))
    except (InputError, ImportError, OSError, RuntimeError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return replace(backend, usable=False, reason=f"it was tried and failed: {line}")
    return backend


def _finder(backend: Backend) -> PersonFinder:
    if backend.name == "rtdetr" and backend.path is not None:
        from pasdedeux.animate.preprocess.detr import DetrFinder

        return DetrFinder(backend.path)
    from pasdedeux.animate.preprocess.people import BlazeFinder

    return BlazeFinder()


def _watcher(backend: Backend) -> PoseDetector:
    if backend.name == "vitpose" and backend.path is not None:
        from pasdedeux.animate.preprocess.vitpose import VitPose

        return VitPose(backend.path)
    from pasdedeux.animate.preprocess.holistic import HolisticDetector

    return HolisticDetector()


def _masker(backend: Backend) -> Masker:
    if backend.name == "sam2" and backend.path is not None:
        from pasdedeux.animate.preprocess.sam2 import Sam2Masker

        return Sam2Masker(backend.path)
    return HolisticMasker()


def _is_holistic(watcher: PoseDetector) -> bool:
    from pasdedeux.animate.preprocess.holistic import HolisticDetector

    return isinstance(watcher, HolisticDetector)


def _standing(size: tuple[int, int]) -> Keypoints:
    """Somebody of whom the trunk is seen in the middle of a picture: something to point at."""
    body = np.zeros((1, BODY_POINTS, 3), np.float32)
    shares = {0: (0.5, 0.2), 1: (0.5, 0.3), 2: (0.4, 0.3), 5: (0.6, 0.3), 8: (0.45, 0.6), 11: (0.55, 0.6)}
    for point, (x, y) in shares.items():
        body[0, point] = (x * size[0], y * size[1], 1)
    hands, face = np.zeros((1, 2, HAND_POINTS, 3), np.float32), np.zeros((1, FACE_POINTS, 3), np.float32)
    return Keypoints(body=body, hands=hands, face=face, size=size)


def _picked(task: Task, name: str, folder: Path | None, beside: Path | None) -> Backend | None:
    """The backend of that name, or for "auto" the first that is usable; None for "none"."""
    if name == NONE:
        return None
    known = [backend for backend in usable(folder, beside) if backend.task == task]
    if name == AUTO:
        best = next((backend for backend in known if backend.usable), None)
        if best is None:
            reasons = "; ".join(f"{backend.name}: {backend.reason}" for backend in known)
            raise InputError(f"Nothing here can find {_FOUND[task]} ({reasons}).")
        return best
    backend = next((backend for backend in known if backend.name == name), None)
    if backend is None:
        names = ", ".join([AUTO, *(backend.name for backend in known), NONE])
        raise InputError(f'Nothing called "{name}" finds {_FOUND[task]}; {names} are known.')
    if not backend.usable:
        raise InputError(f"{name} cannot be used here: {backend.reason}.")
    return backend


_FOUND: dict[Task, str] = {"people": "people", "pose": "poses", "mask": "masks"}


def _backend(name: str, task: Task, models: Models) -> Backend:
    path: Path | None = None if name == "mediapipe" else getattr(models, name)
    reason = _PACKAGES[name]()
    if reason is None and name != "mediapipe" and path is None:
        reason = _no_file(name, models)
    return Backend(
        name=name,
        task=task,
        usable=reason is None,
        reason=reason or "",
        licence=_LICENCES[name],
        path=path,
        note=_NOTES[name],
    )


def _no_file(name: str, models: Models) -> str:
    place = models.looked[0] if models.looked else PLACE
    old = [file for folder in models.looked for file in entries(folder) if name == "sam2" and file.suffix == ".pt"]
    why = f"{old[0].name} is in the format of SAM 2's own program" if old else "no file"
    return f"{why}: put {_FILES[name]} into {place}, licence {_LICENCES[name].partition(';')[0]}"


def _mediapipe() -> str | None:
    if importlib.util.find_spec("mediapipe") is None:
        return "needs mediapipe: pip install 'pasdedeux[people]', on Python 3.11 or 3.12"
    major, minor, patch, *_ = (*importlib.metadata.version("mediapipe").split("."), "0", "0")
    if (int(major), int(minor), int(patch)) >= WITHOUT_MODELS:
        return "this mediapipe is too new to carry its models: version 0.10.14 is needed"
    return None


def _onnxruntime() -> str | None:
    found = importlib.util.find_spec("onnxruntime") is not None
    return None if found else "needs onnxruntime: pip install 'pasdedeux[pose]'"


def _transformers() -> str | None:
    found = importlib.util.find_spec("transformers") is not None
    return None if found else "needs transformers: pip install 'pasdedeux[wan]'"


_PACKAGES: dict[str, Callable[[], str | None]] = {
    "mediapipe": _mediapipe,
    "vitpose": _onnxruntime,
    "rtdetr": _transformers,
    "sam2": _transformers,
}


def box_of(points: np.ndarray) -> Box | None:
    """(left, top, right, bottom) around the points [N, 3] that are seen, with a tenth of room; None without two."""
    seen = points[points[:, 2] >= 0.5, :2]
    if len(seen) < 2:
        return None
    low, high = seen.min(axis=0), seen.max(axis=0)
    room = 0.1 * (high - low).max()
    return float(low[0] - room), float(low[1] - room), float(high[0] + room), float(high[1] + room)
