"""The order in which a run uses weights: known before the run begins, whole and exact.

A guided step goes through the blocks once, each computing the guided and the unguided stream while it is there
(passes = 2). Where guidance is two forward passes one after the other, the step has two rounds of one pass instead,
and every block is needed twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .units import TRUNK, Unit, Use


@dataclass(frozen=True, slots=True)
class Step:
    """A denoising step of model `model`: `rounds` times through its blocks, each computing `passes` times in a row."""

    model: int
    passes: int = 1
    rounds: int = 1


def steps_of(
    runs: Iterable[tuple[int, int]], guidance: Sequence[float], *, block_major: bool = True
) -> tuple[Step, ...]:
    """Steps of a schedule given as (expert, number of steps), with every expert's guidance scale; 1 is none.

    Without an unguided condition there is no second stream, whatever the scale: give 1. With `block_major` both
    streams share one turn of each block, else they go through all blocks one after the other.
    """
    return tuple(step for expert, count in runs for step in (_step(expert, guidance, block_major),) * count)


def trace(steps: Sequence[Step], blocks: Sequence[int], segments: int = 1, *, trunks: bool = False) -> tuple[Use, ...]:
    """All uses of `segments` segments of the same steps; blocks[m] is how many blocks model m has.

    With `trunks` a round also begins and ends with its model's trunk (embeddings, head). That is for trunks that
    take turns on the device; one that always stays is in nobody's way and needs no uses. Steps are counted through
    all segments. Raises ValueError for a step of a model that is not there.
    """
    if segments < 1:
        raise ValueError(f"a run of {segments} segments has nothing to do; it needs at least 1")
    for step in steps:
        _check(step, blocks)
    return tuple(use for i, step in enumerate(tuple(steps) * segments) for use in _uses(step, i, blocks, trunks))


@dataclass(frozen=True, slots=True)
class Way:
    """A block's turn in a pass with or without gradients; back: it is computed again, for the backward pass."""

    use: Use
    back: bool = False


def passes_of(passes: Iterable[bool], blocks: int) -> tuple[Way, ...]:
    """All turns of model 0's blocks in passes of which each has gradients (True) or none.

    Gradients come back through the blocks from the last to the first, and each has to be there once more for its own.
    Raises ValueError where there are no blocks.
    """
    if blocks < 1:
        raise ValueError(f"a model of {blocks} blocks has no turns; it needs at least 1")
    return tuple(way for step, graded in enumerate(passes) for way in _ways(step, blocks, graded))


def _ways(step: int, blocks: int, graded: bool) -> Iterator[Way]:
    yield from (Way(Use(Unit(0, index), step)) for index in range(blocks))
    if graded:
        yield from (Way(Use(Unit(0, index), step), back=True) for index in reversed(range(blocks)))


def _step(expert: int, guidance: Sequence[float], block_major: bool) -> Step:
    if not 0 <= expert < len(guidance):
        raise ValueError(f"a run names expert {expert}, but there are guidance scales for {len(guidance)}")
    streams = 1 if guidance[expert] == 1 else 2
    return Step(expert, passes=streams) if block_major else Step(expert, rounds=streams)


def _check(step: Step, blocks: Sequence[int]) -> None:
    if not 0 <= step.model < len(blocks):
        raise ValueError(f"a step names model {step.model}, but there are {len(blocks)} models, counted from 0")
    if min(step.passes, step.rounds, blocks[step.model]) < 1:
        raise ValueError(f"{step} of a model with {blocks[step.model]} blocks has no work; each must be at least 1")


def _uses(step: Step, number: int, blocks: Sequence[int], trunks: bool) -> Iterator[Use]:
    trunk = [TRUNK] if trunks else []
    for _ in range(step.rounds):
        for index in (*trunk, *range(blocks[step.model]), *trunk):
            yield Use(Unit(step.model, index), number, step.passes)
