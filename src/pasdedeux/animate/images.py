"""Still pictures in and out: any file a person may have becomes upright 8-bit RGB, or one clear sentence.

Also where a character's keypoints and mask travel inside its own PNG, so that it needs no detector.
"""

import base64
import binascii
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from pasdedeux.animate.inputs import CharacterImage, InputError, Keypoints, Letterbox
from pasdedeux.animate.outputs import written_whole

KEYPOINTS_KEY, MASK_KEY, SEED_KEY = "pasdedeux.keypoints", "pasdedeux.mask", "pasdedeux.seed"
MID_GREY = 128
SMALLEST_SIDE, MOST_PIXELS = 16, 80_000_000
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
VIDEO_STARTS = (b"\x1a\x45\xdf\xa3", b"\x00\x00\x01\xba", b"FLV\x01")
STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedImage:
    """image uint8 [H, W, 3]; notes: sentences on what was changed; alpha uint8 [H, W] if it had one; PNG
    texts.
    """

    image: np.ndarray
    notes: tuple[str, ...]
    alpha: np.ndarray | None
    metadata: dict[str, str]


def load_image(path: Path) -> LoadedImage:
    """The picture in a file, upright (EXIF rotation applied), transparency laid on mid grey, as 8-bit RGB.

    Raises InputError where the file is missing, empty, damaged, no picture, a video, or too small or large.
    """
    _check_file(path)
    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as file,
        ):
            _check_extent(path, file.size)
            file.load()
            notes = ("it has several frames; the first is used",) if getattr(file, "n_frames", 1) > 1 else ()
            metadata = {key: str(text) for key, text in getattr(file, "text", {}).items()}
            upright = ImageOps.exif_transpose(file)
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large: at most {MOST_PIXELS // 10**6} million pixels can be used.") from error
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture that can be read; PNG, JPEG and WebP can.") from error
    except UNREADABLE as error:
        raise InputError(f"{path} is damaged or cut off ({error}); make the picture again.") from error
    image, alpha, changes = _as_rgb(upright)
    return LoadedImage(image=image, notes=notes + changes, alpha=alpha, metadata=metadata)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    if not path.is_file():
        raise InputError(f"{path} is a folder; a picture is needed.")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not start:
        raise InputError(f"{path} is empty (0 bytes); a picture is needed.")
    movie = start[4:8] in (b"ftyp", b"moov", b"mdat") and start[8:12] not in STILL_BRANDS
    if movie or start.startswith(VIDEO_STARTS) or start[8:11] == b"AVI":
        raise InputError(f"{path} is a video; a still picture is needed.")


def _check_extent(path: Path, size: tuple[int, int]) -> None:
    if min(size) < SMALLEST_SIDE:
        raise InputError(f"{path} is {size[0]}x{size[1]} pixels; at least {SMALLEST_SIDE} a side are needed.")
    if size[0] * size[1] > MOST_PIXELS:
        raise InputError(f"{path} is {size[0]}x{size[1]} pixels; at most {MOST_PIXELS // 10**6} million can be used.")


def _as_rgb(picture: Image.Image) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """(image uint8 [H, W, 3], alpha uint8 [H, W] or None, what was changed)."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return _from_deep(np.asarray(picture, np.float64)), None, ("its 16-bit values were scaled to 8 bits",)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layers = np.asarray(picture.convert("RGBA"))
        alpha = layers[..., 3]
        if alpha.min() < 255:
            return (
                _on_grey(layers[..., :3], alpha),
                alpha.copy(),
                ("its transparent parts were laid on mid grey",),
            )
    changes = ("its CMYK colours were converted to RGB",) if picture.mode == "CMYK" else ()
    return np.array(picture.convert("RGB")), None, changes


def _from_deep(values: np.ndarray) -> np.ndarray:
    top = 65535 if values.max() > 255 else 255
    grey = np.rint(np.clip(values / top, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _on_grey(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None].astype(np.float32) / 255
    return np.rint(color * share + MID_GREY * (1 - share)).astype(np.uint8)


def save_png(path: Path, image: np.ndarray, metadata: dict[str, str]) -> None:
    """image uint8 [H, W, 3] (or [H, W]) to a PNG with these texts in it, whole or not at all. Raises
    InputError.
    """
    info = PngInfo()
    for key, text in metadata.items():
        info.add_itxt(key, text, zip=True)
    with written_whole(path) as part:
        Image.fromarray(image).save(part, format="PNG", pnginfo=info)


def character_metadata(character: CharacterImage, seed: int | None = None) -> dict[str, str]:
    """What `save_png` needs so that `embedded_character` finds keypoints and mask again (and the seed is
    known).
    """
    buffer = io.BytesIO()
    Image.fromarray(character.mask).save(buffer, format="PNG")
    mask = base64.b64encode(buffer.getvalue()).decode("ascii")
    texts = {KEYPOINTS_KEY: character.keypoints.to_json(), MASK_KEY: mask}
    return texts if seed is None else {**texts, SEED_KEY: str(seed)}


def embedded_character(loaded: LoadedImage) -> CharacterImage | None:
    """The character whose keypoints and mask are in its PNG; None where they are not. Raises InputError."""
    if KEYPOINTS_KEY not in loaded.metadata or MASK_KEY not in loaded.metadata:
        return None
    try:
        data = base64.b64decode(loaded.metadata[MASK_KEY], validate=True)
        with Image.open(io.BytesIO(data)) as file:
            mask = np.array(file.convert("L"))
    except (binascii.Error, *UNREADABLE) as error:
        raise InputError(f"The mask stored in this picture cannot be read ({error}).") from error
    keypoints = Keypoints.from_json(loaded.metadata[KEYPOINTS_KEY])
    return CharacterImage(image=loaded.image, mask=mask, keypoints=keypoints)


def letterbox_of(source: tuple[int, int], size: tuple[int, int]) -> Letterbox:
    """Where a picture of (width, height) `source` lies in one of `size`: as large as fits, in the middle."""
    scale = min(size[0] / source[0], size[1] / source[1])
    inner = [max(round(side * scale), 1) for side in source]
    return Letterbox(
        source=source, size=size, scale=scale, left=(size[0] - inner[0]) // 2, top=(size[1] - inner[1]) // 2
    )


def letterbox(
    image: np.ndarray, size: tuple[int, int], fill: int | tuple[int, int, int] = 0
) -> tuple[np.ndarray, Letterbox]:
    """image [H, W, 3] or [H, W] as large as fits into `size` (width, height), in the middle, on `fill`; and
    where.
    """
    place = letterbox_of((image.shape[1], image.shape[0]), size)
    inner = (max(round(image.shape[1] * place.scale), 1), max(round(image.shape[0] * place.scale), 1))
    method = cv2.INTER_AREA if place.scale < 1 else cv2.INTER_CUBIC
    canvas = np.full((size[1], size[0], *image.shape[2:]), fill, np.uint8)
    placed = cv2.resize(image, inner, interpolation=method)
    canvas[place.top : place.top + inner[1], place.left : place.left + inner[0]] = placed
    return canvas, place


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """image [H, W, 3] at `size` (width, height), its shape squeezed."""
    smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC).astype(np.uint8)


def covering(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """image [H, W, 3] as small as covers `size` (width, height), and of that the middle."""
    height, width = image.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    large = resized(image, (max(round(width * scale), size[0]), max(round(height * scale), size[1])))
    top, left = (large.shape[0] - size[1]) // 2, (large.shape[1] - size[0]) // 2
    return np.ascontiguousarray(large[top : top + size[1], left : left + size[0]])


def fit_points(keypoints: Keypoints, fit: Letterbox) -> Keypoints:
    """The keypoints of the picture that was letterboxed, in the picture it was put into."""
    return keypoints.moved((fit.scale, fit.scale), (fit.left, fit.top), fit.size)
