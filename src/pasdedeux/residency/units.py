"""The words of this room: the grain in which weights move, the order in which they are used, and a plan of moves.

A unit is one transformer block of one model, or a model's trunk (all that is no block: embeddings, head). A use is a
unit's turn to compute; `passes` is 2 where the guided and the unguided stream go through it while it is there. The
order of all uses of a run is known before the run begins, so a plan is made once and only carried out.
"""

from dataclasses import dataclass

TRUNK = -1


@dataclass(frozen=True, order=True, slots=True)
class Unit:
    """Block `index` of model `model`, or its trunk (index TRUNK)."""

    model: int
    index: int


@dataclass(frozen=True, slots=True)
class Use:
    """A unit computes, `passes` times in a row, in step `step` of the whole run (counted through all segments)."""

    unit: Unit
    step: int
    passes: int = 1


@dataclass(frozen=True, slots=True)
class Move:
    """Before use number `before` a copy of `load` may begin, into the place that `evict` leaves (None: a free one).

    It may begin as soon as the last use of `evict` is over, and has to end before use number `before` starts.
    """

    load: Unit
    evict: Unit | None
    before: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is loaded before the first use, and the moves in the order of the uses that wait for them."""

    uses: tuple[Use, ...]
    first: tuple[Unit, ...]
    moves: tuple[Move, ...]
    budget: int
