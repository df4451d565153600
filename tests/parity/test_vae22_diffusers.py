"""The VAE of Wan 2.2 against AutoencoderKLWan of diffusers, with the same random weights, float32 on the CPU."""

import logging
import re

import pytest
import torch
from torch import Tensor

from pasdedeux.models.vae22 import VAE22Config, WanVAE22

autoencoder = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl_wan")

LOG = logging.getLogger(__name__)  # pytest --log-cli-level=INFO shows how close it is
TOLERANCE = 1e-4  # of the largest number in the reference
CONFIGS = {
    "like Wan": VAE22Config(
        dim=6,
        decoder_dim=8,
        latent_channels=4,
        latent_mean=(0.5, -0.25, 1.0, 0.0),
        latent_std=(2.0, 0.5, 1.5, 1.0),
    ),
    "odd": VAE22Config(
        dim=6,
        decoder_dim=4,
        latent_channels=3,
        multipliers=(2, 2, 4, 4),
        res_blocks=1,
        temporal=(True, False, True),
        latent_mean=(0.1, 0.2, -0.3),
        latent_std=(1.5, 0.7, 1.1),
    ),
}
RENAMES = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"\.head\.0\.", ".norm_out."),
    (r"\.head\.2\.", ".conv_out."),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (r"\.downsamples\.(\d)\.downsamples\.\d\.(resample|time_conv)\.", r".down_blocks.\1.downsampler.\2."),
    (r"\.upsamples\.(\d)\.upsamples\.\d\.(resample|time_conv)\.", r".up_blocks.\1.upsampler.\2."),
    (r"\.downsamples\.(\d)\.downsamples\.(\d)\.", r".down_blocks.\1.resnets.\2."),
    (r"\.upsamples\.(\d)\.upsamples\.(\d)\.", r".up_blocks.\1.resnets.\2."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
)


def diffusers_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(scope="module", params=list(CONFIGS.values()), ids=list(CONFIGS))
def pair(request: pytest.FixtureRequest):
    """Our model and theirs with the same weights, drawn so that no layer is close to doing nothing."""
    config: VAE22Config = request.param
    ours = WanVAE22(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in ours.parameters():
            spread = max(weight[0].numel(), 4) ** -0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
    theirs = autoencoder.AutoencoderKLWan(
        base_dim=config.dim,
        decoder_base_dim=config.decoder_dim,
        z_dim=config.latent_channels,
        dim_mult=list(config.multipliers),
        num_res_blocks=config.res_blocks,
        temperal_downsample=list(config.temporal),
        latents_mean=list(config.latent_mean),
        latents_std=list(config.latent_std),
        is_residual=True,
        in_channels=3 * config.patch**2,
        out_channels=3 * config.patch**2,
        patch_size=config.patch,
        scale_factor_spatial=config.stride[1],
    )
    theirs.load_state_dict({diffusers_name(k): v for k, v in ours.state_dict().items()}, strict=True)
    return ours.eval(), theirs.eval()


SIZES = pytest.mark.parametrize(("frames", "height", "width"), [(13, 32, 48), (1, 32, 32), (5, 16, 32)])


def statistics(ours: WanVAE22) -> tuple[Tensor, Tensor]:
    mean, std = ours.config.latent_mean, ours.config.latent_std
    return torch.tensor(mean).view(1, -1, 1, 1, 1), torch.tensor(std).view(1, -1, 1, 1, 1)


def assert_same(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert wanted.std() > 0.01  # not a comparison of nothing with nothing
    difference = (found - wanted).abs().max()
    LOG.info("largest difference %.1e of %.1f", difference, wanted.abs().max())
    assert difference <= TOLERANCE * wanted.abs().max()


@torch.no_grad()
@SIZES
def test_encode(pair, frames: int, height: int, width: int):
    ours, theirs = pair
    video = torch.rand(2, 3, frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, std = statistics(ours)
    assert_same(ours.encode(video), (theirs.encode(video).latent_dist.mode() - mean) / std)


@torch.no_grad()
@SIZES
def test_decode(pair, frames: int, height: int, width: int):
    ours, theirs = pair
    shape = (2, ours.channels, 1 + (frames - 1) // 4, height // 16, width // 16)
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 0.2
    mean, std = statistics(ours)
    wanted = theirs.decode(latent * std + mean).sample
    assert wanted.abs().lt(1).float().mean() > 0.5  # what is clamped would hide a difference
    assert_same(ours.decode(latent), wanted)
