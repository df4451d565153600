"""A model that is open, whatever its family: what an engine asks of it, and how one is opened by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import nn

from pasdedeux.animate.perform import Stage
from pasdedeux.denoise import ExpertSet
from pasdedeux.engine.events import OnEvent
from pasdedeux.engine.job import Job
from pasdedeux.engine.report import MemoryRecord
from pasdedeux.engine.settings import Defaults, Settings

BUILTIN = "builtin"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rehearsal:
    """A job that is ready to be performed: its settings and stage, the sound that belongs to it, and notes.

    encoded: whether its prompt had to be encoded for that.
    """

    settings: Settings
    stage: Stage
    audio: Path | None = None
    audio_start: float = 0.0
    notes: tuple[str, ...] = ()
    encoded: bool = False


class Performance(Protocol):
    """A context manager around one job's denoising: whatever weights it brought are given back at its end."""

    @property
    def experts(self) -> ExpertSet:
        """The experts with their bands and guidance."""
        ...

    def roomy(self, stage: Stage) -> Stage:
        """The stage, for which weights make room where it runs out of memory."""
        ...

    def record(self) -> MemoryRecord | None:
        """What was foretold of memory, and what came of it; None where nothing is."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Resident:
    """A performance by experts that are there already, and stay."""

    experts: ExpertSet

    def roomy(self, stage: Stage) -> Stage:
        """As it is."""
        return stage

    def record(self) -> MemoryRecord | None:
        """Nothing."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object, /) -> None:
        pass


class Model(Protocol):
    """An opened model. `total_parameters` are those of all experts, `active_parameters` those that run in one step."""

    @property
    def name(self) -> str:
        """What it was opened as."""
        ...

    @property
    def device(self) -> str:
        """Where it computes."""
        ...

    @property
    def defaults(self) -> Defaults:
        """What it does where a job says nothing."""
        ...

    @property
    def files(self) -> dict[str, str]:
        """What it is put together of, where its name does not say that."""
        ...

    @property
    def total_parameters(self) -> int:
        """Parameters of all experts together."""
        ...

    @property
    def active_parameters(self) -> int:
        """Parameters that run in one step: those of the largest expert."""
        ...

    def settle(self, job: Job) -> Settings:
        """The job's settings. Raises ValueError where the model cannot do the job."""
        ...

    def rehearse(self, job: Job, settings: Settings, tell: OnEvent) -> Rehearsal:
        """Read what the job names and draw its conditions. Raises ValueError where that fails."""
        ...

    def play(self, rehearsal: Rehearsal, tell: OnEvent) -> Performance:
        """The experts at work on what was rehearsed."""
        ...


def model_folder(name: str) -> Path:
    """Where a model's files are. Raises ValueError if `name` is neither "builtin" nor a folder."""
    if name == BUILTIN:
        return Path(__file__).parents[1] / BUILTIN
    if not Path(name).is_dir():
        raise ValueError(f'There is no model "{name}"; give "{BUILTIN}" or a folder that holds one.')
    return Path(name)


def default_device() -> str:
    """ "cuda" where torch finds one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def checked_device(name: str | None) -> str:
    """The same name, or the default for None. Raises ValueError if this machine has no such device."""
    name = name or default_device()
    there = ["cpu"]
    if torch.cuda.is_available():
        there += ["cuda", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if name not in there:
        raise ValueError(f'The device is "{name}"; on this machine it must be {" or ".join(there)}.')
    return name


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())
