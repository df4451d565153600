"""Weights in training, an expert's own or a LoRA's: float32, their average, AdamW's moments, and how far they are."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pasdedeux.train.drawn import Drawn

FREE = ("steps", "cooldown", "patience", "check_every", "device", "readers")
"""What may be another when a run goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How long weights are trained, and how fast: linear warm-up, constant, linear to zero over the last `cooldown`.

    average: how much of itself the average keeps at a step; clip: the largest norm of a gradient.
    """

    steps: int
    rate: float = 1e-3
    warmup: int
    cooldown: int = 0
    betas: tuple[float, float]
    weight_decay: float
    average: float
    clip: float = 1.0

    def lasting(self) -> dict[str, Any]:
        """What of it a run keeps to its end: it may be made longer, and go on elsewhere."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        left = (self.steps - step) / self.cooldown if self.cooldown else 1.0
        return self.rate * min(1.0, (step + 1) / max(self.warmup, 1), max(left, 0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One finished step: its number, loss, the learning rate used and the gradient's norm."""

    step: int
    loss: float
    rate: float
    norm: float


class Masters:
    """The weights by name, which it owns, and all that changes with a step; `shift` is that of their noise levels."""

    def __init__(self, weights: Mapping[str, Tensor], schedule: Schedule, *, shift: float, device: str) -> None:
        self.schedule, self.device = schedule, device
        self.names, self.masters = list(weights), [weight.requires_grad_() for weight in weights.values()]
        self.average = [p.detach().clone() for p in self.masters]
        decayed = [p for p in self.masters if p.ndim > 1]
        plain = [p for p in self.masters if p.ndim <= 1]
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups, lr=schedule.rate, betas=schedule.betas, weight_decay=schedule.weight_decay, foreach=True
        )
        self.step_number, self.steps, self.drawn = 0, schedule.steps, Drawn(shift)

    def place(self, device: str) -> None:
        """Move weights, average and moments to a device; nothing is left behind, and no value changes."""
        if device == self.device:
            return
        for tensors in (self.masters, self.average):
            for tensor in tensors:
                tensor.grad = None
                tensor.data = tensor.data.to(device)
        for moments in self.optimiser.state.values():
            # The step counts stay where they are: AdamW keeps them on the processor.
            moments |= {name: moments[name].to(device) for name in ("exp_avg", "exp_avg_sq")}
        self.device = device

    def update(self, loss: float, sigma: Tensor) -> Progress:
        """One step by the gradients of a loss at noise levels sigma [B].

        FloatingPointError where they are not finite, before anything is changed.
        """
        norm = float(nn.utils.clip_grad_norm_(self.masters, self.schedule.clip))
        self.finite("gradient's norm", norm)
        rate = self.schedule.rate_at(self.step_number)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.drawn.add(sigma)
        self.step_number += 1
        decay = min(self.schedule.average, self.step_number / (self.step_number + 9))
        with torch.no_grad():
            for average, master in zip(self.average, self.masters, strict=True):
                average.lerp_(master, 1 - decay)
        return Progress(step=self.step_number, loss=loss, rate=rate, norm=norm)

    def finite(self, what: str, value: float, source: str = "") -> None:
        """Raise FloatingPointError unless it is."""
        if not math.isfinite(value):
            raise FloatingPointError(f"the {what} is {value} at step {self.step_number}{source}")

    def averaged(self) -> dict[str, Tensor]:
        """A copy of the averaged weights, float32."""
        return dict(zip(self.names, (a.clone() for a in self.average), strict=True))

    def state(self) -> dict[str, Any]:
        """Everything that going on needs."""
        return {
            "masters": [p.detach() for p in self.masters],
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step_number,
            "drawn": self.drawn.state(),
            **self.what(),
        }

    def what(self) -> dict[str, Any]:
        """What a checkpoint and the run that goes on from it have to agree in, by name."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises ValueError where it is of another run."""
        other = next((name for name, mine in self.what().items() if state.get(name) != mine), None)
        if other is not None:
            raise ValueError(f"it is of a run with another {other}; give it another folder")
        fill(self.masters, state["masters"])
        fill(self.average, state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step_number = int(state["step"])
        self.drawn.restore(state["drawn"])


@torch.no_grad()
def fill(own: list[Tensor], given: list[Tensor]) -> None:
    """Take over values."""
    for mine, value in zip(own, given, strict=True):
        mine.copy_(value)
