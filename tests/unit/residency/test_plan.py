from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pasdedeux.residency.plan import bytes_moved, least_budget, place_bytes, plan
from pasdedeux.residency.trace import Step, trace
from pasdedeux.residency.units import TRUNK, Plan, Unit, Use

steady = settings(deadline=None)

PAIR = trace([Step(0, 2)] * 3 + [Step(1)] * 2, [6, 6], segments=2)
SIZES = {Unit(m, i): 10 for m in (0, 1) for i in range(6)} | {Unit(m, TRUNK): 7 for m in (0, 1)}


def uses_of(order: Sequence[int]) -> tuple[Use, ...]:
    return tuple(Use(Unit(0, index), step) for step, index in enumerate(order))


def loads(made: Plan) -> int:
    return len(made.first) + len(made.moves)


def fewest_loads(order: tuple[int, ...], places: int, ahead: int) -> int:
    """By trying everything: at every miss any unit goes that none of the `ahead` uses before it has."""

    @cache
    def rest(i: int, here: frozenset[int]) -> int:
        if i == len(order):
            return 0
        if order[i] in here:
            return rest(i + 1, here)
        may_go = here - set(order[max(0, i - ahead) : i])
        ways = [rest(i + 1, here - {out} | {order[i]}) for out in may_go]
        if len(here) < places:
            ways.append(rest(i + 1, here | {order[i]}))
        return 1 + min(ways)

    return rest(0, frozenset())


def check(made: Plan, sizes: dict[Unit, int], ahead: int) -> None:
    """Every use finds its unit, nothing goes that is in use or about to be, and places never outweigh the budget."""
    here, last, moves = set(made.first), {}, list(made.moves)
    blocks = [i for i, use in enumerate(made.uses) if use.unit.index != TRUNK]
    for i, use in enumerate(made.uses):
        while moves and moves[0].before == i:
            move = moves.pop(0)
            assert move.load == use.unit
            assert move.load not in here
            here.remove(move.evict)
            if move.load.index != TRUNK:  # free `ahead` blocks before
                assert last[move.evict] <= blocks[blocks.index(i) - ahead - 1]
            here.add(move.load)
        assert use.unit in here
        last[use.unit] = i
        assert sum(sizes[unit] for unit in here) <= made.budget
    assert not moves
    assert sum(place_bytes(made, sizes)) <= made.budget


orders = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(orders, st.integers(2, 4), st.integers(1, 2))
def test_loads_are_as_few_as_trying_everything_finds(order: list[int], places: int, ahead: int) -> None:
    places = max(places, ahead + 1)
    made = plan(uses_of(order), {Unit(0, i): 1 for i in range(6)}, places, ahead=ahead)
    check(made, {Unit(0, i): 1 for i in range(6)}, ahead)
    assert loads(made) == fewest_loads(tuple(order), places, ahead)


@example([0, 1, 2, 3, 4, 2, 0, 1], 3)  # block 1 goes before block 0 does, which has been free for longer
@steady
@given(orders, st.integers(2, 5))
def test_no_other_assignment_of_places_frees_one_earlier(order: list[int], places: int) -> None:
    made = plan(uses_of(order), {Unit(0, i): 1 for i in range(6)}, places)
    freed = [max(j for j in range(move.before) if order[j] == move.evict.index) for move in made.moves if move.evict]
    assert freed == sorted(freed)


mixed = st.dictionaries(st.builds(Unit, st.integers(0, 1), st.integers(-1, 3)), st.integers(1, 9), min_size=10)
runs = st.lists(st.builds(Step, st.integers(0, 1), st.integers(1, 2)), min_size=1, max_size=5)


@steady
@given(runs, mixed, st.integers(0, 60), st.booleans(), st.integers(1, 2), st.integers(1, 2), st.booleans())
def test_units_of_any_size_stay_within_any_budget_that_is_enough(
    run: list[Step], sizes: dict[Unit, int], more: int, trunks: bool, segments: int, ahead: int, spread: bool
) -> None:
    uses = trace(run, [4, 4], segments, trunks=trunks)
    least = least_budget(uses, sizes, ahead=ahead)
    made = plan(uses, sizes, least + more, ahead=ahead, spread=spread)
    check(made, sizes, ahead)
    assert made == plan(uses, dict(reversed(sizes.items())), least + more, ahead=ahead, spread=spread)
    assert loads(made) >= loads(plan(uses, sizes, least + more))
    assert bytes_moved(made, sizes) >= sum(sizes[unit] for unit in {use.unit for use in uses})
    with pytest.raises(ValueError, match=f"at least {least}"):
        plan(uses, sizes, least - 1, ahead=ahead)


@steady
@given(runs, mixed, st.integers(0, 40), st.integers(1, 20))
def test_more_budget_never_gives_more_loads(run: list[Step], sizes: dict[Unit, int], extra: int, more: int) -> None:
    uses = trace(run, [4, 4])
    budget = least_budget(uses, sizes) + extra
    assert loads(plan(uses, sizes, budget + more)) <= loads(plan(uses, sizes, budget))


def test_a_trunk_without_uses_stays_from_first_to_last() -> None:
    made = plan(PAIR, SIZES, 2 * 7 + 2 * 10)
    assert made.first[:2] == (Unit(0, TRUNK), Unit(1, TRUNK))
    assert not [move for move in made.moves if TRUNK in (move.load.index, move.evict.index)]


def test_trunks_stay_where_they_fit_and_else_take_turns_where_the_model_changes() -> None:
    uses = trace([Step(0, 2)] * 3 + [Step(1)] * 2, [6, 6], segments=2, trunks=True)
    assert least_budget(uses, SIZES) == 7 + 20
    assert least_budget(uses, SIZES, all_trunks=True) == 14 + 20
    tight, roomy = plan(uses, SIZES, 27), plan(uses, SIZES, 34)
    assert len([move for move in tight.moves if move.load.index == TRUNK]) == 3  # 0 to 1, back, and to 1 again
    assert not [move for move in roomy.moves if move.load.index == TRUNK]


def test_what_all_fits_is_loaded_once_and_never_moves() -> None:
    made = plan(PAIR, SIZES, sum(SIZES.values()))
    assert set(made.first) == set(SIZES)
    assert made.moves == ()
    assert sum(place_bytes(made, SIZES)) == sum(SIZES.values())


def test_two_places_in_cyclic_order_load_every_block_every_time() -> None:
    made = plan(PAIR, SIZES, 34)
    assert loads(made) == 2 + len(PAIR)  # and the trunks
    assert bytes_moved(made, SIZES) == 14 + 10 * len(PAIR)


def test_spread_loads_come_evenly_and_the_blocks_between_them_stay() -> None:
    uses = trace([Step(0)] * 6, [12])
    made = plan(uses, {use.unit: 1 for use in uses}, 8, spread=True)  # 6 blocks stay, 6 pass through 2 places
    steady = [move for move in made.moves if 24 <= move.before < 60]
    assert {two.before - one.before for one, two in pairwise(steady)} == {2}
    assert not {move.load for move in steady} & {Unit(0, index) for index in range(0, 12, 2)}


def test_sizes_that_are_missing_and_runs_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="None"):
        plan(PAIR, {Unit(0, 0): 1}, 100)
    with pytest.raises(ValueError, match="no uses"):
        plan((), SIZES, 100)
    with pytest.raises(ValueError, match="0 blocks early"):
        plan(PAIR, SIZES, 50, ahead=0)
