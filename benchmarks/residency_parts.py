"""What residency.py's arms share: a pair with random weights, one job for all, its steps timed, and tables.

Weights are stretches of one pool of random values, so that no two are alike and none has to be drawn by itself; norms
are one. A job is a noise, its levels and its words; every arm computes the same one, so that latents can be compared.
"""

import math
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from pasdedeux.checkpoints.load import Value, on_meta, skeleton
from pasdedeux.checkpoints.tensors import LazyTensor, Weights
from pasdedeux.denoise import Expert, ExpertSet, Handoff, run, schedule
from pasdedeux.models.wan import WanConditions, WanConfig, WanTransformer
from pasdedeux.residency.stream import Streamed
from pasdedeux.residency.trace import steps_of, trace
from pasdedeux.residency.units import Unit, Use

NAMES = ("high noise", "low noise")
SHIFT, GUIDANCE = 12.0, 3.5
SPARE = 1 << 25  # random values more than the largest weight has: where in the pool a weight may begin
SMALL = WanConfig(dim=256, ffn_dim=704, heads=2, layers=6, text_dim=64, text_len=64)
Units = dict[Unit, dict[str, Value]]
Sigmas = tuple[float, ...]


def shapes_of(config: WanConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an expert's weights."""
    return {name: tuple(t.shape) for name, t in on_meta(lambda: WanTransformer(config)).state_dict().items()}


def drawn(config: WanConfig) -> list[Weights]:
    """Two experts of random bfloat16 weights, made when they are read."""
    shapes = shapes_of(config)
    largest = max(map(math.prod, shapes.values()))
    spare = min(SPARE, 64 * largest)
    pool = torch.randn(largest + spare, generator=torch.Generator().manual_seed(3)).mul_(0.02).bfloat16()
    starts = [7919 * k % spare for k in range(len(NAMES) * len(shapes))]
    experts = [starts[m :: len(NAMES)] for m in range(len(NAMES))]
    return [
        Weights(
            tensors={name: _stretch(name, shape, pool, k) for (name, shape), k in zip(shapes.items(), at, strict=True)},
            paths=(Path("random"),),
            container="safetensors",
        )
        for at in experts
    ]


def _stretch(name: str, shape: tuple[int, ...], pool: Tensor, start: int) -> LazyTensor:
    def read() -> Tensor:
        if "norm" in name and name.endswith("weight"):
            return torch.ones(shape, dtype=pool.dtype)
        return pool[start : start + math.prod(shape)].view(shape)

    return LazyTensor(shape=shape, dtype="bfloat16", nbytes=2 * math.prod(shape), read=read)


def bare_pair(config: WanConfig, weights: Sequence[Weights]) -> tuple[list[Streamed], Units]:
    """Both experts on meta, and what their units are to hold."""
    models, units = list[Streamed](), Units()
    for number, some in enumerate(weights):
        bare = skeleton(lambda: WanTransformer(config), some, dtype=torch.bfloat16)
        models.append(Streamed(bare.module, bare.module.turns))
        units |= models[-1].units(number, bare.values)
    return models, units


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """What every arm computes: `steps` steps of each expert on the noise x [1, C, F, H, W], guided or not.

    texts: two of [1, n, text_dim]; the second is the unguided one.
    """

    title: str
    config: WanConfig
    steps: int
    guided: bool
    device: str
    x: Tensor
    texts: tuple[Tensor, Tensor]

    @property
    def sigmas(self) -> Sigmas:
        """Noise levels."""
        return tuple(float(sigma) for sigma in schedule(2 * self.steps, shift=SHIFT))

    @property
    def handoff(self) -> Handoff:
        """Between the two halves of the steps."""
        return Handoff((sum(self.sigmas[self.steps - 1 : self.steps + 1]) / 2,))

    @property
    def uses(self) -> tuple[Use, ...]:
        """Of the blocks; trunks stay."""
        guidance = [GUIDANCE if self.guided else 1.0] * len(NAMES)
        runs = [(number, self.steps) for number in range(len(NAMES))]
        return trace(steps_of(runs, guidance), [self.config.layers] * len(NAMES))

    @property
    def latents(self) -> tuple[int, int, int]:
        """Frames, height, width."""
        frames, height, width = self.x.shape[2:]
        return frames, height, width

    @property
    def grid(self) -> tuple[int, int, int]:
        """The same in tokens."""
        f, h, w = (side // part for side, part in zip(self.latents, self.config.patch, strict=True))
        return f, h, w


def job_of(title: str, config: WanConfig, latents: Sequence[int], steps: int, guided: bool, device: str) -> Job:
    """A job with random noise and words, the same whenever its sizes are."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1, config.in_dim, *latents, generator=generator).to(device)
    texts = torch.randn(2, 1, config.text_len, config.text_dim, generator=generator).to(device)
    return Job(title=title, config=config, steps=steps, guided=guided, device=device, x=x, texts=(texts[0], texts[1]))


class Forward:
    """An expert as a denoiser. What it prepares of the words it keeps for its stretch of steps, and lets go then."""

    def __init__(self, net: WanTransformer, job: Job, before: Callable[[], None] | None = None) -> None:
        self._net, self._job, self._before = net, job, before
        self._kept: dict[int, WanConditions] = {}

    def __call__(self, x: Tensor, sigma: Tensor, cond: int, /) -> Tensor:
        return self._net(x, 1000 * sigma, self._prepared(cond))

    def each(self, x: Tensor, sigma: Tensor, conds: Sequence[int], /) -> tuple[Tensor, ...]:
        """Every block's turn for both conditions before the next block's."""
        return self._net.forward_each(x, 1000 * sigma, [self._prepared(cond) for cond in conds])

    def _prepared(self, cond: int) -> WanConditions:
        if cond not in self._kept:
            self._kept[cond] = self._net.prepare(text=self._job.texts[cond], grid=self._job.latents)
        return self._kept[cond]

    @contextmanager
    def residence(self) -> Iterator[None]:
        """Around the stretch: `before` first, which may move weights."""
        if self._before is not None:
            self._before()
        try:
            yield
        finally:
            self._kept.clear()


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """Seconds of every step, the device waited for, and the latent at the end; the handoff is in the middle."""

    seconds: tuple[float, ...]
    latent: Tensor

    @property
    def handoff(self) -> float:
        """Seconds of the step in which the second expert takes over."""
        return self.seconds[len(self.seconds) // 2]

    @property
    def plain(self) -> tuple[float, ...]:
        """Seconds of the steps that no expert begins with."""
        return tuple(s for i, s in enumerate(self.seconds) if i not in (0, len(self.seconds) // 2))


def denoised(
    job: Job, nets: Sequence[WanTransformer], before: Sequence[Callable[[], None] | None] = (None, None)
) -> Ran:
    """The job through denoise.run, each step timed from the end of the last. before: called at an expert's turn."""
    forwards = [Forward(net, job, call) for net, call in zip(nets, before, strict=True)]
    guidance = GUIDANCE if job.guided else 1.0
    experts = [Expert(f, name, guidance, f.residence) for f, name in zip(forwards, NAMES, strict=True)]
    steps = run(ExpertSet(tuple(experts), job.handoff), job.x, job.sigmas, cond=0, uncond=1 if job.guided else None)
    seconds, latent = list[float](), job.x
    wait(job.device)
    began = perf_counter()
    with closing(steps):
        for step in steps:
            wait(job.device)
            now = perf_counter()
            seconds.append(now - began)
            began, latent = now, step.x
    return Ran(tuple(seconds), latent.cpu())


def wait(device: str) -> None:
    """For all that a GPU has been given to compute, but not for what it copies beside that: later steps need it."""
    if device.startswith("cuda"):
        torch.cuda.current_stream().synchronize()


def spread(values: Sequence[float]) -> str:
    """ "median (least to most)"."""
    return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def commit() -> str:
    """The commit this tree stands at, and whether it was changed since; where git knows."""
    if shutil.which("git") is None:
        return "unknown"
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def nets_of(models: Sequence[Streamed]) -> list[WanTransformer]:
    """The networks themselves."""
    return [model.module for model in models if isinstance(model.module, WanTransformer)]


def available(device: str) -> int:
    """Bytes that may be taken: of a GPU's memory, or the host's."""
    return torch.cuda.mem_get_info()[0] if device.startswith("cuda") else _meminfo("MemAvailable")


def memory_total() -> int:
    """Bytes of host memory."""
    return _meminfo("MemTotal")


def _meminfo(name: str) -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return 1024 * int(dict(line.split(":", 1) for line in lines)[name].split()[0])
