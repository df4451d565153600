"""Seconds per frame and peak memory of the Wan VAE, beside diffusers where that is installed.

Weights are random, since neither time nor memory depends on them; tests/parity compares the numbers.
Decoding lets go of each chunk once it is made, as a video writer would; diffusers returns the whole video.
Peak memory is what one call adds to weights and input: what the allocator hands out on CUDA, bytes of live
tensors on the CPU, which leaves out the workspaces of convolutions.

Run: python benchmarks/vae.py --width 128 --height 96 --frames 9 --dtype float32
"""

import argparse
import platform
import shlex
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pasdedeux.models.vae import VAEConfig, WanVAE

RESULTS = Path(__file__).parent / "results"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One implementation doing one thing: seconds of every repeat, and the most bytes it added."""

    what: str
    who: str
    seconds: list[float]
    peak: int

    def cells(self, frames: int) -> str:
        """A line of the table; time is the median with the fastest and slowest, per frame of video."""
        low, mid, high = (
            1e3 * s / frames for s in (min(self.seconds), statistics.median(self.seconds), max(self.seconds))
        )
        return f"| {self.what} | {self.who} | {mid:.1f} ({low:.1f} to {high:.1f}) | {self.peak / 2**20:,.1f} |"


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors made inside it and still alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.holders: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._watch(tensor)
        return out

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self.now += 0 if key in self.holders else size
        self.peak = max(self.peak, self.now)
        self.holders[key] = self.holders.get(key, 0) + 1
        weakref.finalize(tensor, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.holders[key] -= 1
        if not self.holders[key]:
            del self.holders[key]
            self.now -= size


def peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """The most bytes that one call of `work` holds beyond what was there."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as live:
        work()
    return live.peak


def seconds(work: Callable[[], None], device: torch.device, repeats: int) -> list[float]:
    """Wall-clock seconds of each of `repeats` calls, with the device idle before and after."""

    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return [once() for _ in range(repeats)]


def ours(args: argparse.Namespace, video: Tensor, latent: Tensor) -> Iterator[tuple[str, Callable[[], None]]]:
    """What this project does: (name, work)."""
    vae = WanVAE(VAEConfig(dim=args.dim)).to(video)

    def decode() -> None:
        for _chunk in vae.decode_frames(latent):
            pass

    yield "encode", lambda: void(vae.encode(video))
    yield "decode", decode


def diffusers(args: argparse.Namespace, video: Tensor, latent: Tensor) -> Iterator[tuple[str, Callable[[], None]]]:
    """The same from AutoencoderKLWan, untiled."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    vae = AutoencoderKLWan(base_dim=args.dim).to(video)  # pyright: ignore[reportArgumentType]
    yield "encode", lambda: void(vae.encode(video))
    yield "decode", lambda: void(vae.decode(latent))


def void(_result: object) -> None:
    """Let go of a result."""


@torch.inference_mode()
def measure(args: argparse.Namespace) -> list[Row]:
    """Every implementation at every task, in one run, one model at a time."""
    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    torch.manual_seed(0)
    video = torch.rand(1, 3, args.frames, args.height, args.width, device=device, dtype=dtype) * 2 - 1
    latent_shape = (1, 16, 1 + (args.frames - 1) // 4, args.height // 8, args.width // 8)
    latent = torch.randn(latent_shape, device=device, dtype=dtype)
    makers = [("pasdedeux", ours)] + ([("diffusers", diffusers)] if find_spec("diffusers") else [])
    rows = []
    for who, make in makers:
        for what, work in make(args, video, latent):
            peak = peak_bytes(work, device)  # also warms up
            rows.append(Row(what=what, who=who, seconds=seconds(work, device, args.repeats), peak=peak))
    return sorted(rows, key=lambda row: row.what)


def device_name(device: torch.device) -> str:
    """The accelerator's own name, or the processor's kind with the threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def commit() -> str:
    """The commit this was measured at, marked where the tree had changes."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def report(args: argparse.Namespace, rows: list[Row]) -> str:
    """The record as Markdown: what was measured, where, how often, and the table."""
    size = f"{args.width}x{args.height}, {args.frames} frames, {args.dtype}, base width {args.dim}"
    lines = [
        f"# Wan VAE on {device_name(torch.device(args.device))}",
        "",
        f"- {datetime.now(UTC):%Y-%m-%d}, commit {commit()}, torch {torch.__version__}",
        f"- {size}; n = {args.repeats}",
        f"- `python benchmarks/vae.py {shlex.join(sys.argv[1:])}`",
        "",
        "| task | by | ms per frame: median (fastest to slowest) | peak MiB beyond weights and input |",
        "| --- | --- | --- | --- |",
        *(row.cells(args.frames) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def save(text: str, device: torch.device) -> Path:
    """Write the record to benchmarks/results under the device and the date."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    slug = "-".join(name.lower().split())
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"vae_{slug}_{datetime.now(UTC):%Y-%m-%d}.md"
    path.write_text(text)
    return path


def main() -> None:
    """Measure, print the table, and with --save keep it."""
    parser = argparse.ArgumentParser(description="Seconds per frame and peak memory of the Wan VAE.")
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--frames", type=int, default=81, help="1 plus a multiple of 4")
    parser.add_argument("--dim", type=int, default=96, help="base width; 96 is Wan 2.1")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="also write results/vae_<device>_<date>.md")
    args = parser.parse_args()
    text = report(args, measure(args))
    sys.stdout.write(text)
    if args.save:
        sys.stdout.write(f"\nwritten to {save(text, torch.device(args.device))}\n")


if __name__ == "__main__":
    main()
