"""The values of a checkpoint in another type, computed when they are read: what a conversion writes.

Which values are packed follows the files in circulation.

fp8, fp8_scaled: the weight of every linear layer, the embeddings and the head too; ComfyUI makes every linear layer
of such a file an 8-bit one, and would round one that was left wide without a scale. The motion encoder of Animate
takes its matrices apart and stays as it is, as everything does that is no matrix.

GGUF blocks: matrices inside the blocks and adapters. Outside stay the patch, text, time and image embeddings, the
head, and matrices whose rows are no whole number of blocks: F16, or BF16 where the source is bfloat16, which F16
cannot hold exactly. Vectors, the modulation tables and whatever has at most 1,024 values stay F32.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pasdedeux.checkpoints.packing.quantized import dequantize
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

FLOATS = ("bfloat16", "float16", "float32")
EIGHT_BIT = ("fp8", "fp8_scaled")
GGUF_PLAIN = ("F32", "F16", "BF16")
GGUF_BLOCKS = {"Q8_0": 34, "Q5_0": 22, "Q4_0": 18}  # bytes that 32 values take
BLOCK = 32
FP8, FP8_MAX = "float8_e4m3fn", 448.0
MARKER = "scaled_fp8"
ROWS = 1024  # worked on at once
SMALL = 1024
WIDE_IN_GGUF = (
    "patch_embedding.",
    "text_embedding.",
    "time_embedding.",
    "time_projection.",
    "img_emb.",
    "head.",
    "motion_encoder.",
)
AS_GGUF = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
AS_TORCH = {gguf: torch_name for torch_name, gguf in AS_GGUF.items()}


def recast(weights: Weights, dtype: str) -> Weights:
    """Weights under native names in `dtype`: one of FLOATS, EIGHT_BIT, GGUF_PLAIN, GGUF_BLOCKS, or "keep".

    What has the type already is passed on untouched, and everything that is no float.
    """
    return weights.with_tensors({name: _recast(name, tensor, dtype) for name, tensor in weights.items()})


def for_gguf(weights: Weights) -> Weights:
    """Types by GGUF's names. Raises ValueError for 8-bit floats, which it has not."""
    return weights.with_tensors({name: _for_gguf(name, tensor) for name, tensor in weights.items()})


def linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether this is the weight of a linear layer that may be packed."""
    return len(shape) == 2 and name.endswith(".weight") and not name.startswith("motion_encoder.")


def in_blocks(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a GGUF file holds it in blocks."""
    return linear(name, shape) and shape[-1] % BLOCK == 0 and not any(part in name for part in WIDE_IN_GGUF)


def in_full(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a GGUF file holds it in F32."""
    count = 1
    for side in shape:
        count *= side
    return len(shape) <= 1 or count <= SMALL or "modulation" in name


def _recast(name: str, tensor: LazyTensor, dtype: str) -> LazyTensor:
    if dtype == "keep" or not (tensor.packed or tensor.dtype in (*FLOATS, "float64")):
        return tensor
    if dtype in FLOATS:
        return _as_float(name, tensor, dtype)
    if dtype in EIGHT_BIT:
        if not linear(name, tensor.shape):
            return _as_float(name, tensor, tensor.dtype if tensor.dtype in FLOATS else "bfloat16")
        return _as_scaled(name, tensor) if dtype == "fp8_scaled" else _as_fp8(name, tensor)
    if in_full(name, tensor.shape):
        return _as_float(name, tensor, "float32")
    if dtype == "F32":
        return _as_float(name, tensor, "float32")
    if dtype in GGUF_BLOCKS and in_blocks(name, tensor.shape):
        return _as_blocks(name, tensor, dtype)
    half = "bfloat16" if dtype == "BF16" or (dtype != "F16" and tensor.dtype == "bfloat16") else "float16"
    return _as_float(name, tensor, half)


def _as_float(name: str, tensor: LazyTensor, dtype: str) -> LazyTensor:
    kind: torch.dtype = getattr(torch, dtype)
    if tensor.dtype == dtype and tensor.scale is None:
        return tensor
    return _lazy(tensor, dtype, tensor.size * kind.itemsize, lambda: _cast(name, tensor, kind))


def _cast(name: str, tensor: LazyTensor, kind: torch.dtype) -> Tensor:
    cast = dequantize(tensor, kind)
    if kind == torch.float16 and cast.isinf().any():
        raise ValueError(f"{name} holds values beyond {torch.finfo(kind).max:g}, the largest of float16.")
    return cast


def _as_fp8(name: str, tensor: LazyTensor) -> LazyTensor:
    if tensor.dtype == FP8 and tensor.scale is None:
        return tensor
    return _lazy(tensor, FP8, tensor.size, lambda: _fp8(name, tensor))


def _fp8(name: str, tensor: LazyTensor) -> Tensor:
    values = _values(tensor)
    if _largest(name, values) > FP8_MAX:
        raise ValueError(f"{name} holds values beyond {FP8_MAX:g}, the largest of fp8; take fp8_scaled.")
    return _by_rows(values, lambda rows: rows)


def _as_scaled(name: str, tensor: LazyTensor) -> LazyTensor:
    """8-bit floats with one scale, so that the largest value is the largest of the type."""
    if tensor.dtype == FP8:
        one = LazyTensor(shape=(), dtype="float32", nbytes=4, read=lambda: torch.ones(()))
        return replace(tensor, scale=tensor.scale or one)
    found = _Scaled(name, tensor)
    scale = LazyTensor(shape=(), dtype="float32", nbytes=4, read=found.scale)
    return replace(_lazy(tensor, FP8, tensor.size, found.values), scale=scale)


class _Scaled:
    """A weight's 8-bit values and their scale, which is not computed twice where the values are read first."""

    def __init__(self, name: str, tensor: LazyTensor) -> None:
        self._name, self._tensor = name, tensor
        self._scale: float | None = None

    def values(self) -> Tensor:
        values = _values(self._tensor)
        scale = self._scale = self._of(values)
        return _by_rows(values, lambda rows: rows / scale)

    def scale(self) -> Tensor:
        if self._scale is None:
            self._scale = self._of(_values(self._tensor))
        return torch.tensor(self._scale, dtype=torch.float32)

    def _of(self, values: Tensor) -> float:
        """As float32 has it, so that what was divided is what will be multiplied."""
        largest = _largest(self._name, values)
        return float(torch.tensor(largest / FP8_MAX if largest else 1.0, dtype=torch.float32))


def _as_blocks(name: str, tensor: LazyTensor, dtype: str) -> LazyTensor:
    if tensor.dtype == dtype:
        return tensor
    return _lazy(tensor, dtype, tensor.size // BLOCK * GGUF_BLOCKS[dtype], lambda: _blocks(name, tensor, dtype))


def _blocks(name: str, tensor: LazyTensor, dtype: str) -> Tensor:
    from gguf import GGMLQuantizationType, quants

    values = _values(tensor)
    _largest(name, values)
    kind = GGMLQuantizationType[dtype]
    packed = [torch.from_numpy(quants.quantize(rows.float().numpy(), kind)) for rows in values.split(ROWS)]
    return torch.cat(packed)


def _for_gguf(name: str, tensor: LazyTensor) -> LazyTensor:
    if tensor.dtype.startswith("float8"):
        raise ValueError(f"{name} is stored in 8-bit floats, which GGUF has not; give a type: F16, BF16, Q8_0.")
    if tensor.dtype not in AS_GGUF and not tensor.packed:
        raise ValueError(f"{name} is stored as {tensor.dtype}, which is no type of a weight in GGUF.")
    return replace(tensor, dtype=AS_GGUF.get(tensor.dtype, tensor.dtype))


def _values(tensor: LazyTensor) -> Tensor:
    """The weight's values: as stored where they are plain, else dequantised to float32."""
    return dequantize(tensor, torch.float32) if tensor.packed or tensor.scale is not None else tensor.read()


def _largest(name: str, values: Tensor) -> float:
    """The largest magnitude. Raises ValueError if it is none: such a weight has no scale."""
    if not values.numel():
        return 0.0
    low, high = (float(end) for end in torch.aminmax(values))
    largest = max(-low, high)
    if not largest < float("inf"):
        raise ValueError(f"{name} holds values that are not finite; nothing can be packed that way.")
    return largest


def _by_rows(values: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`change` of a few rows at a time, in float32, rounded to 8-bit floats."""
    out = torch.empty(values.shape, dtype=getattr(torch, FP8))
    for into, rows in zip(out.split(ROWS), values.split(ROWS), strict=True):
        into.copy_(change(rows.float()).clamp(-FP8_MAX, FP8_MAX))
    return out


def _lazy(tensor: LazyTensor, dtype: str, nbytes: int, read: Callable[[], Tensor]) -> LazyTensor:
    return LazyTensor(shape=tensor.shape, dtype=dtype, nbytes=nbytes, read=read)
