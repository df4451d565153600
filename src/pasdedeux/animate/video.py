"""Reading video: pictures by number or by time, upright, in RGB, past damage. (Writing has its own file,
`video_writer`.)

Time 0 is a file's first picture, for its sound as well, so both stay together where one begins before the other.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.opening import USUAL_RATE, decoded, opened, picture_stream, stated_duration, stated_rate
from pasdedeux.animate.outputs import check_writable
from pasdedeux.animate.pixels import looks_of
from pasdedeux.animate.reel import TOLERANCE, Reel
from pasdedeux.animate.video_writer import METADATA_TAG, VideoWriter

__all__ = ["VideoInfo", "VideoWriter", "check_writable", "frames_at", "probe", "read_metadata", "read_video"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """What a file says of its video: upright square pixels, frames and seconds where known, rotation already applied.

    notes: what reading changes about its pictures.
    """

    width: int
    height: int
    fps: float
    duration: float
    frames: int | None
    has_audio: bool
    rotation: int
    notes: tuple[str, ...] = ()


def probe(path: Path) -> VideoInfo:
    """What is in the file, decoding a few frames only. Raises InputError where no video can be read from it."""
    with opened(path) as container:
        stream = picture_stream(path, container)
        looks = looks_of(path, stream, decoded(container, stream))
        return VideoInfo(
            width=looks.size[0],
            height=looks.size[1],
            fps=stated_rate(stream) or USUAL_RATE,
            duration=stated_duration(container, stream),
            frames=stream.frames or None,
            has_audio=bool(container.streams.audio),
            rotation=looks.rotation % 360,
            notes=looks.notes,
        )


def read_video(
    path: Path,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    max_frames: int | None = None,
    start: float = 0.0,
) -> Iterator[np.ndarray]:
    """Frames uint8 [H, W, 3], RGB and upright, one at a time from `start` seconds on.

    With `fps`, frame k is the last one at or before start + k / fps, whatever the file's own timing; without,
    every frame comes once. `size` (width, height) stretches. Damaged stretches repeat the frame before.
    Raises InputError where no frame can be read.
    """
    if fps is not None and fps <= 0:
        raise InputError(f"Frames per second is {fps}; it must be above 0.")
    with Reel(path, size=size) as reel:
        numbers = np.flatnonzero(reel.times >= start - TOLERANCE) if fps is None else reel.sampled(fps, start, reel.end)
        if not len(numbers):
            raise InputError(f"{path} holds no frame at {start:g} seconds or later; it is shorter, or damaged.")
        for number in numbers[:max_frames].tolist():
            picture = reel.picture(number)
            if fps is not None or reel.has(number):
                yield picture.copy()


def frames_at(path: Path, fps: float, *, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
    """`read_video` at `fps` from the start."""
    return read_video(path, fps=fps, size=size)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata a VideoWriter was given; for other files, the container's own. Raises InputError."""
    with opened(path) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    try:
        record = json.loads(tags.get(METADATA_TAG, ""))
    except json.JSONDecodeError:
        return tags
    return {str(key): str(value) for key, value in record.items()} if isinstance(record, dict) else tags
