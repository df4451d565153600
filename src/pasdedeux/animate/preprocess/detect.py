"""Finding the person in a photo or a video: a character, or a performance. One person at a time."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pasdedeux.animate.images import Letterbox, fit_points, letterbox
from pasdedeux.animate.inputs import CharacterImage, InputError, Keypoints, Performance
from pasdedeux.animate.preprocess.detector import Detected, Detector
from pasdedeux.animate.preprocess.holistic import MediapipeDetector
from pasdedeux.animate.preprocess.smooth import smooth
from pasdedeux.animate.video import VideoInfo, probe, read_video

__all__ = ["Detected", "Detector", "MediapipeDetector", "detect_character", "detect_performance"]

WORKING_SIDE = 1280  # pixels: the models look at crops of 256, so more costs memory and finds nothing
SEEN = 0.5
NOSE, NECK = 0, 1
HELP = "one real person, well lit, facing the camera and at least half as tall as the picture, is found best"


def detect_character(
    image: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    detector: Detector | None = None,
    name: str = "The character's picture",
) -> CharacterImage:
    """The person in a photo, image uint8 [H, W, 3] RGB. A cut-out's own alpha [H, W] is the better mask, if
    given.

    Raises InputError, naming the picture by `name`, where nobody is found.
    """
    found = (detector or MediapipeDetector(still=True)).detect([image], 1.0)
    _check_found(found.keypoints, name)
    mask = found.mask[0] if alpha is None else np.where(alpha >= 128, 255, 0).astype(np.uint8)
    return CharacterImage(image=image, mask=mask, keypoints=found.keypoints)


def detect_performance(
    path: Path,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    *,
    max_frames: int | None = None,
    detector: Detector | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> Performance:
    """Who moves in a video, at `fps` (the file's own without), letterboxed into `size` (width, height) if
    given.

    Looked for at up to 1280 pixels a side, whatever `size`. The result keeps frames, mask and the file's
    sound, and its keypoints are smoothed. on_frame(i, total) is called after frame i (from 1) of about
    `total`. Raises InputError where there is no video, or nobody in it.
    """
    info = probe(path)
    rate = info.fps if fps is None else fps
    seen_at = _working_size(info)
    fit = _fit(seen_at, size or seen_at)
    kept: list[np.ndarray] = []

    def watched() -> Iterator[np.ndarray]:
        total = _total(info, rate, max_frames)
        for frame in read_video(path, fps=rate, size=seen_at, max_frames=max_frames):
            kept.append(_fitted(frame, fit))
            yield frame
            if on_frame is not None:
                on_frame(len(kept), max(total, len(kept)))

    found = (detector or MediapipeDetector()).detect(watched(), rate)
    _check_found(found.keypoints, str(path))
    return Performance(
        keypoints=fit_points(smooth(found.keypoints, rate), fit),
        fps=rate,
        frames=np.stack(kept),
        mask=np.stack([_fitted(mask, fit) // 128 * 255 for mask in found.mask]),
        audio=path if info.has_audio else None,
    )


def _working_size(info: VideoInfo) -> tuple[int, int]:
    scale = min(1.0, WORKING_SIDE / max(info.width, info.height))
    return round(info.width * scale), round(info.height * scale)


def _fit(source: tuple[int, int], size: tuple[int, int]) -> Letterbox:
    return letterbox(np.zeros((source[1], source[0]), np.uint8), size)[1]


def _fitted(picture: np.ndarray, fit: Letterbox) -> np.ndarray:
    return picture if fit.source == fit.size else letterbox(picture, fit.size)[0]


def _total(info: VideoInfo, rate: float, most: int | None) -> int:
    total = max(math.ceil(info.duration * rate - 1e-3), 1)
    return total if most is None else min(total, most)


def _check_found(keypoints: Keypoints, name: str) -> None:
    if not (keypoints.body[:, [NOSE, NECK], 2] >= SEEN).any():
        looked = "" if len(keypoints) == 1 else f" in any of {len(keypoints)} frames"
        raise InputError(f"{name}: no person was found{looked}; {HELP}.")
