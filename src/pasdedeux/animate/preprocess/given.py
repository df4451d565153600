"""What a user already has in place of detection: keypoints, a video of drawn poses, a mask.

Each is brought to the job's picture and rate. A frame or two more or less than the driver has is put up with and said;
more is another clip, and an InputError.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.images import letterbox_of
from pasdedeux.animate.inputs import Clip, InputError, Keypoints
from pasdedeux.animate.preprocess.detector import Bytes
from pasdedeux.animate.preprocess.wholebody import load_keypoints

SPARE = 2
"""Frames by which lengths may differ: programs round the last frame's time up or down."""
ASPECT = 0.02
"""Of width per height, by which a picture may differ from the driver's and still be of it."""
THRESHOLD = 128
ROUNDING = 1e-3  # frames

Notes = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lengthened:
    """A clip of `frames` pictures: those of `clip`, each as `change` makes it, the last one again and again."""

    clip: Clip
    frames: int
    change: Callable[[Bytes], Bytes]

    def __len__(self) -> int:
        return self.frames

    def __getitem__(self, index: list[int], /) -> NDArray[np.uint8]:
        inside = [i if i >= 0 else i + self.frames for i in index]
        if not all(0 <= i < self.frames for i in inside):
            raise IndexError(f"There are {self.frames} frames, but {index} were asked for.")
        pictures = self.clip[[min(i, len(self.clip) - 1) for i in inside]]
        return np.stack([self.change(picture) for picture in pictures])


def given_keypoints(
    path: Path,
    size: tuple[int, int],
    frames: int,
    fps: float,
    *,
    start: float = 0.0,
    end: float | None = None,
    person: int | None = None,
) -> tuple[Keypoints, Notes]:
    """Keypoints from a file (see `load_keypoints`) for `frames` frames at `fps` from `start` seconds, in a picture of
    `size`; and what had to be made to fit.

    A file that says its own rate is read by time; one that does not has frames at `fps`. It holds the whole driver, or
    just the part from start to end, which its length tells. Raises InputError where it does not fit.
    """
    keypoints, said = load_keypoints(path, size=size, person=person)
    _check_aspect(path, keypoints.size, size)
    rate = said or fps
    step = rate / fps
    if abs(len(keypoints) - frames * step) <= SPARE * step:
        start = 0.0
    index = np.floor((start + np.arange(frames) / fps) * rate + ROUNDING).astype(np.int64)
    spare = len(keypoints) - int(index[-1]) - 1
    notes = _notes(path, spare if end is None or spare < 0 else 0, step)
    return keypoints[np.minimum(index, len(keypoints) - 1)].scaled(size), notes


def given_pose(
    path: Path,
    size: tuple[int, int],
    fps: float,
    *,
    frames: int | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> tuple[Clip, Notes]:
    """A video of poses that are drawn already, uint8 [n, H, W, 3] at `fps`, letterboxed on black into `size`.

    Without `frames` it is as long as the video. Raises InputError where there is no video, or the length differs.
    """
    from pasdedeux.animate.clips import Fitted, VideoClip

    clip = VideoClip(path, fps=fps, start=start, end=end)
    count = len(clip) if frames is None else frames
    notes = _notes(path, len(clip) - count)
    drawn = clip if clip.size == size else Fitted(clip, letterbox_of(clip.size, size))
    return Lengthened(clip=drawn, frames=count, change=lambda picture: picture), notes


def given_mask(
    path: Path, size: tuple[int, int], frames: int, fps: float, *, start: float = 0.0, end: float | None = None
) -> tuple[Clip, Notes]:
    """A mask from a video or a folder of pictures as uint8 [n, H, W] of `size`: 255 where it is brighter than half.

    Raises InputError where there is none, its picture has another shape, or the length differs.
    """
    from pasdedeux.animate.clips import VideoClip

    clip = VideoClip(path, fps=fps, start=start, end=end)
    _check_aspect(path, clip.size, size)
    notes = _notes(path, len(clip) - frames)
    return Lengthened(clip=clip, frames=frames, change=lambda picture: outline(picture, size)), notes


def outline(picture: Bytes, size: tuple[int, int]) -> Bytes:
    """[H, W] or [H, W, 3] at `size` (width, height), 255 where the brightest channel is 128 or more, else 0."""
    grey = picture if picture.ndim == 2 else picture.max(axis=-1)
    if (grey.shape[1], grey.shape[0]) != size:
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_NEAREST)
    return np.where(grey >= THRESHOLD, 255, 0).astype(np.uint8)


def _check_aspect(path: Path, own: tuple[int, int], size: tuple[int, int]) -> None:
    if abs(own[0] * size[1] / (own[1] * size[0]) - 1) > ASPECT:
        raise InputError(
            f"{path} is of a picture of {own[0]}x{own[1]}, but the driver is {size[0]}x{size[1]}: not the same shape."
        )


def _notes(path: Path, spare: int, step: float = 1.0) -> Notes:
    """What is said of a file with so many frames more than are wanted (fewer where negative), `step` of them a frame.

    Raises InputError where they are too many.
    """
    if abs(spare) >= SPARE * step + 1:
        more = "more" if spare > 0 else "fewer"
        raise InputError(f"{path} has {abs(spare)} frames {more} than the driver; it is not of this clip.")
    if spare < 0:
        return (
            f"{path} ends {-spare} frame{'s' if spare < -1 else ''} before the driver; its last frame is repeated.",
        )
    if spare >= step:
        return (f"{path} has {spare} frame{'s' if spare > 1 else ''} more than the driver; they are left out.",)
    return ()
