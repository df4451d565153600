"""One picture by which a person can judge what was found in a driver, before hours are spent on it.

From top to bottom: what it is; moments of the clip with skeleton, face box and outline drawn over them; the face as the
model will see it; when body, hands, face and outline are seen; and what there is to say.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pasdedeux.animate.images import letterbox
from pasdedeux.animate.inputs import Keypoints
from pasdedeux.animate.preprocess.detector import Box
from pasdedeux.animate.preprocess.draw import draw_skeleton
from pasdedeux.animate.preprocess.face_crops import ENOUGH, LANDMARKS

Bytes = NDArray[np.uint8]
COLUMNS, ROWS = 4, 2
TILE, GAP, WIDTH = 392, 8, 1600
FACE_SIDE, BAR = 192, 16
SEEN = 0.5
DARKENED = 0.35
"""What is left of the brightness outside the person."""
PAPER, INK, GREY, GREEN, ORANGE = (255, 255, 255), (17, 24, 39), (156, 163, 175), (22, 163, 74), (234, 88, 12)
FACE_BOX, FACE_DOT = (250, 204, 21), (255, 255, 255)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Look:
    """What is to be shown: keypoints of T frames at `fps`, pictures of single frames by their number, and sentences.

    picture(i): uint8 [H, W, 3] of the keypoints' size; mask(i): uint8 [H, W] of any size, or None; face(i): the crop
    [S, S, 3]; box(i): the crop's place, None where no face is shown; warnings are marked, notes are not.
    """

    title: str
    keypoints: Keypoints
    fps: float
    picture: Callable[[int], Bytes]
    face: Callable[[int], Bytes]
    box: Callable[[int], Box | None]
    mask: Callable[[int], Bytes] | None = None
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()


def draw_look(look: Look) -> Bytes:
    """The picture, uint8 [H, 1600, 3]."""
    shown = moments(len(look.keypoints), COLUMNS * ROWS)
    tiles = [_captioned(_tile(look, i), f"{_clock(i / look.fps)}   frame {i + 1}") for i in shown]
    faces = [letterbox(look.face(i), (FACE_SIDE, FACE_SIDE))[0] for i in shown]
    parts = [_heading(look.title), *_grid(tiles, COLUMNS), _row(faces), _timeline(look.keypoints)]
    lines = [(text, ORANGE) for text in look.warnings] + [(text, INK) for text in look.notes]
    parts.append(_lines(lines or [("nothing to remark", GREEN)]))
    return np.concatenate([part for part in parts if part.size])


def moments(frames: int, most: int) -> list[int]:
    """Up to `most` frames, evenly over the clip, each once."""
    return sorted({round((k + 0.5) * frames / most - 0.5) for k in range(most)} & set(range(frames))) or [0]


def numbered(picture: Bytes, people: Sequence[tuple[int, Box]]) -> Bytes:
    """A copy of the picture [H, W, 3] with people's boxes and numbers, as --person takes them."""
    canvas = Image.fromarray(picture)
    draw, height = ImageDraw.Draw(canvas), picture.shape[0]
    line, letters = max(height // 240, 2), max(height // 14, 14)
    for number, (left, top, right, bottom) in people:
        place = (max(left, 0), max(top, 0), min(right, canvas.width - 1), min(bottom, height - 1))
        if place[2] <= place[0] or place[3] <= place[1]:
            continue
        draw.rectangle(place, outline=FACE_BOX, width=line)
        label = draw.textbbox((place[0] + line, place[1] + line), f" {number} ", font=_font(letters))
        draw.rectangle(label, fill=FACE_BOX)
        draw.text((place[0] + line, place[1] + line), f" {number} ", fill=INK, font=_font(letters))
    return np.array(canvas)


def _tile(look: Look, i: int) -> Bytes:
    """A frame with everything drawn on it, as large as fits a tile."""
    width, height = look.keypoints.size
    scale = TILE / max(width, height)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    picture = cv2.resize(look.picture(i), size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    if look.mask is not None:
        picture = _spotlit(picture, look.mask(i))
    points = look.keypoints.frame(i).scaled(size)
    bones = draw_skeleton(points.body[0], points.hands[0], size, width=max(size[1] / 160, 1.5))
    picture = np.where(bones.any(axis=-1, keepdims=True), bones, picture).astype(np.uint8)
    for x, y, sure in points.face[0, :LANDMARKS]:
        if sure >= SEEN:
            cv2.circle(picture, (round(float(x)), round(float(y))), 1, FACE_DOT, -1, cv2.LINE_AA)
    box = look.box(i)
    if box is not None:
        left, top, right, bottom = (round(side * scale) for side in box)
        cv2.rectangle(picture, (left, top), (right, bottom), FACE_BOX, 1)
    return picture


def _spotlit(picture: Bytes, mask: Bytes) -> Bytes:
    """The picture with all that is not the person darkened, and an edge round the person."""
    inside = cv2.resize(mask, (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_LINEAR) > 127
    lit = np.where(inside[..., None], picture, (picture * DARKENED).astype(np.uint8)).astype(np.uint8)
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(lit, outlines, -1, GREEN, 1)
    return lit


def _captioned(tile: Bytes, text: str) -> Bytes:
    return np.concatenate([letterbox(tile, (TILE, tile.shape[0]), PAPER)[0], _text(text, TILE, 15, GREY, height=22)])


def _grid(tiles: list[Bytes], columns: int) -> list[Bytes]:
    return [_row(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]


def _row(tiles: list[Bytes]) -> Bytes:
    """Tiles of one height side by side, in a band of the picture's width."""
    band = np.full((tiles[0].shape[0] + GAP, WIDTH, 3), 255, np.uint8)
    left = GAP // 2
    for tile in tiles:
        band[: tile.shape[0], left : left + tile.shape[1]] = tile
        left += tile.shape[1] + GAP
    return band


def _timeline(keypoints: Keypoints) -> Bytes:
    """A bar for each part, green while it is seen."""
    body, hands, face = keypoints.body[..., 2], keypoints.hands[..., 2], keypoints.face[..., :LANDMARKS, 2]
    rows = {
        "head and shoulders": (body[:, [0, 1, 2, 5]] >= SEEN).sum(axis=1) >= 3,
        "arms": (body[:, [3, 4, 6, 7]] >= SEEN).any(axis=1),
        "left hand": (hands[:, 0] >= SEEN).mean(axis=1) >= 0.5,
        "right hand": (hands[:, 1] >= SEEN).mean(axis=1) >= 0.5,
        "face": (face >= SEEN).sum(axis=1) >= ENOUGH,
        "legs": (body[:, [9, 10, 12, 13]] >= SEEN).any(axis=1),
    }
    return np.concatenate([_bar(name, seen) for name, seen in rows.items()] + [np.full((GAP, WIDTH, 3), 255, np.uint8)])


def _bar(name: str, seen: NDArray[np.bool_]) -> Bytes:
    label = _text(f"{name}: {seen.mean():.0%}", 240, 13, INK, height=BAR + 4)
    colours = np.where(seen[:, None], GREEN, (229, 231, 235)).astype(np.uint8)
    columns = colours[np.minimum(np.arange(WIDTH - 240 - GAP) * len(seen) // (WIDTH - 240 - GAP), len(seen) - 1)]
    bar = np.full((BAR + 4, WIDTH - 240, 3), 255, np.uint8)
    bar[2:-2, :-GAP] = columns[None]
    return np.concatenate([label, bar], axis=1)


def _heading(text: str) -> Bytes:
    return _text(text, WIDTH, 22, INK, height=44)


def _lines(lines: Sequence[tuple[str, tuple[int, int, int]]]) -> Bytes:
    rows = [(part, colour) for text, colour in lines for part in wrap(text, 190) or [""]]
    return np.concatenate([_text(part, WIDTH, 16, colour, height=26) for part, colour in rows])


def _text(text: str, width: int, letters: int, colour: tuple[int, int, int], *, height: int) -> Bytes:
    """A white band with one line of text, vertically in its middle."""
    band = Image.new("RGB", (width, height), PAPER)
    ImageDraw.Draw(band).text((GAP, height / 2), text, fill=colour, font=_font(letters), anchor="lm")
    return np.array(band)


def _font(letters: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(letters)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


def save_picture(path: Path, picture: Bytes) -> None:
    """A PNG at `path`."""
    Image.fromarray(picture).save(path, format="PNG")
