"""What it costs that the weights of a pair are elsewhere: streamed beside resident, swapped, or read from a disk.

One process, random weights of Wan2.2-T2V-A14B's shapes, the same noise and levels in all arms; latents are compared
bit for bit. With --disk the pair is written to a folder and run from there.

    PYTHONPATH=src python3 benchmarks/residency.py                     # a GPU with 80 GB, 64 GB of host memory
    python benchmarks/residency.py --device cpu --small                # every arm and the table, at a small size
    python benchmarks/residency.py --disk FOLDER --device cpu          # 57.2 GB, and 5 GB to spare

Arms. resident: both experts on the device, or each in its turn where they do not fit. streamed: both in pinned host
memory, their blocks passing through 2 places, or through as many as a card of --cap GB has room for; the allocator is
held to that. Loads are spread where the simulator says that the plan with fewest loads stalls. swapped: the whole
expert is copied at the handoff, from pinned memory into the place of the other, with nothing allocated or copied back:
the kindest case of what programs do. group offload: diffusers', a block at a time on a stream of its own, one expert.
"""

import argparse
import gc
import math
import os
import platform
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from residency_arms import (
    ARMS,
    REPEATS,
    Bench,
    Done,
    allowed_seconds,
    both_fit,
    link_rate,
    network,
    offloaded,
    rates,
    working_bytes,
)
from residency_disk import run_disk
from residency_parts import SMALL, Job, bare_pair, commit, drawn, job_of, memory_total, spread, table
from true_size import FAMILY, timed

from pasdedeux.models.wan import WAN_MODELS
from pasdedeux.residency.arithmetic import context_bytes
from pasdedeux.residency.sources import HostSource, source_of

RESULTS = Path(__file__).parent / "results"
CPU_CAP = "; on a processor the arm has places for half of the blocks and 2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """latents: frames, height, width; steps: of each expert; arms: those of ARMS that run."""

    title: str
    latents: tuple[int, int, int]
    guided: bool
    steps: int
    arms: tuple[str, ...]

    def small(self) -> "Size":
        """A few hundred tokens."""
        f, h, w = self.latents
        return replace(self, latents=(-(-f // 4), h // 8 * 2, w // 8 * 2))


SIZES = {
    "480p": Size(
        title="832x480, 81 frames",
        latents=(21, 60, 104),
        guided=False,
        steps=3,
        arms=("resident", "least", "cap", "swapped"),
    ),
    "480p17": Size(
        title="832x480, 17 frames, guided",
        latents=(5, 60, 104),
        guided=True,
        steps=4,
        arms=("resident", "least", "cap", "spread", "swapped"),
    ),
    "720p": Size(title="1280x720, 81 frames", latents=(21, 90, 160), guided=False, steps=2, arms=("resident", "least")),
}
HEADS = (
    "arm",
    "s per step: median (least to most)",
    "n",
    "over resident",
    "simulated, s",
    "first step, s",
    "handoff step, s",
    "handoff / median",
    "stall at handoff, ms",
    "peak allocated, GB",
    "device in use, GB",
    "weights held, GB",
    "moved, GB",
    "waited, s",
    "bits as resident",
)


@dataclass(slots=True, eq=False)
class Sheet:
    """The runs of one size, by arm, and what is to be said of those that did not run."""

    job: Job
    runs: dict[str, list[Done]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def plain(self, arm: str) -> list[float]:
        """Seconds of all steps that no expert begins with."""
        return [s for done in self.runs.get(arm, ()) for s in done.ran.plain]

    def stalls(self, arm: str) -> list[float]:
        """By run: seconds that the handoff step took above the run's median step."""
        return [done.ran.handoff - median(done.ran.plain) for done in self.runs.get(arm, ())]


def run_size(bench: Bench, job: Job, arms: Sequence[str], rounds: int) -> Sheet:
    """All arms of a size, `rounds` times, in an order that turns round each time; resident is always the first once."""
    sheet, took = Sheet(job), dict[str, float]()
    for k in range(rounds):
        for arm in arms[:: 1 if k % 2 == 0 else -1]:
            left = bench.ends - perf_counter()
            if left < took.get(arm, 1.5 * took.get("resident", 0)) or (arm != "resident" and "resident" not in took):
                sheet.notes.append(f"{ARMS[arm][0]}, round {k + 1}: left out for want of time.")
                continue
            took[arm] = timed(lambda name=arm: attempt(bench, job, name, sheet))
            print(f"{job.title}, {arm}: {took[arm]:.1f} s", flush=True)
    return sheet


def attempt(bench: Bench, job: Job, arm: str, sheet: Sheet) -> None:
    """A run goes into the sheet; that the GPU's memory was too small is a result too."""
    try:
        sheet.runs.setdefault(arm, []).append(run_arm(bench, job, arm, sheet))
    except torch.cuda.OutOfMemoryError as error:
        sheet.notes.append(f"{ARMS[arm][0]}: {str(error).splitlines()[0]}")


def run_arm(bench: Bench, job: Job, arm: str, sheet: Sheet) -> Done:
    """One run, with what it took of the GPU."""
    gc.collect()
    if bench.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    done = ARMS[arm][1](bench, job, median(sheet.plain("resident") or [0.0]))
    if not bench.cuda:
        return done
    free, whole = torch.cuda.mem_get_info()  # what the allocator took it keeps until it is told, so this is the most
    return replace(done, peak=torch.cuda.max_memory_allocated(), used=whole - free)


def row(bench: Bench, sheet: Sheet, arm: str) -> list[str]:
    """For HEADS."""
    runs, plain = sheet.runs[arm], sheet.plain(arm)
    handoff, alone = median(done.ran.handoff for done in runs), median(sheet.plain("resident"))
    wanted, last = sheet.runs["resident"][0].ran.latent, runs[-1]
    same = all(torch.equal(wanted, done.ran.latent) for done in runs)
    return [
        ARMS[arm][0],
        spread(plain),
        str(len(plain)),
        f"{median(plain) / alone:.4f}",
        "" if last.simulated is None else f"{last.simulated:.3f}",
        f"{median(done.ran.seconds[0] for done in runs):.3f}",
        f"{handoff:.3f}",
        f"{handoff / median(plain):.3f}",
        ", ".join(f"{1000 * stall:.1f}" for stall in sheet.stalls(arm)),
        f"{max(done.peak for done in runs) / 1e9:.2f}" if bench.cuda else "",
        f"{max(done.used for done in runs) / 1e9:.2f}" if bench.cuda else "",
        f"{last.held / 1e9:.2f}",
        f"{last.moved / 1e9:.1f}",
        f"{last.waited:.2f}",
        "reference" if arm == "resident" else "same" if same else "OTHER",
    ]


def stall_ratio(sheet: Sheet) -> str:
    """The swap's stall beside the stream's, each above what the resident pair's handoff costs: a sentence."""
    if not all(sheet.runs.get(arm) for arm in ("resident", "least", "swapped")):
        return ""
    base, ours, naive = (median(sheet.stalls(arm)) for arm in ("resident", "least", "swapped"))
    ratio = f", a ratio of {(naive - base) / (ours - base):.0f}" if min(ours, naive) > base else "; no ratio"
    return (
        f"Above what the resident pair's own handoff takes, the swap's takes {1000 * (naive - base):.1f} ms and that "
        f"of the stream with 2 places {1000 * (ours - base):.1f} ms{ratio}. "
    )


def told_of(bench: Bench, sheet: Sheet, found: Mapping[str, tuple[float, float]]) -> str:
    """A size's part of the file."""
    job, arms = sheet.job, [arm for arm in ARMS if sheet.runs.get(arm)]
    if "resident" not in arms:
        return "\n".join([f"## {job.title}", "", *sheet.notes])
    step, allowed = median(sheet.plain("resident")), allowed_seconds(job, found)
    said = ", ".join(f"{name} {a / 1e12:.3g} ({b / 1e12:.3g})" for name, (a, b) in found.items())
    both = "both experts are resident" if both_fit(bench, job) else "each expert is resident in its turn"
    beside, prompts = working_bytes(job) / 1e9, context_bytes(network(job), job.grid) / 1e9
    text = (
        f"{math.prod(job.grid):,} tokens, {job.steps} steps of each expert; {both}. TFLOP/s over a span's rows, as the "
        f"model calls them (over all tokens at once): {said}. At the better of these a step takes {allowed:.3f} s; "
        f"the resident pair reaches {allowed / step:.1%} of that speed. {stall_ratio(sheet)}Predicted beside the "
        f"weights: {beside:.2f} GB, of which {prompts:.2f} GB are kept of each prompt."
    )
    rows = table(HEADS, [row(bench, sheet, arm) for arm in arms])
    return "\n".join([f"## {job.title}", "", text, "", rows, *(f"\n{note}" for note in sheet.notes)])


def bench_of(options: argparse.Namespace, began: float) -> Bench:
    """The pair in host memory, pinned where there is CUDA."""
    config = SMALL if options.small else WAN_MODELS[FAMILY]
    config = replace(config, layers=options.blocks or config.layers)
    weights, link = drawn(config), link_rate(options.device)
    _, units = bare_pair(config, weights)
    source = HostSource(source_of(units), units, pin=options.device.startswith("cuda"))
    return Bench(
        config=config,
        weights=weights,
        source=source,
        sizes={unit: source.layout(unit).nbytes for unit in units},
        link=link,
        device=options.device,
        cap=int(options.cap * 1e9),
        ends=began + 60 * options.budget_minutes,
    )


def run_device(options: argparse.Namespace) -> Iterator[str]:
    """The parts of the file, as they are measured."""
    began = perf_counter()
    bench = bench_of(options, began)
    print(f"{sum(bench.sizes.values()) / 1e9:.1f} GB in host memory after {perf_counter() - began:.0f} s", flush=True)
    yield (
        f"Host memory to the device: {bench.link / 1e9:.1f} GB/s (median of {REPEATS} copies). A step is timed with "
        f"the device waited for; n counts the steps that no expert begins with. {options.rounds} rounds, the arms' "
        "order turned round each time. Stall at handoff: that step less the run's median step, by run; it holds what "
        "the new expert prepares of the words, in every arm. Moved and waited are of one run. Peak allocated is "
        f"torch's, the device in use the driver's. The cap is {options.cap:g} GB{CPU_CAP * (not bench.cuda)}."
    )
    jobs = list[Job]()
    for name in options.sizes:
        size = SIZES[name].small() if options.small else SIZES[name]
        steps = options.steps or size.steps
        jobs.append(job_of(size.title, bench.config, size.latents, steps, size.guided, bench.device))
        found = rates(jobs[-1])
        yield told_of(bench, run_size(bench, jobs[-1], size.arms, options.rounds), found)
    bench.source.close()  # what follows pins its own
    rest = [f"{job.title}: {offloaded(bench, job)}" for job in jobs if not job.guided]
    most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield "\n\n".join(
        [*rest, f"Most host memory of the process: {most / 1e9:.1f} GB. {perf_counter() - began:.0f} s in all."]
    )


def heading(options: argparse.Namespace, what: str, today: str) -> str:
    """How the figures came about."""
    cuda = options.device.startswith("cuda")
    machine = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU"
    size = "A SMALL SIZE, for trying the script: these figures say nothing of true models.\n" if options.small else ""
    config = SMALL if options.small else WAN_MODELS[FAMILY]
    return (
        f"# {what}, {today}\n\n`python benchmarks/residency.py {' '.join(told())}` at commit "
        f"{options.commit or commit()}; torch {torch.__version__}, Python {platform.python_version()}, {machine}, "
        f"{os.cpu_count()} processor cores, {torch.get_num_threads()} threads, {memory_total() / 1e9:.0f} GB of host "
        f"memory.\n{size}Random bfloat16 weights; blocks of width {config.dim}, hidden {config.ffn_dim}, "
        f"{config.heads} heads; two experts of {options.blocks or config.layers} blocks.\n\n"
    )


def told() -> list[str]:
    """The command's words, without where the weights lay."""
    words = sys.argv[1:]
    k = words.index("--disk") if "--disk" in words else len(words)
    return [*words[:k], *(["--disk", "FOLDER"] if k < len(words) else []), *words[k + 2 :]]


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--small", action="store_true", help="a small pair, small latents")
    parser.add_argument("--blocks", type=int, help="of each expert, if not all")
    parser.add_argument("--steps", type=int, help="of each expert")
    parser.add_argument("--rounds", type=int, default=2, help="how often every arm runs")
    parser.add_argument("--cap", type=float, default=24, help="GB of the card that is imitated")
    parser.add_argument("--budget-minutes", type=float, default=8.5, help="no arm begins that would end later")
    parser.add_argument("--disk", type=Path, help="run from files, written to this folder")
    parser.add_argument("--keep", action="store_true", help="leave the files, for another run")
    parser.add_argument(
        "--memory", type=float, help="GB of weights in memory (on a GPU: in its); default: 70 %% of what is free"
    )
    parser.add_argument("--commit", help="what to write as the commit where git does not know")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the table is written")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write, part by part."""
    options = parsed()
    if options.device.startswith("cuda:"):
        torch.cuda.set_device(options.device)  # whose memory, stream and name are asked for without saying of which
    today = datetime.now(UTC).date().isoformat()
    what = ("disk_" if options.disk else "") + options.device.replace(":", "") + ("_small" if options.small else "")
    title = "A pair run from a disk" if options.disk else "A pair whose weights are elsewhere"
    options.out.mkdir(exist_ok=True, parents=True)
    path = options.out / f"residency_{what}_{today}.md"
    text = heading(options, title, today)
    for part in run_disk(options) if options.disk else run_device(options):
        print(f"\n{part}\n", flush=True)
        text += part + "\n\n"
        path.write_text(text.rstrip() + "\n", encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
