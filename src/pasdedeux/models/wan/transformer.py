"""The Wan denoiser for text and image conditions, in native weight names.

`prepare` does once what is the same at every step of a segment; `forward` does what depends on x and t, and
no more.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import WanConfig
from .layers import (
    Block,
    Contexts,
    Head,
    LayerNorm32,
    Linear32,
    PatchEmbedding,
    Rope,
    Timestep,
    rope_table,
    timestep_features,
    unpatchify,
)

Grid = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class WanConditions:
    """What a segment's steps share.

    latents: frames, height and width of x; grid: the same in patches; contexts: what the blocks' cross-attentions read.
    """

    latents: Grid
    grid: Grid
    rope: Rope
    contexts: Contexts


class ImageEmbedding(nn.Module):
    """CLIP features to the width of the transformer."""

    def __init__(self, image_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            LayerNorm32(image_dim),
            nn.Linear(image_dim, image_dim),
            nn.GELU(),
            nn.Linear(image_dim, dim),
            LayerNorm32(dim),
        )

    def forward(self, image: Tensor) -> Tensor:
        """[B, n, image_dim] -> [B, n, D]."""
        return self.proj(image)


class WanTrunk(nn.Module, ABC):
    """Embeddings, blocks and head: what all Wan transformers have in common."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        dim, patch_values = config.dim, config.patch[0] * config.patch[1] * config.patch[2]
        self.config = config
        self.patch_embedding = PatchEmbedding(config.in_dim, dim, config.patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(Linear32(config.freq_dim, dim), nn.SiLU(), Linear32(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), Linear32(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config, config.out_dim * patch_values)
        if config.image_dim is not None:
            self.img_emb = ImageEmbedding(config.image_dim, dim)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and so of the stream of tokens."""
        return self.patch_embedding.weight.dtype

    @property
    def turns(self) -> Sequence[nn.Module]:
        """The blocks in the order in which a forward pass goes through them."""
        return tuple(self.blocks)

    def token_grid(self, latents: Grid) -> Grid:
        """Latent frames, height and width -> in patches. Raises ValueError where they do not divide."""
        if any(size < 1 or size % patch for size, patch in zip(latents, self.config.patch, strict=True)):
            raise ValueError(f"latent size {tuple(latents)} must be a multiple of the patch {self.config.patch}")
        f, h, w = (size // patch for size, patch in zip(latents, self.config.patch, strict=True))
        return f, h, w

    def embed_text(self, text: Tensor) -> Tensor:
        """Text features [B, n, text_dim], n <= text_len -> [B, text_len, D].

        Missing tokens are zeros *before* the embedding and are attended to: the released weights were trained
        so. Raises ValueError for more than text_len tokens or another width.
        """
        tokens, width = text.shape[-2:]
        if tokens > self.config.text_len or width != self.config.text_dim:
            limit = f"at most {self.config.text_len} tokens of width {self.config.text_dim}"
            raise ValueError(f"text has {tokens} tokens of width {width}; this model takes {limit}")
        return self.text_embedding(F.pad(text.to(self.dtype), (0, 0, 0, self.config.text_len - tokens)))

    def contexts(self, text: Tensor, image: Tensor | None = None) -> Contexts:
        """The embedded text, and image where the model has that branch, for the blocks to make keys and values of.

        Raises ValueError where image features are missing, or given to a model that has no use for them.
        """
        if (image is None) != (self.config.image_dim is None):
            need = "takes no image features" if self.config.image_dim is None else "needs image features"
            raise ValueError(f"this model {need}; image is {'absent' if image is None else 'given'}")
        return Contexts(self.embed_text(text), None if image is None else self.img_emb(image.to(self.dtype)))

    def embed_time(self, t: Tensor, tokens: int) -> Timestep:
        """Timesteps (0 to 1000) [B], or one per token [B, L] -> one embedding per distinct timestep.

        Raises ValueError for any other shape.
        """
        if t.ndim != 1 and (t.ndim != 2 or t.shape[1] != tokens):
            raise ValueError(f"timesteps have shape {tuple(t.shape)}; they must be [B] or [B, {tokens}]")
        if t.ndim == 2:
            levels, index = t.unique(return_inverse=True)
        else:
            levels, index = t, torch.arange(len(t), device=t.device)[:, None]
        embedding = self.time_embedding(timestep_features(levels, self.config.freq_dim))
        projection = self.time_projection(embedding).unflatten(1, (6, -1))
        return Timestep(embedding=embedding, projection=projection, index=index)

    def check(self, x: Tensor, t: Tensor, cond: WanConditions) -> None:
        """Raises ValueError where x does not fit the model, t, or the prepared conditions."""
        want = (len(t), self.config.in_dim, *cond.latents)
        if tuple(x.shape) != want:
            raise ValueError(f"x has shape {tuple(x.shape)}; the timesteps and conditions are for {want}")

    @abstractmethod
    def walk(self, x: Tensor, t: Tensor, cond: Any) -> Generator[None, None, Tensor]:
        """The velocity of x, block by block: stops after each, so that others can go through it too."""
        ...

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """x [B, in_dim, F, H, W], t [B] or [B, L] in 0..1000 -> velocity, float32 [B, out_dim, F, H, W]."""
        (velocity,) = self.forward_each(x, t, (cond,))
        return velocity

    def forward_each(self, x: Tensor, t: Tensor, conds: Sequence[Any]) -> tuple[Tensor, ...]:
        """The velocities of one x under several conditions, each block's turn for all of them before the next block's.

        Weights that have to be fetched are fetched once; the price is one more stream of tokens per condition.
        """
        walks, velocities = [self.walk(x, t, cond) for cond in conds], []
        while not velocities:
            for walk in walks:
                try:
                    next(walk)
                except StopIteration as end:
                    velocities.append(end.value)
        return tuple(velocities)


class WanTransformer(WanTrunk):
    """Text-to-video and image-to-video denoiser: predicts the velocity of x at timestep t."""

    def prepare(self, *, text: Tensor, grid: Grid, image: Tensor | None = None) -> WanConditions:
        """text [B, n, text_dim]; grid: x.shape[2:]; image [B, n, image_dim] for models with that branch."""
        tokens = self.token_grid(grid)
        return WanConditions(
            latents=grid,
            grid=tokens,
            rope=rope_table(tokens, self.config.head_dim, text.device),
            contexts=self.contexts(text, image),
        )

    def walk(self, x: Tensor, t: Tensor, cond: WanConditions) -> Generator[None, None, Tensor]:
        """See `WanTrunk`."""
        self.check(x, t, cond)
        x = self.patch_embedding(x)
        timestep = self.embed_time(t, x.shape[1])
        for block in self.blocks:
            x = block(x, timestep, cond.contexts, cond.rope)
            yield
        return unpatchify(self.head(x, timestep), cond.grid, self.config.patch)
