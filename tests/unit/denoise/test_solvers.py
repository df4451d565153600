"""Solvers: on Gaussian data the flow is known exactly, so that each must converge to it at its own order."""

import math

import pytest
import torch
from torch import Tensor

from pasdedeux.denoise.levels import schedule
from pasdedeux.denoise.solvers import SOLVERS, initial_state

ORDERS = {"euler": 1, "dpm++": 2, "unipc": 2}
MEAN, SPREAD = 0.7, 0.5


# Data x_0 ~ N(m, s^2): x_sigma has mean alpha m and variance alpha^2 s^2 + sigma^2, and
#   E[x_0 | x_sigma] = m + alpha s^2 / (alpha^2 s^2 + sigma^2) (x_sigma - alpha m).
def gaussian_velocity(x: Tensor, sigma: float) -> Tensor:
    alpha = 1 - sigma
    gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
    x0 = MEAN + gain * (x - alpha * MEAN)
    return (x - x0) / sigma


# The flow keeps each sample's distance from the mean in standard deviations.
def gaussian_flow(z: Tensor, sigma: float) -> Tensor:
    alpha = 1 - sigma
    return alpha * MEAN + math.sqrt(alpha**2 * SPREAD**2 + sigma**2) * z


def solve(solver: str, x: Tensor, sigmas: tuple[float, ...]) -> Tensor:
    state = initial_state(solver)
    for i, sigma in enumerate(sigmas[:-1]):
        x, state = SOLVERS[solver](state, x, gaussian_velocity(x, sigma), sigmas, i)
    return x


def error(solver: str, sigmas: tuple[float, ...]) -> float:
    z = torch.tensor([-1.5, -0.3, 0.4, 2.0], dtype=torch.float64)
    reached = solve(solver, gaussian_flow(z, sigmas[0]), sigmas)
    return (reached - gaussian_flow(z, sigmas[-1])).abs().max().item()


def inner(steps: int) -> tuple[float, ...]:
    """Evenly from 0.9 to 0.25, far from both ends, where lambda is infinite."""
    return tuple(0.9 - 0.65 * i / steps for i in range(steps + 1))


@pytest.mark.parametrize("solver", SOLVERS)
def test_convergence_at_the_order_of_the_solver(solver):
    order = math.log2(error(solver, inner(128)) / error(solver, inner(256)))
    assert order == pytest.approx(ORDERS[solver], abs=0.05)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("shift", "start"), [(1.0, 1.0), (3.0, 0.999)])
def test_convergence_over_a_whole_schedule(solver, shift, start):
    # Extrapolating in lambda, infinite at both ends, costs a logarithm: order 2 is reached from below.
    order = math.log2(
        error(solver, schedule(512, shift, start=start)) / error(solver, schedule(1024, shift, start=start))
    )
    assert order == pytest.approx(ORDERS[solver], abs=0.3)


def test_the_corrector_earns_its_name():
    assert error("unipc", schedule(40)) < error("dpm++", schedule(40)) / 2 < error("euler", schedule(40)) / 4


def test_every_solver_is_tried():
    assert set(ORDERS) == set(SOLVERS)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_from_pure_noise_stay_finite(solver, steps):
    # lambda is infinite at both ends of this schedule.
    assert solve(solver, torch.ones(4), schedule(steps, 12.0)).isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_point_of_data_is_hit_from_anywhere(solver):
    # If x_0 is always predicted the same, every solver must land on it, whatever it extrapolates.
    x0, x = torch.tensor([0.3, -2.0]), torch.tensor([5.0, 1.0])
    sigmas, state = schedule(7, 5.0), initial_state(solver)
    for i, sigma in enumerate(sigmas[:-1]):
        x, state = SOLVERS[solver](state, x, (x - x0) / sigma, sigmas, i)
    torch.testing.assert_close(x, x0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_changes_nothing_it_was_given(solver):
    sigmas = schedule(6, 3.0, start=0.999)
    x, state = torch.ones(3), initial_state(solver)
    for i, sigma in enumerate(sigmas[:-1]):
        v = gaussian_velocity(x, sigma)
        given = [x, v, *state.x0s, *([] if state.sample is None else [state.sample])]
        copies = [tensor.clone() for tensor in given]
        x, state = SOLVERS[solver](state, x, v, sigmas, i)
        assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))


@pytest.mark.parametrize("solver", SOLVERS)
def test_bfloat16_velocities_are_summed_in_float32(solver):
    sigmas = schedule(4)
    x, state = torch.ones(3), initial_state(solver)
    for i in range(2):
        x, state = SOLVERS[solver](state, x, torch.ones(3, dtype=torch.bfloat16), sigmas, i)
    assert x.dtype == torch.float32
    assert all(x0.dtype == torch.float32 for x0 in state.x0s)


def test_an_unknown_solver_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r'"heun"; there are euler, dpm\+\+, unipc'):
        initial_state("heun")
