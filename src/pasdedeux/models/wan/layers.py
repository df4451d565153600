"""The parts of a Wan block: norms, positions, modulation by the timestep, attention, feed-forward, head.

Legend: B batch, L tokens, D width, H heads, C width of one head, U distinct timesteps, n tokens of a span or
context. Linear layers run in the dtype of their weights; norms, rotation and modulation run in float32, as in
the reference.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from .config import WanConfig
from .spans import add_spans, map_spans


class KeyValue(NamedTuple):
    """Keys and values of one attention, each [B, H, n, C]."""

    k: Tensor
    v: Tensor


Context = tuple[KeyValue, ...]  # one per source (text, image); their attentions are summed


class Rope(NamedTuple):
    """Rotation of every token, float32: cosines and sines, each [L, 1, C/2]."""

    cos: Tensor
    sin: Tensor

    def at(self, span: slice) -> "Rope":
        return Rope(self.cos[span], self.sin[span])


def rope_table(grid: tuple[int, int, int], head_dim: int, device: torch.device, theta: float = 1e4) -> Rope:
    """Angles of a (frames, height, width) grid of tokens, made in float64 and kept in float32.

    Of the C/2 pairs, C//6 turn with the height, C//6 with the width and the rest with the frame; pair i of an
    axis with d channels turns by position * theta^(-2i/d) (RoFormer, equation 15, once per axis).
    """
    side = 2 * (head_dim // 6)
    angles = [
        torch.outer(torch.arange(length).double(), theta ** (-torch.arange(0, d, 2).double() / d))
        for length, d in zip(grid, (head_dim - 2 * side, side, side), strict=True)
    ]
    axes = ("f c -> (f h w) 1 c", "h c -> (f h w) 1 c", "w c -> (f h w) 1 c")
    sizes = [{"h": grid[1], "w": grid[2]}, {"f": grid[0], "w": grid[2]}, {"f": grid[0], "h": grid[1]}]
    angle = torch.cat([repeat(a, axis, **size) for a, axis, size in zip(angles, axes, sizes, strict=True)], dim=-1)
    return Rope(angle.cos().float().to(device), angle.sin().float().to(device))


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Turns neighbouring channels as pairs: x float32 [B, L, H, C] -> the same shape."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * rope.cos - odd * rope.sin, even * rope.sin + odd * rope.cos), dim=-1).flatten(-2)


def timestep_features(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of the timestep, cosines first: [U] -> float32 [U, dim].

    Feature i has the angle t * 10000^(-2i/dim) ("Attention is all you need", 3.5); in float64, because at t =
    999 float32 angles are already wrong in their fifth digit.
    """
    freqs = 1e4 ** (-torch.arange(dim // 2, device=t.device).double() * 2 / dim)
    angle = torch.outer(t.double(), freqs)
    return torch.cat((angle.cos(), angle.sin()), dim=-1).float()


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """Layer norm without weights, in and out of float32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift in float32, rounded once (adaLN; DiT, section 3.2)."""
    return torch.addcmul(shift, layer_norm(x, eps), 1 + scale).to(x.dtype)


class Linear32(nn.Linear):
    """A linear layer computed in float32, a sixth of its rows at a time so that the wide copy stays small."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name it has in torch)
        x = input.float()
        rows = zip(self.weight.chunk(6), self.bias.chunk(6), strict=True)
        return torch.cat([F.linear(x, weight.float(), bias.float()) for weight, bias in rows], dim=-1)


class LayerNorm32(nn.LayerNorm):
    """Layer norm with weights, computed in float32 and returned in the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name it has in torch)
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


class RMSNorm32(nn.Module):
    """x / rms(x) * weight over the last axis, computed and returned in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)


@dataclass(frozen=True, kw_only=True, slots=True)
class PerToken:
    """One float32 vector for each token, stored once for each distinct timestep.

    rows [U, D]; index [B, 1] where all tokens of a sample share a timestep, [B, L] where each has its own.
    """

    rows: Tensor
    index: Tensor

    def at(self, span: slice) -> Tensor:
        """The span's vectors, [B, 1, D] or [B, n, D]."""
        return self.rows[self.index if self.index.shape[1] == 1 else self.index[:, span]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timestep:
    """A step's timesteps, float32: embedding [U, D] for the head, projection [U, 6, D] for the blocks."""

    embedding: Tensor
    projection: Tensor
    index: Tensor

    def for_block(self, modulation: Tensor) -> list[PerToken]:
        """Shift, scale, gate of the self-attention, then of the feed-forward: modulation [1, 6, D] -> six."""
        rows = (modulation.float() + self.projection).unbind(1)
        return [PerToken(rows=row, index=self.index) for row in rows]

    def for_head(self, modulation: Tensor) -> list[PerToken]:
        """Shift and scale: modulation [1, 2, D] -> two."""
        rows = (modulation.float() + self.embedding[:, None]).unbind(1)
        return [PerToken(rows=row, index=self.index) for row in rows]


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """[B, n, D] -> [B, H, n, C], a view."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def attend(q: Tensor, context: KeyValue) -> Tensor:
    """Softmax attention of q [B, H, n, C] over all of the context, heads joined: [B, n, D]."""
    return F.scaled_dot_product_attention(q, context.k, context.v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """The four projections and two norms (over all heads at once) that both attentions of a block have."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.norm_q = RMSNorm32(config.dim, config.eps)
        self.norm_k = RMSNorm32(config.dim, config.eps)


class SelfAttention(Attention):
    """Attention among the tokens, turned by position: first the keys of all, then spans of queries."""

    def turned(self, x: Tensor, rope: Rope, dtype: torch.dtype) -> Tensor:
        """Normed queries or keys [B, n, D] -> rotated [B, n, H, C]."""
        return rotate(x.unflatten(-1, (-1, self.head_dim)), rope).to(dtype)

    def key_value(self, x: Tensor, rope: Rope) -> Tensor:
        """Keys and values side by side: x [B, n, D] -> [B, n, 2, H, C]."""
        k = self.turned(self.norm_k(self.k(x)), rope, x.dtype)
        return torch.stack((k, self.v(x).unflatten(-1, (-1, self.head_dim))), dim=2)

    def forward(self, x: Tensor, key_value: Tensor, rope: Rope) -> Tensor:
        """Queries x [B, n, D] at the positions of rope, over key_value [B, L, 2, H, C] -> [B, n, D]."""
        q = self.turned(self.norm_q(self.q(x)), rope, x.dtype).transpose(1, 2)
        k, v = key_value.transpose(1, 3).unbind(2)
        return self.o(attend(q, KeyValue(k, v)))


class CrossAttention(Attention):
    """Attention to the text, and where the model has an image branch, to the image by the same queries."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__(config)
        if config.image_dim is not None:
            self.k_img = nn.Linear(config.dim, config.dim)
            self.v_img = nn.Linear(config.dim, config.dim)
            self.norm_k_img = RMSNorm32(config.dim, config.eps)

    def text_context(self, text: Tensor) -> KeyValue:
        """Embedded text [B, n, D] -> its keys and values."""
        k = self.norm_k(self.k(text)).to(text.dtype)
        return KeyValue(split_heads(k, self.head_dim), split_heads(self.v(text), self.head_dim))

    def image_context(self, image: Tensor) -> KeyValue:
        """Embedded image [B, n, D] -> its keys and values."""
        k = self.norm_k_img(self.k_img(image)).to(image.dtype)
        return KeyValue(split_heads(k, self.head_dim), split_heads(self.v_img(image), self.head_dim))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Queries x [B, n, D] over each source of the context, summed -> [B, n, D]."""
        q = split_heads(self.norm_q(self.q(x)).to(x.dtype), self.head_dim)
        first, *rest = (attend(q, source) for source in context)
        return self.o(sum(rest, start=first))


class Contexts:
    """What every block's cross-attention reads: embedded words [B, n, D], and a picture's features [B, m, D] or None.

    A block makes its keys and values of them at its first turn and not before, because only then are its weights sure
    to be there; from then on they are kept. Their size is 2 * layers * dim values per word: 0.42 GB for 512 at 14B in
    bfloat16.
    """

    def __init__(self, words: Tensor, picture: Tensor | None = None) -> None:
        self.words, self.picture = words, picture
        self._kept: dict[nn.Module, Context] = {}

    def of(self, attention: CrossAttention) -> Context:
        """The keys and values of one block's cross-attention."""
        if attention not in self._kept:
            picture = () if self.picture is None else (attention.image_context(self.picture),)
            self._kept[attention] = (attention.text_context(self.words), *picture)
        return self._kept[attention]


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward, each added to the stream.

    Without gradients the block overwrites the x it is given and holds, besides x, one set of keys and values
    and the temporaries of one span. Queries can be taken a span at a time because a span's update reads only
    its own tokens of the stream and keys and values that are already complete.
    """

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.empty(1, 6, config.dim).normal_(std=config.dim**-0.5))
        self.self_attn = SelfAttention(config)
        self.norm3 = LayerNorm32(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim),
        )

    def forward(self, x: Tensor, timestep: Timestep, contexts: Contexts, rope: Rope) -> Tensor:
        """x [B, L, D] -> [B, L, D]."""
        *attention, shift, scale, gate = timestep.for_block(self.modulation)
        context = contexts.of(self.cross_attn)

        def cross_attn(part: Tensor, _: slice) -> Tensor:
            return self.cross_attn(self.norm3(part), context)

        def ffn(part: Tensor, span: slice) -> Tensor:
            return self.ffn(modulate(part, shift.at(span), scale.at(span), self.eps)) * gate.at(span)

        x = self.add_self_attention(x, attention, rope)
        x = add_spans(x, cross_attn)
        return add_spans(x, ffn)

    def add_self_attention(self, x: Tensor, modulation: list[PerToken], rope: Rope) -> Tensor:
        """x plus the gated attention among its tokens; modulation is their shift, scale and gate."""
        shift, scale, gate = modulation

        def key_value(part: Tensor, span: slice) -> Tensor:
            part = modulate(part, shift.at(span), scale.at(span), self.eps)
            return self.self_attn.key_value(part, rope.at(span))

        def attention(part: Tensor, span: slice) -> Tensor:
            part = modulate(part, shift.at(span), scale.at(span), self.eps)
            return self.self_attn(part, of_all, rope.at(span)) * gate.at(span)

        of_all = map_spans(x, key_value)
        return add_spans(x, attention)


class Head(nn.Module):
    """From tokens to the channels of their patches, in float32."""

    def __init__(self, config: WanConfig, patch_dim: int) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.empty(1, 2, config.dim).normal_(std=config.dim**-0.5))
        self.head = Linear32(config.dim, patch_dim)

    def forward(self, x: Tensor, timestep: Timestep) -> Tensor:
        """x [B, L, D] -> float32 [B, L, patch_dim]."""
        shift, scale = timestep.for_head(self.modulation)

        def head(part: Tensor, span: slice) -> Tensor:
            return self.head(modulate(part.float(), shift.at(span), scale.at(span), self.eps))

        return map_spans(x, head)


class PatchEmbedding(nn.Conv3d):
    """Patches to tokens; a convolution with its stride for kernel, computed as a matrix product."""

    def __init__(self, in_dim: int, dim: int, patch: tuple[int, int, int]) -> None:
        super().__init__(in_dim, dim, kernel_size=patch, stride=patch)
        self.patch = patch

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name it has in torch)
        """Latents [B, C, F, H, W] -> tokens [B, L, D] in the dtype of the weights."""
        f, h, w = self.patch
        patches = rearrange(input, "b c (F f) (H h) (W w) -> b (F H W) (c f h w)", f=f, h=h, w=w)
        return F.linear(patches.to(self.weight.dtype), self.weight.flatten(1), self.bias)


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """Tokens [B, L, f*h*w*C], channels innermost, on a grid of patches -> latents [B, C, F, H, W]."""
    (F_, H, W), (f, h, w) = grid, patch
    pattern = "b (F H W) (f h w c) -> b c (F f) (H h) (W w)"
    return rearrange(tokens, pattern, F=F_, H=H, W=W, f=f, h=h, w=w)
