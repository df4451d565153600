"""What was done: every step's noise level and expert, seconds by stage, peak bytes. JSON both ways."""

import json
import math
import platform
import resource
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from pasdedeux import __version__
from pasdedeux.animate.perform import Denoised


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """One step of one segment. log_snr is None at pure noise, where it is minus infinity."""

    segment: int
    i: int
    sigma: float
    log_snr: float | None
    expert: str
    seconds: float

    @classmethod
    def of(cls, event: Denoised) -> "StepRecord":
        """The record of an event."""
        step = event.step
        level = step.log_snr if math.isfinite(step.log_snr) else None
        return cls(
            segment=event.segment,
            i=step.i,
            sigma=step.sigma,
            log_snr=level,
            expert=step.expert,
            seconds=step.seconds,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryRecord:
    """Where an expert's weights were, what was foretold, and what came of it.

    place: as `pasdedeux plan` has it; budget: bytes that weights might take while a step ran; foretold_peak: of the
    device, or on a processor of the process, beside the report's own peaks; moved: bytes of experts that came there,
    where their blocks took turns; waited: seconds for which the compute waited for them.
    """

    place: str
    budget: int
    foretold_peak: int
    foretold_moved: int
    moved: int
    waited: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A finished clip's record.

    job is what was asked; settings what that came to. handoffs are the numbers of the steps at which a next
    expert began, the same in every segment. Bytes are peaks: the process's resident memory, and the
    accelerator's (None without one). seconds are by stage: open, prepare, denoise, decode, write.
    """

    job: dict[str, Any]
    settings: dict[str, Any]
    model: str
    device: str
    experts: tuple[str, ...]
    steps: tuple[StepRecord, ...]
    handoffs: tuple[int, ...]
    frames: int
    segments: int
    total_parameters: int
    active_parameters: int
    peak_bytes: int
    device_peak_bytes: int | None
    seconds: dict[str, float]
    versions: dict[str, str]
    memory: MemoryRecord | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Indented text that `from_json` reads back as an equal report."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Raises ValueError if the text is not a report."""
        record = json.loads(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(record, dict) or not set(record) <= known:
            raise ValueError("The text is not a report of pasdedeux.")
        try:
            steps = tuple(StepRecord(**step) for step in record.pop("steps"))
            lists = {name: tuple(record.pop(name)) for name in ("experts", "handoffs", "notes")}
            memory = record.pop("memory", None)
            return cls(steps=steps, memory=memory and MemoryRecord(**memory), **lists, **record)
        except (KeyError, TypeError) as error:
            raise ValueError(f"The report is not whole: {error}.") from error


def handoff_steps(steps: tuple[StepRecord, ...]) -> tuple[int, ...]:
    """Steps of the first segment whose expert is not the one of the step before."""
    first = [step for step in steps if step.segment == 0]
    return tuple(b.i for a, b in pairwise(first) if a.expert != b.expert)


def peak_bytes() -> int:
    """The most memory the process has had resident so far."""
    with suppress(OSError, StopIteration):  # Linux says it exactly; its ru_maxrss begins at the parent process's peak
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    kilo = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB elsewhere
    return kilo * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def device_peak_bytes(device: str) -> int | None:
    """The most memory torch has had allocated on a CUDA device since `device_peak_reset`; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None


def device_peak_reset(device: str) -> None:
    """Count the device's peak from here."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def versions() -> dict[str, str]:
    """Of the program, of Python and of torch."""
    return {"pasdedeux": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}


def source_commit() -> str | None:
    """The commit of the source this runs from, "-dirty" where it was changed since; None for an installed copy."""
    root, git = Path(__file__).parents[3], shutil.which("git")
    # An installed copy may lie inside some other repository, whose commit says nothing of ours.
    if git is None or not (root / ".git").exists():
        return None
    command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return said.stdout.strip() or None
