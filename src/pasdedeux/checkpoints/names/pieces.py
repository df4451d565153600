"""Cutting, joining and reshaping tensors that are not read yet.

Values keep the type they are stored in, and 8-bit floats their scales, wherever rows can be cut so; where not, they are
unpacked to float32 when they are read.
"""

from collections.abc import Callable
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from pasdedeux.checkpoints.packing.quantized import dequantize
from pasdedeux.checkpoints.tensors import LazyTensor


def halves(name: str, tensor: LazyTensor) -> tuple[LazyTensor, LazyTensor]:
    """The upper and the lower rows. Raises ValueError for an odd number of rows."""
    if not tensor.size or not tensor.shape or tensor.shape[0] % 2:
        raise ValueError(f"{name} has the shape {tensor.shape}; its rows must be even in number.")
    middle = tensor.shape[0] // 2
    return rows(tensor, 0, middle), rows(tensor, middle, tensor.shape[0])


def rows(tensor: LazyTensor, start: int, stop: int) -> LazyTensor:
    """Some rows, as they are stored where they can be cut so, else as float32."""
    whole = tensor if _by_rows(tensor) else plain(tensor)
    scale = whole.scale
    if scale is not None and scale.size > 1:
        scale = rows(scale, start, stop)
    return replace(
        whole,
        shape=(stop - start, *whole.shape[1:]),
        nbytes=whole.nbytes * (stop - start) // whole.shape[0],
        read=lambda: whole.read()[start:stop],
        scale=scale,
    )


def concatenated(upper: LazyTensor, lower: LazyTensor) -> LazyTensor:
    """The rows of both, as they are stored where that is one type, else in the wider float.

    Raises ValueError where they are not equally long.
    """
    if not upper.shape or not lower.shape or upper.shape[1:] != lower.shape[1:]:
        raise ValueError(f"Rows of {upper.shape} and {lower.shape} are not equally long, and cannot be one weight.")
    alike = upper.dtype == lower.dtype and (upper.scale is None) == (lower.scale is None)
    if not (alike and _by_rows(upper) and _by_rows(lower)):
        upper, lower = plain(upper), plain(lower)
    wider = torch.promote_types(_dtype(upper), _dtype(lower)) if upper.dtype != lower.dtype else None

    def read() -> Tensor:
        parts = (upper.read(), lower.read())
        return torch.cat(parts if wider is None else tuple(part.to(wider) for part in parts))

    return replace(
        upper,
        shape=(upper.shape[0] + lower.shape[0], *upper.shape[1:]),
        dtype=upper.dtype if wider is None else str(wider).removeprefix("torch."),
        nbytes=upper.nbytes + lower.nbytes if wider is None else (upper.size + lower.size) * wider.itemsize,
        read=read,
        scale=_scale_of_both(upper, lower),
    )


def reshaped(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    """The same values in another shape; only what has one scale, or none, keeps its type."""
    whole = tensor if not tensor.dtype[:1].isupper() and _scales(tensor) <= 1 else plain(tensor)
    if prod(shape) != whole.size:
        raise ValueError(f"{whole.size} values do not fill the shape {shape}.")
    return replace(whole, shape=shape, read=lambda: whole.read().reshape(shape))


def plain(tensor: LazyTensor) -> LazyTensor:
    """A packed tensor as float32, unpacked when it is read; others as they are."""
    if not tensor.packed and tensor.scale is None:
        return tensor
    read: Callable[[], Tensor] = lambda: dequantize(tensor, torch.float32)  # noqa: E731
    return replace(tensor, dtype="float32", nbytes=4 * tensor.size, read=read, scale=None)


def _scale_of_both(upper: LazyTensor, lower: LazyTensor) -> LazyTensor | None:
    """One number where both have the same, which is looked up, else one for every row."""
    if upper.scale is None or lower.scale is None:
        return None
    if upper.scale is lower.scale and upper.scale.size == 1:
        return upper.scale
    if upper.scale.size == lower.scale.size == 1 and torch.equal(_one(upper.scale), _one(lower.scale)):
        return upper.scale
    scales = [(part.scale, part.shape[0]) for part in (upper, lower) if part.scale is not None]

    def read() -> Tensor:
        return torch.cat([scale.read().float().reshape(-1, 1).expand(count, 1) for scale, count in scales])

    count = upper.shape[0] + lower.shape[0]
    return LazyTensor(shape=(count, 1), dtype="float32", nbytes=4 * count, read=read)


def _one(scale: LazyTensor) -> Tensor:
    return scale.read().float().reshape(())


def _by_rows(tensor: LazyTensor) -> bool:
    """Whether the first axis can be cut and joined in the type stored."""
    blocks = tensor.dtype[:1].isupper()
    return (len(tensor.shape) > 1 or not blocks) and _scales(tensor) in (0, 1, *tensor.shape[:1])


def _scales(tensor: LazyTensor) -> int:
    return 0 if tensor.scale is None else tensor.scale.size


def _dtype(tensor: LazyTensor) -> torch.dtype:
    return getattr(torch, tensor.dtype)
