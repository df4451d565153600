"""Noise levels: every equation against its inverse, its limits, and the numbers Wan is known by."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pasdedeux.denoise.levels import (
    add_noise,
    at_least_float32,
    checked_schedule,
    log_snr,
    schedule,
    shift_sigma,
    sigma_from_log_snr,
    sigma_from_snr,
    snr,
    velocity_from_x0,
    x0_from_velocity,
)

# A busy machine must not turn a test red.
steady = settings(deadline=None)
inside = st.floats(1e-6, 1 - 1e-6)
shifts = st.floats(0.05, 50)


@steady
@given(inside)
def test_sigma_comes_back_from_its_snr_and_log_snr(sigma):
    assert sigma_from_snr(snr(sigma)) == pytest.approx(sigma, rel=1e-9)
    assert sigma_from_log_snr(log_snr(sigma)) == pytest.approx(sigma, rel=1e-9)
    assert log_snr(sigma) == pytest.approx(math.log(snr(sigma)), abs=1e-9)


@steady
@given(inside, shifts)
def test_tensors_and_floats_agree(sigma, shift):
    tensor = torch.tensor([sigma], dtype=torch.float64)
    assert shift_sigma(tensor, shift).item() == pytest.approx(shift_sigma(sigma, shift), rel=1e-12)
    for function in (snr, log_snr):
        assert function(tensor).item() == pytest.approx(function(sigma), rel=1e-9, abs=1e-9)
    assert sigma_from_snr(snr(tensor)).item() == pytest.approx(sigma, rel=1e-9)
    assert sigma_from_log_snr(log_snr(tensor)).item() == pytest.approx(sigma, rel=1e-9)


def test_the_ends_are_limits_and_not_errors():
    assert (snr(0.0), snr(1.0)) == (math.inf, 0.0)
    assert (log_snr(0.0), log_snr(1.0)) == (math.inf, -math.inf)
    assert (sigma_from_snr(math.inf), sigma_from_snr(0.0)) == (0.0, 1.0)
    assert (sigma_from_log_snr(math.inf), sigma_from_log_snr(-math.inf)) == (0.0, 1.0)
    # Past what exp() can hold.
    assert (sigma_from_log_snr(1e4), sigma_from_log_snr(-1e4)) == (0.0, 1.0)


def test_wan_boundaries_as_log_snr():
    assert log_snr(0.875) == pytest.approx(-3.89, abs=5e-3)
    assert log_snr(0.9) == pytest.approx(-4.39, abs=5e-3)


@steady
@given(inside, shifts)
def test_the_shift_divides_the_snr_by_its_square(sigma, shift):
    assert snr(shift_sigma(sigma, shift)) == pytest.approx(snr(sigma) / shift**2, rel=1e-6)


@steady
@given(shifts)
def test_the_shift_keeps_the_ends(shift):
    assert (shift_sigma(0.0, shift), shift_sigma(1.0, shift)) == (0.0, 1.0)


@steady
@given(st.integers(1, 100), shifts, st.floats(0.5, 1.0))
def test_a_schedule_descends_from_its_start_to_zero(steps, shift, start):
    sigmas = schedule(steps, shift, start=start)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == shift_sigma(start, shift)
    assert sigmas[-1] == 0.0
    assert all(a > b for a, b in pairwise(sigmas))


def test_the_four_step_schedule_of_lightning():
    # Published timesteps of the 4-step I2V LoRA: 1000, 937.5, 833.3, 625.
    assert schedule(4, 5.0)[:-1] == pytest.approx((1.0, 0.9375, 0.8333333, 0.625))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((0,), "steps"),
        ((4, 0.0), "shift"),
        ((4, math.inf), "shift"),
        ((4, math.nan), "shift"),
        ((4, 1e30), "descend"),
    ],
)
def test_an_impossible_schedule_is_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        schedule(*arguments)


@pytest.mark.parametrize("start", [0.0, 1.1, math.nan])
def test_an_impossible_start_is_refused(start):
    with pytest.raises(ValueError, match="starts at"):
        schedule(4, start=start)


@steady
@given(st.integers(2, 100), shifts, st.floats(0.5, 1.0), st.floats(0.001, 0.4))
def test_a_schedule_may_end_anywhere_above_zero(steps, shift, start, end):
    sigmas = schedule(steps, shift, start=start, end=end)
    assert len(sigmas) == steps + 1
    assert (sigmas[0], sigmas[-1]) == (shift_sigma(start, shift), 0.0)
    assert sigmas[-2] == pytest.approx(shift_sigma(end, shift))
    assert schedule(steps, shift, start=start, end=start / steps) == pytest.approx(schedule(steps, shift, start=start))


@pytest.mark.parametrize("end", [0.0, 0.9, 1.0, math.nan])
def test_an_impossible_end_is_refused(end):
    with pytest.raises(ValueError, match="last step"):
        schedule(4, start=0.9, end=end)


@pytest.mark.parametrize("sigmas", [(), (0.5,), (0.5, 0.5), (0.1, 0.9), (1.2, 0.0), (0.5, -0.1), (1.0, math.nan, 0.0)])
def test_levels_that_make_no_schedule_are_refused(sigmas):
    with pytest.raises(ValueError, match="noise levels"):
        checked_schedule(sigmas)


@pytest.mark.parametrize("sigma", [0.3, torch.tensor([0.2, 0.9], dtype=torch.float64)])
def test_data_noise_and_velocity_give_each_other(sigma):
    x0, noise = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = add_noise(x0, noise, sigma)
    torch.testing.assert_close(x0_from_velocity(x, noise - x0, sigma), x0)
    torch.testing.assert_close(velocity_from_x0(x, x0, sigma), noise - x0)


def test_levels_per_sample_go_with_the_batch_axis():
    # Shape [2, 2]: broadcasting along the wrong axis would pass unseen but for the values.
    x = add_noise(torch.zeros(2, 2), torch.ones(2, 2), torch.tensor([0.25, 0.75]))
    assert x.tolist() == [[0.25, 0.25], [0.75, 0.75]]


def test_low_precision_is_widened_and_high_is_kept():
    assert at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert at_least_float32(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
