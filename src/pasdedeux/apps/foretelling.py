"""`pasdedeux train pair --dry-run`: what would be trained, on which noise levels, with how much memory."""

from collections.abc import Iterator
from pathlib import Path

from pasdedeux.train.bands import Levels, described, whole
from pasdedeux.train.config import PairConfig, branches, dense_run
from pasdedeux.train.forecast import StepMemory, in_bytes, step_memory
from pasdedeux.train.loop import TrainConfig

BYTES_PER_PIXEL = 18
"""A stored clip's planes, truth and attention (train.clips)."""


def foretold(folder: Path, config: PairConfig, *, devices: tuple[str, ...], dense: bool) -> Iterator[str]:
    """The lines to print."""
    yield from clips_line(folder, config)
    runs: dict[str, tuple[Levels, TrainConfig]] = {"trunk": (whole(config.shift), config.trunk), **branches(config)}
    if dense:
        runs["dense"] = (whole(config.shift), dense_run(config))
    yield f"{'':<9} {'noise levels':<17} {'log-SNR':<15} {'of draws':>8} {'steps':>7} {'batch':>5}"
    for name, (levels, run) in runs.items():
        yield f"{name:<9} {described(levels)} {levels.mass:>8.1%} {run.steps:>7} {run.batch:>5}"
    count = len(branches(config))
    yield f"flow shift {config.shift:g}; steps shared out: {config.share}; experts start from the trunk"
    yield from memory_lines(config, devices or (config.branch.device,), count)
    yield "Nothing was trained."


def clips_line(folder: Path, config: PairConfig) -> Iterator[str]:
    """How many clips there are, and would be filmed."""
    there = len(list((folder / "clips").glob("???????.npy")))
    size = config.clips * (config.frames * BYTES_PER_PIXEL + 10) * config.size**2
    shape = f"{config.frames} frames, {config.size}x{config.size}"
    yield f"clips: {config.clips} of {shape}, {in_bytes(size)} on disk; {min(there, config.clips)} are there"


def memory_lines(config: PairConfig, devices: tuple[str, ...], experts: int) -> Iterator[str]:
    """What trunk and experts would take."""
    trunk = step_memory(config.model, config.codec, config.trunk, config.size)
    branch = step_memory(config.model, config.codec, config.branch, config.size)
    yield f"{trunk.parameters / 1e6:.2f} million parameters each, computed in {config.trunk.dtype}"
    yield f"memory on {config.trunk.device} for the trunk: {parts(trunk)}"
    at_once = min(len(devices), experts)
    yield f"memory on {', '.join(devices)} for {'an expert' if at_once == 1 else 'an expert each'}: {parts(branch)}"
    idle = experts - at_once
    if idle:
        yield f"{idle} waiting in this machine's memory: {in_bytes(idle * (branch.kept + branch.compute // 2))}"


def parts(memory: StepMemory) -> str:
    """A step's bytes and what they are for."""
    return (
        f"{in_bytes(memory.active)} ({in_bytes(memory.kept)} weights, average and moments; "
        f"{in_bytes(memory.compute + memory.gradients)} computing copy and gradients; "
        f"{in_bytes(memory.activations)} activations)"
    )
