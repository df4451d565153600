"""A linear layer whose weight stays as it was stored, and is unpacked when it is used."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pasdedeux.checkpoints.packing.unpack import unpack
from pasdedeux.checkpoints.tensors import LazyTensor


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

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The weight's values, without branches."""
        stored = self.packed if self.kind[:1].isupper() else self.packed.view(getattr(torch, self.kind))
        scale = self.scale.view(torch.float32) if self.scale is not None else None
        return unpack(stored, self.kind, (self.out_features, self.in_features), scale, dtype)

    @property
    def weight(self) -> Tensor:
        """The values, unpacked anew at each access: for code that asks a layer for its weight, or for its type."""
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
