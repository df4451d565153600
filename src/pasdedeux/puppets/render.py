"""Character + performance + place + light -> pictures, masks and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from .character import Character
from .figure import Figure, build
from .light import Light
from .place import Place
from .poses import Poses
from .shapes import Array, Shape

Picture = NDArray[np.uint8]

SHIFT: Final = 4
"""Fractional bits of the corners given to OpenCV."""
STANDING: Final = 0.76
"""Picture heights per average standing height at a camera scale of 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """scale: magnification of the default framing. center: where, as fractions of the picture (from the
    left, from the top), the point at half an average standing height above the floor is seen.
    """

    scale: float = 1.0
    center: tuple[float, float] = (0.5, 0.52)


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """T frames. frames [T, H, W, 3] RGB; mask [T, H, W], 0..255: coverage of the person, not of the
    shadow; background [H, W, 3]; body [T, 20, 3], hands [T, 2, 21, 3] (left, right), face [T, 70, 3]: x,
    y in pixels from the picture's top left corner (a pixel's centre is at .5), confidence 0 or 1. view: where
    the floor's origin is seen (x, y) and how many pixels a unit of length has.
    """

    frames: Picture
    mask: Picture
    background: Picture
    body: NDArray[np.float32]
    hands: NDArray[np.float32]
    face: NDArray[np.float32]
    view: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Film:
    """Size of the picture, of one world unit in it, the floor's height, and how much finer things are
    first drawn.
    """

    width: int
    height: int
    unit: float
    origin: tuple[float, float]
    fine: int


def render(
    character: Character,
    poses: Poses,
    place: Place,
    light: Light,
    size: tuple[int, int] = (128, 128),
    camera: Camera | None = None,
    background: Picture | None = None,
) -> Clip:
    """Draw a performance. size: (width, height) in pixels. background: [H, W, 3], used as it is instead of the
    place in this light.

    Raises ValueError for a size under 16 pixels, an empty performance, or a background of another size.
    """
    _check(poses, size, background)
    film = _film(size, camera or Camera())
    scene = light.on(place.draw(size)) if background is None else background.copy()
    figure = build(character, poses, np.array([np.cos(light.angle), np.sin(light.angle)]))
    frames, mask = _paint(figure, scene, light, film, len(poses))
    labels = [_labels(points, film) for points in (figure.body, figure.hands, figure.face)]
    body, hands, face = labels
    view = (*film.origin, film.unit)
    return Clip(frames=frames, mask=mask, background=scene, body=body, hands=hands, face=face, view=view)


def render_still(
    character: Character, place: Place, light: Light, size: tuple[int, int] = (128, 128), pose_seed: int = 0
) -> Clip:
    """One frame (T = 1) of the character standing, nearly facing us, arms slightly away from the body."""
    return render(character, Poses.reference(pose_seed), place, light, size)


def _check(poses: Poses, size: tuple[int, int], background: Picture | None) -> None:
    if min(size) < 16:
        raise ValueError(f"a picture must be at least 16 x 16 pixels, not {size[0]} x {size[1]}")
    if len(poses) == 0:
        raise ValueError("a performance must have at least one frame, not 0")
    if background is not None and (background.shape != (size[1], size[0], 3) or background.dtype != np.uint8):
        raise ValueError(
            f"a background must be uint8 [{size[1]}, {size[0]}, 3], not {background.dtype} {list(background.shape)}"
        )


def _film(size: tuple[int, int], camera: Camera) -> _Film:
    width, height = size
    unit = STANDING * min(height, 1.5 * width) * camera.scale
    origin = (camera.center[0] * width, camera.center[1] * height + 0.5 * unit)
    return _Film(width=width, height=height, unit=unit, origin=origin, fine=3 if min(size) <= 192 else 2)


def _labels(points: Array, film: _Film) -> NDArray[np.float32]:
    """World -> pixels; points outside of the picture are not visible."""
    x = points[..., 0] * film.unit + film.origin[0]
    y = film.origin[1] - points[..., 1] * film.unit
    inside = (x >= 0) & (x < film.width) & (y >= 0) & (y < film.height)
    return np.stack([x, y, points[..., 2] * inside], -1).astype(np.float32)


def _paint(figure: Figure, scene: Picture, light: Light, film: _Film, count: int) -> tuple[Picture, Picture]:
    frames = np.repeat(scene[None], count, 0)
    mask = np.zeros((count, film.height, film.width), np.uint8)
    boxes = _boxes(figure, film)
    layers = [_Layer(group.shapes, film) for group in figure.groups]
    order = np.argsort(np.stack([group.depth for group in figure.groups], 1), axis=1, kind="stable")
    paint = np.zeros((film.height * film.fine, film.width * film.fine, 4), np.uint8)
    shade = np.zeros((film.height, film.width), np.uint8)
    ramp = np.array(light.ambient, np.float32), np.array(light.colour, np.float32)
    for t in range(count):
        x0, y0, x1, y1 = boxes[t]
        fine = film.fine
        canvas = paint[y0 * fine : y1 * fine, x0 * fine : x1 * fine]
        canvas[:] = 0
        shade[y0:y1, x0:x1] = 140
        for index in order[t]:
            layers[index].draw(paint, shade, t)
        if x1 <= x0 or y1 <= y0:
            continue
        figure_rgba = np.asarray(cv2.resize(canvas, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA), np.uint8)
        mask[t, y0:y1, x0:x1] = figure_rgba[..., 3]
        _cast(frames[t], mask[t], light, film)
        _compose(frames[t, y0:y1, x0:x1], figure_rgba, shade[y0:y1, x0:x1], ramp, film)
    return frames, mask


def _compose(
    target: Picture,
    figure: Picture,
    shade: Picture,
    ramp: tuple[NDArray[np.float32], NDArray[np.float32]],
    film: _Film,
) -> None:
    """Put the lit figure (its colours already weighted by coverage) over the target, in place."""
    soft = max(1, round(film.unit * 0.012)) * 2 + 1
    lit = cv2.blur(shade, (soft, soft)).astype(np.float32)[..., None] * np.float32(1 / 255)
    dark, bright = ramp
    colour = figure[..., :3] * (dark + (bright - dark) * lit)
    clear = (255 - figure[..., 3:]).astype(np.float32) * np.float32(1 / 255)
    np.copyto(target, np.clip(target * clear + colour + 0.5, 0, 255).astype(np.uint8))


def _cast(target: Picture, mask: Picture, light: Light, film: _Film) -> None:
    """Darken the target, in place, where the silhouette's soft shadow lies on the floor."""
    if light.shadow <= 0:
        return
    lean = -0.35 * np.cos(light.angle)
    fall = 0.13 + 0.04 * light.behind
    ground = film.origin[1] + 0.012 * film.unit
    matrix = np.array([[1, -lean, lean * ground], [0, fall, ground * (1 - fall)]])
    shadow = cv2.warpAffine(mask, matrix, (film.width, film.height), flags=cv2.INTER_LINEAR)
    top = max(0, int(ground - 0.3 * film.unit))
    low = min(film.height, int(ground + 0.2 * film.unit) + 1)
    if low <= top:
        return
    soft = 2 * max(1, round(film.unit * 0.022)) + 1
    keep = cv2.blur(shadow[top:low], (soft, soft)).astype(np.float32) * np.float32(-light.shadow / 255) + 1
    target[top:low] = (target[top:low] * keep[..., None]).astype(np.uint8)


def _boxes(figure: Figure, film: _Film) -> NDArray[np.int64]:
    """The pixels [T, 4] (x0, y0, x1, y1) that the figure can touch."""
    shapes = [shape for group in figure.groups for shape in group.shapes]
    low = np.min([s.points.min((1, 2)) for s in shapes], 0) * film.unit
    high = np.max([s.points.max((1, 2)) for s in shapes], 0) * film.unit
    x, y = film.origin
    box = np.stack([x + low[:, 0] - 2, y - high[:, 1] - 2, x + high[:, 0] + 3, y - low[:, 1] + 3], -1)
    return np.clip(box, 0, [film.width, film.height] * 2).astype(np.int64)


class _Layer:
    """One group's polygons, ready for OpenCV: fixed point, per frame."""

    def __init__(self, shapes: Sequence[Shape], film: _Film) -> None:
        self.strokes = [
            (
                None
                if s.colour is None
                else (_fixed(s.points, film, film.fine), (*(255 * c for c in s.colour), 255.0)),
                None if s.shade is None else (_fixed(s.points, film, 1), 255.0 * s.shade),
                s.visible,
            )
            for s in shapes
        ]

    def draw(self, paint: Picture, shade: Picture, t: int) -> None:
        for colour, light, visible in self.strokes:
            if visible is not None and not visible[t]:
                continue
            if colour is not None:
                cv2.fillPoly(paint, colour[0][t], colour[1], cv2.LINE_AA, SHIFT)
            if light is not None:
                cv2.fillPoly(shade, light[0][t], light[1], cv2.LINE_AA, SHIFT)


def _fixed(points: Array, film: _Film, fine: int) -> list[list[NDArray[np.int32]]]:
    """World polygons [T, N, K, 2] -> fixed-point corners on a canvas `fine` times as fine as the picture."""
    scale = np.array([film.unit, -film.unit])
    corners = ((points * scale + film.origin) * fine - 0.5) * (1 << SHIFT)
    return [list(frame) for frame in np.rint(corners).astype(np.int32)]
