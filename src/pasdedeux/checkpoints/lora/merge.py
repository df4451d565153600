"""LoRAs into a model's weights, or beside those that cannot be written back.

No weight is read before its merged values are: each is then computed on its own, in float32, and rounded once to the
type it is stored in. A packed weight is packed again where its type can be written.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pasdedeux.checkpoints.load import Branch
from pasdedeux.checkpoints.lora.change import Change, LoRA, by, values
from pasdedeux.checkpoints.packing.gguf_blocks import BLOCKS
from pasdedeux.checkpoints.packing.quantized import WRITTEN, requantize
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

Manner = Literal["merged", "packed again", "beside", "in full"]

_FLOATS = ("float64", "float32", "float16", "bfloat16")
# The layers that multiply by their weight and do no more; the others compute in float32 or take it apart, so that
# nothing can run beside them.
_PLAIN = ("blocks.", "vace_blocks.", "face_adapter.", "text_embedding.", "img_emb.proj.", "face_encoder.out_proj.")
_SAID: dict[str, str] = {
    "packed again": "{count} of {dtype}: merged, and rounded to {dtype} again.",
    "beside": "{count} of {dtype} cannot be written back; the LoRA runs beside them.",
    "in full": "{count} of {dtype}: not to be written back, nor can the LoRA run beside; bfloat16 from now on.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """Weights with LoRAs in them.

    beside: low-rank branches, by the name of a weight that had to stay as it is; notes: in sentences, what was done
    otherwise than by adding to a weight that is stored in full.
    """

    weights: Weights
    beside: Mapping[str, list[Branch]]
    notes: tuple[str, ...]


class Piece(NamedTuple):
    """A change, the weight it was given, and the file it is from."""

    change: Change
    factor: float
    path: Path


def merge(weights: Weights, loras: Sequence[tuple[LoRA, float]], *, beside_ok: bool = True) -> Merged:
    """The model's (native) weights with the LoRAs at their weights, computed when they are read.

    beside_ok: whether a weight that cannot be written back may stay, with branches beside it; else it becomes
    bfloat16. Raises ValueError for a weight that is no finite number, and where a LoRA was read for another model.
    """
    pieces = _pieces(weights, loras)
    manners = {name: _manner(name, weights[name], some, beside_ok) for name, some in pieces.items()}
    beside = {name: _branches(name, pieces[name]) for name, manner in manners.items() if manner == "beside"}
    tensors = dict(weights)
    for name, manner in manners.items():
        if manner == "packed again":
            tensors[name] = _packed_again(name, weights[name], pieces[name])
        elif manner != "beside":
            dtype = "bfloat16" if manner == "in full" else weights[name].dtype
            tensors[name] = _in_full(name, weights[name], pieces[name], dtype)
    counted = Counter((manner, weights[name].dtype) for name, manner in manners.items())
    return Merged(weights=weights.with_tensors(tensors), beside=beside, notes=(*_unused(loras), *_notes(counted)))


def _pieces(weights: Weights, loras: Sequence[tuple[LoRA, float]]) -> dict[str, list[Piece]]:
    pieces: dict[str, list[Piece]] = {}
    for lora, factor in loras:
        if not isfinite(factor):
            raise ValueError(f"{lora.path} has the weight {factor}; it must be a finite number.")
        for name, changes in lora.changes.items() if factor != 0 else ():
            _check(weights, name, changes[0], lora.path)
            pieces.setdefault(name, []).extend(Piece(change, factor, lora.path) for change in changes)
    return pieces


def _check(weights: Weights, name: str, change: Change, path: Path) -> None:
    tensor = weights.get(name)
    if tensor is None or tensor.shape != change.shape:
        found = "is missing" if tensor is None else f"is {by(tensor.shape)}, not {by(change.shape)}"
        raise ValueError(f"{path} was read for another model than {weights.path}, where {name} {found}.")
    if not tensor.packed and tensor.dtype not in _FLOATS:
        raise ValueError(f"{path} changes {name}, which {weights.path} stores as {tensor.dtype}; that is no float.")


def _manner(name: str, tensor: LazyTensor, pieces: Sequence[Piece], beside_ok: bool) -> Manner:
    if not tensor.packed and tensor.scale is None:
        return "merged"
    if tensor.dtype not in BLOCKS or tensor.dtype in WRITTEN:
        return "packed again"
    plain = name.startswith(_PLAIN) and all(piece.change.low_rank for piece in pieces)
    return "beside" if plain and beside_ok else "in full"


def _branches(name: str, pieces: Sequence[Piece]) -> list[Branch]:
    """What runs beside a weight. Raises ValueError for values that are not finite."""
    branches = [piece.change.branch(piece.factor) for piece in pieces]
    for piece, (down, up, _) in zip(pieces, branches, strict=True):
        if not (down.isfinite().all() and up.isfinite().all()):
            raise ValueError(f"{piece.path} holds values for {name} that are no finite numbers.")
    return branches


def _in_full(name: str, tensor: LazyTensor, pieces: Sequence[Piece], dtype: str) -> LazyTensor:
    kind: torch.dtype = getattr(torch, dtype)
    read = partial(_rounded, name, tensor, pieces, kind)
    return replace(tensor, dtype=dtype, nbytes=tensor.size * kind.itemsize, read=read, scale=None)


def _packed_again(name: str, tensor: LazyTensor, pieces: Sequence[Piece]) -> LazyTensor:
    packed = _PackedAgain(name, tensor, pieces)
    if tensor.scale is None:
        return replace(tensor, read=packed.read)
    scale = replace(tensor.scale, dtype="float32", nbytes=4 * tensor.scale.size, read=packed.read_scale)
    return replace(tensor, read=packed.read, scale=scale)


class _PackedAgain:
    """The merged weight in its packed type, and its scale, from one reading of the weight for both.

    The scale is kept, which is small; the values are kept only from the reading of the scale to their own.
    """

    def __init__(self, name: str, tensor: LazyTensor, pieces: Sequence[Piece]) -> None:
        self._name, self._tensor, self._pieces = name, tensor, pieces
        self._values: Tensor | None = None
        self._scale: Tensor | None = None

    def read(self) -> Tensor:
        values, self._values = self._values, None
        return self._written() if values is None else values

    def read_scale(self) -> Tensor:
        if self._scale is None:
            self._values = self._written()
        if self._scale is None:
            raise ValueError(f"{self._name} was packed without the scale that its type of {self._tensor.dtype} had.")
        return self._scale

    def _written(self) -> Tensor:
        written = requantize(_rounded(self._name, self._tensor, self._pieces, torch.float32), self._tensor)
        if written is None:
            raise ValueError(f"{self._name} cannot be written as {self._tensor.dtype}.")
        self._scale = written.scale.read() if written.scale is not None else None
        return written.read()


def _rounded(name: str, tensor: LazyTensor, pieces: Sequence[Piece], dtype: torch.dtype) -> Tensor:
    """W + the sum of the changes, in float32, rounded once. Raises ValueError where that is not finite."""
    total = values(tensor)
    if tensor.dtype == "float32":  # which may be the file's own memory
        total = total.clone()
    weight = total.clone() if any(piece.change.magnitude is not None for piece in pieces) else total
    for change, factor, _ in pieces:
        rows = slice(*change.rows)
        total[rows] += change.delta(weight[rows], factor)
    rounded = total.to(dtype)
    if not rounded.isfinite().all():
        files = " and ".join(dict.fromkeys(str(piece.path) for piece in pieces))
        raise ValueError(
            f"{files} gives {name} values that {str(dtype).removeprefix('torch.')} cannot hold; "
            "the file is broken, or its weight too great."
        )
    return rounded


def _unused(loras: Sequence[tuple[LoRA, float]]) -> tuple[str, ...]:
    return tuple(f"{lora.path.name} has the weight 0 and changes nothing." for lora, factor in loras if factor == 0)


def _notes(counted: Mapping[tuple[str, str], int]) -> tuple[str, ...]:
    return tuple(
        _SAID[manner].format(count=f"{count} weight{'' if count == 1 else 's'}", dtype=dtype)
        for (manner, dtype), count in counted.items()
        if manner in _SAID
    )
