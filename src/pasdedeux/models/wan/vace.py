"""VACE: the text-to-video transformer steered by control latents, in native weight names.

A second, sparser row of blocks reads the control; what each of its blocks makes, the hint, is added to the stream
after the block of the first row that it belongs to. The second row starts from the control *and* x, so it runs at
every step; it sees nothing of what the first row does later, so each hint is made just when it is needed.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .config import VaceConfig
from .layers import Block, PatchEmbedding, Timestep, rope_table, unpatchify
from .spans import add_spans
from .transformer import Grid, WanConditions, WanTrunk


@dataclass(frozen=True, kw_only=True, slots=True)
class VaceConditions(WanConditions):
    """What a segment's steps share, the control included.

    control: its tokens [B, L, D]; scales: the weight of each hint.
    """

    control: Tensor
    scales: tuple[float, ...]


class HintBlock(Block):
    """A block of the second row, with the projection that makes its hint; the first also lets the control in, which it
    does at every step: 0.06 % of a step's work, for as much memory as a stream of tokens takes."""

    def __init__(self, config: VaceConfig, first: bool) -> None:
        super().__init__(config)
        if first:
            self.before_proj = nn.Linear(config.dim, config.dim)
        self.after_proj = nn.Linear(config.dim, config.dim)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] -- it has two streams
        self, control: Tensor, x: Tensor, timestep: Timestep, cond: VaceConditions, scale: float
    ) -> tuple[Tensor, Tensor]:
        """The second row's stream a block further, and x with its hint, both [B, L, D].

        That stream begins as x does, before the first row. Without gradients both are overwritten.
        """
        if hasattr(self, "before_proj"):
            control = control + self.before_proj(cond.control)
        control = super().forward(control, timestep, cond.contexts, cond.rope)

        def hint(_: Tensor, span: slice) -> Tensor:
            return self.after_proj(control[:, span]) * scale

        return control, add_spans(x, hint)


class WanVaceTransformer(WanTrunk):
    """Denoiser steered by control latents: predicts the velocity of x at timestep t."""

    def __init__(self, config: VaceConfig) -> None:
        super().__init__(config)
        self.config: VaceConfig = config
        self.vace_patch_embedding = PatchEmbedding(config.vace_dim, config.dim, config.patch)
        self.vace_blocks = nn.ModuleList(HintBlock(config, first=layer == 0) for layer in config.vace_layers)

    @property
    def turns(self) -> Sequence[nn.Module]:
        """See `WanTrunk`: a block of the second row comes after the one that it gives a hint to."""
        hints = dict(zip(self.config.vace_layers, self.vace_blocks, strict=True))
        return tuple(turn for i, block in enumerate(self.blocks) for turn in (block, hints.get(i)) if turn is not None)

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
        return VaceConditions(
            latents=grid,
            grid=tokens,
            rope=rope_table(tokens, self.config.head_dim, text.device),
            contexts=self.contexts(text),
            control=self.vace_patch_embedding(control),
            scales=scales,
        )

    def hint_scales(self, scale: float | Sequence[float]) -> tuple[float, ...]:
        """One weight per hint. Raises ValueError for another number of them."""
        hints = len(self.config.vace_layers)
        scales = tuple(scale) if isinstance(scale, Sequence) else (scale,) * hints
        if len(scales) != hints:
            raise ValueError(f"scale has {len(scales)} values; this model has {hints} hints")
        return scales

    def walk(self, x: Tensor, t: Tensor, cond: VaceConditions) -> Generator[None, None, Tensor]:
        """See `WanTrunk`; a block of the second row has its own turn, after the one that it gives a hint to."""
        self.check(x, t, cond)
        x = self.patch_embedding(x)
        timestep = self.embed_time(t, x.shape[1])
        control = x.clone()  # a stream of its own: blocks overwrite theirs
        second_row = iter(zip(self.vace_blocks, cond.scales, strict=True))
        for i, block in enumerate(self.blocks):
            x = block(x, timestep, cond.contexts, cond.rope)
            yield
            if i in self.config.vace_layers:
                hint_block, scale = next(second_row)
                control, x = hint_block(control, x, timestep, cond, scale)
                yield
        return unpatchify(self.head(x, timestep), cond.grid, self.config.patch)
