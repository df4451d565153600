"""Both of Wan's autoencoders against AutoencoderKLWan of diffusers, with the same random weights, float32."""

from typing import Any

import pytest
import torch

from pasdedeux.models.vae import VAEConfig
from pasdedeux.models.vae22 import VAE22Config

LIKE_WAN: dict[str, Any] = {
    "latent_channels": 4,
    "latent_mean": (0.5, -0.25, 1.0, 0.0),
    "latent_std": (2.0, 0.5, 1.5, 1.0),
}
ODD: dict[str, Any] = {
    "dim": 6,
    "latent_channels": 3,
    "res_blocks": 1,
    "temporal": (True, False, True),
    "latent_mean": (0.1, 0.2, -0.3),
    "latent_std": (1.5, 0.7, 1.1),
}
CONFIGS = {
    "2.1, like Wan": VAEConfig(**LIKE_WAN, dim=8),
    "2.1, odd": VAEConfig(**ODD, multipliers=(1, 1, 3, 2)),
    "2.2, like Wan": VAE22Config(**LIKE_WAN, dim=6, decoder_dim=8),
    "2.2, odd": VAE22Config(**ODD, decoder_dim=4, multipliers=(2, 2, 4, 4)),
}
SIZES = pytest.mark.parametrize(("frames", "rows", "columns"), [(9, 4, 4), (1, 4, 4), (13, 3, 5), (5, 1, 2)])
"""Of a video in frames, and of its latents."""


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tiny: Any) -> tuple[Any, Any]:
    """Our model and theirs with the same weights, drawn so that no layer is close to doing nothing."""
    return tiny.vaes(CONFIGS[request.param])


@torch.no_grad()
@SIZES
def test_encode(tiny: Any, pair: tuple[Any, Any], frames: int, rows: int, columns: int) -> None:
    ours, theirs = pair
    side = ours.stride[1]
    video = torch.rand(2, 3, frames, side * rows, side * columns, generator=torch.Generator().manual_seed(1)) * 2 - 1
    tiny.assert_close(ours.encode(video), tiny.encoded(theirs, video))


@torch.no_grad()
@SIZES
def test_decode(tiny: Any, pair: tuple[Any, Any], frames: int, rows: int, columns: int) -> None:
    ours, theirs = pair
    latent = tiny.random(2, ours.channels, 1 + (frames - 1) // 4, rows, columns, seed=2)
    wanted = tiny.decoded(theirs, latent)
    assert wanted.abs().lt(1).float().mean() > 0.5  # what is clamped would hide a difference
    tiny.assert_close(ours.decode(latent), wanted)
