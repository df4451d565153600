"""Finding a character: the gate against claims that cannot be so, a stand-in detector, and real pictures."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pasdedeux.animate.images import load_image
from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.preprocess import detect
from pasdedeux.animate.preprocess.detect import detect_character, given_character, unknown_character
from pasdedeux.animate.preprocess.detector import Sighting
from pasdedeux.animate.preprocess.holistic import gate
from pasdedeux.animate.preprocess.placement import known
from pasdedeux.animate.preprocess.wholebody import save_keypoints

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

    name = "stand-in"

    def __init__(self, keypoints):
        self.keypoints = keypoints

    def watch(self, frames, fps):
        for picture, _ in frames:
            mask = np.zeros(picture.shape[:2], np.uint8)
            mask[50:150, 100:150] = 255
            k = self.keypoints
            yield Sighting(body=k.body[0], hands=k.hands[0], face=k.face[0], mask=mask)


@pytest.fixture
def stand_in(monkeypatch, figure):
    keypoints = figure(np.zeros((1, 21)))
    monkeypatch.setattr(detect, "open_finder", lambda *_: None)
    monkeypatch.setattr(detect, "open_pose", lambda *_: StandIn(keypoints))
    return keypoints


def test_a_cut_outs_own_alpha_is_the_mask(stand_in):
    alpha = np.zeros((256, 256), np.uint8)
    alpha[10:20] = 200
    character, notes = detect_character(np.zeros((256, 256, 3), np.uint8), alpha=alpha)
    assert (character.mask[10:20] == 255).all()
    assert character.mask.sum() == 255 * 2560
    assert notes == ()
    own, _ = detect_character(np.zeros((256, 256, 3), np.uint8))
    assert own.mask.sum() == 255 * 5000


def test_nobody_is_an_error_that_names_the_picture(stand_in):
    stand_in.body[..., 2] = 0
    with pytest.raises(InputError, match=r"^hero\.png: no person was found; one real person"):
        detect_character(np.zeros((256, 256, 3), np.uint8), name="hero.png")


def test_points_can_be_given_and_may_be_unknown(figure, tmp_path):
    keypoints, image = figure(np.zeros((1, 21))), np.zeros((256, 256, 3), np.uint8)
    save_keypoints(tmp_path / "hero.npz", keypoints)
    given = given_character(image, tmp_path / "hero.npz", np.full((256, 256), 255, np.uint8))
    np.testing.assert_array_equal(given.keypoints.body, keypoints.body)
    assert known(given.keypoints)
    unknown = unknown_character(image)
    assert not known(unknown.keypoints)
    assert unknown.mask.min() == 255


@needs_people
def test_an_elf_is_found(capfd):
    elf, _ = detect_character(load_image(MEDIA / "elf.jpeg").image)
    assert (elf.keypoints.body[0, [0, 1, 2, 5, 14, 15], 2] >= 0.5).all()
    assert (elf.keypoints.face[0, :, 2] == 1).all()
    assert elf.mask[400, 640] == 255
    assert capfd.readouterr().err == ""
