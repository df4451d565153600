"""Steadier keypoints: short gaps bridged, long ones closed, and trembling removed without lag.

A detector trembles by a few pixels and loses a point now and then. The whole clip is at hand, so the filter
looks both ways in time (zero phase): what moves stays where it was, only the tremble goes. How far it looks follows
the motion: long where a point rests or goes steadily, short where it turns. Body, hands and face have their own
reach, and a hand or a face is steadied in two parts, where it is and what shape it has. Nothing reaches over a cut.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from pasdedeux.animate.inputs import Keypoints

SEEN = 0.5
LONGEST_GAP = 0.3  # seconds
TURNS = 1.5  # noise levels by which two reaches must disagree for the shorter one to be half believed
NOISE = 0.6745 * 6**0.5  # the median of |second differences| of white noise, in its standard deviations


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """Standard deviations in seconds of the two Gaussians a filter goes between: where a point turns, where it rests.

    least is the tremble taken for granted, in parts of the figure's own scale (see `scale_of`).
    """

    turning: float
    resting: float
    least: float


TRUNK = Tuning(turning=0.055, resting=0.15, least=0.004)
LIMBS = Tuning(turning=0.04, resting=0.12, least=0.004)
HAND_SHAPE = Tuning(turning=0.04, resting=0.1, least=0.004)
FACE_PLACE = Tuning(turning=0.035, resting=0.1, least=0.002)
FACE_SHAPE = Tuning(turning=0.025, resting=0.06, least=0.0015)
STEADY_JOINTS = [1, 2, 5, 8, 11]
WRISTS, TIED = (7, 4), 0.5  # pixels


def smooth(
    keypoints: Keypoints,
    fps: float,
    *,
    gap: float = LONGEST_GAP,
    threshold: float = SEEN,
    cuts: Iterable[int] = (),
) -> Keypoints:
    """Every point steadied over time, weighted by confidence; cuts are the frames that begin a new shot.

    Where a point falls below `threshold` for at most `gap` seconds between two sightings in one shot, it is put on the
    line between them with the lower confidence of the two; anything longer gets confidence 0. Shapes stay as they are.
    """
    frames = round(gap * fps)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for shot in shots(len(keypoints), cuts):
        body, hands, face = (bridge(points[shot], frames, threshold) for points in _points(keypoints))
        _tie_wrists(keypoints[shot], body, hands)
        parts.append(_steadied_shot(body, hands, face, fps))
    body, hands, face = (np.concatenate(part).astype(np.float32) for part in zip(*parts, strict=True))
    return replace(keypoints, body=body, hands=hands, face=face)


def shots(frames: int, cuts: Iterable[int]) -> list[slice]:
    """The stretches of a clip between cuts, which are the frames that begin one."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < frames}), frames]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _points(keypoints: Keypoints) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return keypoints.body, keypoints.hands, keypoints.face


def _tie_wrists(before: Keypoints, body: np.ndarray, hands: np.ndarray) -> None:
    """Where a hand places its wrist, it does so while it is bridged as well: the body's own wrist lies elsewhere.

    Changes body [T, 20, 3] of one shot; `before` is the same shot unbridged.
    """
    for side, wrist in enumerate(WRISTS):
        seen = before.hands[:, side, 0, 2] >= SEEN
        placed = np.linalg.norm(before.hands[seen, side, 0, :2] - before.body[seen, wrist, :2], axis=-1) < TIED
        if len(placed) and placed.mean() > SEEN:
            bridged = ~seen & (hands[:, side, 0, 2] > 0)
            body[bridged, wrist] = hands[bridged, side, 0]


def _steadied_shot(
    body: np.ndarray, hands: np.ndarray, face: np.ndarray, fps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """body [T, 20, 3], hands [T, 2, 21, 3] and face [T, 70, 3] of one shot, gaps already bridged."""
    scale = scale_of(body, face)
    smooth_body = steadied(body, fps, LIMBS, scale)
    smooth_body[:, STEADY_JOINTS] = steadied(body[:, STEADY_JOINTS], fps, TRUNK, scale)
    smooth_hands = np.stack(
        [_in_two(hands[:, side], hands[:, side, :1], fps, (LIMBS, HAND_SHAPE), scale) for side in (0, 1)], 1
    )
    smooth_face = _in_two(face, _middle(face), fps, (FACE_PLACE, FACE_SHAPE), scale)
    return smooth_body, smooth_hands, smooth_face


def scale_of(body: np.ndarray, face: np.ndarray) -> float:
    """The figure's size in pixels: the median width of its shoulders, or twice that of its face; 1 where unseen."""
    sizes = [_span(body[:, 2], body[:, 5]), 2 * _span(face[:, 8], face[:, 27])]
    known = [np.median(size) for size in sizes if len(size)]
    return float(max(known, default=1.0))


def _span(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    both = (a[:, 2] >= SEEN) & (b[:, 2] >= SEEN)
    return np.linalg.norm((a - b)[both, :2], axis=-1)


def _middle(points: np.ndarray) -> np.ndarray:
    """The weighted middle [T, 1, 3] of points [T, N, 3], as sure as they are on the whole."""
    weights = points[..., 2:]
    total = weights.sum(axis=1, keepdims=True)
    places = (points[..., :2] * weights).sum(axis=1, keepdims=True) / np.maximum(total, 1e-6)
    return np.concatenate([places, total / points.shape[1]], axis=-1)


def _in_two(
    points: np.ndarray, anchor: np.ndarray, fps: float, tunings: tuple[Tuning, Tuning], scale: float
) -> np.ndarray:
    """points [T, N, 3] steadied as a place (its anchor [T, 1, 3]) and the shape about it."""
    places, shape = points.astype(np.float64), points.astype(np.float64)
    shape[..., :2] -= anchor[..., :2]
    places = steadied(anchor, fps, tunings[0], scale)
    shape = steadied(shape, fps, tunings[1], scale)
    shape[..., :2] += places[..., :2]
    return shape


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


def steadied(points: np.ndarray, fps: float, tuning: Tuning, scale: float) -> np.ndarray:
    """points [T, N, 3] with x and y steadied, float64; confidence stays, and what has none stays where it is.

    Two reaches are fitted everywhere. Where they disagree by more than tremble explains, the point turns, and the
    shorter one is right.
    """
    short, long = _followed(points, gaussian(tuning.turning * fps)), fitted(points, gaussian(tuning.resting * fps))
    noise = np.maximum(_noise(points), tuning.least * scale)
    apart = np.linalg.norm((short - long)[..., :2], axis=-1, keepdims=True)
    apart = _widened(apart, max(round(tuning.turning * fps), 1))
    share = apart**2 / (apart**2 + (TURNS * noise) ** 2)
    return np.concatenate([share * short[..., :2] + (1 - share) * long[..., :2], points[..., 2:]], axis=-1)


def _followed(points: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """points [T, N, 3] fitted twice, the second time to what the first fit left: turns keep their height."""
    first = fitted(points, kernel)
    left = points.astype(np.float64)
    left[..., :2] -= first[..., :2]
    first[..., :2] += fitted(left, kernel)[..., :2]
    return first


def _noise(points: np.ndarray) -> np.ndarray:
    """The tremble [1, N, 1] of points [T, N, 3] in pixels, from median second differences; 0 where few are seen."""
    if len(points) < 5:
        return np.zeros((1, points.shape[1], 1))
    seen = (points[..., 2] > 0).astype(float)
    bends = np.abs(np.diff(points[..., :2].astype(np.float64), 2, axis=0)).mean(axis=-1)
    known = np.where(seen[:-2] * seen[1:-1] * seen[2:] > 0, bends, np.nan)
    enough = np.isfinite(known).sum(axis=0) >= 3
    levels = np.zeros(points.shape[1])
    levels[enough] = np.nanmedian(known[:, enough], axis=0) / NOISE
    return levels[None, :, None]


def _widened(values: np.ndarray, reach: int) -> np.ndarray:
    """values [T, N, 1] averaged over `reach` frames on both sides, so that the blend itself does not tremble."""
    around = np.pad(values, ((reach, reach), (0, 0), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(around, 2 * reach + 1, axis=0)
    return np.sqrt((windows**2).mean(axis=-1))


def fitted(points: np.ndarray, kernel: np.ndarray) -> np.ndarray:
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
    line = (s2 * m0 - s1 * m1) / np.where(spread > 1e-9, spread, 1)
    usable = (points[..., 2:] > 0) & (spread > 1e-9)
    return np.concatenate([np.where(usable, line, points[..., :2]), points[..., 2:]], axis=-1)
