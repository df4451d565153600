"""The built-in pair's denoiser: a small Animate-class transformer, whose conditions lie on the picture they describe.

Like Wan-Animate it takes noisy video latents, a reference of the character, a skeleton drawing and a face, and gives a
velocity. It differs where small size asks for it. Conditions come as planes of pixels in the output's own frame; a
pyramid of convolutions sees them at three scales, once per segment. A transformer works on tokens of 8x8 pixels:
attention is within one latent frame (its queries also see the reference) or, in every second block, along time at one
place. Its tokens are then refined frame by frame at 4x4 and 2x2 pixels, each time beside what the pyramid saw there (as
in a U-Net, Ronneberger et al. 2015), because an edge, an eye or a finger is smaller than a token. The network predicts
clean latents as a correction of `base`, the latents of a rough composite, so that it starts from that composite and
never from static; the velocity follows from them.

Axes: B batch, T frames, F latent frames, H W pixels, h w latent rows and columns, L = h*w tokens of one frame,
C latent channels, c picture channels, D width, N heads.
"""

from dataclasses import dataclass, fields

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from pasdedeux.models.duet_layers import (
    Attention,
    FeedForward,
    Finer,
    Frames,
    Latents,
    Neighbours,
    Pyramid,
    angles,
    normalise,
    rotation,
    sinusoid,
)

SCENE, CARRIED, POSE, FACE = 4, 4, 3, 3
PLANES = SCENE + CARRIED + POSE + FACE
"""Condition planes per frame: scene RGB and its hole, carried RGBA, skeleton RGB, face RGB."""
REFERENCE = 4 + POSE + FACE
"""Reference planes: RGB and mask, skeleton RGB, face RGB."""

FAR, NEAR, TOUCHED = 0, 1, 2
"""Regions of a picture: far from anything that is carried or filled in; near it, where a shadow may fall; on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DuetConfig:
    """Sizes of a `DuetTransformer`. Heads have width `dim / heads`, a multiple of 4. Raises ValueError for others."""

    dim: int = 256
    depth: int = 4
    heads: int = 4
    ffn: int = 1024
    channels: int = 128
    frequency: int = 128
    pyramid: tuple[int, int, int] = (48, 96, 192)
    """Channels of pictures at 2x2, 4x4 and 8x8 pixels, on the way in and on the way out."""
    frames_per_latent: int = 4

    def __post_init__(self) -> None:
        if self.dim % (4 * self.heads):
            raise ValueError(
                f"A model of width {self.dim} with {self.heads} heads has heads of {self.dim / self.heads:g}; that "
                "must be a multiple of 4."
            )


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
    """A segment's conditions after everything that no step changes: tokens, pictures, reference, angles."""

    tokens: Tensor
    """[B, F, L, D] tokens of planes, base and the known flag."""
    pictures: tuple[Tensor, Tensor, Tensor]
    """What the pyramid saw [B*T, c, H, W] at 2x2, 4x4 and 8x8 pixels, as the way out takes it."""
    keys: tuple[tuple[Tensor, Tensor], ...]
    """Per spatial block, keys and values [B, N, L, D/N] of the reference."""
    base: Tensor
    known: Tensor
    region: Tensor
    space: Tensor
    """[2, L, D/N] cosines and sines of the place of each token."""
    time: Tensor
    """[2, F, D/N] cosines and sines of the time of each latent frame."""


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
        fine, middle, coarse = config.pyramid
        self.register_buffer("spread", torch.ones(3, c))
        self.patch_embedding = nn.Linear(c, d)
        self.base_embedding = nn.Linear(c + 1, d)
        self.condition_pyramid = Pyramid(PLANES, config.pyramid)
        self.condition_embedding = Latents(coarse, d, config.frames_per_latent)
        self.reference_pyramid = Pyramid(REFERENCE, config.pyramid)
        self.reference_embedding = nn.Linear(coarse, d)
        self.time_embedding = nn.Sequential(nn.Linear(config.frequency, d), nn.SiLU(), nn.Linear(d, d))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.blocks = nn.ModuleList(Block(config, spatial=i % 2 == 0) for i in range(config.depth))
        self.pictures_out = Frames(d, coarse, config.frames_per_latent)
        self.noisy_out = Frames(c, 16 * fine, config.frames_per_latent)
        self.finer = nn.ModuleList([Finer(coarse, middle, d), Finer(middle, fine, d)])
        self.patch = nn.Conv2d(fine, coarse, 4, stride=4)
        self.head = Latents(coarse, c, config.frames_per_latent)
        self.initialise()

    def initialise(self) -> None:
        """Start as the identity around `base`: the head gives zero (as in adaLN-Zero, Peebles & Xie 2023)."""
        for layer in (self.head.first, self.head.later):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
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

    def tokens(self, inputs: DuetInputs, coarsest: Tensor) -> Tensor:
        """Condition tokens [B, F, L, D]: the pyramid's view of each latent frame's pictures, base and known flag."""
        batch, _, _, rows, columns = inputs.base.shape
        seen = self.condition_embedding(rearrange(coarsest, "(B T) c h w -> B T (h w) c", B=batch))
        known = inputs.known.expand(-1, -1, -1, rows, columns)
        given = rearrange(torch.cat([inputs.base, known], dim=1), "B C F h w -> B F (h w) C")
        return seen + self.base_embedding(given)

    def prepare(self, inputs: DuetInputs) -> DuetCondition:
        """All that depends on the segment's inputs and on no step."""
        rows, columns = inputs.base.shape[3:]
        dtype = inputs.planes.dtype
        space, time = (turn.to(inputs.planes) for turn in self.turns(inputs.base.shape[2], rows, columns))
        reference = rearrange(self.reference_pyramid(inputs.reference)[-1], "B c h w -> B (h w) c")
        seen = normalise(self.reference_embedding(reference))
        keys = tuple(block.self_attn.keys(seen, space) for block in self.blocks if block.spatial)  # pyright: ignore
        fine, middle, coarse = self.condition_pyramid(rearrange(inputs.planes, "B p T H W -> (B T) p H W"))
        to_middle, to_fine = self.finer
        return DuetCondition(
            tokens=self.tokens(inputs, coarse),
            pictures=(to_fine.skip(fine), to_middle.skip(middle), coarse),  # pyright: ignore
            keys=keys,
            base=inputs.base.to(dtype),
            known=inputs.known.to(dtype),
            region=inputs.region.long(),
            space=space,
            time=time,
        )

    def network(self, x: Tensor, sigma: Tensor, cond: DuetCondition) -> Tensor:
        """The trained part: scaled residual [B, C, F, h, w] at sigma [B] to its scaled correction, same shape."""
        noisy = rearrange(x, "B C F h w -> B F (h w) C")
        hidden = self.patch_embedding(noisy) + cond.tokens
        level = self.time_embedding(sinusoid(sigma, self.config.frequency).to(x.dtype))
        modulation = self.time_projection(level).unflatten(-1, (6, -1)) + self._open_gates(level)
        keys = iter(cond.keys)
        for block in self.blocks:
            hidden = block(hidden, modulation, cond, next(keys) if block.spatial else None)
        return self.refine(normalise(hidden), noisy, functional.silu(level), cond)

    def refine(self, hidden: Tensor, noisy: Tensor, level: Tensor, cond: DuetCondition) -> Tensor:
        """Tokens [B, F, L, D] to latents [B, C, F, h, w] by way of each frame's picture at 4x4 and 2x2 pixels."""
        batch, rows = len(hidden), cond.base.shape[3]
        fine, middle, coarse = cond.pictures
        level = level.repeat_interleave(len(coarse) // batch, 0)
        x = rearrange(self.pictures_out(hidden), "B T (h w) c -> (B T) c h w", h=rows) + coarse
        x = self.finer[0](x, middle, level)
        shown = rearrange(self.noisy_out(noisy), "B T (h w) (p q c) -> (B T) c (h p) (w q)", h=rows, p=4, q=4)
        x = self.finer[1](x, fine + shown, level)
        patches = rearrange(self.patch(functional.silu(x)), "(B T) c h w -> B T (h w) c", B=batch)
        return rearrange(self.head(patches), "B F (h w) C -> B C F h w", h=rows)

    @staticmethod
    def _open_gates(level: Tensor) -> Tensor:
        """Gates start open at 0.3: with a zero head that still begins at the identity, and learns sooner."""
        return torch.tensor([0, 0, 0.3, 0, 0, 0.3], dtype=level.dtype, device=level.device)[:, None]

    def deviation(self, region: Tensor) -> Tensor:
        """[B, F, h, w] regions to the expected deviation from base [B, C, F, h, w], float32."""
        return rearrange(self.spread.float()[region], "B F h w C -> B C F h w")

    def predict(self, x: Tensor, sigma: Tensor, cond: DuetCondition) -> tuple[Tensor, Tensor]:
        """Clean latents and the network's raw output for noisy latents `x` float32 at `sigma` [B].

        What x shows of the residual r around base is (1-σ)·r + σ·ε. The network sees the best linear estimate of r
        from that (Wiener 1949), and gives r, both in units of the deviation s of r. So static fades from its sight
        where it says nothing: a small network need not learn to look past it.
        """
        level, base, s = (
            sigma.float()[:, None, None, None, None],
            cond.base.float(),
            self.deviation(cond.region),
        )
        gain = (1 - level) * s / ((1 - level).square() * s.square() + level.square())
        raw = self.network((gain * (x - (1 - level) * base)).to(cond.tokens.dtype), sigma, cond).float()
        return base + (1 - cond.known.float()) * s * raw, raw

    def forward(self, x: Tensor, sigma: Tensor, cond: DuetCondition) -> Tensor:
        """Velocity v = (x - x_0) / σ, float32 [B, C, F, h, w], of noisy latents at noise levels sigma [B] > 0."""
        clean, _ = self.predict(x.float(), sigma, cond)
        return (x.float() - clean) / sigma.float()[:, None, None, None, None]
