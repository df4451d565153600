"""The records everything else trusts: what they refuse, and what they carry through text."""

import dataclasses

import numpy as np
import pytest

from pasdedeux.animate.inputs import CharacterImage, InputError, Keypoints, Performance, View


@pytest.fixture
def clip(figure, swings) -> Keypoints:
    return figure(swings)


def test_json_round_trip(clip):
    text = clip.to_json()
    back = Keypoints.from_json(text)
    assert back.size == clip.size
    for name in ("body", "hands", "face"):
        np.testing.assert_allclose(getattr(back, name), getattr(clip, name), atol=0.006)
    assert len(text) < 40_000


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version":9}', '{"version":1,"frames":1,"size":[4],"body":[]}'])
def test_other_text_is_refused(text):
    with pytest.raises(InputError):
        Keypoints.from_json(text)


def test_frames_are_picked(clip):
    assert len(clip[2:5]) == 3
    assert (clip.frame(-1).body[0] == clip.body[-1]).all()
    assert (clip[np.array([3, 3, 0])].face[1] == clip.face[3]).all()
    with pytest.raises(InputError, match="at least one frame"):
        clip[5:5]


def test_scaling_stretches_points_not_confidence(clip):
    scaled = clip.scaled((512, 128))
    np.testing.assert_allclose(scaled.body, clip.body * [2, 0.5, 1])
    assert scaled.size == (512, 128)
    assert scaled.hands.dtype == np.float32


def test_a_view_goes_where_its_picture_goes(clip):
    drawn = dataclasses.replace(clip, view=View(128.0, 210.5, 97.0))
    assert drawn[2:5].view == drawn.view == Keypoints.from_json(drawn.to_json()).view
    assert drawn.scaled((512, 512)).view == View(256.0, 421.0, 194.0)
    assert drawn.moved((0.5, 0.5), (10.0, -4.0), (200, 200)).view == View(74.0, 101.25, 48.5)
    text = drawn.to_json()
    for bad in (text.replace("97.0", "0.0"), text.replace(",97.0", ""), text.replace("97.0", '"wide"')):
        assert bad != text
        with pytest.raises(InputError):
            Keypoints.from_json(bad)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda body: body[:, :19], "body must be"),
        (lambda body: body.astype(np.float64), "float64"),
        (lambda body: np.where(body == body[0, 0, 0], np.float32(np.nan), body), "not a number"),
        (lambda body: body * np.float32(1.5), "0..1"),
    ],
)
def test_wrong_arrays_are_refused(clip, change, says):
    with pytest.raises(InputError, match=says):
        dataclasses.replace(clip, body=change(clip.body))


def test_a_character_agrees_in_size_and_is_one_frame(clip):
    image, mask = np.zeros((256, 256, 3), np.uint8), np.zeros((256, 256), np.uint8)
    CharacterImage(image=image, mask=mask, keypoints=clip.frame(0), background=image)
    with pytest.raises(InputError, match="one frame"):
        CharacterImage(image=image, mask=mask, keypoints=clip)
    with pytest.raises(InputError, match="mask must be uint8"):
        CharacterImage(image=image, mask=mask[:9], keypoints=clip.frame(0))
    with pytest.raises(InputError, match="background must be"):
        CharacterImage(image=image, mask=mask, keypoints=clip.frame(0), background=image / 2)


def test_a_performance_agrees_in_length_and_names_what_is_missing(clip, tmp_path):
    frames = np.zeros((len(clip), 256, 256, 3), np.uint8)
    Performance(keypoints=clip, fps=25, frames=frames, mask=frames[..., 0])
    for options, says in (
        ({"fps": 0}, "Frames per second"),
        ({"fps": 25, "frames": frames[1:]}, "frames must be"),
        ({"fps": 25, "mask": frames}, "mask must be"),
        ({"fps": 25, "audio": tmp_path / "none.mp3"}, "no such file"),
        ({"fps": 25, "audio_start": -1.0}, "cannot start"),
    ):
        with pytest.raises(InputError, match=says):
            Performance(keypoints=clip, **options)
