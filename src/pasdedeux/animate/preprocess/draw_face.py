"""A picture of a face's landmarks, the same for puppets and people: area and colour carry the expression.

Eye openings and the inside of the mouth are filled, so how far they are open is how much of their colour
there is, and stays legible where the whole face is only some 24 pixels wide. Drawn oversized round the face
alone and then averaged down, so that a move of a tenth of a pixel shows.
"""

import cv2
import numpy as np

# iBUG's 68 points by feature, then the two pupils.
JAW, BROWS, NOSE = slice(0, 17), (slice(17, 22), slice(22, 27)), (slice(27, 31), slice(31, 36))
EYES, PUPILS = (slice(36, 42), slice(42, 48)), (68, 69)
OUTER_LIP, INNER_LIP = slice(48, 60), slice(60, 68)
BLUE, YELLOW, CYAN, WHITE = (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 255, 255)
RED, MAGENTA, GREEN = (255, 0, 0), (255, 0, 255), (0, 255, 0)

BITS = 4  # OpenCV's fixed point: 1/16 of an oversized pixel
LARGEST_OVERSIZE, OVERSIZED_SIDE = 4, 512
LINE_SHARE, PUPIL_SHARE = 1 / 28, 0.2  # of the face's width; of the eye's width, as a radius
THRESHOLD = 0.5


def draw_face(
    face: np.ndarray, size: tuple[int, int], *, box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """face [70, 3] as uint8 [H, W, 3], RGB on black, in its place in the picture; size is (width, height).

    With `box` (left, top, right, bottom in pixels) that part of the picture is stretched over the whole of
    `size`. A feature is drawn when all its points reach confidence 0.5; a face without points is a black
    picture.
    """
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    seen = face[:, 2] >= THRESHOLD
    points = face[:, :2].astype(np.float64) if box is None else _boxed(face[:, :2], box, size)
    if not seen.any():
        return canvas
    left, top, right, bottom = _window(points[seen], size)
    if right <= left or bottom <= top:
        return canvas
    oversize = _oversize(max(right - left, bottom - top))
    large = np.zeros(((bottom - top) * oversize, (right - left) * oversize, 3), np.uint8)
    placed = (points + 0.5 - (left, top)) * oversize - 0.5
    _features(large, placed, seen)
    canvas[top:bottom, left:right] = cv2.resize(large, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return canvas


def _boxed(points: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    corner, extent = np.array(box[:2]), np.array(box[2:]) - np.array(box[:2])
    return (points - corner) * (np.array(size) / np.maximum(extent, 1e-6))


def _window(points: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The whole pixels round the points, with room for the lines' thickness, inside the picture."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 1.0 + (high - low).max() * 2 * LINE_SHARE
    left, top = np.clip(np.floor(low - margin), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(high + margin) + 1, 0, size).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _oversize(side: int) -> int:
    """4 for small faces; less where the oversized picture would pass 512 pixels, for time."""
    return max(min(LARGEST_OVERSIZE, OVERSIZED_SIDE // side), 1)


def _features(large: np.ndarray, points: np.ndarray, seen: np.ndarray) -> None:
    fixed = np.rint(np.clip(points, -1e5, 1e5) * (1 << BITS)).astype(np.int32)
    thickness = max(round(_face_width(points, seen) * LINE_SHARE), 1)
    lines = ((JAW, BLUE), *((part, YELLOW) for part in BROWS), *((part, CYAN) for part in NOSE))
    for part, color in lines:
        if seen[part].all():
            cv2.polylines(large, [fixed[part]], False, color, thickness, cv2.LINE_AA, BITS)
    for part, color in ((OUTER_LIP, MAGENTA), (INNER_LIP, GREEN)):
        if seen[part].all():
            cv2.fillPoly(large, [fixed[part]], color, cv2.LINE_8, BITS)
    for eye, pupil in zip(EYES, PUPILS, strict=True):
        if seen[eye].all():
            _eye(large, fixed[eye], fixed[pupil] if seen[pupil] else None)


def _face_width(points: np.ndarray, seen: np.ndarray) -> float:
    visible = points[seen]
    return float(np.ptp(visible, axis=0).max())


def _eye(large: np.ndarray, outline: np.ndarray, pupil: np.ndarray | None) -> None:
    """The opening in white, and the part of the pupil that shows in it in red."""
    cv2.fillPoly(large, [outline], WHITE, cv2.LINE_8, BITS)
    if pupil is None:
        return
    low = np.maximum((outline.min(axis=0) >> BITS) - 1, 0)
    high = np.maximum((outline.max(axis=0) >> BITS) + 2, 0)
    window = large[low[1] : high[1], low[0] : high[0]]
    if window.size == 0:
        return
    origin = low << BITS
    opening, disc = np.zeros(window.shape[:2], np.uint8), np.zeros(window.shape[:2], np.uint8)
    cv2.fillPoly(opening, [outline - origin], 1, cv2.LINE_8, BITS)
    centre = (int(pupil[0] - origin[0]), int(pupil[1] - origin[1]))
    cv2.circle(disc, centre, int(np.ptp(outline[:, 0]) * PUPIL_SHARE), 1, -1, cv2.LINE_8, BITS)
    window[(opening & disc) > 0] = RED
