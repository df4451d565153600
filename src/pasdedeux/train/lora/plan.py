"""What a run would do, in lines, before it does it: which layers, which noise levels, how much memory and work."""

from collections.abc import Iterator, Sequence

from torch import nn

from pasdedeux.train.bands import Band
from pasdedeux.train.forecast import in_bytes
from pasdedeux.train.lora.learner import LoraLearner
from pasdedeux.train.lora.wan import WanSubject
from pasdedeux.train.together import Turns

STATE_BYTES = 20
"""For each trained value: itself, its average, its gradient, and two moments, float32."""


def plan_lines(learners: Sequence[LoraLearner], turns: Turns) -> Iterator[str]:
    """A few lines for each expert, then the whole run's."""
    for learner in learners:
        yield from _expert_lines(learner)
    steps = [learner.steps for learner in learners]
    together = min(len(turns.devices), len(learners))
    how = f"in turns of {turns.block}" if len(learners) > together else "without turns"
    where = ", ".join(turns.devices[:together])
    yield f"{sum(steps)} steps in all, {how}, on {where}; the weights of an expert that waits are not in memory"
    yield from memory_lines(learners, together)


def _expert_lines(learner: LoraLearner) -> Iterator[str]:
    course, band = learner.course, learner.band
    shape = course.shape
    yield (
        f"{learner.name}: {len(learner.branches)} layers ({shape.targets}), rank {shape.rank}, alpha {shape.alpha:g}: "
        f"{values(learner):,} values to train"
    )
    yield f"  noise levels {band_range(band)} at shift {band.shift:g}, {band.mass:.1%} of a sampler's density"
    ends = f", stops early after {course.patience} checks without gain" if course.patience else ""
    yield f"  {course.steps} steps at learning rate {course.rate:g}{ends}"


def values(learner: LoraLearner) -> int:
    """How many values are trained."""
    return sum(p.numel() for p in learner.masters)


def band_range(band: Band) -> str:
    """A band as an interval."""
    return f"{band.low:g} <= sigma {'<=' if band.high == 1 else '<'} {band.high:g}"


def memory_lines(learners: Sequence[LoraLearner], together: int) -> Iterator[str]:
    """Bytes of the bases that are there at once, of what is trained, and of what is kept for the way back."""
    bases, subject = sorted(map(base_bytes, learners)), learners[0].subject
    state = state_bytes(learners)
    room = subject.room if isinstance(subject, WanSubject) else None
    most, left = sum(bases[-together:]), None if room is None else together * room.device
    frozen = in_bytes(most) if left is None or left >= most else f"about {in_bytes(left)} of {in_bytes(most)}"
    yield f"memory: {frozen} of frozen weights at a time, {in_bytes(state)} for what is trained"
    if left is not None and left < most:
        yield "  the other blocks come when they are used, from the disk or what of host memory may be taken"
    if isinstance(subject, WanSubject):
        tokens, kept = subject.tokens, activations(subject)
        how = "one block's at a time, computed again" if subject.checkpointing else "all kept"
        yield f"  and about {in_bytes(kept)} of activations for {tokens} tokens a step ({how})"


def state_bytes(learners: Sequence[LoraLearner]) -> int:
    """Bytes of all that is trained, and of what belongs to it."""
    return STATE_BYTES * sum(map(values, learners))


def base_bytes(learner: LoraLearner) -> int:
    """Bytes of an expert's own weights."""
    with learner.subject.opened(learner.position, ()) as module:
        return held(module)


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
