"""Wan-Fun control: the image-to-video transformer that also takes control latents and a reference picture, in native
weight names.

The control, the mask and the start image come in as channels of x, after the noise and in this order. The reference
picture becomes one more frame of tokens before those of the video; it is dropped after the blocks.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .config import ControlConfig
from .layers import Timestep, rope_table, unpatchify
from .transformer import Grid, WanConditions, WanTrunk


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlConditions(WanConditions):
    """What a segment's steps share, the reference included.

    reference: its tokens [B, n, D], of one frame, or none of them where the model has no use for a reference. The
    positions (rope) count that frame; latents and grid do not.
    """

    reference: Tensor


class WanControlTransformer(WanTrunk):
    """Denoiser steered by channels and by a reference picture: predicts the velocity of x at timestep t."""

    def __init__(self, config: ControlConfig) -> None:
        super().__init__(config)
        self.config: ControlConfig = config
        if config.ref_dim is not None:
            self.ref_conv = nn.Conv2d(config.ref_dim, config.dim, config.patch[1:], stride=config.patch[1:])

    def prepare(
        self, *, text: Tensor, grid: Grid, reference: Tensor | None = None, image: Tensor | None = None
    ) -> ControlConditions:
        """Everything that does not depend on x or t.

        text [B, n, text_dim]; grid: x.shape[2:]; reference: latents of a picture, [B, ref_dim, H, W]; image [B, n,
        image_dim] for models with that branch. Without a reference a model that takes one is given zeros, as it was
        trained. Raises ValueError where the sizes do not agree.
        """
        tokens = self.token_grid(grid)
        extra = 0 if self.config.ref_dim is None else 1
        return ControlConditions(
            latents=grid,
            grid=tokens,
            rope=rope_table((tokens[0] + extra, *tokens[1:]), self.config.head_dim, text.device),
            contexts=self.contexts(text, image),
            reference=self.embed_reference(reference, text, grid),
        )

    def embed_reference(self, reference: Tensor | None, text: Tensor, grid: Grid) -> Tensor:
        """Latents of the reference picture, or None -> tokens [B, n, D]; n is 0 for a model without that branch."""
        if self.config.ref_dim is None:
            if reference is not None:
                raise ValueError("this model takes no reference picture; reference is given")
            return text.new_zeros(len(text), 0, self.config.dim, dtype=self.dtype)
        want = (len(text), self.config.ref_dim, *grid[1:])
        if reference is None:
            reference = text.new_zeros(want)
        if tuple(reference.shape) != want:
            raise ValueError(f"reference latents have shape {tuple(reference.shape)}; this text and x need {want}")
        return self.ref_conv(reference.to(self.dtype)).flatten(2).transpose(1, 2)

    def walk(self, x: Tensor, t: Tensor, cond: ControlConditions) -> Generator[None, None, Tensor]:
        """See `WanTrunk`. L counts the tokens of the video; the reference has the timestep of the last of them."""
        self.check(x, t, cond)
        x = self.patch_embedding(x)
        timestep = self.embed_time(t, x.shape[1])
        extra = cond.reference.shape[1]
        x = torch.cat((cond.reference, x), dim=1)
        of_all = with_reference(timestep, extra)
        for block in self.blocks:
            x = block(x, of_all, cond.contexts, cond.rope)
            yield
        return unpatchify(self.head(x[:, extra:], timestep), cond.grid, self.config.patch)


def with_reference(timestep: Timestep, extra: int) -> Timestep:
    """The timesteps of the video's tokens, preceded by those of `extra` tokens of the reference."""
    if timestep.index.shape[1] == 1:
        return timestep
    last = timestep.index[:, -1:].expand(-1, extra)
    return replace(timestep, index=torch.cat((last, timestep.index), dim=1))
