"""Clips: pictures by the number of their frame, however long the video, made or read when they are asked for."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.images import letterbox, load_image
from pasdedeux.animate.inputs import Clip, InputError, Letterbox
from pasdedeux.animate.opening import MOST_SIDE
from pasdedeux.animate.reel import TOLERANCE, Reel

__all__ = ["Clip", "Drawn", "Fitted", "Joined", "VideoClip"]

Bytes: TypeAlias = NDArray[np.uint8]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
PICTURE_RATE = 25.0  # pictures a second of a sequence, where none is asked for
NUMBERED = re.compile(r"%0?(\d*)d")


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A clip of `count` pictures, each drawn when it is asked for."""

    count: int
    draw: Callable[[int], Bytes]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: list[int], /) -> Bytes:
        return np.stack([self.draw(i) for i in index])


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Clips one after another as one."""

    clips: Sequence[Clip]

    def __len__(self) -> int:
        return sum(map(len, self.clips))

    def __getitem__(self, index: list[int], /) -> Bytes:
        return np.stack([self._picture(i) for i in index])

    def _picture(self, i: int) -> Bytes:
        for clip in self.clips:
            if i < len(clip):
                return clip[[i]][0]
            i -= len(clip)
        raise IndexError(f"There are {len(self)} pictures.")


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A clip letterboxed as `placed` says, colour [H, W, 3] or masks [H, W], which stay 0 or 255.

    The margins are black, or with `edges` continue the picture's outermost pixels. Raises ValueError where the clip's
    pictures are not of the size that is placed.
    """

    clip: Clip
    placed: Letterbox
    edges: bool = False

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, index: list[int], /) -> Bytes:
        return np.stack([self._fit(self.clip[[i]][0]) for i in index])

    def _fit(self, picture: Bytes) -> Bytes:
        canvas, placed = letterbox(picture, self.placed.size)
        if placed != self.placed:
            raise ValueError(f"Pictures of {placed.source} were to be placed as those of {self.placed.source}.")
        if self.edges:
            _spread_edges(canvas, placed)
        return canvas if picture.ndim == 3 else np.where(canvas > 127, np.uint8(255), np.uint8(0))


def _spread_edges(canvas: Bytes, placed: Letterbox) -> None:
    """Fills the margins of a letterboxed picture with the colours at its edges."""
    width, height = (max(round(side * placed.scale), 1) for side in placed.source)
    right, bottom = placed.left + width, placed.top + height
    canvas[:, : placed.left] = canvas[:, placed.left : placed.left + 1]
    canvas[:, right:] = canvas[:, right - 1 : right]
    canvas[: placed.top] = canvas[placed.top : placed.top + 1]
    canvas[bottom:] = canvas[bottom - 1 : bottom]


class _Source(Protocol):
    """What a VideoClip is cut from: a file's `Reel`, or a sequence of pictures."""

    fps: float
    end: float
    size: tuple[int, int]
    has_audio: bool

    @property
    def notes(self) -> tuple[str, ...]: ...

    def sampled(self, fps: float, start: float, end: float) -> NDArray[np.int64]: ...

    def picture(self, number: int) -> Bytes: ...

    def close(self) -> None: ...


class VideoClip:
    """A video, a GIF, a folder of pictures or a pattern such as frames/%05d.png as uint8 [H, W, 3], RGB and upright.

    Frame k is the last picture at or before start + k / fps; fps None is the file's own rate, start and end are
    seconds, and no more than `most` frames are taken. In ascending order each picture is decoded once; going back
    gives the same pixels. A picture or two are in memory, however long the clip. size: (width, height); notes: what
    was changed, and what could not be read so far; it has sound of its own if has_audio. Raises InputError where there
    is nothing to read.
    """

    def __init__(
        self,
        path: Path,
        *,
        fps: float | None = None,
        start: float = 0.0,
        end: float | None = None,
        most: int | None = None,
    ) -> None:
        _check_range(fps, start, end, most)
        self.path, self.start = path, start
        self._source = _opened(path, fps)
        try:
            self.fps = self._source.fps if fps is None else fps
            stop = self._source.end if end is None else end
            self._numbers = self._source.sampled(self.fps, start, stop)[:most]
            if not len(self._numbers):
                raise InputError(
                    f"{path} holds no frame at {start:g} seconds or later; it lasts {self._source.end:.2f}."
                )
        except InputError:
            self.close()
            raise
        self.size, self.has_audio = self._source.size, self._source.has_audio

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Sequence[int], /) -> Bytes:
        return np.stack([self._source.picture(int(self._numbers[i])) for i in index])

    def each(self, indices: Sequence[int] | None = None) -> Iterator[Bytes]:
        """The pictures one at a time, all of them or those of these frames."""
        for i in range(len(self)) if indices is None else indices:
            yield self._source.picture(int(self._numbers[i])).copy()

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self) / self.fps

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed about the pictures, and what could not be read so far."""
        return self._source.notes

    def close(self) -> None:
        """Lets go of the file."""
        self._source.close()


def _check_range(fps: float | None, start: float, end: float | None, most: int | None) -> None:
    if fps is not None and not 0 < fps < 1000:
        raise InputError(f"Frames per second is {fps}; it must lie between 0 and 1000.")
    if start < 0:
        raise InputError(f"A video cannot be read from {start:g} seconds on; 0 is the earliest.")
    if end is not None and end <= start:
        raise InputError(
            f"A video cannot be read from {start:g} to {end:g} seconds; the end must lie behind the start."
        )
    if most is not None and most < 1:
        raise InputError(f"At least one frame is needed, but {most} are asked for.")


def _opened(path: Path, fps: float | None) -> _Source:
    if path.is_dir():
        return _Sequence(path, _in_folder(path), fps)
    if NUMBERED.search(path.name) and not path.exists():
        return _Sequence(path, _by_pattern(path), fps)
    return Reel(path)


class _Sequence:
    """Pictures in files, each shown for a frame, letterboxed to the size of the first that can be read.

    One that cannot be read is the one before it.
    """

    has_audio = False

    def __init__(self, path: Path, files: list[Path], fps: float | None) -> None:
        if not files:
            raise InputError(
                f"{path} holds no pictures ({', '.join(PICTURES)}); a video or numbered pictures are needed."
            )
        if len(files) == 1:
            raise InputError(f"{path} holds a single still picture; a video is needed.")
        self.files, self.fps = files, PICTURE_RATE if fps is None else fps
        self.end = len(files) / self.fps
        self._broken: dict[int, str] = {}
        self._resized: set[int] = set()
        self._shown: tuple[int, Bytes] | None = None
        self.size: tuple[int, int] = (0, 0)
        first = self.picture(0)
        self.size = (first.shape[1], first.shape[0])
        self._first_notes = load_image(files[self._shown[0] if self._shown else 0]).notes

    @property
    def notes(self) -> tuple[str, ...]:
        broken = f"{len(self._broken)} of its pictures could not be read and repeat the one before"
        resized = f"{len(self._resized)} of its pictures are of other sizes and were brought to that of the first"
        missing = gaps(self.files)
        return (
            f"its {len(self.files)} pictures were taken as {self.fps:g} frames a second",
            *self._first_notes,
            *((f"its numbers have gaps: {missing} are missing",) if missing else ()),
            *((f"{broken} ({next(iter(self._broken.values()))})",) if self._broken else ()),
            *((resized,) if self._resized else ()),
        )

    def sampled(self, fps: float, start: float, end: float) -> NDArray[np.int64]:
        count = max(int(np.ceil((min(end, self.end) - start - TOLERANCE) * fps)), 0)
        wanted = (start + np.arange(count) / fps + TOLERANCE) * self.fps
        return np.minimum(wanted.astype(np.int64), len(self.files) - 1)

    def picture(self, number: int) -> Bytes:
        for candidate in chain(range(number, -1, -1), range(number + 1, len(self.files))):
            if self._shown is not None and self._shown[0] == candidate:
                return self._shown[1]
            picture = self._read(candidate)
            if picture is not None:
                self._shown = candidate, picture
                return picture
        raise InputError(f"None of the {len(self.files)} pictures can be read: {next(iter(self._broken.values()))}")

    def _read(self, number: int) -> Bytes | None:
        if number in self._broken:
            return None
        try:
            picture = load_image(self.files[number]).image
        except InputError as error:
            self._broken[number] = str(error)
            return None
        height, width = picture.shape[:2]
        if max(height, width) > MOST_SIDE:
            raise InputError(
                f"{self.files[number]} is {width}x{height} pixels; at most {MOST_SIDE} a side can be used."
            )
        if self.size in ((0, 0), (width, height)):
            return picture
        self._resized.add(number)
        return letterbox(picture, self.size)[0]

    def close(self) -> None:
        self._shown = None


def gaps(files: Sequence[Path]) -> int:
    """How many numbers are missing among files whose names differ by their last number alone; 0 where they do not."""
    parts = [_parts(file.name.removesuffix(file.suffix)) for file in files]
    places = [max((i for i, part in enumerate(own) if part.isdigit()), default=-1) for own in parts]
    stems = {tuple(part for i, part in enumerate(own) if i != place) for own, place in zip(parts, places, strict=True)}
    if len(stems) != 1 or -1 in places:
        return 0
    numbers = {int(own[place]) for own, place in zip(parts, places, strict=True)}
    return max(numbers) - min(numbers) + 1 - len(numbers)


def _in_folder(folder: Path) -> list[Path]:
    """Its pictures, 2 before 10. Raises InputError for a folder that holds videos: pictures beside them are others'."""
    if any(file.suffix.lower() in VIDEOS for file in folder.iterdir()):
        raise InputError(f"{folder} holds videos; name one of them, or a folder of pictures.")
    files = (file for file in folder.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith("."))
    return sorted(files, key=lambda file: [int(part) if part.isdigit() else part for part in _parts(file.name)])


def _parts(name: str) -> list[str]:
    # Splitting at a group alternates text and digits, so that numbers are compared with numbers.
    return re.split(r"(\d+)", name)


def _by_pattern(path: Path) -> list[Path]:
    """The files that fit a pattern with one %d or %05d, by their number."""
    found = NUMBERED.search(path.name)
    if found is None or not path.parent.is_dir():
        return []
    digits = rf"(\d{{{found[1]},}})" if found[1] else r"(\d+)"
    name = re.compile(re.escape(path.name[: found.start()]) + digits + re.escape(path.name[found.end() :]))
    matches = ((name.fullmatch(file.name), file) for file in path.parent.iterdir())
    return [file for _, file in sorted((int(match[1]), file) for match, file in matches if match)]
