"""Our solvers against the schedulers of diffusers, on the same noise levels and a fixed nonlinear field."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pasdedeux.denoise.levels import schedule, shift_sigma
from pasdedeux.denoise.solvers import SOLVERS, initial_state

diffusers = pytest.importorskip("diffusers")

NOISE = torch.randn(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(1))
SCHEDULES = [(4, 5.0), (8, 12.0), (20, 5.0), (40, 12.0), (40, 1.0)]


def velocity(x: Tensor, sigma: float) -> Tensor:
    return torch.sin(2.5 * x + sigma) + x * (0.4 + sigma) - torch.tanh(x.roll(1, dims=-1))


def theirs(solver: str, sigmas: tuple[float, ...]):
    """A scheduler of diffusers set to these levels; with flow_shift 1, for they are shifted already."""
    levels = np.array(sigmas[:-1])
    if solver == "euler":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
        scheduler.set_timesteps(sigmas=levels)
    elif solver == "unipc":
        scheduler = diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=1.0,
            solver_order=2,
            solver_type="bh2",
        )
        scheduler.set_timesteps(sigmas=levels)
    else:
        scheduler = diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            solver_order=2,
            algorithm_type="dpmsolver++",
            solver_type="midpoint",
        )
        # It takes no levels of the caller's, so they are put in place of its own.
        scheduler.set_timesteps(len(levels))
        scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float32)
    return scheduler


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("steps", "shift"), SCHEDULES)
@pytest.mark.parametrize("start", [1.0, 0.999])
def test_every_step_agrees(solver, steps, shift, start):
    scheduler = theirs(solver, schedule(steps, shift, start=start))
    # Theirs are float32, and unipc lowers a first level of 1 by 1e-6: read back, so that both walk the same.
    sigmas = tuple(scheduler.sigmas.tolist())
    x = reference = NOISE
    state = initial_state(solver)
    worst, scale = 0.0, NOISE.abs().max().item()
    for i, sigma in enumerate(sigmas[:-1]):
        x, state = SOLVERS[solver](state, x, velocity(x, sigma), sigmas, i)
        reference = scheduler.step(velocity(reference, sigma), scheduler.timesteps[i], reference).prev_sample
        scale = max(scale, reference.abs().max().item())
        worst = max(worst, (x - reference).abs().max().item())
    assert not torch.equal(x, NOISE)
    assert worst <= 1e-5 * scale


@pytest.mark.parametrize(("steps", "shift"), [(50, 12.0), (50, 5.0), (4, 5.0), (1, 5.0)])
def test_the_levels_that_its_euler_chooses_itself(steps, shift):
    """It shifts twice: the least of the thousand levels first, then the even list that ends there."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    ours = schedule(steps, shift, end=shift_sigma(0.001, shift))
    assert ours == pytest.approx(scheduler.sigmas.tolist(), abs=2e-6)
