"""The Wan 2.2 VAE by itself: names and shapes of its weights, its shortcuts, chunks, causality, errors."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pasdedeux.models.vae import WanVAE
from pasdedeux.models.vae22 import Level, VAE22Config, WanVAE22, average, repeat
from pasdedeux.models.vae_layers import FeatureCache

# The digests by which DiffSynth-Studio recognises the released files: md5 of all names, and all names with shapes.
PUBLISHED = {WanVAE: "ccc42284ea13e1ad04693284c7a09be6", WanVAE22: "e1de6c02cdac79f8b739f4d3698cd216"}
TINY = VAE22Config(
    dim=4,
    decoder_dim=4,
    latent_channels=3,
    res_blocks=1,
    latent_mean=(0.5, -0.25, 1.0),
    latent_std=(2.0, 0.5, 1.5),
)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def vae() -> WanVAE22:
    torch.manual_seed(0)
    return WanVAE22(TINY)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("kind", PUBLISHED)
def test_names_and_shapes_give_the_published_digest(kind: type[WanVAE] | type[WanVAE22]):
    with torch.device("meta"):
        table = {name: tuple(weight.shape) for name, weight in kind().state_dict().items()}
    lines = [f"{key}:{'_'.join(map(str, shape))}" for key, shape in table.items()]
    assert hashlib.md5(",".join(sorted([*table, *lines])).encode()).hexdigest() == PUBLISHED[kind]


def test_the_default_is_wan_2_2():
    with torch.device("meta"):
        vae = WanVAE22()
    assert len(vae.state_dict()) == 196
    assert sum(weight.numel() for weight in vae.parameters()) == 704_688_668
    assert (vae.stride, vae.channels) == ((4, 16, 16), 48)
    assert sum(vae.config.latent_mean) == pytest.approx(-0.5589, abs=1e-6)
    assert sum(vae.config.latent_std) == pytest.approx(32.536, abs=1e-6)


LEVELS = st.builds(Level, st.just(4), st.sampled_from([4, 8]), st.integers(1, 2), st.integers(1, 2))


@given(level=LEVELS, frames=st.integers(1, 2), seed=st.integers(0, 99))
def test_what_is_repeated_and_averaged_again_is_the_same(level: Level, frames: int, seed: int):
    """Where channels become more, or stay, every value is repeated whole times."""
    x = noise(1, 4, frames, 3, 2, seed=seed)
    back = Level(level.dim_out, 4, level.time, level.space)
    assert torch.allclose(average(repeat(x, level), back), x, atol=1e-6)


def test_the_average_by_hand():
    x = torch.arange(2 * 2 * 2 * 2.0).view(1, 2, 2, 2, 2)  # two channels of two frames of 2x2
    assert average(x, Level(2, 2, 2, 2)).flatten().tolist() == [3.5, 11.5]
    assert average(x, Level(2, 1, 2, 2)).flatten().tolist() == [7.5]
    assert average(x, Level(2, 4, 2, 2)).flatten().tolist() == [1.5, 5.5, 9.5, 13.5]  # a frame to each channel
    assert average(x[:, :, 1:], Level(2, 2, 2, 2)).flatten().tolist() == [2.75, 6.75]  # beside a frame of zeros


def test_the_repetition_by_hand():
    x = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1)
    assert repeat(x, Level(2, 2, 1, 2)).flatten().tolist() == [1] * 4 + [2] * 4
    assert repeat(x, Level(2, 1, 2, 1)).flatten().tolist() == [1, 2]  # a channel to each frame
    assert repeat(x, Level(2, 1, 1, 2)).flatten().tolist() == [1, 1, 2, 2]  # a channel to each row


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (9, 3)])
def test_shapes_there_and_back(vae: WanVAE22, frames: int, latents: int):
    video = noise(2, 3, frames, 32, 48)
    latent = vae.encode(video)
    assert latent.shape == (2, 3, latents, 2, 3)
    assert vae.decode(latent).shape == video.shape


def test_latents_are_normalised_per_channel(vae: WanVAE22):
    plain = WanVAE22(replace(TINY, latent_mean=(0.0,) * 3, latent_std=(1.0,) * 3))
    plain.load_state_dict(vae.state_dict())
    video = noise(1, 3, 5, 32, 32)
    mu, sigma = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in (TINY.latent_mean, TINY.latent_std))
    torch.testing.assert_close(vae.encode(video) * sigma + mu, plain.encode(video))
    ours, theirs = vae.decode(vae.encode(video)), plain.decode(plain.encode(video))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frame", [1, 4, 5, 8])
def test_a_frame_changes_no_earlier_latent(vae: WanVAE22, frame: int):
    video = noise(1, 3, 9, 16, 16)
    other = video.clone()
    other[:, :, frame] = -other[:, :, frame]
    changed = (vae.encode(video) != vae.encode(other)).flatten(3).any(-1).any(1)[0]
    own = (frame + 3) // 4
    assert not changed[:own].any()
    assert changed[own:].all()


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_latent_changes_no_earlier_frame(vae: WanVAE22, index: int):
    latent = noise(1, 3, 4, 1, 1)
    other = latent.clone()
    other[:, :, index] += 1
    changed = (vae.decode(latent) != vae.decode(other)).flatten(3).any(-1).any(1)[0]
    own = 4 * index - 3 if index else 0
    assert not changed[:own].any()
    assert changed[own:].all()


def test_chunks_joined_are_the_video(vae: WanVAE22):
    latent = noise(1, 3, 4, 2, 2)
    chunks = list(vae.decode_frames(latent))
    assert [chunk.shape[2] for chunk in chunks] == [1, 4, 4, 4]
    assert torch.equal(torch.cat(chunks, dim=2), vae.decode(latent))


def test_streams_may_interleave(vae: WanVAE22):
    first, second = noise(1, 3, 3, 2, 3), noise(2, 3, 3, 3, 2, seed=2)
    pairs = list(zip(vae.decode_frames(first), vae.decode_frames(second), strict=True))
    for chunks, latent in zip(zip(*pairs, strict=True), (first, second), strict=True):
        assert torch.equal(torch.cat(chunks, dim=2), vae.decode(latent))


def test_the_cache_stops_growing(vae: WanVAE22):
    cache, sizes = FeatureCache(), []
    for frame in noise(1, 3, 4, 2, 2).split(1, dim=2):
        vae.decode_chunk(frame, cache)
        sizes.append(cache.nbytes)
    assert len(set(sizes)) == 1
    assert len(cache) == sum(type(module).__name__ == "CausalConv3d" for module in vae.decoder.modules())


def test_results_have_the_dtype_of_the_input_whatever_the_weights(vae: WanVAE22):
    video = noise(1, 3, 5, 32, 32)
    wide = vae.encode(video)
    narrow = vae.to(torch.bfloat16).encode(video)
    assert narrow.dtype == torch.float32
    assert vae.decode(narrow.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(narrow, wide, atol=0.05, rtol=0.05)


def test_decoded_pixels_are_clamped(vae: WanVAE22):
    vae.get_parameter("decoder.head.2.bias").fill_(3.0)
    assert vae.decode(noise(1, 3, 2, 1, 1)).eq(1).all()


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 3, 4, 16, 16), "4 frames"), ((1, 3, 5, 24, 16), "16x24"), ((1, 4, 5, 16, 16), r"\[1, 4, 5, 16, 16\]")],
)
def test_videos_that_do_not_fit(vae: WanVAE22, shape: tuple[int, ...], words: str):
    with pytest.raises(ValueError, match=words):
        vae.encode(torch.zeros(shape))


def test_latents_of_the_other_autoencoder_do_not_fit(vae: WanVAE22):
    with pytest.raises(ValueError, match=r"Latents must be \[batch, 3,"):
        vae.decode_frames(torch.zeros(1, 16, 2, 2, 2))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"temporal": (True,)}, "temporal names 1"),
        ({"latent_std": (1.0,)}, "latent_std has 1 "),
        ({"dim": 6, "multipliers": (1, 2, 4, 5)}, "dim_in=24, dim_out=30, time=1, space=1"),
        ({"decoder_dim": 6, "multipliers": (1, 2, 4, 12)}, "has no shortcut"),
    ],
)
def test_configs_that_do_not_fit(wrong: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        VAE22Config(**wrong)
