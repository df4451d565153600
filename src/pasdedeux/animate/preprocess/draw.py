"""Pictures of keypoints, as the denoisers see them: the skeleton here, the face from its own file.

The skeleton follows the drawing Wan-Animate was trained on: limb list, colours, widths and rounding are its
facts.
"""

import cv2
import numpy as np

from pasdedeux.animate.preprocess.draw_face import draw_face

__all__ = ["draw_face", "draw_performer", "draw_skeleton", "stick_width"]

# Limbs as (from, to) body points; limb i has colour i at 0.6, joint i colour i in full.
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7)),
    *((1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (13, 18), (10, 19)),
)
# OpenPose's eighteen hues, red round to rose in steps of a third of 255, then two for the toes.
COLORS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
    *((200, 200, 0), (100, 100, 0)),
)
LIMB_COLORS = tuple(tuple(int(0.6 * channel) for channel in color) for color in COLORS[: len(LIMBS)])
FINGERS = tuple(
    (0 if joint == 0 else 4 * finger + joint, 4 * finger + joint + 1) for finger in range(5) for joint in range(4)
)
HAND_POINT_COLOR = (0, 0, 255)


def _hue(fraction: float) -> tuple[float, float, float]:
    """The fully saturated RGB colour at `fraction` of the colour circle, 0..255."""
    channels = (abs(fraction * 6 - 3) - 1, 2 - abs(fraction * 6 - 2), 2 - abs(fraction * 6 - 4))
    red, green, blue = (255 * min(max(channel, 0.0), 1.0) for channel in channels)
    return red, green, blue


FINGER_COLORS = tuple(_hue(edge / len(FINGERS)) for edge in range(len(FINGERS)))

TOES = (18, 19)
OUTLINE, FACE_THRESHOLD = 68, 0.3
WHITE = (255, 255, 255)

SUBPIXEL_BITS = 4  # OpenCV's fixed point: 1/16 pixel
FAR = 1e5  # pixels
ELLIPSE = np.stack([np.cos(np.arange(0, 2 * np.pi, np.pi / 12)), np.sin(np.arange(0, 2 * np.pi, np.pi / 12))], -1)


def stick_width(size: tuple[int, int]) -> int:
    """Half the thickness of a limb for a picture of this (width, height), in pixels: Wan-Animate's rule."""
    return max(min(size) // 200 - 1, 1)


def draw_skeleton(
    body: np.ndarray,
    hands: np.ndarray | None,
    size: tuple[int, int],
    *,
    threshold: float = 0.5,
    width: float | None = None,
) -> np.ndarray:
    """body [20, 3] and hands [2, 21, 3] as uint8 [H, W, 3], RGB on black; size is (width, height).

    Points below `threshold` and the limbs that need them are left out. Without `width` the picture is
    Wan-Animate's, on whole pixels. With it (half a limb's thickness in pixels) limbs and joints are
    antialiased and placed to 1/16 pixel, which small pictures need.
    """
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    seen = (body[:, 2] >= threshold).tolist()
    limbs = [i for i, (a, b) in enumerate(LIMBS) if seen[a] and seen[b]]
    if width is None:
        stick, bits = stick_width(size), 0
        hand_stick = max(stick // 2, 1)
        _limbs_on_pixels(canvas, body, limbs, stick)
    else:
        stick, bits = width, SUBPIXEL_BITS
        hand_stick = max(width / 2, 0.5)
        _limbs_between_pixels(canvas, body, limbs, stick)
    joints = [joint for joint in range(len(COLORS)) if seen[joint]]
    _dots(canvas, body[joints], stick, [COLORS[joint] for joint in joints], bits)
    for hand in () if hands is None else hands:
        _hand(canvas, hand, hand_stick, threshold, bits)
    return canvas


def draw_performer(body: np.ndarray, hands: np.ndarray, face: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The skeleton as the control models of VACE and Fun know it, from DWPose: no toes, and the face [70, 3] in dots.

    Its dots have a radius of 3 pixels in a picture of 512; the pupils are none of its points.
    """
    walker = body.copy()
    walker[TOES, 2] = 0
    canvas = draw_skeleton(walker, hands, size)
    seen = face[:OUTLINE][face[:OUTLINE, 2] >= FACE_THRESHOLD]
    _dots(canvas, seen, max(round(3 * min(size) / 512), 1), [WHITE] * len(seen), 0)
    return canvas


def _limbs_on_pixels(canvas: np.ndarray, body: np.ndarray, limbs: list[int], stick: int) -> None:
    """Centre, half length and angle are cut to integers, as in the pictures the model learned from."""
    ends = body[np.array(LIMBS)[limbs], :2].astype(np.float64)
    middles = ends.mean(axis=1)
    spans = ends[:, 0] - ends[:, 1]
    halves = np.hypot(spans[:, 0], spans[:, 1]) / 2
    degrees = np.degrees(np.arctan2(spans[:, 1], spans[:, 0]))
    for limb, middle, half, degree in zip(limbs, middles, halves, degrees, strict=True):
        centre = (int(middle[0]), int(middle[1]))
        outline = cv2.ellipse2Poly(centre, (int(half), stick), int(degree), 0, 360, 1)
        cv2.fillConvexPoly(canvas, np.asarray(outline), LIMB_COLORS[limb])


def _limbs_between_pixels(canvas: np.ndarray, body: np.ndarray, limbs: list[int], stick: float) -> None:
    ends = body[np.array(LIMBS)[limbs], :2]
    middles = ends.mean(axis=1, keepdims=True)
    along = (ends[:, 1:] - ends[:, :1]) / 2
    length = np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-6)
    across = along[..., ::-1] * np.array([-stick, stick]) / length
    outlines = middles + ELLIPSE[:, :1] * along + ELLIPSE[:, 1:] * across
    for limb, outline in zip(limbs, _fixed(outlines, SUBPIXEL_BITS), strict=True):
        cv2.fillConvexPoly(canvas, outline, LIMB_COLORS[limb], cv2.LINE_AA, SUBPIXEL_BITS)


def _hand(canvas: np.ndarray, hand: np.ndarray, stick: float, threshold: float, bits: int) -> None:
    """Twenty edges round the colour circle, then blue points. A point off the picture's top or left is not
    drawn.
    """
    seen = (hand[:, 2] >= threshold) & (hand[:, :2] >= 1).all(axis=1)
    if not seen.any():
        return
    corners, shown = _fixed(hand[:, :2], bits).tolist(), seen.tolist()
    thickness, kind = max(round(stick), 1), cv2.LINE_AA if bits else cv2.LINE_8
    for (a, b), color in zip(FINGERS, FINGER_COLORS, strict=True):
        if shown[a] and shown[b]:
            cv2.line(canvas, corners[a], corners[b], color, thickness, kind, bits)
    _dots(canvas, hand[seen], stick, [HAND_POINT_COLOR] * len(hand), bits)


def _dots(canvas: np.ndarray, points: np.ndarray, radius: float, colors: list[tuple[int, int, int]], bits: int) -> None:
    size, kind = int(radius * (1 << bits)), cv2.LINE_AA if bits else cv2.LINE_8
    for centre, color in zip(_fixed(points[:, :2], bits).tolist(), colors, strict=False):
        cv2.circle(canvas, centre, size, color, -1, kind, bits)


def _fixed(points: np.ndarray, bits: int) -> np.ndarray:
    """Pixels as OpenCV's fixed-point integers, cut downwards; far-off points are held where they fit."""
    return (np.clip(points, -FAR, FAR) * (1 << bits)).astype(np.int32)
