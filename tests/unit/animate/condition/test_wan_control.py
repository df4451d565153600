"""A segment as Fun-Control is given it."""

import numpy as np
import pytest
import torch

from pasdedeux.animate.condition.wan import Prompts, known_frames_mask, to_video
from pasdedeux.animate.condition.wan_control import ControlStage
from pasdedeux.models.wan import ControlConfig

TEXT, OTHER = torch.ones(1, 3, 4), torch.zeros(1, 2, 4)
ROWS, COLUMNS = 4, 6
INDEX = list(range(8, 17))
START_ONLY = ControlConfig(in_dim=48)


def stage_of(vae, drivers, **more) -> ControlStage:
    return ControlStage(vae=vae, drivers=drivers, prompts=Prompts(wanted=TEXT, unwanted=OTHER), **more)


def handed_of(frames: int) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (frames, 32, 48, 3), dtype=np.uint8)


def test_at_first_only_the_pose_is_given(vae, shown):
    drivers = shown(20)
    what = stage_of(vae, drivers).condition(INDEX, None)
    assert what.shape == (1, 16, 3, ROWS, COLUMNS)
    assert what.cond.channels.shape == (1, 52 - 16, 3, ROWS, COLUMNS)
    assert torch.equal(what.cond.channels[:, :16], vae.encode(to_video(drivers.pose[INDEX])))
    assert not what.cond.channels[:, 16:].any()


def test_the_reference_is_a_single_picture_encoded_once(vae, shown):
    drivers = shown(20)
    stage = stage_of(vae, drivers)
    for _ in range(3):
        reference = stage.condition(INDEX, None).cond.prepare["reference"]
    assert torch.equal(reference, vae.encode(to_video(drivers.reference[None]))[:, :, 0])
    assert len(vae.videos) == 1 + 3 + 1  # with the one of the line above


@pytest.mark.parametrize("count", [1, 5])
def test_frames_handed_over_are_given(vae, shown, count):
    handed = handed_of(count)
    given = stage_of(vae, shown(20)).condition(INDEX, handed).cond.channels[:, 16:]
    assert torch.equal(given[:, :4], known_frames_mask(9, count, ROWS, COLUMNS))
    video = torch.zeros(1, 3, 9, 32, 48)
    video[:, :, :count] = to_video(handed)
    assert torch.equal(given[:, 4:], vae.encode(video))


@pytest.mark.parametrize("count", [0, 1])
def test_to_replace_the_place_is_given_with_grey_where_the_person_is(vae, shown, count):
    drivers = shown(20, replace=True)
    handed = handed_of(count) if count else None
    given = stage_of(vae, drivers).condition(INDEX, handed).cond.channels[0, 16:]
    outside = (drivers.mask[INDEX] == 0).astype(np.float32)
    video = to_video(drivers.background[INDEX]) * torch.from_numpy(outside)
    if handed is not None:
        outside[:1], video[:, :, :1] = 1, to_video(handed)
    assert torch.equal(given[None, 4:], vae.encode(video))
    for frame in range(3):
        for part in range(4):
            picture = outside[0 if frame == 0 else 4 * frame - 3 + part]
            middle = sum(picture[row::8, column::8] for row in (3, 4) for column in (3, 4)) / 4
            np.testing.assert_allclose(given[part, frame].numpy(), middle, atol=1e-6)


def test_a_person_who_fills_every_picture_leaves_nothing_given(vae, shown):
    drivers = shown(20, replace=True)
    drivers.mask[:] = 255
    assert not stage_of(vae, drivers).condition(INDEX, None).cond.channels[:, 16:].any()


def test_a_model_without_a_mask_is_given_the_first_frame(vae, shown):
    drivers, handed = shown(20), handed_of(5)
    stage = stage_of(vae, drivers, config=START_ONLY)
    channels = stage.condition(INDEX, handed).cond.channels
    assert channels.shape == (1, 48 - 16, 3, ROWS, COLUMNS)
    assert torch.equal(channels[:, 16:, :1], vae.encode(to_video(handed[:1])))
    assert not channels[:, 16:, 1:].any()
    assert not stage.condition(INDEX, None).cond.channels[:, 16:].any()


def test_features_are_passed_on_where_there_are_any(vae, shown):
    features = torch.ones(1, 257, 12)
    with_clip = stage_of(vae, shown(20), config=START_ONLY, features=features)
    assert with_clip.condition(INDEX, None).cond.prepare["image"] is features
    assert "image" not in stage_of(vae, shown(20)).condition(INDEX, None).cond.prepare


def test_both_prompts_see_the_same(vae, shown):
    what = stage_of(vae, shown(20)).condition(INDEX, None)
    assert (what.cond.prepare["text"], what.uncond.prepare["text"]) == (TEXT, OTHER)
    assert what.uncond.channels is what.cond.channels
    assert what.uncond.prepare["reference"] is what.cond.prepare["reference"]


def test_all_of_the_latent_is_decoded(vae, shown):
    stage = stage_of(vae, shown(20))
    assert stage.frames == 20
    assert np.concatenate(list(stage.decode(torch.zeros(1, 16, 3, ROWS, COLUMNS)))).shape == (9, 32, 48, 3)


def test_models_that_cannot_do_it_are_refused(vae, shown):
    with pytest.raises(ValueError, match="has 52 or 48 input channels, but this one has 36"):
        stage_of(vae, shown(20), config=ControlConfig(in_dim=36))
    with pytest.raises(ValueError, match="takes no reference picture"):
        stage_of(vae, shown(20), config=ControlConfig(ref_dim=None))
    with pytest.raises(ValueError, match="48 input channels has no mask"):
        stage_of(vae, shown(20, replace=True), config=START_ONLY)
