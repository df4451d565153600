"""A Wan model of any family as what is tuned: its experts by turns, and lessons from encoded clips.

The conditions of a clip are drawn by the family's own stage (`animate/condition`), as they are when it is used. A clip
is encoded once; then neither autoencoder nor encoders are in memory, only the expert whose turn it is, with its weights
as they are stored.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from pasdedeux.animate.condition.wan import WanDenoiser, WanInputs
from pasdedeux.checkpoints.bundle import Bundle
from pasdedeux.checkpoints.load import load_weights
from pasdedeux.checkpoints.lora.base import base_hash
from pasdedeux.denoise import Handoff
from pasdedeux.models.wan import build_wan
from pasdedeux.models.wan.transformer import WanTrunk
from pasdedeux.train.bands import Band, bands
from pasdedeux.train.lora.layers import recompute
from pasdedeux.train.lora.samples import Sample, read_sample, read_words
from pasdedeux.train.lora.streaming import Room, streamed
from pasdedeux.train.lora.subject import Draw, Lesson

STARTS = 0.5
"""Share of lessons of a model that makes clips with and without a first picture in which that is given."""


@dataclass(kw_only=True, slots=True, eq=False)
class WanSubject:
    """A model's experts and the clips they learn from.

    dtype: what is computed in; weights that are packed stay so. room: for frozen weights, where not all of them are to
    be in memory at once. unworded: the entry of no words; drop: share of lessons that have those.
    """

    bundle: Bundle
    samples: Sequence[Sample]
    held_samples: Sequence[Sample] = ()
    unworded: Path | None = None
    batch: int = 1
    shift: float | None = None
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"
    checkpointing: bool = True
    room: Room | None = None
    drop: float = 0.1
    _buckets: dict[tuple[int, ...], list[int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for i, sample in enumerate(self.samples):
            self._buckets.setdefault(sample.shape, []).extend([i] * sample.repeats)

    @property
    def names(self) -> tuple[str, ...]:
        """As the bundle has them."""
        return tuple(expert.name for expert in self.bundle.experts)

    @property
    def bands(self) -> tuple[Band, ...]:
        """Those in which the family's sampler uses each expert."""
        shift = self.bundle.family.shift if self.shift is None else self.shift
        return bands(Handoff(self.bundle.bounds if len(self.names) > 1 else ()), shift)

    @property
    def held(self) -> int:
        """Lessons that are held out."""
        return len(self.held_samples)

    def on(self, device: str) -> Self:
        """The same, computing on a device."""
        return replace(self, device=device)

    @contextmanager
    def opened(self, position: int, passes: Sequence[bool]) -> Iterator[WanTrunk]:
        """An expert as it is stored: whole (in `dtype` already, it stays mapped from its file), or a few blocks."""
        expert = self.bundle.experts[position]

        def build() -> WanTrunk:
            return build_wan(expert.config)

        if self.room is not None and passes:
            with streamed(
                build, expert.weights, passes, room=self.room, dtype=self.dtype, device=self.device
            ) as module:
                yield module
            return
        module = load_weights(build, expert.weights, dtype=self.dtype, device=self.device)
        with recompute(module.turns if self.checkpointing else ()):
            yield module

    def base(self, position: int) -> str:
        """See `Subject`."""
        return base_hash(self.bundle.experts[position].weights)

    def lesson(self, draw: Draw) -> Lesson:
        """Clips of one bucket, noise levels, noise: a function of the draw."""
        generator = draw.generator()
        chosen = self._chosen(draw, generator)
        read = [read_sample(sample) for sample in chosen]
        worded = [self._worded(inputs, generator, draw) for _, inputs in read]
        clean = torch.cat([latent for latent, _ in read])
        sigma = self.bands[draw.position].draw(len(chosen), generator)
        noise = torch.randn(clean.shape, generator=generator)
        cond = joined(worded)
        if self.bundle.family.task == "text or image":
            given = float(torch.rand((), generator=generator)) < STARTS and clean.shape[2] > 1
            cond = replace(cond, known=clean[:, :, :1]) if given else cond
        return Lesson(data=(clean, noise, cond), sigma=sigma, clips=tuple(sample.name for sample in chosen))

    def _chosen(self, draw: Draw, generator: torch.Generator) -> list[Sample]:
        if draw.step < 0:
            return [self.held_samples[(-1 - draw.step) % len(self.held_samples)]]
        buckets = [self._buckets[shape] for shape in sorted(self._buckets)]
        weights = torch.tensor([len(bucket) for bucket in buckets], dtype=torch.float64)
        bucket = buckets[int(torch.multinomial(weights, 1, generator=generator))]
        picks = torch.randint(len(bucket), (self.batch,), generator=generator).tolist()
        return [self.samples[bucket[i]] for i in picks]

    def _worded(self, inputs: WanInputs, generator: torch.Generator, draw: Draw) -> WanInputs:
        """The inputs, at times without their words, so that guidance by them goes on working."""
        without = float(torch.rand((), generator=generator)) < self.drop
        empty = read_words(self.unworded) if self.unworded is not None and without and draw.step >= 0 else None
        return inputs if empty is None else replace(inputs, prepare={**inputs.prepare, "text": empty})

    def loss(self, module: nn.Module, lesson: Lesson) -> Tensor:
        """Mean square distance of the velocity from noise - clean, over the frames that are not given."""
        given: tuple[Tensor, Tensor, WanInputs] = lesson.data
        clean, noise, cond = given[0].to(self.device), given[1].to(self.device), placed(given[2], self.device)
        sigma = lesson.sigma.to(self.device)
        level = sigma[:, None, None, None, None]
        velocity = WanDenoiser(module)((1 - level) * clean + level * noise, sigma, cond)
        known = 0 if cond.known is None else cond.known.shape[2]
        return (velocity.float() - (noise - clean))[:, :, known:].square().mean()

    def differences(self, position: int) -> dict[str, Tensor]:
        """None."""
        return {}

    @property
    def tokens(self) -> int:
        """Of the largest lesson."""
        patch = self.bundle.family.config.patch
        return max(prod(s // p for s, p in zip(shape[1:], patch, strict=True)) for shape in self._buckets) * self.batch


def joined(inputs: Sequence[WanInputs]) -> WanInputs:
    """Inputs of several clips of one bucket as one; shorter texts are filled up with zeros, as the model does."""
    first = inputs[0]
    prepare = {
        key: _filled([one.prepare[key] for one in inputs]) if isinstance(value, Tensor) else value
        for key, value in first.prepare.items()
    }
    channels = [one.channels for one in inputs if one.channels is not None]
    return WanInputs(prepare=prepare, channels=torch.cat(channels) if channels else None)


def _filled(tensors: list[Tensor]) -> Tensor:
    longest = max(tensor.shape[1] for tensor in tensors)
    if all(tensor.shape[1] == longest for tensor in tensors):
        return torch.cat(tensors)
    return torch.cat([torch.nn.functional.pad(t, (0, 0, 0, longest - t.shape[1])) for t in tensors])


def placed(part: WanInputs, device: str) -> WanInputs:
    """The same on a device."""
    place = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in part.prepare.items()}
    channels, known = (None if t is None else t.to(device) for t in (part.channels, part.known))
    return WanInputs(prepare=place, channels=channels, known=known)
