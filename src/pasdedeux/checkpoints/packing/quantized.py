"""Quantised weights -> values, and values back into the form they were stored in."""

from dataclasses import replace

import torch
from torch import Tensor

from pasdedeux.checkpoints.packing.gguf_blocks import BLOCKS
from pasdedeux.checkpoints.packing.linear import PackedLinear
from pasdedeux.checkpoints.packing.scales import join_scales
from pasdedeux.checkpoints.packing.unpack import unpack
from pasdedeux.checkpoints.tensors import LazyTensor

__all__ = ["WRITTEN", "PackedLinear", "dequantize", "join_scales", "requantize"]

WRITTEN = ("Q8_0", "Q5_0", "Q4_0", "Q5_1", "Q4_1")  # the block types the gguf package writes


def dequantize(tensor: LazyTensor, dtype: torch.dtype, device: str | torch.device = "cpu") -> Tensor:
    """The values in `dtype` on `device`, computed in float32 and rounded once.

    What is stored in that type already is not copied; whole numbers that are not packed stay as they are.
    """
    stored = tensor.read().to(device)
    scale = tensor.scale.read() if tensor.scale is not None else None
    if not tensor.packed and scale is None:
        return stored.to(dtype) if stored.is_floating_point() else stored
    return unpack(stored, tensor.dtype, tensor.shape, scale, dtype)


def requantize(values: Tensor, like: LazyTensor) -> LazyTensor | None:
    """The values stored as `like` is: type, layout of scales, blocks. None where the block type cannot be written.

    Raises ValueError if the shapes differ.
    """
    if tuple(values.shape) != like.shape:
        raise ValueError(f"Values of shape {tuple(values.shape)} cannot take the place of {like.shape}.")
    if like.dtype in BLOCKS:
        return _blocks(values, like) if like.dtype in WRITTEN else None
    dtype = getattr(torch, like.dtype)
    if like.scale is None:
        return _held(like, _rounded(values, dtype))
    scale = _scale(values.float(), like.scale, dtype)
    scaled = values.float() / scale.reshape(_beside(scale, values))
    return replace(_held(like, _rounded(scaled, dtype)), scale=_held(replace(like.scale, dtype="float32"), scale))


def _scale(values: Tensor, like: LazyTensor, dtype: torch.dtype) -> Tensor:
    """Scales under which the largest value is the type's largest; the old ones where they still use half its range."""
    old = like.read().to(values.device).float()
    if not _narrow(dtype):
        return old
    rows = values.reshape(old.numel(), -1) if old.numel() > 1 else values.reshape(1, -1)
    new = rows.abs().amax(1).reshape(old.shape) / torch.finfo(dtype).max
    fits = (old > 0) & (new <= old) & (2 * new >= old)
    return torch.where(fits, old, torch.where(new > 0, new, 1.0))


def _rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """In a type of 8 bits a value beyond the largest would become no number at all; it becomes the largest."""
    if not _narrow(dtype):
        return values.to(dtype)
    most = torch.finfo(dtype).max
    return values.float().clamp(-most, most).to(dtype)


def _narrow(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype.itemsize == 1


def _beside(scale: Tensor, values: Tensor) -> tuple[int, ...]:
    """The shape in which a scale multiplies rows."""
    return (-1, *(1 for _ in values.shape[1:])) if scale.numel() > 1 else tuple(1 for _ in values.shape)


def _blocks(values: Tensor, like: LazyTensor) -> LazyTensor:
    try:
        import gguf
    except ImportError as error:
        raise ValueError(f"Writing {like.dtype} needs the package gguf, which is not installed.") from error
    block = BLOCKS[like.dtype]
    kind = gguf.GGMLQuantizationType(block.number)
    written = gguf.quants.quantize(values.detach().float().cpu().reshape(-1, block.values).numpy(), kind)
    return _held(like, torch.from_numpy(written).reshape(block.stored_shape(like.shape)))


def _held(like: LazyTensor, stored: Tensor) -> LazyTensor:
    """A tensor in memory, described as the one it takes the place of."""
    return replace(like, nbytes=stored.nbytes, read=lambda: stored)
