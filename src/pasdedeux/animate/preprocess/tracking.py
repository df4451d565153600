"""Who is who in a clip: people found now and then, linked through occlusion and cuts, and one of them chosen.

One pass over the frames keeps boxes and colours only. What cannot be known while frames pass is decided after the
last one: pieces of tracks are joined by what came before and after, by looks, place and speed. Where two people stand
before one another the pieces end, so that whoever comes out on which side is decided by their looks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.preprocess.cuts import Cutter
from pasdedeux.animate.preprocess.detector import Box, Bytes, Person, PersonFinder
from pasdedeux.animate.preprocess.linking import Piece, Seen, identities, pieces
from pasdedeux.animate.preprocess.people import is_dark
from pasdedeux.animate.preprocess.smooth import shots

LOOKS_A_SECOND = 6.0
SEARCH = 0.5  # seconds after which the whole picture is searched again, and not only where people were
WINDOW = 1.7  # side of the square searched about somebody, in their box's longer side
SAME = 0.15  # of the lesser height between the tops of two boxes: one person, found twice
LOST = 1.2  # seconds: longer without a sighting is not seen
ROOM = 0.12  # of the box's longer side, on each side
STEADY = 0.15  # seconds


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Followed:
    """One identity: boxes float32 [T, 4] in pixels, known where seen bool [T]; held at the nearest known one elsewhere.

    share is what they fill of the clip: area of the picture times time, 0..1. looked lists frames in which they were
    really found; boxes between them are on the line.
    """

    number: int
    boxes: NDArray[np.float32]
    seen: NDArray[np.bool_]
    share: float
    looked: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Survey:
    """Everybody in a clip of T frames of size (width, height), the one who fills most of it first.

    cuts are the frames that begin a new shot; best is the frame in which most people are seen; dark is the share of
    frames looked at that are dark.
    """

    people: tuple[Followed, ...]
    cuts: tuple[int, ...]
    frames: int
    size: tuple[int, int]
    fps: float
    best: int
    dark: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chosen:
    """The one to be animated: boxes float32 [T, 4] with room around the figure, seen bool [T], and what to tell."""

    number: int
    boxes: NDArray[np.float32]
    seen: NDArray[np.bool_]
    notes: tuple[str, ...]

    def at(self, frame: int) -> Box | None:
        """The box in one frame; None where they are not seen."""
        left, top, right, bottom = self.boxes[frame].tolist()
        return (left, top, right, bottom) if self.seen[frame] else None


@dataclass(slots=True)
class _Watch:
    """What one pass has gathered so far."""

    sightings: list[list[Seen]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    frames: int = 0
    size: tuple[int, int] = (0, 0)
    looks: list[int] = field(default_factory=list)
    searched: list[int] = field(default_factory=list)
    search: int = 0
    dark: int = 0


def survey(frames: Iterable[Bytes], finder: PersonFinder, fps: float, every: int | None = None) -> Survey:
    """Who is in a clip: frames uint8 [H, W, 3] of one size, looked at every `every` of them and after cuts.

    Without `every` that is 6 a second. Frames may be scaled down; boxes are in their pixels. Raises InputError where
    there are none.
    """
    watch = _watched(frames, finder, every or max(round(fps / LOOKS_A_SECOND), 1), max(round(SEARCH * fps), 1))
    if watch.frames == 0:
        raise InputError("There are no frames to look for people in.")
    found = identities(pieces(watch.sightings, watch.cuts), fps)
    kept = [group for group in found if _believed(group, len(watch.looks), fps)] or found
    people = sorted((_followed(group, watch, fps) for group in kept), key=lambda one: -one.share)
    numbered = tuple(
        Followed(number=i, boxes=one.boxes, seen=one.seen, share=one.share, looked=one.looked)
        for i, one in enumerate(people, 1)
    )
    return Survey(
        people=numbered,
        cuts=tuple(watch.cuts),
        frames=watch.frames,
        size=watch.size,
        fps=fps,
        best=_best(numbered),
        dark=watch.dark / len(watch.looks),
    )


def _watched(frames: Iterable[Bytes], finder: PersonFinder, every: int, search: int) -> _Watch:
    """One pass. The last frame is always looked at. The whole picture is searched every `search` frames."""
    watch, cutter, due = _Watch(), Cutter(), 0
    picture: Bytes | None = None
    for index, picture in enumerate(frames):
        watch.frames, watch.size = index + 1, (picture.shape[1], picture.shape[0])
        if cutter.cuts(picture):
            watch.cuts.append(index)
            due = watch.search = index
        if index >= due:
            _look(watch, finder, picture, index, search)
            due = index + every
    if picture is not None and watch.looks[-1] != watch.frames - 1:
        _look(watch, finder, picture, watch.frames - 1, search)
    return watch


def _look(watch: _Watch, finder: PersonFinder, picture: Bytes, index: int, search: int) -> None:
    """Around those who were seen last; everywhere when that is due, or when one of them is gone."""
    last = watch.sightings[-1] if watch.sightings else []
    found = _found_near(finder, picture, last) if index < watch.search else []
    if index < watch.search and not last:
        return
    if index >= watch.search or len(found) < len(last):
        found = finder.find(picture)
        watch.search = index + search
        watch.searched.append(index)
    watch.sightings.append([_seen(person, picture, index) for person in found])
    watch.looks.append(index)
    watch.dark += is_dark(picture)


def _found_near(finder: PersonFinder, picture: Bytes, last: list[Seen]) -> list[Person]:
    """Everybody in squares about those who were seen last, in the picture's pixels."""
    found: list[Person] = []
    for seen in last:
        left, top, right, bottom = _square(seen.box, (picture.shape[1], picture.shape[0]))
        here = [_moved(person, left, top) for person in finder.find(picture[top:bottom, left:right])]
        found += [person for person in here if not any(_is_same(person.box, other.box) for other in found)]
    return found


def _moved(person: Person, x: float, y: float) -> Person:
    left, top, right, bottom = person.box
    return Person(box=(left + x, top + y, right + x, bottom + y), score=person.score)


def _square(box: NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A square about a box, moved and then cut to lie in a picture of (width, height)."""
    side = min(WINDOW * float((box[2:] - box[:2]).max()), float(max(size)))
    low = [
        min(max((a + b - side) / 2, 0.0), max(limit - side, 0.0))
        for a, b, limit in zip(box[:2], box[2:], size, strict=True)
    ]
    left, top = int(low[0]), int(low[1])
    return left, top, min(int(left + side) + 1, size[0]), min(int(top + side) + 1, size[1])


def _is_same(one: Box, other: Box) -> bool:
    across, down = (one[0] + one[2] - other[0] - other[2]) / 2, one[1] - other[1]
    return float(np.hypot(across, down)) < SAME * min(one[3] - one[1], other[3] - other[1])


def _seen(person: Person, picture: Bytes, index: int) -> Seen:
    return Seen(frame=index, box=np.array(person.box), score=person.score, look=look_of(picture, person.box))


def look_of(picture: Bytes, box: Box) -> NDArray[np.float32]:
    """How somebody looks: the share of colours in the upper half of their box, in its middle; adds up to 1.

    Hue and saturation in 12 x 4 parts where there is colour, else brightness in 6; brightness of colours in 3 more
    would part the same coat in sun and shade.
    """
    left, top, right, bottom = box
    across, down = 0.3 * (right - left), bottom - top
    rows = slice(int(top + 0.15 * down), max(int(top + 0.6 * down), int(top + 0.15 * down) + 1))
    columns = slice(int(left + across), max(int(right - across), int(left + across) + 1))
    part = picture[rows, columns]
    if part.size == 0:
        return np.full(54, 1 / 54, np.float32)
    hue, saturation, value = cv2.split(cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2HSV))
    colored = (saturation > 40) & (value > 40)
    bins = np.where(
        colored, hue.astype(int) * 12 // 180 * 4 + saturation.astype(int) // 64, 48 + value.astype(int) * 6 // 256
    )
    counts = np.bincount(bins.ravel(), minlength=54).astype(np.float32)
    return counts / counts.sum()


def _believed(group: list[Piece], looks: int, fps: float) -> bool:
    """One sighting in many looks is an error of the finder's; so is somebody seen only for a moment, before another."""
    span = group[-1].last.frame - group[0].first.frame
    found_often = sum(len(piece.sightings) for piece in group) >= 2
    return looks < 3 or (found_often and (span >= fps or not all(piece.touching for piece in group)))


def _followed(group: list[Piece], watch: _Watch, fps: float) -> Followed:
    sightings = sorted((seen for piece in group for seen in piece.sightings), key=lambda seen: seen.frame)
    boxes = np.zeros((watch.frames, 4), np.float32)
    seen = np.zeros(watch.frames, bool)
    for shot in shots(watch.frames, watch.cuts):
        inside = [one for one in sightings if shot.start <= one.frame < shot.stop]
        if inside:
            known = {*watch.searched, *(one.frame for one in inside)}
            looks = np.array(sorted(frame for frame in known if shot.start <= frame < shot.stop))
            boxes[shot], seen[shot] = _between(inside, np.arange(shot.start, shot.stop), looks, LOST * fps)
        else:
            boxes[shot] = np.nan
    _hold(boxes)
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) * seen
    share = float(area.sum() / (watch.frames * watch.size[0] * watch.size[1]))
    return Followed(number=0, boxes=boxes, seen=seen, share=share, looked=tuple(one.frame for one in sightings))


def _between(
    sightings: list[Seen], frames: np.ndarray, looks: np.ndarray, lost: float
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in all frames of one shot, and whether they are known: between sightings at most `lost` frames apart.

    Found in one of looks (frames searched, or in which they were found) and not in the next one: half of what lies
    between counts as seen.
    """
    at = np.array([one.frame for one in sightings])
    boxes = np.stack([np.interp(frames, at, [one.box[side] for one in sightings]) for side in range(4)], axis=-1)
    after = np.searchsorted(at, frames)
    before, after = at[np.maximum(after - 1, 0)], at[np.minimum(after, len(at) - 1)]
    between = (frames >= at[0]) & (frames <= at[-1]) & (after - before <= lost)
    return boxes, between | np.isin(_nearest(frames, looks), at)


def _nearest(frames: np.ndarray, among: np.ndarray) -> np.ndarray:
    """For each frame the nearest of some others, which are in order; the earlier of two as near."""
    after = np.minimum(np.searchsorted(among, frames), len(among) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(np.abs(among[before] - frames) <= np.abs(among[after] - frames), among[before], among[after])


def _hold(boxes: np.ndarray) -> None:
    """Boxes [T, 4] of shots in which there are none (NaN) become those of the frame nearest in time. In place."""
    known = np.flatnonzero(np.isfinite(boxes[:, 0]))
    boxes[:] = boxes[_nearest(np.arange(len(boxes)), known)]


def _best(people: tuple[Followed, ...]) -> int:
    """The frame for a numbered picture: most people, and really looked at if possible; the first of equals."""
    if not people:
        return 0
    score = np.sum([one.seen.astype(float) for one in people], axis=0)
    for one in people:
        score[list(one.looked)] += 0.5 / len(people)
    return int(score.argmax())


def choose(found: Survey, person: int | None = None, near: tuple[float, float] | None = None) -> Chosen:
    """The one who is meant: number `person`, or nearest to `near` (x, y as shares of the picture, in the first frame
    in which anybody is seen), or whoever fills most of the clip.

    Raises InputError where nobody was found, or no such person.
    """
    if not found.people:
        raise InputError(f"No person was found in {found.frames} {'frame' if found.frames == 1 else 'frames'}.")
    one = _meant(found, person, near)
    boxes = np.empty_like(one.boxes)
    for shot in shots(found.frames, found.cuts):
        boxes[shot] = _roomy(one.boxes[shot], max(round(STEADY * found.fps), 1))
    limit = np.array([*found.size, *found.size], np.float32)
    notes = tuple(_notes(found, one, chosen_by_size=person is None and near is None))
    return Chosen(number=one.number, boxes=np.clip(boxes, 0, limit), seen=one.seen, notes=notes)


def _meant(found: Survey, person: int | None, near: tuple[float, float] | None) -> Followed:
    if person is not None:
        numbers = f"1 to {len(found.people)}" if len(found.people) > 1 else "1 only"
        if not 1 <= person <= len(found.people):
            raise InputError(f"There is no person number {person}: the people found are numbered {numbers}.")
        return found.people[person - 1]
    if near is None:
        return found.people[0]
    if not all(0 <= part <= 1 for part in near):
        raise InputError(f"The point {near[0]:g}, {near[1]:g} is outside the picture; both shares lie in 0..1.")
    first = int(np.argmax(np.any([one.seen for one in found.people], axis=0)))
    point = np.array(near) * found.size
    return min((one for one in found.people if one.seen[first]), key=lambda one: _distance(one.boxes[first], point))


def _distance(box: np.ndarray, point: np.ndarray) -> tuple[float, float]:
    """To a box's edge, 0 inside; then to its middle."""
    outside = np.maximum(np.maximum(box[:2] - point, point - box[2:]), 0)
    return float(np.hypot(*outside)), float(np.hypot(*((box[:2] + box[2:]) / 2 - point)))


def _roomy(boxes: np.ndarray, reach: int) -> np.ndarray:
    """Boxes [T, 4] of one shot, each grown to hold those of `reach` frames around it, steadied, with room."""
    around = np.pad(boxes, ((2 * reach, 2 * reach), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(around, 2 * reach + 1, axis=0)
    widest = np.concatenate([windows.min(axis=-1)[:, :2], windows.max(axis=-1)[:, 2:]], axis=1)
    steady = np.lib.stride_tricks.sliding_window_view(widest, 2 * reach + 1, axis=0).mean(axis=-1)
    room = ROOM * (steady[:, 2:] - steady[:, :2]).max(axis=1, keepdims=True)
    return np.concatenate([steady[:, :2] - room, steady[:, 2:] + room], axis=1).astype(np.float32)


def _notes(found: Survey, one: Followed, *, chosen_by_size: bool) -> Iterator[str]:
    if len(found.people) > 1 and chosen_by_size:
        yield f"{len(found.people)} people were found; number 1, who fills most of the picture, is followed."
    missing = int((~one.seen).sum())
    if missing:
        yield f"Person {one.number} is not seen in {missing} of {found.frames} frames."
    if found.dark > 0.5:
        yield "The picture is dark; it was brightened to look for people."
