"""A driver that has been looked through: what was found in it, and the folder in which that is kept.

A folder holds `prepared.json` (what was asked, found and said), `keypoints.npz` and `keypoints.json` (points in the
driver's own pixels), `mask.mp4` (the person, lossless), `overlay.png` to judge it by, and of several people
`people.png`. Frames stay in the driver's own file.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.clips import Fitted, VideoClip
from pasdedeux.animate.images import fit_points, letterbox_of
from pasdedeux.animate.inputs import Clip, InputError, Keypoints, Performance
from pasdedeux.animate.lossless import LosslessClip
from pasdedeux.animate.outputs import written_whole
from pasdedeux.animate.preprocess.wholebody import load_keypoints

RECORD, POINTS, MASK, OVERLAY, PEOPLE = "prepared.json", "keypoints.npz", "mask.mp4", "overlay.png", "people.png"
ROUNDING = 1e-3  # frames
PATHS = ("driver", "models", "beside", "keypoints", "mask")
VERSION = 1
"""Of what is found and how it is kept; another version is looked for anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What of a driver is wanted, and by which means it is to be found.

    fps: the rate of the frames, None for the file's own; start, end in seconds; most: the most frames. person: a number
    of `people.png`; near: (x, y) in shares of the picture. finder, pose, masker: names of backends, "auto" for the best
    that is here; models, beside: the folder of their files, and that of a Wan model, which may bring some. keypoints,
    mask: files that say it already.
    """

    driver: Path
    fps: float | None = None
    start: float = 0.0
    end: float | None = None
    most: int | None = None
    person: int | None = None
    near: tuple[float, float] | None = None
    finder: str = "auto"
    pose: str = "auto"
    masker: str = "auto"
    models: Path | None = None
    beside: Path | None = None
    keypoints: Path | None = None
    mask: Path | None = None

    def __post_init__(self) -> None:
        if not self.start >= 0:
            raise InputError(f"The start is {self.start:g} seconds; it must be 0 or more.")
        if self.end is not None and not self.end > self.start:
            raise InputError(f"The end is {self.end:g} seconds; it must come after the start, {self.start:g}.")
        if self.person is not None and self.person < 1:
            raise InputError(f"The person is number {self.person}; they are counted from 1.")
        if self.person is not None and self.near is not None:
            raise InputError("A person is chosen by number or by place, not by both.")
        if self.near is not None and not all(0 <= share <= 1 for share in self.near):
            raise InputError(f"The place of a person is {self.near}; x and y are shares of the picture, 0 to 1.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreparedDriver:
    """What was found in a driver, in its own pixels; `record` is what stands in prepared.json beside it.

    mask is smaller than the frames where those are large. warnings are about results, notes about the input.
    """

    source: VideoClip
    keypoints: Keypoints
    mask: LosslessClip
    fps: float
    audio: Path | None
    audio_start: float
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    folder: Path
    record: dict[str, Any]

    def __len__(self) -> int:
        return len(self.keypoints)

    def close(self) -> None:
        """Let go of its files."""
        self.source.close()
        self.mask.close()

    @property
    def overlay(self) -> Path:
        """The picture to judge it by."""
        return self.folder / OVERLAY

    def performance(
        self, size: tuple[int, int] | None = None, *, fps: float | None = None, most: int | None = None
    ) -> Performance:
        """The performance in a picture of `size` (width, height): the driver's own without, else letterboxed.

        fps: another rate than it was prepared at, by the last frame at or before each time; most: the most frames.
        """
        own, rate = self.keypoints.size, fps or self.fps
        index = _sampled(len(self), self.fps, rate)[:most]
        placed = letterbox_of(own, size or own)
        outline = letterbox_of(self.mask.size, size or own)
        source = Picked(self.source, index)
        return Performance(
            keypoints=fit_points(self.keypoints[index], placed),
            fps=rate,
            frames=Fitted(source, placed),
            mask=Fitted(Picked(self.mask, index), outline),
            source=source,
            placed=placed,
            audio=self.audio,
            audio_start=self.audio_start,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """Some pictures of a clip, by their numbers."""

    clip: Clip
    numbers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: list[int], /) -> NDArray[np.uint8]:
        return self.clip[[int(self.numbers[i]) for i in index]]


def _sampled(count: int, own: float, fps: float) -> NDArray[np.int64]:
    """The numbers of the frames, of `count` at a rate of `own`, that are shown at `fps`."""
    shown = max(int(np.ceil(count * fps / own - ROUNDING)), 1)
    return np.minimum((np.arange(shown) * own / fps + ROUNDING).astype(np.int64), count - 1)


def write_record(folder: Path, wanted: Wanted, found: dict[str, Any]) -> None:
    """prepared.json, last of all: a folder without it is not whole."""
    asked = {
        name: str(value.absolute()) if isinstance(value, Path) else value for name, value in asdict(wanted).items()
    }
    _save_record(folder, {"version": VERSION, "asked": asked, **found})


def copy_record(found: PreparedDriver, folder: Path) -> None:
    """prepared.json for another folder. The driver may lie elsewhere than when it was looked through."""
    asked = {**found.record["asked"], "driver": str(found.source.path.absolute())}
    _save_record(folder, {**found.record, "asked": asked})


def _save_record(folder: Path, record: dict[str, Any]) -> None:
    with written_whole(folder / RECORD) as part:
        part.write_text(json.dumps(record, indent=1), encoding="utf-8")


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a prepared driver."""
    return (folder / RECORD).is_file()


def read_record(folder: Path) -> dict[str, Any]:
    """What stands in prepared.json. Raises InputError where it is not ours or of another version."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        version = record["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / RECORD} cannot be read; prepare the driver again.") from error
    if version != VERSION:
        raise InputError(f"{folder} was prepared by another version of this program; prepare the driver again.")
    return record


def load_prepared(folder: Path, driver: Path | None = None) -> PreparedDriver:
    """A folder as written by `preparing.prepare`; driver: where its file is now, if it was moved. Raises InputError."""
    record = read_record(folder)
    try:
        asked = record["asked"]
        wanted = replace(_wanted(asked), driver=driver or Path(asked["driver"]))
        source = VideoClip(wanted.driver, fps=record["fps"], start=wanted.start, end=wanted.end, most=record["frames"])
        keypoints, _ = load_keypoints(folder / POINTS)
        if len(source) != len(keypoints) or source.size != keypoints.size:
            raise InputError(f"{wanted.driver} has changed since {folder} was prepared; prepare it anew.")
        mask = LosslessClip(folder / MASK)
        if len(mask) != len(keypoints):
            raise InputError(f"{folder / MASK} has {len(mask)} frames, but {POINTS} has {len(keypoints)}.")
        return PreparedDriver(
            source=source,
            keypoints=keypoints,
            mask=mask,
            fps=record["fps"],
            audio=wanted.driver if record["audio"] else None,
            audio_start=wanted.start,
            warnings=tuple(record["warnings"]),
            notes=tuple(record["notes"]),
            folder=folder,
            record=record,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / RECORD} does not describe a prepared driver ({error!r}).") from error


def _wanted(asked: dict[str, Any]) -> Wanted:
    paths = {name: Path(asked[name]) for name in PATHS if asked[name] is not None}
    near = None if asked["near"] is None else tuple(asked["near"])
    return Wanted(**{**asked, **paths, "near": near})
