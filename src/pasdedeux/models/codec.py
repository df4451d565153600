"""The built-in pair's video codec: causal patches of 4x8x8 pixels, a principal-component encoder and a small decoder.

It stands behind the interface of the Wan VAE (`encode`, `decode`, `decode_frames`, `stride`, `channels`) and costs
thousands of times less. Encoding is linear: each patch is projected on its leading principal components, each divided
by the `whitening` power of its standard deviation, so that detail keeps little energy and is decided late, at low
noise. Decoding is the transpose of that projection, plus a small causal convolutional network that paints back what
the projection dropped. The first frame is a patch of its own; every later latent frame holds four.

Axes: B batch, T frames, F latent frames, H W pixels, h w patches, C latent channels, P patch pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecConfig:
    """Sizes of a `PatchCodec`: latent channels, decoder width and depth, and the (time, height, width) stride."""

    channels: int = 128
    width: int = 192
    depth: int = 3
    stride: tuple[int, int, int] = (4, 8, 8)
    whitening: float = 0.5

    @property
    def first_pixels(self) -> int:
        """Numbers in a patch of the first frame."""
        return 3 * self.stride[1] * self.stride[2]

    @property
    def patch_pixels(self) -> int:
        """Numbers in a patch of the later frames."""
        return self.stride[0] * self.first_pixels


class Projection(nn.Module):
    """Orthonormal projection of patches on C components, scaled: latent = (patch - mean) @ basis / scale.

    The three tensors are measured from data, not trained: `mean` [P], `basis` [P, C], `scale` [C].
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, pixels: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("basis", torch.zeros(pixels, channels))
        self.register_buffer("scale", torch.ones(channels))

    def forward(self, patches: Tensor) -> Tensor:
        """[..., P] pixels to [..., C] latents."""
        return (patches - self.mean) @ (self.basis / self.scale)

    def inverse(self, latent: Tensor) -> Tensor:
        """[..., C] latents to the nearest [..., P] pixels in the span of the basis."""
        return (latent * self.scale) @ self.basis.T + self.mean


class Painter(nn.Module):
    """Adds to each decoded patch the detail that the projection lost, from latents of this and the previous frame."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.inlet = nn.Conv2d(2 * config.channels + 1, config.width, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(config.width, config.width, 3, padding=1) for _ in range(config.depth))
        self.outlet = nn.Conv2d(config.width, config.patch_pixels, 1)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)  # type: ignore[arg-type]

    def forward(self, latent: Tensor, previous: Tensor, first: bool) -> Tensor:
        """[B, C, h, w] twice to [B, P, h, w]; `first` tells a patch of one frame from a patch of four."""
        flag = torch.full_like(latent[:, :1], float(first))
        x = self.inlet(torch.cat([latent, previous, flag], dim=1))
        for layer in self.layers:
            x = x + layer(functional.silu(x))
        return self.outlet(functional.silu(x))


class PatchCodec(nn.Module):
    """Video to latents and back; see the module's text. Computes in float32."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.first = Projection(config.first_pixels, config.channels)
        self.later = Projection(config.patch_pixels, config.channels)
        self.painter = Painter(config)

    @property
    def stride(self) -> tuple[int, int, int]:
        """Pixels per latent in (time, height, width)."""
        return self.config.stride

    @property
    def channels(self) -> int:
        """Latent channels."""
        return self.config.channels

    def patches(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """[B, c, T, H, W] to the first frame's patches [B, 1, h, w, P1] and the later ones [B, F-1, h, w, P].

        Raises ValueError unless T = 1 + 4k and H and W are multiples of 8.
        """
        t, p, q = self.stride
        frames, height, width = video.shape[2:]
        if (frames - 1) % t or height % p or width % q:
            raise ValueError(
                f"video is {frames} frames of {width}x{height}; the codec takes 1 + {t}k frames of multiples of {q}x{p}"
            )
        first = rearrange(video[:, :, :1], "B c 1 (h p) (w q) -> B 1 h w (c p q)", p=p, q=q)
        later = rearrange(video[:, :, 1:], "B c (F t) (h p) (w q) -> B F h w (t c p q)", t=t, p=p, q=q)
        return first, later

    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, 1+4k, H, W] in [-1, 1] to latents [B, C, 1+k, H/8, W/8]."""
        first, later = self.patches(video.float())
        latent = torch.cat([self.first(first), self.later(later)], dim=1)
        return rearrange(latent, "B F h w C -> B C F h w")

    def decode_one(self, latent: Tensor, previous: Tensor | None) -> Tensor:
        """One latent frame [B, C, h, w], given the one before it, to its [B, 3, 1 or 4, H, W] pixels, not clamped."""
        t, p, q = self.stride
        first = previous is None
        base = (self.first if first else self.later).inverse(rearrange(latent, "B C h w -> B h w C"))
        detail = self.painter(latent, torch.zeros_like(latent) if previous is None else previous, first)
        pixels = base + rearrange(detail, "B P h w -> B h w P")[..., : base.shape[-1]]
        return rearrange(pixels, "B h w (t c p q) -> B c t (h p) (w q)", t=1 if first else t, c=3, p=p, q=q)

    def decode_frames(self, latent: Tensor) -> Iterator[Tensor]:
        """[B, C, F, h, w] latents to chunks [B, 3, 1 or 4, H, W] in [-1, 1], one latent frame at a time."""
        latent = latent.float()
        for i in range(latent.shape[2]):
            previous = latent[:, :, i - 1] if i else None
            yield self.decode_one(latent[:, :, i], previous).clamp(-1, 1)

    def decode(self, latent: Tensor) -> Tensor:
        """[B, C, 1+k, h, w] latents to [B, 3, 1+4k, H, W] pixels in [-1, 1]."""
        return torch.cat(list(self.decode_frames(latent)), dim=2)
