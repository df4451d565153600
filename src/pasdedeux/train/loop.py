"""One training loop for any expert of the built-in kind: a band of noise levels, AdamW, an average, exact resume.

Everything random at a step is drawn from generators seeded by (seed, step), so a run that is stopped and resumed from
its checkpoint goes on bit for bit as if it had not been stopped. Weights are kept in float32 ("masters"); the model
that computes is bfloat16 (or float32), refreshed from the masters at every step.
"""

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer
from pasdedeux.train.bands import Levels
from pasdedeux.train.batches import Batch, collate, cropped
from pasdedeux.train.clips import StoredClip
from pasdedeux.train.codec import batch as draw_clips
from pasdedeux.train.drawn import Drawn
from pasdedeux.train.losses import expert_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A run of one expert. Learning rate: linear warm-up, constant, then linear to zero over the last `cooldown` steps.

    `handed` is the share of samples whose first one or two latent frames are given, as in a later segment. `window`
    crops clips to so many pixels of width around the figure: what lies far from it is known and teaches nothing.
    """

    seed: int = 0
    steps: int = 4000
    batch: int = 4
    frames: int = 9
    rate: float = 1e-3
    warmup: int = 100
    cooldown: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    average: float = 0.995
    clip: float = 1.0
    handed: float = 0.3
    window: int | None = None
    dtype: str = "bfloat16"
    device: str = "cpu"
    readers: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One finished step: its number, loss, the learning rate used and the gradient's norm."""

    step: int
    loss: float
    rate: float
    norm: float


class SaveError(OSError):
    """A checkpoint could not be written; the one before it is as it was."""


class Trainer:
    """The state of one expert's training, and its step."""

    def __init__(self, model: DuetTransformer, codec: PatchCodec, levels: Levels, config: TrainConfig) -> None:
        self.config, self.levels, self.codec = config, levels, codec
        self.device = config.device
        self.names = [name for name, _ in model.named_parameters()]
        # Before the model is rounded to the type it computes in.
        whole = [p.detach().to(config.device, torch.float32, copy=True) for p in model.parameters()]
        self.masters = [p.requires_grad_() for p in whole]
        self.model = model.to(config.device, getattr(torch, config.dtype))
        self.average = [p.detach().clone() for p in self.masters]
        decayed = [p for p in self.masters if p.ndim > 1]
        plain = [p for p in self.masters if p.ndim <= 1]
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups, lr=config.rate, betas=config.betas, weight_decay=config.weight_decay, foreach=True
        )
        self.drawn = Drawn(levels.shift)
        self.step_number = 0

    def start_from(self, masters: list[Tensor]) -> None:
        """Take weights from elsewhere, for instance the trunk's; moments start anew."""
        with torch.no_grad():
            for own, average, given in zip(self.masters, self.average, masters, strict=True):
                own.copy_(given)
                average.copy_(given)

    def place(self, device: str) -> None:
        """Move weights, average and moments to a device; nothing is left behind, and no value changes."""
        if device == self.device:
            return
        self.model.zero_grad(set_to_none=True)
        self.model.to(device)
        for tensors in (self.masters, self.average):
            for tensor in tensors:
                tensor.grad = None
                tensor.data = tensor.data.to(device)
        for moments in self.optimiser.state.values():
            # The step counts stay where they are: AdamW keeps them on the processor.
            moments |= {name: moments[name].to(device) for name in ("exp_avg", "exp_avg_sq")}
        self.device = device

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        c = self.config
        left = (c.steps - step) / c.cooldown if c.cooldown else 1.0
        return c.rate * min(1.0, (step + 1) / max(c.warmup, 1), max(left, 0.0))

    def batch_for(self, step: int, clips: list[Path]) -> tuple[Batch, Tensor, Tensor]:
        """The data, noise levels and noise of a step: a function of (seed, step) and the clips alone."""
        c = self.config
        chooser = np.random.default_rng([c.seed, step])
        stretch: list[StoredClip] = list(draw_clips(clips, chooser, c.batch, c.frames))
        if c.window:
            stretch = [cropped(clip, c.window, self.codec.stride[2]) for clip in stretch]
        most = 1 + (c.frames - 1) // self.codec.stride[0]
        handed = [int(chooser.integers(1, 3)) if chooser.random() < c.handed else 0 for _ in stretch]
        handed = [min(n, most - 1) for n in handed]
        data = collate(stretch, self.codec, handed, getattr(torch, c.dtype))
        generator = torch.Generator().manual_seed(c.seed * 1_000_003 + step)
        sigma = self.levels.draw(c.batch, generator)
        return data, sigma, torch.randn(data.clean.shape, generator=generator)

    def step(self, data: Batch, sigma: Tensor, noise: Tensor) -> Progress:
        """One optimiser step. FloatingPointError where loss or gradient is not finite, before anything is changed."""
        self._compute_with(self.masters)
        loss = expert_loss(self.model, data.to(self.device), sigma.to(self.device), noise.to(self.device))
        self._finite("loss", loss.item())
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        for master, p in zip(self.masters, self.model.parameters(), strict=True):
            master.grad = torch.zeros_like(master) if p.grad is None else p.grad.float()
        norm = float(nn.utils.clip_grad_norm_(self.masters, self.config.clip))
        self._finite("gradient's norm", norm)
        rate = self.rate(self.step_number)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.drawn.add(sigma)
        self.step_number += 1
        decay = min(self.config.average, self.step_number / (self.step_number + 9))
        with torch.no_grad():
            for average, master in zip(self.average, self.masters, strict=True):
                average.lerp_(master, 1 - decay)
        return Progress(step=self.step_number, loss=loss.item(), rate=rate, norm=norm)

    def run(self, clips: list[Path], until: int | None = None) -> Iterator[Progress]:
        """Train to step `until`, or to the configured end; the next batches are read while this one computes."""
        ahead = iter(range(self.step_number, self.config.steps if until is None else until))
        with ThreadPoolExecutor(max_workers=self.config.readers) as pool:
            waiting = deque(pool.submit(self.batch_for, k, clips) for k in islice(ahead, self.config.readers))
            try:
                while waiting:
                    data = waiting.popleft().result()
                    waiting.extend(pool.submit(self.batch_for, k, clips) for k in islice(ahead, 1))
                    yield self.step(*data)
            finally:
                for job in waiting:
                    job.cancel()

    @contextmanager
    def averaged_model(self) -> Iterator[DuetTransformer]:
        """The model with its averaged weights, in its own compute type; the next step takes the masters again."""
        self._compute_with(self.average)
        yield self.model

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs."""
        return {
            "masters": self.masters,
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step_number,
            "config": asdict(self.config),
            "band": asdict(self.levels),  # type: ignore[call-overload]
            "spread": self.model.spread.float(),
            "drawn": self.drawn.state(),
        }

    def save(self, path: Path) -> None:
        """Write the state so that an interrupted write loses nothing. Raises SaveError where it does not fit."""
        save_whole(self.state(), path)

    def restore(self, path: Path) -> dict[str, Any]:
        """Go on from a saved state; gives it back, for what others keep in it."""
        state = torch.load(path, weights_only=True, map_location="cpu")
        with torch.no_grad():
            for kept, given in ((self.masters, state["masters"]), (self.average, state["average"])):
                for own, value in zip(kept, given, strict=True):
                    own.copy_(value)
        self.optimiser.load_state_dict(state["optimiser"])
        self.step_number = int(state["step"])
        if "drawn" in state:
            self.drawn.restore(state["drawn"])
        return state

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights by name, float32, and the model's measured buffers."""
        weights = dict(zip(self.names, (a.clone() for a in self.average), strict=True))
        return weights | {"spread": self.model.spread.float().clone()}

    def _compute_with(self, weights: list[Tensor]) -> None:
        with torch.no_grad():
            for p, given in zip(self.model.parameters(), weights, strict=True):
                p.copy_(given)

    def _finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise FloatingPointError(f"the {what} is {value} at step {self.step_number}")


def save_whole(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint beside its name, have it on the disk, and only then give it the name.

    Raises SaveError where that fails; what was there before is then as it was.
    """
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    # torch tells a full disk as a RuntimeError of its writer.
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise SaveError(f"The checkpoint {path} could not be written ({error}); the last one is kept") from error
