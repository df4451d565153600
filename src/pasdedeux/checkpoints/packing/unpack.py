"""Packed weights -> values: 8-bit floats times their scale, or GGUF blocks, a piece at a time."""

import math

import torch
from torch import Tensor

from pasdedeux.checkpoints.packing.gguf_blocks import BLOCKS

PIECE = 1 << 24  # values in float32 at once: decoding needs about 0.3 GB beside the result


def unpack(stored: Tensor, kind: str, shape: tuple[int, ...], scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The values in `dtype`, on the device of what is stored: computed in float32, rounded once.

    kind: a LazyTensor's dtype. scale: a number, or one per row.
    """
    if kind in BLOCKS:
        return _decode(stored, kind, shape, dtype)
    if scale is None or math.prod(shape) == 0:
        return stored.to(dtype)
    rows = stored.reshape(shape[0] if shape else 1, -1)
    factor = scale.to(stored.device).float().reshape(-1, 1).expand(len(rows), 1)
    values = torch.empty(rows.shape, dtype=dtype, device=stored.device)
    step = max(1, PIECE // rows.shape[1])
    for start in range(0, len(rows), step):
        piece = slice(start, start + step)
        values[piece] = rows[piece].float() * factor[piece]
    return values.reshape(shape)


def _decode(stored: Tensor, kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    block = BLOCKS[kind]
    blocks = stored.reshape(-1, block.nbytes)
    values = torch.empty(len(blocks), block.values, dtype=dtype, device=stored.device)
    step = PIECE // block.values
    for start in range(0, len(blocks), step):
        values[start : start + step] = block.decode(blocks[start : start + step])
    return values.reshape(shape)
