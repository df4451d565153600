"""Who is who: coloured boxes that move as a script says, seen through cuts, crossings, gaps and a finder's errors."""

import dataclasses
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.preprocess.detector import Person
from pasdedeux.animate.preprocess.linking import Seen, identities, pieces
from pasdedeux.animate.preprocess.tracking import choose, look_of, survey

SIZE = (320, 180)
FPS = 30.0
RED, GREEN, BLUE = (200, 40, 40), (40, 180, 60), (50, 70, 210)
PLACE = (90, 90, 90)


@dataclasses.dataclass(frozen=True)
class Actor:
    """Somebody of one colour; path(frame) is the middle of the upper edge, or None when away. Nearer ones come last."""

    color: tuple[int, int, int]
    path: Callable[[int], tuple[float, float] | None]
    width: float = 40.0
    height: float = 110.0

    def box(self, frame: int) -> tuple[float, float, float, float] | None:
        at = self.path(frame)
        return None if at is None else (at[0] - self.width / 2, at[1], at[0] + self.width / 2, at[1] + self.height)


class Stage:
    """Frames with actors on them, and a finder that sees them in the last frame shown, or in a part of it.

    Whoever is covered for the most part is not found, as with a real finder; nor who is for the most part outside.
    """

    def __init__(self, *actors: Actor, frames: int, places: dict[int, tuple[int, int, int]] | None = None) -> None:
        self.actors, self.frames, self.places = actors, frames, places or {}
        self.asked: list[int] = []
        self.whole: list[int] = []
        self.false: dict[int, Person] = {}
        self.picture, self.frame = np.zeros((1, 1, 3), np.uint8), -1

    def film(self) -> Iterator[np.ndarray]:
        place = PLACE
        for frame in range(self.frames):
            place = self.places.get(frame, place)
            picture = np.full((SIZE[1], SIZE[0], 3), place, np.uint8)
            for actor in self.actors:
                if (box := actor.box(frame)) is not None:
                    left, top, right, bottom = (max(round(side), 0) for side in box)
                    picture[top:bottom, left:right] = actor.color
            self.picture, self.frame = picture, frame
            yield picture

    def find(self, picture: np.ndarray) -> list[Person]:
        if self.frame < 0:
            return []
        away = picture.__array_interface__["data"][0] - self.picture.__array_interface__["data"][0]
        top, left = divmod(away // 3, SIZE[0])
        height, width = picture.shape[:2]
        self.asked.append(self.frame)
        if (width, height) == SIZE:
            self.whole.append(self.frame)
        boxes = [box for actor in self.actors if (box := actor.box(self.frame)) is not None]
        found = [Person(box=box, score=0.9) for i, box in enumerate(boxes) if not covered(box, boxes[i + 1 :])]
        found += [self.false[self.frame]] if self.frame in self.false else []
        return [inner for person in found if (inner := cut(person, left, top, width, height)) is not None]


def cut(person: Person, left: int, top: int, width: int, height: int) -> Person | None:
    """Somebody as seen in a part of the picture, if that shows the most of them."""
    box = np.array(person.box) - [left, top, left, top]
    inner = np.clip(box, 0, [width, height, width, height])
    if min(inner[2:] - inner[:2]) <= 0 or np.prod(inner[2:] - inner[:2]) < 0.5 * np.prod(box[2:] - box[:2]):
        return None
    return Person(box=tuple(inner.tolist()), score=person.score)


def covered(box, nearer) -> bool:
    width = box[2] - box[0]
    return any(min(box[2], other[2]) - max(box[0], other[0]) > 0.7 * width for other in nearer)


def walk(start: float, speed: float, top: float = 50.0):
    """speed in pixels per second."""
    return lambda frame: (start + speed * frame / FPS, top)


def stand(x: float, top: float = 50.0):
    return lambda _frame: (x, top)


def away(path, *spans):
    return lambda frame: None if any(a <= frame < b for a, b in spans) else path(frame)


def number_of(result, actor, frame) -> int:
    """Whose box has its middle on the actor in a frame."""
    x = actor.path(frame)[0]
    near = {
        one.number: abs((one.boxes[frame, 0] + one.boxes[frame, 2]) / 2 - x) for one in result.people if one.seen[frame]
    }
    return min(near, key=lambda number: near[number])


def test_one_person_is_followed_between_looks():
    stage = Stage(Actor(RED, walk(60, 60)), frames=61)
    result = survey(stage.film(), stage, FPS)
    assert stage.asked == list(range(0, 61, 5))
    assert stage.whole == [0, 15, 30, 45, 60]
    (one,) = result.people
    assert one.seen.all()
    truth = np.array([stage.actors[0].box(frame) for frame in range(61)])
    np.testing.assert_allclose(one.boxes, truth, atol=1e-3)
    assert one.share == pytest.approx(40 * 110 / (320 * 180), rel=1e-3)
    assert result.cuts == ()


def test_the_last_frame_is_looked_at():
    stage = Stage(Actor(RED, walk(60, 60)), frames=39)
    survey(stage.film(), stage, FPS)
    assert stage.asked[-2:] == [35, 38]


@settings(max_examples=25, deadline=None)
@given(
    meet=st.integers(25, 65),
    speeds=st.tuples(st.floats(40, 110), st.floats(-110, -40)),
    colors=st.sampled_from([(RED, BLUE), (GREEN, RED), (BLUE, GREEN)]),
)
def test_people_who_cross_keep_their_numbers(meet, speeds, colors):
    def path(speed):
        return lambda frame: (160 + speed * (frame - meet) / FPS, 50.0)

    behind, before = Actor(colors[0], path(speeds[0])), Actor(colors[1], path(speeds[1]), height=112)
    stage = Stage(behind, before, frames=91)
    result = survey(stage.film(), stage, FPS)
    assert len(result.people) == 2
    for actor in stage.actors:
        shown = [frame for frame in range(91) if 30 < actor.path(frame)[0] < 290]
        assert number_of(result, actor, shown[0]) == number_of(result, actor, shown[-1])


@settings(max_examples=25, deadline=None)
@given(gap=st.integers(6, 75), back=st.floats(-60, 60), other=st.booleans())
def test_who_leaves_and_comes_back_is_the_same(gap, back, other):
    def path(frame):
        return None if 30 <= frame < 30 + gap else (80.0 if frame < 30 else 100 + back, 50.0)

    actors = [Actor(RED, path)] + ([Actor(BLUE, stand(240), height=80)] if other else [])
    stage = Stage(*actors, frames=140)
    result = survey(stage.film(), stage, FPS)
    assert len(result.people) == len(actors)
    red = next(one for one in result.people if one.boxes[0, 0] < 100)
    assert red.seen[:28].all()
    assert red.seen[46 + gap :].all()
    if gap > 45:
        assert not red.seen[38 : 22 + gap].any()


def test_somebody_else_at_the_same_place_is_somebody_else():
    stage = Stage(
        Actor(RED, away(stand(80), (40, 200))),
        Actor(BLUE, away(stand(80), (0, 60))),
        Actor(GREEN, stand(250)),
        frames=120,
    )
    assert len(survey(stage.film(), stage, FPS).people) == 3


def test_people_stay_who_they_are_across_cuts():
    def left_then_right(frame):
        return (80.0 if frame < 45 else 240.0, 50.0)

    def right_then_left(frame):
        return (240.0 if frame < 45 else 80.0, 50.0)

    red, blue = Actor(RED, left_then_right), Actor(BLUE, right_then_left, height=100)
    stage = Stage(red, blue, frames=90, places={45: (200, 180, 120)})
    result = survey(stage.film(), stage, FPS)
    assert result.cuts == (45,)
    assert 45 in stage.asked
    assert [one.number for one in result.people] == [1, 2]
    for actor in (red, blue):
        assert number_of(result, actor, 0) == number_of(result, actor, 89)
    steps = np.abs(np.diff(result.people[0].boxes[:, 0]))
    assert set(np.flatnonzero(steps > 1)) == {44}


def test_light_that_changes_slowly_and_people_who_run_are_no_cuts():
    stage = Stage(Actor(RED, walk(0, 300), width=90), frames=30, places={i: (90 + i, 90 + i, 90) for i in range(30)})
    assert survey(stage.film(), stage, FPS).cuts == ()


def test_a_flash_is_no_cut_and_another_place_of_the_same_colours_is():
    rng = np.random.default_rng(0)
    place = np.kron(rng.integers(30, 170, (9, 16, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    flash = np.minimum(place.astype(int) + 80, 255).astype(np.uint8)
    nobody = Stage(frames=0)
    frames = [place, place, flash, place, place, place[:, ::-1].copy(), place[:, ::-1].copy()]
    assert survey(iter(frames), nobody, FPS).cuts == (5,)


def test_one_error_of_the_finder_is_nobody():
    stage = Stage(Actor(RED, stand(80)), frames=60)
    stage.false[20] = Person(box=(250, 20, 300, 120), score=0.6)
    assert len(survey(stage.film(), stage, FPS).people) == 1


def test_the_frame_for_a_numbered_picture_shows_everybody():
    stage = Stage(Actor(RED, away(stand(80), (50, 90))), Actor(BLUE, away(stand(240), (0, 30))), frames=90)
    result = survey(stage.film(), stage, FPS)
    assert 30 <= result.best < 50
    assert result.best in result.people[0].looked


def two():
    big, small = Actor(RED, stand(80), width=50, height=120), Actor(BLUE, stand(240), width=20, height=60)
    stage = Stage(big, small, frames=45)
    return survey(stage.film(), stage, FPS)


def test_choosing():
    found = two()
    largest = choose(found)
    assert largest.number == 1
    assert largest.notes == ("2 people were found; number 1, who fills most of the picture, is followed.",)
    assert largest.boxes[0, 0] < 80 < largest.boxes[0, 2]
    assert choose(found, person=2).boxes[0, 0] > 200
    assert choose(found, near=(0.8, 0.2)).number == 2
    assert choose(found, near=(0.3, 0.9)).number == 1
    assert choose(found, person=1).notes == ()
    assert choose(found, person=2).at(3) is not None


def test_choosing_whom_there_is_not():
    with pytest.raises(InputError, match="no person number 3: the people found are numbered 1 to 2"):
        choose(two(), person=3)
    with pytest.raises(InputError, match="no person number 0"):
        choose(two(), person=0)
    with pytest.raises(InputError, match="outside the picture"):
        choose(two(), near=(1.2, 0.5))
    stage = Stage(frames=10)
    with pytest.raises(InputError, match="No person was found in 10 frames"):
        choose(survey(stage.film(), stage, FPS))
    with pytest.raises(InputError, match="no frames"):
        survey(iter(()), stage, FPS)


def test_near_is_meant_in_the_first_frame_with_anybody():
    stage = Stage(Actor(RED, away(stand(80), (0, 20))), Actor(BLUE, away(stand(240), (0, 20))), frames=60)
    found = survey(stage.film(), stage, FPS)
    assert choose(found, near=(0.75, 0.5)).boxes[30, 0] > 160
    assert "not seen in" in choose(found, person=1).notes[0]


@settings(max_examples=25, deadline=None)
@given(speed=st.floats(0.5, 6), reach=st.floats(5, 90))
def test_the_figure_stays_inside_its_box(speed, reach):
    actor = Actor(RED, lambda frame: (160 + reach * np.sin(speed * frame / FPS), 50.0))
    stage = Stage(actor, frames=75)
    boxes = choose(survey(stage.film(), stage, FPS)).boxes
    truth = np.array([actor.box(frame) for frame in range(75)])
    assert (boxes[:, :2] <= truth[:, :2] + 2).all()
    assert (boxes[:, 2:] >= truth[:, 2:] - 2).all()
    assert np.abs(np.diff(boxes, 2, axis=0)).max() < 6


def test_a_still_and_a_slow_clip():
    still = Stage(Actor(RED, stand(80)), frames=1)
    found = survey(still.film(), still, 1.0)
    assert choose(found).seen.all()
    slow = Stage(Actor(RED, stand(80)), frames=7)
    assert survey(slow.film(), slow, 2.0).people[0].seen.all()
    assert slow.asked == list(range(7))


def test_looks_know_colours_apart_and_not_sun_from_shade():
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[:, :20], picture[:, 20:40], picture[:, 40:] = RED, [int(0.7 * c) for c in RED], BLUE
    red, shade, blue = (look_of(picture, (x, 0, x + 20, 60)) for x in (0, 20, 40))
    assert np.sqrt(red * shade).sum() > 0.95
    assert np.sqrt(red * blue).sum() < 0.05
    assert look_of(picture, (70, 70, 80, 80)).sum() == pytest.approx(1)


def test_a_long_clip_of_many_shots_takes_no_time_and_little_memory():
    """Ten minutes with a cut every two seconds, as what the pass leaves behind: integers, boxes and colours."""
    colors = np.eye(54, dtype=np.float32)
    looks = [
        [
            Seen(frame=frame, box=np.array([x, 20.0, x + 40, 130.0]), score=0.9, look=colors[k])
            for k, x in ((3, 40.0), (30, 200.0))
        ]
        for frame in range(0, 18000, 10)
    ]
    start = time.perf_counter()
    groups = identities(pieces(looks, range(60, 18000, 60)), FPS)
    assert [len(group) for group in groups] == [300, 300]
    assert time.perf_counter() - start < 20
