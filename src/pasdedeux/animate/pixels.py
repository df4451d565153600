"""A decoded frame to upright 8-bit RGB: its colours by its own tags, HDR to BT.709, square pixels."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.opening import MOST_SIDE, check_side

Bytes: TypeAlias = NDArray[np.uint8]
Frames: TypeAlias = Iterator[av.VideoFrame]

LOOKED_AT = 5  # first frames that tell what the others are like
# Without these flags the scaler is off by one level in brightness.
ACCURATE = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
UNTAGGED = 2  # a colour space, transfer or primaries the file does not name
HD_HEIGHT = 720  # untagged pictures of this height or more are BT.709 by custom, lower ones BT.601
MID_GREY = 128
HDR_NAMES: dict[int, str] = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
# Linear light of wide primaries in those of BT.709, all with the white of D65.
TO_BT709: dict[int, tuple[tuple[float, float, float], ...]] = {
    ColorPrimaries.BT2020: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    ColorPrimaries.SMPTE432: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0196, -0.0786, 1.0979)),
}
LUMA_2020 = np.array([[0.2627, 0.6780, 0.0593]], np.float32)
WHITE_NITS, PEAK_NITS = 203.0, 1000.0  # BT.2408's reference white, and the peak that highlights are fitted into
KNEE = 0.75  # of white: what is darker keeps its brightness
DISPLAY_GAMMA = 2.4
BAND = 64  # rows at once, so that 4K pictures need no more memory than others


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """What a file's first frames are like: size is upright, with square pixels."""

    size: tuple[int, int]
    rotation: int
    orientation: tuple[bool, int, int]
    interlaced: bool
    notes: tuple[str, ...]


def looks_of(path: Path, stream: av.VideoStream, frames: Frames) -> Looks:
    first = next(frames, None)
    if first is None:
        raise InputError(f"{path} holds no picture that can be decoded; the file is damaged or encrypted.")
    check_side(path, (first.width, first.height))
    interlaced = any(frame.interlaced_frame for frame in chain((first,), islice(frames, LOOKED_AT - 1)))
    square = _square(first, stream)
    orientation = _orientation(first)
    notes = [*_colour_notes(first)]
    if interlaced:
        notes.append("its pictures are interlaced, so that their half-pictures were joined")
    if square != (first.width, first.height):
        notes.append(f"its pixels are not square, so that its pictures were stretched to {square[0]}x{square[1]}")
    return Looks(
        size=_swapped(square) if orientation[0] else square,
        rotation=first.rotation,
        orientation=orientation,
        interlaced=interlaced,
        notes=tuple(notes),
    )


def _colour_notes(frame: av.VideoFrame) -> Iterator[str]:
    bits = max(part.bits for part in frame.format.components)
    if frame.color_trc in HDR_NAMES:
        yield f"its HDR pictures ({HDR_NAMES[frame.color_trc]}) were tone-mapped to BT.709"
    elif frame.color_primaries in TO_BT709:
        yield "its wide colours were brought to BT.709"
    elif bits > 8:
        yield f"its {bits}-bit pictures were brought to 8 bits"
    if _is_clear(frame) and frame.reformat(format="rgba").to_ndarray()[..., 3].min() < 255:
        yield "its transparent parts were laid on mid grey"


def _square(frame: av.VideoFrame, stream: av.VideoStream) -> tuple[int, int]:
    """(width, height) with square pixels: the side that is too short grows, so that nothing is lost."""
    aspect = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1) or 1.0
    width, height = frame.width, frame.height
    size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    return size if max(size) <= MOST_SIDE and abs(aspect - 1) > 0.01 else (width, height)


def _orientation(frame: av.VideoFrame) -> tuple[bool, int, int]:
    """(rows and columns change places, then step down the rows, then along the columns) that make it upright."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, 1, 1
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.int64)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, -1 if d < 0 else 1, -1 if a < 0 else 1
    return True, -1 if b < 0 else 1, -1 if c < 0 else 1


def _swapped(size: tuple[int, int]) -> tuple[int, int]:
    return size[1], size[0]


def _is_clear(frame: av.VideoFrame) -> bool:
    return any(part.is_alpha for part in frame.format.components)


class Converter:
    """Frames to uint8 [H, W, 3] of one size: colours by their own tags, brought to BT.709 and 8 bits, transparency on
    mid grey, upright.
    """

    def __init__(self, size: tuple[int, int], looks: Looks) -> None:
        self.size, self.resized = size, False
        self._scaler = VideoReformatter()
        self._source: tuple[int, int] | None = None
        self._rotation, self._orientation = looks.rotation, looks.orientation

    def __call__(self, frame: av.VideoFrame) -> Bytes:
        source = (frame.width, frame.height)
        self.resized |= self._source not in (None, source)
        self._source = source
        if frame.rotation != self._rotation:  # asking a frame for its matrix keeps it alive for long
            self._rotation, self._orientation = frame.rotation, _orientation(frame)
        turned, down, along = self._orientation
        size = _swapped(self.size) if turned else self.size
        picture = self._flat(frame, size)
        picture = picture.swapaxes(0, 1) if turned else picture
        return np.ascontiguousarray(picture[::down, ::along])

    def _flat(self, frame: av.VideoFrame, size: tuple[int, int]) -> Bytes:
        if frame.color_trc in HDR_NAMES or frame.color_primaries in TO_BT709:
            return to_bt709(self._scaled(frame, size, "rgb48le"), frame.color_trc, frame.color_primaries)
        if not _is_clear(frame):
            return self._scaled(frame, size, "rgb24")
        picture = self._scaled(frame, size, "rgba")
        share = picture[..., 3:].astype(np.float32) / 255
        return np.rint(picture[..., :3] * share + MID_GREY * (1 - share)).astype(np.uint8)

    def _scaled(self, frame: av.VideoFrame, size: tuple[int, int], kind: str) -> np.ndarray:
        return self._scaler.reformat(
            frame,
            width=size[0],
            height=size[1],
            format=kind,
            src_colorspace=_colorspace(frame),
            interpolation=ACCURATE,
        ).to_ndarray()


def _colorspace(frame: av.VideoFrame) -> int | None:
    if frame.colorspace != UNTAGGED or frame.format.is_rgb:
        return None
    if frame.color_trc in HDR_NAMES:
        return Colorspace.ITU709 if frame.color_primaries == ColorPrimaries.BT709 else Colorspace.BT2020
    return Colorspace.ITU709 if frame.height >= HD_HEIGHT else Colorspace.ITU601


def to_bt709(deep: NDArray[np.uint16], transfer: int, primaries: int) -> Bytes:
    """deep uint16 [H, W, 3], full range, to uint8 as a BT.709 display shows it. HDR of unknown primaries is BT.2020.

    The scaler could do it, but makes everything from HDR's reference white on plain white. Here brightness is kept up
    to 3/4 of that, and rolled off above, so that 1000 nits are white.
    """
    curve = _light(transfer)
    wide = np.array(TO_BT709.get(primaries, TO_BT709[ColorPrimaries.BT2020]), np.float32)
    matrix = np.eye(3, dtype=np.float32) if primaries == ColorPrimaries.BT709 else wide
    out = np.empty(deep.shape, np.uint8)
    for top in range(0, len(deep), BAND):
        light = curve[deep[top : top + BAND]]
        if transfer == ColorTrc.ARIB_STD_B67:
            light *= cv2.pow(cv2.transform(light, LUMA_2020), 0.2)[..., None] * np.float32(PEAK_NITS / WHITE_NITS)
        light = np.maximum(cv2.transform(light, matrix), 0)
        if transfer in HDR_NAMES:
            light = _rolled_off(light)
        out[top : top + BAND] = np.rint(cv2.pow(np.minimum(light, 1), 1 / DISPLAY_GAMMA) * 255)
    return out


def _rolled_off(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear light, 1 at reference white, into 0..1. All three colours shrink alike, so that hue stays."""
    red, green, blue = light[..., 0], light[..., 1], light[..., 2]
    peak = np.maximum(np.maximum(red, green), np.maximum(blue, 1e-6))[..., None]  # ten times as fast as max(axis=-1)
    over = np.maximum(peak - KNEE, 0) / (1 - KNEE)
    most = (PEAK_NITS / WHITE_NITS - KNEE) / (1 - KNEE)
    fitted = KNEE + (1 - KNEE) * over * (1 + over / most**2) / (1 + over)  # Reinhard's curve, white at `most`
    return light * np.where(peak > KNEE, fitted / peak, 1).astype(np.float32)


def _light(transfer: int) -> NDArray[np.float32]:
    """Linear light of each of 65536 levels: of PQ 1 at reference white, of HLG the scene's, 1 at the top."""
    level = np.arange(65536) / 65535
    if transfer == ColorTrc.SMPTE2084:
        root = level ** (1 / 78.84375)
        nits = 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
        return (nits / WHITE_NITS).astype(np.float32)
    if transfer == ColorTrc.ARIB_STD_B67:
        upper = (np.exp((level - 0.55991073) / 0.17883277) + 0.28466892) / 12
        return np.where(level <= 0.5, level**2 / 3, upper).astype(np.float32)
    return (level**DISPLAY_GAMMA).astype(np.float32)
