"""One person watched: where is looked, and when not; with stand-ins for the models, and with the models themselves."""

import contextlib
import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from pasdedeux.animate.preprocess import holistic
from pasdedeux.animate.preprocess.graphs import Found, Look, Place
from pasdedeux.animate.preprocess.holistic import HolisticDetector

MEDIA = Path(__file__).parents[4].parent / "shared/media"
needs_people = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None or not MEDIA.exists(), reason="no mediapipe or no sample media"
)
SIZE = (320, 240)
SIDE = 100.0


def blaze(place: Place) -> np.ndarray:
    """BlazePose's points [33, 3] of somebody whose hips are at a place: a head and shoulders above, hands below."""
    points = np.ones((33, 3))
    points[:, :2] = (place.x, place.y)
    points[:11, 1] -= 0.4 * place.side
    points[11:13] = [[place.x + 15, place.y - 0.25 * place.side, 1], [place.x - 15, place.y - 0.25 * place.side, 1]]
    return points


class World:
    """Stand-ins for both graphs. figures: where everybody is in the present frame; the nearest one is looked at."""

    def __init__(self) -> None:
        self.figures: list[Place] = []
        self.looks: list[Place] = []
        self.pictures: list[np.ndarray] = []
        self.searches = self.closed = 0
        self.frame = np.zeros((1, 1, 3), np.uint8)

    def look(self, picture, place):
        self.looks.append(place)
        self.pictures.append(picture)
        near = [
            figure for figure in self.figures if np.hypot(figure.x - place.x, figure.y - place.y) < 0.5 * place.side
        ]
        if not near:
            return Look()
        there = min(near, key=lambda figure: np.hypot(figure.x - place.x, figure.y - place.y))
        return Look(pose=blaze(there), place=there, mask=np.ones(picture.shape[:2], np.float32))

    def find(self, picture):
        self.searches += 1
        away = picture.__array_interface__["data"][0] - self.frame.__array_interface__["data"][0]
        top, left = divmod(away // 3, SIZE[0])
        return [Found(score=0.9, place=figure.moved(-left, -top)) for figure in self.figures]

    def close(self):
        self.closed += 1


@pytest.fixture
def world(monkeypatch):
    stand_in = World()
    monkeypatch.setattr(holistic, "LookerGraph", lambda **_: stand_in)
    monkeypatch.setattr(holistic, "FinderGraph", lambda _: stand_in)
    return stand_in


def at(x: float, y: float = 150.0, side: float = SIDE) -> Place:
    return Place(x=x, y=y, side=side)


def box(x: float) -> tuple[float, float, float, float]:
    return (x - 40.0, 90.0, x + 40.0, 230.0)


def watched(world, script, **options):
    """script: (figures, box of the one meant) per frame, in a light picture."""

    def frames():
        for figures, where in script:
            world.figures, world.frame = figures, np.full((SIZE[1], SIZE[0], 3), 200, np.uint8)
            yield world.frame, where

    return list(HolisticDetector(**options.pop("detector", {})).watch(frames(), 30, **options))


def test_the_place_rests_while_the_figure_trembles_and_goes_with_it(world):
    watched(world, [([at(150 + shake)], box(150)) for shake in (0, 2, -2, 1, 3, -1)])
    assert {place.x for place in world.looks[1:]} == {150}
    assert world.searches == 1
    world.looks.clear()
    sightings = watched(world, [([at(100 + 5 * i)], box(100 + 5 * i)) for i in range(20)])
    assert [s.body[0, 0] for s in sightings] == [100 + 5 * i for i in range(20)]
    assert abs(world.looks[-1].x - 195) <= 10
    assert len({place.x for place in world.looks}) > 8


def test_a_leap_within_sight_is_looked_at_twice(world):
    sightings = watched(world, [([at(100)], box(100)), ([at(130)], box(130))])
    assert [place.x for place in world.looks] == [100, 100, 130]
    assert sightings[1].body[0, 0] == 130


def test_a_cut_is_aimed_anew(world):
    sightings = watched(world, [([at(60)], box(60)), ([at(250)], box(250)), ([at(250)], box(250))])
    assert [s.body[0, 0] for s in sightings] == [60, 250, 250]
    assert world.searches == 2


def test_somebody_else_is_not_followed(world):
    both = [at(60), at(250)]
    assert [s.body[0, 0] for s in watched(world, [(both, box(250)), (both, box(60))])] == [250, 60]
    gone = watched(world, [(both, box(60)), ([at(250)], box(60)), ([at(250)], None), (both, box(60))])
    assert [s.body[1, 2] for s in gone] == [1, 0, 0, 1]
    assert gone[1].mask is not None
    assert not gone[1].mask.any()
    assert gone[3].body[0, 0] == 60


def test_without_a_box_nobody_or_anybody(world):
    script = [([at(100)], None)] * 3
    assert all((s.body[:, 2] == 0).all() for s in watched(world, script))
    assert world.searches == 0
    assert all(s.body[0, 0] == 100 for s in watched(world, script, detector={"anybody": True}))


def test_others_who_stand_apart_are_greyed_out(world):
    others = [[box(260), (150.0, 100.0, 210.0, 200.0)], []]
    watched(world, [([at(100)], box(100)), ([at(100)], box(150))], others=others)
    first, second = world.pictures[0], world.pictures[-1]
    assert (first[100:220, 230:290] == 127).all()
    assert (first[:, :139] == 200).all()
    assert (second == 200).all()
    world.pictures.clear()
    watched(world, [([at(170)], box(170))], others=[[(150.0, 100.0, 210.0, 200.0)]])
    assert (world.pictures[0] == 200).all()


def test_a_dark_picture_is_brightened(world):
    world.figures = [at(100)]
    dark = np.random.default_rng(0).integers(5, 25, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    next(HolisticDetector().watch([(dark, box(100))], 30))
    assert world.pictures[0].mean() > 70


def test_the_models_are_closed_when_nobody_listens_any_more(world):
    world.figures = [at(100)]
    frame = np.full((SIZE[1], SIZE[0], 3), 200, np.uint8)
    watching = HolisticDetector().watch(((frame, box(100)) for _ in range(5)), 30)
    next(watching)
    assert world.closed == 0
    watching.close()
    assert world.closed == 2


def talk(width: int, count: int) -> list[np.ndarray]:
    from pasdedeux.animate.video import read_video

    return [frame.copy() for frame in read_video(MEDIA / "talk.mp4", size=(width, width * 9 // 16), max_frames=count)]


@needs_people
def test_a_man_who_talks(capfd):
    frames = talk(960, 4)
    sightings = list(HolisticDetector().watch(((frame, (380.0, 20.0, 940.0, 540.0)) for frame in frames), 30))
    for sighting in sightings:
        assert (sighting.body[[0, 1, 2, 3, 5, 6, 14, 15], 2] >= 0.5).all()
        assert (sighting.body[[8, 9, 10, 11, 12, 13, 18, 19], 2] == 0).all()
        assert sighting.face[:, 2].min() == 1
        assert sighting.body[2, 0] < sighting.body[5, 0]
        assert sighting.mask is not None
        assert sighting.mask.shape == (540, 960)
        assert 0.1 < (sighting.mask > 0).mean() < 0.5
    out = capfd.readouterr()
    assert out.err == out.out == ""


@needs_people
def test_a_man_as_tall_as_162_pixels_is_seen_as_well_as_a_large_one():
    large = talk(1920, 1)[0][:, 640:1840]
    small = np.full((1080, 1920, 3), 128, np.uint8)
    small[400:562, 700:880] = cv2.resize(large, (180, 162), interpolation=cv2.INTER_AREA)
    size = (0.0, 0.0, 1200.0, 1080.0)
    pairs = [(large, size, 1.0, (0, 0)), (small, (705.0, 405.0, 880.0, 560.0), 0.15, (700, 400))]
    found = []
    for picture, where, scale, corner in pairs:
        sighting = next(HolisticDetector().watch([(picture, where)], 30))
        assert (sighting.body[[0, 1, 2, 5], 2] >= 0.5).all()
        found.append((sighting.body[[0, 1, 2, 5], :2] - corner) / scale)
    shoulders = np.linalg.norm(found[0][2] - found[0][3])
    assert np.linalg.norm(found[0] - found[1], axis=-1).max() < 0.15 * shoulders


@needs_people
def test_two_people_are_told_apart_by_their_boxes():
    man = talk(960, 1)[0][:, 360:900]
    both = np.concatenate([man, man[:, ::-1]], axis=1)
    with contextlib.closing(HolisticDetector().watch([(both, (0.0, 0.0, 540.0, 540.0))] * 2, 30)) as watching:
        left = list(watching)
    right = next(HolisticDetector().watch([(both, (540.0, 0.0, 1080.0, 540.0))], 30))
    assert all(sighting.body[0, 0] < 540 for sighting in left)
    assert right.body[0, 0] > 540
