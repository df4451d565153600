"""The layers of a causal video autoencoder. Owns looking back in time: a layer that needs earlier frames
finds them in the `FeatureCache` it is called with, so a video flows through in chunks and no layer
remembers anything.

Shapes: B batch, C channels, T frames of this chunk, H height, W width.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class FeatureCache:
    """The last frames each causal layer has seen of one stream. A stream starts with an empty one of its own.

    It is changed in place, not made anew per chunk: `take` lets go of old frames before new ones are kept.
    Decoding 1280x720 in bfloat16 remembers 4.4 GB, which would else be held twice.
    """

    def __init__(self) -> None:
        self._frames: dict[nn.Module, Tensor] = {}

    def __contains__(self, layer: nn.Module) -> bool:
        return layer in self._frames

    def __len__(self) -> int:
        """How many layers remember something; 0 before the first chunk."""
        return len(self._frames)

    def take(self, layer: nn.Module) -> Tensor | None:
        """The frames [B C T H W] kept for `layer`, which are then forgotten; None if there are none."""
        return self._frames.pop(layer, None)

    def keep(self, layer: nn.Module, frames: Tensor) -> None:
        """Remember `frames` [B C T H W] for `layer`: a copy, so their chunk can be freed."""
        self._frames[layer] = frames.clone()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(frames.nbytes for frames in self._frames.values())


class Causal(nn.Module):
    """A layer called as `layer(x, cache)`, whose output frame t depends on input frames up to t only."""


class CausalConv3d(nn.Conv3d, Causal):
    """A 3D convolution that sees earlier frames instead of padding in time; zeros lie before the first."""

    def __init__(self, dim_in: int, dim_out: int, kernel: tuple[int, int, int], time_stride: int = 1) -> None:
        padding = (0, kernel[1] // 2, kernel[2] // 2)
        super().__init__(dim_in, dim_out, kernel, stride=(time_stride, 1, 1), padding=padding)
        self.memory = kernel[0] - time_stride

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] -- it takes its past too
        self, x: Tensor, cache: FeatureCache
    ) -> Tensor:
        """[B C_in T H W] -> [B C_out T/time_stride H W]."""
        past = cache.take(self)
        x = torch.cat((self.silence(x) if past is None else past, x), dim=2)
        del past
        cache.keep(self, x[:, :, -self.memory :])
        return super().forward(x)

    def silence(self, x: Tensor) -> Tensor:
        """As many frames of zeros, shaped like those of `x`, as this layer remembers."""
        batch, channels, _, height, width = x.shape
        return x.new_zeros(batch, channels, self.memory, height, width)


class RMSNorm(nn.Module):
    """gamma * sqrt(C) * x / |x|, the norm over each pixel's channels (Zhang & Sennrich 2019, equation 4)."""

    def __init__(self, dim: int, pixel_axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, *[1] * pixel_axes))

    def forward(self, x: Tensor) -> Tensor:
        """[B C ...] -> the same. The sum of squares is float32 or wider, the division in the dtype of `x`."""
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=wide)
        norm = norm.clamp_min(max(1e-12, torch.finfo(x.dtype).tiny))  # float16 has no 1e-12
        return x / norm.to(x.dtype) * (self.gamma * len(self.gamma) ** 0.5)


class CausalSequential(Causal):
    """Layers in a row, named by their position; those that look back are given the cache."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        for position, layer in enumerate(layers):
            self.add_module(str(position), layer)

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """[B C T H W] -> whatever the last layer makes of it."""
        for layer in self.children():
            x = layer(x, cache) if isinstance(layer, Causal) else layer(x)
        return x


def norm_silu_conv(dim_in: int, dim_out: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The pre-activated 3x3x3 convolution everything here is made of."""
    # In place is safe: the norm's output belongs to nobody else.
    return RMSNorm(dim_in, pixel_axes=3), nn.SiLU(inplace=True), CausalConv3d(dim_in, dim_out, (3, 3, 3))


class ResidualBlock(Causal):
    """Two pre-activated convolutions beside a shortcut, which is a convolution where the width changes."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        norm, silu, conv = norm_silu_conv(dim_out, dim_out)
        # The identity stands where training had dropout: weight names count positions.
        self.residual = CausalSequential(*norm_silu_conv(dim_in, dim_out), norm, silu, nn.Identity(), conv)
        self.shortcut = nn.Conv3d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """[B C_in T H W] -> [B C_out T H W]."""
        return self.residual(x, cache) + self.shortcut(x)


class FrameAttention(nn.Module):
    """Self-attention with one head among the pixels of each frame; frames do not see one another."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, pixel_axes=2)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B C T H W] -> [B C T H W]."""
        batch, _, _, height, width = x.shape
        frames = rearrange(x, "B C T H W -> (B T) C H W")
        q, k, v = rearrange(self.to_qkv(self.norm(frames)), "N (K C) H W -> K N 1 (H W) C", K=3)
        out = F.scaled_dot_product_attention(q, k, v)
        out = self.proj(rearrange(out, "N 1 (H W) C -> N C H W", H=height, W=width))
        return x + rearrange(out, "(B T) C H W -> B C T H W", B=batch)


def per_frame(layers: nn.Module, x: Tensor) -> Tensor:
    """Apply image layers to every frame: [B C T H W] -> [B C' T H' W']."""
    out = layers(rearrange(x, "B C T H W -> (B T) C H W"))
    return rearrange(out, "(B T) C H W -> B C T H W", B=len(x))


class Downsample(Causal):
    """Halve height and width; with `temporal` also the frames, of which the first stays on its own."""

    def __init__(self, dim: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(dim, dim, 3, stride=2))
        self.time_conv = CausalConv3d(dim, dim, (3, 1, 1), time_stride=2) if temporal else None

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """[B C T H W] -> [B C T' H/2 W/2], T' = T, or with `temporal` 1 for the first frame and then T/2."""
        x = per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        if self.time_conv not in cache:
            cache.keep(self.time_conv, x)
            return x
        return self.time_conv(x, cache)


class Upsample(Causal):
    """Double height and width; with `temporal` also double all frames but the first."""

    def __init__(self, dim_in: int, dim_out: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(dim_in, dim_out, 3, padding=1)
        )
        self.time_conv = CausalConv3d(dim_in, 2 * dim_in, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """[B C_in T H W] -> [B C_out T' 2H 2W], T' = T, or with `temporal` 1 for the first frame and then 2T."""
        if self.time_conv is not None:
            x = self._double_frames(self.time_conv, x, cache)
        return per_frame(self.resample, x)

    @staticmethod
    def _double_frames(time_conv: CausalConv3d, x: Tensor, cache: FeatureCache) -> Tensor:
        # The first frame passes by unseen, as Wan was trained: the past of the convolution begins after it.
        if time_conv not in cache:
            cache.keep(time_conv, time_conv.silence(x))
            return x
        return rearrange(time_conv(x, cache), "B (K C) T H W -> B C (T K) H W", K=2)
