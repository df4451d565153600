"""Steadier keypoints: short gaps bridged, long ones closed, and trembling removed without lag.

A detector trembles by a few pixels and loses a point now and then. The whole clip is at hand, so the filter
looks both ways in time (zero phase): what moves stays where it was, only the tremble goes.
"""

from dataclasses import replace

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
    """Every point smoothed over time by a Gaussian of `seconds`, weighted by confidence; shapes stay as they
    are.

    Where a point falls below `threshold` for at most `gap` seconds between two sightings, it is put on the
    line between them with the lower confidence of the two; anything longer gets confidence 0.
    """
    frames = round(gap * fps)
    kernel = gaussian(seconds * fps)
    body, hands, face = (
        _smoothed(bridge(points, frames, threshold), kernel)
        for points in (keypoints.body, keypoints.hands, keypoints.face)
    )
    return replace(keypoints, body=body, hands=hands, face=face)


def bridge(points: np.ndarray, longest: int, threshold: float) -> np.ndarray:
    """points [T, ..., 3] with gaps of up to `longest` frames filled in along straight lines, others at
    confidence 0.
    """
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
    """points [T, ..., 3] with x and y on the line that fits best around each frame; confidence stays.

    Local linear regression, frames weighted by kernel and confidence: a plain average would pull points that
    move steadily towards the middle wherever one side shows nothing, at gaps and at both ends of the clip.
    """
    reach = len(kernel) // 2
    around = ((reach, reach),) + ((0, 0),) * (points.ndim - 1)
    padded = np.pad(points.astype(np.float64), around)
    weights, places = padded[..., 2:], padded[..., :2]
    s0, s1, s2, m0, m1 = (np.zeros((*points.shape[:-1], 1)) for _ in range(5))
    for shift, share in enumerate(kernel):
        there, away = slice(shift, shift + len(points)), shift - reach
        weight = share * weights[there]
        s0, s1, s2 = s0 + weight, s1 + away * weight, s2 + away**2 * weight
        m0, m1 = m0 + weight * places[there], m1 + away * weight * places[there]
    spread = s0 * s2 - s1**2
    fitted = (s2 * m0 - s1 * m1) / np.where(spread > 1e-9, spread, 1)
    usable = (points[..., 2:] > 0) & (spread > 1e-9)
    return np.concatenate([np.where(usable, fitted, points[..., :2]), points[..., 2:]], axis=-1).astype(np.float32)
