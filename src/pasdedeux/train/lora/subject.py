"""What a LoRA needs of a model that is tuned, whichever it is, and of the clips that it learns from."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from pasdedeux.train.bands import Band


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """What decides a step: the run's seed, `position` of the expert in its set, its `step` (negative: held-out)."""

    seed: int
    position: int
    step: int

    def generator(self) -> torch.Generator:
        """For noise and its levels."""
        held = self.step < 0
        return torch.Generator().manual_seed(((self.seed * 31 + self.position) * 2 + held) * 1_000_003 + abs(self.step))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lesson:
    """What a step learns from: the data as the subject has it, noise levels [B], and which clips they are."""

    data: Any
    sigma: Tensor
    clips: tuple[str, ...] = ()


class Subject(Protocol):
    """A model that is tuned: its experts by position, noisiest first, and what they learn from."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the experts are called."""
        ...

    @property
    def bands(self) -> tuple[Band, ...]:
        """The noise levels of each."""
        ...

    @property
    def batch(self) -> int:
        """Clips a step."""
        ...

    @property
    def held(self) -> int:
        """How many lessons are held out to judge by; 0: none."""
        ...

    def on(self, device: str) -> Self:
        """The same, computing on a device."""
        ...

    def opened(self, position: int, passes: Sequence[bool]) -> AbstractContextManager[nn.Module]:
        """An expert, frozen, which is let go of at the end of the context.

        passes: for each forward pass to come, in order, whether a gradient is wanted. There may be fewer in the end,
        never others. Where there are none, only names and shapes are asked for.
        """
        ...

    def base(self, position: int) -> str:
        """Which weights an expert has (`checkpoints.lora.base.base_hash`)."""
        ...

    def lesson(self, draw: Draw) -> Lesson:
        """What a step learns from. Another thread may ask for it."""
        ...

    def loss(self, module: nn.Module, lesson: Lesson) -> Tensor:
        """The mean loss of a lesson, by one forward pass."""
        ...

    def differences(self, position: int) -> dict[str, Tensor]:
        """What the LoRA has to change in full beside its layers, by the model's names."""
        ...
