"""Face crops: Wan-Animate's box, and what it lacks for real clips."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasdedeux.animate.images import letterbox
from pasdedeux.animate.inputs import Keypoints, Performance
from pasdedeux.animate.preprocess.face_crops import (
    FaceCrops,
    cut,
    face_boxes,
    face_crops,
    held,
    steadied,
)

SIZE = (64, 48)
FPS = 30.0


def face_at(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Face points [70, 3] spread over a box, all of them seen; the pupils lie outside it, and must not count."""
    across, down = np.meshgrid(np.linspace(left, right, 17), np.linspace(top, bottom, 4))
    points = np.stack([across.ravel(), down.ravel(), np.ones(68)], axis=-1)
    return np.concatenate([points, np.tile([right + 40, bottom + 40, 1.0], (2, 1))]).astype(np.float32)


def clip_of(faces: list[np.ndarray], size: tuple[int, int] = SIZE) -> Performance:
    """A performance of these faces in noisy pictures."""
    count = len(faces)
    points = Keypoints(
        body=np.zeros((count, 20, 3), np.float32),
        hands=np.zeros((count, 2, 21, 3), np.float32),
        face=np.stack(faces),
        size=size,
    )
    pictures = np.random.default_rng(0).integers(0, 256, (count, size[1], size[0], 3), dtype=np.uint8)
    return Performance(keypoints=points, fps=FPS, frames=pictures)


def unseen(face: np.ndarray) -> np.ndarray:
    return face * np.array([1, 1, 0.1], np.float32)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(4, 200), st.floats(4, 200))
def test_the_box_is_30_percent_larger_in_area_and_its_height_grows_mostly_above(left, top, width, height):
    (box,), (seen,) = face_boxes(face_at(left, top, left + width, top + height)[None])
    assert seen
    assert (box[2] - box[0]) * (box[3] - box[1]) == pytest.approx(1.3 * width * height, rel=1e-3)
    assert left - box[0] == pytest.approx(0.070 * width, rel=0.02, abs=1e-3)
    assert box[2] - (left + width) == pytest.approx(left - box[0], rel=1e-2, abs=1e-3)
    assert top - box[1] == pytest.approx(0.105 * height, rel=0.02, abs=1e-3)
    assert box[3] - (top + height) == pytest.approx(0.035 * height, rel=0.02, abs=1e-3)


def test_a_crop_is_the_box_stretched_to_a_square():
    performance = clip_of([face_at(20, 16, 40, 32)])
    (crop,) = face_crops(performance, 32)[[0]]
    assert performance.frames is not None
    part = performance.frames[0, 14:32, 18:41]
    np.testing.assert_array_equal(crop, cv2.resize(part, (32, 32)))


def test_points_of_low_confidence_do_not_count():
    face = face_at(20, 16, 40, 32)
    face[:3] = [60, 47, 0.2]
    boxes, seen = face_boxes(np.stack([face, unseen(face)]))
    assert seen.tolist() == [True, False]
    assert boxes[0, 2] < 45


def test_a_face_half_seen_is_none():
    face = face_at(20, 16, 40, 32)
    face[:35, 2] = 0.1
    assert not face_boxes(face[None])[1][0]


def test_a_face_at_the_edge_is_cut_there():
    performance = clip_of([face_at(-6, 10, 14, 30)])
    crops = face_crops(performance, 16)
    assert crops.boxes[0, 0] == 0
    assert crops.source.tolist() == [0]
    assert crops[[0]].shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
    "box", [(70, 10, 90, 30), (-40, 10, -20, 30), (10, -40, 30, -20), (10, 60, 30, 80), (-17, 10, 3, 30)]
)
def test_a_face_off_the_frame_is_black(box):
    crops = face_crops(clip_of([face_at(*box)]), 16)
    assert crops.missing == 1
    assert not crops[[0]].any()


def test_a_lost_face_is_held_for_a_third_of_a_second_then_black():
    face = face_at(20, 16, 40, 32)
    crops = face_crops(clip_of([unseen(face)] * 2 + [face] * 3 + [unseen(face)] * 12 + [face]), 16)
    assert crops.source.tolist() == [-1, -1, 2, 3, 4] + [4] * 9 + [-1] * 3 + [17]
    assert crops.missing == 5
    np.testing.assert_array_equal(crops[[13]], crops[[4]])
    assert not crops[[0, 14, 16]].any()
    assert crops[[17]].any()


def test_without_pictures_every_face_is_black():
    seen = clip_of([face_at(20, 16, 40, 32)] * 3)
    crops = face_crops(Performance(keypoints=seen.keypoints, fps=FPS), 16)
    assert crops.missing == len(crops) == 3
    assert not crops[[2, 0]].any()
    assert crops[[2, 0]].shape == (2, 16, 16, 3)


def test_a_still_face_does_not_tremble():
    rng = np.random.default_rng(1)
    faces = [face_at(*(np.array([200.0, 160.0, 400.0, 320.0]) + rng.normal(0, 4, 4))) for _ in range(60)]
    boxes, seen = face_boxes(np.stack(faces))
    steady = steadied(boxes, seen, 1.5)
    assert np.diff(steady, axis=0)[5:-5].std() < np.diff(boxes, axis=0)[5:-5].std() / 3


@given(st.floats(-6, 6), st.floats(-6, 6), st.lists(st.booleans(), min_size=12, max_size=12))
def test_a_face_in_steady_motion_stays_in_its_box(across, down, shown):
    times = np.arange(12)[:, None]
    boxes = np.array([200.0, 160.0, 300.0, 280.0]) + times * np.array([across, down, across, down])
    np.testing.assert_allclose(steadied(boxes, np.array(shown), 1.5), boxes, atol=1e-9)


def test_a_cut_stays_a_cut():
    boxes = np.array([[0.0, 0, 20, 20]] * 5 + [[60.0, 0, 80, 20]] * 5)
    np.testing.assert_allclose(steadied(boxes, np.ones(10, bool), 1.5), boxes)


@given(st.data())
def test_any_points_give_crops(data):
    numbers = st.floats(-1e4, 1e4, width=32)
    values = data.draw(st.lists(numbers, min_size=12, max_size=12))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    faces = [
        np.concatenate(
            [rng.normal(values[2 * k : 2 * k + 2], abs(values[6 + k]) / 50, (70, 2)), rng.random((70, 1))], 1
        )
        for k in range(3)
    ]
    crops = face_crops(clip_of([face.astype(np.float32) for face in faces]), 8)
    assert crops[[0, 1, 2]].shape == (3, 8, 8, 3)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 6))
def test_held_shows_the_latest_face_never_an_old_one(there, longest):
    source = held(np.array(there), longest)
    for frame, shown in enumerate(source):
        recent = [k for k in range(max(frame - longest, 0), frame + 1) if there[k]]
        assert shown == (recent[-1] if recent else -1)


def test_a_box_of_which_little_is_left_does_not_count():
    boxes, enough = cut(np.array([[-30.0, 0, 10, 40], [-31.0, 0, 9, 40], [0.0, 0, 3, 40]]), SIZE)
    assert enough.tolist() == [True, False, False]
    assert boxes[0].tolist() == [0, 0, 10, 40]


def test_points_that_all_lie_in_one_place_are_no_face():
    crops = face_crops(clip_of([face_at(30, 20, 30, 20)] * 2), 8)
    assert crops.missing == 2
    assert not crops[[0, 1]].any()


class Reel:
    """Pictures that come one at a time and can do nothing else; `read` says which came."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures, self.read = pictures, []

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: list[int], /) -> np.ndarray:
        assert len(index) == 1
        self.read += index
        return self.pictures[index]


def in_its_own_pixels(faces: list[np.ndarray], own: tuple[int, int], size: tuple[int, int]) -> Performance:
    """A performance that was letterboxed into `size`; faces are in the driver's own pixels."""
    seen = clip_of(faces, own)
    assert isinstance(seen.frames, np.ndarray)
    boxed = [letterbox(frame, size) for frame in seen.frames]
    place = boxed[0][1]
    points = seen.keypoints.moved((place.scale, place.scale), (place.left, place.top), size)
    return Performance(
        keypoints=points,
        fps=FPS,
        frames=Reel(np.stack([frame for frame, _ in boxed])),
        source=Reel(seen.frames),
        placed=place,
    )


def test_crops_are_cut_from_the_drivers_own_pixels():
    faces = [face_at(200 + 3 * k, 160, 280 + 3 * k, 250) for k in range(4)]
    performance = in_its_own_pixels(faces, (640, 480), (160, 90))
    plain = clip_of(faces, (640, 480))
    crops, wanted = face_crops(performance, 64), face_crops(plain, 64)
    assert isinstance(performance.frames, Reel)
    assert isinstance(performance.source, Reel)
    np.testing.assert_array_equal(crops.boxes, wanted.boxes)
    np.testing.assert_array_equal(crops[[0, 3]], wanted[[0, 3]])
    assert performance.source.read == [0, 3]
    assert performance.frames.read == []


def test_what_the_letterbox_adds_is_no_part_of_a_face():
    """A face at the edge of the driver's picture is cut there, not at the edge of the job's."""
    performance = in_its_own_pixels([face_at(-10, 100, 90, 220)], (640, 480), (300, 100))
    crops = face_crops(performance, 16)
    assert crops.boxes[0, 0] == 0
    assert crops.source.tolist() == [0]
    off = in_its_own_pixels([face_at(-120, 100, -20, 220)], (640, 480), (300, 100))
    assert face_crops(off, 16).missing == 1


def test_without_its_own_pixels_any_clip_will_do():
    seen = clip_of([face_at(20, 16, 40, 32)] * 2)
    assert isinstance(seen.frames, np.ndarray)
    reel = Reel(seen.frames)
    crops = face_crops(Performance(keypoints=seen.keypoints, fps=FPS, frames=reel), 32)
    np.testing.assert_array_equal(crops[[1]], face_crops(seen, 32)[[1]])
    assert reel.read == [1]


def test_frames_are_cut_only_when_asked_for():
    assert FaceCrops(frames=None, boxes=np.zeros((2, 4), int), source=np.array([-1, -1]), side=4)[[1]].shape[0] == 1
