"""What is drawn of a performance for the Wan families, and how masks are laid out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pasdedeux.animate.condition.wan import known_frames_mask, to_video
from pasdedeux.animate.condition.wan_drivers import (
    Drivers,
    begun,
    by_latent_frame,
    draw_drivers,
    mask_of,
)
from pasdedeux.animate.inputs import CharacterImage, InputError, Keypoints, Performance
from pasdedeux.animate.preprocess.draw import draw_skeleton
from pasdedeux.animate.preprocess.masks import widened
from pasdedeux.animate.preprocess.retarget import retarget

SIZE = (256, 256)


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def points(figure, swings) -> Keypoints:
    return figure(swings)


@pytest.fixture
def character(points) -> CharacterImage:
    return CharacterImage(image=pictures(256, 256, 3), mask=np.zeros((256, 256), np.uint8), keypoints=points.frame(0))


@pytest.fixture
def performance(points) -> Performance:
    mask = np.zeros((len(points), 256, 256), np.uint8)
    mask[:, 60:200, 100:150] = 255
    mask[-1] = 0
    return Performance(keypoints=points, fps=30.0, frames=pictures(len(points), 256, 256, 3, seed=1), mask=mask)


def test_animate_draws_the_skeleton_the_face_and_the_character(character, performance):
    moved = retarget(performance.keypoints, character.keypoints)
    drivers = draw_drivers(character, performance, moved, "animate", face_side=32)
    assert drivers.background is None
    assert drivers.mask is None
    assert drivers.surroundings([0]) is None
    assert len(drivers) == len(performance.keypoints)
    assert drivers.size == SIZE
    assert drivers.face[[0, 5]].shape == (2, 32, 32, 3)
    assert drivers.notes == ()
    np.testing.assert_array_equal(drivers.reference, character.image)
    drawn = drivers.pose[[3, 3, 1]]
    np.testing.assert_array_equal(drawn[2], draw_skeleton(moved.body[1], moved.hands[1], SIZE))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert drawn.any()


def test_replace_empties_the_place_where_the_person_is(character, performance):
    drivers = draw_drivers(character, performance, performance.keypoints, "replace", face_side=16)
    surroundings = drivers.surroundings([2, 11])
    assert surroundings is not None
    background, mask = surroundings
    np.testing.assert_array_equal(mask[0], widened(performance.mask[2]))
    assert not background[mask == 255].any()
    np.testing.assert_array_equal(background[0][mask[0] == 0], performance.frames[2][mask[0] == 0])
    assert not mask[1].any()  # nobody there
    np.testing.assert_array_equal(background[1], performance.frames[11])


def test_the_character_is_letterboxed(character, performance):
    wide = character.keypoints.scaled((512, 256))
    moved = replace(performance.keypoints.scaled((512, 256)), view=None)
    black = draw_drivers(character, performance, moved, "animate").reference
    assert wide.size == (512, 256)
    assert black.shape == (256, 512, 3)
    np.testing.assert_array_equal(black[:, 128:384], character.image)
    assert not black[:, :128].any()
    assert not black[:, 384:].any()


def test_the_face_is_on_the_pose_where_it_is_wanted(character, performance):
    moved = retarget(performance.keypoints, character.keypoints)
    plain = draw_drivers(character, performance, moved, "animate").pose[[3]][0]
    dotted = draw_drivers(character, performance, moved, "animate", face_on_pose=True).pose[[3]][0]
    changed = (plain != dotted).any(axis=-1)
    added = changed & (dotted == 255).all(axis=-1)
    face = moved.face[3, :68, :2].round().astype(int)
    assert added[face[:, 1], face[:, 0]].mean() > 0.9
    rows, columns = np.nonzero(changed & ~added)
    toes = moved.body[3, (18, 19), :2]
    # What else changed are the toes and the sticks that lead to them.
    ankles = moved.body[3, (10, 13), :2]
    reach = max(np.linalg.norm(toes - ankles, axis=1).max() + 4, 8)
    for x, y in zip(columns, rows, strict=True):
        assert min(np.linalg.norm(ankles - (x, y), axis=1).min(), np.linalg.norm(toes - (x, y), axis=1).min()) < reach


def test_what_is_missing_is_said(character, performance):
    blind = replace(performance, frames=None, mask=None)
    drivers = draw_drivers(character, blind, performance.keypoints, "animate")
    assert "expression is not taken over" in drivers.notes[0]
    assert not drivers.face[[0]].any()
    with pytest.raises(InputError, match="pictures and mask"):
        draw_drivers(character, blind, performance.keypoints, "replace")
    hidden = performance.keypoints.face * np.array([1, 1, 0], np.float32)
    hidden = replace(performance, keypoints=replace(performance.keypoints, face=hidden))
    assert draw_drivers(character, hidden, hidden.keypoints, "animate").notes == (
        "no face is seen in 12 of the driver's 12 frames",
    )


def test_what_does_not_fit_is_refused(character, performance):
    points = performance.keypoints
    with pytest.raises(ValueError, match='no mode "swap"'):
        draw_drivers(character, performance, points, "swap")
    with pytest.raises(ValueError, match="3 frames of points for a performance of 12"):
        draw_drivers(character, performance, points[:3], "animate")
    with pytest.raises(InputError, match="pictures of 256x256, but the output is 128x128"):
        draw_drivers(character, performance, points.scaled((128, 128)), "replace")
    clip, still = pictures(4, 8, 8, 3), pictures(8, 8, 3)
    with pytest.raises(ValueError, match="belong together"):
        Drivers(pose=clip, face=clip, reference=still, background=clip)
    with pytest.raises(ValueError, match="3 pictures of the face, but 4 of the pose"):
        Drivers(pose=clip, face=clip[:3], reference=still)


class Reel:
    """Pictures that come one at a time and can do nothing else."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: list[int], /) -> np.ndarray:
        assert len(index) == 1
        return self.pictures[index]


def test_pictures_may_be_read_one_at_a_time(character, performance):
    reels = replace(performance, frames=Reel(performance.frames), mask=Reel(performance.mask))
    for mode in ("animate", "replace"):
        found, wanted = (draw_drivers(character, p, p.keypoints, mode, face_side=16) for p in (reels, performance))
        np.testing.assert_array_equal(found.face[[1, 4]], wanted.face[[1, 4]])
        surroundings = found.surroundings([1, 4]), wanted.surroundings([1, 4])
        if mode == "replace":
            for ours, theirs in zip(*surroundings, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_the_room_that_is_emptied_can_be_chosen(character, performance):
    drivers = draw_drivers(character, performance, performance.keypoints, "replace", grow=0, blocks=None)
    background, mask = drivers.surroundings([3])
    np.testing.assert_array_equal(mask[0], performance.mask[3])
    np.testing.assert_array_equal(background[0][mask[0] == 0], performance.frames[3][mask[0] == 0])
    assert not background[mask == 255].any()


@given(st.integers(0, 5), st.integers(0, 21))
def test_latent_frames_hold_four_pictures_the_first_one_four_times(more, known):
    pictures_ = 1 + 4 * more
    mask = torch.zeros(1, 1, pictures_, 2, 3)
    mask[:, :, :known] = 1
    assert torch.equal(by_latent_frame(mask), known_frames_mask(pictures_, known, 2, 3))
    assert torch.equal(by_latent_frame(mask)[0, :, 0], mask[0, 0, 0].expand(4, 2, 3))


def test_frames_handed_over_come_first():
    video, handed = to_video(pictures(9, 8, 8, 3)), pictures(5, 8, 8, 3, seed=1)
    joined = begun(video, handed)
    assert torch.equal(joined[:, :, :5], to_video(handed))
    assert torch.equal(joined[:, :, 5:], video[:, :, 5:])
    assert begun(video, None) is video


def test_a_mask_is_one_where_it_is_255():
    assert mask_of(np.array([[[0, 255]]], np.uint8)).tolist() == [[[[[0.0, 1.0]]]]]
