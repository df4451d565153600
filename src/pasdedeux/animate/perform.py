"""The task: for each segment, condition, denoise, decode, and hand over frames as they are ready.

It knows neither files nor devices nor any model: a `Stage` conditions a segment and decodes its latents, an
`ExpertSet` denoises. Segments are chained by their last frames, which go back through the encoder.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pasdedeux.animate.segments import Segment, plan
from pasdedeux.denoise import ExpertSet, Step, run

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentCondition:
    """What a segment's denoising needs: the latent's shape [1, C, F, h, w] and the experts' condition."""

    shape: tuple[int, ...]
    cond: Any
    uncond: Any | None = None


class Stage(Protocol):
    """One performance by one character in one place, for one model family."""

    @property
    def frames(self) -> int:
        """Length of the performance."""
        ...

    def condition(self, index: list[int], handed: Bytes | None) -> SegmentCondition:
        """Condition frames `index`; `handed` [n, H, W, 3] are the first n of them, already made."""
        ...

    def decode(self, latent: Tensor, what: SegmentCondition | None = None) -> Iterator[Bytes]:
        """Frames [n, H, W, 3] of a latent [1, C, F, h, w] as they are ready; `what` conditioned its segment."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How a performance is sampled. `sigmas` ends with 0; `length` and `overlap` are frames of a segment."""

    sigmas: tuple[float, ...]
    seed: int
    length: int
    overlap: int
    solver: str = "unipc"


@dataclass(frozen=True, kw_only=True, slots=True)
class Denoised:
    """One step of one segment is done."""

    segment: int
    segments: int
    step: Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """New frames [n, H, W, 3], in order, each exactly once."""

    frames: Bytes


class Stopped(Exception):  # noqa: N818  (not an error: somebody asked)
    """The performance was stopped before its end, by request."""


def noise(shape: tuple[int, ...], seed: int, segment: int) -> Tensor:
    """Gaussian noise, float32, the same on every machine: drawn on the CPU from (seed, segment)."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + segment) % 2**63)
    return torch.randn(shape, generator=generator)


def denoise(
    experts: ExpertSet, what: SegmentCondition, x: Tensor, settings: Settings, stop: Callable[[], bool]
) -> Iterator[Step]:
    """The steps of one segment, from noise x to its end; raises Stopped when asked to stop before that."""
    steps = run(experts, x, settings.sigmas, solver=settings.solver, cond=what.cond, uncond=what.uncond, stop=stop)
    done = 0
    with closing(steps):
        for step in steps:
            done += 1
            yield step
    if done < len(settings.sigmas) - 1:
        raise Stopped


def perform(
    stage: Stage, experts: ExpertSet, settings: Settings, stop: Callable[[], bool] = lambda: False
) -> Generator[Denoised | Ready, None, None]:
    """Events of a whole performance. `stop` is asked before every step; raises Stopped when it says so."""
    segments = plan(stage.frames, settings.length, settings.overlap)
    tail: Bytes | None = None
    for segment in segments:
        what = stage.condition(segment.source_indices(stage.frames), tail if segment.overlap else None)
        x = noise(what.shape, settings.seed, segment.index)
        for step in denoise(experts, what, x, settings, stop):
            x = step.x
            yield Denoised(segment=segment.index, segments=len(segments), step=step)
        position, written = 0, [] if tail is None else [tail]
        for chunk in stage.decode(x, what):
            fresh = trim(segment, position, chunk)
            position += len(chunk)
            if len(fresh):
                if settings.overlap:
                    written.append(fresh)
                yield Ready(frames=fresh)
        # What was written, not this segment's own picture of the frames it was handed: only that was seen.
        tail = np.concatenate(written)[-settings.overlap :] if settings.overlap else None


def trim(segment: Segment, position: int, chunk: Bytes) -> Bytes:
    """Of a decoded chunk that starts `position` frames into the segment, the frames that are new and wanted."""
    wanted = segment.length - segment.pad
    return chunk[max(segment.overlap - position, 0) : max(wanted - position, 0)]
