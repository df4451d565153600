"""Everybody in a picture: where is searched, what counts as somebody, and real pictures where there are."""

import contextlib
import importlib.util
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasdedeux.animate.preprocess.people import (
    BlazeFinder,
    brightened,
    figure_box,
    is_dark,
    is_somebody,
    squares,
)

MEDIA = Path(__file__).parents[4].parent / "shared/media"
needs_people = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None or not MEDIA.exists(), reason="no mediapipe or no sample media"
)


def somebody(x: float = 100.0, y: float = 60.0, size: float = 40.0) -> np.ndarray:
    """BlazePose's points [33, 3]: nose at (x, y), shoulders and hips below, knees and feet where confidence is 0."""
    points = np.ones((33, 3))
    points[:11, :2] = np.array([x, y]) + size * np.stack([np.linspace(-0.3, 0.3, 11), np.zeros(11)], -1)
    points[0, :2] = (x, y)
    points[[11, 12], :2] = [[x + size, y + size], [x - size, y + size]]
    points[13:25, :2] = [x, y + 2 * size]
    points[25:] = [x, y + 5 * size, 0]
    return points


@given(width=st.integers(40, 2000), height=st.integers(40, 2000), parts=st.integers(0, 3))
def test_squares_cover_the_picture_and_overlap(width, height, parts):
    across, down = np.zeros(width, int), np.zeros(height, int)
    lefts, tops = set(), set()
    for left, top, side in squares((width, height), parts):
        assert min(left, top) >= 0
        across[left : left + side] += 1
        down[top : top + side] += 1
        lefts.add(left)
        tops.add(top)
    assert across.min() >= 1
    assert down.min() >= 1
    if parts:
        for starts in (sorted(lefts), sorted(tops)):
            assert all(b - a <= 0.72 * side + 2 for a, b in pairwise(starts))
        assert min(len(lefts), len(tops)) == parts


def test_what_is_somebody():
    assert is_somebody(somebody())
    headless = somebody()
    headless[0, 2] = 0.2
    assert not is_somebody(headless)
    collapsed = somebody()
    collapsed[[11, 12], 1] = 62
    assert not is_somebody(collapsed)


def test_a_box_holds_what_is_seen_and_hair():
    left, top, right, bottom = figure_box(somebody(), (400, 400))
    assert left < 60
    assert right > 140
    assert top < 45
    assert 140 < bottom < 180
    assert figure_box(somebody(10, 10), (60, 50)) == (0.0, 0.0, 60.0, 50.0)


def test_dark_pictures_are_brightened():
    dark = np.random.default_rng(0).integers(0, 25, (60, 80, 3), dtype=np.uint8)
    assert is_dark(dark)
    assert 70 < brightened(dark).mean() < 150
    assert not is_dark(np.full((60, 80, 3), 120, np.uint8))
    assert brightened(np.zeros((60, 80, 3), np.uint8)).shape == (60, 80, 3)


@pytest.fixture(scope="module")
def finder():
    with contextlib.closing(BlazeFinder()) as opened:
        yield opened


@pytest.fixture(scope="module")
def man() -> np.ndarray:
    """The man at his desk, 1200 x 1080."""
    from pasdedeux.animate.video import read_video

    return next(iter(read_video(MEDIA / "talk.mp4", max_frames=1)))[:, 640:1840].copy()


def pasted(*pictures: tuple[np.ndarray, int, int, int], size=(1920, 1080)) -> np.ndarray:
    """Pictures brought to a height and put at (x, y), on grey."""
    whole = np.full((size[1], size[0], 3), 110, np.uint8)
    for picture, height, x, y in pictures:
        width = round(picture.shape[1] * height / picture.shape[0])
        whole[y : y + height, x : x + width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return whole


@needs_people
@pytest.mark.parametrize("height", [540, 270, 162, 108])
def test_a_man_of_any_size(finder, man, height, capfd):
    (person,) = finder.find(pasted((man, height, 1000, 500)))
    assert 0.25 * height < person.box[3] - person.box[1] <= 1.05 * height
    middle = (person.box[0] + person.box[2]) / 2
    assert 1000 + 0.3 * height < middle < 1000 + 0.8 * height
    assert 490 < person.box[1] < 500 + 0.4 * height
    assert capfd.readouterr().err == ""


@needs_people
def test_three_people_side_by_side(finder, man):
    from pasdedeux.animate.images import load_image

    elf, scholar = (load_image(MEDIA / name).image for name in ("elf.jpeg", "scholar.jpeg"))
    picture = pasted((man, 560, 0, 400), (elf[:, 75:1075], 560, 640, 400), (scholar[:, 250:800], 560, 1440, 400))
    found = sorted(finder.find(picture), key=lambda person: person.box[0])
    assert len(found) == 3
    assert [person.box[0] // 640 for person in found] == [0, 1, 2]


@needs_people
def test_nobody(finder, man):
    from pasdedeux.animate.video import read_video

    noise = np.random.default_rng(0).integers(0, 256, (360, 640, 3), dtype=np.uint8)
    skeleton = next(iter(read_video(MEDIA / "skeleton.mp4", max_frames=1)))
    room = man[:300, :300]
    for picture in (noise, skeleton, room):
        assert finder.find(picture) == []


@needs_people
def test_a_man_in_the_dark(finder, man):
    assert len(finder.find((man * 0.06).astype(np.uint8))) == 1
