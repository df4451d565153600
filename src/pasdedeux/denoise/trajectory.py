"""The one loop: a schedule becomes steps, steps become events, and any moment can be saved and resumed.

`run` is a generator, so whoever consumes it decides how long it goes on: show a preview and go on, break, or
give it a `stop` to ask. All that the rest of the run depends on is in the Snapshot each step carries; a run
resumed from one, also after a save and a load, also just at a handoff, gives the same bits as one that was
never interrupted.
"""

import json
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pasdedeux.denoise.experts import ExpertSet
from pasdedeux.denoise.guidance import guided
from pasdedeux.denoise.handoff import Run
from pasdedeux.denoise.levels import at_least_float32, checked_schedule, log_snr, x0_from_velocity
from pasdedeux.denoise.solvers import SOLVERS, SolverState, initial_state

# The key of our JSON in the safetensors header, whose metadata holds strings only.
HEADER = "pasdedeux.snapshot"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """A run between two steps: x [B, ...] (float32 or float64) at sigmas[i], steps i, i + 1, ... to be done.

    `meta` is free text for whoever saves it (prompt, seed, model); a resumed run hands it on.
    """

    x: Tensor
    i: int
    sigmas: tuple[float, ...]
    solver: SolverState
    meta: dict[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether x has arrived at the last noise level."""
        return self.i == len(self.sigmas) - 1

    def to(self, device: torch.device) -> "Snapshot":
        """The same moment on another device."""
        return replace(self, x=self.x.to(device), solver=self.solver.to(device))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file that `load` reads; the final name appears only once the file is whole."""
        path = Path(path)
        # Beside the target, for a rename is atomic only within one file system.
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            save_file(_tensors(self), partial, metadata={HEADER: _header(self)})
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Snapshot":
        """Read a file that `save` wrote, to host memory. Raises ValueError if it is something else."""
        try:
            with safe_open(path, framework="pt") as file:
                header = (file.metadata() or {}).get(HEADER)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file, so no run can be resumed from it") from error
        if header is None:
            raise ValueError(f"{path} holds tensors but no saved run; a snapshot is written by Snapshot.save")
        return _from_file(json.loads(header), tensors)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """What one step did. It holds tensors, so a consumer that keeps every step keeps every latent."""

    i: int
    of: int
    sigma: float
    sigma_next: float
    # At sigma, where the expert ran: -inf from pure noise.
    log_snr: float
    expert: str
    expert_index: int
    # True in the first step of an expert that is not the one of the step before.
    handoff: bool
    # On the host's clock, residence included; work that a device still has queued is not waited for.
    seconds: float
    # The clean data as predicted in this step [B, ...]: what a preview shows.
    x0: Tensor
    # The run after this step.
    snapshot: Snapshot

    @property
    def x(self) -> Tensor:
        """The latent at sigma_next; the result, if this is the last step."""
        return self.snapshot.x


def run(
    experts: ExpertSet,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    solver: str = "unipc",
    cond: Any,
    uncond: Any | None = None,
    start: Snapshot | None = None,
    stop: Callable[[], bool] | None = None,
) -> Generator[Step, None, Snapshot]:
    """Denoise x [B, ...] from sigmas[0] to sigmas[-1], yielding every Step and returning the last Snapshot.

    With `start`, goes on from there on x's device; x must be of its shape, and sigmas and solver those it was
    made with. `stop` is asked before every step. Each run of consecutive steps takes place inside its
    expert's residence, which is left on any way out: the end, an error, a stop, or the generator being closed
    (which `break` does in a for loop that holds the only reference to it; otherwise use contextlib.closing).
    Raises ValueError at the call, before anything is computed, if the arguments do not fit.
    """
    # Not itself a generator, so that arguments are judged where they were given and not at the first step.
    begin = _begin(x, sigmas, solver) if start is None else _resumed(start, x, sigmas, solver)
    return _steps(experts, begin, cond, uncond, stop or (lambda: False))


def finish(steps: Generator[Step, None, Snapshot], watch: Callable[[Step], None] | None = None) -> Snapshot:
    """Take a run to its end (or its stop), showing each Step to `watch`, and give back its last Snapshot."""
    # By hand, for a generator's return value travels in StopIteration, which a for loop would swallow.
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            if watch is not None:
                watch(step)


def _begin(x: Tensor, sigmas: Sequence[float], solver: str) -> Snapshot:
    """The moment before the first step."""
    if x.ndim == 0:
        raise ValueError("the latent to denoise is a single number; it needs a batch axis first, [B, ...]")
    levels = checked_schedule(sigmas)
    return Snapshot(x=at_least_float32(x), i=0, sigmas=levels, solver=initial_state(solver))


def _resumed(start: Snapshot, x: Tensor, sigmas: Sequence[float], solver: str) -> Snapshot:
    """The saved moment on x's device, if it belongs to the run that was asked for."""
    # Going on under another schedule or solver would run, and end in a picture nobody asked for.
    if start.sigmas != tuple(float(sigma) for sigma in sigmas):
        raise ValueError(
            f"the saved run has another schedule, of {len(start.sigmas) - 1} steps; resume it with its own"
        )
    if start.solver.name != solver:
        raise ValueError(f'the saved run used the solver "{start.solver.name}"; it cannot go on with "{solver}"')
    if start.x.shape != x.shape:
        raise ValueError(f"the saved latent is {tuple(start.x.shape)}; this run's is {tuple(x.shape)}")
    return start.to(x.device)


def _steps(
    experts: ExpertSet, now: Snapshot, cond: Any, uncond: Any | None, stop: Callable[[], bool]
) -> Generator[Step, None, Snapshot]:
    if stop():
        return now
    for stretch in experts.handoff.runs(now.sigmas):
        # Already done, in the run that was saved. Runs tile the schedule, so the next holds step now.i.
        if stretch.stop <= now.i:
            continue
        # Started before the residence, so that the cost of a handoff shows in the step that pays it.
        clock = perf_counter()
        with experts.experts[stretch.expert].residence():
            while now.i < stretch.stop:
                step = _advance(experts, stretch, now, (cond, uncond), clock)
                now = step.snapshot
                yield step
                # Before the next step, and before the next expert is fetched for nothing.
                if stop():
                    return now
                clock = perf_counter()
    return now


# no_grad here and not around the loop: a generator's context would leak into its consumer between steps.
@torch.no_grad()
def _advance(experts: ExpertSet, stretch: Run, now: Snapshot, conds: tuple[Any, Any | None], clock: float) -> Step:
    """One step: the owner's velocity, guided by the owner's scale, through the solver."""
    expert, i, sigma = experts.experts[stretch.expert], now.i, now.sigmas[now.i]
    levels = torch.full(now.x.shape[:1], sigma, dtype=torch.float32, device=now.x.device)
    v = guided(expert.denoiser, now.x, levels, *conds, expert.guidance)
    # Broadcasting would hide a wrong shape and go on with nonsense.
    if v.shape != now.x.shape:
        raise ValueError(f"expert {expert.name} gave a velocity {tuple(v.shape)} for a latent {tuple(now.x.shape)}")
    x_next, state = SOLVERS[now.solver.name](now.solver, now.x, v, now.sigmas, i)
    return Step(
        i=i,
        of=len(now.sigmas) - 1,
        sigma=sigma,
        sigma_next=now.sigmas[i + 1],
        log_snr=log_snr(sigma),
        expert=expert.name,
        expert_index=stretch.expert,
        # Told from the schedule, not from memory, so that a resumed run says the same.
        handoff=i == stretch.start and i > 0,
        seconds=perf_counter() - clock,
        x0=x0_from_velocity(now.x, v, sigma),
        snapshot=replace(now, x=x_next, i=i + 1, solver=state),
    )


def _tensors(snapshot: Snapshot) -> dict[str, Tensor]:
    state = snapshot.solver
    named = {"x": snapshot.x, **{f"x0s.{k}": x0 for k, x0 in enumerate(state.x0s)}}
    if state.sample is not None:
        named["sample"] = state.sample
    # Each its own memory: safetensors refuses tensors that share any.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}


def _header(snapshot: Snapshot) -> str:
    # JSON writes as many digits as it takes to read the same float back, so the schedule survives exactly.
    state = {"name": snapshot.solver.name, "order": snapshot.solver.order}
    return json.dumps({"i": snapshot.i, "sigmas": snapshot.sigmas, "solver": state, "meta": snapshot.meta})


def _from_file(header: dict[str, Any], tensors: dict[str, Tensor]) -> Snapshot:
    kept = sorted(name for name in tensors if name.startswith("x0s."))
    state = replace(
        initial_state(header["solver"]["name"]),
        x0s=tuple(tensors[name] for name in kept),
        sample=tensors.get("sample"),
        order=header["solver"]["order"],
    )
    sigmas = tuple(header["sigmas"])
    return Snapshot(x=tensors["x"], i=header["i"], sigmas=sigmas, solver=state, meta=header["meta"])
