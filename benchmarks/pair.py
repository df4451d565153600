"""What a second expert costs in a step: the pair beside one of its experts, over the same steps in one process.

Both sample one drawn clip in alternating order, n times after a warm-up. A step is timed apart from what is done once
a segment (the pyramid, the reference's keys). Prints a table and writes it, with the commit and the versions, to
benchmarks/results/pair_<device>_<date>.md. One expert alone does the same forward passes with half of the weights, so a
ratio of 1 says that the other half costs no time.
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

import pasdedeux
from pasdedeux.animate.condition.duet import DuetStage, denoiser, draw_planes
from pasdedeux.animate.perform import Denoised, Settings, perform
from pasdedeux.checkpoints.folder import Manifest, load_codec, load_expert, read_manifest
from pasdedeux.denoise import Expert, ExpertSet, Handoff, schedule
from pasdedeux.train.clips import HELD_OUT, ClipSpec, film, keypoints

RESULTS = Path(__file__).parent / "results"
BUILTIN = Path(pasdedeux.__file__).parent / "builtin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """One clip: seconds in all, and the median of its steps' seconds."""

    clip: float
    step: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Experts, the stage that prepares for just these, and their parameters: in a step, in all."""

    experts: ExpertSet
    stage: DuetStage
    active: int
    total: int


def arms(folder: Path, manifest: Manifest, device: str) -> dict[str, Arm]:
    """The whole set, and its last expert alone."""
    models = [load_expert(folder, manifest, expert, device) for expert in manifest.experts]
    experts = tuple(Expert(denoiser(m), e.name) for m, e in zip(models, manifest.experts, strict=True))
    take = film(ClipSpec.from_seed(HELD_OUT, frames=manifest.length, size=manifest.size[0], mode="animate"))
    planes = draw_planes(take.character, keypoints(take.truth), take.scene)
    codec, sizes = load_codec(folder, manifest), [sum(p.numel() for p in m.parameters()) for m in models]

    def arm(whole: ExpertSet, first: int) -> Arm:
        stage = DuetStage(planes=planes, codec=codec, dtype=manifest.compute, experts=tuple(models[first:]))
        return Arm(experts=whole, stage=stage, active=max(sizes[first:]), total=sum(sizes[first:]))

    last = len(models) - 1
    return {
        "pair": arm(ExpertSet(experts, Handoff(manifest.bounds)), 0),
        f"{experts[-1].name} alone": arm(ExpertSet.single(experts[-1]), last),
    }


def sample(arm: Arm, settings: Settings, device: str) -> Sampled:
    """Sample the clip once."""
    steps: list[float] = []
    began = perf_counter()
    for event in perform(arm.stage, arm.experts, settings):
        if isinstance(event, Denoised):
            steps.append(event.step.seconds)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return Sampled(clip=perf_counter() - began, step=statistics.median(steps))


def measure(folder: Path, manifest: Manifest, device: str, steps: int, repeats: int) -> tuple[dict[str, Arm], list]:
    """Every arm `repeats` times, in an order that turns round each time: rows of a sample per arm."""
    found = arms(folder, manifest, device)
    sigmas = tuple(float(s) for s in schedule(steps, manifest.shift))
    settings = Settings(sigmas=sigmas, seed=0, length=manifest.length, overlap=manifest.overlap, solver=manifest.solver)
    rows = []
    for k in range(repeats + 1):
        order = list(found)[:: 1 if k % 2 == 0 else -1]
        row = {name: sample(found[name], settings, device) for name in order}
        rows.append({name: row[name] for name in found})
    return found, rows[1:]


def spread(values: Sequence[float], scale: float = 1.0) -> str:
    """ "median (least to most)" of the values times `scale`."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle * scale:.2f} ({low * scale:.2f} to {high * scale:.2f})"


def table(found: dict[str, Arm], rows: list[dict[str, Sampled]]) -> str:
    """The figures as markdown."""
    lines = ["| arm | ms per step | seconds per clip | active parameters | all parameters |", "| --- " * 5 + "|"]
    for name, arm in found.items():
        steps, clips = ([getattr(row[name], what) for row in rows] for what in ("step", "clip"))
        lines.append(f"| {name} | {spread(steps, 1000)} | {spread(clips)} | {arm.active:,} | {arm.total:,} |")
    pair, alone = found
    ratios = [row[pair].step / row[alone].step for row in rows]
    lines += ["", f"A step of the pair over one of {alone}, by repeat: {spread(ratios)}."]
    return "\n".join(lines)


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


def heading(manifest: Manifest, options: argparse.Namespace, steps: int, today: str) -> str:
    """How the figures came about."""
    width, height = manifest.size
    return (
        f"# The pair beside one expert, {device_name(options.device)}, {today}\n\n"
        f"`python benchmarks/pair.py {' '.join(sys.argv[1:])}` at commit {commit()}; torch {torch.__version__}, Python "
        f"{platform.python_version()}, {manifest.dtype}.\nOne segment of {manifest.length} frames, {width}x{height}, "
        f"{steps} steps with {manifest.solver}; median (least to most) of n = {options.repeats}, alternating, in one "
        "process.\n\n"
    )


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=None, help="default: the model's")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    manifest = read_manifest(options.model)
    steps = options.steps or manifest.steps
    with torch.no_grad():
        figures = table(*measure(options.model, manifest, options.device, steps, options.repeats))
    print(figures)
    today = datetime.now(UTC).date().isoformat()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"pair_{options.device.replace(':', '')}_{today}.md"
    path.write_text(heading(manifest, options, steps, today) + figures + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
