"""From face crops to motion tokens.

The motion encoder makes one vector per pixel frame, the face encoder a few tokens per latent frame. The
former is LIA's (Latent Image Animator, 2022) on StyleGAN2's layers, in native names.
"""

from itertools import pairwise
from math import sqrt

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import AnimateConfig
from .layers import layer_norm

SQRT2 = sqrt(2)


class EqualConv2d(nn.Module):
    """Convolution whose weights are scaled by 1/sqrt(fan_in) in use (progressive GAN, section 4.1)."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim, kernel, kernel))
        self.scale = 1 / sqrt(in_dim * kernel**2)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)


class EqualLinear(nn.Module):
    """Linear layer with the same scaling of its weights; the bias is not scaled."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.scale = 1 / sqrt(in_dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


class BiasedLeakyReLU(nn.Module):
    """sqrt(2) * leaky_relu(x + bias, 0.2): the gain keeps the variance (StyleGAN2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias, 0.2) * SQRT2


class Blur(nn.Module):
    """Binomial low-pass of 4x4 before a convolution of stride 2; pads so that the size then halves."""

    kernel: Tensor

    def __init__(self, next_kernel: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", torch.outer(taps, taps) / 64)
        pad = 4 - 2 + next_kernel - 1
        self.before, self.after = (pad + 1) // 2, pad // 2

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (self.before, self.after, self.before, self.after))
        return F.conv2d(x, self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4), groups=x.shape[1])


class ResBlock(nn.Module):
    """Halves the resolution along two paths, and their sum keeps its variance."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(EqualConv2d(in_dim, in_dim, 3, padding=1), BiasedLeakyReLU(in_dim))
        self.conv2 = nn.Sequential(Blur(3), EqualConv2d(in_dim, out_dim, 3, stride=2), BiasedLeakyReLU(out_dim))
        self.skip = nn.Sequential(Blur(1), EqualConv2d(in_dim, out_dim, 1, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / SQRT2


class AppearanceNet(nn.Module):
    """Face crop to style vector: [N, 3, S, S] -> [N, style]."""

    def __init__(self, channels: tuple[int, ...], style: int) -> None:
        super().__init__()
        enter = nn.Sequential(EqualConv2d(3, channels[0], 1), BiasedLeakyReLU(channels[0]))
        halve = [ResBlock(a, b) for a, b in pairwise(channels)]
        self.convs = nn.Sequential(enter, *halve, EqualConv2d(channels[-1], style, 4))

    def forward(self, face: Tensor) -> Tensor:
        return self.convs(face).flatten(1)


class MotionCoefficients(nn.Module):
    """Face crop to the coefficients of its motion: [N, 3, S, S] -> [N, motion_dim]. No activations."""

    def __init__(self, config: AnimateConfig) -> None:
        super().__init__()
        style = config.motion_style
        self.net_app = AppearanceNet(config.motion_channels, style)
        self.fc = nn.Sequential(*(EqualLinear(style, style) for _ in range(4)), EqualLinear(style, config.motion_dim))

    def forward(self, face: Tensor) -> Tensor:
        return self.fc(self.net_app(face))


class Directions(nn.Module):
    """Coefficients to motion: a sum of orthonormal directions, the Q of a float32 QR (LIA, section 3.2)."""

    def __init__(self, style: int, motion_dim: int) -> None:
        super().__init__()
        self.direction = nn.Linear(motion_dim, style, bias=False)

    def forward(self, coefficients: Tensor) -> Tensor:
        q, _ = torch.linalg.qr(self.direction.weight.float() + 1e-8)
        return (coefficients.float() @ q.T).to(coefficients.dtype)


class MotionEncoder(nn.Module):
    """One motion vector per face crop, a few crops at a time, for their feature maps are large."""

    def __init__(self, config: AnimateConfig, crops_at_once: int = 8) -> None:
        super().__init__()
        self.crops_at_once = crops_at_once
        self.enc = MotionCoefficients(config)
        self.dec = Directions(config.motion_style, config.motion_dim)

    def forward(self, face: Tensor) -> Tensor:
        """Crops in [-1, 1], [B, 3, T, S, S] -> [B, T, style]."""
        crops = rearrange(face, "b c t h w -> (b t) c h w")
        coefficients = torch.cat([self.enc(some) for some in crops.split(self.crops_at_once)])
        return self.dec(coefficients).unflatten(0, (face.shape[0], -1))


class CausalConv1d(nn.Module):
    """Convolution over time that sees no future; the first frame stands for those before it."""

    def __init__(self, in_dim: int, out_dim: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_dim, out_dim, 3, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] -> [N, ceil(T / stride), C']."""
        x = F.pad(x.transpose(1, 2), (2, 0), mode="replicate")
        return self.conv(x).transpose(1, 2)


class FaceEncoder(nn.Module):
    """Motion vectors of pixel frames to motion tokens of latent frames, four times fewer."""

    def __init__(self, config: AnimateConfig) -> None:
        super().__init__()
        self.heads, self.eps = config.face_heads, config.eps
        self.conv1_local = CausalConv1d(config.motion_style, config.face_dim * config.face_heads)
        self.conv2 = CausalConv1d(config.face_dim, config.face_dim, stride=2)
        self.conv3 = CausalConv1d(config.face_dim, config.face_dim, stride=2)
        self.out_proj = nn.Linear(config.face_dim, config.dim)
        self.padding_tokens = nn.Parameter(torch.zeros(1, 1, 1, config.dim))

    def normed(self, x: Tensor) -> Tensor:
        """Layer norm in float32, then SiLU."""
        return F.silu(layer_norm(x, self.eps).to(x.dtype))

    def forward(self, motion: Tensor) -> Tensor:
        """[B, T, style] -> [B, ceil(T / 4), heads + 1, D]; a frame's last token is the learned padding."""
        x = rearrange(self.conv1_local(motion), "b t (n c) -> (b n) t c", n=self.heads)
        x = self.normed(self.conv3(self.normed(self.conv2(self.normed(x)))))
        tokens = rearrange(self.out_proj(x), "(b n) t d -> b t n d", n=self.heads)
        return torch.cat((tokens, self.padding_tokens.expand(*tokens.shape[:2], 1, -1)), dim=2)
