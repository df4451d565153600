"""The 14B pair at its true size, without its weights: write, open, load and run what has its names and shapes.

An expert of random bfloat16 weights (28.6 GB) is written in the native layout, opened, run for two forward passes at a
small token count with its weights mapped from the disk (or, with --device cuda, loaded whole), and removed. Where the
disk does not hold two experts, the second is a file of the same header and size without content, which can be opened
but not run. With --convert a pair without content (57 GB to read, all zeros) is first converted to fp8_scaled.

    python benchmarks/true_size.py --folder FOLDER     # 30 GB free for one expert, 60 GB for both
"""

import argparse
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, sleep

import torch

from pasdedeux.checkpoints.bundle import find_bundle
from pasdedeux.checkpoints.convert import Target, convert_pair
from pasdedeux.checkpoints.formats.writers import write_safetensors
from pasdedeux.checkpoints.load import load_weights, on_meta
from pasdedeux.checkpoints.tensors import LazyTensor
from pasdedeux.models.wan import WAN_MODELS, WanConfig, WanTransformer

RESULTS = Path(__file__).parent / "results"
FOLDERS = ("high_noise_model", "low_noise_model")
FILE = "diffusion_pytorch_model.safetensors"
FAMILY = "wan2.2-t2v-a14b"
DRAWN = 1 << 24  # random values; a weight is a stretch of them, so that no two weights are alike
KINDS = {"Rss": "VmRSS", "anonymous": "RssAnon", "mapped": "RssFile"}


@dataclass(slots=True)
class Memory:
    """The process's memory, watched while a block runs: peaks in bytes."""

    peaks: dict[str, int] = field(default_factory=dict)

    def look(self) -> None:
        """Take in this moment."""
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        now = dict(line.split(":", 1) for line in lines)
        for kind, name in KINDS.items():
            self.peaks[kind] = max(self.peaks.get(kind, 0), int(now[name].split()[0]) * 1024)


@contextmanager
def watched() -> Iterator[Memory]:
    """Peaks of the block, looked for twenty times a second."""
    memory, over = Memory(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            memory.look()
            sleep(0.05)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def tensors(config: WanConfig, seed: int) -> dict[str, LazyTensor]:
    """Every weight of the model, made when it is read: random matrices, norms of one."""
    pool = (torch.randn(2 * DRAWN, generator=torch.Generator().manual_seed(seed)) * 0.02).bfloat16()
    shapes = {name: tuple(t.shape) for name, t in on_meta(lambda: WanTransformer(config)).state_dict().items()}
    return {name: lazy(name, shape, pool, 7919 * k) for k, (name, shape) in enumerate(shapes.items())}


def lazy(name: str, shape: tuple[int, ...], pool: torch.Tensor, start: int) -> LazyTensor:
    """One weight."""
    count = torch.Size(shape).numel()

    def read() -> torch.Tensor:
        if "norm" in name and name.endswith("weight"):
            return torch.ones(shape, dtype=torch.bfloat16)
        parts, at, left = [], start % DRAWN, count
        while left:
            parts.append(pool[at : at + min(left, DRAWN)])
            left, at = left - len(parts[-1]), (at + 104729) % DRAWN
        return torch.cat(parts).view(shape)

    return LazyTensor(shape=shape, dtype="bfloat16", nbytes=2 * count, read=read)


def write(folder: Path, config: WanConfig, whole: int) -> None:
    """The pair: `whole` experts with content, the other of the same header and length without."""
    for k, name in enumerate(FOLDERS):
        (folder / name).mkdir(parents=True)
        path = folder / name / FILE
        if k < whole:
            write_safetensors(path, tensors(config, k), {}, lambda tensor: None)
        else:
            hollow(config, path)


def hollow(config: WanConfig, path: Path) -> None:
    """A file with an expert's header and length, and holes where its values would be."""
    entries, end = {}, 0
    for name, tensor in tensors(config, 0).items():
        entries[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = perf_counter()
    work()
    return perf_counter() - began


def forward(
    net: WanTransformer, grid: tuple[int, int, int], repeats: int, device: str
) -> tuple[list[float], list[torch.Tensor]]:
    """Seconds and results of as many forward passes of the same latents, the preparation of the text in the first."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1, net.config.in_dim, *grid, generator=generator).to(device)
    text = torch.randn(1, 16, net.config.text_dim, generator=generator).to(device)
    seconds, made, cond = [], [], None
    for _ in range(repeats):
        began = perf_counter()
        cond = cond or net.prepare(text=text, grid=grid)
        made.append(net(x, torch.tensor([900.0], device=device), cond).cpu())
        seconds.append(perf_counter() - began)
    return seconds, made


def converted(folder: Path, config: WanConfig) -> list[tuple[str, str]]:
    """A pair without content into ComfyUI's fp8_scaled: seconds, and how much memory that took."""
    source, out = folder / "hollow", folder / "fp8_scaled"
    for name in FOLDERS:
        (source / name).mkdir(parents=True)
        hollow(config, source / name / FILE)
    bundle = find_bundle(source)
    high, low = (expert.weights for expert in bundle.experts)
    target = Target(dialect="comfyui", container="safetensors", dtype="fp8_scaled")
    with watched() as memory:
        seconds = timed(lambda: convert_pair(high, low, target, out / "wan", bounds=bundle.bounds))
    read, made = high.nbytes + low.nbytes, sum(path.stat().st_size for path in out.iterdir())
    shutil.rmtree(folder)
    peaks = ", ".join(f"{kind} {peak / 1e9:.2f} GB" for kind, peak in memory.peaks.items())
    what = f"convert {read / 1e9:.1f} GB of bfloat16 (zeros) to {made / 1e9:.1f} GB of fp8_scaled"
    return [(what, f"{seconds:.0f} s; peak memory: {peaks}")]


def measure(folder: Path, config: WanConfig, options: argparse.Namespace) -> list[tuple[str, str]]:
    """Every figure of the pair that is written and run, named."""
    size = sum(t.nbytes for t in tensors(config, 0).values())
    whole = 2 if shutil.disk_usage(folder.parent).free > 2.1 * size else 1
    rows = [("experts written whole", f"{whole} of 2, {size / 1e9:.2f} GB each, {options.blocks} blocks")]
    rows.append(("write", f"{timed(lambda: write(folder, config, whole)):.0f} s"))
    opening = [timed(lambda: find_bundle(folder)) for _ in range(5)]
    rows.append(
        ("open the pair", f"{statistics.median(opening):.3f} s ({min(opening):.3f} to {max(opening):.3f}), n = 5")
    )
    bundle = find_bundle(folder)
    weights, device = bundle.experts[0].weights, options.device
    rows.append(("what it was taken for", f"{bundle.family.name}, {len(bundle.experts)} experts"))
    with watched() as memory, torch.no_grad():
        began = perf_counter()
        net = load_weights(lambda: WanTransformer(config), weights, dtype=torch.bfloat16, device=device)
        rows.append((f"load an expert, {'mapped' if device == 'cpu' else device}", f"{perf_counter() - began:.2f} s"))
        seconds, made = forward(net, tuple(options.grid), options.repeats, device)
    tokens = torch.Size(net.token_grid(tuple(options.grid))).numel()
    rows.append((f"forward at {tokens} tokens", ", ".join(f"{s:.0f} s" for s in seconds)))
    rows += [(f"peak memory, {kind}", f"{peak / 1e9:.2f} GB") for kind, peak in memory.peaks.items()]
    if device != "cpu":
        rows.append(("peak device memory", f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB"))
    rows.append(("page faults that read the disk", f"{resource.getrusage(resource.RUSAGE_SELF).ru_majflt:,}"))
    same = all(torch.equal(made[0], other) for other in made[1:])
    rows.append(("results finite, and the same each time", f"{bool(made[0].isfinite().all())}, {same}"))
    return rows


def told() -> list[str]:
    """The command's words, without where the weights lay."""
    words = sys.argv[1:]
    k = words.index("--folder") if "--folder" in words else len(words)
    return [*words[:k], "--folder", "FOLDER", *words[k + 2 :]]


def heading(today: str) -> str:
    """How the figures came about."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    memory = int(Path("/proc/meminfo").read_text(encoding="ascii").split()[1]) / 1e6
    return (
        f"# The 14B pair at its true size, {today}\n\n"
        f"`python benchmarks/true_size.py {' '.join(told())}` at commit {commit}; torch {torch.__version__}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads, {memory:.0f} GB of memory.\n"
        "Random weights with the names and shapes of Wan2.2-T2V-A14B, bfloat16. An expert without content has the "
        "header and length of the other; it is opened, never run.\n\n"
    )


def main() -> None:
    """Measure, print, write, and remove what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the weights may lie meanwhile")
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--grid", type=int, nargs=3, default=(1, 16, 16), help="latent frames, height, width")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--convert", action="store_true", help="also convert a pair of zeros, 29 GB to write")
    options = parser.parse_args()
    folder = options.folder / "true_size_pair"
    try:
        config = replace(WAN_MODELS[FAMILY], layers=options.blocks)
        rows = converted(folder, config) if options.convert else []
        rows += measure(folder, config, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table = "\n".join(["| what | measured |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])
    print(table)
    today = datetime.now(UTC).date().isoformat()
    path = RESULTS / f"true_size_{options.device.replace(':', '')}_{today}.md"
    path.write_text(heading(today) + table + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
