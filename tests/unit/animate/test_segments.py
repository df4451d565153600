"""Segments make each frame of the clip exactly once, whatever its length."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasdedeux.animate.segments import plan, reflect

lengths = st.integers(0, 25).map(lambda k: 1 + 4 * k)


@st.composite
def cases(draw) -> tuple[int, int, int]:
    length = draw(lengths)
    overlap = draw(st.sampled_from([0, *range(1, length, 4)]))
    return draw(st.integers(1, 400)), length, overlap


@given(cases())
def test_fresh_frames_tile_the_clip(case):
    frames, length, overlap = case
    segments = plan(frames, length, overlap)
    assert [frame for segment in segments for frame in segment.fresh] == list(range(frames))
    assert [segment.index for segment in segments] == list(range(len(segments)))


@given(cases())
def test_each_is_full_and_begins_with_the_end_of_the_one_before(case):
    frames, length, overlap = case
    segments = plan(frames, length, overlap)
    assert all(segment.length == length for segment in segments)
    assert all(segment.pad == 0 for segment in segments[:-1])
    for before, after in pairwise(segments):
        assert before.source_indices(frames)[length - overlap :] == after.source_indices(frames)[:overlap]
        assert len(after.fresh) > 0


@given(cases())
def test_padding_goes_back_and_forth_inside_the_clip(case):
    frames, length, overlap = case
    for segment in plan(frames, length, overlap):
        indices = segment.source_indices(frames)
        assert len(indices) == length
        assert indices[: segment.stop - segment.start] == list(range(segment.start, segment.stop))
        assert all(0 <= index < frames for index in indices)
        assert all(abs(a - b) == (frames > 1) for a, b in pairwise(indices))


def test_known_cases():
    assert [reflect(i, 3) for i in range(8)] == [0, 1, 2, 1, 0, 1, 2, 1]
    assert [len(plan(n, 77, 1)) for n in (1, 77, 78, 300, 900)] == [1, 1, 2, 4, 12]
    assert [len(plan(n, 77, 5)) for n in (77, 78, 300, 900, 1800)] == [1, 2, 5, 13, 25]
    assert plan(1, 5, 1)[0].source_indices(1) == [0] * 5


@pytest.mark.parametrize(("frames", "length", "overlap"), [(0, 77, 1), (9, 76, 1), (9, 77, 2), (9, 5, 5), (9, 5, -3)])
def test_what_cannot_be_planned(frames, length, overlap):
    with pytest.raises(ValueError, match=r"must be|at least one"):
        plan(frames, length, overlap)
