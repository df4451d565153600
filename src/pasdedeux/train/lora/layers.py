"""A LoRA beside frozen layers: y + (alpha / rank) B A x, with A and B in float32 and computed in the type of x.

The model's own modules stay as they are, packed ones too: a hook on each layer adds what its branch gives. So a layer's
name, its weight's type and whoever else asks it for its weight are untouched.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from pasdedeux.checkpoints.packing.linear import PackedLinear
from pasdedeux.models.wan.layers import Contexts, PatchEmbedding
from pasdedeux.models.wan.transformer import WanConditions


class Branch(nn.Module):
    """The two small layers beside one: `down` [rank, in, *kernel] and `up` [out, rank, 1...], float32.

    `down` is drawn as PEFT draws it (uniform, He et al. 2015, with a = sqrt 5), `up` is zero, so that nothing changes
    at the start.
    """

    def __init__(self, layer: nn.Module, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        rows, *inner = shape_of(layer)
        if not 1 <= rank <= min(rows, torch.Size(inner).numel()):
            raise ValueError(
                f"The rank is {rank}; for a layer of {rows} by {torch.Size(inner).numel()} it is too much."
            )
        self.scale, self.rank = alpha / rank, rank
        limit = torch.Size(inner).numel() ** -0.5
        self.down = nn.Parameter((torch.rand(rank, *inner, generator=generator) * 2 - 1) * limit)
        self.up = nn.Parameter(torch.zeros(rows, rank, *(1 for _ in inner[1:])))

    def beside(self, layer: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
        """What is added to the layer's output for its input x, computed in `dtype`."""
        x, down, up = x.to(dtype), self.down.to(dtype), self.up.to(dtype)
        if isinstance(layer, PatchEmbedding):
            seen = functional.conv3d(x, down, stride=layer.patch).flatten(2).transpose(1, 2)
            return self.scale * functional.linear(seen, up.flatten(1))
        if isinstance(layer, nn.Conv2d):
            seen = functional.conv2d(x, down, stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
            return self.scale * functional.conv2d(seen, up)
        return self.scale * functional.linear(functional.linear(x, down), up)


def shape_of(layer: nn.Module) -> tuple[int, ...]:
    """The shape of a layer's weight, which is not unpacked for that."""
    if isinstance(layer, PackedLinear):
        return layer.out_features, layer.in_features
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise ValueError(f"A {type(layer).__name__} has no weight that a LoRA can run beside.")
    return tuple(weight.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A LoRA's size: rank, alpha, and the layers it is beside (see `targets`)."""

    rank: int
    alpha: float
    targets: str

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"The rank is {self.rank}; it must be 1 or more.")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"The alpha is {self.alpha}; it must be a number above 0.")


def branches_for(module: nn.Module, names: Sequence[str], shape: Shape, seed: int) -> dict[str, Branch]:
    """New branches for the layers of those names. A layer's smaller side is its highest rank."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Branch] = {}
    for name in names:
        layer = module.get_submodule(name)
        rows, *inner = shape_of(layer)
        rank = min(shape.rank, rows, torch.Size(inner).numel())
        made[name] = Branch(layer, rank, shape.alpha * rank / shape.rank, generator)
    return made


def attach(module: nn.Module, branches: dict[str, Branch]) -> list[RemovableHandle]:
    """Let the branches run beside the module's layers, until the handles are removed."""

    def hook(branch: Branch) -> Any:
        def add(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            return out + branch.beside(layer, given[0], out.dtype)

        return add

    return [module.get_submodule(name).register_forward_hook(hook(branch)) for name, branch in branches.items()]


class Ways(Protocol):
    """What is around a block's forward (`there`), and around its being computed again for the way back."""

    def there(self, block: nn.Module, /) -> AbstractContextManager[None]:
        """A pass, with gradients or without."""
        ...

    def back(self, block: nn.Module, /) -> AbstractContextManager[None]:
        """Once more; what is computed from the block's weights comes after it."""
        ...


class Resident:
    """Of blocks that are where they are: nothing."""

    def there(self, block: nn.Module, /) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def back(self, block: nn.Module, /) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()


@contextmanager
def recompute(blocks: Sequence[nn.Module], ways: Ways | None = None) -> Iterator[None]:
    """Within it no activations of these blocks are kept for the way back: they compute again (Chen et al. 2016).

    What a block makes of a prompt is then not kept from call to call either, since it would belong to another graph.
    Afterwards the blocks are as they were: with a forward of its own each would hold itself, and stay in memory.
    """
    for block in blocks:
        block.forward = _recomputed(block, ways or Resident())
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _recomputed(block: nn.Module, ways: Ways) -> Any:
    forward = block.forward

    def fresh(*given: Any) -> Any:
        return forward(*map(_unkept, given))

    def around() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return ways.there(block), ways.back(block)

    def run(*given: Any) -> Any:
        if torch.is_grad_enabled():
            return checkpoint(fresh, *given, use_reentrant=False, context_fn=around)
        with ways.there(block):
            return forward(*given)

    return run


def _unkept(given: Any) -> Any:
    """Contexts, and conditions that hold some, without what blocks have made of them."""
    if isinstance(given, Contexts):
        return Contexts(given.words, given.picture)
    return replace(given, contexts=_unkept(given.contexts)) if isinstance(given, WanConditions) else given
