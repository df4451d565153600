"""A clip as a model learns from it: at the model's rate by timestamp, in a bucket's size, 1 + 4k frames long.

The rate is never changed by taking every n-th frame, so that nothing moves faster or slower than it did.
"""

import hashlib
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.clips import Fitted, VideoClip
from pasdedeux.animate.images import covering, letterbox_of
from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.video import probe
from pasdedeux.train.lora.dataset import Item

Bytes = NDArray[np.uint8]
Size = tuple[int, int]
SHORTEST = 5
"""Frames of a clip below which it is left out."""
JERKY = 0.75
"""Share of the model's rate below which a clip repeats too many frames to learn movement from."""
RATES_AGREE = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What clips are brought to: rate, most frames, (width, height) as an area, the grid of sizes, frames per latent.

    caption: whether each needs one; whole: whether pictures are fitted in as a whole, with their edge's colours around
    them where the shapes differ, as a performance is that is followed; else their middle is cut out.
    """

    fps: float
    frames: int
    size: Size
    grid: Size
    time: int = 4
    shortest: int = SHORTEST
    caption: bool = True
    whole: bool = False


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Taken:
    """A clip that was read: frames [T, H, W, 3] of a bucket's size."""

    item: Item
    frames: Bytes

    @property
    def size(self) -> Size:
        """(width, height)."""
        return self.frames.shape[2], self.frames.shape[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A clip that cannot be used, and why."""

    item: Item
    why: str

    def __str__(self) -> str:
        return f"{self.item.name}: {self.why}"


def bucket_size(source: Size, wish: Wish) -> Size:
    """The size nearest in shape to the source's, on the grid, of at most the wished area (and one cell at least)."""
    (width, height), (column, row) = source, wish.grid
    area = wish.size[0] * wish.size[1]
    side = sqrt(area * width / height)
    best: tuple[float, Size] | None = None
    for columns in (int(side // column), int(side // column) + 1):
        wide = max(columns, 1) * column
        high = max(min(round(wide * height / width / row), int(area // wide) // row), 1) * row
        if wide * high > area and wide > column:
            continue
        off = abs(np.log(wide / high * height / width)) + abs(np.log(wide * high / area))
        if best is None or off < best[0]:
            best = off, (wide, high)
    return best[1] if best else (column, row)


def bucket_length(frames: int, wish: Wish) -> int:
    """The most frames of the form 1 + time * k that there are and that are wished for."""
    return 1 + (min(frames, wish.frames) - 1) // wish.time * wish.time


def take(item: Item, wish: Wish) -> Taken | Fault:
    """Read a clip, or say what is wrong with it."""
    if wish.caption and not item.caption:
        return Fault(item=item, why=f"it has no caption; write one into {item.video.with_suffix('.txt').name}")
    try:
        why = _rate_fault(item, wish)
        return Fault(item=item, why=why) if why else _read(item, wish)
    except InputError as error:
        return Fault(item=item, why=str(error))
    except OSError as error:
        return Fault(item=item, why=error.strerror or str(error))


def _rate_fault(item: Item, wish: Wish) -> str | None:
    if item.video.is_dir():
        return None
    own = probe(item.video).fps
    if item.fps is not None and abs(own - item.fps) > RATES_AGREE * item.fps:
        return f"the list says {item.fps:g} frames a second, but the file has {own:g}"
    if own < JERKY * wish.fps:
        return f"it has {own:g} frames a second, and the model {wish.fps:g}: too many would be shown twice"
    return None


def _read(item: Item, wish: Wish) -> Taken | Fault:
    with VideoClip(item.video, fps=wish.fps, start=item.start, end=item.end, most=wish.frames) as clip:
        if len(clip) < wish.shortest:
            return Fault(
                item=item, why=f"it has {len(clip)} frames at {wish.fps:g} a second; {wish.shortest} are needed"
            )
        length, size = bucket_length(len(clip), wish), bucket_size(clip.size, wish)
        fitted = Fitted(clip, letterbox_of(clip.size, size), edges=True)
        each = (fitted[[i]][0] if wish.whole else covering(clip[[i]][0], size) for i in range(length))
        frames = np.stack(list(each))
        broken = [note for note in clip.notes if "could not be" in note]
    return Fault(item=item, why=broken[0]) if broken else Taken(item=item, frames=frames)


def content(path: Path) -> str:
    """What a file holds, or the pictures of a folder, as a digest."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
