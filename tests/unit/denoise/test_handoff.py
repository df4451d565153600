"""Handoffs: every noise level has one owner, bands tile, runs tile, and Wan's own step counts come out."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasdedeux.denoise.handoff import Handoff, Run
from pasdedeux.denoise.levels import schedule, snr

# A busy machine must not turn a test red.
steady = settings(deadline=None)
EXPERTS = (1, 2, 3, 5)


@st.composite
def handoffs(draw: st.DrawFn) -> Handoff:
    count = draw(st.sampled_from(EXPERTS)) - 1
    bounds = draw(st.lists(st.floats(0.01, 0.99), min_size=count, max_size=count, unique=True))
    return Handoff(tuple(sorted(bounds, reverse=True)))


@steady
@given(handoffs(), st.floats(0, 1))
def test_each_sigma_lies_in_the_band_of_its_owner_and_in_no_other(handoff, sigma):
    def holds(k: int) -> bool:
        low, high = handoff.band(k)
        return low <= sigma < high or (k == 0 and sigma == 1)

    assert [k for k in range(handoff.experts) if holds(k)] == [handoff.owner(sigma)]


@steady
@given(handoffs())
def test_bands_tile_from_noise_to_clean(handoff):
    bands = [handoff.band(k) for k in range(handoff.experts)]
    assert bands[0][1] == 1.0
    assert bands[-1][0] == 0.0
    assert all(noisier[0] == cleaner[1] for noisier, cleaner in pairwise(bands))
    assert all(low < high for low, high in bands)


@steady
@given(handoffs())
def test_the_noisier_side_owns_the_bound_itself(handoff):
    for k, bound in enumerate(handoff.bounds):
        assert handoff.owner(bound) == k
        assert handoff.owner(math.nextafter(bound, 0)) == k + 1


@steady
@given(handoffs(), st.integers(1, 60), st.floats(0.1, 20), st.sampled_from([1.0, 0.999]))
def test_runs_tile_the_schedule_and_name_the_owner_of_each_step(handoff, steps, shift, start):
    sigmas = schedule(steps, shift, start=start)
    runs = handoff.runs(sigmas)
    assert [i for run in runs for i in range(run.start, run.stop)] == list(range(steps))
    assert all(handoff.owner(sigmas[i]) == run.expert for run in runs for i in range(run.start, run.stop))
    # No expert comes twice, so a handoff is for good.
    assert len({run.expert for run in runs}) == len(runs)
    assert sum(run.steps for run in runs) == steps


@pytest.mark.parametrize("start", [1.0, 0.999])
@pytest.mark.parametrize(
    ("shift", "steps", "bound", "high"),
    [
        (12, 40, 0.875, 26),
        (5, 40, 0.9, 15),
        (12, 20, 0.875, 13),
        (5, 20, 0.9, 8),
        (5, 8, 0.9, 3),
        (5, 4, 0.9, 2),
        (12, 8, 0.875, 6),
        (12, 4, 0.875, 3),
    ],
)
def test_step_counts_of_the_reference(shift, steps, bound, high, start):
    runs = Handoff((bound,)).runs(schedule(steps, shift, start=start))
    assert runs == (Run(expert=0, start=0, stop=high), Run(expert=1, start=high, stop=steps))


@pytest.mark.parametrize(("bound", "start", "high"), [(0.9, 0.999, 10), (0.9, 1.0, 11), (0.875, 0.999, 12)])
def test_counts_that_depend_on_where_the_schedule_starts(bound, start, high):
    assert Handoff((bound,)).runs(schedule(40, 3, start=start))[0].steps == high


def test_a_step_that_falls_exactly_on_the_bound_is_the_noisier_experts():
    sigmas = schedule(40, 3)
    assert sigmas[12] == 0.875
    assert Handoff((0.875,)).runs(sigmas)[0].steps == 13


def test_an_expert_without_a_step_has_no_run():
    assert Handoff((0.9, 0.89)).runs((1.0, 0.5, 0.0)) == (
        Run(expert=0, start=0, stop=1),
        Run(expert=2, start=1, stop=2),
    )


@steady
@given(st.floats(0.001, 0.999))
def test_a_bound_given_as_snr_is_the_same_bound(sigma):
    assert Handoff.from_snr(snr(sigma)).bounds == pytest.approx((sigma,), rel=1e-9)


def test_several_snrs_ascend():
    assert Handoff.from_snr(0.01, 1.0).bounds == pytest.approx((1 / 1.1, 0.5))
    with pytest.raises(ValueError, match="descend"):
        Handoff.from_snr(1.0, 0.01)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_snr_is_refused(value):
    with pytest.raises(ValueError, match="SNR"):
        Handoff.from_snr(value)


@pytest.mark.parametrize("bounds", [(0.0,), (1.0,), (math.nan,), (0.5, 0.5), (0.3, 0.6)])
def test_impossible_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match="handoff at sigma"):
        Handoff(bounds)


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("auto", (0.9,)),
        (" AUTO ", (0.9,)),
        ("0.875", (0.875,)),
        ("snr:0.02", (1 / (1 + math.sqrt(0.02)),)),
        ("SNR:1", (0.5,)),
        ("0.9, 0.5", (0.9, 0.5)),
        ("0.9,snr:1", (0.9, 0.5)),
        ("snr:0.02,snr:1", (1 / (1 + math.sqrt(0.02)), 0.5)),
    ],
)
def test_what_a_user_may_write(text, bounds):
    assert Handoff.parse(text, Handoff((0.9,))).bounds == pytest.approx(bounds)


@pytest.mark.parametrize("text", ["", "high", "1", "0", "0.5,0.9", "snr:", "snr:-1", "snr:0", "nan", "0.9,,0.5"])
def test_what_a_user_may_not_write_is_told_in_one_line(text):
    with pytest.raises(ValueError, match=r"is not understood: write auto, a sigma") as raised:
        Handoff.parse(text, Handoff())
    assert f'"{text}"' in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("sigma", [-0.1, 1.1, math.nan])
def test_a_level_outside_the_flow_has_no_owner(sigma):
    with pytest.raises(ValueError, match="no owner"):
        Handoff((0.5,)).owner(sigma)


@pytest.mark.parametrize("k", [-1, 2])
def test_there_is_no_band_past_the_last(k):
    with pytest.raises(IndexError, match="counted from 0"):
        Handoff((0.5,)).band(k)
