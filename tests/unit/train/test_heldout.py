"""Held-out losses: fixed, comparable, and those of training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pasdedeux.denoise import Handoff, shift_sigma
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer
from pasdedeux.train.bands import Levels, bands, whole
from pasdedeux.train.batches import collate
from pasdedeux.train.clips import load
from pasdedeux.train.heldout import CHOOSING, HeldOut, band_loss, clip_of, curve
from pasdedeux.train.loop import TrainConfig, Trainer
from pasdedeux.train.losses import expert_loss

MakeTrainer = Callable[[TrainConfig, Levels], Trainer]
RUN = TrainConfig(steps=20, batch=1, frames=5, dtype="float32", warmup=2)


@pytest.fixture(scope="module")
def held(pictures: list[Path], small_codec: PatchCodec) -> HeldOut:
    data = tuple(collate([load(path, 0, 5)], small_codec, [0], torch.float32) for path in pictures)
    return HeldOut(data=data, shift=5.0, bins=6)


@pytest.fixture(scope="module")
def model(small_trainer: MakeTrainer) -> DuetTransformer:
    trainer = small_trainer(RUN, whole(5.0))
    list(trainer.run(trainer.steps))
    with trainer.averaged_model() as averaged:
        return averaged


def test_levels_lie_in_their_bins_and_differ_from_clip_to_clip(held: HeldOut) -> None:
    levels = torch.stack([held.levels(i) for i in range(4)]).double()
    edges = torch.tensor(held.edges, dtype=torch.float64)
    assert ((levels >= edges[:-1]) & (levels < edges[1:])).all()
    assert levels.unique().numel() == levels.numel()
    assert edges == pytest.approx(shift_sigma(torch.arange(7, dtype=torch.float64) / 6, 5.0))


def test_a_curve_is_the_same_whenever_it_is_measured(held: HeldOut, model: DuetTransformer) -> None:
    first, again = curve(model, held), curve(model, held)
    assert first.loss.shape == first.velocity.shape == (4, 6)
    assert np.array_equal(first.loss, again.loss)
    assert np.array_equal(first.velocity, again.velocity)


def test_it_is_the_loss_of_training_and_the_error_of_the_velocity(held: HeldOut, model: DuetTransformer) -> None:
    found = curve(model, held)
    for clip, b in ((0, 0), (2, 3), (3, 5)):
        data, sigma, noise = held.data[clip], held.levels(clip)[b : b + 1], held.noise(clip)
        with torch.no_grad():
            assert found.loss[clip, b] == pytest.approx(float(expert_loss(model, data, sigma, noise)), rel=1e-5)
            x = (1 - sigma) * data.clean + sigma * noise
            v = model(x, sigma, model.prepare(data.inputs))
        assert found.velocity[clip, b] == pytest.approx(float((v - (noise - data.clean)).square().mean()), rel=1e-3)


def test_a_bands_loss_is_of_its_levels(held: HeldOut, model: DuetTransformer) -> None:
    high, low = (band_loss(model, held, band, draws=8) for band in bands(Handoff((0.9,)), 5.0))
    both = band_loss(model, held, whole(5.0), draws=8)
    assert min(high, low) < both < max(high, low)
    assert band_loss(model, held, whole(5.0), draws=8) == both


def test_what_is_measured_does_not_disturb_training(held: HeldOut, small_trainer: MakeTrainer) -> None:
    one, other = small_trainer(RUN, whole(5.0)), small_trainer(RUN, whole(5.0))
    for step in one.run(one.steps):
        if step.step % 7 == 0:
            with one.averaged_model() as averaged:
                curve(averaged, held)
    list(other.run(other.steps))
    assert all(torch.equal(a, b) for a, b in zip(one.average, other.average, strict=True))


def test_clips_that_choose_are_neither_trained_on_nor_judged_by() -> None:
    clip = clip_of(CHOOSING, 5, 64)
    assert clip.truth.shape == (5, 64, 64, 3)
    assert clip.attention.max() > 0
