"""VACE: the text-to-video transformer steered by control latents, in native weight names.

A second, sparser row of blocks reads the control; what each of its blocks makes, the hint, is added to the stream
after the block of the first row that it belongs to. The second row starts from the control *and* x, so it runs at
every step; it sees nothing of what the first row does later, so each hint is made just when it is needed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from .config import VaceConfig
from .layers import Block, Context, PatchEmbedding, rope_table, unpatchify
from .spans import add_spans
from .transformer import Grid, WanConditions, WanTrunk


@dataclass(frozen=True, kw_only=True, slots=True)
class VaceConditions(WanConditions):
    """What a segment's steps share, the control included.

    control: its tokens [B, L, D], ready to be added to those of x; hint_contexts: keys and values for the
    cross-attentions of the second row; scales: the weight of each hint.
    """

    control: Tensor
    hint_contexts: tuple[Context, ...]
    scales: tuple[float, ...]


class HintBlock(Block):
    """A block of the second row, with the projection that makes its hint; the first also lets the control in."""

    def __init__(self, config: VaceConfig, first: bool) -> None:
        super().__init__(config)
        if first:
            self.before_proj = nn.Linear(config.dim, config.dim)
        self.after_proj = nn.Linear(config.dim, config.dim)

    def add_hint(self, x: Tensor, control: Tensor, scale: float) -> Tensor:
        """x plus the hint, both [B, L, D]; without gradients x is overwritten."""

        def hint(_: Tensor, span: slice) -> Tensor:
            return self.after_proj(control[:, span]) * scale

        return add_spans(x, hint)


class WanVaceTransformer(WanTrunk):
    """Denoiser steered by control latents: predicts the velocity of x at timestep t."""

    def __init__(self, config: VaceConfig) -> None:
        super().__init__(config)
        self.config: VaceConfig = config
        self.vace_patch_embedding = PatchEmbedding(config.vace_dim, config.dim, config.patch)
        self.vace_blocks = nn.ModuleList(HintBlock(config, first=layer == 0) for layer in config.vace_layers)

    def prepare(
        self, *, text: Tensor, control: Tensor, grid: Grid, scale: float | Sequence[float] = 1.0
    ) -> VaceConditions:
        """Everything that does not depend on x or t.

        text [B, n, text_dim]; control [B, vace_dim, F, H, W]; grid: x.shape[2:]; scale: the weight of the hints, one
        for all or one for each of them. Raises ValueError where the sizes do not agree.
        """
        tokens, scales = self.token_grid(grid), self.hint_scales(scale)
        if tuple(control.shape[1:]) != (self.config.vace_dim, *grid):
            want = (self.config.vace_dim, *grid)
            raise ValueError(f"control latents have shape {tuple(control.shape[1:])}; this x needs {want}")
        first, *_ = blocks = list(cast(Iterable[HintBlock], self.vace_blocks))
        words = self.embed_text(text)
        return VaceConditions(
            latents=grid,
            grid=tokens,
            rope=rope_table(tokens, self.config.head_dim, text.device),
            contexts=tuple((b.cross_attn.text_context(words),) for b in cast(Iterable[Block], self.blocks)),
            control=first.before_proj(self.vace_patch_embedding(control)),
            hint_contexts=tuple((block.cross_attn.text_context(words),) for block in blocks),
            scales=scales,
        )

    def hint_scales(self, scale: float | Sequence[float]) -> tuple[float, ...]:
        """One weight per hint. Raises ValueError for another number of them."""
        hints = len(self.config.vace_layers)
        scales = tuple(scale) if isinstance(scale, Sequence) else (scale,) * hints
        if len(scales) != hints:
            raise ValueError(f"scale has {len(scales)} values; this model has {hints} hints")
        return scales

    def forward(self, x: Tensor, t: Tensor, cond: VaceConditions) -> Tensor:
        """x [B, in_dim, F, H, W], t [B] or [B, L] in 0..1000 -> velocity, float32 [B, out_dim, F, H, W]."""
        self.check(x, t, cond)
        x = self.patch_embedding(x)
        timestep = self.embed_time(t, x.shape[1])
        control = x + cond.control  # a stream of its own: blocks overwrite theirs
        second_row = iter(zip(self.vace_blocks, cond.hint_contexts, cond.scales, strict=True))
        for i, (block, context) in enumerate(zip(self.blocks, cond.contexts, strict=True)):
            x = block(x, timestep, context, cond.rope)
            if i in self.config.vace_layers:
                hint_block, hint_context, scale = next(second_row)
                control = hint_block(control, timestep, hint_context, cond.rope)
                x = cast(HintBlock, hint_block).add_hint(x, control, scale)
        return unpatchify(self.head(x, timestep), cond.grid, self.config.patch)
