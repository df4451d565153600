"""What a run would do, in lines, before it does it: which layers, which noise levels, how much memory and work."""

from collections.abc import Iterator

from torch import nn

from pasdedeux.train.bands import Band
from pasdedeux.train.lora.run import Pupil, Run
from pasdedeux.train.lora.wan import WanSubject

STATE_BYTES = 20
"""For each trained value: itself, its average, its gradient, and two moments, float32."""


def plan_lines(run: Run) -> Iterator[str]:
    """A few lines for each expert, then the whole run's."""
    for pupil in run.pupils:
        yield from _pupil_lines(pupil)
    steps = [pupil.course.steps for pupil in run.pupils]
    turns = f"in turns of {run.sticky}" if len(steps) > 1 else "without turns"
    yield f"{sum(steps)} steps in all, {turns}; only the expert whose turn it is lies in memory"
    yield from memory_lines(run)


def _pupil_lines(pupil: Pupil) -> Iterator[str]:
    shape, band = pupil.course.shape, pupil.band
    yield (
        f"{pupil.name}: {len(pupil.branches)} layers ({shape.targets}), rank {shape.rank}, alpha {shape.alpha:g}: "
        f"{values(pupil):,} values to train"
    )
    yield f"  noise levels {band_range(band)} at shift {band.shift:g}, {band.mass:.1%} of a sampler's density"
    ends = f", stops early after {pupil.course.patience} checks without gain" if pupil.course.patience else ""
    yield f"  {pupil.course.steps} steps at learning rate {pupil.course.rate:g}{ends}"


def values(pupil: Pupil) -> int:
    """How many values are trained."""
    return sum(p.numel() for p in pupil.masters)


def band_range(band: Band) -> str:
    """A band as an interval."""
    return f"{band.low:g} <= sigma {'<=' if band.high == 1 else '<'} {band.high:g}"


def memory_lines(run: Run) -> Iterator[str]:
    """Bytes of the base, of what is trained, and of what is kept for the way back."""
    bases = []
    for pupil in run.pupils:
        bases.append(held(run.subject.open(pupil.position)))
    state = STATE_BYTES * sum(map(values, run.pupils))
    yield f"memory: {_mb(max(bases))} of frozen weights at a time, {_mb(state)} for what is trained"
    if isinstance(run.subject, WanSubject):
        tokens, kept = run.subject.tokens, activations(run.subject)
        how = "one block's at a time, computed again" if run.subject.checkpointing else "all kept"
        yield f"  and about {_mb(kept)} of activations for {tokens} tokens a step ({how})"


def held(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers, packed ones as they are packed."""
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


def activations(subject: WanSubject) -> int:
    """Bytes kept for the way back, roughly: the stream before each block, and all within one block (or within all).

    Within a block: six widths for self-attention, four for cross-attention, three and two inner widths for the feed-
    forward, most of them also in float32, which counts twice.
    """
    config, size = subject.bundle.experts[0].config, subject.dtype.itemsize
    block = subject.tokens * (13 * config.dim + 2 * config.ffn_dim) * (size + 4)
    stream = subject.tokens * config.dim * size * config.layers
    return stream + block if subject.checkpointing else block * config.layers


def _mb(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
