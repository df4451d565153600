"""Keypoints that other programs wrote, as data: arrays, OpenPose's and ControlNet's JSON, COCO's and mmpose's.

Each reader gives everybody in each frame, as `People`; one person is then chosen and followed. Files are not trusted:
whatever does not fit raises one InputError.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.inputs import BODY_POINTS, FACE_POINTS, HAND_POINTS, InputError
from pasdedeux.animate.preprocess.coco133 import POINTS, Floats, from_wholebody, toe, with_pupils
from pasdedeux.animate.preprocess.following import Pose, unseen

MOST_BYTES = 200 * 2**20
"""Of a text: its numbers take five times as much once they are read."""
FAR = 1e5  # pixels
MISSING = -1.0
"""The confidence by which some programs mark a point that was not found."""
LINE = 200
"""Letters of an error that are passed on."""
MOST_GAPS = 0.5
"""Of the frames of a numbered sequence: more missing numbers than this are another numbering, not empty frames."""

# OpenPose's 25 in our order: 18 that both have, then the toes, each of two.
BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
TOES_25 = ((18, (19, 20)), (19, (22, 23)))
BODY_COUNTS = (17, 18, 20, 25, POINTS)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class People:
    """Everybody in each frame, each as a Pose of one frame, in the file's order; what else the file says."""

    frames: list[list[Pose]]
    size: tuple[int, int] | None = None


def read_json(path: Path) -> Any:
    """What stands in a JSON file of bounded length. Raises InputError."""
    try:
        size, text = path.stat().st_size, b""
        if size <= MOST_BYTES:
            text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if size > MOST_BYTES:
        raise InputError(f"{path} is larger than {MOST_BYTES >> 20} MB; save the keypoints as NPZ.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON that can be read.") from error


def people_of_folder(folder: Path) -> People:
    """OpenPose's way: one JSON file a frame, numbered. Frames without a file hold nobody."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"{folder} holds no keypoints: no JSON file is in it.")
    read = [people_of_json(read_json(file), file) for file in files]
    if any(len(people.frames) != 1 for people in read):
        raise InputError(f"{folder} must hold one frame a file, but one of its files holds several.")
    places = _places([file.stem.removesuffix("_keypoints") for file in files], str(folder))
    return People(frames=_spread(places, [people.frames[0] for people in read]), size=read[0].size)


def people_of_json(data: Any, path: Path) -> People:
    """Of any of the known kinds, which is found out by the names in it."""
    try:
        first = data[0] if isinstance(data, list) else data
        if isinstance(data, dict) and "annotations" in data:
            return _coco(data["annotations"], path, _size(next(iter(data.get("images") or [{}])), path, ""))
        if isinstance(data, dict) and "instance_info" in data:
            return _mmpose(data["instance_info"], path)
        if isinstance(first, dict) and "keypoints" in first:
            return _coco(data if isinstance(data, list) else [data], path, None)
        if isinstance(first, dict) and ("people" in first or "candidate" in first or "bodies" in first):
            frames = data if isinstance(data, list) else [data]
            return People(frames=[_frame(frame, path) for frame in frames], size=_size(first, path, "canvas_"))
        if isinstance(first, list):
            return people_of_array(np.asarray(data, np.float64), path)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} holds keypoints in a way that is not known ({repr(error)[:LINE]}).") from error
    raise InputError(
        f"{path} holds no keypoints of a kind that is known: COCO's, OpenPose's, ControlNet's or mmpose's."
    )


def people_of_array(points: NDArray[Any], path: Path) -> People:
    """[T, N, 3], or [T, P, N, 3] of P people, where N is 17 or 133 (COCO), 18 or 25 (OpenPose), or 20 (ours)."""
    if points.dtype.kind not in "fiu" or points.ndim not in (3, 4) or points.shape[-1] != 3 or not points.size:
        raise InputError(f"{path} holds an array {points.dtype} {list(points.shape)}; keypoints are [frames, 133, 3].")
    everybody = points[:, None] if points.ndim == 3 else points
    poses = [pose_of(everybody[:, who], path) for who in range(everybody.shape[1])]
    return People(frames=[[_frame_of(pose, i) for pose in poses] for i in range(len(points))])


def _frame_of(pose: Pose, index: int) -> Pose:
    cut = slice(index, index + 1)
    return Pose(body=pose.body[cut], hands=pose.hands[cut], face=pose.face[cut])


def pose_of(
    body: NDArray[Any],
    path: Path,
    hands: Sequence[NDArray[Any] | None] = (None, None),
    face: NDArray[Any] | None = None,
) -> Pose:
    """One person in T frames: body [T, N, 3]; left and right hand [T, 21, 3], face [T, 68 or 70, 3], where known."""
    pose = _body_of(checked(body, path), path)
    for side, hand in enumerate(hands):
        if hand is not None:
            pose.hands[:, side] = _counted(hand, (HAND_POINTS,), "a hand", path)
    if face is not None:
        points = _counted(face, (68, FACE_POINTS), "a face", path)
        pose.face[:] = points if points.shape[1] == FACE_POINTS else with_pupils(points)
    return pose


def checked(points: NDArray[Any], path: Path) -> Floats:
    """[T, N, 3] as float32, confidences at most 1, and everything 0 of points that were not found.

    Raises InputError for what is no number, lies too far away, or has a negative confidence.
    """
    points = points.astype(np.float64)
    points[np.isin(points[..., 2], (0, MISSING))] = 0
    if not np.isfinite(points).all():
        raise InputError(f"{path} holds a point that is not a number.")
    sure, far = points[..., 2], np.abs(points[..., :2]).max(initial=0)
    if sure.min(initial=0) < 0:
        raise InputError(f"{path} holds a confidence of {sure.min():g}; it must not be negative.")
    if far > FAR:
        raise InputError(f"{path} holds a point {far:g} px from the picture's corner.")
    points[..., 2] = np.minimum(sure, 1)
    return points.astype(np.float32)


def _body_of(points: Floats, path: Path) -> Pose:
    frames, count = points.shape[:2]
    if count in (17, POINTS):
        whole = np.concatenate([points, np.zeros((frames, POINTS - count, 3), np.float32)], axis=1)
        found = from_wholebody(whole, (1, 1))
        return Pose(body=found.body, hands=found.hands, face=found.face)
    pose = unseen(frames)
    if count in (0, 18, BODY_POINTS):
        pose.body[:, :count] = points
    elif count == 25:
        pose.body[:, : len(BODY_25)] = points[:, BODY_25]
        for ours, pair in TOES_25:
            pose.body[:, ours] = toe(points[:, pair])
    else:
        raise InputError(f"{path} holds a body of {count} points; {', '.join(map(str, BODY_COUNTS))} are known.")
    return pose


def _counted(points: NDArray[Any], counts: tuple[int, ...], what: str, path: Path) -> Floats:
    if points.shape[1] not in counts:
        raise InputError(f"{path} holds {what} of {points.shape[1]} points; {' or '.join(map(str, counts))} are known.")
    return checked(points, path)


def _frame(frame: Mapping[str, Any], path: Path) -> list[Pose]:
    if "people" in frame:
        return [_openpose(person, path) for person in frame["people"] or []]
    return _dwpose(frame, path)


def _openpose(person: Mapping[str, Any], path: Path) -> Pose:
    def part(name: str) -> NDArray[Any] | None:
        values = person.get(f"{name}_keypoints_2d")
        return np.asarray(values, np.float64).reshape(1, -1, 3) if values else None

    body, sides = part("pose"), (part("hand_left"), part("hand_right"))
    return pose_of(np.zeros((1, 0, 3)) if body is None else body, path, sides, part("face"))


def _dwpose(frame: Mapping[str, Any], path: Path) -> list[Pose]:
    """Bodies as one list of points (candidate) and who has which (subset, -1 where not found); hands and faces beside.

    Whose hands are whose is said nowhere, so they are taken only where there is one person with a pair.
    """
    bodies = frame.get("bodies", frame)
    candidate = np.asarray(bodies["candidate"], np.float64)
    subset = np.asarray(bodies["subset"], np.float64)[:, :18]
    if candidate.ndim != 2 or not np.isin(subset, np.arange(-1, len(candidate))).all():
        raise InputError(f"{path} names points that it does not hold.")
    faces, hands = ([_placed(part) for part in frame.get(name) or []] for name in ("faces", "hands"))
    sides = (hands[0], hands[1]) if len(subset) == 1 and len(hands) == 2 else (None, None)
    poses = []
    for who, indices in enumerate(subset.astype(int)):
        body = np.zeros((1, len(indices), 3))
        body[0, indices >= 0, :2], body[0, indices >= 0, 2] = candidate[indices[indices >= 0], :2], 1
        poses.append(pose_of(body, path, sides, faces[who] if len(faces) == len(subset) else None))
    return poses


def _placed(places: Any) -> NDArray[Any]:
    """[N, 2], where -1 stands for a point that was not found, as [1, N, 3]."""
    points = np.asarray(places, np.float64)[None, :, :2]
    return np.concatenate([points, 1.0 - (points < 0).all(axis=-1, keepdims=True)], axis=-1)


def _coco(found: Sequence[Mapping[str, Any]], path: Path, size: tuple[int, int] | None) -> People:
    """One record a person, with the picture's id; COCO-WholeBody's results keep feet, face and hands apart."""
    by_image: dict[Any, list[Pose]] = {}
    for record in found:
        parts = [record["keypoints"], *(record.get(f"{part}_kpts") or [] for part in _COCO_PARTS)]
        points = np.concatenate([np.asarray(part, np.float64).reshape(-1, 3) for part in parts])
        by_image.setdefault(record.get("image_id", 0), []).append(pose_of(points[None], path))
    if not by_image:
        raise InputError(f"{path} holds nobody's keypoints.")
    places = _places([str(name) for name in by_image], str(path))
    return People(frames=_spread(places, list(by_image.values())), size=size)


_COCO_PARTS = ("foot", "face", "lefthand", "righthand")


def _mmpose(frames: Sequence[Mapping[str, Any]], path: Path) -> People:
    def pose(instance: Mapping[str, Any]) -> Pose:
        places, scores = (np.asarray(instance[name], np.float64) for name in ("keypoints", "keypoint_scores"))
        return pose_of(np.concatenate([places[:, :2], scores[:, None]], axis=1)[None], path)

    return People(frames=[[pose(instance) for instance in frame["instances"]] for frame in frames])


def _size(record: Mapping[str, Any], path: Path, prefix: str) -> tuple[int, int] | None:
    width, height = record.get(f"{prefix}width"), record.get(f"{prefix}height")
    if width is None or height is None:
        return None
    sides = int(width), int(height)
    if not 1 <= min(sides) <= max(sides) <= FAR:
        raise InputError(f"{path} says its picture is {sides[0]}x{sides[1]} pixels, which cannot be.")
    return sides


def _places(names: Sequence[str], source: str) -> list[int]:
    """The frame that each name stands for, by the last number in it, from 0; by order where there are no numbers."""
    numbers = [re.findall(r"\d+", name[-200:]) for name in names]
    if len(names) == 1 or not all(numbers):
        return [sorted(names).index(name) for name in names]
    places = [int(found[-1][-18:]) for found in numbers]
    first, last = min(places), max(places)
    if len(set(places)) < len(places):
        raise InputError(f"{source} holds two frames of one number; they cannot be put in order.")
    missing = last - first + 1 - len(places)
    if missing > MOST_GAPS * (last - first + 1):
        raise InputError(f"{source} holds {len(places)} frames numbered {first} to {last}; most numbers are missing.")
    return [place - first for place in places]


def _spread(places: Sequence[int], people: Sequence[list[Pose]]) -> list[list[Pose]]:
    frames: list[list[Pose]] = [[] for _ in range(max(places) + 1)]
    for place, found in zip(places, people, strict=True):
        frames[place] = found
    return frames
