from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasdedeux.residency.trace import Step, steps_of, trace
from pasdedeux.residency.units import TRUNK, Unit, Use

steady = settings(deadline=None)


def test_a_pair_of_two_blocks_is_gone_through_in_order_and_a_guided_block_computes_twice() -> None:
    uses = trace([Step(0, passes=2), Step(1)], blocks=[2, 1])
    assert uses == (Use(Unit(0, 0), 0, 2), Use(Unit(0, 1), 0, 2), Use(Unit(1, 0), 1, 1))


def test_a_trunk_with_uses_begins_and_ends_every_round() -> None:
    uses = trace([Step(0)], blocks=[2], trunks=True)
    assert [use.unit.index for use in uses] == [TRUNK, 0, 1, TRUNK]
    assert trace([Step(0, rounds=2)], [1], trunks=True) == trace([Step(0)], [1], trunks=True) * 2


def test_steps_are_made_from_runs_and_each_experts_guidance() -> None:
    assert steps_of([(0, 2), (1, 1)], [3.5, 1.0]) == (Step(0, passes=2), Step(0, passes=2), Step(1))
    assert steps_of([(1, 1)], [1.0, 3.0], block_major=False) == (Step(1, rounds=2),)
    assert steps_of([(0, 0)], [1.0]) == ()


steps = st.builds(Step, st.integers(0, 1), st.integers(1, 2), st.integers(1, 2))


@steady
@given(st.lists(steps, max_size=4), st.integers(1, 3), st.integers(1, 3))
def test_segments_repeat_the_steps_and_go_on_counting(run: list[Step], depth: int, segments: int) -> None:
    uses = trace(run, [depth, depth + 1], segments)
    assert len(uses) == segments * sum(step.rounds * (depth + step.model) for step in run)
    assert [use.unit for use in uses] == [use.unit for use in trace(run, [depth, depth + 1])] * segments
    numbers = [use.step for use in uses]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(segments * len(run)))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: trace([Step(2)], [1, 1]), "names model 2, but there are 2"),
        (lambda: trace([Step(-1)], [1, 1]), "names model -1"),
        (lambda: trace([Step(0)], [0]), "0 blocks"),
        (lambda: trace([Step(0, passes=0)], [1]), "at least 1"),
        (lambda: trace([Step(0)], [1], segments=0), "0 segments"),
        (lambda: steps_of([(2, 1)], [1.0, 1.0]), "names expert 2"),
    ],
)
def test_what_cannot_be_run_is_refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
