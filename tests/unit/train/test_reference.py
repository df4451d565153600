"""The trainer against plain torch: losses, gradients, weights and averages, written out from the formulas alone."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pasdedeux.denoise import Handoff
from pasdedeux.models.duet import DuetTransformer
from pasdedeux.train.bands import Levels, bands
from pasdedeux.train.batches import Batch
from pasdedeux.train.loop import TrainConfig, Trainer
from pasdedeux.train.pupil import Pupil
from pasdedeux.train.together import SetTrainer, Turns

MakeTrainer = Callable[[TrainConfig, Levels], Trainer]
RUN = TrainConfig(steps=4, batch=2, frames=5, dtype="float32", warmup=3, cooldown=2, handed=0.5, clip=0.4)


def reference_loss(model: DuetTransformer, data: Batch, sigma: Tensor, noise: Tensor) -> Tensor:
    """The loss of a batch, sample by sample and by hand.

    r = (x_0 - base) / s is to be found from the Wiener estimate of r s in (1 - sigma) r s + sigma eps, in units of s; a
    token's distance is sqrt(|(r' - r) s|^2 / (c S^2) + 0.1^2) - 0.1 over c channels, S^2 the mean of s^2 where
    something was carried; tokens are weighed.
    """
    total, weights = torch.zeros(()), torch.zeros(())
    touched = model.spread[2].square().mean()
    cond = model.prepare(data.inputs)
    scales, shown = [], []
    for b in range(len(sigma)):
        s = model.spread[data.inputs.region[b]].permute(3, 0, 1, 2)
        level = sigma[b]
        x = (1 - level) * data.clean[b] + level * noise[b]
        residual = x - (1 - level) * data.inputs.base[b]
        shown.append((1 - level) * s * residual / ((1 - level) ** 2 * s**2 + level**2))
        scales.append(s)
    raw = model.network(torch.stack(shown), sigma, cond)
    for b, s in enumerate(scales):
        target = (data.clean[b] - data.inputs.base[b]) / s
        square = (((raw[b] - target) * s) ** 2 / touched).mean(0)
        distance = torch.sqrt(square + 0.01) - 0.1
        total = total + (distance * data.weight[b, 0]).sum()
        weights = weights + data.weight[b, 0].sum()
    return total / weights


def reference_run(model: DuetTransformer, ours: Trainer) -> tuple[list[float], list[Tensor]]:
    """Losses and averaged weights of AdamW (Loshchilov and Hutter 2019) with a clipped gradient, by hand."""
    c, losses = ours.config, []
    weights = list(model.parameters())
    average, first, second = ([torch.zeros_like(w) for w in weights] for _ in range(3))
    average = [w.detach().clone() for w in weights]
    for step in range(c.steps):
        loss = reference_loss(model, *ours.batch_for(step))
        losses.append(loss.item())
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
        grads = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads, strict=True)]
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
        factor = min(1.0, c.clip / (norm + 1e-6))
        rate = c.rate * min((step + 1) / c.warmup, 1.0, (c.steps - step) / c.cooldown)
        share = 1 - min(c.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for w, a, m, v, g in zip(weights, average, first, second, grads, strict=True):
                m.copy_(c.betas[0] * m + (1 - c.betas[0]) * factor * g)
                v.copy_(c.betas[1] * v + (1 - c.betas[1]) * (factor * g) ** 2)
                move = (m / (1 - c.betas[0] ** (step + 1))) / ((v / (1 - c.betas[1] ** (step + 1))).sqrt() + 1e-8)
                decay = c.weight_decay if w.ndim > 1 else 0.0
                w.copy_(w - rate * decay * w - rate * move)
                a.copy_(a + share * (w - a))
    return losses, average


def test_gradients_equal_the_reference(small_trainer: MakeTrainer) -> None:
    ours = small_trainer(replace(RUN, clip=1e9), bands(Handoff((0.8,)), 5.0)[1])
    plain = small_trainer(RUN, ours.levels).model
    # The head starts at zero, where most gradients are: give it something to pass on.
    for model in (ours.model, plain):
        torch.manual_seed(3)
        torch.nn.init.normal_(model.head.first.weight, std=0.1)  # type: ignore[arg-type]
        torch.nn.init.normal_(model.head.later.weight, std=0.1)  # type: ignore[arg-type]
    ours.start_from([p.detach() for p in plain.parameters()])
    data = ours.batch_for(0)
    truth = reference_loss(plain, *data)
    truth.backward()
    assert ours.step(*data).loss == pytest.approx(truth.item(), rel=1e-5)
    for master, p in zip(ours.masters, plain.parameters(), strict=True):
        assert master.grad is not None
        expected = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(master.grad, expected, rtol=2e-4, atol=2e-7)


def test_a_set_of_experts_equals_the_reference(small_trainer: MakeTrainer, tmp_path: Path) -> None:
    levels = bands(Handoff((0.8,)), 5.0)
    runs = [replace(RUN, seed=k) for k in range(2)]
    pupils = [Pupil(n, small_trainer(r, b)) for n, r, b in zip(("high", "low"), runs, levels, strict=True)]
    losses: dict[str, list[float]] = {"high": [], "low": []}
    turns = Turns(block=3)
    SetTrainer(pupils, tmp_path, turns).run(lambda p, progress, _: losses[p.name].append(progress.loss), lambda: False)
    for pupil, run, band in zip(pupils, runs, levels, strict=True):
        twin = small_trainer(run, band)
        expected, average = reference_run(twin.model, twin)
        assert losses[pupil.name] == pytest.approx(expected, rel=1e-4)
        gaps = [float((a - b).abs().max()) for a, b in zip(pupil.learner.average, average, strict=True)]
        moved = [
            float((a - b.detach()).abs().max()) for a, b in zip(average, small_trainer(run, band).masters, strict=True)
        ]
        assert np.max(gaps) < 0.02 * np.max(moved)
