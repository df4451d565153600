"""One training loop for any expert of the built-in kind: a band of noise levels, AdamW, an average, exact resume.

Everything random at a step is drawn from generators seeded by (seed, step), so a run that is stopped and resumed from
its checkpoint goes on bit for bit as if it had not been stopped. Weights are kept in float32 ("masters"); the model
that computes is bfloat16 (or float32), refreshed from the masters at every step.
"""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer
from pasdedeux.train.ahead import read_ahead
from pasdedeux.train.bands import Levels
from pasdedeux.train.batches import Batch, taught
from pasdedeux.train.codec import batch as draw_clips
from pasdedeux.train.losses import expert_loss
from pasdedeux.train.masters import Masters, Progress, Schedule, fill


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Schedule):
    """A run of one expert.

    `handed` is the share of samples whose first one or two latent frames are given, as in a later segment. `window`
    crops clips to so many pixels of width around the figure: what lies far from it is known and teaches nothing.
    """

    seed: int = 0
    steps: int = 4000
    batch: int = 4
    frames: int = 9
    warmup: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    average: float = 0.995
    handed: float = 0.3
    window: int | None = None
    dtype: str = "bfloat16"
    device: str = "cpu"
    readers: int = 1


class Trainer(Masters):
    """The state of one expert's training, and its step."""

    def __init__(
        self, model: DuetTransformer, codec: PatchCodec, levels: Levels, config: TrainConfig, clips: list[Path]
    ) -> None:
        self.config, self.levels, self.codec, self.clips, self.batch = config, levels, codec, clips, config.batch
        # Before the model is rounded to the type it computes in.
        whole = {name: p.detach().to(config.device, torch.float32, copy=True) for name, p in model.named_parameters()}
        self.model = model.to(config.device, getattr(torch, config.dtype))
        super().__init__(whole, config, shift=levels.shift, device=config.device)

    def start_from(self, masters: list[Tensor]) -> None:
        """Take weights from elsewhere, for instance the trunk's; moments start anew."""
        fill(self.masters, masters)
        fill(self.average, masters)

    def place(self, device: str) -> None:
        """Move weights, average, moments and the model that computes to a device; no value changes."""
        if device != self.device:
            self.model.zero_grad(set_to_none=True)
            self.model.to(device)
        super().place(device)

    def batch_for(self, step: int) -> tuple[Batch, Tensor, Tensor]:
        """The data, noise levels and noise of a step: a function of (seed, step) and the clips alone."""
        c = self.config
        chooser = np.random.default_rng([c.seed, step])
        clips = list(draw_clips(self.clips, chooser, c.batch, c.frames))
        dtype = getattr(torch, c.dtype)
        data = taught(clips, self.codec, chooser, window=c.window, handed=c.handed, dtype=dtype)
        generator = torch.Generator().manual_seed(c.seed * 1_000_003 + step)
        sigma = self.levels.draw(c.batch, generator)
        return data, sigma, torch.randn(data.clean.shape, generator=generator)

    def step(self, data: Batch, sigma: Tensor, noise: Tensor) -> Progress:
        """One optimiser step. FloatingPointError where loss or gradient is not finite, before anything is changed."""
        fill(list(self.model.parameters()), self.masters)
        loss = expert_loss(self.model, data.to(self.device), sigma.to(self.device), noise.to(self.device))
        self.finite("loss", loss.item())
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        for master, p in zip(self.masters, self.model.parameters(), strict=True):
            master.grad = torch.zeros_like(master) if p.grad is None else p.grad.float()
        return self.update(loss.item(), sigma)

    def run(self, until: int) -> Generator[Progress, None, None]:
        """Train to step `until`; the next batches are read while this one computes."""
        steps = range(self.step_number, until)
        with closing(read_ahead(self.batch_for, steps, self.config.readers)) as batches:
            for batch in batches:
                yield self.step(*batch)

    @contextmanager
    def averaged_model(self) -> Iterator[DuetTransformer]:
        """The model with its averaged weights, in its own compute type; the next step takes the masters again."""
        fill(list(self.model.parameters()), self.average)
        yield self.model

    def averaged(self) -> dict[str, Tensor]:
        """A copy of the averaged weights, float32, and of the model's measured buffers."""
        return super().averaged() | {"spread": self.model.spread.float().clone()}

    def what(self) -> dict[str, Any]:
        """See `Masters`."""
        return {"configuration": self.config.lasting(), "noise levels": asdict(self.levels)}  # type: ignore[call-overload]

    def state(self) -> dict[str, Any]:
        """Everything that going on needs, and what the run was."""
        return super().state() | {"spread": self.model.spread.float()}
