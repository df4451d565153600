"""Keypoints, drawn poses and masks that a user already has: brought to the job's picture, rate and length."""

import cv2
import numpy as np
import pytest

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.preprocess.coco133 import to_wholebody
from pasdedeux.animate.preprocess.given import given_keypoints, given_mask, given_pose, outline
from pasdedeux.animate.preprocess.wholebody import save_keypoints
from pasdedeux.animate.video import VideoWriter

SIZE = (256, 256)


@pytest.fixture
def walking(figure):
    """Somebody who walks 5 px a frame through thirty frames."""
    return [figure(np.zeros((1, 21)), neck=(40 + 5 * i, 70), size=SIZE) for i in range(30)]


def saved(path, clips, fps, size=SIZE):
    whole = type(clips[0])(
        body=np.concatenate([clip.body for clip in clips]),
        hands=np.concatenate([clip.hands for clip in clips]),
        face=np.concatenate([clip.face for clip in clips]),
        size=size,
    )
    save_keypoints(path, whole, fps)
    return path


def necks(keypoints):
    return keypoints.body[:, 1, 0].round(3).tolist()


def test_keypoints_of_the_same_rate_are_taken_as_they_are(tmp_path, walking):
    path = saved(tmp_path / "a.npz", walking, 30.0)
    found, notes = given_keypoints(path, SIZE, 30, 30.0)
    assert necks(found) == [40 + 5 * i for i in range(30)]
    assert notes == ()


def test_keypoints_that_say_their_rate_are_read_by_time(tmp_path, walking):
    path = saved(tmp_path / "a.npz", walking, 30.0)
    found, notes = given_keypoints(path, SIZE, 15, 15.0)
    assert necks(found) == [40 + 10 * i for i in range(15)]
    assert notes == ()
    found, _ = given_keypoints(path, SIZE, 8, 16.0, start=0.5, end=1.0)
    assert necks(found) == [40 + 5 * int(15 + i * 30 / 16 + 1e-3) for i in range(8)]


def test_keypoints_are_of_the_whole_driver_or_of_the_range(tmp_path, walking):
    paths = []
    for fps in (None, 30.0):
        paths.append(saved(tmp_path / f"whole{fps}.npz", walking, fps))
        paths.append(saved(tmp_path / f"part{fps}.npz", walking[10:20], fps))
    for path in paths:
        found, notes = given_keypoints(path, SIZE, 10, 30.0, start=10 / 30, end=20 / 30)
        assert necks(found) == [90 + 5 * i for i in range(10)]
        assert notes == ()


@pytest.mark.parametrize(("frames", "said"), [(32, "2 frames before"), (31, "1 frame before"), (28, "2 frames more")])
def test_a_frame_or_two_are_put_up_with_and_said(tmp_path, walking, frames, said):
    path = saved(tmp_path / "a.npz", walking, 30.0)
    found, notes = given_keypoints(path, SIZE, frames, 30.0)
    assert len(found) == frames
    assert necks(found) == [40 + 5 * min(i, 29) for i in range(frames)]
    assert said in notes[0]


@pytest.mark.parametrize("frames", [33, 60, 27, 10])
def test_more_is_another_clip(tmp_path, walking, frames):
    path = saved(tmp_path / "a.npz", walking, 30.0)
    with pytest.raises(InputError, match="not of this clip"):
        given_keypoints(path, SIZE, frames, 30.0)


def test_keypoints_of_a_larger_picture_are_scaled_and_of_another_shape_refused(tmp_path, walking):
    path = saved(tmp_path / "a.npz", walking, 30.0)
    found, _ = given_keypoints(path, (128, 128), 30, 30.0)
    assert found.size == (128, 128)
    assert necks(found)[:2] == [20, 22.5]
    with pytest.raises(InputError, match="not the same shape"):
        given_keypoints(path, (256, 128), 30, 30.0)


def test_arrays_lie_in_the_drivers_picture(tmp_path, walking):
    np.save(tmp_path / "a.npy", np.concatenate([to_wholebody(clip) for clip in walking]))
    found, _ = given_keypoints(tmp_path / "a.npy", (300, 200), 30, 30.0)
    assert found.size == (300, 200)
    assert necks(found) == [40 + 5 * i for i in range(30)]


def video(path, pictures, fps=25.0):
    height, width = pictures[0].shape[:2]
    with VideoWriter(path, fps=fps, size=(width, height)) as writer:
        for picture in pictures:
            writer.write(picture)
    return path


def squares(count=10, size=(64, 48)):
    """A white square that moves 4 px a frame on black."""
    pictures = np.zeros((count, size[1], size[0], 3), np.uint8)
    for i, picture in enumerate(pictures):
        picture[10:30, 4 * i : 4 * i + 16] = 255
    return pictures


def agree(mask, truth):
    return ((mask > 0) & (truth > 0)).sum() / ((mask > 0) | (truth > 0)).sum()


def test_a_mask_video_is_black_and_white_at_the_jobs_size(tmp_path):
    path = video(tmp_path / "mask.mp4", squares())
    mask, notes = given_mask(path, (128, 96), 10, 25.0)
    assert notes == ()
    assert len(mask) == 10
    pictures = mask[[0, 3, 9]]
    assert pictures.shape == (3, 96, 128)
    assert {*np.unique(pictures)} == {0, 255}
    for picture, i in zip(pictures, (0, 3, 9), strict=True):
        assert agree(picture, cv2.resize(squares()[i, ..., 0], (128, 96), interpolation=cv2.INTER_NEAREST)) > 0.9


def test_a_folder_of_masks_and_its_length(tmp_path):
    for i, picture in enumerate(squares()):
        cv2.imwrite(str(tmp_path / f"mask_{i}.png"), picture // 255 * 200)
    mask, notes = given_mask(tmp_path, (64, 48), 12, 25.0)
    assert "2 frames before" in notes[0]
    assert (mask[list(range(12))] == np.concatenate([squares(), squares()[[9, 9]]])[..., 0]).all()
    assert (mask[[-1]] == mask[[11]]).all()
    with pytest.raises(IndexError):
        mask[[12]]
    with pytest.raises(InputError, match="3 frames fewer"):
        given_mask(tmp_path, (64, 48), 13, 25.0)
    with pytest.raises(InputError, match="not the same shape"):
        given_mask(tmp_path, (48, 64), 10, 25.0)


def test_any_bright_colour_is_the_person():
    picture = np.array([[[0, 0, 0], [127, 127, 127], [128, 0, 0], [0, 255, 0], [255, 255, 255]]], np.uint8)
    assert outline(picture, (5, 1)).tolist() == [[0, 0, 255, 255, 255]]
    assert outline(picture[..., 0], (5, 1)).tolist() == [[0, 0, 255, 0, 255]]


def test_a_skeleton_video_is_letterboxed_on_black(tmp_path):
    path = video(tmp_path / "pose.mp4", squares())
    pose, notes = given_pose(path, (128, 128), 25.0)
    assert notes == ()
    assert len(pose) == 10
    pictures = pose[[2, 3]]
    assert pictures.shape == (2, 128, 128, 3)
    assert pictures[:, :16].max() == pictures[:, 112:].max() == 0
    assert agree(pictures[0, 16:112, :, 0] // 128, cv2.resize(squares()[2, ..., 0], (128, 96))) > 0.85
    longer, notes = given_pose(path, (64, 48), 25.0, frames=11)
    assert len(longer) == 11
    assert "1 frame before" in notes[0]
    with pytest.raises(InputError, match="not of this clip"):
        given_pose(path, (64, 48), 25.0, frames=20)


def test_a_skeleton_video_at_half_the_rate_and_from_the_middle(tmp_path):
    path = video(tmp_path / "pose.mp4", squares(), fps=20.0)
    pose, _ = given_pose(path, (64, 48), 10.0, start=0.1, end=0.5)
    assert len(pose) == 4
    assert agree(pose[[1]][0, ..., 0] // 128, squares()[4, ..., 0]) > 0.85
