"""The drawn world keeps its promises: same seeds, same bytes; labels lie where things are drawn."""

import itertools
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest

from pasdedeux.puppets import (
    ANATOMY,
    Camera,
    Character,
    Choreography,
    Clip,
    Light,
    Place,
    Poses,
    render,
    render_still,
)


def clip(seed: int, frames: int = 8, size: tuple[int, int] = (128, 128), **light: float) -> Clip:
    poses = Choreography.from_seed(seed).poses(frames, 3.0)
    lamp = replace(Light.from_seed(seed), **light)
    return render(Character.from_seed(seed), poses, Place.from_seed(seed), lamp, size)


def facing(**face: float) -> Poses:
    """Standing, head on; `eyes` and `mouth` set the closure of both eyes and the opening of the mouth."""
    poses = Poses.still()
    poses.eyes[:, :2] = face.get("eyes", 0.0)
    poses.mouth[:, 0] = face.get("mouth", 0.0)
    return poses


def shown(poses: Poses, seed: int = 3, size: int = 256) -> Clip:
    character = Character.from_seed(seed)
    character = replace(character, face=replace(character.face, glasses="none"))
    return render(character, poses, Place.from_seed(0), Light.from_seed(0), (size, size))


def test_same_seeds_give_same_bytes() -> None:
    for field in fields(Clip):
        first, second = (np.asarray(getattr(clip(5), field.name)) for _ in range(2))
        assert first.dtype == second.dtype
        assert first.tobytes() == second.tobytes()


def test_characters_are_distinct() -> None:
    assert len({Character.from_seed(seed) for seed in range(2000)}) == 2000
    place, light = Place.from_seed(0), Light.from_seed(0)
    pictures = [render_still(Character.from_seed(s), place, light).frames for s in range(50)]
    assert len({picture.tobytes() for picture in pictures}) == 50


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (160, 96), (90, 160)])
def test_shapes_and_types(size: tuple[int, int]) -> None:
    made, (width, height) = clip(2, 3, size), size
    assert made.frames.shape == (3, height, width, 3)
    assert made.mask.shape == (3, height, width)
    assert made.background.shape == (height, width, 3)
    assert made.frames.dtype == made.mask.dtype == made.background.dtype == np.uint8
    assert made.body.shape == (3, 20, 3)
    assert made.hands.shape == (3, 2, 21, 3)
    assert made.face.shape == (3, 70, 3)
    assert made.body.dtype == made.hands.dtype == made.face.dtype == np.float32


def test_visible_joints_lie_on_the_person() -> None:
    hits, total = 0, 0
    for seed in range(12):
        made = clip(seed)
        for t, mask in enumerate(made.mask):
            near = cv2.dilate(mask, np.ones((7, 7), np.uint8)) > 0
            points = np.concatenate([made.body[t], made.hands[t].reshape(-1, 3), made.face[t]])
            x, y = points[points[:, 2] > 0, :2].astype(int).T
            hits, total = hits + int(near[y, x].sum()), total + len(x)
    assert hits / total >= 0.97


def test_confidence_is_zero_outside_of_the_picture() -> None:
    poses = Choreography.from_seed(1).poses(4, 2.0)
    made = render(
        Character.from_seed(1),
        poses,
        Place.from_seed(1),
        Light.from_seed(1),
        camera=Camera(scale=2.2, center=(0.5, 1.0)),
    )
    outside = (made.body[..., 1] >= 128) | (made.body[..., 1] < 0)
    assert outside.any()
    assert not made.body[outside][:, 2].any()


def test_a_turned_head_hides_its_face() -> None:
    poses = facing()
    poses.pelvis[:, 1] = np.pi
    made = shown(poses)
    assert not made.face[0, 17:, 2].any()
    assert not made.body[0, 0, 2]


def test_mouth_opening_moves_lips_and_pixels() -> None:
    shut, agape = shown(facing()), shown(facing(mouth=0.9))
    gap = agape.face[0, 66, 1] - agape.face[0, 62, 1]
    assert gap > shut.face[0, 66, 1] - shut.face[0, 62, 1] + 3
    x, y = np.mean(agape.face[0, [62, 66], :2], axis=0).astype(int)
    before, after = (c.frames[0, y - 2 : y + 3, x - 2 : x + 3].astype(int) for c in (shut, agape))
    assert np.abs(before - after).mean() > 15


def test_blink_closes_eyes_and_hides_pupils() -> None:
    awake, asleep = shown(facing()), shown(facing(eyes=1.0))
    height = [np.ptp(c.face[0, [37, 38, 40, 41], 1]) for c in (awake, asleep)]
    assert height[1] < 0.35 * height[0]
    assert awake.face[0, 68:, 2].all()
    assert not asleep.face[0, 68:, 2].any()
    x, y = awake.face[0, 68, :2].astype(int)
    assert np.abs(awake.frames[0, y, x].astype(int) - asleep.frames[0, y, x]).mean() > 20


def test_subject_right_is_picture_left() -> None:
    made = shown(facing())
    for right, left in ((2, 5), (4, 7), (8, 11), (10, 13), (14, 15), (16, 17), (19, 18)):
        assert made.body[0, right, 0] < made.body[0, left, 0]
    assert made.hands[0, 0, 0, 0] > made.hands[0, 1, 0, 0]
    assert made.face[0, 68, 0] < made.face[0, 69, 0]


def test_frame_is_background_where_nobody_is() -> None:
    made = clip(4, shadow=0.0)
    for frame, mask in zip(made.frames, made.mask, strict=True):
        assert (frame[mask == 0] == made.background[mask == 0]).all()
        assert (frame[mask == 255] != made.background[mask == 255]).any(axis=-1).mean() > 0.8


def test_shadow_darkens_the_floor_only_outside_of_the_mask() -> None:
    made = clip(4, shadow=0.6)
    change = (made.frames.astype(int) - made.background)[made.mask == 0]
    assert change.max() == 0
    assert change.min() < -10


def test_same_poses_give_the_same_limb_angles() -> None:
    poses = Choreography.from_seed(9).poses(16, 2.0)
    place, light = Place.from_seed(0), Light.from_seed(0)
    bodies = [render(Character.from_seed(s), poses, place, light).body[..., :2] for s in (1, 2)]
    for chain in ANATOMY.values():
        for a, b in itertools.pairwise(chain[:3]):
            one, two = (body[:, b] - body[:, a] for body in bodies)
            cross = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
            lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
            assert np.abs(cross / lengths).max() < 1e-3
            assert ((one * two).sum(1) > 0).all()


def test_light_changes_the_character() -> None:
    character, place = Character.from_seed(3), Place.from_seed(3)
    warm = replace(Light.from_seed(0), colour=(1.0, 0.8, 0.6), ambient=(0.6, 0.5, 0.4))
    cold = replace(warm, colour=(0.7, 0.8, 1.0), ambient=(0.4, 0.5, 0.6))
    tones = []
    for light in (warm, cold):
        made = render_still(character, place, light)
        tones.append(made.frames[made.mask == 255].mean(axis=0))
    assert tones[0][0] - tones[1][0] > 10
    assert tones[1][2] - tones[0][2] > 10


def test_a_light_colours_the_place_as_well() -> None:
    place, warm = Place.from_seed(3), replace(Light.from_seed(0), colour=(1.0, 0.8, 0.6), ambient=(1.0, 0.6, 0.4))
    lit, own = warm.on(place.draw((64, 64))), place.draw((64, 64))
    assert (lit[..., 0] == own[..., 0]).all()
    ratio = lit.astype(float).mean((0, 1)) / own.mean((0, 1))
    assert ratio == pytest.approx([1.0, 0.7, 0.5], abs=0.01)
    made = render_still(Character.from_seed(3), place, warm, (64, 64))
    assert (made.background == lit).all()


def test_choreography_is_smooth_bounded_and_never_loops() -> None:
    poses = Choreography.from_seed(6).poses(24 * 60, 24.0)
    flat = np.concatenate([getattr(poses, f.name).reshape(len(poses), -1) for f in fields(Poses)], axis=1)
    assert np.isfinite(flat).all()
    assert np.abs(flat).max() < 4
    for name in ("arms", "legs", "spine", "pelvis"):
        assert np.abs(np.diff(getattr(poses, name), axis=0)).max() < 0.6
    second = flat[::24]
    distance = np.linalg.norm(second[:, None] - second[None], axis=-1) + 9 * np.eye(len(second))
    assert distance.min() > 0.05


def test_choreography_does_not_depend_on_where_one_starts() -> None:
    dance = Choreography.from_seed(8)
    whole, later = dance.poses(40, 10.0), dance.poses(10, 10.0, start=3.0)
    for field in fields(Poses):
        np.testing.assert_allclose(getattr(whole[30:], field.name), getattr(later, field.name), atol=1e-4)


def test_sizes_show_the_same_picture() -> None:
    small, large = clip(7, 2, (128, 128)), clip(7, 2, (256, 256))
    np.testing.assert_allclose(large.body[..., :2], 2 * small.body[..., :2], atol=1e-2)
    down = cv2.resize(large.frames[0], (128, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(down.astype(int) - small.frames[0]).mean() < 4


def test_background_can_be_replaced() -> None:
    plain = np.full((128, 128, 3), 77, np.uint8)
    made = render(Character.from_seed(1), facing(), Place.from_seed(1), Light.from_seed(1), background=plain)
    assert (made.background == 77).all()
    assert (made.frames[0, :8, :8] == 77).all()


def test_standing_height() -> None:
    for seed in range(40):
        body = render_still(Character.from_seed(seed), Place.from_seed(0), Light.from_seed(0), pose_seed=seed).body
        assert 0.4 * 128 < body[0, 10, 1] - body[0, 14, 1] < 0.75 * 128
        assert body[0, :, 2].all()


@pytest.mark.parametrize("kind", [Character, Choreography, Light, Place])
def test_negative_seeds_are_refused(kind: type[Character | Choreography | Light | Place]) -> None:
    with pytest.raises(ValueError, match="seed must be 0 or more"):
        kind.from_seed(-1)


def test_wrong_arguments_are_refused() -> None:
    someone, place, light = Character.from_seed(0), Place.from_seed(0), Light.from_seed(0)
    with pytest.raises(ValueError, match="at least 16 x 16"):
        render(someone, facing(), place, light, (8, 8))
    with pytest.raises(ValueError, match="a background must be"):
        render(someone, facing(), place, light, background=np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="at least one frame"):
        render(someone, facing()[:0], place, light)
    with pytest.raises(ValueError, match="fps > 0"):
        Choreography.from_seed(0).poses(5, 0.0)
