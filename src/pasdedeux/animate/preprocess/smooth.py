"""Steadier keypoints: short gaps bridged, long ones closed, and trembling removed without lag.

A detector trembles by a few pixels and loses a point now and then. The whole clip is at hand, so the filter looks
both ways in time (zero phase): what moves stays where it was, only the tremble goes.
"""

import numpy as np

from pasdedeux.animate.inputs import Keypoints

SEEN = 0.5
LONGEST_GAP = 0.3  # seconds
SMOOTHING = 0.04  # seconds: the Gaussian's standard deviation


def smooth(
    keypoints: Keypoints,
    fps: float,
    *,
    seconds: float = SMOOTHING,
    gap: float = LONGEST_GAP,
    threshold: float = SEEN,
) -> Keypoints:
    """Every point smoothed over time by a Gaussian of `seconds`, weighted by confidence; shapes stay as they are.

    Where a point falls below `threshold` for at most `gap` seconds between two sightings, it is put on the line
    between them with the lower confidence of the two; anything longer gets confidence 0.
    """
    frames = round(gap * fps)
    kernel = gaussian(seconds * fps)
    body, hands, face = (
        _smoothed(bridge(points, frames, threshold), kernel)
        for points in (keypoints.body, keypoints.hands, keypoints.face)
    )
    return Keypoints(body=body, hands=hands, face=face, size=keypoints.size)


def bridge(points: np.ndarray, longest: int, threshold: float) -> np.ndarray:
    """points [T, ..., 3] with gaps of up to `longest` frames filled in along straight lines, others at confidence 0."""
    flat = points.reshape(len(points), -1, 3).copy()
    for track in flat.transpose(1, 0, 2):
        _bridge_track(track, longest, threshold)
    return flat.reshape(points.shape)


def _bridge_track(track: np.ndarray, longest: int, threshold: float) -> None:
    """One point's [T, 3], changed in place."""
    seen = np.flatnonzero(track[:, 2] >= threshold)
    hidden = np.flatnonzero(track[:, 2] < threshold)
    track[hidden, 2] = 0
    if len(seen) == 0 or len(hidden) == 0:
        return
    for axis in (0, 1):
        track[hidden, axis] = np.interp(hidden, seen, track[seen, axis])
    after = np.searchsorted(seen, hidden)
    inner = (after > 0) & (after < len(seen))
    before, after = seen[np.maximum(after - 1, 0)], seen[np.minimum(after, len(seen) - 1)]
    short = inner & (after - before - 1 <= longest)
    track[hidden[short], 2] = np.minimum(track[before[short], 2], track[after[short], 2])


def gaussian(sigma: float) -> np.ndarray:
    """Weights of a Gaussian of `sigma` frames, cut at three sigma, adding up to 1; [1.0] for sigma 0."""
    reach = int(np.ceil(3 * sigma))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / max(sigma, 1e-6)) ** 2)
    return weights / weights.sum()


def _smoothed(points: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Averages of x and y over frames where the point is seen (weight: its confidence); confidence stays.

    The clip is continued past both ends by point reflection, so that steady motion is not bent there.
    """
    reach = min(len(kernel) // 2, len(points) - 1)
    if reach == 0:
        return points
    kernel = kernel[len(kernel) // 2 - reach : len(kernel) // 2 + reach + 1]
    place, weight = _continued(points, reach)
    total, sums = np.zeros(points.shape[:-1] + (1,)), np.zeros(points.shape[:-1] + (2,))
    for shift, share in enumerate(kernel):
        there = slice(shift, shift + len(points))
        total += share * weight[there]
        sums += share * weight[there] * place[there]
    average = np.where(points[..., 2:] > 0, sums / np.maximum(total, 1e-9), points[..., :2])
    return np.concatenate([average, points[..., 2:]], axis=-1).astype(np.float32)


def _continued(points: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Places [T + 2 reach, ..., 2] and weights [T + 2 reach, ..., 1], mirrored through the first and last frame."""
    first, last = points[:1], points[-1:]
    head, tail = points[reach:0:-1], points[-2 : -2 - reach : -1]
    place = np.concatenate([2 * first - head, points, 2 * last - tail])[..., :2].astype(np.float64)
    ends = (head[..., 2:] * (first[..., 2:] > 0), tail[..., 2:] * (last[..., 2:] > 0))
    return place, np.concatenate([ends[0], points[..., 2:], ends[1]]).astype(np.float64)
