"""A segment as VACE is given it."""

import numpy as np
import pytest
import torch

from pasdedeux.animate.condition.wan import Prompts, to_video
from pasdedeux.animate.condition.wan_vace import VaceStage

TEXT, OTHER = torch.ones(1, 3, 4), torch.zeros(1, 2, 4)
ROWS, COLUMNS = 4, 6
INDEX = list(range(8, 17))


def stage_of(vae, drivers, **more) -> VaceStage:
    return VaceStage(vae=vae, drivers=drivers, prompts=Prompts(wanted=TEXT, unwanted=OTHER), **more)


def handed_of(frames: int) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (frames, 32, 48, 3), dtype=np.uint8)


def test_the_reference_stays_and_has_no_mask(vae, shown):
    drivers = shown(20)
    what = stage_of(vae, drivers).condition(INDEX, None)
    control = what.cond.prepare["control"]
    assert what.shape == (1, 16, 1 + 3, ROWS, COLUMNS)
    assert control.shape == (1, 96, 1 + 3, ROWS, COLUMNS)
    assert what.cond.channels is None
    assert torch.equal(control[:, :16, :1], vae.encode(to_video(drivers.reference[None])))
    assert not control[:, 16:, 0].any()


def test_to_animate_everything_changes_and_is_the_pose(vae, shown):
    drivers = shown(20)
    control = stage_of(vae, drivers).condition(INDEX, None).cond.prepare["control"][:, :, 1:]
    assert torch.equal(control[:, :16], vae.encode(torch.zeros(1, 3, 9, 32, 48)))
    assert torch.equal(control[:, 16:32], vae.encode(to_video(drivers.pose[INDEX])))
    assert (control[:, 32:] == 1).all()


def test_to_replace_the_pose_stands_where_the_person_is(vae, shown):
    drivers = shown(20, replace=True)
    control = stage_of(vae, drivers).condition(INDEX, None).cond.prepare["control"][:, :, 1:]
    person = drivers.mask[INDEX] == 255
    stays, changes = (
        torch.from_numpy(np.where(at[..., None], to_video(video[INDEX])[0].permute(1, 2, 3, 0).numpy(), 0))
        for at, video in ((~person, drivers.background), (person, drivers.pose))
    )
    for found, pixels in ((control[:, :16], stays), (control[:, 16:32], changes)):
        assert torch.allclose(found, vae.encode(pixels.permute(3, 0, 1, 2)[None]), atol=1e-6)


def test_a_mask_is_folded_pixel_by_pixel(vae, shown):
    """Channel 8 r + c is row r, column c of every latent; a latent frame has the middle picture of its share."""
    drivers = shown(20, replace=True)
    mask = stage_of(vae, drivers).condition(INDEX, None).cond.prepare["control"][0, 32:, 1:]
    for frame in range(3):
        picture = drivers.mask[INDEX][int((frame + 0.5) * 9 / 3)]
        for row in range(8):
            for column in range(8):
                wanted = picture[row::8, column::8] == 255
                np.testing.assert_array_equal(mask[8 * row + column, frame].numpy(), wanted)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("count", [1, 5])
def test_frames_handed_over_stay(vae, shown, count, replace):
    drivers, handed = shown(20, replace=replace), handed_of(count)
    control = stage_of(vae, drivers).condition(INDEX, handed).cond.prepare["control"][:, :, 1:]
    start = vae.encode(to_video(handed))
    known = start.shape[2]
    assert torch.allclose(control[:, :16, :known], start)
    assert not control[:, 16:32, :known].any()
    marked = [frame for frame in range(3) if int((frame + 0.5) * 3) < count]
    assert not control[:, 32:, marked].any()
    assert control[:, 32:, len(marked) :].any()


def test_both_prompts_see_the_same_control_at_its_weight(vae, shown):
    what = stage_of(vae, shown(20), scale=0.5).condition(INDEX, None)
    assert what.cond.prepare["text"] is TEXT
    assert what.uncond.prepare["text"] is OTHER
    assert what.uncond.prepare["control"] is what.cond.prepare["control"]
    assert what.cond.prepare["scale"] == what.uncond.prepare["scale"] == 0.5


def test_what_is_the_same_in_every_segment_is_encoded_once(vae, shown):
    stage = stage_of(vae, shown(20))
    for _ in range(3):
        stage.condition(INDEX, None)
    assert sum(video.shape[2] == 1 for video in vae.videos) == 1
    assert sum(not video.any() for video in vae.videos) == 1
    assert len(vae.videos) == 2 + 3


def test_the_reference_is_not_decoded(vae, shown):
    latent = torch.zeros(1, 16, 4, ROWS, COLUMNS)
    latent[:, :, 0] = 1
    frames = np.concatenate(list(stage_of(vae, shown(20)).decode(latent)))
    assert frames.shape == (9, 32, 48, 3)
    assert (frames == 128).all()


def test_a_segment_has_the_length_of_the_performance(vae, shown):
    assert stage_of(vae, shown(20)).frames == 20
