"""The causal video autoencoder of Wan 2.1, in the native weight names, and what all of Wan's have in common.
Owns the way between pixels and latents: a video of 1 + 4k frames becomes 1 + k latent frames an eighth as high
and wide, the first frame on its own and then four at a time. Both ways stream chunk by chunk; what the layers
remember travels in a `FeatureCache` argument.

Shapes: B batch; F frames, H height, W width of a video; z channels, f frames, h and w of its latents.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pasdedeux.models.vae_layers import (
    CausalConv3d,
    CausalSequential,
    Downsample,
    FeatureCache,
    FrameAttention,
    ResidualBlock,
    Upsample,
    norm_silu_conv,
)

# Per-channel statistics of Wan 2.1 latents, published with the model.
WAN_LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
WAN_LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEConfig:
    """Sizes of the autoencoder; the defaults are Wan 2.1.

    Raises ValueError where the parts do not fit one another.
    """

    dim: int = 96  # width of the level nearest the pixels
    latent_channels: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 4)  # width of each level, in units of dim
    res_blocks: int = 2  # per level; the decoder has one more
    temporal: tuple[bool, ...] = (False, True, True)  # which steps between levels halve the frames too
    latent_mean: tuple[float, ...] = WAN_LATENT_MEAN
    latent_std: tuple[float, ...] = WAN_LATENT_STD

    def __post_init__(self) -> None:
        if len(self.temporal) != len(self.multipliers) - 1:
            steps = len(self.multipliers) - 1
            given = len(self.temporal)
            raise ValueError(f"{steps + 1} levels have {steps} steps between them, but temporal names {given}.")
        for name, values in (("latent_mean", self.latent_mean), ("latent_std", self.latent_std)):
            if len(values) != self.latent_channels:
                raise ValueError(
                    f"{name} has {len(values)} values, but there are {self.latent_channels} latent channels."
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from the pixels inwards."""
        return tuple(self.dim * multiplier for multiplier in self.multipliers)

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels per latent."""
        return 2 ** sum(self.temporal), 2 ** len(self.temporal), 2 ** len(self.temporal)


def middle(dim: int) -> CausalSequential:
    """The innermost level, where pixels of a frame see one another."""
    return CausalSequential(ResidualBlock(dim, dim), FrameAttention(dim), ResidualBlock(dim, dim))


def res_blocks(dim_in: int, dim_out: int, count: int) -> list[nn.Module]:
    """`count` residual blocks; the first changes the width."""
    return [ResidualBlock(dim_in if i == 0 else dim_out, dim_out) for i in range(count)]


class Encoder(nn.Module):
    """Pixels to the mean and log-variance of the posterior, before the last 1x1x1 mixing."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        first, *_, last = config.widths
        self.conv1 = CausalConv3d(3, first, (3, 3, 3))
        self.downsamples = CausalSequential(*self._levels(config))
        self.middle = middle(last)
        self.head = CausalSequential(*norm_silu_conv(last, 2 * config.latent_channels))

    @staticmethod
    def _levels(config: VAEConfig) -> Iterator[nn.Module]:
        dim = config.dim
        for level, width in enumerate(config.widths):
            yield from res_blocks(dim, width, config.res_blocks)
            dim = width
            if level < len(config.temporal):
                yield Downsample(dim, config.temporal[level])

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """[B 3 T H W], T = 1 for the first chunk and then stride[0] -> [B 2z 1 h w]."""
        x = self.conv1(x, cache)
        x = self.downsamples(x, cache)
        x = self.middle(x, cache)
        return self.head(x, cache)


class Decoder(nn.Module):
    """Latents to pixels, after the first 1x1x1 mixing."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        last, *_, first = config.widths
        self.conv1 = CausalConv3d(config.latent_channels, first, (3, 3, 3))
        self.middle = middle(first)
        self.upsamples = CausalSequential(*self._levels(config))
        self.head = CausalSequential(*norm_silu_conv(last, 3))

    @staticmethod
    def _levels(config: VAEConfig) -> Iterator[nn.Module]:
        dim = config.widths[-1]
        for level, width in reversed(list(enumerate(config.widths))):
            yield from res_blocks(dim, width, config.res_blocks + 1)
            if level > 0:
                yield Upsample(width, width // 2, config.temporal[level - 1])
                dim = width // 2

    def forward(self, z: Tensor, cache: FeatureCache) -> Tensor:
        """[B z 1 h w] -> [B 3 T H W], T = 1 for the first chunk and then stride[0]."""
        x = self.conv1(z, cache)
        x = self.middle(x, cache)
        x = self.upsamples(x, cache)
        return self.head(x, cache)


class StreamingVAE(nn.Module):
    """Video in [-1, 1] to normalised latents and back, by the encoder and decoder it is given.

    The network computes in the dtype of its weights, the normalisation in float32; results have the dtype
    of the input. Nothing stays on the module between calls, so streams may interleave. Whether gradients are
    recorded is the caller's choice.
    """

    def __init__(self, config: VAEConfig, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.config = config
        z = config.latent_channels
        self.encoder = encoder
        self.conv1 = nn.Conv3d(2 * z, 2 * z, 1)
        self.conv2 = nn.Conv3d(z, z, 1)
        self.decoder = decoder

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels per latent: (4, 8, 8) for Wan 2.1, (4, 16, 16) for Wan 2.2."""
        return self.config.stride

    @property
    def channels(self) -> int:
        """Latent channels: 16 for Wan 2.1, 48 for Wan 2.2."""
        return self.config.latent_channels

    def encode(self, video: Tensor) -> Tensor:
        """Video [B 3 F H W] in [-1, 1], F = 1 + 4k -> latents [B z 1+k h w], (mean - mu) / sigma.

        This is the mean of the posterior, not a sample. Raises ValueError for a shape that does not fit.
        """
        self._check_video(video.shape)
        batch, _, frames, height, width = video.shape
        time, rows, columns = self.stride
        steps = (frames - 1) // time
        chunks = video.split((1, *[time] * steps), dim=2)
        cache = FeatureCache()
        shape = (batch, self.channels, 1 + steps, height // rows, width // columns)
        return gather((self.encode_chunk(chunk, cache) for chunk in chunks), video.new_empty(shape))

    def decode(self, latent: Tensor) -> Tensor:
        """Latents [B z f h w] -> video [B 3 1+4(f-1) H W] in [-1, 1]. Raises ValueError for a wrong shape.

        See `decode_frames` to have the video piece by piece.
        """
        chunks = self.decode_frames(latent)
        batch, _, frames, height, width = latent.shape
        time, rows, columns = self.stride
        shape = (batch, 3, 1 + time * (frames - 1), height * rows, width * columns)
        return gather(chunks, latent.new_empty(shape))

    def decode_frames(self, latent: Tensor) -> Iterator[Tensor]:
        """Latents [B z f h w] -> video in chunks [B 3 n H W]: n = 1 for the first latent frame, then 4.

        Memory does not grow with f. A wrong shape raises ValueError here, not at the first chunk.
        """
        self._check_latent(latent.shape)
        cache = FeatureCache()
        return (self.decode_chunk(frame, cache) for frame in latent.split(1, dim=2))

    def encode_chunk(self, video: Tensor, cache: FeatureCache) -> Tensor:
        """The next frames of a stream, [B 3 n H W], n = 1 at first, then 4 -> one latent frame [B z 1 h w].

        `cache` is what the stream remembers, empty at first; it is moved on. Raises ValueError for another n.
        """
        expected = self.stride[0] if cache else 1
        if video.shape[2] != expected:
            raise ValueError(f"The next chunk of this stream must have {expected} frames, not {video.shape[2]}.")
        moments = self.conv1(self.encoder(video.to(self.conv1.weight.dtype), cache))
        mean, _log_variance = moments.float().chunk(2, dim=1)
        mu, sigma = self._statistics(mean)
        return ((mean - mu) / sigma).to(video.dtype)

    def decode_chunk(self, latent: Tensor, cache: FeatureCache) -> Tensor:
        """The next latent frame of a stream, [B z 1 h w] -> [B 3 n H W], n = 1 at first, then 4.

        `cache` is what the stream remembers, empty at first; it is moved on. Pixels lie in [-1, 1]. Raises
        ValueError for several latent frames.
        """
        if latent.shape[2] != 1:
            raise ValueError(f"A stream is decoded one latent frame at a time, not {latent.shape[2]}.")
        mu, sigma = self._statistics(latent)
        z = (latent.float() * sigma + mu).to(self.conv2.weight.dtype)
        return self.decoder(self.conv2(z), cache).clamp_(-1, 1).to(latent.dtype)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        # Made on use: a buffer would join the weights' names, or else stay on meta when weights are assigned.
        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=like.device).view(1, -1, 1, 1, 1)

        return column(self.config.latent_mean), column(self.config.latent_std)

    def _check_video(self, shape: torch.Size) -> None:
        time, rows, columns = self.stride
        if len(shape) != 5 or shape[1] != 3:
            raise ValueError(f"A video must be [batch, 3, frames, height, width], not {list(shape)}.")
        if shape[2] < 1 or (shape[2] - 1) % time:
            raise ValueError(f"A video of {shape[2]} frames does not fit: it must have 1 plus a multiple of {time}.")
        if min(shape[3:]) < 1 or shape[3] % rows or shape[4] % columns:
            size, unit = f"{shape[4]}x{shape[3]}", f"{columns} and {rows}"
            raise ValueError(f"A video of {size} pixels does not fit: width and height must be multiples of {unit}.")

    def _check_latent(self, shape: torch.Size) -> None:
        if len(shape) != 5 or shape[1] != self.channels or min(shape[2:]) < 1:
            wanted = f"[batch, {self.channels}, frames, height, width], none of them empty"
            raise ValueError(f"Latents must be {wanted}, not {list(shape)}.")


class WanVAE(StreamingVAE):
    """The autoencoder of Wan 2.1, and of all of Wan 2.2 but its 5B model."""

    def __init__(self, config: VAEConfig | None = None) -> None:
        config = config or VAEConfig()
        super().__init__(config, Encoder(config), Decoder(config))


def gather(chunks: Iterator[Tensor], out: Tensor) -> Tensor:
    """Write chunks one after another along axis 2 of `out`, so that what was made is never held twice."""
    start = 0
    for chunk in chunks:
        out[:, :, start : start + chunk.shape[2]] = chunk
        start += chunk.shape[2]
    return out
