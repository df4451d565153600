"""Layers of the built-in denoiser: attention and feed-forward on tokens, convolutions on pictures.

Axes: B batch, T frames, F latent frames, H W pixels, h w rows and columns, L = h*w tokens of one frame, C latent
channels, c picture channels, D width, N heads.
"""

import math
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


def normalise(x: Tensor) -> Tensor:
    """Layer normalisation without learned scale, in float32 (the kernel's own), in the type of `x`."""
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)


def angles(position: Tensor, width: int, base: float) -> Tensor:
    """Rotary angles (Su et al. 2021, eq. 34): [L] positions to [L, width/2] in float32."""
    rate = base ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    return position.float()[:, None] * rate


def rotation(angle: Tensor) -> Tensor:
    """[L, d/2] angles to [2, L, d]: cosines and sines, each standing for both halves of a head."""
    return torch.stack([angle.cos(), angle.sin()]).repeat(1, 1, 2)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Apply `turn` [2, L, d] to heads `x` [..., L, d]: pairs are (i, i + d/2)."""
    left, right = x.chunk(2, dim=-1)
    return x * turn[0] + torch.cat([-right, left], dim=-1) * turn[1]


def sinusoid(sigma: Tensor, width: int) -> Tensor:
    """[B] noise levels to [B, width] features, float32; frequencies from 1 to 1000 cycles over [0, 1]."""
    rate = torch.logspace(0, 3, width // 2, device=sigma.device) * math.tau / 4
    phase = sigma.float()[:, None] * rate
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) of heads [B, N, L, d].

    On a processor it is written out: with frames of a few hundred tokens, PyTorch's tiled kernel takes half as long
    again for a block's step.
    """
    if q.device.type != "cpu":
        return functional.scaled_dot_product_attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return scores.softmax(-1) @ v


class Attention(nn.Module):
    """Self-attention over the last axis but one, with rotary places and normalised queries and keys."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.o = nn.Linear(dim, dim)

    def split(self, x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, L, D] to queries, keys and values [B, N, L, D/N], the first two normalised and turned."""
        q, k, v = rearrange(self.qkv(x), "B L (three N d) -> three B N L d", three=3, N=self.heads)
        return rotate(normalise(q), turn), rotate(normalise(k), turn), v

    def keys(self, x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `split`."""
        _, k, v = self.split(x, turn)
        return k, v

    def forward(self, x: Tensor, turn: Tensor, more: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """[B, L, D] to the same; `more` keys and values are seen by every query."""
        q, k, v = self.split(x, turn)
        if more is not None:
            k, v = torch.cat([k, more[0]], dim=2), torch.cat([v, more[1]], dim=2)
        return self.o(rearrange(attend(q, k, v), "B N L d -> B L (N d)"))


class Neighbours(nn.Module):
    """A feed-forward whose first layer sees a token's eight neighbours: a figure's edge seldom ends at a token's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(dim, dim, 3, padding=1)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rows: int) -> Tensor:
        """[B, F, L, D] with L in `rows` rows to the same."""
        batch = x.shape[0]
        picture = rearrange(x, "B F (h w) D -> (B F) D h w", h=rows).contiguous(memory_format=torch.channels_last)
        near = functional.gelu(self.near(picture), approximate="tanh")
        return self.out(rearrange(near, "(B F) D h w -> B F (h w) D", B=batch))


class FeedForward(nn.Module):
    """The usual feed-forward, token by token."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.inlet = nn.Linear(dim, width)
        self.out = nn.Linear(width, dim)

    def forward(self, x: Tensor, _rows: int) -> Tensor:
        """[B, F, L, D] to the same."""
        return self.out(functional.gelu(self.inlet(x), approximate="tanh"))


class Pyramid(nn.Module):
    """Planes of pixels seen at three scales, each half as fine as the one before; runs once per segment."""

    def __init__(self, planes: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise((planes, *widths)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, P, H, W] to [B, widths[i], H / 2^(i+1), W / 2^(i+1)], channels last in memory, finest first."""
        x = x.contiguous(memory_format=torch.channels_last)
        seen = []
        for layer in self.down:
            x = functional.silu(layer(x))
            seen.append(x)
        return seen


class Frames(nn.Module):
    """Latent frames to the frames they stand for: the first to one, every later one to `count`."""

    def __init__(self, inlet: int, outlet: int, count: int) -> None:
        super().__init__()
        self.first, self.later = nn.Linear(inlet, outlet), nn.Linear(inlet, count * outlet)
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, ..., inlet] to [B, T, ..., outlet]."""
        later = rearrange(self.later(x[:, 1:]), "B F ... (t c) -> B F t ... c", t=self.count).flatten(1, 2)
        return torch.cat([self.first(x[:, :1]), later], dim=1)


class Latents(nn.Module):
    """Frames to the latent frames that stand for them: the first alone, later ones by `count`."""

    def __init__(self, inlet: int, outlet: int, count: int) -> None:
        super().__init__()
        self.first, self.later = nn.Linear(inlet, outlet), nn.Linear(count * inlet, outlet)
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, ..., inlet] to [B, F, ..., outlet]."""
        later = rearrange(x[:, 1:].unflatten(1, (-1, self.count)), "B F t ... c -> B F ... (t c)")
        return torch.cat([self.first(x[:, :1]), self.later(later)], dim=1)


class Residual(nn.Module):
    """Two convolutions beside the identity, their middle scaled and shifted by the noise level."""

    def __init__(self, width: int, level: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(level, 2 * width)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """[B, c, H, W] at `level` [B, D] to the same."""
        scale, shift = self.modulation(level)[:, :, None, None].chunk(2, dim=1)
        inner = self.inner(functional.silu(x)) * (1 + scale) + shift
        return x + self.outer(functional.silu(inner))


class Finer(nn.Module):
    """Features at one scale to the next finer one, where they meet what the pyramid saw there."""

    def __init__(self, coarse: int, fine: int, level: int) -> None:
        super().__init__()
        self.up = nn.Conv2d(coarse, 4 * fine, 1)
        self.skip = nn.Conv2d(fine, fine, 3, padding=1)
        self.refine = Residual(fine, level)

    def forward(self, x: Tensor, skipped: Tensor, level: Tensor) -> Tensor:
        """[B, coarse, H, W], and `skipped` = skip(pyramid) [B, fine, 2H, 2W], to [B, fine, 2H, 2W]."""
        return self.refine(functional.pixel_shuffle(self.up(functional.silu(x)), 2) + skipped, level)
