"""Noise levels, solvers, and what each family is run with."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from clones import Torch32
from tiny import Row, randn, relative
from torch import Tensor

from pasdedeux.checkpoints.families import FAMILIES
from pasdedeux.denoise import Expert, ExpertSet, Handoff, finish, run, schedule

RUNS = ((12.0, 40), (5.0, 40), (5.0, 20), (5.0, 4))  # shift and steps; the last is a distilled LoRA's
LEVELS_BOUND = 1e-6  # their sigmas are float32
DOUBLE_BOUND = 1e-12
SINGLE_BOUND = 2e-5
FAMILY_KEYS = {"wan2.2-t2v-a14b": "t2v-A14B", "wan2.2-i2v-a14b": "i2v-A14B", "wan2.2-ti2v-5b": "ti2v-5B"}
FAMILY_KEYS |= {"wan2.2-animate-14b": "animate-14B"}


def rows(wan: SimpleNamespace) -> Iterator[Row]:
    """Sigmas, walks, owners, defaults."""
    for solver in ("unipc", "dpm++"):
        for shift, steps in RUNS:
            yield from solver_rows(wan, solver, shift, steps)
    yield from owner_rows(wan)
    yield from family_rows(wan)


def sigmas_of(solver: str, shift: float, steps: int) -> tuple[float, ...]:
    """Ours, as a job has them."""
    return schedule(steps, shift, start=0.999 if solver == "unipc" else 1.0)


def scheduler_of(wan: SimpleNamespace, solver: str, shift: float, steps: int) -> Any:
    """Theirs, set up as their pipelines do it."""
    if solver == "unipc":
        scheduler = wan.fm_solvers_unipc.FlowUniPCMultistepScheduler(1000, shift=1, use_dynamic_shifting=False)
        scheduler.set_timesteps(steps, device="cpu", shift=shift)
        return scheduler
    scheduler = wan.fm_solvers.FlowDPMSolverMultistepScheduler(1000, shift=1, use_dynamic_shifting=False)
    levels = wan.fm_solvers.get_sampling_sigmas(steps, shift)
    wan.fm_solvers.retrieve_timesteps(scheduler, device="cpu", sigmas=levels)
    return scheduler


def velocity(x: Tensor, sigma: float) -> Tensor:
    """Some smooth field that bends, and depends on the level."""
    return torch.sin(2 * x + 3 * sigma) + (x - torch.roll(x, 1, -1)) * (1 - sigma / 2)


def walk(scheduler: Any, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Their solver from noise to the end of the field."""
    for t, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        x = scheduler.step(velocity(x, sigma), t, x, return_dict=False)[0]
    return x


def our_walk(solver: str, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Ours. The levels are looked up, for a denoiser is told of them in float32."""
    exact = {torch.tensor(sigma, dtype=torch.float32).item(): sigma for sigma in sigmas}

    def denoiser(x: Tensor, sigma: Tensor, _: Any, /) -> Tensor:
        return velocity(x, exact[sigma.item()])

    expert = ExpertSet.single(Expert(denoiser, "field"))
    return finish(run(expert, x, sigmas, solver=solver, cond=None)).x


def solver_rows(wan: SimpleNamespace, solver: str, shift: float, steps: int) -> Iterator[Row]:
    """The levels; the walk over them as it is; and with both sides in float64, where only the formulas can differ."""
    what, sigmas = f"{solver}, shift {shift:g}, {steps} steps", sigmas_of(solver, shift, steps)
    theirs = scheduler_of(wan, solver, shift, steps)
    yield Row(
        what=f"{what}: sigmas",
        difference=relative(torch.tensor(sigmas, dtype=torch.float64), theirs.sigmas),
        bound=LEVELS_BOUND,
    )
    x = randn(1, 4, 3, 5, 5, seed=41)
    found = our_walk(solver, x, sigmas)
    yield Row(what=f"{what}: result", difference=relative(found, walk(theirs, x, sigmas)), bound=SINGLE_BOUND)
    fine = scheduler_of(wan, solver, shift, steps)
    fine.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    found = our_walk(solver, x.double(), sigmas)
    with mock.patch.object(wan.fm_solvers, "torch", Torch32(float32=torch.float64)):  # dpm++ rounds every sample to it
        wanted = walk(fine, x.double(), sigmas)
    yield Row(what=f"{what}: result in float64", difference=relative(found, wanted), bound=DOUBLE_BOUND)


def owner_rows(wan: SimpleNamespace) -> Iterator[Row]:
    """Which expert runs at each step: theirs by "timestep >= boundary * 1000" on timesteps cut to integers."""
    for key, shift, boundary in (("t2v", 12.0, 0.875), ("i2v", 5.0, 0.9)):
        config = wan.configs.WAN_CONFIGS[f"{key}-A14B"]
        different = abs(config.boundary - boundary)
        for solver in ("unipc", "dpm++"):
            for steps in range(2, 101):
                times = scheduler_of(wan, solver, shift, steps).timesteps
                theirs = [0 if t.item() >= config.boundary * 1000 else 1 for t in times]
                handoff = Handoff((boundary,))
                mine = [handoff.owner(sigma) for sigma in sigmas_of(solver, shift, steps)[:-1]]
                different += sum(a != b for a, b in zip(mine, theirs, strict=True))
        yield Row(what=f"{key}: steps with another expert, 2 to 100 steps, both solvers", difference=different, bound=0)


def family_rows(wan: SimpleNamespace) -> Iterator[Row]:
    """How many of a family's defaults are not theirs."""
    for name, key in FAMILY_KEYS.items():
        family, config = FAMILIES[name], wan.configs.WAN_CONFIGS[key]
        guidance = config.sample_guide_scale
        pairs = {
            "steps": (family.steps, config.sample_steps),
            "shift": (family.shift, config.sample_shift),
            "guidance": (family.guidance, tuple(reversed(guidance)) if isinstance(guidance, tuple) else (guidance,)),
            "bounds": (family.bounds, (config.boundary,) if "boundary" in config else ()),
            "frames": (family.frames, config.frame_num),
            "fps": (family.fps, config.sample_fps),
            "negative": (family.negative, config.sample_neg_prompt),
            "prompt": (family.prompt, config.get("prompt", "")),
            "sizes": (
                (family.config.dim, family.config.ffn_dim, family.config.heads, family.config.layers),
                (config.dim, config.ffn_dim, config.num_heads, config.num_layers),
            ),
        }
        other = [what for what, (mine, theirs) in pairs.items() if mine != theirs]
        named = f" ({', '.join(other)})" if other else ""
        yield Row(what=f"{name}: defaults that differ{named}", difference=len(other), bound=0)
