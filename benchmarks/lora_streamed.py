"""What it costs to tune an expert whose frozen weights do not fit: streamed both ways, beside resident.

An expert of random bfloat16 weights; the same steps (attention LoRA, blocks computed again on the way back) in all
arms, losses compared. On a GPU the weights come from pinned host memory; on a processor from a file, so that what is
resident is mapped, and memory is what the process has of its own and of mapped files.

    PYTHONPATH=src python3 benchmarks/lora_streamed.py                          # a GPU with 80 GB, 34 GB of host memory
    python benchmarks/lora_streamed.py --device cpu --folder FOLDER             # 2.3 GB of file
"""

import argparse
import gc
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from residency_parts import commit, drawn, spread, table
from true_size import FAMILY, Memory, watched

from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors
from pasdedeux.checkpoints.formats.writers import write_safetensors
from pasdedeux.checkpoints.load import load_weights
from pasdedeux.checkpoints.tensors import Weights
from pasdedeux.models.wan import WAN_MODELS, WanConfig, WanTransformer
from pasdedeux.train.lora.layers import Branch, Shape, attach, branches_for, recompute
from pasdedeux.train.lora.streaming import Room, streamed
from pasdedeux.train.lora.targets import chosen

RESULTS = Path(__file__).parent / "results"
GB = 1e9
SHAPE = Shape(rank=16, alpha=16.0, targets="attention")


@dataclass(frozen=True, kw_only=True)
class Work:
    """config: the expert; latents: frames, height, width; steps: in a run, of which the first is not counted."""

    config: WanConfig
    latents: tuple[int, int, int]
    steps: int
    rounds: int
    device: str


@dataclass
class Arm:
    """budget: bytes of weights on the device; None: all. What its runs gave."""

    name: str
    budget: int | None
    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


@contextmanager
def expert(work: Work, weights: Weights, budget: int | None) -> Iterator[WanTransformer]:
    """Resident, or for as many passes as a run has."""
    build = lambda: WanTransformer(work.config)  # noqa: E731
    if budget is None:
        net = load_weights(build, weights, dtype=torch.bfloat16, device=work.device)
        with recompute(net.turns):
            yield net
        return
    host = 1 << 50 if work.device != "cpu" else 0
    how = {"room": Room(device=budget, host=host), "dtype": torch.bfloat16, "device": work.device}
    with streamed(build, weights, [True] * work.steps, **how) as net:  # type: ignore[arg-type]
        yield net  # type: ignore[misc]


def run(work: Work, weights: Weights, arm: Arm) -> None:
    """As many steps as a run has."""
    gc.collect()
    if work.device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = Memory()
    before.look()
    with watched() as memory, expert(work, weights, arm.budget) as net:
        branches = branches_for(net, chosen(net, SHAPE.targets), SHAPE, 0)
        for branch in branches.values():
            branch.to(work.device)
        attach(net, branches)
        arm.losses = taught(work, net, branches, arm)
    grown = memory.peaks["Rss"] - before.peaks["Rss"]
    arm.peaks.append((grown if work.device == "cpu" else torch.cuda.max_memory_allocated()) / GB)


def taught(work: Work, net: WanTransformer, branches: dict[str, Branch], arm: Arm) -> list[float]:
    """The losses of the steps; all but the first are timed."""
    masters = [p for branch in branches.values() for p in branch.parameters()]
    optimiser = torch.optim.AdamW(masters, lr=1e-4, foreach=True)
    draw, told = torch.Generator().manual_seed(1), list[float]()
    text = torch.randn(1, 64, work.config.text_dim, generator=draw).to(work.device, torch.bfloat16)
    for step in range(work.steps):
        clean, noise = (torch.randn(1, work.config.in_dim, *work.latents, generator=draw) for _ in range(2))
        sigma, began = torch.rand(1, generator=draw), perf_counter()
        x = ((1 - sigma) * clean + sigma * noise).to(work.device)
        velocity = net(x, 1000 * sigma.to(work.device), net.prepare(text=text, grid=work.latents))
        loss = (velocity.float() - (noise - clean).to(work.device)).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        told.append(loss.item())  # waits for the device
        if step:
            arm.seconds.append(perf_counter() - began)
    return told


def arms(work: Work, weights: Weights) -> list[Arm]:
    """Resident, two places for blocks, and half of the weights."""
    whole = sum(tensor.nbytes for tensor in weights.values())
    return [Arm("resident", None), Arm("streamed, 2 places", 0), Arm("streamed, half of the weights", whole // 2)]


def page(work: Work, every: Sequence[Arm], nbytes: int) -> str:
    """The results."""
    device = torch.cuda.get_device_name() if work.device != "cpu" else f"{platform.machine()}, {os.cpu_count()} cores"
    config, tokens = work.config, work.latents[0] * work.latents[1] * work.latents[2] // 4
    rows = [
        (
            arm.name,
            spread(arm.seconds),
            str(len(arm.seconds)),
            f"{median(arm.seconds) / median(every[0].seconds):.2f}",
            spread(arm.peaks),
            f"{max(abs(a / b - 1) for a, b in zip(arm.losses, every[0].losses, strict=True)):.1e}",
        )
        for arm in every
    ]
    heads = ("arm", "s a step: median (least to most)", "n", "over resident", "peak, GB", "loss off by")
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return (
        f"# Tuning an expert whose weights come and go\n\n{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}, "
        f"{device}, load {load}. `python benchmarks/lora_streamed.py`.\n\nAn expert of {config.layers} blocks, "
        f"{config.dim} wide, {nbytes / GB:.1f} GB in bfloat16; {tokens:,} tokens; LoRA of rank {SHAPE.rank} on "
        f"attention. {work.rounds} rounds of {work.steps} steps, by turns; the first step of each is not counted. On a "
        "processor the peak is what the process grows by, mapped files included.\n\n" + table(heads, rows) + "\n"
    )


def stored(folder: Path, weights: Weights) -> Weights:
    """The same weights, in a file."""
    path = folder / "expert.safetensors"
    write_safetensors(path, dict(weights.tensors), {}, lambda tensor: None)
    return open_safetensors(path)


def main() -> None:
    """Every arm by turns, and a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--folder", type=Path, help="where the file lies from which a processor streams")
    parser.add_argument("--grid", type=int, nargs=3, default=(5, 60, 104), help="latent frames, height, width")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    config, cpu = WAN_MODELS[FAMILY], given.device == "cpu"
    if cpu:
        config = replace(config, dim=2048, heads=16, ffn_dim=8192, layers=given.layers or 16)
    elif given.layers:
        config = replace(config, layers=given.layers)
    latents = (3, 16, 16) if cpu else tuple(given.grid)
    work = Work(config=config, latents=latents, steps=given.steps, rounds=given.rounds, device=given.device)
    weights = drawn(config)[0]
    weights = stored(given.folder, weights) if cpu else weights
    every = arms(work, weights)
    for _ in range(work.rounds):
        for arm in every:
            run(work, weights, arm)
            print(arm.name, spread(arm.seconds), flush=True)
    text = page(work, every, sum(tensor.nbytes for tensor in weights.values()))
    device = "cpu" if cpu else torch.cuda.get_device_name().lower().replace(" ", "-")
    (RESULTS / f"lora_streamed_{device}_{datetime.now(UTC):%Y-%m-%d}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
