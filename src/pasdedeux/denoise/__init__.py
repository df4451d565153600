"""Noise levels, and which expert owns them: the core of the program, on torch alone.

A run starts from noise, walks down a schedule of noise levels, and at each level asks the one expert that
owns it for a velocity; a solver turns velocities into the next latent. No models, no devices, nothing else of
ours is known here.

    experts = ExpertSet((Expert(high, "high noise"), Expert(low, "low noise")), Handoff((0.875,)))
    for step in run(experts, noise, schedule(40, shift=12), cond=prompt):
        print(step.i, step.expert, step.sigma)
    latent = step.x
"""

from pasdedeux.denoise.experts import Denoiser, Expert, ExpertSet, SharedDenoiser
from pasdedeux.denoise.guidance import guided
from pasdedeux.denoise.handoff import Handoff, Run
from pasdedeux.denoise.levels import (
    add_noise,
    log_snr,
    schedule,
    shift_sigma,
    sigma_from_log_snr,
    sigma_from_snr,
    snr,
    velocity_from_x0,
    x0_from_velocity,
)
from pasdedeux.denoise.solvers import SOLVERS, Solver, SolverState, initial_state
from pasdedeux.denoise.trajectory import Snapshot, Step, finish, run

__all__ = [
    "SOLVERS",
    "Denoiser",
    "Expert",
    "ExpertSet",
    "Handoff",
    "Run",
    "SharedDenoiser",
    "Snapshot",
    "Solver",
    "SolverState",
    "Step",
    "add_noise",
    "finish",
    "guided",
    "initial_state",
    "log_snr",
    "run",
    "schedule",
    "shift_sigma",
    "sigma_from_log_snr",
    "sigma_from_snr",
    "snr",
    "velocity_from_x0",
    "x0_from_velocity",
]
