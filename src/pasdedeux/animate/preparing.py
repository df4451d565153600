"""Looking through a driver: who is in it, how they move, which pixels are theirs; kept, so that it is done once.

Three passes over the driver's frames, none of which keeps them: people are found and told apart and one is chosen; that
one's points are read, in stretches of which each is kept when it is done, so that a run that was stopped goes on; and,
when the points are steady, masks are made steady by them.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from shutil import rmtree
from typing import Any

import cv2
import numpy as np

from pasdedeux.animate.clips import Joined, VideoClip
from pasdedeux.animate.inputs import Clip, InputError, Keypoints
from pasdedeux.animate.judging import box_of, doubts, look_of, title_of
from pasdedeux.animate.lossless import LosslessClip, LosslessWriter
from pasdedeux.animate.outputs import written_whole
from pasdedeux.animate.prepared import (
    MASK,
    OVERLAY,
    PEOPLE,
    POINTS,
    PreparedDriver,
    Wanted,
    is_prepared,
    load_prepared,
    write_record,
)
from pasdedeux.animate.prepared_cache import PreparedCache
from pasdedeux.animate.preprocess.backends import open_finder, open_masker, open_pose
from pasdedeux.animate.preprocess.detector import HELP, Bytes, Masker, PersonFinder, PoseDetector, Sighting
from pasdedeux.animate.preprocess.given import given_keypoints, given_mask
from pasdedeux.animate.preprocess.masks import Origin, Steady, mask_notes, steady
from pasdedeux.animate.preprocess.overlay import draw_look, numbered, save_picture
from pasdedeux.animate.preprocess.plausible import believe
from pasdedeux.animate.preprocess.smooth import smooth
from pasdedeux.animate.preprocess.tracking import Chosen, Survey, choose, survey
from pasdedeux.animate.preprocess.wholebody import save_keypoints

STRETCH, PART = 600, "part-"
"""Frames whose points are kept on disk at once, and how their files' names begin."""
SURVEY_SIDE, MASK_SIDE = 1280, 1280  # pixels: finders look at parts of 224, and masks at parts of 256
SEEN = 0.5
NOSE, NECK = 0, 1
Tell = Callable[[str, int, int], None]
"""What is done (a few words), frame i (from 1) of n."""


def prepare(wanted: Wanted, tell: Tell | None = None, cache: PreparedCache | None = None) -> PreparedDriver:
    """Look through a driver, or find what was found when it was looked through before.

    Raises InputError, one sentence, where the driver cannot be read, nobody is found in it, or a backend is not here.
    """
    cache = cache or PreparedCache()
    with closing(_Work(wanted=wanted, tell=tell or _silent)) as work:
        entry = cache.entry(wanted, work.names)
        if is_prepared(entry):
            cache.used(entry)
        else:
            part = cache.begun(entry)
            try:
                _look_through(work, part)
            except InputError:
                rmtree(part, ignore_errors=True)  # a run that was stopped goes on from it; one that cannot be does not
                raise
            entry = cache.finished(part, entry)
    return load_prepared(entry, wanted.driver)


@dataclass(kw_only=True, eq=False)
class _Work:
    """One driver being looked through: its frames, who looks, and what there is to say so far."""

    wanted: Wanted
    tell: Tell
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def source(self) -> VideoClip:
        """The driver's frames at the wanted rate."""
        asked = self.wanted
        return VideoClip(asked.driver, fps=asked.fps, start=asked.start, end=asked.end, most=asked.most)

    @cached_property
    def finder(self) -> PersonFinder | None:
        """Who finds people; None where the whole picture is the person's."""
        return open_finder(self.wanted.finder, self.wanted.models, self.wanted.beside)

    @cached_property
    def pose(self) -> PoseDetector:
        """Who finds points."""
        return open_pose(self.wanted.pose, self.wanted.models, self.wanted.beside)

    @cached_property
    def masker(self) -> Masker | None:
        """Who finds outlines, where the finder of points does not, or others are better at it."""
        return open_masker(self.wanted.masker, self.wanted.models, self.wanted.beside, watcher=self.pose)

    @property
    def names(self) -> list[str]:
        """Of those who look."""
        if self.wanted.keypoints is not None:
            return ["given"]
        masker = "own" if self.masker is None else self.masker.name
        return [getattr(self.finder, "name", type(self.finder).__name__), self.pose.name, masker]

    def frames(self, what: str, start: int = 0, stop: int | None = None) -> Iterator[Bytes]:
        """The driver's frames, and word of how far it is."""
        total = len(self.source)
        for i in range(start, total if stop is None else stop):
            yield self.source[[i]][0]
            self.tell(what, i + 1, total)

    @property
    def end(self) -> float | None:
        """Seconds at which the driver is left, where it is not seen to its end."""
        if self.wanted.most is None or len(self.source) < self.wanted.most:
            return self.wanted.end
        return self.wanted.start + len(self.source) / self.source.fps

    def close(self) -> None:
        """Let go of the file and of the models that look; those of one driver would stay beside the next one's."""
        for name in ("source", "finder"):
            close = getattr(vars(self).get(name), "close", None)
            if close is not None:
                close()

    @property
    def mask_size(self) -> tuple[int, int]:
        """(width, height) in which masks are kept."""
        return _within(self.source.size, MASK_SIDE)


def _look_through(work: _Work, folder: Path) -> None:
    """Everything that a prepared folder holds, into `folder`."""
    found: Survey | None = None
    if work.wanted.keypoints is None:
        found, one = _people(work, folder)
        raw, masks = _watched(work, one, folder)
        cuts = () if found is None else found.cuts
        believed = believe(raw, work.source.fps, cuts)
        keypoints = smooth(believed.keypoints, work.source.fps, cuts=cuts)
        work.warnings += [*one.notes, *believed.notes()]
    else:
        keypoints, masks, cuts = _given(work), None, ()
    _check_found(keypoints, work.wanted.driver)
    _outline(work, keypoints, masks, cuts, folder)
    work.warnings += doubts(keypoints)
    for name in (POINTS, Path(POINTS).stem + ".json"):
        save_keypoints(folder / name, keypoints, work.source.fps)
    work.notes += [f"{work.wanted.driver.name}: {note}" for note in work.source.notes]
    write_record(folder, work.wanted, _record(work, found))
    _judge(work, folder)
    for path in folder.glob(f"{PART}*"):
        path.unlink()


def _given(work: _Work) -> Keypoints:
    """Points that the user has."""
    asked, source = work.wanted, work.source
    path = asked.keypoints or asked.driver
    keypoints, said = given_keypoints(
        path, source.size, len(source), source.fps, start=asked.start, end=work.end, person=asked.person
    )
    work.notes += said
    for _ in work.frames("reading the driver"):
        pass  # nobody looks at these, but what of them is damaged is to be known before anything is made of them
    return keypoints


def _people(work: _Work, folder: Path) -> tuple[Survey | None, Chosen]:
    """Who is in the driver, and who is meant; a numbered picture where there are several."""
    if work.finder is None:
        count = len(work.source)
        boxes = np.tile(np.array([0, 0, *work.source.size], np.float32), (count, 1))
        return None, Chosen(number=1, boxes=boxes, seen=np.ones(count, bool), notes=())
    size = _within(work.source.size, SURVEY_SIDE)
    frames = (_shrunk(frame, size) for frame in work.frames("looking for people"))
    found = survey(frames, work.finder, work.source.fps)
    if not found.people:
        where = "it" if found.frames == 1 else f"any of its {found.frames} frames"
        raise InputError(f"{work.wanted.driver}: no person was found in {where}; {HELP}.")
    scale = work.source.size[0] / size[0]
    if len(found.people) > 1:
        here = [(one.number, box_of(scale * one.boxes[found.best])) for one in found.people if one.seen[found.best]]
        with written_whole(folder / PEOPLE) as part:
            save_picture(part, numbered(work.source[[found.best]][0], here))
    chosen = choose(found, work.wanted.person, work.wanted.near)
    return found, Chosen(number=chosen.number, boxes=scale * chosen.boxes, seen=chosen.seen, notes=chosen.notes)


def _watched(work: _Work, one: Chosen, folder: Path) -> tuple[Keypoints, Clip | None]:
    """Somebody's points in every frame, and masks where the detector makes them; stretch by stretch, once each."""
    total = len(work.source)
    starts = range(0, total, STRETCH)
    for start in starts:
        if not _part(folder, start, ".npz").is_file():
            _watch(work, one, folder, range(start, min(start + STRETCH, total)))
    kept = [np.load(_part(folder, start, ".npz")) for start in starts]
    body, hands, face = (np.concatenate([part[name] for part in kept]) for name in ("body", "hands", "face"))
    paths = [_part(folder, start, ".mp4") for start in starts]
    masks = Joined([LosslessClip(path) for path in paths]) if all(path.is_file() for path in paths) else None
    return Keypoints(body=body, hands=hands, face=face, size=work.source.size), masks


def _watch(work: _Work, one: Chosen, folder: Path, stretch: range) -> None:
    """One stretch of frames into its files; points last, since they say that it is whole."""
    frames = work.frames("following the person", stretch.start, stretch.stop)
    pairs = ((frame, one.at(i)) for i, frame in zip(stretch, frames, strict=True))
    seen: list[Sighting] = []
    with closing(_generated(work.pose.watch(pairs, work.source.fps))) as sightings, ExitStack() as stack:
        first = next(sightings)
        clip = nullcontext() if first.mask is None else _masks_file(work, _part(folder, stretch.start, ".mp4"))
        writer = stack.enter_context(clip)
        for sighting in chain([first], sightings):
            if writer is not None and sighting.mask is not None:
                writer.write(_shrunk_mask(sighting.mask, work.mask_size))
            seen.append(Sighting(body=sighting.body, hands=sighting.hands, face=sighting.face))
    body, hands, face = (np.stack([getattr(one, name) for one in seen]) for name in ("body", "hands", "face"))
    with written_whole(_part(folder, stretch.start, ".npz")) as part, part.open("wb") as file:
        np.savez(file, body=body, hands=hands, face=face)


def _generated(sightings: Iterator[Sighting]) -> Generator[Sighting]:
    """The same, as what can be closed: a detector lets go of its models then."""
    yield from sightings


def _outline(work: _Work, keypoints: Keypoints, masks: Clip | None, cuts: Sequence[int], folder: Path) -> None:
    """Steady masks into the folder: given ones as they are, else those of a masker or of the pose detector."""
    origins: list[Origin] = []
    with _masks_file(work, folder / MASK) as writer:
        for found in _steady_masks(work, keypoints, masks, cuts):
            origins.append(found.origin)
            writer.write(found.mask)
            work.tell("outlining the person", len(origins), len(work.source))
    if work.wanted.mask is None:
        work.warnings += mask_notes(origins)


def _steady_masks(work: _Work, keypoints: Keypoints, masks: Clip | None, cuts: Sequence[int]) -> Iterator[Steady]:
    asked, source, size = work.wanted, work.source, work.mask_size
    if asked.mask is not None:
        given, said = given_mask(asked.mask, size, len(source), source.fps, start=asked.start, end=work.end)
        work.notes += said
        return (Steady(mask=given[[i]][0], origin="seen") for i in range(len(given)))
    raw: Iterable[Bytes]
    if asked.keypoints is None and work.masker is not None:
        raw = (_shrunk_mask(mask, size) for mask in work.masker.masks(source.each(), keypoints))
    elif masks is not None:
        raw = (masks[[i]][0] for i in range(len(masks)))
    else:
        raw = (np.zeros((size[1], size[0]), np.uint8) for _ in range(len(source)))
    return steady(raw, keypoints.scaled(size), source.fps, cuts)


def _judge(work: _Work, folder: Path) -> None:
    """The picture to judge all by."""
    prepared = load_prepared(folder, work.wanted.driver)
    try:
        with written_whole(folder / OVERLAY) as part:
            save_picture(part, draw_look(look_of(prepared, title_of(work.wanted.driver, prepared))))
    finally:
        prepared.close()


def _check_found(keypoints: Keypoints, driver: Path) -> None:
    if not (keypoints.body[:, [NOSE, NECK], 2] >= SEEN).any():
        where = "it" if len(keypoints) == 1 else f"any of its {len(keypoints)} frames"
        raise InputError(f"{driver}: nobody could be followed in {where}; {HELP}.")


def _record(work: _Work, found: Survey | None) -> dict[str, Any]:
    source = work.source
    return {
        "frames": len(source),
        "fps": source.fps,
        "size": list(source.size),
        "audio": source.has_audio,
        "people": 1 if found is None else len(found.people),
        "person": work.wanted.person or 1,
        "backends": work.names,
        "warnings": list(dict.fromkeys(work.warnings)),
        "notes": list(dict.fromkeys(work.notes)),
    }


def _part(folder: Path, start: int, kind: str) -> Path:
    return folder / f"{PART}{start:07d}{kind}"


def _masks_file(work: _Work, path: Path) -> LosslessWriter:
    return LosslessWriter(path, work.source.fps, work.mask_size, "grey")


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """A size of the same shape whose longer side is `side` pixels at most."""
    scale = min(1.0, side / max(size))
    return max(round(size[0] * scale), 2), max(round(size[1] * scale), 2)


def _shrunk(picture: Bytes, size: tuple[int, int]) -> Bytes:
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def _shrunk_mask(mask: Bytes, size: tuple[int, int]) -> Bytes:
    return np.where(_shrunk(mask, size) >= 128, np.uint8(255), np.uint8(0))


def _silent(what: str, done: int, total: int) -> None:
    """Nobody is told."""
