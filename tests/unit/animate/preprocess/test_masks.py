"""Masks over time: steady, nobody else's, never empty where somebody is seen; and the room around them."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasdedeux.animate.inputs import Keypoints
from pasdedeux.animate.preprocess.masks import Steady, mask_notes, steady, widened
from pasdedeux.animate.preprocess.silhouette import around_limbs, followed, own_parts

FPS = 10.0  # 0.3 seconds are three frames
NO_POINTS = np.zeros((0, 3), np.float32)


def disc(x: float, y: float, radius: int = 20, size: tuple[int, int] = (160, 120)) -> np.ndarray:
    return cv2.circle(np.zeros((size[1], size[0]), np.uint8), (round(x), round(y)), radius, 255, -1)


def silhouettes(points: Keypoints) -> list[np.ndarray]:
    """Somebody a little stouter than their limbs."""
    around = [around_limbs(b, h, points.size) for b, h in zip(points.body, points.hands, strict=True)]
    return [cv2.dilate(mask, np.ones((5, 5), np.uint8)) for mask in around]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return float(((a > 0) & (b > 0)).sum() / max(((a > 0) | (b > 0)).sum(), 1))


def masks_of(steadied: Iterator[Steady]) -> list[np.ndarray]:
    return [one.mask for one in steadied]


@pytest.fixture
def dancer(figure, swings) -> Keypoints:
    """Limbs swing while the whole walks across."""
    points = figure(swings, neck=(100, 70))
    body, hands = points.body.copy(), points.hands.copy()
    for part in (body, hands):
        part[..., 0] += (4 * np.arange(12)).reshape(-1, *[1] * (part.ndim - 2))
    return replace(points, body=body, hands=hands)


def test_what_does_not_change_is_left_as_it_is(dancer):
    still = dancer[np.zeros(6, int)]
    wanted = silhouettes(still)
    for mask, given_ in zip(masks_of(steady(wanted, still, FPS)), wanted, strict=True):
        np.testing.assert_array_equal(mask, given_)


def test_a_dancer_is_followed_without_lag(dancer):
    wanted = silhouettes(dancer)
    for mask, given_ in zip(masks_of(steady(wanted, dancer, 30)), wanted, strict=True):
        assert overlap(mask, given_) > 0.96


@pytest.mark.parametrize("pace", [0, 3])
def test_without_points_the_masks_own_motion_is_followed(pace):
    wanted = [disc(40 + pace * k, 60) for k in range(9)]
    wanted[4] = wanted[4] & ~disc(40 + pace * 4, 45, 8)  # a bite out of one frame
    found = masks_of(steady(wanted, None, FPS))
    for k, mask in enumerate(found):
        assert overlap(mask, disc(40 + pace * k, 60)) > 0.95


def test_what_is_lost_or_added_in_one_frame_is_put_right(dancer):
    wanted = silhouettes(dancer)
    torn = [mask.copy() for mask in wanted]
    leg = dancer.body[5, [11, 12, 13], :2]
    cv2.line(torn[5], leg[0].astype(int).tolist(), leg[1].astype(int).tolist(), 0, 18)
    x, y = dancer.body[7, 2, :2].astype(int).tolist()
    cv2.circle(torn[7], (x - 25, y), 12, 255, -1)
    before, found = [overlap(torn[k], wanted[k]) for k in (5, 7)], masks_of(steady(torn, dancer, 30))
    for k, was in zip((5, 7), before, strict=True):
        assert overlap(found[k], wanted[k]) > max(was + 0.01, 0.95)


def test_a_quick_hand_is_not_voted_away(dancer):
    body = dancer.body[np.zeros(9, int)].copy()
    hands = dancer.hands[np.zeros(9, int)].copy()
    body[4, 4, :2] += [-45, -60]  # in one frame only
    hands[4, 1, :, :2] += [-45, -60]
    quick = replace(dancer[np.zeros(9, int)], body=body, hands=hands)
    wanted = silhouettes(quick)
    found = masks_of(steady(wanted, quick, 30))
    x, y = body[4, 4, :2].astype(int)
    assert wanted[4][y, x] == found[4][y, x] == 255


def test_islands_go_unless_a_point_lies_on_them_and_large_ones_nearby_stay():
    body = disc(60, 60, 25)
    speck, far, near, held = disc(60, 15, 3), disc(150, 60, 6), disc(93, 60, 6), disc(140, 110, 4)
    point = np.array([[140, 110, 1], [60, 60, 1], [150, 60, 0.2]], np.float32)
    found = own_parts(body | speck | far | near | held, point)
    np.testing.assert_array_equal(found, body | near | held)
    without = own_parts(body | far | speck, NO_POINTS)
    np.testing.assert_array_equal(without, body)


def test_small_holes_are_filled_and_an_arm_on_a_hip_is_none():
    whole = disc(80, 60, 50)
    pierced = whole & ~disc(80, 60, 3)
    np.testing.assert_array_equal(own_parts(pierced, NO_POINTS), whole)
    akimbo = whole & ~disc(90, 60, 12)
    np.testing.assert_array_equal(own_parts(akimbo, NO_POINTS), akimbo)


def test_an_empty_mask_stays_empty_where_nobody_is_seen(dancer):
    unsure = np.float32([1, 1, 0])
    nobody = replace(dancer, body=dancer.body * unsure, hands=dancer.hands * unsure)
    empty = [np.zeros((256, 256), np.uint8)] * 12
    for points in (None, nobody):
        found = list(steady(empty, points, FPS))
        assert not any(one.mask.any() for one in found)
        assert {one.origin for one in found} == {"nobody"}


def test_a_short_gap_takes_the_neighbours_mask_moved(dancer):
    wanted = silhouettes(dancer)
    lost = [np.zeros_like(m) if k in (5, 6, 7) else m for k, m in enumerate(wanted)]
    found = list(steady(lost, dancer, FPS))
    assert [one.origin for one in found] == ["seen"] * 5 + ["moved"] * 3 + ["seen"] * 4
    for k in (5, 6, 7):
        assert overlap(found[k].mask, wanted[k]) > 0.85
    assert mask_notes(one.origin for one in found) == (
        "the mask was lost in 3 of 12 frames and is taken from a frame nearby",
    )


def test_in_a_long_gap_the_limbs_are_covered(dancer):
    wanted = silhouettes(dancer)
    lost = [m if k == 0 else np.zeros_like(m) for k, m in enumerate(wanted)]
    found = list(steady(lost, dancer, FPS))
    assert [one.origin for one in found] == ["seen"] + ["moved"] * 3 + ["limbs"] * 8
    for k, one in enumerate(found):
        columns, rows = dancer.body[k, :, :2].round().astype(int).T
        assert (one.mask[rows, columns] == 255).all()
        assert (one.mask > 0).mean() < 0.5
    assert "drawn round the limbs" in mask_notes(one.origin for one in found)[1]


def test_a_mask_of_somebody_else_counts_as_lost(dancer):
    wanted = silhouettes(dancer)
    wanted[4] = disc(20, 230, 15, (256, 256))
    found = list(steady(wanted, dancer, FPS))
    assert found[4].origin == "moved"
    assert not found[4].mask[230, 20]


def test_nothing_crosses_a_cut(dancer):
    here, there = [disc(40, 60)] * 5, [disc(120, 60)] * 5
    found = masks_of(steady(here + there, None, FPS, cuts=[5]))
    for mask, given_ in zip(found, here + there, strict=True):
        np.testing.assert_array_equal(mask, given_)
    wanted = silhouettes(dancer)
    lost = [m if k < 5 else np.zeros_like(m) for k, m in enumerate(wanted)]
    origins = [one.origin for one in steady(lost, dancer, FPS, cuts=[5])]
    assert origins == ["seen"] * 5 + ["limbs"] * 7


def test_only_a_few_masks_are_held(dancer):
    taken = 0

    def masks() -> Iterator[np.ndarray]:
        nonlocal taken
        for mask in silhouettes(dancer[np.arange(20) % 12]):
            taken += 1
            yield mask

    for given_back, _ in enumerate(steady(masks(), dancer[np.arange(20) % 12], FPS)):
        assert taken <= given_back + 1 + 3 + 2 + 1


def test_trembling_outlines_are_steadier(dancer):
    rng = np.random.default_rng(0)
    wanted = silhouettes(dancer)

    def torn(mask: np.ndarray) -> np.ndarray:
        bumps = cv2.resize(rng.normal(0, 1, (40, 40)), mask.shape[::-1]) * 60
        soft = cv2.GaussianBlur(mask, (0, 0), 3)
        return ((soft + bumps) > 127).astype(np.uint8) * 255

    trembling = [torn(mask) for mask in wanted]
    calm = masks_of(steady(trembling, dancer, 30))
    before, after = (flicker(masks, dancer) for masks in (trembling, calm))
    assert after < 0.7 * before
    assert all(overlap(a, b) > overlap(c, b) - 0.005 for a, b, c in zip(calm, wanted, trembling, strict=True))


def flicker(masks: list[np.ndarray], points: Keypoints) -> float:
    """Mean share of the person's area that differs from the mask before, as that would lie now."""
    joined = [np.concatenate([b, *h]) for b, h in zip(points.body, points.hands, strict=True)]
    moved = [followed(masks[k - 1], joined[k - 1], joined[k]) > 127 for k in range(1, len(masks))]
    return float(np.mean([((a > 0) ^ b).sum() / max((a > 0).sum(), 1) for a, b in zip(masks[1:], moved, strict=True)]))


@given(st.data())
def test_any_masks_and_points_give_one_clean_mask_each(data):
    count = data.draw(st.integers(1, 9))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    masks = [cv2.resize((rng.random((4, 5)) < rng.random()).astype(np.uint8) * 255, (40, 32)) for _ in range(count)]
    spread = data.draw(st.sampled_from([1e4, 30.0, 0.0]))
    points = [rng.normal(16, spread, (count, *n, 3)).astype(np.float32) for n in ((20,), (2, 21), (70,))]
    for part in points:
        part[..., 2] = rng.random(part.shape[:-1])
    keypoints = Keypoints(body=points[0], hands=points[1], face=points[2], size=(40, 32))
    cuts = data.draw(st.lists(st.integers(0, 9), max_size=3))
    found = list(steady(masks, data.draw(st.sampled_from([None, keypoints])), data.draw(st.floats(1, 60)), cuts))
    assert len(found) == count
    for one in found:
        assert one.mask.shape == (32, 40)
        assert one.mask.dtype == np.uint8
        assert set(np.unique(one.mask)) <= {0, 255}
        assert one.mask.any() or one.origin != "seen"


def test_no_masks_give_none():
    assert list(steady([])) == []


def test_a_mask_grows_by_nine_pixels_and_fills_its_box():
    mask = np.zeros((60, 80), np.uint8)
    mask[20:22, 30:32] = mask[40, 50] = 255
    wanted = np.zeros_like(mask)
    wanted[11:50, 21:60] = 255
    np.testing.assert_array_equal(widened(mask), wanted)


def test_a_finer_grid_fills_only_what_is_touched():
    mask = np.zeros((60, 80), np.uint8)
    mask[20, 20] = mask[50, 60] = 255
    wide = widened(mask, blocks=(2, 2))
    assert (wide[11:30, 11:30] == 255).all()
    assert not wide[11:30, 50:].any()
    assert not wide[45:, 11:30].any()


@pytest.mark.parametrize("blocks", [None, (0, 0)])
def test_without_blocks_the_outline_is_kept(blocks):
    mask = disc(80, 60, 20)
    np.testing.assert_array_equal(widened(mask, 0, blocks), mask)
    grown = widened(mask, 2, blocks)
    np.testing.assert_array_equal(grown, cv2.dilate(mask, np.ones((5, 5), np.uint8)))


def test_an_empty_mask_stays_empty_and_grey_counts_as_background():
    assert not widened(np.zeros((20, 20), np.uint8)).any()
    assert not widened(np.full((20, 20), 127, np.uint8)).any()


@pytest.mark.parametrize("wrong", [{"grow": -1}, {"blocks": (-1, 2)}])
def test_negative_room_is_refused(wrong):
    with pytest.raises(ValueError, match="0 or more"):
        widened(disc(80, 60), **wrong)


@given(st.integers(0, 12), st.integers(1, 200), st.integers(1, 200), st.integers(1, 60))
def test_room_always_holds_the_mask_and_lies_in_its_box(grow, columns, rows, radius):
    mask = disc(70, 66, radius)
    wide, box = widened(mask, grow, (columns, rows)), widened(mask, grow)
    assert (wide >= mask).all()
    assert (wide <= box).all()


def test_a_face_alone_is_covered_too(figure: Callable[..., Keypoints]):
    points = figure(np.zeros((1, 21)))
    body = points.body[0] * np.float32([1, 1, 0])
    body[[0, 14, 15], 2] = 1
    mask = around_limbs(body, points.hands[0] * 0, points.size)
    x, y = body[0, :2].astype(int)
    assert mask[y, x] == 255
    assert 0.01 < (mask > 0).mean() < 0.3
