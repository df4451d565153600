"""A training step of a LoRA: ours beside diffusers with peft, on the same tiny shapes, in one run.

Each arm is a process of its own, in turn, several times over, so that memory is each one's own and a busy machine is
busy for all. `python benchmarks/lora.py --peft FOLDER` adds a folder with peft and accelerate to the path of its arms.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

DIM, HEADS, FFN, LAYERS, TEXT, WORDS = 512, 4, 2048, 6, 256, 512
LATENT = (1, 16, 5, 32, 32)
RANK, STEPS, ROUNDS = 8, 4, 3
ARMS = ("ours", "ours, all kept", "diffusers + peft", "diffusers + peft, all kept")


def ours(kept: bool) -> "object":
    """A step of ours as a function."""
    import torch

    from pasdedeux.animate.condition.wan import WanDenoiser, WanInputs
    from pasdedeux.models.wan import WanConfig, build_wan
    from pasdedeux.train.lora.layers import Shape, attach, branches_for, recompute
    from pasdedeux.train.lora.targets import chosen

    torch.manual_seed(0)
    config = WanConfig(dim=DIM, heads=HEADS, ffn_dim=FFN, layers=LAYERS, text_dim=TEXT)
    net = build_wan(config).to(torch.bfloat16).requires_grad_(False)
    branches = branches_for(net, chosen(net, "attention"), Shape(rank=RANK, alpha=RANK, targets="attention"), 0)
    again = recompute(() if kept else net.turns)
    again.__enter__()  # until the process ends
    attach(net, branches)
    masters = [p for branch in branches.values() for p in branch.parameters()]
    optimiser = torch.optim.AdamW(masters, lr=1e-4, foreach=True)
    text = torch.randn(1, WORDS, TEXT).bfloat16()

    def step() -> float:
        clean, noise, sigma = torch.randn(LATENT), torch.randn(LATENT), torch.rand(1)
        x = (1 - sigma) * clean + sigma * noise
        velocity = WanDenoiser(net)(x, sigma, WanInputs(prepare={"text": text}))
        loss = (velocity.float() - (noise - clean)).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.item()

    step.again = again  # type: ignore[attr-defined]
    return step


def theirs(kept: bool) -> "object":
    """A step of diffusers' transformer with peft's layers, as diffusers' own training scripts have it."""
    import torch
    from diffusers import WanTransformer3DModel
    from peft import LoraConfig

    torch.manual_seed(0)
    net = WanTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=DIM // HEADS,
        text_dim=TEXT,
        ffn_dim=FFN,
        num_layers=LAYERS,
    )
    net.to(torch.bfloat16).requires_grad_(False)
    names = ["to_q", "to_k", "to_v", "to_out.0"]
    net.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names))
    masters = [p for p in net.parameters() if p.requires_grad]
    for p in masters:
        p.data = p.data.float()
    if not kept:
        net.enable_gradient_checkpointing()
    net.train()
    optimiser = torch.optim.AdamW(masters, lr=1e-4, foreach=True)
    text = torch.randn(1, WORDS, TEXT).bfloat16()

    def step() -> float:
        clean, noise, sigma = torch.randn(LATENT), torch.randn(LATENT), torch.rand(1)
        x = (1 - sigma) * clean + sigma * noise
        with torch.autocast("cpu", torch.bfloat16):
            velocity = net(x.bfloat16(), 1000 * sigma, text, return_dict=False)[0]
        loss = (velocity.float() - (noise - clean)).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def arm(name: str) -> None:
    """One process: its seconds on a core for each step after the first, and how much the process grew by stepping."""
    make = ours if name.startswith("ours") else theirs
    step = make(name.endswith("kept"))
    before = _resident()
    step()  # type: ignore[operator]
    seconds = []
    for _ in range(STEPS):
        began = time.process_time()
        step()  # type: ignore[operator]
        seconds.append(time.process_time() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "grown": max(peak - before, 0), "peak": peak}))


def _resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def main(peft: Path | None, out: Path) -> None:
    """Every arm in turn, and a table."""
    paths = [os.environ.get("PYTHONPATH", ""), str(peft or "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    found: dict[str, list[dict[str, object]]] = {name: [] for name in ARMS}
    for _ in range(ROUNDS):
        for name in ARMS:
            command = [sys.executable, __file__, "--arm", name]
            run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            found[name].append(json.loads(run.stdout.splitlines()[-1]))
    out.write_text(page(found), encoding="utf-8")
    print(out.read_text(encoding="utf-8"))


def page(found: dict[str, list[dict[str, object]]]) -> str:
    """The results as a page."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    lines = [
        "# A training step of a LoRA",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit.stdout.strip()}, {platform.machine()}, "
        f"{os.cpu_count()} cores shared with other work, one thread, "
        f"load {', '.join(f'{x:.1f}' for x in os.getloadavg())}. `python benchmarks/lora.py`.",
        "",
        f"Width {DIM}, {LAYERS} blocks, latents {list(LATENT)} (1,280 tokens), {WORDS} words, bfloat16, rank {RANK} on "
        f"all attention projections, AdamW. {ROUNDS} processes of {STEPS} steps for each arm, by turns; the first step "
        "is not counted. Seconds are the process's own on a core, since others had most of the machine. Memory is "
        "what stepping adds to a process that has built model and LoRA, and the peak of all.",
        "",
        "| arm | core seconds a step: median (least to most) | memory added, MB: median | peak, MB |",
        "| --- | --- | --- | --- |",
    ]
    for name, runs in found.items():
        seconds = [s for run in runs for s in run["seconds"]]  # type: ignore[attr-defined]
        grown, peak = (statistics.median(run[key] for run in runs) / 1e6 for key in ("grown", "peak"))  # type: ignore[type-var]
        lines.append(
            f"| {name} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {grown:.0f} | "
            f"{peak:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--arm")
    parser.add_argument("--peft", type=Path)
    parser.add_argument(
        "--out", type=Path, default=Path(f"benchmarks/results/lora_cpu_{datetime.now(UTC):%Y-%m-%d}.md")
    )
    given = parser.parse_args()
    arm(given.arm) if given.arm else main(given.peft, given.out)
