"""Where the files of larger models are that a user has downloaded for preparation."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from pasdedeux.animate.inputs import InputError

ENVIRONMENT, PLACE = "PASDEDEUX_PREPARE", Path("models/prepare")
CHECKPOINTS = "process_checkpoint"
"""The folder of a Wan-Animate model with what its own preparation uses."""
MOST_ENTRIES = 500
WHOLE_BODY = ("vitpose", "wholebody", "dwpose", "dw-ll", "rtmw")
DETECTORS, MASKERS = ("rt_detr", "rt_detr_v2", "d_fine"), ("sam2", "sam2_video")


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """Files of models that were found, None where there are none, and the folders that were looked through."""

    vitpose: Path | None = None
    rtdetr: Path | None = None
    sam2: Path | None = None
    looked: tuple[Path, ...] = ()


def find_models(folder: Path | None = None, beside: Path | None = None) -> Models:
    """Model files in `folder`, in $PASDEDEUX_PREPARE, in ./models/prepare, and beside a Wan-Animate model, in that
    order. Raises InputError where a folder was named that is not there.
    """
    named = os.environ.get(ENVIRONMENT)
    for place in (folder, Path(named) if named else None):
        if place is not None and not place.is_dir():
            raise InputError(f"There is no folder {place} to look for models in.")
    around = [] if beside is None else [beside / CHECKPOINTS, beside.parent / CHECKPOINTS]
    places = [place for place in (folder, Path(named) if named else None, PLACE, *around) if place is not None]
    found: dict[str, Path] = {}
    for place in places:
        for entry in entries(place):
            kind = _kind(entry)
            if kind is not None:
                found.setdefault(kind, entry)
    return Models(**found, looked=tuple(places))


def entries(place: Path) -> list[Path]:
    """The folder and what lies in it, down to the second level: bounded, whatever folder was named."""
    first = _inside(place)
    second = [entry for folder in first if not folder.name.startswith(".") for entry in _inside(folder)]
    return [place, *first, *second[:MOST_ENTRIES]]


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())[:MOST_ENTRIES] if folder.is_dir() else []
    except OSError:
        return []  # what may not be read is not meant for us


def _kind(entry: Path) -> str | None:
    """Which backend's model a file or folder is, by its name or its config.json."""
    named = any(part in entry.name.lower() for part in WHOLE_BODY)
    if named and (entry.suffix == ".onnx" if entry.is_file() else any(entry.glob("*.onnx"))):
        return "vitpose"
    config = entry / "config.json"
    if not config.is_file():
        return None
    try:
        kind = json.loads(config.read_bytes()).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None  # a broken config belongs to nothing that is looked for here
    return "rtdetr" if kind in DETECTORS else "sam2" if kind in MASKERS else None
