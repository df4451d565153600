"""The causal video autoencoder of Wan 2.2's 5B model, in the native weight names. It works on blocks of 2x2 pixels,
so its latents are a sixteenth as high and wide as the video, and each of its levels has a shortcut without weights:
going in, pixels and frames that become one are averaged; coming out, one is repeated.

Shapes: as in `vae`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from pasdedeux.models.vae import StreamingVAE, VAEConfig, middle, res_blocks
from pasdedeux.models.vae_layers import (
    Causal,
    CausalConv3d,
    CausalSequential,
    Downsample,
    FeatureCache,
    Upsample,
    norm_silu_conv,
)

# Per-channel statistics of Wan 2.2's 48 latent channels, published with the model.
WAN22_LATENT_MEAN = (
    *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891),
    *(0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
    *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723),
    *(-0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
)
WAN22_LATENT_STD = (
    *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901),
    *(0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
    *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944),
    *(0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
)


class Level(NamedTuple):
    """What a level does to a video: its channels, and by which factor its frames and its height and width change."""

    dim_in: int
    dim_out: int
    time: int
    space: int

    @property
    def values(self) -> int:
        """How many values of a channel become one on the way in, and are made of one on the way out."""
        return self.time * self.space**2


@dataclass(frozen=True, kw_only=True, slots=True)
class VAE22Config(VAEConfig):
    """Sizes of the autoencoder; the defaults are Wan 2.2.

    Raises ValueError where the parts do not fit one another.
    """

    dim: int = 160  # of the encoder
    decoder_dim: int = 256
    latent_channels: int = 48
    patch: int = 2  # pixels along the side of a block
    latent_mean: tuple[float, ...] = WAN22_LATENT_MEAN
    latent_std: tuple[float, ...] = WAN22_LATENT_STD

    def __post_init__(self) -> None:
        VAEConfig.__post_init__(self)  # super() does not survive the slots
        misfits = [level for level in self.down_levels if level.dim_in * level.values % level.dim_out]
        misfits += [level for level in self.up_levels[:-1] if level.dim_out * level.values % level.dim_in]
        for level in misfits:
            raise ValueError(f"{level} has no shortcut: its channels and values cannot be shared out evenly.")

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels per latent."""
        side = self.patch * 2 ** len(self.temporal)
        return 2 ** sum(self.temporal), side, side

    @property
    def down_levels(self) -> tuple[Level, ...]:
        """The levels of the encoder, from the pixels inwards; the innermost changes no size."""
        dims = (self.dim, *self.widths)
        times, spaces = (*(1 + halved for halved in self.temporal), 1), (*(2 for _ in self.temporal), 1)
        return tuple(Level(*sizes) for sizes in zip(dims[:-1], dims[1:], times, spaces, strict=True))

    @property
    def up_levels(self) -> tuple[Level, ...]:
        """The levels of the decoder, from the innermost outwards; the outermost changes no size."""
        widths = [self.decoder_dim * multiplier for multiplier in reversed(self.multipliers)]
        dims, doubled = (widths[0], *widths), reversed(self.temporal)
        times, spaces = (*(1 + double for double in doubled), 1), (*(2 for _ in self.temporal), 1)
        return tuple(Level(*sizes) for sizes in zip(dims[:-1], dims[1:], times, spaces, strict=True))


def average(x: Tensor, level: Level) -> Tensor:
    """[B C_in T H W] -> [B C_out T' H' W']: means of neighbours, and of channels. Zeros lie before a first frame."""
    x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % level.time, 0))
    sizes = {"t": level.time, "h": level.space, "w": level.space}
    x = rearrange(x, "B C (T t) (H h) (W w) -> B (C t h w) T H W", **sizes)
    return x.unflatten(1, (level.dim_out, -1)).mean(2)


def repeat(x: Tensor, level: Level) -> Tensor:
    """[B C_in T H W] -> [B C_out T' H' W']: every value as often as makes up the new size."""
    x = x.repeat_interleave(level.dim_out * level.values // level.dim_in, dim=1)
    sizes = {"t": level.time, "h": level.space, "w": level.space}
    return rearrange(x, "B (C t h w) T H W -> B C (T t) (H h) (W w)", **sizes)


class DownLevel(Causal):
    """Residual blocks and, but in the innermost level, a step down; beside them the means."""

    def __init__(self, level: Level, blocks: int) -> None:
        super().__init__()
        self.level = level
        step = [Downsample(level.dim_out, level.time > 1)] if level.space > 1 else []
        self.downsamples = CausalSequential(*res_blocks(level.dim_in, level.dim_out, blocks), *step)

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """[B C_in T H W] -> [B C_out T' H' W']."""
        return self.downsamples(x, cache) + average(x, self.level)


class UpLevel(Causal):
    """Residual blocks and, but in the outermost level, a step up with the repetitions beside it."""

    def __init__(self, level: Level, blocks: int) -> None:
        super().__init__()
        self.level = level
        step = [Upsample(level.dim_out, level.dim_out, level.time > 1)] if level.space > 1 else []
        self.upsamples = CausalSequential(*res_blocks(level.dim_in, level.dim_out, blocks), *step)

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """[B C_in T H W] -> [B C_out T' H' W']."""
        made = self.upsamples(x, cache)
        if self.level.space == 1:
            return made
        return made + repeat(x, self.level)[:, :, -made.shape[2] :]  # a first frame is not doubled


class Encoder22(nn.Module):
    """Pixels to the mean and log-variance of the posterior, before the last 1x1x1 mixing."""

    def __init__(self, config: VAE22Config) -> None:
        super().__init__()
        self.patch = config.patch
        levels, last = config.down_levels, config.widths[-1]
        self.conv1 = CausalConv3d(3 * config.patch**2, config.dim, (3, 3, 3))
        self.downsamples = CausalSequential(*(DownLevel(level, config.res_blocks) for level in levels))
        self.middle = middle(last)
        self.head = CausalSequential(*norm_silu_conv(last, 2 * config.latent_channels))

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """[B 3 T H W], T = 1 for the first chunk and then stride[0] -> [B 2z 1 h w]."""
        x = rearrange(x, "B C T (H h) (W w) -> B (C w h) T H W", h=self.patch, w=self.patch)
        x = self.conv1(x, cache)
        x = self.downsamples(x, cache)
        x = self.middle(x, cache)
        return self.head(x, cache)


class Decoder22(nn.Module):
    """Latents to pixels, after the first 1x1x1 mixing."""

    def __init__(self, config: VAE22Config) -> None:
        super().__init__()
        self.patch = config.patch
        levels = config.up_levels
        first, last = levels[0].dim_in, levels[-1].dim_out
        self.conv1 = CausalConv3d(config.latent_channels, first, (3, 3, 3))
        self.middle = middle(first)
        self.upsamples = CausalSequential(*(UpLevel(level, config.res_blocks + 1) for level in levels))
        self.head = CausalSequential(*norm_silu_conv(last, 3 * config.patch**2))

    def forward(self, z: Tensor, cache: FeatureCache) -> Tensor:
        """[B z 1 h w] -> [B 3 T H W], T = 1 for the first chunk and then stride[0]."""
        x = self.conv1(z, cache)
        x = self.middle(x, cache)
        x = self.upsamples(x, cache)
        x = self.head(x, cache)
        return rearrange(x, "B (C w h) T H W -> B C T (H h) (W w)", h=self.patch, w=self.patch)


class WanVAE22(StreamingVAE):
    """The autoencoder of Wan 2.2's 5B model."""

    def __init__(self, config: VAE22Config | None = None) -> None:
        config = config or VAE22Config()
        super().__init__(config, Encoder22(config), Decoder22(config))
