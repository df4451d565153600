"""Experts and sets of them: who denoises. Their number is data; one, a pair and five go the same way.

An expert carries its own guidance scale, because with N experts "the first number is for the second model" is
a trap, and a `residence`, a context manager the trajectory enters around each of its runs. What residence
does (move weights, merge a LoRA, nothing at all) is the business of whoever built the expert: who denoises
and where its bytes are stay apart.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor

from pasdedeux.denoise.handoff import Handoff


class Denoiser(Protocol):
    """Predicts the rectified-flow velocity v = eps - x_0 (levels.py)."""

    # Positional, so that any function of three arguments is a denoiser, whatever it calls them.
    def __call__(self, x: Tensor, sigma: Tensor, cond: Any, /) -> Tensor:
        """x [B, ...] at noise level sigma [B] (float32) -> v [B, ...]; cond is its own business."""
        ...


@runtime_checkable
class SharedDenoiser(Denoiser, Protocol):
    """A denoiser that can take one x through several conditions together, each of its weights fetched once for all."""

    def each(self, x: Tensor, sigma: Tensor, conds: Sequence[Any], /) -> Sequence[Tensor]:
        """The velocities [B, ...] that calls with each of `conds` would give."""
        ...


@dataclass(frozen=True, slots=True)
class Expert:
    """One denoiser, the name shown for it, its guidance scale (1: none), and the context of its runs."""

    denoiser: Denoiser
    name: str
    guidance: float = 1.0
    # Entered once per run of consecutive steps, not per step: moving weights is dear.
    residence: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True, slots=True)
class ExpertSet:
    """1..N experts, noisiest first, and the handoff between them; ValueError if the two do not match."""

    experts: tuple[Expert, ...]
    handoff: Handoff

    def __post_init__(self) -> None:
        if len(self.experts) != self.handoff.experts:
            raise ValueError(
                f"{len(self.experts)} experts ({', '.join(e.name for e in self.experts)}) were given "
                f"for a handoff with {len(self.handoff.bounds)} bounds, which takes {self.handoff.experts}"
            )

    @classmethod
    def single(cls, expert: Expert) -> Self:
        """A set of one, which owns every noise level."""
        return cls((expert,), Handoff())

    def owner(self, sigma: float) -> Expert:
        """The expert that owns noise level sigma in [0, 1]."""
        return self.experts[self.handoff.owner(sigma)]

    def swapped(self) -> Self:
        """The same experts in reverse order of bands: the control that shows that each has its trade."""
        return type(self)(self.experts[::-1], self.handoff)
