"""What a LoRA does to one weight, read when it is needed, and a whole LoRA as the changes it makes.

With W the weight in float32 and s = alpha / rank, the changes are: a low-rank product s·B·A (LoRA, equation 3), a
difference stored in full, the Hadamard product of two low-rank ones (LoHa), a Kronecker product of two matrices, each
in full or low-rank (LoKr). DoRA sets the length of every row (or column) of W + s·B·A.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pasdedeux.checkpoints.names.swaps import Expert
from pasdedeux.checkpoints.packing.quantized import dequantize
from pasdedeux.checkpoints.tensors import LazyTensor

Form = Literal["low rank", "difference", "LoHa", "LoKr"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change of one weight of the model.

    layer: the layer as the file names it; shape: of the whole weight; rows: where the rows it changes begin and
    end; parts: the file's tensors by role; scale: alpha / rank; magnitude: DoRA's lengths, whose shape
    says whether they are the rows' or the columns'.
    """

    layer: str
    form: Form
    shape: tuple[int, ...]
    rows: tuple[int, int]
    parts: Mapping[str, LazyTensor]
    scale: float = 1.0
    rank: int | None = None
    magnitude: LazyTensor | None = None

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of the rows it changes."""
        return (self.rows[1] - self.rows[0], *self.shape[1:])

    @property
    def low_rank(self) -> bool:
        """Whether it can run beside a linear layer: as two small layers, without the weight."""
        return self.form == "low rank" and self.magnitude is None and len(self.shape) == 2

    def delta(self, weight: Tensor, factor: float = 1.0) -> Tensor:
        """What is added to its rows of the weight, float32: weight is those rows in float32, factor the LoRA's."""
        if self.magnitude is None:
            return self._direction().mul_(self.scale * factor)
        whole = self._direction().mul_(self.scale).add_(weight)
        return whole.mul_(_lengths(values(self.magnitude), whole)).sub_(weight).mul_(factor)

    def branch(self, factor: float = 1.0) -> tuple[Tensor, Tensor, float]:
        """The two small layers beside a linear one and what their product is multiplied by: down [r, I], up [O, r]."""
        down, up = (stored(self.parts[part]).flatten(1) for part in ("down", "up"))
        if self.rows != (0, self.shape[0]):
            whole = up.new_zeros(self.shape[0], up.shape[1])
            whole[slice(*self.rows)] = up
            up = whole
        return down, up, self.scale * factor

    def _direction(self) -> Tensor:
        """The product of the parts, or the difference, without the scale: a tensor of its own."""
        get = {role: values(tensor) for role, tensor in self.parts.items()}
        if self.form == "low rank":
            change = get["up"].flatten(1) @ get["down"].flatten(1)
        elif self.form == "LoHa":
            change = (get["hada_w1_a"] @ get["hada_w1_b"]).mul_(get["hada_w2_a"] @ get["hada_w2_b"])
        elif self.form == "LoKr":
            change = kronecker(_factor(get, "lokr_w1"), _factor(get, "lokr_w2"), self.part_shape)
        else:
            change = get["diff"].clone()
        return change.reshape(self.part_shape)


def values(tensor: LazyTensor) -> Tensor:
    """What a tensor holds, in float32; perhaps the file's own memory."""
    return dequantize(tensor, torch.float32)


def stored(tensor: LazyTensor) -> Tensor:
    """What a tensor holds in the type it is stored in, or in float32 if that is packed."""
    return values(tensor) if tensor.packed or tensor.scale is not None else tensor.read()


def kronecker(one: Tensor, two: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The Kronecker product of two matrices as a weight of that shape: the kernel belongs to the second."""
    kernel = shape[2:]
    two = two.reshape(two.shape[0], -1, *kernel)
    return torch.kron(one.reshape(*one.shape, *(1 for _ in kernel)), two)


def _factor(get: Mapping[str, Tensor], name: str) -> Tensor:
    return get[name] if name in get else get[f"{name}_a"] @ get[f"{name}_b"]


def _lengths(magnitude: Tensor, whole: Tensor) -> Tensor:
    """What rows, or columns, are multiplied by to have the lengths that DoRA gives them (DoRA, equation 5).

    A zero row has no direction and stays zero.
    """
    by_rows = magnitude.numel() == magnitude.shape[0] == whole.shape[0]
    axes = tuple(axis for axis in range(whole.ndim) if axis != (0 if by_rows else 1))
    norm = torch.linalg.vector_norm(whole, dim=axes, keepdim=True)
    return torch.where(norm > 0, magnitude.reshape(norm.shape) / norm, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoRA:
    """A file of changes, told against one model.

    changes: by the model's names; dialects: how the names are written; matched and unmatched: the file's keys that
    have a place in the model and those that have none; other_expert: those that are for the other, where a file holds
    both; ranks: least and greatest; alphas: whether the file or its metadata says any; without_alpha: layers that have
    none where others have; coverage: share of the model's linear layers that are changed; expert: the one the file
    says it is for; made_for: what the keys without a place tell of the model it was trained on.
    """

    path: Path
    changes: Mapping[str, tuple[Change, ...]]
    dialects: tuple[str, ...]
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    other_expert: tuple[str, ...] = ()
    ranks: tuple[int, int] | None = None
    alphas: bool = False
    without_alpha: tuple[str, ...] = ()
    coverage: float = 0.0
    expert: Expert | None = None
    made_for: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    def report(self) -> tuple[str, ...]:
        """What it is and does, a line each."""
        lines = [f"{self.path.name}: a LoRA in the manner of {' and '.join(self.dialects)}"]
        if self.ranks is not None:
            least, most = self.ranks
            rank = f"rank {most}" if least == most else f"ranks {least} to {most}"
            lines.append(f"{rank}, {'alpha given' if self.alphas else 'no alpha, so taken as the rank'}")
        if self.expert is not None:
            lines.append(f"made for the {self.expert}-noise expert")
        lines.append(self.summary())
        if self.other_expert:
            lines.append(f"{len(self.other_expert)} keys are for the other expert")
        return (*lines, *self.doubts())

    def summary(self) -> str:
        """How much of the model it changes, and how much of it has a place there."""
        keys = len(self.matched) + len(self.unmatched)
        found = "all of its" if not self.unmatched else f"{len(self.matched)} of its"
        share = f"{len(self.changes)} weights, {self.coverage:.0%} of the linear layers"
        return f"changes {share}; {found} {keys} keys have a place in the model"

    def doubts(self) -> tuple[str, ...]:
        """What may not be as it was meant: keys without a place, layers whose alpha is missing."""
        said: list[str] = []
        if self.unmatched:
            hint = f"; {self.made_for}" if self.made_for else ""
            said.append(f"{len(self.unmatched)} keys of {self.path.name} have no place: {first(self.unmatched)}{hint}.")
        if self.without_alpha:
            layers = f"{len(self.without_alpha)} layers of {self.path.name}"
            said.append(
                f"{layers} have no alpha, though others have; it is taken as the rank: {first(self.without_alpha)}."
            )
        return tuple(said)


def first(names: tuple[str, ...] | list[str], shown: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def by(shape: tuple[int, ...]) -> str:
    """A shape in a sentence."""
    return "x".join(map(str, shape)) or "a number"
