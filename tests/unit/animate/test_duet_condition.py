"""Conditions of the built-in pair: planes, regions, filled holes, and decoding over the composite."""

import numpy as np
import pytest
import torch

from pasdedeux.animate.condition.duet import Planes, decode_over, fill, regions, segment_inputs, video_tensor
from pasdedeux.models.codec import CodecConfig, PatchCodec
from pasdedeux.models.duet import FAR, NEAR, TOUCHED


@pytest.fixture(scope="module")
def codec() -> PatchCodec:
    torch.manual_seed(0)
    codec = PatchCodec(CodecConfig(channels=8, width=8, depth=1))
    for projection in (codec.first, codec.later):
        projection.basis.copy_(torch.linalg.qr(torch.randn(projection.mean.numel(), 8))[0])
    return codec


def planes(frames: int = 5, size: int = 64) -> Planes:
    """An empty scene of grey, with something carried into one corner."""
    carried = np.zeros((frames, size, size, 4), np.uint8)
    carried[:, 2:6, 2:6] = 255
    scene = np.full((frames, size, size, 4), 90, np.uint8)
    scene[..., 3] = 0
    empty = np.zeros((frames, size, size, 3), np.uint8)
    reference = np.zeros((size, size, 10), np.uint8)
    return Planes(scene=scene, carried=carried, pose=empty, face=empty, reference=reference)


def test_a_hole_is_bridged_from_its_edges() -> None:
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:] = np.linspace(0, 248, 32).astype(np.uint8)[None, :, None]
    mask = np.zeros((16, 32), np.uint8)
    mask[4:12, 10:20] = 255
    torn = picture.copy()
    torn[mask > 0] = 255
    filled, hole = fill(torn, mask)
    assert np.abs(filled.astype(int) - picture).max() <= 2
    assert hole[mask > 0].all()
    assert not hole[0].any()


@pytest.mark.parametrize("columns", [slice(0, 6), slice(26, 32), slice(0, 32)])
def test_a_hole_at_the_edge_is_filled_too(columns: slice) -> None:
    picture = np.full((8, 32, 3), 70, np.uint8)
    mask = np.zeros((8, 32), np.uint8)
    mask[:, columns] = 255
    assert (fill(picture, mask)[0] == 70).all()


def test_regions_follow_what_is_carried(codec: PatchCodec) -> None:
    found = regions(planes(), codec)
    assert found.shape == (1, 2, 8, 8)
    assert found[0, 0, 0, 0] == TOUCHED
    assert found[0, 0, 2, 2] == NEAR
    assert found[0, 0, 7, 7] == FAR


def test_handed_latents_replace_the_base_and_are_marked(codec: PatchCodec) -> None:
    known = torch.ones(1, 8, 1, 8, 8)
    inputs = segment_inputs(planes(), codec, known, torch.float32)
    assert torch.equal(inputs.base[:, :, :1], known)
    assert inputs.known.flatten().tolist() == [1, 0]
    assert not torch.equal(inputs.base[:, :, 1], known[:, :, 0])


def test_an_unchanged_composite_comes_back_to_the_pixel(codec: PatchCodec) -> None:
    rough = torch.rand(1, 3, 5, 64, 64) * 1.6 - 0.8
    base = codec.encode(rough)
    again = torch.cat(list(decode_over(codec, base, base, rough)), dim=2)
    torch.testing.assert_close(again, rough, atol=1e-5, rtol=0)
    assert (codec.decode(base) - rough).abs().max() > 0.1


def test_what_was_painted_anew_shows_nothing_of_the_composite(codec: PatchCodec) -> None:
    rough = torch.rand(1, 3, 5, 64, 64) * 0.2
    base = codec.encode(rough)
    new = base + 5
    painted = torch.cat(list(decode_over(codec, new, base, rough)), dim=2)
    torch.testing.assert_close(painted, codec.decode(new), atol=1e-4, rtol=0)


def test_bytes_to_video_and_range() -> None:
    video = video_tensor(np.full((2, 8, 8, 3), 255, np.uint8))
    assert video.shape == (1, 3, 2, 8, 8)
    assert video.max() == 1
