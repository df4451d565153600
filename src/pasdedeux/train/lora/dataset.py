"""Which clips a LoRA learns from, and what is said of them: folders, JSONL, TOML, and the lists of other trainers.

A folder holds videos with a .txt of the same name beside each, or diffusers' metadata.jsonl. JSONL has an object a
line; TOML has [[clips]] with the same keys, or musubi-tuner's [general] and [[datasets]].
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")
METADATA = "metadata.jsonl"
PATHS = ("video", "file_name", "video_path", "file", "media_path", "path")
CAPTIONS = ("caption", "text", "prompt")


class DatasetError(ValueError):
    """A list of clips cannot be used, or a clip of it while all have to be good."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A clip. caption: None where there is none; driver: whose movements it has, where that is another video.

    fps: what somebody says its rate is; keypoints, mask: files that say what would be looked for in it otherwise.
    """

    video: Path
    caption: str | None = None
    repeats: int = 1
    start: float = 0.0
    end: float | None = None
    fps: float | None = None
    driver: Path | None = None
    keypoints: Path | None = None
    mask: Path | None = None

    @property
    def name(self) -> str:
        """What a message calls it."""
        return self.video.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Clips, and what their list asks for beside them: size (width, height), frames, clips a step."""

    items: tuple[Item, ...]
    size: tuple[int, int] | None = None
    frames: int | None = None
    batch: int | None = None
    notes: tuple[str, ...] = field(default=())


def read_dataset(source: Path) -> Dataset:
    """The clips of a folder or a list. Raises DatasetError where there are none, or the list is broken."""
    if source.is_dir():
        listed = source / METADATA
        dataset = Dataset(items=tuple(_lines(listed) if listed.is_file() else _folder(source)))
    elif not source.is_file():
        raise DatasetError(f"There is no folder or list {source}.")
    elif source.suffix.lower() == ".toml":
        dataset = _toml(source)
    elif source.suffix.lower() in (".jsonl", ".json"):
        dataset = Dataset(items=tuple(_lines(source)))
    else:
        raise DatasetError(f"{source} is no list of clips; it must be a folder, or end with .jsonl or .toml.")
    if not dataset.items:
        raise DatasetError(f"{source} names no clips; videos end with {', '.join(VIDEOS)}.")
    return dataset


def _folder(folder: Path, caption: str = ".txt") -> Iterator[Item]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in VIDEOS:
            yield Item(video=path, caption=_beside(path, caption))


def _beside(path: Path, suffix: str) -> str | None:
    words = path.with_suffix(suffix)
    return words.read_text(encoding="utf-8").strip() if words.is_file() else None


def _lines(path: Path) -> Iterator[Item]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"Line {number} of {path} cannot be read as JSON ({error}).") from error
        yield _item(record, path.parent, f"Line {number} of {path}")


def _item(record: object, root: Path, where: str) -> Item:
    """A clip of a list. Raises DatasetError for one without a video, or with values of the wrong kind."""
    if not isinstance(record, Mapping):
        raise DatasetError(f"{where} is {record!r}; it must be an object with a video.")
    video = next((record[key] for key in PATHS if isinstance(record.get(key), str)), None)
    if video is None:
        raise DatasetError(f"{where} names no video; it has {', '.join(map(str, record)) or 'nothing'}.")
    said = next((str(record[key]).strip() for key in CAPTIONS if record.get(key)), None)
    caption = said if said is not None else _beside(root / video, ".txt")
    files = {key: root / str(record[key]) for key in ("driver", "keypoints", "mask") if record.get(key)}
    numbers = {key: _number(record[key], key, where) for key in ("start", "end", "fps") if record.get(key) is not None}
    repeats = record.get("repeats", record.get("num_repeats", 1))
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise DatasetError(f"{where} has repeats of {repeats!r}; they must be a whole number of 1 or more.")
    return Item(video=root / video, caption=caption, repeats=repeats, **files, **numbers)  # type: ignore[arg-type]


def _number(value: object, key: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DatasetError(f"{where} has {key} of {value!r}; it must be a number.")
    return float(value)


def _toml(path: Path) -> Dataset:
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{path} cannot be read as TOML ({error}).") from error
    if "datasets" in record:
        return _musubi(record, path)
    clips = record.get("clips", [])
    items = tuple(_item(clip, path.parent, f"Clip {k} of {path}") for k, clip in enumerate(clips, 1))
    size = record.get("size")
    return Dataset(items=items, size=None if size is None else _size(size, path), frames=record.get("frames"))


def _musubi(record: Mapping[str, Any], path: Path) -> Dataset:
    """musubi-tuner's list: its folders and JSONL files of videos; pictures alone are left, and said."""
    general = record.get("general", {})
    items: list[Item] = []
    notes: list[str] = []
    for one in record["datasets"]:
        asked = {**general, **one}
        found = list(_musubi_clips(asked, path))
        if not found:
            notes.append(f"a dataset of {path.name} has no videos and is left out ({', '.join(map(str, one))})")
        repeats, fps = int(asked.get("num_repeats", 1)), asked.get("source_fps")
        items += [replace(item, repeats=repeats * item.repeats, fps=fps) for item in found]
    first = {**general, **record["datasets"][0]}
    frames = first.get("target_frames")
    size = first.get("resolution")
    return Dataset(
        items=tuple(items),
        size=None if size is None else _size(size, path),
        frames=max(frames) if isinstance(frames, list) and frames else None,
        batch=first.get("batch_size"),
        notes=tuple(notes),
    )


def _musubi_clips(asked: Mapping[str, Any], path: Path) -> Iterator[Item]:
    if "video_directory" in asked:
        folder = path.parent / asked["video_directory"]
        if not folder.is_dir():
            raise DatasetError(f"{path} names the folder {folder}, which is not there.")
        yield from _folder(folder, asked.get("caption_extension", ".txt"))
    elif "video_jsonl_file" in asked:
        yield from _lines(path.parent / asked["video_jsonl_file"])


def _size(value: object, path: Path) -> tuple[int, int]:
    sides = [value, value] if isinstance(value, int) else value
    if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise DatasetError(f"{path} has a size of {value!r}; it must be [width, height].")
    return sides[0], sides[1]
