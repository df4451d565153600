"""What a character and a performance are, in numpy arrays, checked once.

Everything downstream (conditioning, retargeting, drawing) takes these records and trusts them, so every rule
about shapes, types and agreeing sizes lives here. A record that breaks one raises InputError with one
sentence.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BODY_POINTS, HAND_POINTS, FACE_POINTS = 20, 21, 70
JSON_VERSION = 1


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence that says what and why."""


class Clip(Protocol):
    """Pictures by the number of their frame: an array [T, H, W, ...], or what reads or draws them when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: list[int], /) -> NDArray[np.uint8]:
        """The pictures [n, H, W, ...] of n frames."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Letterbox:
    """Where a picture of size `source` lies in one of `size`: x' = scale * x + left, y' = scale * y + top."""

    source: tuple[int, int]
    size: tuple[int, int]
    scale: float
    left: int
    top: int


@dataclass(frozen=True, slots=True)
class View:
    """How a drawn world lies in its picture: the floor's origin is seen at (x, y) px, a unit of length as `unit` px.

    Two pictures of known view say where in one of them a thing of the other stands, and how large it is there. Raises
    InputError where the unit is not positive.
    """

    x: float
    y: float
    unit: float

    def __post_init__(self) -> None:
        if not self.unit > 0:
            raise InputError(f"A unit of length is {self.unit} px long; it must be more than 0.")

    def moved(self, factor: tuple[float, float], shift: tuple[float, float]) -> "View":
        """The view after the picture was scaled by `factor` (x, y) and moved by `shift` px."""
        return View(x=self.x * factor[0] + shift[0], y=self.y * factor[1] + shift[1], unit=self.unit * min(factor))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Keypoints:
    """One person's points over T frames; columns are x px, y px, confidence 0..1, and the sides are the
    person's own.

    Shapes: body [T, 20, 3] in Wan-Animate's order (0 nose, 1 neck, 2-4 right shoulder, elbow, wrist, 5-7
    left, 8-10 right hip, knee, ankle, 11-13 left, 14 right eye, 15 left eye, 16 right ear, 17 left ear, 18
    left toe, 19 right toe); hands [T, 2, 21, 3], left then right; face [T, 70, 3], iBUG 68 then right and
    left pupil. size is the picture's (width, height) in pixels; view is known where the picture was drawn.
    Raises InputError where an array does not fit this.
    """

    body: np.ndarray
    hands: np.ndarray
    face: np.ndarray
    size: tuple[int, int]
    view: View | None = None

    def __post_init__(self) -> None:
        frames = self.body.shape[0]
        _check_points("body", self.body, (frames, BODY_POINTS, 3))
        _check_points("hands", self.hands, (frames, 2, HAND_POINTS, 3))
        _check_points("face", self.face, (frames, FACE_POINTS, 3))
        if frames < 1 or min(self.size) < 1:
            raise InputError(
                f"Keypoints need at least one frame and a picture size, but have {frames} and {self.size}."
            )

    def __len__(self) -> int:
        return self.body.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> "Keypoints":
        """The frames of a slice, or of an array of indices or booleans, in that order."""
        return replace(self, body=self.body[index], hands=self.hands[index], face=self.face[index])

    def frame(self, index: int) -> "Keypoints":
        """Frame `index` (negative counts from the end) as Keypoints of one frame."""
        return self[np.array([index])]

    def scaled(self, size: tuple[int, int]) -> "Keypoints":
        """The same points in a picture stretched to `size` (width, height)."""
        return self.moved((size[0] / self.size[0], size[1] / self.size[1]), (0.0, 0.0), size)

    def moved(self, factor: tuple[float, float], shift: tuple[float, float], size: tuple[int, int]) -> "Keypoints":
        """The same points after their picture was scaled by `factor` (x, y), moved by `shift` px, and is of `size`."""
        times, plus = np.array([*factor, 1.0], np.float32), np.array([*shift, 0.0], np.float32)
        points = {name: getattr(self, name) * times + plus for name in ("body", "hands", "face")}
        view = None if self.view is None else self.view.moved(factor, shift)
        return Keypoints(**points, size=size, view=view)

    def to_json(self) -> str:
        """Compact text: pixels to 1/100, confidence to 1/100, each array flat."""
        arrays = {name: _flat(getattr(self, name)) for name in ("body", "hands", "face")}
        record = {"version": JSON_VERSION, "size": list(self.size), "frames": len(self), **arrays}
        if self.view is not None:
            record["view"] = [self.view.x, self.view.y, self.view.unit]
        return json.dumps(record, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Keypoints":
        """What `to_json` wrote. Raises InputError for anything else."""
        try:
            record = json.loads(text)
            if record["version"] != JSON_VERSION:
                raise InputError(f"Keypoints of version {record['version']} are not known; version 1 is.")
            frames, (width, height) = int(record["frames"]), record["size"]
            body = _unflat(record["body"], (frames, BODY_POINTS, 3))
            hands = _unflat(record["hands"], (frames, 2, HAND_POINTS, 3))
            face = _unflat(record["face"], (frames, FACE_POINTS, 3))
            seen = record.get("view")
            view = None if seen is None else View(*map(float, seen))
        except InputError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"This text does not hold keypoints: {error!r}.") from error
        return cls(body=body, hands=hands, face=face, size=(int(width), int(height)), view=view)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CharacterImage:
    """Who is to be animated: image uint8 [H, W, 3] RGB, mask uint8 [H, W] (255 on the person), keypoints of
    one frame.

    background uint8 [H, W, 3] is the same place without the person, where that is known.
    """

    image: np.ndarray
    mask: np.ndarray
    keypoints: Keypoints
    background: np.ndarray | None = None

    def __post_init__(self) -> None:
        width, height = self.keypoints.size
        if len(self.keypoints) != 1:
            raise InputError(f"A character is one frame, but its keypoints hold {len(self.keypoints)}.")
        _check_bytes("image", self.image, (height, width, 3))
        _check_bytes("mask", self.mask, (height, width))
        if self.background is not None:
            _check_bytes("background", self.background, (height, width, 3))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Performance:
    """What somebody does: keypoints of T frames at `fps`, and where known the pictures they were seen in.

    frames uint8 [T, H, W, 3] RGB and mask uint8 [T, H, W] are needed to replace the person in place. source are the
    same frames in the driver's own pixels, and `placed` says where those lie in the keypoints' picture.
    audio is a file whose sound is kept, from `audio_start` seconds on.
    """

    keypoints: Keypoints
    fps: float
    frames: Clip | None = None
    mask: Clip | None = None
    source: Clip | None = None
    placed: Letterbox | None = None
    audio: Path | None = None
    audio_start: float = 0.0

    def __post_init__(self) -> None:
        width, height = self.keypoints.size
        if not 0 < self.fps < 1000:
            raise InputError(f"Frames per second is {self.fps}; it must lie between 0 and 1000.")
        if self.audio_start < 0:
            raise InputError(f"The sound cannot start at {self.audio_start} seconds; 0 is the earliest.")
        if self.audio is not None and not self.audio.is_file():
            raise InputError(f"The sound is to come from {self.audio}, but there is no such file.")
        for name, clip, shape in (("frames", self.frames, (height, width, 3)), ("mask", self.mask, (height, width))):
            if isinstance(clip, np.ndarray):
                _check_bytes(name, clip, (len(self.keypoints), *shape))
        for name, clip in (("frames", self.frames), ("mask", self.mask), ("source", self.source)):
            if clip is not None and len(clip) != len(self.keypoints):
                raise InputError(f"{name} has {len(clip)} pictures, but there are keypoints of {len(self.keypoints)}.")
        if (self.source is None) != (self.placed is None):
            raise InputError("A driver's own pixels need the place where they lie, and the other way round.")


def _check_points(name: str, points: np.ndarray, shape: tuple[int, ...]) -> None:
    if points.shape != shape or points.dtype != np.float32:
        raise InputError(f"{name} must be float32 {list(shape)}, but is {points.dtype} {list(points.shape)}.")
    if not np.isfinite(points).all():
        raise InputError(f"{name} holds a value that is not a number; every x, y and confidence must be finite.")
    confidence = points[..., 2]
    if confidence.size and (confidence.min() < 0 or confidence.max() > 1):
        raise InputError(f"{name} has confidence {confidence.min()} to {confidence.max()}; it must lie in 0..1.")


def _check_bytes(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != np.uint8:
        raise InputError(f"{name} must be uint8 {list(shape)}, but is {array.dtype} {list(array.shape)}.")


def _flat(points: np.ndarray) -> list[float]:
    return [round(value, 2) for value in points.ravel().tolist()]


def _unflat(values: list[float], shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(values, dtype=np.float32).reshape(shape)
