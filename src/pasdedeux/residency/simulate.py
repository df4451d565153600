"""A plan against a fake clock: one queue copies, one computes, and what each waits for is all there is to it.

No stall after the first fill, whatever the order of blocks, experts and segments, where no copy takes longer than any
block's turn: a load's place is free when the block before its own starts, and the copies before it are over by then.
With two places that is exact, copy by copy: nothing stalls if and only if no copy takes longer than the turn of the
block before its own. With more places and blocks in cyclic order it is exact where all copies and turns are alike and
more than one round is made: in the last round places come free that nothing needs again, so that a copy may be longer.
A trunk's own short turn is not counted on, unless the trunk itself has to move.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from .plan import place_bytes, plan
from .units import TRUNK, Move, Plan, Unit, Use


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` to `end`, in seconds since the first copy of the run began."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """When everything of a plan happens: `uses` and `copies` are in the order of the plan's uses and moves."""

    plan: Plan
    fill: float  # seconds of the first fill, which ends before the first use
    uses: tuple[Span, ...]
    copies: tuple[Span, ...]

    @property
    def total(self) -> float:
        """Seconds from the first copy to the end of the last use."""
        return self.uses[-1].end

    @property
    def waits(self) -> tuple[float, ...]:
        """Seconds each use waits for its unit after the use before it has ended."""
        before = (self.fill, *(use.end for use in self.uses[:-1]))
        return tuple(use.start - end for use, end in zip(self.uses, before, strict=True))

    @property
    def stalls(self) -> tuple[float, ...]:
        """Seconds each step waits for copies."""
        return self._by_step(self.waits)

    @property
    def steps(self) -> tuple[float, ...]:
        """Seconds each step takes, its stalls included."""
        spent = (use.end - use.start + wait for use, wait in zip(self.uses, self.waits, strict=True))
        return self._by_step(tuple(spent))

    @property
    def handoffs(self) -> tuple[int, ...]:
        """Places in `steps` of those that another model does than the one before."""
        models = list({use.step: use.unit.model for use in self.plan.uses}.values())
        return tuple(i for i in range(1, len(models)) if models[i] != models[i - 1])

    def _by_step(self, values: Sequence[float]) -> tuple[float, ...]:
        sums: dict[int, float] = {}
        for use, value in zip(self.plan.uses, values, strict=True):
            sums[use.step] = sums.get(use.step, 0) + value
        return tuple(sums.values())


def simulate(
    made: Plan,
    copy_seconds: Callable[[Unit], float],
    compute_seconds: Callable[[Use], float],
    *,
    early: bool = True,
) -> Timeline:
    """Carry out a plan: copies in the order of its moves, each as soon as the queue and its place are free.

    Without `early` a copy begins only when everything before the use that waits for it is over, as in a program that
    moves weights and computes by turns. Raises ValueError for a plan that cannot be carried out.
    """
    fill = sum(copy_seconds(unit) for unit in made.first)
    arrived: dict[Unit, float] = dict.fromkeys(made.first, fill)
    over: dict[Unit, float] = {}  # end of each unit's last use so far
    queue = clock = fill
    moves, uses, copies = list(reversed(made.moves)), list[Span](), list[Span]()
    for i, use in enumerate(made.uses):
        ready = clock
        while moves and moves[-1].before <= i:
            move = moves.pop()
            free = _place(move, arrived, over)
            start = max(queue, free if early else clock)
            ready = queue = arrived[move.load] = start + copy_seconds(move.load)
            copies.append(Span(start, queue))
        if use.unit not in arrived:
            raise ValueError(f"use {i} needs {use.unit}, which the plan has not loaded or has evicted by then")
        start = max(clock, ready, arrived[use.unit])
        clock = over[use.unit] = start + compute_seconds(use)
        uses.append(Span(start, clock))
    return Timeline(made, fill, tuple(uses), tuple(copies))


def fastest(
    uses: Sequence[Use],
    sizes: Mapping[Unit, int],
    budget: int,
    copy_seconds: Callable[[Unit], float],
    compute_seconds: Callable[[Use], float],
) -> Timeline:
    """The plan for a budget that takes least time on these clocks: the one with fewest loads, unless it stalls.

    Where it does, the one whose loads are spread is taken if it ends earlier. Neither is proven to be the best.
    """
    fewest = simulate(plan(uses, sizes, budget), copy_seconds, compute_seconds)
    if not any(fewest.waits):
        return fewest
    spread = simulate(plan(uses, sizes, budget, spread=True), copy_seconds, compute_seconds)
    return min(fewest, spread, key=lambda timeline: timeline.total)


def naive_swap(uses: Sequence[Use], sizes: Mapping[Unit, int]) -> Plan:
    """The plan of a program that holds one whole model, and changes it when the next one's turn has come.

    Such a program does nothing early: simulate it with early=False.
    """
    whole = {model: _model(model, uses, sizes) for model in dict.fromkeys(use.unit.model for use in uses)}
    now = uses[0].unit.model
    first, here, moves = whole[now], list(whole[now]), list[Move]()
    for i, use in enumerate(uses):
        if use.unit.model == now:
            continue
        now = use.unit.model
        loads = [unit for unit in whole[now] if unit not in here]
        # Largest into largest; of two models of different depth the larger one's rest stays where it is.
        old = [unit for unit in here if unit.model != now][: len(loads)]
        places = (*old, *(None for _ in range(len(loads) - len(old))))
        moves.extend(Move(load, evict, i) for load, evict in zip(loads, places, strict=True))
        here = [unit for unit in here if unit not in old] + loads
    swap = Plan(tuple(uses), first, tuple(moves), 0)
    return replace(swap, budget=sum(place_bytes(swap, sizes)))


def _place(move: Move, arrived: dict[Unit, float], over: dict[Unit, float]) -> float:
    """When the place of a move is free; its unit is gone from then on."""
    if move.evict is None:
        return 0.0
    if move.load in arrived:
        raise ValueError(f"a move before use {move.before} loads {move.load}, which is there already")
    if move.evict not in arrived:
        raise ValueError(f"a move before use {move.before} evicts {move.evict}, which is not there")
    # A unit may be evicted that was never used, as soon as its own copy is over.
    return max(arrived.pop(move.evict), over.get(move.evict, 0.0))


def _model(model: int, uses: Sequence[Use], sizes: Mapping[Unit, int]) -> tuple[Unit, ...]:
    """All units of a model, its trunk too, whether or not the trunk has uses of its own."""
    used = {use.unit for use in uses if use.unit.model == model}
    if Unit(model, TRUNK) in sizes:
        used.add(Unit(model, TRUNK))
    return tuple(sorted(used, key=lambda unit: (-sizes[unit], unit)))
