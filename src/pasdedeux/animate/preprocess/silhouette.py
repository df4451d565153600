"""One person's outline in one picture: what belongs to it, how it moves with the points, and what it covers at least.

A mask is uint8 [H, W], 255 on the person. Points are [N, 3] as in `Keypoints`: x, y in pixels, confidence.
"""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.inputs import BODY_POINTS, HAND_POINTS
from pasdedeux.animate.preprocess.proportions import (
    L_EYE,
    L_HIP,
    L_SHOULDER,
    NECK,
    NOSE,
    R_EYE,
    R_HIP,
    R_SHOULDER,
    SEEN,
)

Bytes = NDArray[np.uint8]
Float = NDArray[np.floating]

LARGE = 0.02  # of the person's area: other parts that may be theirs
NEAR = 0.1  # of the person's height: how far off such a part may lie
HOLE = 0.01  # of the person's area: a gap as small is a fault, a larger one may be a hand on a hip
CELLS = 64  # along the longer side: how finely motion is known
AROUND = 1.5  # half widths: how far around a limb its motion is the mask's
FAR = 30_000.0  # pixels: OpenCV draws no farther

HEAD = [NOSE, 14, 15, 16, 17]
# Limbs (from, to) and half their width, in torsos: bare arms and legs are thinner, sleeves and trousers hardly wider.
LIMBS = (
    *((2, 3, 0.16), (3, 4, 0.14), (5, 6, 0.16), (6, 7, 0.14)),
    *((8, 9, 0.22), (9, 10, 0.17), (10, 19, 0.14), (11, 12, 0.22), (12, 13, 0.17), (13, 18, 0.14)),
)
SHOULDERS, HIPS = 0.16, 0.2  # half widths at the trunk's corners
NECK_WIDTH, HEAD_RADIUS, HAND_WIDTH = 0.16, 0.38, 0.08
THICK = (
    *LIMBS,
    (NECK, NOSE, NECK_WIDTH),
    (R_SHOULDER, R_HIP, HIPS),
    (L_SHOULDER, L_HIP, HIPS),
)
BETWEEN = (0.25, 0.5, 0.75)  # parts of a limb at which it is followed, beside its ends
TORSO_OF_SHOULDERS, TORSO_OF_NECK, TORSO_OF_EYES = 1.2, 1.8, 6.0
"""A torso's length, of the shoulders' width and of the distances from neck to nose and from eye to eye."""


def torso(body: Float) -> float | None:
    """Pixels from neck to hips of body [20, 3], from the longest sign of it; None where there is none."""
    hips = (body[R_HIP] + body[L_HIP]) / 2
    hips[2] = body[[R_HIP, L_HIP], 2].min()
    pairs = (
        (body[NECK], hips, 1.0),
        (body[R_SHOULDER], body[L_SHOULDER], TORSO_OF_SHOULDERS),
        (body[NECK], body[NOSE], TORSO_OF_NECK),
    )
    found = [times * _apart(a, b) for a, b, times in pairs]
    length = max(found) or TORSO_OF_EYES * _apart(body[R_EYE], body[L_EYE])
    return length if length > 1 else None


def _apart(a: Float, b: Float) -> float:
    """Pixels between two points [3]; 0 where they are not both seen."""
    return float(np.linalg.norm(a[:2] - b[:2])) if min(a[2], b[2]) >= SEEN else 0.0


def around_limbs(body: Float, hands: Float, size: tuple[int, int]) -> Bytes:
    """What a person with these points covers at least as far as limbs, trunk and head are seen, in a picture of `size`.

    body [20, 3], hands [2, 21, 3]; size is (width, height). Empty where too little is seen to tell how large they are.
    """
    canvas, unit = np.zeros((size[1], size[0]), np.uint8), torso(body)
    if unit is None:
        return canvas
    for a, b, width in (*LIMBS, (NECK, NOSE, NECK_WIDTH)):
        if min(body[a, 2], body[b, 2]) >= SEEN:
            _stroke(canvas, body[[a, b], :2], width * unit)
    _trunk(canvas, body, unit)
    seen = body[HEAD][body[HEAD, 2] >= SEEN, :2]
    if len(seen):
        _stroke(canvas, np.repeat(seen.mean(axis=0, keepdims=True), 2, axis=0), HEAD_RADIUS * unit)
    for hand in hands:
        points = hand[hand[:, 2] >= SEEN, :2]
        for point in points:
            _stroke(canvas, np.stack([points[0], point]), HAND_WIDTH * unit)
    return canvas


def _trunk(canvas: Bytes, body: Float, unit: float) -> None:
    """From shoulders to hips; hips that are not seen are straight below, where the picture may end first."""
    if body[[R_SHOULDER, L_SHOULDER], 2].min() < SEEN:
        return
    shoulders = body[[R_SHOULDER, L_SHOULDER], :2]
    hips = body[[R_HIP, L_HIP], :2] if body[[R_HIP, L_HIP], 2].min() >= SEEN else shoulders + [0, unit]
    corners = _whole(np.concatenate([shoulders, hips[::-1]]))
    cv2.fillConvexPoly(canvas, cv2.convexHull(corners), 255)
    _stroke(canvas, shoulders, SHOULDERS * unit)
    _stroke(canvas, hips, HIPS * unit)
    for ends in zip(shoulders, hips, strict=True):
        _stroke(canvas, np.stack(ends), SHOULDERS * unit)


def _stroke(canvas: Bytes, ends: Float, half: float) -> None:
    a, b = _whole(ends).tolist()
    cv2.line(canvas, a, b, 255, int(np.clip(round(2 * half), 1, FAR)), cv2.LINE_8)


def _whole(points: Float) -> NDArray[np.int32]:
    return np.clip(points, -FAR, FAR).round().astype(np.int32)


def own_parts(mask: Bytes, points: Float) -> Bytes:
    """The mask without what is not the person's: 255 or 0, small islands gone, small holes filled.

    Parts on which a point is seen are the person's, else the largest is; large parts near them are theirs as well.
    """
    there, result = (mask > 127).astype(np.uint8), np.zeros_like(mask)
    part, corner = window([there], 1)
    if there.any():
        result[part] = _chosen(there[part], points - corner)
    return result


def window(masks: Iterable[Bytes], margin: int) -> tuple[tuple[slice, slice], NDArray[np.float32]]:
    """The rows and columns that hold all that the masks show and a margin of pixels; and its corner as (x, y, 0)."""
    boxes = np.array([cv2.boundingRect(mask) for mask in masks if mask.any()] or [(0, 0, 0, 0)])
    left, top = np.maximum(boxes[:, :2].min(axis=0) - margin, 0).tolist()
    right, bottom = ((boxes[:, :2] + boxes[:, 2:]).max(axis=0) + margin).tolist()
    return (slice(top, bottom), slice(left, right)), np.array([left, top, 0], np.float32)


def _chosen(there: Bytes, points: Float) -> Bytes:
    """Of a mask that shows something, 0 or 1: the person's parts, 0 or 255."""
    labels, stats = _parts(there > 0, 8)
    areas = stats[:, cv2.CC_STAT_AREA]
    mine = sorted(_under(labels, points)) or [1 + int(areas[1:].argmax())]
    area = int(areas[mine].sum())
    boxes = np.concatenate([stats[:, :2], stats[:, :2] + stats[:, 2:4]], axis=1)
    height = int(boxes[mine, 3].max() - boxes[mine, 1].min())
    theirs = (_gap(boxes, boxes[mine]) <= NEAR * height) & (areas >= LARGE * area)
    theirs[mine] = True
    theirs[0] = False
    return _closed(theirs.astype(np.uint8)[labels] * np.uint8(255), area)


def _parts(there: NDArray[np.bool_], connectivity: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The part to which each pixel belongs, [H, W] (0 is outside), and [N, 5]: left, top, width, height, area."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(there.astype(np.uint8), connectivity=connectivity)
    return np.asarray(labels, np.int32), np.asarray(stats, np.int32)


def _under(labels: NDArray[np.int32], points: Float) -> set[int]:
    """Numbers of the parts on which points lie."""
    places = np.floor(points[points[:, 2] >= SEEN, :2]).astype(int)
    height, width = labels.shape
    inside = ((places >= 0) & (places < [width, height])).all(axis=1)
    columns, rows = places[inside].T
    return set(labels[rows, columns].tolist()) - {0}


def _gap(boxes: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.int32]:
    """Pixels [N] between boxes [N, 4] and the nearest of others [M, 4], across or down, whichever is more."""
    apart = np.maximum(boxes[:, None, :2] - others[:, 2:], others[:, :2] - boxes[:, None, 2:])
    return np.maximum(apart, 0).max(axis=2).min(axis=1)


def _closed(mask: Bytes, area: int) -> Bytes:
    """The mask with small holes filled; what lies open to the picture's edge is none."""
    labels, stats = _parts(mask == 0, 4)
    left, top, width, height, size = stats.T
    inner = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    holes = inner & (size <= HOLE * area)
    holes[0] = False
    return np.where(holes[labels], np.uint8(255), mask) if holes.any() else mask


def followed(mask: Bytes, then: Float, now: Float) -> Bytes:
    """A mask of another time, 0..255, moved as a person's points moved from `then` to `now`, [62, 3]: body, both hands.

    As far around limbs as they are wide it moves as they do, elsewhere as most of the body does. Without a point that
    is seen at both times it stays where it is.
    """
    both = np.minimum(then[:, 2], now[:, 2]) >= SEEN
    if not both.any():
        return mask
    body = both[:BODY_POINTS].sum() or both.sum()
    common = np.median((then - now)[both][:body, :2], axis=0).astype(np.float32)
    unit = torso(now[:BODY_POINTS]) or float(np.ptp(now[both, :2], axis=0).max())
    then, now = _along(then), _along(now)
    both = np.minimum(then[:, 2], now[:, 2]) >= SEEN
    moves, reach = (then - now)[both, :2], AROUND * unit * RADII[both]
    shift = _shift(now[both, :2], moves, reach, common, (mask.shape[1], mask.shape[0]))
    return cv2.remap(mask, shift, np.empty(0), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.uint8)


def _along(points: Float) -> Float:
    """Points [62, 3] of body and hands, and some between the ends of limbs and down the trunk's sides: [101, 3]."""
    ends = np.array([(a, b) for a, b, _ in THICK])
    a, b = points[ends[:, 0]], points[ends[:, 1]]
    between = [(1 - share) * a + share * b for share in BETWEEN]
    for part in between:
        part[:, 2] = np.minimum(a[:, 2], b[:, 2])
    return np.concatenate([points, *between])


def _radii() -> Float:
    """How far around each point of `_along` its limb reaches, in torsos."""
    body = np.zeros(BODY_POINTS)
    for a, b, width in THICK:
        body[[a, b]] = np.maximum(body[[a, b]], width)
    body[HEAD] = HEAD_RADIUS
    limbs = [width for _, _, width in THICK]
    return np.concatenate([body, np.full(2 * HAND_POINTS, HAND_WIDTH), *[limbs] * len(BETWEEN)])


RADII = _radii()


def _shift(places: Float, moves: Float, reach: Float, common: Float, size: tuple[int, int]) -> NDArray[np.float32]:
    """Where each pixel [H, W, 2] comes from if points [N, 2] come from `moves` farther on, and all else from `common`.

    Weights fall with the fourth power of distance (Shepard 1968), and are 1 at a point's `reach`, as `common` has.
    """
    width, height = size
    step = max(max(size) / CELLS, 1)
    columns, rows = max(round(width / step), 1), max(round(height / step), 1)
    x, y = (np.arange(columns) + 0.5) * width / columns - 0.5, (np.arange(rows) + 0.5) * height / rows - 0.5
    away = (x[None, :, None] - places[:, 0]) ** 2 + (y[:, None, None] - places[:, 1]) ** 2
    weight = ((away + 1) / np.maximum(reach, 1) ** 2).astype(np.float32) ** -2
    shift = (weight @ moves.astype(np.float32) + common) / (weight.sum(axis=-1, keepdims=True) + 1)
    shift = cv2.resize(shift, (width, height)).astype(np.float32)
    shift[..., 0] += np.arange(width, dtype=np.float32)
    shift[..., 1] += np.arange(height, dtype=np.float32)[:, None]
    return shift
