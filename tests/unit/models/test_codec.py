"""The patch codec: shapes, causality, streaming, and that it is linear where it says so."""

import pytest
import torch

from pasdedeux.models.codec import CodecConfig, PatchCodec
from pasdedeux.train.codec import components


@pytest.fixture
def codec() -> PatchCodec:
    torch.manual_seed(0)
    codec = PatchCodec(CodecConfig(channels=16, width=8, depth=1))
    for projection in (codec.first, codec.later):
        basis = torch.linalg.qr(torch.randn(projection.mean.numel(), 16))[0]
        projection.basis.copy_(basis)
        projection.scale.copy_(torch.linspace(2, 0.5, 16))
    torch.nn.init.normal_(codec.painter.outlet.weight, std=0.05)
    return codec


def test_shapes_and_stride(codec: PatchCodec) -> None:
    latent = codec.encode(torch.rand(2, 3, 9, 16, 24) * 2 - 1)
    assert latent.shape == (2, 16, 3, 2, 3)
    assert codec.decode(latent).shape == (2, 3, 9, 16, 24)
    assert codec.stride == (4, 8, 8)
    assert codec.channels == 16


def test_a_latent_comes_back_from_its_own_projection(codec: PatchCodec) -> None:
    codec.painter.outlet.weight.data.zero_()
    latent = torch.randn(1, 16, 3, 2, 2) * 0.01
    video = torch.cat([codec.decode_one(latent[:, :, i], latent[:, :, i - 1] if i else None) for i in range(3)], 2)
    torch.testing.assert_close(codec.encode(video), latent, atol=1e-5, rtol=1e-4)


def test_causal_both_ways(codec: PatchCodec) -> None:
    video = torch.rand(1, 3, 9, 16, 16) * 2 - 1
    changed = video.clone()
    changed[:, :, 5:] *= -1
    a, b = codec.encode(video), codec.encode(changed)
    assert torch.equal(a[:, :, :2], b[:, :, :2])
    assert not torch.equal(a[:, :, 2], b[:, :, 2])
    mixed = torch.cat([a[:, :, :2], b[:, :, 2:]], dim=2)
    assert torch.equal(codec.decode(a)[:, :, :5], codec.decode(mixed)[:, :, :5])


def test_streaming_is_the_whole(codec: PatchCodec) -> None:
    latent = torch.randn(1, 16, 3, 2, 2)
    chunks = list(codec.decode_frames(latent))
    assert [c.shape[2] for c in chunks] == [1, 4, 4]
    assert torch.equal(torch.cat(chunks, 2), codec.decode(latent))


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 16), (1, 3, 5, 12, 16), (1, 3, 5, 16, 20)])
def test_sizes_off_the_grid_are_refused(codec: PatchCodec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 8x8"):
        codec.encode(torch.zeros(shape))


def test_components_find_the_directions_of_greatest_weight() -> None:
    codec = PatchCodec(CodecConfig(channels=2, width=8, depth=1))
    torch.manual_seed(0)
    strong = torch.linalg.qr(torch.randn(192, 3))[0]
    patches = (torch.randn(4000, 3) * torch.tensor([3.0, 2.0, 0.1])) @ strong.T + 0.5
    components(patches, torch.ones(4000), codec.first, 0.5)
    assert (codec.first.basis.T @ strong[:, :2]).det().abs() > 0.99
    latent = codec.first(patches)
    assert latent.square().mean().sqrt() == pytest.approx(1, abs=0.05)
    deviation = latent.std(0)
    assert deviation[0] / deviation[1] == pytest.approx((3 / 2) ** 0.5, rel=0.05)
    torch.testing.assert_close(codec.first.inverse(latent), patches, atol=0.5, rtol=0)
