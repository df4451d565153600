"""The plan: which unit is loaded when, and whose place it takes, for a run whose uses are all known.

The device has places, each of which holds one unit at a time. A load for a use must be able to run while the block
before it computes, so its place has to be free by the end of the block before that. With `ahead` = a, places are free
a blocks early, which takes a + 1 of them.

What is optimal. Blocks share places of the size of the largest block. For that many places the number of loads is the
least there is: where a place is needed, the block goes whose next use is farthest (Belady 1966), those still protected
by `ahead` left out, which changes nothing in the exchange argument that proves it. Of those loads, the earliest takes
the place that is free first, so no other assignment of places lets any copy begin earlier (another set of as many loads
might).

What is not. Blocks of different sizes (two families, mixed quantisation) still take one full place each; packing them
by the byte could save loads, and the best packing is NP-hard. Where all units fit, they stay and take only what they
weigh. Trunks stay whenever they fit beside the least number of places; else they take turns in places of their own,
which costs a stall of about one trunk's copy where the model changes. More budget never gives more loads, but for one
thing: where it lets one more trunk stay, that is paid with places for blocks.

Fewest loads is not least time. The loads of the optimal plan come in a row, which is harmless while a block's copy
takes no longer than a block's turn. On a slower link (short clips, few blocks on the device) `spread` sets them apart,
for a few loads more; `simulate.fastest` tries both. `ahead` > 1 buys slack on a link whose speed varies, also for a few
loads more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .units import TRUNK, Move, Plan, Unit, Use

Sizes = Mapping[Unit, int]


@dataclass(frozen=True, slots=True)
class _Units:
    """A run's units by the way they are placed: trunks that cannot move, trunks that can, blocks."""

    fixed: tuple[Unit, ...]
    trunks: tuple[Unit, ...]
    blocks: tuple[Unit, ...]

    @property
    def all(self) -> tuple[Unit, ...]:
        return (*self.fixed, *self.trunks, *self.blocks)


def plan(uses: Sequence[Use], sizes: Sizes, budget: int, *, ahead: int = 1, spread: bool = False) -> Plan:
    """The loads and evictions that serve `uses` with at most `budget` bytes of weights on the device at any moment.

    `sizes` has the bytes of every unit; a trunk that is there but has no use of its own stays for the whole run.
    `spread` is for links too slow to copy a block in a block's turn: evenly spaced blocks of every model stay and the
    others pass through `ahead` + 1 places, so that loads do not come in a row. Raises ValueError where the budget is
    less than `least_budget`, or a size is missing.
    """
    units = _units(uses, sizes)
    if _total(units.all, sizes) <= budget:
        return Plan(tuple(uses), units.all, (), budget)
    least = least_budget(uses, sizes, ahead=ahead)
    if budget < least:
        raise ValueError(f"a budget of {budget:,} bytes holds too few weights; this run needs at least {least:,}")
    beside = _beside(units.blocks, sizes, ahead)
    turns, kept = _trunk_places(units, sizes, budget - beside)
    slots = (budget - kept) // _largest(units.blocks, sizes)
    passing = _passing(units.blocks, slots - ahead - 1) if spread else frozenset[Unit]()
    trunks, trunk_moves = _serve(uses, units.trunks, turns, ahead)
    blocks, block_moves = _serve(uses, units.blocks, slots, ahead, passing)
    moves = sorted((*trunk_moves, *block_moves), key=lambda move: move.before)
    return Plan(tuple(uses), (*units.fixed, *trunks, *blocks), tuple(moves), budget)


def least_budget(uses: Sequence[Use], sizes: Sizes, *, ahead: int = 1, all_trunks: bool = False) -> int:
    """The fewest bytes that `plan` can work with: `ahead` + 1 places for blocks, and the trunk of the model at work.

    With `all_trunks` no trunk moves, and so nothing stalls where the model changes either.
    """
    if ahead < 1:
        raise ValueError(f"copies cannot begin {ahead} blocks early; at least 1, so that they run beside the compute")
    units = _units(uses, sizes)
    trunks = _total(units.trunks, sizes) if all_trunks else _largest(units.trunks, sizes)
    least = _total(units.fixed, sizes) + trunks + _beside(units.blocks, sizes, ahead)
    return min(least, _total(units.all, sizes))


def place_bytes(plan: Plan, sizes: Sizes) -> tuple[int, ...]:
    """Bytes of every place: the largest unit that ever lies in it. Their sum is what a plan holds on the device.

    Places come in the order in which they are first taken: those of `plan.first`, then those of moves into free ones.
    """
    places = [sizes[unit] for unit in plan.first]
    where = {unit: place for place, unit in enumerate(plan.first)}
    for move in plan.moves:
        if move.evict is None:
            where[move.load] = len(places)
            places.append(sizes[move.load])
            continue
        place = where[move.load] = where.pop(move.evict)
        places[place] = max(places[place], sizes[move.load])
    return tuple(places)


def bytes_moved(plan: Plan, sizes: Sizes) -> int:
    """Bytes copied to the device in the whole run, the first fill included."""
    return _total(plan.first, sizes) + sum(sizes[move.load] for move in plan.moves)


def _units(uses: Sequence[Use], sizes: Sizes) -> _Units:
    if not uses:
        raise ValueError("there is nothing to plan: the run has no uses")
    used = dict.fromkeys(use.unit for use in uses)
    for unit in used:
        if sizes.get(unit, 0) <= 0:
            raise ValueError(
                f"{unit} is used but has a size of {sizes.get(unit)} bytes; it must be given, and positive"
            )
    models = {unit.model for unit in used}
    fixed = (u for u in sorted(sizes) if u.index == TRUNK and u.model in models and u not in used)
    trunks = (u for u in used if u.index == TRUNK)
    return _Units(tuple(fixed), tuple(trunks), tuple(u for u in used if u.index != TRUNK))


def _total(units: Sequence[Unit], sizes: Sizes) -> int:
    return sum(sizes[unit] for unit in units)


def _largest(units: Sequence[Unit], sizes: Sizes) -> int:
    return max((sizes[unit] for unit in units), default=0)


def _beside(blocks: Sequence[Unit], sizes: Sizes, ahead: int) -> int:
    """Bytes of the places without which blocks cannot be copied beside the compute."""
    return min(ahead + 1, len(blocks)) * _largest(blocks, sizes)


def _trunk_places(units: _Units, sizes: Sizes, room: int) -> tuple[int, int]:
    """How many trunks that can move are on the device at once, and what all trunks' places weigh together."""
    fixed = _total(units.fixed, sizes)
    if fixed + _total(units.trunks, sizes) <= room:
        return len(units.trunks), fixed + _total(units.trunks, sizes)
    largest = _largest(units.trunks, sizes)
    turns = (room - fixed) // largest
    return turns, fixed + turns * largest


def _serve(
    uses: Sequence[Use], units: Sequence[Unit], places: int, ahead: int, passing: frozenset[Unit] = frozenset()
) -> tuple[tuple[Unit, ...], tuple[Move, ...]]:
    """What of `units` is there at first, and the moves that serve their uses with so many places."""
    kinds = set(units)
    at = [i for i, use in enumerate(uses) if use.unit in kinds]
    order = [uses[i].unit for i in at]
    if places >= len(units):
        return tuple(units), ()
    first, loads, freed = _replaced(order, places, min(ahead, places - 1), passing)
    # The first load into the place that is free first: each copy may begin as early as the set of loads allows. Only
    # where the unit needed last went each time, for else a unit could be loaded again before its place is given away.
    places_free = freed if passing else sorted(freed)
    moves = (Move(order[load], order[free], at[load]) for load, free in zip(loads, places_free, strict=True))
    return tuple(first), tuple(moves)


def _replaced(
    order: Sequence[Unit], places: int, ahead: int, passing: frozenset[Unit]
) -> tuple[list[Unit], list[int], list[int]]:
    """Units of the first fill; positions in `order` that need a load; last uses before the evictions, one a load."""
    later = _later(order)
    used: dict[Unit, int] = {}  # what is there, and its last use
    first, loads, freed = [], [], []
    for i, unit in enumerate(order):
        if unit not in used and len(used) < places:
            first.append(unit)
        elif unit not in used:
            last = _evicted([last for last in used.values() if last < i - ahead], i, order, later, passing)
            del used[order[last]]
            loads.append(i)
            freed.append(last)
        used[unit] = i
    return first, loads, freed


def _evicted(
    lasts: Sequence[int], now: int, order: Sequence[Unit], later: Sequence[int], passing: frozenset[Unit]
) -> int:
    """Which of the units last used at `lasts` goes before position `now`, as the place that use leaves.

    The unit that is needed last; of those never needed again the one that is free first. Where some only pass
    through: first what is not needed before the loaded unit is needed again, then of those that pass the one that is
    free first.
    """
    farthest = max(lasts, key=lambda last: (later[last], -last))
    through = [last for last in lasts if order[last] in passing]
    return min(through) if through and later[farthest] < later[now] else farthest


def _passing(blocks: Sequence[Unit], stay: int) -> frozenset[Unit]:
    """Of every model's blocks those that do not stay where `stay` do, evenly spaced."""
    models = dict.fromkeys(block.model for block in blocks)
    depths = {model: sorted(block for block in blocks if block.model == model) for model in models}
    kept = {units[len(units) * i // stay] for units in depths.values() for i in range(min(stay, len(units)))}
    return frozenset(blocks) - kept


def _later(order: Sequence[Unit]) -> list[int]:
    """For each position the next one with the same unit; the end for a unit that does not come again."""
    later, seen = [len(order)] * len(order), dict[Unit, int]()
    for i in range(len(order) - 1, -1, -1):
        later[i] = seen.get(order[i], len(order))
        seen[order[i]] = i
    return later
