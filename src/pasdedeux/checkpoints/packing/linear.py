"""A linear layer whose weight stays as it was stored, and is unpacked when it is used.

A block takes its tokens in many short spans and uses two layers in turn in each: keys and values, queries and output,
the two of the feed-forward. So the values of the two layers used last are kept, and each is unpacked once for all
spans. What is kept is never more than the two largest layers of a model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pasdedeux.checkpoints.packing.unpack import unpack
from pasdedeux.checkpoints.tensors import LazyTensor

KEPT = 2
"""Layers whose values are kept."""


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """A weight's values, and what they were unpacked from: not kept alive, for it may be a place that others need."""

    stored: tuple[ref[Tensor], ...]
    version: int
    values: Tensor

    def are_of(self, layer: "PackedLinear", dtype: torch.dtype) -> bool:
        """Whether the layer still holds the same tensors, unchanged."""
        now = layer.stored
        same = [was() is tensor for was, tensor in zip(self.stored, now, strict=False)]
        whole = all(same) and len(now) == len(self.stored)
        return whole and self.version == _version(now) and self.values.dtype == dtype


class Unpacked:
    """The values of the layers used last, of any model.

    Nothing is kept where gradients are recorded, or while torch's compiler traces. What other threads do to it costs
    time, never a wrong value. It empties itself when a tensor dies that something was unpacked from.
    """

    def __init__(self) -> None:
        self._kept: tuple[_Values, ...] = ()

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return sum(kept.values.nbytes for kept in self._kept)

    def of(self, layer: "PackedLinear", dtype: torch.dtype, unpack: Callable[[], Tensor]) -> Tensor:
        """The layer's values in a type: those kept, or what `unpack` gives."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return unpack()
        found = next((kept for kept in self._kept if kept.are_of(layer, dtype)), None)
        if found is None:
            self._kept = self._kept[1 - KEPT :]  # room is made before the values are, not after
            stored = tuple(ref(tensor, self._gone) for tensor in layer.stored)
            found = _Values(stored, _version(layer.stored), unpack())
        self._kept = (*(kept for kept in self._kept if kept is not found), found)
        return found.values

    def release(self) -> None:
        """Let go of everything."""
        self._kept = ()

    def _gone(self, _: ref[Tensor]) -> None:
        self.release()


UNPACKED = Unpacked()
"""That of all packed layers."""


def release() -> None:
    """Let go of what layers have unpacked."""
    UNPACKED.release()


def _version(stored: tuple[Tensor, ...]) -> int:
    """Grows with changes made in place; tensors made in inference mode do not count them."""
    return sum(0 if tensor.is_inference() else tensor._version for tensor in stored)


def stored_bytes(weight: LazyTensor, device: str | torch.device) -> Tensor:
    """A packed weight as uint8, as many values in a row as it has bytes."""
    return weight.read().to(device).view(torch.uint8)


def scale_bytes(scale: LazyTensor, device: str | torch.device) -> Tensor:
    """A scale's float32 values as uint8 [values, 4]."""
    return scale.read().to(device).float().reshape(-1, 1).view(torch.uint8)


class PackedLinear(nn.Module):
    """y = x Wᵀ + b, and low-rank branches beside it, in the type of x.

    The weight and its scale are held as bytes, so that moving the module to another type changes only the bias and the
    type in which `weight` is given.
    """

    packed: Tensor
    scale: Tensor | None
    bias: Tensor | None
    typed: Tensor

    def __init__(
        self, weight: LazyTensor, bias: Tensor | None, dtype: torch.dtype, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.kind = weight.dtype
        self.register_buffer("packed", stored_bytes(weight, device))
        self.register_buffer("scale", scale_bytes(weight.scale, device) if weight.scale is not None else None)
        self.bias = nn.Parameter(bias, requires_grad=False) if bias is not None else None
        self.register_buffer("typed", torch.empty(0, dtype=dtype, device=device))  # only its type is of use
        self.branches: list[tuple[str, str, float]] = []

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.unpacked(x.dtype), self.bias if self.bias is None else self.bias.to(x.dtype))
        for down, up, scale in self.branches:
            y = y + scale * F.linear(F.linear(x, getattr(self, down).to(x.dtype)), getattr(self, up).to(x.dtype))
        return y

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """What the values are made of."""
        return (self.packed,) if self.scale is None else (self.packed, self.scale)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The weight's values, without branches; not to be changed, for they may be kept."""
        return UNPACKED.of(self, dtype, lambda: self._unpacked(dtype))

    def _unpacked(self, dtype: torch.dtype) -> Tensor:
        stored = self.packed if self.kind[:1].isupper() else self.packed.view(getattr(torch, self.kind))
        scale = self.scale.view(torch.float32) if self.scale is not None else None
        return unpack(stored, self.kind, (self.out_features, self.in_features), scale, dtype)

    @property
    def weight(self) -> Tensor:
        """The values, for code that asks a layer for its weight, or for its type."""
        return self.unpacked(self.typed.dtype)

    def add_branch(self, down: Tensor, up: Tensor, scale: float) -> None:
        """y += scale * up(down(x)). Raises ValueError unless down is [rank, in] and up is [out, rank]."""
        if down.shape != (up.shape[-1], self.in_features) or up.shape != (self.out_features, down.shape[0]):
            raise ValueError(
                f"A branch of {list(down.shape)} and {list(up.shape)} does not fit beside a weight of "
                f"{[self.out_features, self.in_features]}."
            )
        names = f"down_{len(self.branches)}", f"up_{len(self.branches)}"
        for name, tensor in zip(names, (down, up), strict=True):
            self.register_buffer(name, tensor.detach().to(self.packed.device))
        self.branches.append((*names, scale))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, stored={self.kind}"
