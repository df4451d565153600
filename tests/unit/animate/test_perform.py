"""The performance loop with a stage of known answers: every frame once, segments chained, stopping."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from pasdedeux.animate.perform import Denoised, Ready, SegmentCondition, Settings, Stopped, noise, perform
from pasdedeux.denoise import Expert, ExpertSet, Handoff


class Numbers:
    """Frames of 8x8 pixels that show their own number; latents hold what the condition says."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.handed: list[list[int] | None] = []

    def condition(self, index: list[int], handed: np.ndarray | None) -> SegmentCondition:
        self.handed.append(None if handed is None else [int(f[0, 0, 0]) for f in handed])
        return SegmentCondition(shape=(1, 1, len(index)), cond=torch.tensor(index, dtype=torch.float32)[None, None])

    def decode(self, latent: Tensor, what: SegmentCondition | None = None) -> Iterator[np.ndarray]:
        values = latent[0, 0].round().to(torch.uint8).numpy()
        for part in (values[:1], values[1:5], values[5:]):
            yield np.broadcast_to(part[:, None, None, None], (len(part), 8, 8, 3))


def exact(x: Tensor, sigma: Tensor, cond: Tensor, /) -> Tensor:
    return (x - cond) / sigma[:, None, None]


def pair() -> ExpertSet:
    return ExpertSet((Expert(exact, "high"), Expert(exact, "low")), Handoff(bounds=(0.5,)))


SETTINGS = Settings(sigmas=(1.0, 0.7, 0.4, 0.0), seed=3, length=9, overlap=5, solver="euler")


@pytest.mark.parametrize("frames", [1, 2, 8, 9, 10, 13, 14, 40])
def test_every_frame_once_and_in_order(frames: int) -> None:
    stage = Numbers(frames)
    made = [f for e in perform(stage, pair(), SETTINGS) if isinstance(e, Ready) for f in e.frames]
    assert [int(f[0, 0, 0]) for f in made] == list(range(frames))


def test_segments_are_handed_the_last_frames_of_the_one_before() -> None:
    stage = Numbers(17)
    list(perform(stage, pair(), SETTINGS))
    assert stage.handed == [None, [4, 5, 6, 7, 8], [8, 9, 10, 11, 12]]


def test_both_experts_take_their_steps_in_every_segment() -> None:
    steps = [e for e in perform(Numbers(13), pair(), SETTINGS) if isinstance(e, Denoised)]
    assert [(e.segment, e.step.expert) for e in steps] == [
        (s, name) for s in (0, 1) for name in ("high", "high", "low")
    ]


def test_a_stop_comes_within_one_step() -> None:
    seen: list[Denoised | Ready] = []
    events = perform(Numbers(40), pair(), SETTINGS, stop=lambda: len(seen) >= 2)
    with pytest.raises(Stopped):
        seen.extend(events)
    assert len(seen) == 2


def test_noise_depends_on_seed_and_segment_only() -> None:
    assert torch.equal(noise((1, 4), 5, 2), noise((1, 4), 5, 2))
    assert not torch.equal(noise((1, 4), 5, 2), noise((1, 4), 5, 3))
    assert not torch.equal(noise((1, 4), 5, 2), noise((1, 4), 6, 2))
