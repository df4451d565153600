"""The block types of GGUF, decoded with torch on whatever device the bytes are.

A row of weights is cut into blocks of 32 or 256. A block holds its numbers in a few bits each, and what they are to
be multiplied by, and perhaps offset with; a block of a K type has scales of its eight or sixteen parts beside its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """A type: its number in the format, how many values in how many bytes, and [n, bytes] -> float32 [n, values]."""

    number: int
    values: int
    nbytes: int
    decode: Callable[[Tensor], Tensor]

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """[*shape[:-1], bytes per row], or one block per row where a row of that shape is not whole blocks."""
        if shape and shape[-1] % self.values == 0:
            return (*shape[:-1], shape[-1] // self.values * self.nbytes)
        return (math.prod(shape) // self.values, self.nbytes)


def q4_0(blocks_NB: Tensor) -> Tensor:
    d, q = blocks_NB.split([2, 16], 1)
    return _half(d) * (_nibbles(q, 16).flatten(1) - 8)


def q4_1(blocks_NB: Tensor) -> Tensor:
    d, m, q = blocks_NB.split([2, 2, 16], 1)
    return _half(d) * _nibbles(q, 16).flatten(1) + _half(m)


def q5_0(blocks_NB: Tensor) -> Tensor:
    d, high, low = blocks_NB.split([2, 4, 16], 1)
    return _half(d) * (_nibbles(low, 16).flatten(1) + 16 * _fifth_bits(high) - 16)


def q5_1(blocks_NB: Tensor) -> Tensor:
    d, m, high, low = blocks_NB.split([2, 2, 4, 16], 1)
    return _half(d) * (_nibbles(low, 16).flatten(1) + 16 * _fifth_bits(high)) + _half(m)


def q8_0(blocks_NB: Tensor) -> Tensor:
    d, q = blocks_NB.split([2, 32], 1)
    return _half(d) * _signed(q)


def q2_k(blocks_NB: Tensor) -> Tensor:
    scales, q, d, m = blocks_NB.split([16, 64, 2, 2], 1)
    scale = (_half(d) * (scales & 15).float())[..., None]
    offset = (_half(m) * (scales >> 4).float())[..., None]
    return (scale * _bits(q, 32, 2).reshape(-1, 16, 16) - offset).flatten(1)


def q3_k(blocks_NB: Tensor) -> Tensor:
    high, low, scales, d = blocks_NB.split([32, 64, 12, 2], 1)
    # Sixteen scales of six bits: the low four of each in eight bytes, the high two in four.
    six = _bits(scales[:, :8], 8, 4).flatten(1) + 16 * _bits(scales[:, 8:], 4, 2).flatten(1)
    # The third bit says that nothing is to be taken away.
    q = _bits(low, 32, 2).reshape(-1, 16, 16) - 4 * (1 - _bits(high, 32, 1).reshape(-1, 16, 16))
    return ((_half(d) * (six - 32))[..., None] * q).flatten(1)


def q4_k(blocks_NB: Tensor) -> Tensor:
    d, m, scales, q = blocks_NB.split([2, 2, 12, 128], 1)
    scale, offset = _scale_and_offset(d, m, scales)
    return (scale * _nibbles(q, 32).reshape(-1, 8, 32) - offset).flatten(1)


def q5_k(blocks_NB: Tensor) -> Tensor:
    d, m, scales, high, low = blocks_NB.split([2, 2, 12, 32, 128], 1)
    scale, offset = _scale_and_offset(d, m, scales)
    q = _nibbles(low, 32).reshape(-1, 8, 32) + 16 * _bits(high, 32, 1).reshape(-1, 8, 32)
    return (scale * q - offset).flatten(1)


def q6_k(blocks_NB: Tensor) -> Tensor:
    low, high, scales, d = blocks_NB.split([128, 64, 16, 2], 1)
    scale = (_half(d) * _signed(scales))[..., None]
    q = _nibbles(low, 64).reshape(-1, 16, 16) + 16 * _bits(high, 32, 2).reshape(-1, 16, 16) - 32
    return (scale * q).flatten(1)


BLOCKS = {
    "Q4_0": Block(2, 32, 18, q4_0),
    "Q4_1": Block(3, 32, 20, q4_1),
    "Q5_0": Block(6, 32, 22, q5_0),
    "Q5_1": Block(7, 32, 24, q5_1),
    "Q8_0": Block(8, 32, 34, q8_0),
    "Q2_K": Block(10, 256, 84, q2_k),
    "Q3_K": Block(11, 256, 110, q3_k),
    "Q4_K": Block(12, 256, 144, q4_k),
    "Q5_K": Block(13, 256, 176, q5_k),
    "Q6_K": Block(14, 256, 210, q6_k),
}
# Types that are not decoded, for the message that says so.
UNKNOWN = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}


def _half(pair_N2: Tensor) -> Tensor:
    """[n, 2] bytes of a half to float32 [n, 1]."""
    return pair_N2.contiguous().view(torch.float16).float()


def _signed(bytes_NB: Tensor) -> Tensor:
    return bytes_NB.contiguous().view(torch.int8).float()


def _bits(bytes_NB: Tensor, run: int, width: int) -> Tensor:
    """Numbers of `width` bits, lowest first: float32 [n, runs, 8 / width, run], a byte's numbers `run` apart."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=bytes_NB.device)[:, None]
    parts = bytes_NB.reshape(len(bytes_NB), -1, 1, run) >> shifts
    return (parts & ((1 << width) - 1)).float()


def _nibbles(bytes_NB: Tensor, run: int) -> Tensor:
    return _bits(bytes_NB, run, 4)


def _fifth_bits(bytes_N4: Tensor) -> Tensor:
    """32 bits in their order, as [n, 32]."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bytes_N4.device)
    return ((bytes_N4[..., None] >> shifts) & 1).float().flatten(1)


def _scale_and_offset(d_N2: Tensor, m_N2: Tensor, scales_NB: Tensor) -> tuple[Tensor, Tensor]:
    """Of eight parts, [n, 8, 1] each, from six bits: four parts' in one byte each, the other four's spread over two."""
    first, second, low = scales_NB.split(4, 1)
    scale = torch.cat([first & 63, (low & 15) | ((first >> 2) & 48)], 1)
    offset = torch.cat([second & 63, (low >> 4) | ((second >> 2) & 48)], 1)
    return (_half(d_N2) * scale.float())[..., None], (_half(m_N2) * offset.float())[..., None]
