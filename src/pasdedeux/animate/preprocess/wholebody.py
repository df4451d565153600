"""Keypoints as data: our own NPZ and JSON, written and read, and what other programs wrote, read.

Ours hold COCO-WholeBody's 133 points with confidences, and beside them what the 133 lack. keypoints.npz: `wholebody`
[T, 133, 3], `body` [T, 20, 3], `hands` [T, 2, 21, 3], `face` [T, 70, 3], `size` (width, height), `fps` (0 where it is
not known), `names` of the 133, `version`. keypoints.json is a file of COCO's: `categories` say names and skeleton, each
of `annotations` is a frame with 399 numbers as `keypoints` and 9 as `extra` (neck, right pupil, left pupil); `info`
says the size, the rate and the number of frames. Numbers are x px, y px, confidence 0..1.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.inputs import InputError, Keypoints, View
from pasdedeux.animate.outputs import written_whole
from pasdedeux.animate.preprocess.coco133 import EXTRA_NAMES, NAMES, NECK, SKELETON, from_wholebody, to_wholebody
from pasdedeux.animate.preprocess.following import Pose, followed
from pasdedeux.animate.preprocess.foreign import (
    LINE,
    People,
    people_of_array,
    people_of_folder,
    people_of_json,
    read_json,
)

__all__ = ["from_wholebody", "load_keypoints", "save_keypoints", "to_wholebody"]

STEM, VERSION, FORMAT = "keypoints", 1, "pasdedeux keypoints"
PUPILS = [68, 69]
MOST_ARRAY_BYTES = 2**29
"""Of one array: half an hour of keypoints is about 90 MB."""
SHARES = 2.0
"""Where no point lies farther out than this, places are shares of the picture, not pixels."""
PLACES = ("wholebody", "keypoints", "kpts", "poses", "points", "arr_0")
SCORES = ("scores", "keypoint_scores", "kpt_scores", "confidence", "confidences", "arr_1")
UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError, NotImplementedError)


def save_keypoints(path: Path, keypoints: Keypoints, fps: float | None = None) -> list[Path]:
    """Write `path`, if it is an .npz or .json; else path/keypoints.npz and path/keypoints.json. The paths written.

    NPZ is exact; JSON keeps pixels to 1/100 and confidences to 1/1000. Raises InputError where nothing can be written.
    """
    if path.suffix.lower() not in (".npz", ".json"):
        return [save_keypoints(path / f"{STEM}{kind}", keypoints, fps)[0] for kind in (".npz", ".json")]
    with written_whole(path) as part:
        if path.suffix.lower() == ".npz":
            np.savez_compressed(part, allow_pickle=False, **_as_arrays(keypoints, fps))
        else:
            with part.open("w", encoding="utf-8") as file:
                file.writelines(_as_json(keypoints, fps))
    return [path]


def load_keypoints(
    path: Path, *, size: tuple[int, int] | None = None, person: int | None = None
) -> tuple[Keypoints, float | None]:
    """What `save_keypoints` wrote, or others' files; and frames per second, where the file says them.

    Others': NPZ or NPY of [T, 133, 3] (or 17, 18, 25 points; or x, y beside scores), a folder of OpenPose's JSON files,
    ControlNet's and DWPose's JSON, COCO's results (17 or 133 points), mmpose's predictions. `size` (width, height) is
    the picture that points without one lie in. Of several people it is the largest, or number `person`, counted from 1.
    Raises InputError, one sentence, for anything else.
    """
    if path.is_dir():
        ours = next((file for kind in (".npz", ".json") if (file := path / f"{STEM}{kind}").is_file()), None)
        if ours is None:
            return _chosen(people_of_folder(path), path, size, person), None
        path = ours
    start = _start(path)
    if start.startswith((b"PK", b"\x93NUMPY")):
        return _of_arrays(_arrays(path, start), path, size, person)
    data = read_json(path)
    info = data.get("info") if isinstance(data, dict) else None
    if isinstance(info, dict) and info.get("description") == FORMAT:
        return _of_json(data, path)
    return _chosen(people_of_json(data, path), path, size, person), None


def _as_arrays(keypoints: Keypoints, fps: float | None) -> dict[str, NDArray[Any]]:
    view = {} if keypoints.view is None else {"view": np.array(_numbers(keypoints.view))}
    return {
        "wholebody": to_wholebody(keypoints),
        "body": keypoints.body,
        "hands": keypoints.hands,
        "face": keypoints.face,
        "size": np.array(keypoints.size, np.int32),
        "fps": np.array(fps or 0.0, np.float64),
        "names": np.array(NAMES),
        "version": np.array(VERSION, np.int32),
        **view,
    }


def _as_json(keypoints: Keypoints, fps: float | None) -> Iterator[str]:
    """The file's text in pieces, a line a frame: a long clip is larger as text than as numbers."""
    width, height = keypoints.size
    info = {"description": FORMAT, "version": VERSION, "size": [width, height], "fps": fps, "frames": len(keypoints)}
    view = None if keypoints.view is None else _numbers(keypoints.view)
    names = {"keypoints": NAMES, "skeleton": [[a + 1, b + 1] for a, b in SKELETON]}
    yield json.dumps({"info": {**info, "view": view, "extra": EXTRA_NAMES}})[:-1]
    yield ',\n"categories": ' + json.dumps([{"id": 1, "name": "person", "supercategory": "person", **names}])
    images = ({"id": i, "file_name": str(i), "width": width, "height": height} for i in range(len(keypoints)))
    yield ',\n"images": [' + ",\n".join(map(json.dumps, images)) + '],\n"annotations": ['
    extra = np.concatenate([keypoints.body[:, [NECK]], keypoints.face[:, PUPILS]], axis=1)
    for i, (points, more) in enumerate(zip(to_wholebody(keypoints), extra, strict=True)):
        record = {"id": i, "image_id": i, "category_id": 1, "num_keypoints": int((points[:, 2] > 0).sum())}
        yield ("\n" if i == 0 else ",\n") + json.dumps({**record, "keypoints": _flat(points), "extra": _flat(more)})
    yield "]}\n"


def _flat(points: NDArray[np.float32]) -> list[float]:
    exact = points.astype(np.float64)
    return np.concatenate([exact[:, :2].round(2), exact[:, 2:].round(3)], axis=1).ravel().tolist()


def _numbers(view: View) -> list[float]:
    return [view.x, view.y, view.unit]


def _of_json(data: Mapping[str, Any], path: Path) -> tuple[Keypoints, float | None]:
    try:
        info, frames = data["info"], data["annotations"]
        size, view = (int(info["size"][0]), int(info["size"][1])), info["view"]
        points, extra = (np.array([frame[name] for frame in frames], np.float32) for name in ("keypoints", "extra"))
        found = from_wholebody(points.reshape(len(frames), -1, 3), size)
        found.body[:, NECK], found.face[:, PUPILS] = extra[:, :3], extra[:, 3:].reshape(-1, 2, 3)
        fps = None if info["fps"] is None else float(info["fps"])
        # Made anew, because what was put into it has to be checked as well.
        return replace(found, view=None if view is None else View(*map(float, view))), fps
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise InputError(f"{path} was written by this program but has been changed ({repr(error)[:LINE]}).") from error


def _start(path: Path) -> bytes:
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _arrays(path: Path, start: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an NPZ or NPY file that may be keypoints; never Python objects."""
    known = {*PLACES, *SCORES, "body", "hands", "face", "size", "fps", "version", "view"}
    try:
        if start.startswith(b"\x93NUMPY"):
            return {"keypoints": np.load(path, allow_pickle=False, mmap_mode="r")}
        with zipfile.ZipFile(path) as file:
            sizes = {Path(item.filename).stem: item.file_size for item in file.infolist()}
        large = [name for name in known & sizes.keys() if sizes[name] > MOST_ARRAY_BYTES]
        if not large:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files if name in known}
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read as arrays ({error}).") from error
    raise InputError(f"{path} holds an array of more than {MOST_ARRAY_BYTES >> 20} MB; cut the clip into parts.")


def _of_arrays(
    arrays: Mapping[str, NDArray[Any]], path: Path, size: tuple[int, int] | None, person: int | None
) -> tuple[Keypoints, float | None]:
    try:
        fps = float(arrays["fps"]) if "fps" in arrays else 0.0
        own = tuple(int(side) for side in arrays["size"]) if "size" in arrays else None
        view = View(*map(float, arrays["view"])) if "view" in arrays else None
        if own is not None and len(own) != 2:
            raise InputError(f"{path} has a picture size of {len(own)} numbers; they must be width and height.")
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path} says its size or rate in a way that is not known ({error}).") from error
    rate = fps if 0 < fps < 1000 else None
    if own is not None and {"body", "hands", "face"} <= arrays.keys():
        parts = {name: arrays[name] for name in ("body", "hands", "face")}
        try:
            return Keypoints(**parts, size=(own[0], own[1]), view=view), rate
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    people = replace(people_of_array(_with_scores(arrays, path), path), size=own)
    return _chosen(people, path, size, person), rate


def _with_scores(arrays: Mapping[str, NDArray[Any]], path: Path) -> NDArray[Any]:
    places, scores = (next((arrays[name] for name in names if name in arrays), None) for names in (PLACES, SCORES))
    if places is None:
        raise InputError(f"{path} holds no array called {', '.join(PLACES[:-1])}.")
    if places.nbytes > MOST_ARRAY_BYTES:
        raise InputError(f"{path} holds an array of more than {MOST_ARRAY_BYTES >> 20} MB; cut the clip into parts.")
    if places.ndim < 3 or places.shape[-1] != 2:
        return places
    if scores is None or scores.size != places[..., 0].size:
        raise InputError(f"{path} holds places {list(places.shape)} without a confidence for each, as `scores`.")
    return np.concatenate([places, scores.reshape(*places.shape[:-1], 1)], axis=-1)


def _chosen(people: People, path: Path, size: tuple[int, int] | None, person: int | None) -> Keypoints:
    within = people.size or size
    if within is None:
        raise InputError(f"{path} does not say how large the picture is that its points lie in.")
    pose = _in_pixels(followed(people.frames, person, path), within)
    return Keypoints(body=pose.body, hands=pose.hands, face=pose.face, size=within)


def _in_pixels(pose: Pose, size: tuple[int, int]) -> Pose:
    """Some programs write places as shares of the picture."""
    parts = {name: getattr(pose, name) for name in ("body", "hands", "face")}
    if max(float(np.abs(points[..., :2]).max()) for points in parts.values()) > SHARES:
        return pose
    factor = np.array([*size, 1], np.float32)
    return Pose(**{name: points * factor for name, points in parts.items()})
