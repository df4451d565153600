"""Motion that no body makes: a point that leaps away and back, left and right that change places for a moment."""

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
SEEN = 0.5
LONGEST_RUN = 0.1  # seconds that a leap there and back lasts; what stays longer was meant
LONGEST_SWAP = 0.35  # seconds
LEAP_FPS = 30.0


def leaps(track: np.ndarray, limit: np.ndarray, fps: float) -> Flags:
    """Frames [T] in which a track [T, 3] is off the way from where it was before to where it is after.

    By more than limit [T] pixels and than that way is long, from the first such frame to the last, for up to 0.1 s.
    Slower clips allow more, as the square of the time: what a limb can do is to accelerate.
    """
    frames = np.zeros(len(track), bool)
    seen = np.flatnonzero(track[:, 2] >= SEEN)
    allowed = limit * max(1.0, (LEAP_FPS / fps) ** 2)
    places, longest = track[seen, :2], max(int(LONGEST_RUN * fps), 1)
    for length in range(1, min(longest, len(seen) - 2) + 1):
        _mark_runs(frames, places, seen, allowed, length)
    return frames


def _mark_runs(frames: Flags, places: np.ndarray, seen: np.ndarray, allowed: np.ndarray, length: int) -> None:
    """Marks runs of `length` sightings that leap there and back. Sightings more than a run apart tell nothing."""
    before, after = places[: -length - 1], places[length + 1 :]
    first, last = places[1 : len(places) - length], places[length:-1]
    step = (after - before) / (length + 1)
    there, back = (np.linalg.norm(leap, axis=-1) for leap in (first - before - step, last - after + step))
    near = seen[length + 1 :] - seen[: -length - 1] <= 2 * length + 1
    least = np.minimum(there, back)
    found = near & (least > allowed[seen[1 : len(seen) - length]]) & (least > np.linalg.norm(after - before, axis=-1))
    for start in np.flatnonzero(found):
        frames[seen[start + 1 : start + 1 + length]] = True


def swaps(left: np.ndarray, right: np.ndarray, scale: np.ndarray, fps: float) -> Flags:
    """Frames [T] in which tracks left and right [T, N, 3] have changed places, for at most 0.35 s."""
    both = (left[..., 2] >= SEEN) & (right[..., 2] >= SEEN)
    counted = both[:-1] & both[1:]
    straight = _steps(left[:-1], left[1:], counted) + _steps(right[:-1], right[1:], counted)
    crossed = _steps(left[:-1], right[1:], counted) + _steps(right[:-1], left[1:], counted)
    turned = (counted.sum(axis=1) >= 2) & (straight > 0.3 * scale[1:]) & (crossed < 0.4 * straight)
    at = np.flatnonzero(turned) + 1
    frames = np.zeros(len(left), bool)
    start: int | None = None
    for frame in at.tolist():
        if start is not None and frame - start <= max(LONGEST_SWAP * fps, 1):
            frames[start:frame] = True
            start = None
        else:
            start = frame
    return frames


def _steps(a: np.ndarray, b: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The mean distance [T-1] of points that count, both ways; 0 where none does."""
    apart = np.linalg.norm(a[..., :2] - b[..., :2], axis=-1) * counted
    return apart.sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
