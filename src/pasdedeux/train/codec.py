"""Measure and train the patch codec: principal components from patches of clips, then the painter by gradient.

Both parts look harder at the character than at the place, and hardest at the face, where a lost pixel costs most.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from pasdedeux.animate.condition.duet import composite, regions, video_tensor
from pasdedeux.models.codec import PatchCodec, Projection
from pasdedeux.train.clips import StoredClip, load, opened, stretch

WEIGHTS = (1.0, 4.0, 8.0)
"""Loss weight of place, person and face, for attention 0, 128 and 255."""

LEAST_SPREAD = 0.01
"""Deviation below which a latent counts as given; the codec's own rounding is of this size."""


def pixel_weights(attention: Tensor) -> Tensor:
    """Attention bytes to loss weights of the same shape, float32."""
    return torch.tensor(WEIGHTS)[(attention.long() + 64) // 128]


def batch(clips: list[Path], generator: np.random.Generator, count: int, frames: int) -> Iterator[StoredClip]:
    """`count` random stretches of stored clips."""
    for i in generator.integers(0, len(clips), count):
        yield stretch(clips[i], generator, frames)


@torch.no_grad()
def components(patches: Tensor, weights: Tensor, projection: Projection, whitening: float) -> None:
    """Fill a projection with the weighted principal components of patches [N, P]; overall latent RMS becomes 1."""
    patches, weights = patches.double(), (weights / weights.mean()).double()
    mean = (patches * weights[:, None]).mean(0)
    centred = patches - mean
    values, vectors = torch.linalg.eigh((centred * weights[:, None]).T @ centred / len(patches))
    count = projection.scale.numel()
    deviation = values.flip(0)[:count].clamp(min=1e-8).sqrt()
    scale = deviation**whitening
    projection.mean.copy_(mean)
    projection.basis.copy_(vectors.flip(1)[:, :count])
    projection.scale.copy_(scale * (deviation / scale).square().mean().sqrt())


def measure(codec: PatchCodec, clips: list[Path], seed: int, count: int = 400) -> None:
    """Set the codec's two projections from `count` stretches of five frames."""
    first, later, first_weight, later_weight = [], [], [], []
    for clip in batch(clips, np.random.default_rng(seed), count, 5):
        a, b = codec.patches(video_tensor(clip.truth))
        weight = pixel_weights(torch.from_numpy(clip.attention))[None, None]
        wa, wb = codec.patches(weight.expand(1, 3, -1, -1, -1))
        for kept, new in zip((first, later, first_weight, later_weight), (a, b, wa.mean(-1), wb.mean(-1)), strict=True):
            kept.append(new.flatten(0, 3))
    components(torch.cat(first), torch.cat(first_weight), codec.first, codec.config.whitening)
    components(torch.cat(later), torch.cat(later_weight), codec.later, codec.config.whitening)


@dataclass(frozen=True, kw_only=True, slots=True)
class PainterConfig:
    """How the painter is trained."""

    seed: int = 0
    steps: int = 1200
    batch: int = 6
    frames: int = 9
    rate: float = 2e-3
    jitter: float = 0.03
    """Noise on latents, so that the painter does not lean on digits the denoiser cannot give."""


def painter_loss(codec: PatchCodec, clips: list[StoredClip], jitter: float, generator: torch.Generator) -> Tensor:
    """Mean weighted Charbonnier distance (Charbonnier et al. 1994, epsilon 0.02) of decoded to true pixels."""
    video = torch.cat([video_tensor(c.truth) for c in clips])
    weight = pixel_weights(torch.from_numpy(np.stack([c.attention for c in clips])))[:, None]
    with torch.no_grad():
        latent = codec.encode(video)
    latent = latent + jitter * torch.randn(latent.shape, generator=generator)
    decoded = torch.cat(
        [codec.decode_one(latent[:, :, i], latent[:, :, i - 1] if i else None) for i in range(latent.shape[2])],
        dim=2,
    )
    distance = ((decoded - video).square() + 0.02**2).sqrt()
    return (distance * weight).sum() / (weight.sum() * 3)


def train_painter(codec: PatchCodec, clips: list[Path], config: PainterConfig) -> Iterator[tuple[int, float]]:
    """Train the painter in place with Adam and a cosine rate; yields (step, loss)."""
    optimiser = torch.optim.AdamW(codec.painter.parameters(), lr=config.rate, weight_decay=0.0, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.rate, config.steps, pct_start=0.05)
    for step in range(config.steps):
        stretch = list(batch(clips, np.random.default_rng([config.seed, step]), config.batch, config.frames))
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        loss = painter_loss(codec, stretch, config.jitter, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        yield step, loss.item()


@torch.no_grad()
def quality(codec: PatchCodec, clips: list[Path]) -> float:
    """Mean PSNR in dB of whole clips through the codec and back."""
    scores = []
    for path in clips:
        video = video_tensor(load(path, 0, opened(path).shape[0]).truth)
        error = (codec.decode(codec.encode(video)) - video).square().mean() / 4
        scores.append(-10 * torch.log10(error).item())
    return float(np.mean(scores))


@torch.no_grad()
def residual_spread(codec: PatchCodec, clips: list[Path], seed: int, count: int = 300) -> Tensor:
    """[3, C] deviation of true latents around those of the rough composite, in each region of the picture."""
    squares, total = torch.zeros(3, codec.channels), torch.zeros(3)
    for clip in batch(clips, np.random.default_rng([seed, 1]), count, 5):
        gap = codec.encode(video_tensor(clip.truth)) - codec.encode(video_tensor(composite(clip.planes)))
        region = regions(clip.planes, codec).flatten()
        squares.index_add_(0, region, rearrange(gap, "1 C F h w -> (F h w) C").square())
        total.index_add_(0, region, torch.ones(len(region)))
    return (squares / total.clamp(min=1)[:, None]).sqrt().clamp(min=LEAST_SPREAD)
