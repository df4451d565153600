"""Which clips a LoRA learns from, and what is said of them: folders, JSONL, TOML, and the lists of other trainers.

A folder holds videos with a .txt of the same name beside each, or diffusers' metadata.jsonl. JSONL has an object a
line; TOML has [[clips]] with the same keys, or musubi-tuner's [general] and [[datasets]].
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

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
    return _text(words).strip() if words.is_file() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}).") from error


def _lines(path: Path) -> Iterator[Item]:
    for number, line in enumerate(_text(path).splitlines(), 1):
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
    named = (record[key] for key in PATHS if isinstance(record.get(key), str))
    video = next((name for name in named if Path(name).name), None)
    if video is None:
        raise DatasetError(f"{where} names no video; it has {', '.join(map(str, record)) or 'nothing'}.")
    said = next((words.strip() for key in CAPTIONS if (words := _word(record, key, where))), None)
    files = {key: root / name for key in ("driver", "keypoints", "mask") if (name := _word(record, key, where))}
    start, end = _number(record, "start", where, zero=True) or 0.0, _number(record, "end", where)
    if end is not None and end <= start:
        raise DatasetError(f"{where} has end of {end:g}; it must be after its start, {start:g}.")
    return Item(
        video=root / video,
        caption=said if said is not None else _beside(root / video, ".txt"),
        repeats=_whole(record, "repeats", where) or _whole(record, "num_repeats", where) or 1,
        start=start,
        end=end,
        fps=_number(record, "fps", where),
        **files,
    )


def _word(record: Mapping[str, Any], key: str, where: str) -> str | None:
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise DatasetError(f"{where} has {key} of {value!r}; it must be text.")
    return value


def _number(record: Mapping[str, Any], key: str, where: str, *, zero: bool = False) -> float | None:
    """A number above 0, or with `zero` of 0 or more, that a float can hold."""
    value = record.get(key)
    if value is None:
        return None
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not 0 <= value <= sys.float_info.max or (value == 0 and not zero):
        wanted = "a number of 0 or more" if zero else "a number above 0"
        raise DatasetError(f"{where} has {key} of {value!r}; it must be {wanted}.")
    return float(value)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _whole(record: Mapping[str, Any], key: str, where: str) -> int | None:
    value = record.get(key)
    if value is None or _is_whole(value):
        return value
    raise DatasetError(f"{where} has {key} of {value!r}; it must be a whole number of 1 or more.")


def _toml(path: Path) -> Dataset:
    text = _text(path)
    try:
        record = tomllib.loads(text)
    except ValueError as error:
        raise DatasetError(f"{path} cannot be read as TOML ({error}).") from error
    if "datasets" in record:
        return _musubi(record, path)
    clips = enumerate(_listed(record, "clips", path), 1)
    items = tuple(_item(clip, path.parent, f"Clip {number} of {path}") for number, clip in clips)
    return Dataset(items=items, size=_size(record, "size", str(path)), frames=_whole(record, "frames", str(path)))


def _listed(record: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    value = record.get(key, [])
    if not isinstance(value, list):
        raise DatasetError(f"{path} has {key} of {value!r}; it must be a list of tables, [[{key}]].")
    return value


def _musubi(record: Mapping[str, Any], path: Path) -> Dataset:
    """musubi-tuner's list: its folders and JSONL files of videos; pictures alone are left, and said.

    The first of its datasets says the size, the frames and the clips a step.
    """
    general = record.get("general", {})
    if not isinstance(general, Mapping):
        raise DatasetError(f"{path} has general of {general!r}; it must be a table, [general].")
    parts: list[Dataset] = []
    notes: list[str] = []
    for number, one in enumerate(_listed(record, "datasets", path), 1):
        where = f"Dataset {number} of {path}"
        if not isinstance(one, Mapping):
            raise DatasetError(f"{where} is {one!r}; it must be a table with a video_directory or a video_jsonl_file.")
        parts.append(_musubi_dataset({**general, **one}, path.parent, where))
        if not parts[-1].items:
            notes.append(f"a dataset of {path.name} has no videos and is left out ({', '.join(map(str, one))})")
    first = parts[0] if parts else Dataset(items=())
    return replace(first, items=tuple(item for part in parts for item in part.items), notes=tuple(notes))


def _musubi_dataset(asked: Mapping[str, Any], root: Path, where: str) -> Dataset:
    repeats, fps = _whole(asked, "num_repeats", where) or 1, _number(asked, "source_fps", where)
    counts = asked.get("target_frames", [])
    if not isinstance(counts, list) or not all(map(_is_whole, counts)):
        raise DatasetError(f"{where} has target_frames of {counts!r}; it must be a list of whole numbers of 1 or more.")
    found = _musubi_clips(asked, root, where)
    return Dataset(
        items=tuple(replace(item, repeats=repeats * item.repeats, fps=fps) for item in found),
        size=_size(asked, "resolution", where),
        frames=max(counts, default=None),
        batch=_whole(asked, "batch_size", where),
    )


def _musubi_clips(asked: Mapping[str, Any], root: Path, where: str) -> Iterator[Item]:
    folder, listed = (_word(asked, key, where) for key in ("video_directory", "video_jsonl_file"))
    suffix = _word(asked, "caption_extension", where) or ".txt"
    if not re.fullmatch(r"\.[^/\\]+", suffix):
        raise DatasetError(f"{where} has caption_extension of {suffix!r}; it must be a dot and letters, as .txt is.")
    if folder is not None:
        if not (root / folder).is_dir():
            raise DatasetError(f"{where} names the folder {root / folder}, which is not there.")
        yield from _folder(root / folder, suffix)
    elif listed is not None:
        if not (root / listed).is_file():
            raise DatasetError(f"{where} names the list {root / listed}, which is not there.")
        yield from _lines(root / listed)


def _size(record: Mapping[str, Any], key: str, where: str) -> tuple[int, int] | None:
    value = record.get(key)
    if value is None:
        return None
    width, height = value if isinstance(value, list) and len(value) == 2 else (value, value)
    if not _is_whole(width) or not _is_whole(height):
        raise DatasetError(f"{where} has {key} of {value!r}; it must be [width, height].")
    return width, height
