"""Held-out loss by noise level, with fixed clips, levels and noise, so that any two models can be compared.

Every model is measured over the whole range, outside its own band too: where two curves cross is where the one should
hand over to the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pasdedeux.animate.condition.duet import draw_planes
from pasdedeux.denoise import shift_sigma
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer
from pasdedeux.train.bands import Band, Levels
from pasdedeux.train.batches import Batch, collate
from pasdedeux.train.clips import HELD_OUT, ClipSpec, StoredClip, attention_plane, film, keypoints
from pasdedeux.train.losses import sample_losses

CHOOSING = HELD_OUT + 500_000
"""First seed of the clips that choose: neither trained on, nor those that a finished model is judged by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """Held-out clips as batches of one, and the bins of noise levels, of equal probability under `shift`."""

    data: tuple[Batch, ...]
    shift: float
    bins: int = 16
    seed: int = 0

    @property
    def edges(self) -> tuple[float, ...]:
        """The bins' edges in sigma, from 0 to 1."""
        return tuple(float(shift_sigma(k / self.bins, self.shift)) for k in range(self.bins + 1))

    def levels(self, clip: int) -> Tensor:
        """[bins] a level in each bin, the same whenever it is asked for; from clip to clip another."""
        place = torch.rand(self.bins, generator=self._generator(clip, 0), dtype=torch.float64)
        parts = [Band(low=a, high=b, shift=self.shift) for a, b in pairwise(self.edges)]
        return torch.cat([part.at(place[k : k + 1]) for k, part in enumerate(parts)])

    def noise(self, clip: int) -> Tensor:
        """[1, C, F, h, w] a clip's noise, the same at all levels."""
        return torch.randn(self.data[clip].clean.shape, generator=self._generator(clip, 1))

    def _generator(self, clip: int, what: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1_000_003 + clip) * 2 + what)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Curve:
    """[clips, bins] losses of one model, cleanest bin first: the loss of training, and the velocity's square error."""

    loss: NDArray[np.float64]
    velocity: NDArray[np.float64]


def clip_of(seed: int, frames: int, size: int) -> StoredClip:
    """A clip as training reads it, filmed and not stored."""
    take = film(ClipSpec.from_seed(seed, frames=frames, size=size))
    planes = draw_planes(take.character, keypoints(take.truth), take.scene)
    return StoredClip(planes=planes, truth=take.truth.frames, attention=attention_plane(take.truth))


def held_out(
    codec: PatchCodec,
    shift: float,
    *,
    count: int,
    frames: int,
    size: int,
    bins: int = 16,
    dtype: torch.dtype = torch.float32,
    first: int = CHOOSING,
) -> HeldOut:
    """`count` clips from seed `first` on, none of whose frames is given."""
    clips = (clip_of(first + i, frames, size) for i in range(count))
    return HeldOut(data=tuple(collate([clip], codec, [0], dtype) for clip in clips), shift=shift, bins=bins)


@torch.no_grad()
def curve(model: DuetTransformer, held: HeldOut) -> Curve:
    """A model's losses on every clip in every bin."""
    rows = [measured(model, data, held.levels(i), held.noise(i)) for i, data in enumerate(held.data)]
    loss, velocity = (np.stack(part) for part in zip(*rows, strict=True))
    return Curve(loss=loss, velocity=velocity)


@torch.no_grad()
def band_loss(model: DuetTransformer, held: HeldOut, levels: Levels, draws: int = 4) -> float:
    """Mean loss of training over the levels an expert owns, `draws` to a clip, evenly spread over its band."""
    places = (torch.arange(draws * len(held.data), dtype=torch.float64) + 0.5) / (draws * len(held.data))
    sigmas = levels.at(places).reshape(draws, -1)
    losses = [measured(model, data, sigmas[:, i], held.noise(i))[0].mean() for i, data in enumerate(held.data)]
    return float(np.mean(losses))


def measured(
    model: DuetTransformer, data: Batch, sigmas: Tensor, noise: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses of one clip at each of `sigmas`; what no level changes is computed once."""
    device = model.spread.device
    data, noise = data.to(str(device)), noise.to(device)
    cond = model.prepare(data.inputs)
    pairs = [sample_losses(model, cond, data, sigma[None].to(device), noise) for sigma in sigmas]
    loss, velocity = (torch.cat(part).double().cpu().numpy() for part in zip(*pairs, strict=True))
    return loss, velocity


def means(curves: Sequence[Curve]) -> NDArray[np.float64]:
    """[models, bins] mean loss of training over clips."""
    return np.stack([curve.loss.mean(0) for curve in curves])
