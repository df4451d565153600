"""Wan-Animate's own rules for what it is shown, worked out here anew from their description and compared with ours.

Nothing of the package is used to make the expected values: limbs, colours and arithmetic are written out again.
"""

import colorsys
import math

import cv2
import numpy as np
import pytest

from pasdedeux.animate.inputs import Keypoints, Performance
from pasdedeux.animate.preprocess.draw import draw_skeleton
from pasdedeux.animate.preprocess.face_crops import face_boxes, face_crops
from pasdedeux.animate.preprocess.masks import widened
from pasdedeux.animate.preprocess.retarget_wan import retarget_wan

# nose 0, neck 1, right shoulder, elbow, wrist 2-4, left 5-7, right hip, knee, ankle 8-10, left 11-13, right and left
# eye 14, 15, ears 16, 17, left and right toe 18, 19
RIGHT_ELBOW, HIPS, KNEES, ANKLES, TOES = 3, (8, 11), (9, 12), (10, 13), (18, 19)
LIMBS = [
    *((1, 2), (1, 5)),  # shoulders
    *((2, 3), (3, 4), (5, 6), (6, 7)),  # right arm, left arm
    *((1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),  # right leg, left leg
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),  # neck, right eye and ear, left eye and ear
    *((13, 18), (10, 19)),  # left foot, right foot
]
COLOURS = [
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0)),
    *((0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255)),
    *((170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85), (200, 200, 0), (100, 100, 0)),
]
FINGERS = [(0 if a % 4 == 0 else a, a + 1) for a in range(20)]  # five chains of four from the wrist


def random_people(seed: int, frames: int, size: tuple[int, int]) -> Keypoints:
    """Somebody whose joints lie about where a body's do, and are not all seen."""
    rng = np.random.default_rng(seed)
    width, height = size
    x = [0, 0, -3, -5, -6, 3, 5, 6, -2, -2, -2, 2, 2, 2, -0.6, 0.6, -1.2, 1.2, 2.4, -2.4]
    y = [0, 3, 3, 6, 9, 3, 6, 9, 10, 15, 20, 10, 15, 20, -0.5, -0.5, 0, 0, 21, 21]
    joints = np.stack([x, y], -1) * height / 26 + [width / 2, height / 8] + rng.normal(0, height / 50, (frames, 20, 2))
    wrists = joints[:, [7, 4], None]
    hands = wrists + rng.normal(0, height / 30, (frames, 2, 21, 2))
    hands[:, :, 0] = wrists[:, :, 0] + rng.normal(0, 1, (frames, 2, 2))
    face = joints[:, :1] + rng.normal(0, height / 40, (frames, 70, 2))
    sure = [np.ones((*part.shape[:-1], 1)) for part in (joints, hands, face)]
    parts = [np.concatenate(both, -1).astype(np.float32) for both in zip((joints, hands, face), sure, strict=True)]
    return Keypoints(body=parts[0], hands=parts[1], face=parts[2], size=size)


def drawn_by_the_rules(body: np.ndarray, hands: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Limbs at 0.6 of their colour, then joints, then hands: what is drawn later lies on top."""
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    stick = max(min(size) // 200 - 1, 1)
    for (a, b), colour in zip(LIMBS, COLOURS[:19], strict=True):
        (xa, ya, ca), (xb, yb, cb) = body[a].tolist(), body[b].tolist()
        if ca < 0.5 or cb < 0.5:
            continue
        middle = (int((xa + xb) / 2), int((ya + yb) / 2))
        half = math.hypot(xa - xb, ya - yb) / 2
        angle = math.degrees(math.atan2(ya - yb, xa - xb))
        outline = cv2.ellipse2Poly(middle, (int(half), stick), int(angle), 0, 360, 1)
        cv2.fillConvexPoly(canvas, outline, [int(0.6 * channel) for channel in colour])
    for (x, y, sure), colour in zip(body.tolist(), COLOURS, strict=True):
        if sure >= 0.5:
            cv2.circle(canvas, (int(x), int(y)), stick, colour, -1)
    for hand in hands.tolist():
        thin = max(stick // 2, 1)
        shown = [c >= 0.5 and x >= 1 and y >= 1 for x, y, c in hand]
        for k, (a, b) in enumerate(FINGERS):
            if shown[a] and shown[b]:
                ends = [(int(hand[p][0]), int(hand[p][1])) for p in (a, b)]
                cv2.line(canvas, *ends, [255 * c for c in colorsys.hsv_to_rgb(k / 20, 1, 1)], thin)
        for (x, y, _), one in zip(hand, shown, strict=True):
            if one:
                cv2.circle(canvas, (int(x), int(y)), thin, (0, 0, 255), -1)
    return canvas


@pytest.mark.parametrize("size", [(832, 480), (720, 1280), (1920, 1080)])
@pytest.mark.parametrize("seed", range(3))
def test_a_skeleton_is_drawn_by_the_rules(size, seed):
    people = random_people(seed, 1, size)
    body, hands = people.body[0].copy(), people.hands[0].copy()
    rng = np.random.default_rng(seed)
    body[:, 2], hands[..., 2] = rng.uniform(0.2, 1, 20), rng.uniform(0.2, 1, (2, 21))
    np.testing.assert_array_equal(draw_skeleton(body, hands, size), drawn_by_the_rules(body, hands, size))


def face_in(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Face points whose extent is this box."""
    places = np.random.default_rng(0).uniform((left, top), (right, bottom), (70, 2))
    places[[0, 16, 27, 8]] = (left, 200), (right, 200), (250, top), (250, bottom)
    return np.concatenate([places, np.ones((70, 1))], -1).astype(np.float32)


def test_the_face_box_has_the_rules_numbers():
    """100 x 80 pixels: 0.0700877 of the width on each side, 0.1051316 of the height above, 0.0350439 below."""
    ((left, top, right, bottom),), _ = face_boxes(face_in(200, 160, 300, 240)[None])
    assert (left, right) == (pytest.approx(200 - 7.00877, abs=1e-3), pytest.approx(300 + 7.00877, abs=1e-3))
    assert (top, bottom) == (pytest.approx(160 - 8.41053, abs=1e-3), pytest.approx(240 + 2.80351, abs=1e-3))


def test_the_face_is_cut_at_whole_pixels_and_its_shape_is_not_kept():
    pictures = np.random.default_rng(1).integers(0, 256, (1, 360, 640, 3), dtype=np.uint8)
    empty = np.zeros((1, 20, 3), np.float32), np.zeros((1, 2, 21, 3), np.float32)
    points = Keypoints(body=empty[0], hands=empty[1], face=face_in(200, 160, 300, 240)[None], size=(640, 360))
    crop = face_crops(Performance(keypoints=points, fps=30, frames=pictures))[[0]][0]
    np.testing.assert_array_equal(crop, cv2.resize(pictures[0, 151:242, 192:307], (512, 512)))


def room_by_the_rules(mask: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """Three dilations by a square of 7; then blocks of extent // number, up to but without the last row and column."""
    wide = mask > 0
    for _ in range(3):
        padded = np.pad(wide, 3)
        shifts = [(dy, dx) for dy in range(7) for dx in range(7)]
        wide = np.any([padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]] for dy, dx in shifts], axis=0)
    where = np.argwhere(wide)
    (top, left), (bottom, right) = where.min(0).tolist(), where.max(0).tolist()
    for x in range(left, right, (right - left) // columns):
        for y in range(top, bottom, (bottom - top) // rows):
            part = wide[y : min(y + (bottom - top) // rows, bottom), x : min(x + (right - left) // columns, right)]
            if part.any():
                part[:] = True
    return wide


@pytest.mark.parametrize("blocks", [(1, 1), (2, 3), (10, 20), (7, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_room_round_a_mask_is_by_the_rules_and_its_box_is_full(blocks, seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((160, 200), np.uint8)
    for _ in range(4):
        x, y = rng.integers(30, 170), rng.integers(30, 130)
        cv2.circle(mask, (int(x), int(y)), int(rng.integers(1, 15)), 255, -1)
    wanted, found = room_by_the_rules(mask, *blocks), widened(mask, blocks=blocks) > 0
    where = np.argwhere(wanted)
    (top, left), (bottom, right) = where.min(0), where.max(0)
    np.testing.assert_array_equal(found[top:bottom, left:right], wanted[top:bottom, left:right])
    assert (found >= wanted).all()
    assert not found[:top].any()
    assert not found[bottom + 1 :].any()


def retargeted_by_the_rules(
    performance: Keypoints, character: Keypoints, scale: float, ground: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Body [T, 20, 2] and hands [T, 2, 21, 2] with angles and lengths as numbers, limb by limb."""
    base, own = performance.body[0].astype(float), character.body[0].astype(float) * scale
    ratios = []
    for a, b in LIMBS:
        seen = min(base[a, 2], base[b, 2], character.body[0, a, 2], character.body[0, b, 2]) >= 0.4
        ratios.append(math.dist(own[a, :2], own[b, :2]) / math.dist(base[a, :2], base[b, :2]) if seen else None)
    shoulders = (ratios[0] + ratios[1]) / 2
    ratios = [shoulders if ratio is None else ratio for ratio in ratios]
    for right, left in ((0, 1), (2, 4), (3, 5), (6, 9), (7, 10), (8, 11), (17, 18)):
        ratios[right] = ratios[left] = max(ratios[right], ratios[left])
    for right, left in ((13, 15), (14, 16)):
        ratios[right] = ratios[left] = (ratios[right] + ratios[left]) / 2

    def rebuilt(body: np.ndarray, short_feet: bool) -> dict[int, tuple[float, float]]:
        placed = {1: (body[1, 0], body[1, 1])}
        length = {}
        for k, (a, b) in enumerate(LIMBS):
            length[k] = ratios[k] * math.dist(body[a, :2], body[b, :2])
        if short_feet:
            length[17], length[18] = min(length[17], length[11] / 2), min(length[18], length[8] / 2)
        for k, (a, b) in enumerate(LIMBS):
            angle = math.atan2(body[b, 1] - body[a, 1], body[b, 0] - body[a, 0])
            x, y = placed[a]
            placed[b] = (x + length[k] * math.cos(angle), y + length[k] * math.sin(angle))
        return placed

    first = rebuilt(base, False)
    if ground:
        left, right = (first[8][0] + first[11][0]) / 2, (own[8, 0] + own[11, 0]) / 2
        floor = max((own[10, 1] + own[19, 1]) / 2, (own[13, 1] + own[18, 1]) / 2)
        move = (left - right, max(first[10][1], first[13][1]) - floor)
    else:
        move = (first[1][0] - own[1, 0], first[1][1] - own[1, 1])
    bodies, hands = [], []
    for body, both in zip(performance.body.astype(float), performance.hands.astype(float), strict=True):
        placed = rebuilt(body, True)
        joints = [((placed[j][0] - move[0]) / scale, (placed[j][1] - move[1]) / scale) for j in range(20)]
        size = max(ratios[0], ratios[1]) / scale
        bodies.append(joints)
        hands.append(
            [
                [[joints[wrist][k] + size * (point[k] - hand[0][k]) for k in (0, 1)] for point in hand]
                for hand, wrist in zip(both, (7, 4), strict=True)
            ]
        )
    return np.array(bodies), np.array(hands)


def agrees(performance: Keypoints, character: Keypoints, scale: float, ground: bool) -> None:
    found = retarget_wan(performance, character)
    body, hands = retargeted_by_the_rules(performance, character, scale, ground)
    np.testing.assert_allclose(found.body[..., :2], body, atol=2e-2)
    np.testing.assert_allclose(found.hands[..., :2], hands, atol=2e-2)
    np.testing.assert_array_equal(found.body[..., 2], performance.body[..., 2])
    assert found.size == character.size


@pytest.fixture
def performance() -> Keypoints:
    return random_people(5, 4, (1280, 720))


@pytest.fixture
def character() -> Keypoints:
    return random_people(6, 1, (600, 800))


def hidden(points: Keypoints, *joints: int) -> Keypoints:
    body = points.body.copy()
    body[:, joints, 2] = 0.1
    return Keypoints(body=body, hands=points.hands, face=points.face, size=points.size)


def height(points: Keypoints, low: tuple[int, ...]) -> float:
    return abs(float(points.body[0, low, 1].mean() - points.body[0, 0, 1]))


def test_whole_bodies_are_scaled_from_nose_to_ankles_and_stand_on_the_ground(performance, character):
    agrees(performance, character, height(performance, ANKLES) / height(character, ANKLES), ground=True)


def test_without_ankles_from_nose_to_hips_and_the_neck_leads(performance, character):
    performance = hidden(performance, *ANKLES, *TOES)
    agrees(performance, character, height(performance, HIPS) / height(character, HIPS), ground=False)


def test_without_hips_by_the_pictures_areas_and_what_is_missing_by_the_shoulders(performance, character):
    character = hidden(character, *HIPS, *KNEES, *ANKLES, *TOES, RIGHT_ELBOW)
    agrees(performance, character, math.sqrt(1280 * 720 / (600 * 800)), ground=False)


def test_numbers_of_one_arm_by_hand():
    """Shoulders 100, arm 60 and 50 here; 100, 90 and 25 there. The other arm is missing: its 1 is more than a half."""
    here, there = (np.zeros((1, 20, 3), np.float32) for _ in range(2))
    here[0, [1, 2, 5, 3, 4]] = (200, 100, 1), (150, 100, 1), (250, 100, 1), (150, 160, 1), (200, 160, 1)
    there[0, [1, 2, 5, 3, 4]] = (300, 80, 1), (250, 80, 1), (350, 80, 1), (160, 80, 1), (160, 105, 1)
    none = {"hands": np.zeros((1, 2, 21, 3), np.float32), "face": np.zeros((1, 70, 3), np.float32), "size": (400, 400)}
    found = retarget_wan(Keypoints(body=here, **none), Keypoints(body=there, **none)).body[0, :, :2]
    wanted = [(300, 80), (250, 80), (350, 80), (250, 170), (300, 170)]
    np.testing.assert_allclose(found[[1, 2, 5, 3, 4]], wanted, atol=1e-3)
