"""The pair run from a disk: written, streamed through few places or many, and mapped, with the process watched."""

import argparse
import gc
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from residency_parts import (
    SMALL,
    Job,
    Ran,
    available,
    bare_pair,
    denoised,
    drawn,
    job_of,
    nets_of,
    shapes_of,
    spread,
    table,
)
from true_size import FAMILY, FILE, FOLDERS, Memory, timed, watched

from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors
from pasdedeux.checkpoints.formats.writers import write_safetensors
from pasdedeux.checkpoints.load import load_weights
from pasdedeux.checkpoints.tensors import Weights
from pasdedeux.models.wan import WAN_MODELS, WanConfig, WanTransformer
from pasdedeux.residency.plan import least_budget, place_bytes, plan
from pasdedeux.residency.sources import source_of
from pasdedeux.residency.stream import Streamer
from pasdedeux.residency.units import Unit

GRID, WORDS, SHALLOW, STEPS = (1, 16, 16), 16, 10, 3
LEFT_FREE = 5e9  # bytes of a disk
SAMPLE, CHUNK = 4 << 30, 16 << 20  # bytes read to measure a disk, and at once


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskArm:
    """A way to run from files: `blocks` of each expert in `budget` bytes of weights (0: the fewest that a stream needs;
    None: mapped into memory, not streamed), by the plan with fewest loads or by the one that spreads them."""

    title: str
    blocks: int
    budget: int | None
    spread: bool = False


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FromDisk:
    """What an arm did.

    block: bytes of one; kept: of the plan's places; read: of the disk; grown: how far the process rose above what it
    was and the trunks, in all and in memory of its own (not mapped from files); moved: of blocks; waited: seconds.
    """

    arm: DiskArm
    ran: Ran
    block: int
    read: int
    grown: tuple[int, int]
    kept: int = 0
    moved: int = 0
    waited: float = 0.0


HEADS = (
    "arm",
    "s per step: median (least to most)",
    "first step, s",
    "handoff step, s",
    "handoff / median",
    "read, GB",
    "read, GB/s",
    "moved, GB",
    "waited, s",
    "places, GB",
    "memory above trunks, GB",
    "of its own, GB (blocks)",
    "bits as mapped",
    "every step, s",
)


def row_of(done: FromDisk, reference: Ran | None) -> list[str]:
    """For HEADS."""
    ran, (grown, own) = done.ran, done.grown
    streamed = done.arm.budget is not None
    return [
        f"{done.arm.title}, {done.arm.blocks} blocks",
        spread(ran.plain),
        f"{ran.seconds[0]:.2f}",
        f"{ran.handoff:.2f}",
        f"{ran.handoff / median(ran.plain):.3f}",
        f"{done.read / 1e9:.1f}",
        f"{done.read / sum(ran.seconds) / 1e9:.2f}",
        f"{done.moved / 1e9:.1f}" if streamed else "",
        f"{done.waited:.1f}" if streamed else "",
        f"{done.kept / 1e9:.2f}" if streamed else "",
        f"{grown / 1e9:.2f}",
        f"{own / 1e9:.2f} ({own / done.block:.2f})",
        "" if reference is None else "same" if torch.equal(reference.latent, ran.latent) else "OTHER",
        " ".join(f"{seconds:.1f}" for seconds in ran.seconds),
    ]


def written(folder: Path, config: WanConfig) -> tuple[list[Path], float]:
    """The pair's files, written unless they are there, and the seconds that took. Ends the program on a full disk."""
    paths = [folder / name / FILE for name in FOLDERS]
    shapes = shapes_of(config)
    if all(path.is_file() and open_safetensors(path).shapes == shapes for path in paths):
        return paths, 0.0
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = 2 * len(paths) * sum(map(math.prod, shapes.values())), shutil.disk_usage(folder).free
    if free < needed + LEFT_FREE:
        sys.exit(
            f"The pair needs {needed / 1e9:.1f} GB and {LEFT_FREE / 1e9:.0f} GB are to stay free, but the disk of "
            f"{folder} has {free / 1e9:.1f} GB left. With --blocks the pair gets smaller."
        )
    seconds = [timed(partial(write, path, some)) for path, some in zip(paths, drawn(config), strict=True)]
    return paths, sum(seconds)


def write(path: Path, weights: Weights) -> None:
    """An expert's file, under its name once it is whole."""
    path.parent.mkdir(exist_ok=True)
    partly = path.with_suffix(".part")
    write_safetensors(partly, weights, {}, lambda tensor: None)
    partly.replace(path)
    uncache([path])


def uncache(paths: Sequence[Path]) -> None:
    """Out of the system's memory, onto the disk: the next read is of the disk."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_rate(path: Path) -> float:
    """Bytes per second of reading a cold part of a file, one piece after the other."""
    uncache([path])
    buffer, left = bytearray(CHUNK), min(SAMPLE, path.stat().st_size)
    whole, began = left, perf_counter()
    with path.open("rb", buffering=0) as file:
        while left > 0:
            left -= file.readinto(buffer) or left
    seconds = perf_counter() - began
    uncache([path])
    return whole / seconds


def weights_of(paths: Sequence[Path], config: WanConfig) -> list[Weights]:
    """What an expert of this many blocks has of each file."""
    names = shapes_of(config)
    return [(found := open_safetensors(path)).with_tensors({name: found[name] for name in names}) for path in paths]


def from_disk(arm: DiskArm, job: Job, paths: Sequence[Path]) -> FromDisk:
    """Run an arm with nothing of the files in memory, and watch the process."""
    gc.collect()
    uncache(paths)
    before, start = Memory(), bytes_read()
    before.look()
    weights = weights_of(paths, job.config)
    with watched() as memory:
        done = _mapped(arm, job, weights) if arm.budget is None else _streamed(arm, job, weights)
    there = arm.budget is not None and job.device == "cpu"
    trunks = len(paths) * trunk_bytes(job.config) if there else 0
    grown, own = (memory.peaks[kind] - before.peaks[kind] - trunks for kind in ("Rss", "anonymous"))
    return replace(done, read=bytes_read() - start, grown=(grown, own))


def trunk_bytes(config: WanConfig) -> int:
    """What of an expert is no block, in bfloat16."""
    return 2 * sum(math.prod(shape) for name, shape in shapes_of(config).items() if not name.startswith("blocks."))


def _mapped(arm: DiskArm, job: Job, weights: Sequence[Weights]) -> FromDisk:
    """On a processor the system brings pages as they are touched; on a GPU both experts are loaded whole."""
    device = job.device
    nets = [load_weights(lambda: WanTransformer(job.config), w, dtype=torch.bfloat16, device=device) for w in weights]
    block = sum(t.nbytes for t in nets[0].blocks[0].state_dict().values())
    return FromDisk(arm=arm, ran=denoised(job, nets), block=block, read=0, grown=(0, 0))


def _streamed(arm: DiskArm, job: Job, weights: Sequence[Weights]) -> FromDisk:
    models, units = bare_pair(job.config, weights)
    source = source_of(units, forget=True)
    sizes = {unit: source.layout(unit).nbytes for unit in units}
    budget = arm.budget or least_budget(job.uses, sizes, all_trunks=True)
    made = plan(job.uses, sizes, budget, spread=arm.spread)
    with Streamer(models, source, made, job.device) as streamer:
        ran = denoised(job, nets_of(models))
    return FromDisk(
        arm=arm,
        ran=ran,
        block=sizes[Unit(0, 0)],
        read=0,
        grown=(0, 0),
        kept=sum(place_bytes(made, sizes)),
        moved=streamer.moved,
        waited=streamer.waited,
    )


def bytes_read() -> int:
    """What this process has made the system fetch from disks."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def warm_up(job: Job, paths: Sequence[Path]) -> None:
    """What torch takes for itself when it first computes is taken before memory is watched."""
    from_disk(DiskArm(title="warm-up", blocks=job.config.layers, budget=None), job, paths)


def disk_arms(job: Job, memory: int) -> list[DiskArm]:
    """Few blocks first, then all of them in every way."""
    much = f"{memory / 1e9:.1f} GB"
    blocks = job.config.layers
    shallow = [DiskArm(title="streamed, 2 places", blocks=SHALLOW, budget=0)] if blocks > SHALLOW else []
    return [
        *shallow,
        DiskArm(title="streamed, 2 places", blocks=blocks, budget=0),
        DiskArm(title="mapped", blocks=blocks, budget=None),
        DiskArm(title=f"streamed, {much}", blocks=blocks, budget=memory),
        DiskArm(title=f"streamed, {much}, loads spread", blocks=blocks, budget=memory, spread=True),
    ]


def run_disk(options: argparse.Namespace) -> Iterator[str]:
    """The pair written, run, and removed unless it is to be kept: the parts of the file."""
    config = replace(SMALL if options.small else WAN_MODELS[FAMILY], text_len=WORDS)
    config = replace(config, layers=options.blocks or config.layers)
    folder = options.disk / "residency_pair"  # of its own, since it is removed
    try:
        paths, seconds = written(folder, config)
        yield f"The pair was written in {seconds:.0f} s." if seconds else "The pair was there from a run before."
        yield measured(options, config, paths)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def measured(options: argparse.Namespace, config: WanConfig, paths: Sequence[Path]) -> str:
    """All arms, `rounds` times, and what is to be said of them."""
    steps, device = options.steps or STEPS, options.device
    job = job_of("from disk", config, GRID, steps, False, device)
    warm_up(replace(job, config=replace(config, layers=1), steps=1), paths)
    memory = int(options.memory * 1e9) if options.memory else int(0.7 * available(device))
    rates, done = [disk_rate(paths[1])], list[FromDisk]()
    for _ in range(options.rounds):
        for arm in disk_arms(job, memory):
            done.append(from_disk(arm, replace(job, config=replace(config, layers=arm.blocks)), paths))
            print(row_of(done[-1], None), flush=True)
        rates.append(disk_rate(paths[1]))
    mapped = next(d.ran for d in done if d.arm.budget is None)
    rows = [row_of(d, mapped if d.arm.blocks == config.layers else None) for d in done]
    alone = ", ".join(f"{rate / 1e9:.2f}" for rate in rates)
    return (
        f"Latents {GRID[0]}x{GRID[1]}x{GRID[2]}, {WORDS} words, {steps} steps of each expert, the median over the "
        f"{2 * steps - 2} that no expert begins with; {options.rounds} rounds, rows in the order in which they ran. "
        "Before each arm the files were put out of the system's memory (posix_fadvise). Read by itself before, between "
        f"and after the rounds, a cold file came with {alone} GB/s. Memory is what the process holds at most above "
        "what it held before, looked at twenty times a second, less the trunks of the streamed arms, which stay by "
        "design.\n\n" + table(HEADS, rows)
    )
