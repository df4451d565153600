"""What a forward costs, from sizes alone: operations, bytes of weights, bytes of activations. Nothing runs here.

Letters: L tokens, d width, h hidden width of the feed-forward, b blocks, n tokens of a context (text, image), w bytes
of a value. A multiply-add counts as two operations.
"""

from dataclasses import dataclass
from math import ceil

SPANS, SHORTEST = 24, 256
"""As the blocks take their tokens: in 24 spans, none shorter than 256 tokens."""
ELEMENTWISE = 332
"""Bytes that everything but matrix products and attention reads and writes per token, block and unit of width, in
bfloat16: counted over one block of ours, kernel by kernel, norms as one kernel each."""
BYTES = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "fp8_scaled": 1.0,
    "Q8_0": 34 / 32,
    "Q6_K": 210 / 256,
    "Q5_K": 176 / 256,
    "Q5_0": 22 / 32,
    "Q4_K": 144 / 256,
    "Q4_0": 18 / 32,
}
"""Bytes of a value in a block's matrices."""
UNPACKING = {
    "float8_e4m3fn": 3.0,
    "float8_e5m2": 3.0,
    "fp8": 3.0,
    "fp8_scaled": 21.0,
    "Q8_0": 23.4,
    "Q4_0": 33.0,
    "Q4_K": 34.0,
    "Q6_K": 62.0,
    "Q5_0": 61.0,
    "Q5_K": 62.0,
}
"""Bytes read and written to unpack one value, counted as above; the matrix product that follows is not in them. A
forward unpacks each of its matrices once: the two that a span uses are kept for the next span."""
UNPACKING_ELSE = 62.0
PIECE = 1 << 24
"""Values that are unpacked at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Sizes of a transformer.

    dim d, hidden h, layers b; head: width of an attention head; text and image: tokens of each context (image 0: none);
    inputs and outputs: values of a token on the way in and out; faces: blocks that attend to face_tokens per frame of
    the grid; hints: blocks of a second row; extra: frames of the grid that are put before the video's own; conditions:
    streams of tokens kept as they are through all steps (a pose, a control).
    """

    dim: int
    hidden: int
    layers: int
    head: int = 128
    text: int = 512
    image: int = 0
    inputs: int = 64
    outputs: int = 64
    faces: int = 0
    face_tokens: int = 0
    hints: int = 0
    extra: int = 0
    conditions: int = 0

    @property
    def context(self) -> int:
        """n, the tokens of all contexts."""
        return self.text + self.image


@dataclass(frozen=True, kw_only=True, slots=True)
class Codec:
    """A video autoencoder, per pixel of a frame: (for the first latent frame, for each later one of four pictures).

    values: its parameters; peak: most bytes alive in float32, its memory of earlier frames included; flop and traffic:
    operations, and bytes read and written in float32. Counted over our own modules, kernel by kernel.
    """

    values: int
    decode_peak: int
    encode_peak: int
    decode_flop: tuple[float, float]
    encode_flop: tuple[float, float]
    decode_traffic: tuple[float, float]
    encode_traffic: tuple[float, float]


CODECS = {
    "wan2.1": Codec(
        values=126_892_531,
        decode_peak=16_397,
        encode_peak=14_112,
        decode_flop=(10.7e6, 33.8e6),
        encode_flop=(6.7e6, 20.0e6),
        decode_traffic=(101e3, 219e3),
        encode_traffic=(61e3, 131e3),
    ),
    "wan2.2": Codec(
        values=704_688_668,
        decode_peak=15_348,
        encode_peak=5_922,
        decode_flop=(22.8e6, 73.6e6),
        encode_flop=(4.6e6, 14.0e6),
        decode_traffic=(85e3, 193e3),
        encode_traffic=(28e3, 62e3),
    ),
}

Grid = tuple[int, int, int]


def tokens(frames: int, size: tuple[int, int], stride: Grid, patch: Grid = (1, 2, 2)) -> Grid:
    """Frames and (width, height) of pixels -> frames, height and width of the token grid.

    stride: frames, rows and columns of pixels per latent. Raises ValueError where they do not divide.
    """
    (width, height), (time, rows, columns) = size, stride
    latent = (1 + (frames - 1) // time, height // rows, width // columns)
    whole = (frames - 1) % time == 0 and height % rows == 0 and width % columns == 0
    if not whole or frames < 1 or any(side % part or side < 1 for side, part in zip(latent, patch, strict=True)):
        raise ValueError(f"{frames} frames of {width}x{height} are no whole number of latents and patches.")
    return latent[0] // patch[0], latent[1] // patch[1], latent[2] // patch[2]


def length(net: Network, grid: Grid) -> int:
    """L: tokens of a forward."""
    return (grid[0] + net.extra) * grid[1] * grid[2]


def block_values(dim: int, hidden: int, image: bool = False) -> tuple[int, int]:
    """Values of one block: in its matrices 8d^2 + 2dh (with an image branch 10d^2 + 2dh), and in everything else."""
    matrices = (10 if image else 8) * dim * dim + 2 * dim * hidden
    biases_and_norms = 8 * dim + 4 * dim + 2 * dim + hidden + dim + 6 * dim
    return matrices, biases_and_norms + (3 * dim if image else 0)


def block_bytes(dim: int, hidden: int, kind: str, image: bool = False) -> int:
    """Bytes of one block with its matrices in `kind` (a key of BYTES); what is no matrix stays in bfloat16."""
    matrices, rest = block_values(dim, hidden, image)
    return ceil(matrices * BYTES[kind]) + rest * (4 if kind == "float32" else 2)


def linear_flop(net: Network, count: int) -> float:
    """The linear layers over L tokens: 2L(4d^2 + 2d^2 + 2dh) per block; contexts' keys and values are made once."""
    d, h = net.dim, net.hidden
    block = 2.0 * count * (6 * d * d + 2 * d * h)
    faces = 2.0 * count * 2 * d * d * net.faces
    hints = net.hints * (block + 2.0 * count * d * d)
    ends = 2.0 * count * d * (net.inputs + net.outputs)
    return net.layers * block + faces + hints + ends


def self_attention_flop(net: Network, count: int) -> float:
    """4 L^2 d per block."""
    return 4.0 * count * count * net.dim * (net.layers + net.hints)


def cross_attention_flop(net: Network, count: int) -> float:
    """4 L n d per block, and the same over a frame's face tokens per face block."""
    blocks = net.layers * net.context + net.hints * net.text
    return 4.0 * count * net.dim * (blocks + net.faces * net.face_tokens)


def forward_flop(net: Network, grid: Grid) -> float:
    """Operations of one forward."""
    count = length(net, grid)
    return linear_flop(net, count) + self_attention_flop(net, count) + cross_attention_flop(net, count)


def elementwise_bytes(net: Network, grid: Grid) -> float:
    """Bytes that one forward reads and writes outside matrix products and attention."""
    return float(ELEMENTWISE) * length(net, grid) * net.dim * (net.layers + net.hints)


def span_of(count: int) -> int:
    """Tokens that a block takes at once, of so many."""
    return max(SHORTEST, ceil(count / SPANS))


def unpacked_bytes(net: Network, value: int = 2) -> int:
    """The two matrices of a block's feed-forward, which are kept for its spans, and the float32 pieces in which the
    second is made: 8 bytes a value (Q3, Q5 and Q6: 12)."""
    largest = net.dim * net.hidden
    return 2 * value * largest + 8 * min(PIECE, largest)


def context_bytes(net: Network, grid: Grid, value: int = 2) -> int:
    """What an expert keeps per prompt through all steps of a segment: the contexts, their keys and values and those of
    the faces, streams of conditions, and the table of rotations.
    """
    count, frames = length(net, grid), grid[0]
    keys = net.context * net.layers + net.text * net.hints + net.face_tokens * frames * net.faces
    kept = (net.context + 2 * keys) * net.dim + net.conditions * count * net.dim
    return value * kept + 4 * net.head * count


def activation_bytes(net: Network, grid: Grid, value: int = 2) -> int:
    """Most bytes alive during a forward beside weights, contexts and its input: 3 streams of L d values (x, keys and
    values of the self-attention) and the temporaries of one span. In small models, or where tokens are few, it can be
    the feed-forward's temporaries instead, patches going in or out, or a matrix in float32 for the timestep.
    """
    count, d, h = length(net, grid), net.dim, net.hidden
    span = span_of(count)
    single = count <= span
    n = min(span, count)
    wide = 4 if value < 4 else 0  # the float32 copy that a norm makes of its input
    norm = 2 * value + wide + 8
    joined = 5 * value
    keys = max(norm, joined) + (0 if single else 2 * value)  # the span before is still held while one is made
    attention = 3 * count * d * value + n * d * max(norm, 0 if single else keys)
    forward = count * d * value + n * (d * value + 2 * h * value)
    whole = 5 * count * d * value if single else 0  # one span alone is joined with nothing, but copied
    steps = (52 + (24 if value < 4 else 0)) * d  # the timestep's vectors, of all blocks and of this one
    second = 2 * count * d * value if net.hints else 0  # the second row's stream, and what it began as
    timestep = count * d * value + (4 * d * d if value < 4 else 0)
    ends = count * (d * value + max(net.inputs * (4 + value), 8 * net.outputs))
    return max(attention, forward, whole, timestep, ends) + second + steps


def stream_bytes(net: Network, grid: Grid, value: int = 2) -> int:
    """What a prompt's forward holds while another prompt's goes through a block: its stream, or both of its streams."""
    return value * length(net, grid) * net.dim * (2 if net.hints else 1)
