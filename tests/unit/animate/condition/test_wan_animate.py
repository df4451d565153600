"""A segment as Wan-Animate is given it."""

import numpy as np
import pytest
import torch

from pasdedeux.animate.condition.wan import Prompts, to_video
from pasdedeux.animate.condition.wan_animate import AnimateStage
from pasdedeux.animate.perform import Ready, Settings, perform
from pasdedeux.denoise import Expert, ExpertSet

TEXT, OTHER = torch.ones(1, 3, 4), torch.zeros(1, 2, 4)
FEATURES = torch.ones(1, 257, 1280)
ROWS, COLUMNS = 4, 6


def stage_of(vae, drivers, unwanted=OTHER) -> AnimateStage:
    return AnimateStage(vae=vae, drivers=drivers, prompts=Prompts(wanted=TEXT, unwanted=unwanted), features=FEATURES)


def handed_of(frames: int) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (frames, 32, 48, 3), dtype=np.uint8)


def test_the_first_segment_has_the_reference_in_front_and_nothing_given_behind(vae, shown):
    drivers = shown(20)
    what = stage_of(vae, drivers).condition(list(range(9)), None)
    assert what.shape == (1, 16, 1 + 3, ROWS, COLUMNS)
    channels = what.cond.channels
    assert channels.shape == (1, 4 + 16, 1 + 3, ROWS, COLUMNS)
    assert (channels[:, :4, 0] == 1).all()
    assert torch.equal(channels[:, 4:, :1], vae.encode(to_video(drivers.reference[None])))
    assert not channels[:, :4, 1:].any()
    assert torch.equal(channels[:, 4:, 1:], vae.encode(torch.zeros(1, 3, 9, 32, 48)))


def test_pose_and_face_are_those_of_the_frames_asked_for(vae, shown):
    drivers, index = shown(20), [8, 9, 10, 11, 12, 13, 12, 11, 10]
    given = stage_of(vae, drivers).condition(index, None).cond.prepare
    assert set(given) == {"text", "image", "pose", "face"}
    assert given["text"] is TEXT
    assert given["image"] is FEATURES
    assert torch.equal(given["pose"], vae.encode(to_video(drivers.pose[index])))
    assert torch.equal(given["face"], to_video(drivers.face[index]))


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("count", [1, 5])
def test_frames_handed_over_are_given(vae, shown, count, replace):
    drivers, index, handed = shown(20, replace=replace), list(range(8, 17)), handed_of(count)
    channels = stage_of(vae, drivers).condition(index, handed).cond.channels[:, :, 1:]
    video = to_video(drivers.background[index]) if replace else torch.zeros(1, 3, 9, 32, 48)
    video[:, :, :count] = to_video(handed)
    assert torch.equal(channels[:, 4:], vae.encode(video))
    known = 1 + (count - 1) // 4
    assert (channels[:, :4, :known] == 1).all()
    assert not (channels[:, :4, known:] == 1).all()
    if not replace:
        assert not channels[:, :4, known:].any()


def test_to_replace_the_mask_says_where_nobody_is(vae, shown):
    """Each latent frame has its four pictures' masks as channels, read at the upper left pixel of every latent."""
    drivers, index = shown(20, replace=True), list(range(9))
    channels = stage_of(vae, drivers).condition(index, None).cond.channels[0, :, 1:]
    for frame in range(3):
        for part in range(4):
            picture = 0 if frame == 0 else 4 * frame - 3 + part
            outside = drivers.mask[picture, ::8, ::8] == 0
            np.testing.assert_array_equal(channels[part, frame].numpy(), outside)
    assert torch.equal(channels[None, 4:], vae.encode(to_video(drivers.background[index])))


def test_without_guidance_the_face_is_black_and_the_text_another(vae, shown):
    what = stage_of(vae, shown(20)).condition(list(range(9)), None)
    assert what.uncond.prepare["text"] is OTHER
    assert what.uncond.prepare["face"].shape == what.cond.prepare["face"].shape
    assert (what.uncond.prepare["face"] == -1).all()
    for name in ("pose", "image"):
        assert torch.equal(what.uncond.prepare[name], what.cond.prepare[name])
    assert torch.equal(what.uncond.channels, what.cond.channels)


def test_without_unwanted_text_there_is_no_guidance(vae, shown):
    assert stage_of(vae, shown(20), unwanted=None).condition(list(range(9)), None).uncond is None


def test_what_is_the_same_in_every_segment_is_encoded_once(vae, shown):
    stage = stage_of(vae, shown(20))
    for _ in range(3):
        stage.condition(list(range(9)), None)
    assert sum(video.shape[2] == 1 for video in vae.videos) == 1  # the reference
    assert sum(not video.any() for video in vae.videos) == 1
    assert len(vae.videos) == 2 + 3  # and the pose of each


def test_segments_do_not_write_into_one_another(vae, shown):
    stage = stage_of(vae, shown(20))
    first = stage.condition(list(range(9)), None).cond.channels
    before = first.clone()
    stage.condition(list(range(8, 17)), handed_of(5))
    assert torch.equal(first, before)
    assert torch.equal(stage.condition(list(range(9)), None).cond.channels, before)


def test_the_reference_is_not_decoded(vae, shown):
    latent = torch.zeros(1, 16, 4, ROWS, COLUMNS)
    latent[:, :, 0] = 1
    frames = np.concatenate(list(stage_of(vae, shown(20)).decode(latent)))
    assert frames.shape == (9, 32, 48, 3)
    assert (frames == 128).all()


@pytest.mark.parametrize("frames", [1, 2, 9, 20])
def test_a_performance_of_any_length(vae, shown, frames):
    """A denoiser that takes its pose for the answer gives the pose back, each frame once."""

    def denoiser(x, sigma, cond, /):
        wanted = torch.cat((x[:, :, :1] * 0, cond.prepare["pose"]), dim=2)
        return (x - wanted) / sigma

    drivers = shown(frames)
    settings = Settings(sigmas=(1.0, 0.5, 0.0), seed=0, length=9, overlap=1, solver="euler")
    events = perform(stage_of(vae, drivers), ExpertSet.single(Expert(denoiser, "only")), settings)
    made = np.concatenate([event.frames for event in events if isinstance(event, Ready)])
    assert made.shape == (frames, 32, 48, 3)
    means = to_video(drivers.pose).mean(1)[0].unfold(1, 8, 8).unfold(2, 8, 8).mean((-1, -2))
    assert np.abs(made[0, 4::8, 4::8, 0] - ((means[0] + 1) * 127.5).numpy()).max() <= 1


def test_sizes_that_do_not_divide_are_refused(vae, shown):
    with pytest.raises(ValueError, match="8 frames of 48x32 do not fit"):
        stage_of(vae, shown(20)).condition(list(range(8)), None)
