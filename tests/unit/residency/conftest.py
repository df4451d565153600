"""A small model of blocks whose tensors are of every kind: plain, 8-bit floats, bytes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pasdedeux.residency.sources import FileTensor
from pasdedeux.residency.units import TRUNK, Unit

TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "U8": torch.uint8, "F8_E4M3": torch.float8_e4m3fn}


class Block(nn.Module):
    """A linear layer, and another whose weight is packed into bytes."""

    packed: Tensor
    gain: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.shift = nn.Parameter(torch.randn(3).to(torch.bfloat16), requires_grad=False)
        self.register_buffer("packed", torch.randint(0, 256, (dim, dim), dtype=torch.uint8))
        self.register_buffer("gain", torch.rand(dim).to(torch.float8_e4m3fn))

    def forward(self, x: Tensor) -> Tensor:
        unpacked = (self.packed.float() - 128) / 1024
        return x + torch.tanh(self.linear(x)) + F.linear(x * self.gain.float(), unpacked) * self.shift.float().sum()


class Model(nn.Module):
    """Embedding, blocks, head."""

    def __init__(self, depth: int, dim: int = 24) -> None:
        super().__init__()
        self.embed = nn.Linear(5, dim)
        self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def files_of(path: Path) -> dict[str, FileTensor]:
    """The tensors of a safetensors file, by name."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: FileTensor(
            path=path,
            offset=8 + length + entry["data_offsets"][0],
            nbytes=entry["data_offsets"][1] - entry["data_offsets"][0],
            dtype=TYPES[entry["dtype"]],
            shape=tuple(entry["shape"]),
        )
        for name, entry in header.items()
    }


def by_unit(tensors: Mapping[str, Any], model: int = 0) -> dict[Unit, dict[str, Any]]:
    """A model's tensors as units of blocks and a trunk."""
    units: dict[Unit, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("blocks."):
            _, index, rest = name.split(".", 2)
            units.setdefault(Unit(model, int(index)), {})[rest] = tensor
        else:
            units.setdefault(Unit(model, TRUNK), {})[name] = tensor
    return units


@dataclass(frozen=True)
class Case:
    """A model in memory, and the same in a file."""

    resident: Model
    path: Path
    number: int
    dim: int

    @property
    def in_file(self) -> dict[Unit, dict[str, FileTensor]]:
        """Where its tensors lie."""
        return by_unit(files_of(self.path), self.number)

    @property
    def in_memory(self) -> dict[Unit, dict[str, Tensor]]:
        """Its tensors."""
        return by_unit(self.resident.state_dict(), self.number)

    def empty(self) -> Model:
        """The model on meta."""
        with torch.device("meta"):
            return Model(len(self.resident.blocks), self.dim)


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., Case]:
    """`case(depth, dim=, number=)`: a random model, saved."""

    def make(depth: int, *, dim: int = 24, number: int = 0) -> Case:
        torch.manual_seed(number)
        model = Model(depth, dim).eval().requires_grad_(False)
        path = tmp_path / f"model{number}.safetensors"
        save_file(model.state_dict(), path)
        return Case(model, path, number, dim)

    return make
