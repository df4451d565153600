from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasdedeux.residency.plan import least_budget, plan
from pasdedeux.residency.simulate import Timeline, fastest, naive_swap, simulate
from pasdedeux.residency.trace import Step, trace
from pasdedeux.residency.units import TRUNK, Move, Plan, Unit, Use

steady = settings(deadline=None)

DEPTHS = [5, 4]
SIZES = {Unit(m, i): 10 for m in (0, 1) for i in range(DEPTHS[m])}
TRUNKS = {Unit(m, TRUNK): 8 for m in (0, 1)}
runs = st.lists(st.builds(Step, st.integers(0, 1), st.integers(1, 2), st.integers(1, 2)), min_size=1, max_size=5)


def cycle(depth: int, rounds: int, places: int, ahead: int = 1) -> Plan:
    uses = trace([Step(0)] * rounds, [depth])
    return plan(uses, {use.unit: 1 for use in uses}, places, ahead=ahead)


def in_place(timeline: Timeline) -> list[tuple[Unit, Fraction, Fraction]]:
    """Every stay of a unit on the device: from the start of its copy to that of the copy into its place."""
    begun = {unit: Fraction(0) for unit in timeline.plan.first}
    stays = []
    for move, copy in zip(timeline.plan.moves, timeline.copies, strict=True):
        if move.evict is not None:
            stays.append((move.evict, begun.pop(move.evict), copy.start))
        begun[move.load] = copy.start
    return stays + [(unit, start, timeline.total) for unit, start in begun.items()]


@steady
@given(runs, st.integers(0, 60), st.data(), st.integers(1, 2), st.booleans(), st.booleans())
def test_at_every_moment_within_budget_and_whatever_computes_is_there(
    run: list[Step], more: int, data: st.DataObject, segments: int, trunks: bool, early: bool
) -> None:
    uses = trace(run, DEPTHS, segments, trunks=trunks)
    sizes = SIZES | TRUNKS
    made = plan(uses, sizes, least_budget(uses, sizes) + more)
    seconds = {unit: data.draw(st.fractions(0, 5, max_denominator=4)) for unit in sorted(sizes)}
    timeline = simulate(made, lambda u: seconds[u], lambda use: use.passes * seconds[use.unit] / 2 + 1, early=early)
    stays = in_place(timeline)
    for moment in {copy.start for copy in timeline.copies} | {use.start for use in timeline.uses}:
        assert sum(sizes[unit] for unit, start, end in stays if start <= moment < end) <= made.budget
    for use, span in zip(uses, timeline.uses, strict=True):
        arrival = [(start + seconds[unit], end) for unit, start, end in stays if unit == use.unit]
        # Loaded whole before it computes, and its place is not written to before it is done.
        assert any((start <= span.start or use.unit in made.first) and span.end <= end for start, end in arrival)
    assert all(one.end <= two.start for one, two in pairwise(timeline.uses))
    assert all(one.end <= two.start for one, two in pairwise(timeline.copies))
    assert timeline.fill + sum(timeline.steps) == timeline.total
    assert (
        sum(timeline.stalls)
        == sum(timeline.waits)
        == timeline.total - timeline.fill - sum(span.end - span.start for span in timeline.uses)
    )


@steady
@given(runs, st.integers(0, 80), st.data(), st.integers(1, 3), st.booleans())
def test_no_stall_while_no_copy_is_longer_than_any_blocks_turn_handoffs_and_segments_included(
    run: list[Step], more: int, data: st.DataObject, segments: int, trunks: bool
) -> None:
    uses = trace(run, DEPTHS, segments, trunks=trunks)
    sizes = SIZES | TRUNKS
    made = plan(uses, sizes, least_budget(uses, sizes, all_trunks=True) + more)
    turn = data.draw(st.floats(0.5, 4))
    copies = {unit: data.draw(st.floats(0, turn)) for unit in sorted(sizes)}

    def compute(use: Use) -> float:
        # A trunk's turn is short: what it takes must not be counted on.
        return 0.0 if use.unit.index == TRUNK else turn * use.passes

    timeline = simulate(made, copies.__getitem__, compute)
    assert timeline.waits == (0.0,) * len(uses)


@steady
@given(st.integers(2, 9), st.integers(2, 4), st.integers(2, 9), st.fractions(0, 3, max_denominator=8))
def test_in_cyclic_order_that_is_exact_for_any_number_of_places(
    depth: int, rounds: int, places: int, copy: Fraction
) -> None:
    timeline = simulate(cycle(depth, rounds, places), lambda _: copy, lambda _: Fraction(1))
    assert (sum(timeline.stalls) > 0) == (depth > places and copy > 1)


@steady
@given(st.integers(1, 3), st.integers(1, 5), st.integers(2, 4), st.fractions(0, 3, max_denominator=8))
def test_places_free_earlier_carry_a_run_of_loads_through_a_slower_link(
    ahead: int, deeper: int, rounds: int, copy: Fraction
) -> None:
    made = cycle(ahead + 1 + deeper, rounds, ahead + 1, ahead)
    timeline = simulate(made, lambda _: copy, lambda _: Fraction(1))
    in_a_row = len(made.moves)  # with ahead + 1 places every use is a load
    assert in_a_row == rounds * (ahead + 1 + deeper) - ahead - 1
    assert (sum(timeline.stalls) == 0) == (in_a_row * copy <= in_a_row + ahead - 1)


@steady
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=9, max_size=9))
def test_two_places_stall_exactly_where_a_copy_outlasts_the_block_before(times: list[tuple[int, int]]) -> None:
    made = cycle(3, 3, 2)
    copies = {move.before: times[move.before][0] for move in made.moves}
    order = iter([0, 0, *copies.values()])
    timeline = simulate(made, lambda _: next(order), lambda use: times[made.uses.index(use)][1])
    # use 3r + b of block b is step r's: unique, so that index finds it
    stalls = any(copy > times[before - 1][1] for before, copy in copies.items())
    assert (sum(timeline.stalls) > 0) == stalls


@steady
@given(runs, st.integers(0, 80), st.integers(1, 9))
def test_the_same_twice_and_early_copies_never_cost_time(run: list[Step], more: int, copy: int) -> None:
    uses = trace(run, DEPTHS, 2)
    made = plan(uses, SIZES, least_budget(uses, SIZES) + more)
    timeline = simulate(made, lambda _: copy, lambda use: 3 * use.passes)
    assert timeline == simulate(made, lambda _: copy, lambda use: 3 * use.passes)
    assert timeline.total <= simulate(made, lambda _: copy, lambda use: 3 * use.passes, early=False).total


def test_on_a_slow_link_spread_loads_end_the_stalls_that_loads_in_a_row_have() -> None:
    uses = trace([Step(0)] * 6, [12])
    sizes = {use.unit: 1 for use in uses}
    in_a_row = simulate(plan(uses, sizes, 8), lambda _: 2, lambda _: 1)
    quick = fastest(uses, sizes, 8, lambda _: 2, lambda _: 1)
    assert min(in_a_row.stalls[2:]) > 0
    assert quick.stalls[2:] == (0,) * 4
    assert quick.total < in_a_row.total
    assert len(quick.plan.moves) > len(in_a_row.plan.moves)


def test_on_a_quick_link_the_plan_with_fewest_loads_is_taken() -> None:
    uses = trace([Step(0)] * 6, [12])
    sizes = {use.unit: 1 for use in uses}
    assert fastest(uses, sizes, 8, lambda _: 1, lambda _: 1).plan == plan(uses, sizes, 8)


@steady
@given(runs, st.integers(0, 80), st.fractions(0, 9, max_denominator=4))
def test_the_fastest_is_never_slower_than_either(run: list[Step], more: int, copy: Fraction) -> None:
    uses = trace(run, DEPTHS, 2)
    budget = least_budget(uses, SIZES) + more
    quick = fastest(uses, SIZES, budget, lambda _: copy, lambda use: 2 * use.passes)
    for spread in (False, True):
        made = plan(uses, SIZES, budget, spread=spread)
        other = simulate(made, lambda _: copy, lambda use: 2 * use.passes)
        assert quick.total <= other.total or not any(quick.waits)


def test_a_naive_swap_stops_for_a_whole_model_where_ours_does_not() -> None:
    uses = trace([Step(0, 2)] * 3 + [Step(1)] * 2, [5, 5], segments=2)
    sizes = {Unit(m, i): 10 for m in (0, 1) for i in range(5)} | TRUNKS
    swap = naive_swap(uses, sizes)
    naive = simulate(swap, lambda u: sizes[u] / 10, lambda use: 1.5 * use.passes, early=False)
    ours = simulate(plan(uses, sizes, 36), lambda u: sizes[u] / 10, lambda use: 1.5 * use.passes)
    assert swap.budget == 58
    assert naive.handoffs == ours.handoffs == (3, 5, 8)
    assert [naive.stalls[i] for i in naive.handoffs] == pytest.approx([5.8] * 3)
    assert sum(naive.stalls) == pytest.approx(3 * 5.8)
    assert sum(ours.stalls) == 0


def test_a_naive_swap_between_models_of_different_depth_loads_all_that_is_missing() -> None:
    uses = trace([Step(0), Step(1), Step(0)], [2, 3])
    swap = naive_swap(uses, {use.unit: 1 for use in uses})
    assert [move.before for move in swap.moves] == [2, 2, 2, 5, 5]
    assert swap.budget == 3
    assert sum(simulate(swap, lambda _: 1, lambda _: 1, early=False).stalls) == 5


def test_a_plan_that_cannot_be_carried_out_says_where() -> None:
    uses = trace([Step(0)], [3])
    a, b, c = (use.unit for use in uses)
    for moves, says in (
        ((), "use 2 needs"),
        ((Move(c, c, 2),), "evicts .* not there"),
        ((Move(a, b, 2),), "there already"),
    ):
        with pytest.raises(ValueError, match=says):
            simulate(Plan(uses, (a, b), moves, 2), lambda _: 1, lambda _: 1)
