"""The training loop: exact resume, exact gradients, learning, and data decided by (seed, step) alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetConfig, DuetTransformer
from pasdedeux.train.bands import Band
from pasdedeux.train.loop import TrainConfig, Trainer
from pasdedeux.train.losses import expert_loss
from pasdedeux.train.saving import save_whole

SMALL = DuetConfig(dim=32, depth=2, heads=2, ffn=64, channels=8, frequency=16, pyramid=(8, 8, 16))
RUN = TrainConfig(steps=6, batch=2, frames=5, dtype="float32", warmup=2, cooldown=3, handed=0.5)
LOW = Band(low=0.0, high=0.6, shift=3.0)


@pytest.fixture
def clips(pictures: list[Path]) -> list[Path]:
    return pictures


@pytest.fixture
def codec(small_codec: PatchCodec) -> PatchCodec:
    return small_codec


def trainer(codec: PatchCodec, clips: list[Path], config: TrainConfig = RUN, band: Band = LOW) -> Trainer:
    torch.manual_seed(1)
    return Trainer(DuetTransformer(SMALL), codec, band, config, clips)


def test_resumed_equals_uninterrupted(codec: PatchCodec, clips: list[Path], tmp_path: Path) -> None:
    whole = trainer(codec, clips)
    losses = [p.loss for p in whole.run(6)]
    half = trainer(codec, clips)
    first = []
    for progress in half.run(6):
        first.append(progress.loss)
        if progress.step == 3:
            save_whole(half.state(), tmp_path / "half.pt")
            break
    rest = trainer(codec, clips)
    rest.restore(torch.load(tmp_path / "half.pt", weights_only=True))
    assert first + [p.loss for p in rest.run(6)] == losses
    for a, b in zip(whole.average, rest.average, strict=True):
        assert torch.equal(a, b)


def test_one_step_equals_plain_torch(codec: PatchCodec, clips: list[Path]) -> None:
    ours = trainer(codec, clips, replace(RUN, clip=1e9))
    data, sigma, noise = ours.batch_for(0)
    torch.manual_seed(1)
    plain = DuetTransformer(SMALL)
    groups = [
        {"params": [p for p in plain.parameters() if p.ndim > 1], "weight_decay": RUN.weight_decay},
        {"params": [p for p in plain.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=RUN.rate / RUN.warmup, betas=RUN.betas)
    loss = expert_loss(plain, data, sigma, noise)
    loss.backward()
    optimiser.step()
    assert ours.step(data, sigma, noise).loss == pytest.approx(loss.item(), rel=1e-6)
    for a, b in zip(ours.masters, plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


def test_noise_levels_stay_in_the_band(codec: PatchCodec, clips: list[Path]) -> None:
    high = trainer(codec, clips, band=Band(low=0.6, high=1.0, shift=3.0))
    drawn = torch.cat([high.batch_for(step)[1] for step in range(50)])
    assert drawn.min() >= 0.6
    assert drawn.max() <= 1


def test_it_learns(codec: PatchCodec, clips: list[Path]) -> None:
    losses = [p.loss for p in trainer(codec, clips, replace(RUN, steps=150, cooldown=0, rate=3e-3)).run(150)]
    assert np.mean(losses[-20:]) < 0.85 * np.mean(losses[:10])


def test_a_loss_that_is_not_a_number_stops_before_it_harms(codec: PatchCodec, clips: list[Path]) -> None:
    broken = trainer(codec, clips)
    data, sigma, noise = broken.batch_for(0)
    before = [m.clone() for m in broken.masters]
    with pytest.raises(FloatingPointError, match="step 0"):
        broken.step(data, sigma, noise * float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(before, broken.masters, strict=True))


def test_learning_rate_warms_up_and_cools_down() -> None:
    rates = [RUN.rate_at(step) / RUN.rate for step in range(6)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 2 / 3, 1 / 3])


def test_a_broken_clip_is_named(codec: PatchCodec, clips: list[Path], tmp_path: Path) -> None:
    for keep in (0, 60, 5000):
        broken = tmp_path / "0000001.npy"
        broken.write_bytes(clips[0].read_bytes()[:keep])
        with pytest.raises(ValueError, match=r"0000001\.npy is broken .* delete it"):
            list(trainer(codec, [broken]).run(6))


def test_weights_are_not_rounded_to_the_type_that_computes(codec: PatchCodec) -> None:
    whole, half = trainer(codec, clips), trainer(codec, clips, replace(RUN, dtype="bfloat16"))
    assert all(torch.equal(a, b) for a, b in zip(whole.masters, half.masters, strict=True))
    assert next(half.model.parameters()).dtype == torch.bfloat16
