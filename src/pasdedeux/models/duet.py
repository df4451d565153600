"""The built-in pair's denoiser: a small Animate-class transformer, whose conditions lie on the picture they describe.

Like Wan-Animate it takes noisy video latents, a reference of the character, a skeleton drawing and a face, and gives a
velocity. It differs where small size asks for it. Conditions come as planes of pixels in the output's own frame and
enter through one convolutional stem, which runs once per segment. Attention is within one latent frame (its queries
also see the reference) or, in every second block, along time at one place. The network predicts clean latents as a
correction of `base`, the latents of a rough composite, so that it starts from that composite and never from static;
the velocity follows from them.

Axes: B batch, T frames, F latent frames, H W pixels, h w latent rows and columns, L = h*w tokens of one frame,
C latent channels, D width, N heads.
"""

import math
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

SCENE, CARRIED, POSE, FACE = 4, 4, 3, 3
PLANES = SCENE + CARRIED + POSE + FACE
"""Condition planes per frame: scene RGB and its hole, carried RGBA, skeleton RGB, face RGB."""
REFERENCE = 4 + POSE + FACE
"""Reference planes: RGB and mask, skeleton RGB, face RGB."""

FAR, NEAR, TOUCHED = 0, 1, 2
"""Regions of a picture: far from anything that is carried or filled in; near it, where a shadow may fall; on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DuetConfig:
    """Sizes of a `DuetTransformer`. Heads have width `dim / heads`, a multiple of 4."""

    dim: int = 256
    depth: int = 8
    heads: int = 4
    ffn: int = 1024
    channels: int = 64
    frequency: int = 128
    stem: tuple[int, int, int] = (32, 64, 128)
    frames_per_latent: int = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class DuetInputs:
    """What one segment is conditioned on; all in the compute type of the model.

    `planes` [B, 14, T, H, W] and `reference` [B, 10, H, W] in [-1, 1] or [0, 1] as drawn; `base` [B, C, F, h, w]
    latents of the rough composite, with true latents where `known` [B, 1, F, 1, 1] is 1 (frames handed over from the
    segment before). `region` [B, F, h, w] says how far each latent may be from its base (`FAR`, `NEAR`, `TOUCHED`).
    """

    planes: Tensor
    reference: Tensor
    base: Tensor
    known: Tensor
    region: Tensor

    def to(self, device: torch.device | str) -> "DuetInputs":
        """The same inputs on another device."""
        return DuetInputs(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class DuetCondition:
    """A segment's conditions after everything that no step changes: tokens, reference keys and values, angles."""

    tokens: Tensor
    """[B, F, L, D] tokens of planes, base and the known flag."""
    keys: tuple[tuple[Tensor, Tensor], ...]
    """Per spatial block, keys and values [B, N, L, D/N] of the reference."""
    base: Tensor
    known: Tensor
    region: Tensor
    space: Tensor
    """[2, L, D/N] cosines and sines of the place of each token."""
    time: Tensor
    """[2, F, D/N] cosines and sines of the time of each latent frame."""


def normalise(x: Tensor) -> Tensor:
    """Layer normalisation without learned scale, in float32 (the kernel's own), in the type of `x`."""
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)


def angles(position: Tensor, width: int, base: float) -> Tensor:
    """Rotary angles (Su et al. 2021, eq. 34): [L] positions to [L, width/2] in float32."""
    rate = base ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    return position.float()[:, None] * rate


def rotation(angle: Tensor) -> Tensor:
    """[L, d/2] angles to [2, L, d]: cosines and sines, each standing for both halves of a head."""
    return torch.stack([angle.cos(), angle.sin()]).repeat(1, 1, 2)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Apply `turn` [2, L, d] to heads `x` [..., L, d]: pairs are (i, i + d/2)."""
    left, right = x.chunk(2, dim=-1)
    return x * turn[0] + torch.cat([-right, left], dim=-1) * turn[1]


def sinusoid(sigma: Tensor, width: int) -> Tensor:
    """[B] noise levels to [B, width] features, float32; frequencies from 1 to 1000 cycles over [0, 1]."""
    rate = torch.logspace(0, 3, width // 2, device=sigma.device) * math.tau / 4
    phase = sigma.float()[:, None] * rate
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


class Stem(nn.Module):
    """Planes of pixels to tokens of 8x8 pixels: three strided convolutions."""

    def __init__(self, planes: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        sizes = (planes, *widths)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """[B, P, H, W] to [B, H/8, W/8, widths[-1]]."""
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x = functional.silu(layer(x))
        return rearrange(x, "B c h w -> B h w c")


class Attention(nn.Module):
    """Self-attention over the last axis but one, with rotary places and normalised queries and keys."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.o = nn.Linear(dim, dim)

    def split(self, x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, L, D] to queries, keys and values [B, N, L, D/N], the first two normalised and turned."""
        q, k, v = rearrange(self.qkv(x), "B L (three N d) -> three B N L d", three=3, N=self.heads)
        return rotate(normalise(q), turn), rotate(normalise(k), turn), v

    def keys(self, x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `split`."""
        _, k, v = self.split(x, turn)
        return k, v

    def forward(self, x: Tensor, turn: Tensor, more: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """[B, L, D] to the same; `more` keys and values are seen by every query."""
        q, k, v = self.split(x, turn)
        if more is not None:
            k, v = torch.cat([k, more[0]], dim=2), torch.cat([v, more[1]], dim=2)
        return self.o(rearrange(functional.scaled_dot_product_attention(q, k, v), "B N L d -> B L (N d)"))


class Neighbours(nn.Module):
    """A feed-forward whose first layer sees a token's eight neighbours: a figure's edge seldom ends at a token's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(dim, dim, 3, padding=1)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rows: int) -> Tensor:
        """[B, F, L, D] with L in `rows` rows to the same."""
        batch = x.shape[0]
        picture = rearrange(x, "B F (h w) D -> (B F) D h w", h=rows).contiguous(memory_format=torch.channels_last)
        near = functional.gelu(self.near(picture), approximate="tanh")
        return self.out(rearrange(near, "(B F) D h w -> B F (h w) D", B=batch))


class FeedForward(nn.Module):
    """The usual feed-forward, token by token."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.inlet = nn.Linear(dim, width)
        self.out = nn.Linear(width, dim)

    def forward(self, x: Tensor, _rows: int) -> Tensor:
        """[B, F, L, D] to the same."""
        return self.out(functional.gelu(self.inlet(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and feed-forward, each scaled, shifted and gated by the noise level, as in Wan's block.

    Spatial blocks attend within a latent frame; the others attend along time, and look at neighbours as they feed
    forward.
    """

    def __init__(self, config: DuetConfig, spatial: bool) -> None:
        super().__init__()
        self.spatial = spatial
        self.modulation = nn.Parameter(torch.randn(6, config.dim) / config.dim**0.5)
        self.self_attn = Attention(config.dim, config.heads)
        self.ffn = FeedForward(config.dim, config.ffn) if spatial else Neighbours(config.dim)

    def attend(self, x: Tensor, cond: DuetCondition, more: tuple[Tensor, Tensor] | None) -> Tensor:
        """Attention of [B, F, L, D] tokens within each frame, or along time at each place."""
        batch, frames, places = x.shape[:3]
        if self.spatial and more is not None:
            more = (more[0].repeat_interleave(frames, 0), more[1].repeat_interleave(frames, 0))
            out = self.self_attn(rearrange(x, "B F L D -> (B F) L D"), cond.space, more)
            return rearrange(out, "(B F) L D -> B F L D", B=batch)
        out = self.self_attn(rearrange(x, "B F L D -> (B L) F D"), cond.time)
        return rearrange(out, "(B L) F D -> B F L D", L=places)

    def forward(self, x: Tensor, level: Tensor, cond: DuetCondition, more: tuple[Tensor, Tensor] | None) -> Tensor:
        """[B, F, L, D] tokens at `level` [B, 6, D] to the same."""
        shift, scale, gate, shift2, scale2, gate2 = (level + self.modulation)[:, :, None, None].unbind(1)
        x = x + gate * self.attend(normalise(x) * (1 + scale) + shift, cond, more)
        return x + gate2 * self.ffn(normalise(x) * (1 + scale2) + shift2, cond.base.shape[3])


class DuetTransformer(nn.Module):
    """One expert of the built-in pair. `prepare` once per segment, then call with (x, sigma, cond) at every step.

    The buffer `spread` [3, C] is the standard deviation of clean latents around `base` in each region, measured from
    data: what the composite gets right from the start costs the network nothing.
    """

    spread: Tensor

    def __init__(self, config: DuetConfig) -> None:
        super().__init__()
        self.config = config
        c, d = config.channels, config.dim
        self.register_buffer("spread", torch.ones(3, c))
        self.patch_embedding = nn.Linear(c, d)
        self.base_embedding = nn.Linear(c + 1, d)
        self.condition_stem = Stem(PLANES, config.stem)
        self.first_embedding = nn.Linear(config.stem[-1], d)
        self.later_embedding = nn.Linear(config.stem[-1] * config.frames_per_latent, d)
        self.reference_stem = Stem(REFERENCE, config.stem)
        self.reference_embedding = nn.Linear(config.stem[-1], d)
        self.time_embedding = nn.Sequential(nn.Linear(config.frequency, d), nn.SiLU(), nn.Linear(d, d))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.blocks = nn.ModuleList(Block(config, spatial=i % 2 == 0) for i in range(config.depth))
        self.head_modulation = nn.Parameter(torch.randn(2, d) / d**0.5)
        self.head = nn.Linear(d, c)
        self.initialise()

    def initialise(self) -> None:
        """Start as the identity around `base`: the head and every gate give zero (Peebles & Xie 2023, adaLN-Zero)."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        nn.init.zeros_(self.time_projection[1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.time_projection[1].bias)  # type: ignore[arg-type]
        for block in self.blocks:
            nn.init.zeros_(block.modulation)  # type: ignore[arg-type]

    def turns(self, frames: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Rotary tables of space [2, L, d] and time [2, F, d]."""
        width = self.config.dim // self.config.heads
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        place = torch.cat([angles(y.flatten(), width // 2, 100.0), angles(x.flatten(), width // 2, 100.0)], dim=-1)
        return rotation(place), rotation(angles(torch.arange(frames), width, 100.0))

    def tokens(self, inputs: DuetInputs) -> Tensor:
        """Condition tokens [B, F, L, D]: the stem's view of each latent frame's pictures, plus base and known flag."""
        batch, _, _, rows, columns = inputs.base.shape
        pictures = self.condition_stem(rearrange(inputs.planes, "B p T H W -> (B T) p H W"))
        pictures = rearrange(pictures, "(B T) h w c -> B T (h w) c", B=batch)
        later = rearrange(pictures[:, 1:], "B (F t) L c -> B F L (t c)", t=self.config.frames_per_latent)
        seen = torch.cat([self.first_embedding(pictures[:, :1]), self.later_embedding(later)], dim=1)
        known = inputs.known.expand(-1, -1, -1, rows, columns)
        given = rearrange(torch.cat([inputs.base, known], dim=1), "B C F h w -> B F (h w) C")
        return seen + self.base_embedding(given)

    def prepare(self, inputs: DuetInputs) -> DuetCondition:
        """All that depends on the segment's inputs and on no step."""
        rows, columns = inputs.base.shape[3:]
        dtype = inputs.planes.dtype
        space, time = (turn.to(inputs.planes) for turn in self.turns(inputs.base.shape[2], rows, columns))
        reference = self.reference_embedding(self.reference_stem(inputs.reference).flatten(1, 2))
        seen = normalise(reference)
        keys = tuple(block.self_attn.keys(seen, space) for block in self.blocks if block.spatial)  # pyright: ignore
        return DuetCondition(
            tokens=self.tokens(inputs),
            keys=keys,
            base=inputs.base.to(dtype),
            known=inputs.known.to(dtype),
            region=inputs.region.long(),
            space=space,
            time=time,
        )

    def network(self, x: Tensor, sigma: Tensor, cond: DuetCondition) -> Tensor:
        """The trained part: scaled residual [B, C, F, h, w] at sigma [B] to its scaled correction, same shape."""
        rows, columns = x.shape[3:]
        hidden = self.patch_embedding(rearrange(x, "B C F h w -> B F (h w) C")) + cond.tokens
        level = self.time_embedding(sinusoid(sigma, self.config.frequency).to(x.dtype))
        modulation = self.time_projection(level).unflatten(-1, (6, -1)) + self._open_gates(level)
        keys = iter(cond.keys)
        for block in self.blocks:
            hidden = block(hidden, modulation, cond, next(keys) if block.spatial else None)
        shift, scale = (level[:, None] + self.head_modulation)[:, :, None, None].unbind(1)
        out = self.head(normalise(hidden) * (1 + scale) + shift)
        return rearrange(out, "B F (h w) C -> B C F h w", h=rows, w=columns)

    @staticmethod
    def _open_gates(level: Tensor) -> Tensor:
        """Gates start open at 0.3: with a zero head that still begins at the identity, and learns sooner."""
        return torch.tensor([0, 0, 0.3, 0, 0, 0.3], dtype=level.dtype, device=level.device)[:, None]

    def deviation(self, region: Tensor) -> Tensor:
        """[B, F, h, w] regions to the expected deviation from base [B, C, F, h, w], float32."""
        return rearrange(self.spread.float()[region], "B F h w C -> B C F h w")

    def predict(self, x: Tensor, sigma: Tensor, cond: DuetCondition) -> tuple[Tensor, Tensor]:
        """Clean latents and the network's raw output for noisy latents `x` float32 at `sigma` [B].

        The network sees the residual r around base as x shows it, (1-σ)·r + σ·ε, scaled to unit variance as by c_in
        of EDM's table 1, and gives the clean residual in units of its deviation s.
        """
        level, base, s = (
            sigma.float()[:, None, None, None, None],
            cond.base.float(),
            self.deviation(cond.region),
        )
        c_in = ((1 - level).square() * s.square() + level.square()).rsqrt()
        raw = self.network((c_in * (x - (1 - level) * base)).to(cond.tokens.dtype), sigma, cond).float()
        return base + (1 - cond.known.float()) * s * raw, raw

    def forward(self, x: Tensor, sigma: Tensor, cond: DuetCondition) -> Tensor:
        """Velocity v = (x - x_0) / σ, float32 [B, C, F, h, w], of noisy latents at noise levels sigma [B] > 0."""
        clean, _ = self.predict(x.float(), sigma, cond)
        return (x.float() - clean) / sigma.float()[:, None, None, None, None]
