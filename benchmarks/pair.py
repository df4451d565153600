"""What a second expert costs in a step: the pair beside one of its experts over the same steps, in one
process.

Both sample the default clip in alternating order, n times after one warm-up. Prints a table and writes
it, with the commit and the versions, to benchmarks/results/pair_<device>_<date>.md. One expert alone does
the same number of forward passes with half of the weights, so a ratio of 1 says that the other half is
free of time.
"""

import argparse
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import torch

from pasdedeux.animate.perform import Denoised, perform
from pasdedeux.denoise import ExpertSet
from pasdedeux.engine import Cast, Job, Model, Settings, cast, count, open_model, settle, versions
from pasdedeux.engine.staging import set_up

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """One clip: seconds in all, and mean seconds of its steps."""

    clip: float
    step: float


def sample(model: Model, experts: ExpertSet, settings: Settings, found: Cast) -> Sampled:
    """Sample the clip once. Conditions are drawn before the clock starts; segments are conditioned under
    it.
    """
    stage = set_up(found, settings.mode, model)
    steps: list[float] = []
    began = perf_counter()
    for event in perform(stage, experts, settings.sampling()):
        if isinstance(event, Denoised):
            steps.append(event.step.seconds)
    return Sampled(clip=perf_counter() - began, step=statistics.mean(steps))


def measure(model: Model, job: Job, repeats: int) -> dict[str, list[Sampled]]:
    """Every arm `repeats` times, in an order that turns round each time."""
    settings = settle(job, model.manifest)
    found, pair = cast(job, settings), model.expert_set(settings.handoff)
    last = pair.experts[-1]
    arms = {"pair": pair, f"{last.name} alone": ExpertSet.single(last)}
    for experts in arms.values():
        sample(model, experts, settings, found)
    taken: dict[str, list[Sampled]] = {name: [] for name in arms}
    for k in range(repeats):
        for name in list(arms)[:: 1 if k % 2 == 0 else -1]:
            taken[name].append(sample(model, arms[name], settings, found))
    return taken


def spread(values: Sequence[float], scale: float = 1.0) -> str:
    """ "median (least to most)" of the values times `scale`."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle * scale:.2f} ({low * scale:.2f} to {high * scale:.2f})"


def table(model: Model, taken: dict[str, list[Sampled]]) -> str:
    """The figures as markdown."""
    rows = [
        "| arm | ms per step | seconds per clip | active parameters | all parameters |",
        "| --- " * 5 + "|",
    ]
    for name, clips in taken.items():
        whole = model.total_parameters if name == "pair" else count(model.experts[-1])
        figures = (spread([c.step for c in clips], 1000), spread([c.clip for c in clips]))
        rows.append(f"| {name} | {figures[0]} | {figures[1]} | {model.active_parameters:,} | {whole:,} |")
    pair, alone = taken.values()
    ratios = [a.step / b.step for a, b in zip(pair, alone, strict=True)]
    rows += ["", f"Seconds per step, pair over one expert, by repeat: {spread(ratios)}."]
    return "\n".join(rows)


def commit() -> str:
    """The commit this tree stands at, and whether it was changed since."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def device_name(device: str) -> str:
    """The accelerator's name, or the processor's kind and the threads torch used."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def heading(model: Model, job: Job, repeats: int, today: str) -> str:
    """How the figures came about."""
    settings, found = settle(job, model.manifest), versions()
    width, height = settings.size
    return "\n".join(
        (
            f"# The pair beside one expert, {device_name(model.device)}, {today}",
            "",
            f"`python benchmarks/pair.py {' '.join(sys.argv[1:])}` at commit {commit()}; "
            f"torch {found['torch']}, Python {found['python']}, {model.manifest.dtype}.",
            f"Default clip, {width}x{height}, {settings.steps} steps per segment with {settings.solver}; "
            f"median (least to most) of n = {repeats}, alternating, in one process.",
            "",
            "",
        )
    )


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--device", default=None)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    model, job = open_model(options.model, options.device), Job()
    figures = table(model, measure(model, job, options.repeats))
    print(figures)
    today = datetime.now(UTC).date().isoformat()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"pair_{model.device.replace(':', '')}_{today}.md"
    path.write_text(heading(model, job, options.repeats, today) + figures + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
