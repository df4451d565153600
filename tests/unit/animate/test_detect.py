"""Finding people: the gate against claims that cannot be so, a stand-in detector, and real pictures where
there are.
"""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.preprocess.detect import (
    Detected,
    MediapipeDetector,
    detect_character,
    detect_performance,
)
from pasdedeux.animate.preprocess.holistic import gate
from pasdedeux.animate.video import VideoWriter

MEDIA = Path(__file__).parents[3].parent / "shared/media"
needs_people = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None or not MEDIA.exists(),
    reason="no mediapipe or no sample media",
)
LEGS = [8, 9, 10, 11, 12, 13, 18, 19]


@pytest.fixture
def person(figure):
    clip = figure(np.zeros((1, 21)), neck=(128, 60))
    return clip.body[0].copy(), clip.hands[0].copy(), clip.face[0].copy()


def test_a_sound_body_passes(person):
    body, hands, face = gate(*person, (256, 256))
    assert body[:, 2].min() == hands[..., 2].min() == face[:, 2].min() == 1


def test_what_leaves_the_picture_is_dropped(person):
    body, _, _ = gate(*person, (256, 180))
    assert (body[[9, 12], 1] < 180).all()
    assert (body[[9, 10, 12, 13, 18, 19], 2] == 0).all()
    assert (body[[8, 11], 2] == 1).all()
    body, _, _ = gate(*person, (256, 122))
    assert (body[LEGS, 2] == 0).all()
    assert (body[:8, 2] == 1).all()


def test_doubtful_hips_are_dropped_but_not_doubtful_elbows(person):
    person[0][[3, 8, 11], 2] = 0.6
    body, _, _ = gate(*person, (256, 256))
    assert (body[[8, 11], 2] == 0).all()
    assert body[3, 2] == pytest.approx(0.6)


def test_a_body_collapsed_on_to_the_face_is_dropped(person):
    person[0][1:14, :2] = person[2][30, :2] + 0.05 * (person[0][1:14, :2] - person[2][30, :2])
    body, _, face = gate(*person, (256, 256))
    assert (body[1:14, 2] == 0).all()
    assert (body[[0, 14, 15], 2] == 1).all()
    assert face[:, 2].min() == 1


def test_shoulders_narrower_than_a_face_are_dropped(person):
    middle = person[0][1, 0]
    person[0][[2, 5], 0] = middle + 0.2 * (person[0][[2, 5], 0] - middle)
    body, hands, _ = gate(*person, (256, 256))
    assert (body[1:14, 2] == 0).all()
    assert (hands[..., 2] == 0).all()


def test_a_hand_far_from_its_wrist_is_dropped_and_a_near_one_places_it(person):
    person[1][0, :, :2] += 15
    person[1][1, :, :2] += 3
    body, hands, _ = gate(*person, (256, 256))
    assert hands[0, :, 2].max() == 0
    np.testing.assert_allclose(body[7], person[0][7])
    np.testing.assert_allclose(body[4, :2], person[0][4, :2] + 3)


class StandIn:
    """Finds the same figure in every frame."""

    def __init__(self, keypoints):
        self.keypoints = keypoints

    def detect(self, frames, fps):
        shapes = [frame.shape for frame in frames]
        count = len(shapes)
        mask = np.zeros((count, *shapes[0][:2]), np.uint8)
        mask[:, 50:150, 100:150] = 255
        return Detected(keypoints=self.keypoints[np.zeros(count, int)], mask=mask)


@pytest.fixture
def film(tmp_path):
    with VideoWriter(tmp_path / "film.mp4", 10, (256, 256)) as video:
        for level in range(0, 120, 10):
            video.write(np.full((256, 256, 3), level, np.uint8))
    return tmp_path / "film.mp4"


def test_a_performance_is_letterboxed_and_reported(film, figure):
    keypoints, seen = figure(np.zeros((1, 21))), []
    result = detect_performance(
        film, 5, (128, 64), detector=StandIn(keypoints), on_frame=lambda i, total: seen.append((i, total))
    )
    assert result.frames.shape == (6, 64, 128, 3)
    assert result.mask.shape == (6, 64, 128)
    assert set(np.unique(result.mask)) == {0, 255}
    assert result.keypoints.size == (128, 64)
    np.testing.assert_allclose(result.keypoints.body[0, :, :2], keypoints.body[0, :, :2] / 4 + [32, 0], atol=1e-3)
    assert seen == [(i, 6) for i in range(1, 7)]
    assert result.audio is None
    assert result.fps == 5


def test_nobody_is_an_error_that_names_the_file(film, figure):
    keypoints = figure(np.zeros((1, 21)))
    nobody = StandIn(dataclasses.replace(keypoints, body=np.zeros_like(keypoints.body)))
    with pytest.raises(InputError, match=r"film\.mp4: no person was found in any of 4 frames; one real person"):
        detect_performance(film, max_frames=4, detector=nobody)


def test_a_cut_outs_own_alpha_is_the_mask(figure):
    alpha = np.zeros((256, 256), np.uint8)
    alpha[10:20] = 200
    character = detect_character(
        np.zeros((256, 256, 3), np.uint8), alpha=alpha, detector=StandIn(figure(np.zeros((1, 21))))
    )
    assert (character.mask[10:20] == 255).all()
    assert character.mask.sum() == 255 * 2560


@needs_people
def test_a_man_who_talks_at_a_desk(capfd):
    talk = detect_performance(MEDIA / "talk.mp4", 5, (320, 180), max_frames=5)
    keypoints = talk.keypoints
    upper = [0, 1, 2, 3, 4, 5, 6, 7, 14, 15]
    assert (keypoints.body[:, upper, 2] >= 0.5).all()
    assert (keypoints.body[:, LEGS, 2] == 0).all()
    assert (keypoints.face[..., 2] == 1).all()
    assert (keypoints.body[:, 2, 0] < keypoints.body[:, 5, 0]).all()
    assert (keypoints.face[:, 36, 0] < keypoints.face[:, 45, 0]).all()
    eyes = [
        (keypoints.face[:, part, :2].mean(1), keypoints.face[:, pupil, :2])
        for part, pupil in ((slice(36, 42), 68), (slice(42, 48), 69))
    ]
    assert all(np.linalg.norm(eye - pupil, axis=1).max() < 3 for eye, pupil in eyes)
    assert 0.1 < (talk.mask > 0).mean() < 0.5
    assert talk.audio == MEDIA / "talk.mp4"
    assert capfd.readouterr().err == ""


@needs_people
def test_an_elf_and_a_drawn_skeleton():
    from pasdedeux.animate.images import load_image

    elf = detect_character(load_image(MEDIA / "elf.jpeg").image)
    assert (elf.keypoints.body[0, [0, 1, 2, 5, 14, 15], 2] >= 0.5).all()
    assert (elf.keypoints.face[0, :, 2] == 1).all()
    assert elf.mask[400, 640] == 255
    with pytest.raises(InputError, match="no person"):
        detect_performance(MEDIA / "skeleton.mp4", 5, max_frames=2)


def test_no_frames_is_an_error():
    if importlib.util.find_spec("mediapipe") is None:
        pytest.skip("no mediapipe")
    with pytest.raises(InputError, match="no frames"):
        MediapipeDetector().detect([], 25)
