"""Looking through a driver: stand-ins that know the truth in place of detectors, and a real man where there is one."""

import importlib.util
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pasdedeux.animate import preparing
from pasdedeux.animate.clips import VideoClip
from pasdedeux.animate.images import load_image
from pasdedeux.animate.inputs import InputError, Keypoints
from pasdedeux.animate.prepared import OVERLAY, PEOPLE, Wanted, is_prepared, load_prepared
from pasdedeux.animate.prepared_cache import PreparedCache
from pasdedeux.animate.preparing import prepare
from pasdedeux.animate.preprocess.detector import Box, Bytes, Person, Sighting
from pasdedeux.animate.preprocess.wholebody import save_keypoints
from pasdedeux.animate.video_writer import VideoWriter

MEDIA = Path(__file__).parents[3].parent / "shared/media"
needs_people = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None or not MEDIA.exists(), reason="no mediapipe or no sample media"
)
FRAMES, SIDE, FPS = 12, 256, 10.0


class Finder:
    """Two people, one larger than the other, in every frame."""

    def __init__(self, people: int = 2) -> None:
        self.people = people

    def find(self, picture: Bytes) -> list[Person]:
        width, height = picture.shape[1], picture.shape[0]
        if (width, height) != (SIDE, SIDE):
            return []  # a closer look at a part: this one knows whole pictures only
        boxes: list[Box] = [
            (0.5 * width, 0.1 * height, 0.9 * width, 0.9 * height),
            (0, 0.5 * height, 0.2 * width, height),
        ]
        return [Person(box=box, score=0.9 - 0.1 * i) for i, box in enumerate(boxes[: self.people])]


class Watcher:
    """Knows the truth by the picture's own brightness, which counts the frames; notes where it was told to look."""

    name = "truth"

    def __init__(self, truth: Keypoints, stop_after: int | None = None) -> None:
        self.truth, self.boxes, self.seen, self.stop_after = truth, list[Box | None](), list[int](), stop_after

    def watch(self, frames: Iterable[tuple[Bytes, Box | None]], fps: float) -> Iterator[Sighting]:
        for picture, box in frames:
            i = round(float(picture.mean()) / 10)
            if self.stop_after is not None and len(self.seen) == self.stop_after:
                raise KeyboardInterrupt
            self.seen.append(i)
            self.boxes.append(box)
            mask = np.zeros(picture.shape[:2], np.uint8)
            mask[40:230, 90:170] = 255
            k = self.truth
            yield Sighting(body=k.body[i], hands=k.hands[i], face=k.face[i], mask=mask)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    with VideoWriter(tmp_path / "film.mp4", FPS, (SIDE, SIDE)) as video:
        for i in range(FRAMES):
            video.write(np.full((SIDE, SIDE, 3), 10 * i, np.uint8))
    return tmp_path / "film.mp4"


@pytest.fixture
def truth(figure) -> Keypoints:
    swing = np.zeros((FRAMES, 21))
    swing[:, 3] = np.linspace(0, 12, FRAMES)
    return figure(swing)


@pytest.fixture
def cache(tmp_path: Path) -> PreparedCache:
    return PreparedCache(folder=tmp_path / "cache")


def stand_in(monkeypatch: pytest.MonkeyPatch, watcher: Watcher, people: int = 2) -> Watcher:
    monkeypatch.setattr(preparing, "open_finder", lambda *_: Finder(people))
    monkeypatch.setattr(preparing, "open_pose", lambda *_: watcher)
    monkeypatch.setattr(preparing, "open_masker", lambda *_, **__: None)
    return watcher


def test_what_is_found_is_kept_and_found_again(monkeypatch, film, truth, cache) -> None:
    watcher = stand_in(monkeypatch, Watcher(truth), people=1)
    told = list[tuple[str, int, int]]()
    found = prepare(Wanted(driver=film), lambda *said: told.append(said), cache)
    assert len(found) == FRAMES
    assert found.fps == FPS
    assert found.audio is None
    np.testing.assert_allclose(found.keypoints.body[..., :2], truth.body[..., :2], atol=1.0)
    assert found.mask[[3]][0, 100, 130] == 255
    assert found.mask[[3]][0, 5, 5] == 0
    assert load_image(found.overlay).image.shape[1] == 1600
    assert {what for what, _, _ in told} == {"looking for people", "following the person", "outlining the person"}
    assert [i for what, i, _ in told if what.startswith("following")] == list(range(1, FRAMES + 1))
    again = prepare(Wanted(driver=film), cache=cache)
    assert again.folder == found.folder
    assert len(watcher.seen) == FRAMES
    np.testing.assert_array_equal(again.keypoints.body, found.keypoints.body)
    assert not list(found.folder.glob("part-*"))


def test_other_wishes_and_other_bytes_are_looked_at_anew(monkeypatch, film, truth, cache) -> None:
    watcher = stand_in(monkeypatch, Watcher(truth), people=1)
    prepare(Wanted(driver=film), cache=cache)
    assert len(prepare(Wanted(driver=film, start=0.3, end=0.8), cache=cache)) == 5
    assert watcher.seen[FRAMES:] == [3, 4, 5, 6, 7]
    copy = film.with_name("copy.mp4")
    copy.write_bytes(film.read_bytes())
    prepare(Wanted(driver=copy), cache=cache)
    assert len(watcher.seen) == FRAMES + 5
    copy.write_bytes(film.read_bytes() + b"\0")
    prepare(Wanted(driver=copy), cache=cache)
    assert len(watcher.seen) == 2 * FRAMES + 5


def test_one_of_several_is_followed(monkeypatch, film, truth, cache) -> None:
    watcher = stand_in(monkeypatch, Watcher(truth))
    found = prepare(Wanted(driver=film), cache=cache)
    assert any("2 people" in warning for warning in found.warnings)
    assert (found.folder / PEOPLE).is_file()
    large = watcher.boxes[0]
    prepare(Wanted(driver=film, person=2), cache=cache)
    small = watcher.boxes[-1]
    assert large is not None
    assert small is not None
    assert large[0] > small[2] - 40
    prepare(Wanted(driver=film, near=(0.1, 0.9)), cache=cache)
    assert watcher.boxes[-1] == small
    with pytest.raises(InputError, match="person number 3"):
        prepare(Wanted(driver=film, person=3), cache=cache)


def test_a_run_that_was_stopped_goes_on(monkeypatch, film, truth, cache) -> None:
    monkeypatch.setattr(preparing, "STRETCH", 5)
    stand_in(monkeypatch, Watcher(truth, stop_after=7), people=1)
    with pytest.raises(KeyboardInterrupt):
        prepare(Wanted(driver=film), cache=cache)
    watcher = stand_in(monkeypatch, Watcher(truth), people=1)
    found = prepare(Wanted(driver=film), cache=cache)
    assert watcher.seen == list(range(5, FRAMES))
    whole = prepare(Wanted(driver=film), cache=PreparedCache(folder=cache.folder / "other"))
    np.testing.assert_array_equal(found.keypoints.body, whole.keypoints.body)
    np.testing.assert_array_equal(found.mask[[*range(FRAMES)]], whole.mask[[*range(FRAMES)]])


def test_nobody_is_an_error_that_names_the_file(monkeypatch, film, truth, cache) -> None:
    stand_in(monkeypatch, Watcher(truth), people=0)
    with pytest.raises(InputError, match=r"film\.mp4: no person was found in any of its 12 frames; one real person"):
        prepare(Wanted(driver=film), cache=cache)
    nobody = replace(truth, body=np.zeros_like(truth.body))
    stand_in(monkeypatch, Watcher(nobody), people=1)
    with pytest.raises(InputError, match=r"film\.mp4: nobody could be followed"):
        prepare(Wanted(driver=film), cache=cache)
    assert not any(is_prepared(path) for path in cache.folder.iterdir())


def test_points_and_masks_that_are_given_need_no_detector(monkeypatch, film, truth, cache, tmp_path) -> None:
    monkeypatch.setattr(preparing, "open_pose", lambda *_: pytest.fail("nobody was to be looked for"))
    save_keypoints(tmp_path / "points.npz", truth, FPS)
    found = prepare(Wanted(driver=film, keypoints=tmp_path / "points.npz"), cache=cache)
    np.testing.assert_allclose(found.keypoints.body, truth.body, atol=1e-3)
    x, y = truth.body[3, 1, :2].astype(int)
    assert found.mask[[3]][0, y + 20, x] == 255
    assert any("drawn round the limbs" in warning for warning in found.warnings)
    with VideoWriter(tmp_path / "mask.mp4", FPS, (SIDE, SIDE)) as video:
        for _ in range(FRAMES):
            video.write(np.pad(np.full((SIDE, 56, 3), 255, np.uint8), ((0, 0), (100, 100), (0, 0))))
    masked = prepare(Wanted(driver=film, keypoints=tmp_path / "points.npz", mask=tmp_path / "mask.mp4"), cache=cache)
    assert masked.mask[[0]][0, :, 110:145].min() == 255
    assert masked.mask[[0]][0, :, :90].max() == 0
    assert not any("limbs" in warning for warning in masked.warnings)


def test_a_performance_lies_in_the_jobs_picture(monkeypatch, film, truth, cache) -> None:
    stand_in(monkeypatch, Watcher(truth), people=1)
    found = prepare(Wanted(driver=film), cache=cache)
    performance = found.performance((128, 64))
    assert performance.keypoints.size == (128, 64)
    np.testing.assert_allclose(
        performance.keypoints.body[0, :, :2], found.keypoints.body[0, :, :2] / 4 + [32, 0], atol=1e-3
    )
    assert performance.frames is not None
    assert performance.frames[[2]].shape == (1, 64, 128, 3)
    assert performance.mask is not None
    assert set(np.unique(performance.mask[[2]])) == {0, 255}
    assert performance.source is not None
    assert performance.source[[0]].shape == (1, SIDE, SIDE, 3)


def test_a_folder_may_move_and_a_broken_one_is_told(monkeypatch, film, truth, cache, tmp_path) -> None:
    stand_in(monkeypatch, Watcher(truth), people=1)
    found = prepare(Wanted(driver=film), cache=cache)
    moved = found.folder.rename(tmp_path / "moved")
    assert len(load_prepared(moved)) == FRAMES
    record = json.loads((moved / "prepared.json").read_text())
    (moved / "prepared.json").write_text(json.dumps(record | {"version": 0}))
    with pytest.raises(InputError, match="another version"):
        load_prepared(moved)
    (moved / "prepared.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load_prepared(moved)
    (moved / "prepared.json").write_text(json.dumps({key: record[key] for key in ("version", "asked")}))
    with pytest.raises(InputError, match="does not describe"):
        load_prepared(moved)


def test_the_cache_forgets_what_was_not_used_for_longest(monkeypatch, film, truth, tmp_path) -> None:
    stand_in(monkeypatch, Watcher(truth), people=1)
    small = PreparedCache(folder=tmp_path / "cache", most=1)
    first = prepare(Wanted(driver=film), cache=small).folder
    second = prepare(Wanted(driver=film, end=0.5), cache=small).folder
    assert not first.exists()
    assert is_prepared(second)


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, film, truth, tmp_path) -> None:
    stand_in(monkeypatch, Watcher(truth), people=1)
    (tmp_path / "file").write_text("no folder")
    found = prepare(Wanted(driver=film), cache=PreparedCache(folder=tmp_path / "file" / "cache"))
    assert len(found) == FRAMES
    assert (found.folder / OVERLAY).is_file()


@needs_people
def test_a_man_who_talks_at_a_desk(cache, capfd) -> None:
    found = prepare(Wanted(driver=MEDIA / "talk.mp4", fps=10, most=8), cache=cache)
    points, legs = found.keypoints, [8, 9, 10, 11, 12, 13, 18, 19]
    assert (points.body[:, [0, 1, 2, 3, 4, 5, 6, 7, 14, 15], 2] >= 0.5).all()
    assert (points.body[:, legs, 2] == 0).all()
    assert (points.face[..., 2] == 1).all()
    assert (points.body[:, 2, 0] < points.body[:, 5, 0]).all()
    assert 0.1 < (found.mask[[0]] > 0).mean() < 0.5
    assert found.audio == MEDIA / "talk.mp4"
    assert found.record["people"] == 1
    assert capfd.readouterr().err == ""


@needs_people
def test_a_drawn_skeleton_is_nobody(cache) -> None:
    with pytest.raises(InputError, match="no person"):
        prepare(Wanted(driver=MEDIA / "skeleton.mp4", fps=5, most=4), cache=cache)


def test_the_clip_is_closed_with_the_driver(monkeypatch, film, truth, cache) -> None:
    stand_in(monkeypatch, Watcher(truth), people=1)
    found = prepare(Wanted(driver=film), cache=cache)
    found.close()
    assert isinstance(found.source, VideoClip)
