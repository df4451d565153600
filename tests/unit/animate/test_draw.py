"""Drawings: the skeleton's rules point by point, and a face that tells open from closed when it is 24 pixels
wide.
"""

import cv2
import numpy as np
import pytest

from pasdedeux.animate.preprocess.draw import (
    COLORS,
    FINGER_COLORS,
    FINGERS,
    LIMBS,
    draw_face,
    draw_skeleton,
    stick_width,
)

SIZE = (128, 128)


def two_points(a: int, b: int, start=(20.0, 30.0), stop=(100.0, 30.0)) -> np.ndarray:
    body = np.zeros((20, 3), np.float32)
    body[a], body[b] = (*start, 1), (*stop, 1)
    return body


@pytest.mark.parametrize("limb", range(len(LIMBS)))
@pytest.mark.parametrize("width", [None, 1.5])
def test_a_limb_has_its_colour_and_its_joints_theirs(limb, width):
    a, b = LIMBS[limb]
    picture = draw_skeleton(two_points(a, b), None, SIZE, width=width)
    assert tuple(picture[30, 60]) == tuple(int(0.6 * channel) for channel in COLORS[limb])
    assert tuple(picture[30, 20]) == COLORS[a]
    assert tuple(picture[30, 100]) == COLORS[b]
    assert not picture[:25].any()
    assert not picture[36:].any()


def test_the_palette_is_openpose_and_every_point_is_in_a_limb():
    assert len(LIMBS) == 19
    assert len(COLORS) == len(set(COLORS)) == 20
    assert {joint for limb in LIMBS for joint in limb} == set(range(20))
    assert LIMBS[0] == (1, 2)
    assert LIMBS[12:] == ((1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (13, 18), (10, 19))
    assert COLORS[3] == (255, 255, 0)
    assert COLORS[10] == (0, 170, 255)
    assert len(FINGERS) == len(set(FINGER_COLORS)) == 20
    assert FINGERS[4] == (0, 5)
    assert FINGERS[19] == (19, 20)
    np.testing.assert_allclose(FINGER_COLORS[1], (255, 76.5, 0))


def test_points_below_the_threshold_and_their_limbs_are_left_out():
    body = two_points(2, 3)
    body[3, 2] = 0.49
    picture = draw_skeleton(body, None, SIZE)
    assert tuple(picture[30, 20]) == COLORS[2]
    assert not picture[:, 40:].any()
    assert draw_skeleton(body, None, SIZE, threshold=0.4)[30, 60].any()


def test_stick_width_follows_the_shorter_side():
    assert [stick_width(size) for size in ((128, 128), (832, 480), (1280, 720), (3840, 2160))] == [1, 1, 2, 9]
    thick = draw_skeleton(two_points(2, 3, (200, 1000), (2000, 1000)), None, (3840, 2160))
    assert (thick[:, 1100] > 0).any(-1).sum() == 2 * 9 + 1


def test_hands_are_drawn_with_blue_points():
    hands = np.zeros((2, 21, 3), np.float32)
    hands[0, 0], hands[0, 1] = (20, 60, 1), (60, 60, 1)
    picture = draw_skeleton(np.zeros((20, 3), np.float32), hands, SIZE)
    assert tuple(picture[60, 40]) == (255, 0, 0)
    assert tuple(picture[60, 20]) == (0, 0, 255)


def test_given_a_width_a_tenth_of_a_pixel_shows():
    body = two_points(2, 3, (20.0, 30.0), (100.0, 30.0))
    moved = body + np.array([0, 0.2, 0], np.float32)
    assert (draw_skeleton(body, None, SIZE) == draw_skeleton(moved, None, SIZE)).all()
    assert (draw_skeleton(body, None, SIZE, width=1.0) != draw_skeleton(moved, None, SIZE, width=1.0)).any()


def test_points_far_outside_do_no_harm():
    body = np.full((20, 3), 1e9, np.float32)
    body[:, 2] = 1
    hands = np.full((2, 21, 3), -1e9, np.float32)
    hands[..., 2] = 1
    face = np.full((70, 3), 1e9, np.float32)
    face[:, 2] = 1
    assert draw_skeleton(body, hands, SIZE, width=1.0).shape == (128, 128, 3)
    assert not draw_skeleton(body, hands, SIZE).any()
    assert not draw_face(face, SIZE).any()


@pytest.fixture
def face(figure) -> np.ndarray:
    points = figure(np.zeros((1, 21)), head=24, neck=(64, 90), size=SIZE).face[0]
    assert 23 < np.ptp(points[:, 0]) < 25
    return points


def amount(picture: np.ndarray, color: tuple[int, int, int]) -> float:
    """How much of a pure colour a picture holds, in pixels."""
    pure = picture.astype(float) / 255
    present, absent = np.array(color) > 0, np.array(color) == 0
    return float(np.clip(pure[..., present].min(-1) - (pure[..., absent].max(-1) if absent.any() else 0), 0, 1).sum())


def test_a_small_face_shows_mouth_eyes_and_gaze(face):
    opened, closed, looking = face.copy(), face.copy(), face.copy()
    opened[60:68, 1] += 4 * (face[60:68, 1] - face[60:68, 1].mean())
    closed[36:42, 1], closed[42:48, 1] = face[36:42, 1].mean(), face[42:48, 1].mean()
    looking[68:70, 0] += 1.2
    rest = draw_face(face, SIZE)
    green, white, red = (0, 255, 0), (255, 255, 255), (255, 0, 0)
    assert amount(draw_face(opened, SIZE), green) > amount(rest, green) + 5
    shut = draw_face(closed, SIZE)
    assert amount(rest, white) > 3 * amount(shut, white)
    assert amount(shut, red) < amount(rest, red) / 2
    columns = [
        (np.clip(p[..., 0].astype(float) - p[..., 1], 0, None) * (p[..., 2] < 128)).sum(0)
        for p in (rest, draw_face(looking, SIZE))
    ]
    middles = [(c * np.arange(128)).sum() / c.sum() for c in columns]
    assert middles[1] > middles[0] + 0.4


def test_a_pupil_shows_only_in_the_opening(figure):
    face = figure(np.zeros((1, 21)), head=300, neck=(256, 300), size=(512, 512)).face[0]
    face[68, :2] = face[36, :2] + (4, 0)
    red = (draw_face(face, (512, 512))[:, :256] > 127).astype(int) @ [4, 2, 1] == 4
    outline = face[36:42, :2].copy()
    inside = [cv2.pointPolygonTest(outline, (float(x), float(y)), True) for y, x in np.argwhere(red)]
    assert len(inside) > 5
    assert min(inside) > -1.5


def test_a_face_is_drawn_in_its_place_to_a_fraction_of_a_pixel(face):
    def middle(points: np.ndarray) -> np.ndarray:
        light = draw_face(points, SIZE).astype(float).sum(-1)
        rows, columns = np.indices(light.shape)
        return np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum()

    moved = face + np.array([0.3, 0.4, 0], np.float32)
    np.testing.assert_allclose(middle(moved) - middle(face), [0.3, 0.4], atol=0.08)
    assert abs(middle(face)[0] - 64) < 0.3


def test_a_box_fills_the_picture(face):
    left, top = face[:, :2].min(0)
    right, bottom = face[:, :2].max(0)
    lit = np.argwhere(draw_face(face, (256, 200), box=(left, top, right, bottom)).any(-1))
    assert (lit.min(0) < 6).all()
    assert (lit.max(0) > [190, 246]).all()


def test_features_not_seen_are_left_out(face):
    hidden = face.copy()
    hidden[48:68, 2] = 0
    assert amount(draw_face(hidden, SIZE), (255, 0, 255)) == 0
    assert amount(draw_face(hidden, SIZE), (0, 0, 255)) > 0
    hidden[:, 2] = 0
    assert not draw_face(hidden, SIZE).any()
