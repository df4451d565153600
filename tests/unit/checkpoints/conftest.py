"""Weights that lie in memory, and some that must not be read."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pasdedeux.checkpoints.tensors import LazyTensor, Weights

Shapes = dict[str, tuple[int, ...]]


def unread() -> Tensor:
    raise AssertionError("nobody should have read this")


@pytest.fixture(scope="session")
def unreadable() -> Callable[[Shapes], Weights]:
    """Weights of these shapes that fail when they are read."""

    def make(shapes: Shapes) -> Weights:
        tensors = {n: LazyTensor(shape=s, dtype="bfloat16", nbytes=0, read=unread) for n, s in shapes.items()}
        return Weights(tensors=tensors, paths=(Path("model.safetensors"),), container="safetensors")

    return make


@pytest.fixture(scope="session")
def in_memory() -> Callable[[Mapping[str, Tensor]], Weights]:
    """Tensors as if they lay in a file; 8-bit ones beside their scales, as in ComfyUI's files."""

    def make(tensors: Mapping[str, Tensor]) -> Weights:
        lazy = {
            name: LazyTensor(
                shape=tuple(t.shape),
                dtype=str(t.dtype).removeprefix("torch."),
                nbytes=t.nbytes,
                read=lambda t=t: t,
            )
            for name, t in tensors.items()
        }
        return Weights(tensors=lazy, paths=(Path("model.safetensors"),), container="safetensors")

    return make


@pytest.fixture(scope="session")
def randomised() -> Callable[[torch.nn.Module, int], dict[str, Tensor]]:
    """A model's state with every parameter random; buffers are left as they are."""

    def make(model: torch.nn.Module, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        return {name: value.clone() for name, value in model.state_dict().items()}

    return make
