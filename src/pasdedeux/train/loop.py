"""One training loop for any expert of the built-in kind: a band of noise levels, AdamW, an average, exact resume.

Everything random at a step is drawn from generators seeded by (seed, step), so a run that is stopped and resumed from
its checkpoint goes on bit for bit as if it had not been stopped. Weights are kept in float32 ("masters"); the model
that computes is bfloat16 (or float32), refreshed from the masters at every step.
"""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from pasdedeux.animate.condition.duet import Planes, segment_inputs, video_tensor
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import TOUCHED, DuetInputs, DuetTransformer
from pasdedeux.train.bands import Band
from pasdedeux.train.clips import StoredClip
from pasdedeux.train.codec import batch as draw_clips
from pasdedeux.train.codec import pixel_weights

NEAR_ENOUGH = 0.1
"""Distance of a token, in deviations of what is carried or filled in, below which its square is what counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A run of one expert. Learning rate: linear warm-up, constant, then linear to zero over the last `cooldown` steps.

    `handed` is the share of samples whose first one or two latent frames are given, as in a later segment. `window`
    crops clips to so many pixels of width around the figure: what lies far from it is known and teaches nothing.
    """

    seed: int = 0
    steps: int = 4000
    batch: int = 4
    frames: int = 9
    rate: float = 1e-3
    warmup: int = 100
    cooldown: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    average: float = 0.995
    clip: float = 1.0
    handed: float = 0.3
    window: int | None = None
    dtype: str = "bfloat16"
    device: str = "cpu"
    readers: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Model inputs, clean latents [B, C, F, h, w] and loss weights per token [B, 1, F, h, w]."""

    inputs: DuetInputs
    clean: Tensor
    weight: Tensor

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        return Batch(inputs=self.inputs.to(device), clean=self.clean.to(device), weight=self.weight.to(device))


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One finished step: its number, loss, the learning rate used and the gradient's norm."""

    step: int
    loss: float
    rate: float
    norm: float


def cropped(clip: StoredClip, width: int, grid: int) -> StoredClip:
    """`width` columns of a clip around its person and its reference's, starting at a multiple of `grid`."""
    interest = (clip.attention > 0).sum((0, 1)) / len(clip.attention) + (clip.planes.reference[..., 3] > 0).sum(0)
    middle = float(np.average(np.arange(len(interest)), weights=interest + 1e-6))
    start = int(np.clip(round((middle - width / 2) / grid) * grid, 0, len(interest) - width))
    columns = slice(start, start + width)
    p = clip.planes
    scene, carried, pose, face = (a[:, :, columns] for a in (p.scene, p.carried, p.pose, p.face))
    planes = Planes(scene=scene, carried=carried, pose=pose, face=face, reference=p.reference[:, columns].copy())
    return StoredClip(planes=planes, truth=clip.truth[:, :, columns], attention=clip.attention[:, :, columns])


def collate(clips: list[StoredClip], codec: PatchCodec, handed: list[int], dtype: torch.dtype) -> Batch:
    """Clips of equal length to one batch; `handed` latent frames of each are given as known."""
    truths = codec.encode(torch.cat([video_tensor(c.truth) for c in clips]))
    inputs = [
        segment_inputs(c.planes, codec, truths[i : i + 1, :, :n] if n else None, dtype)
        for i, (c, n) in enumerate(zip(clips, handed, strict=True))
    ]
    joined = DuetInputs(
        planes=torch.cat([x.planes for x in inputs]),
        reference=torch.cat([x.reference for x in inputs]),
        base=torch.cat([x.base for x in inputs]),
        known=torch.cat([x.known for x in inputs]),
        region=torch.cat([x.region for x in inputs]),
    )
    weight = token_weights(torch.from_numpy(np.stack([c.attention for c in clips])), codec)
    return Batch(inputs=joined, clean=truths, weight=weight * (1 - joined.known.float()))


def token_weights(attention: Tensor, codec: PatchCodec) -> Tensor:
    """[B, T, H, W] attention bytes to mean loss weights [B, 1, F, h, w] of the latents that cover them."""
    first, later = codec.patches(pixel_weights(attention)[:, None].expand(-1, 3, -1, -1, -1))
    return rearrange(torch.cat([first.mean(-1), later.mean(-1)], dim=1), "B F h w -> B 1 F h w")


def expert_loss(model: DuetTransformer, data: Batch, sigma: Tensor, noise: Tensor) -> Tensor:
    """Weighted mean pseudo-Huber distance of the network's output from its target at noise levels sigma [B].

    The target is the clean residual around base in units of its deviation. Channels and regions weigh in by the square
    of that deviation, so that the error counts in the latents' own units; tokens weigh in by what they show. A token
    counts by its distance and no longer by its square where that is large (Charbonnier et al. 1994): what cannot be
    known, such as the back of a head, does not drown what can.
    """
    level = sigma[:, None, None, None, None]
    cond = model.prepare(data.inputs)
    deviation = model.deviation(cond.region)
    target = (data.clean - cond.base.float()) / deviation
    _, raw = model.predict((1 - level) * data.clean + level * noise, sigma, cond)
    importance = deviation.square() / model.spread[TOUCHED].float().square().mean()
    square = ((raw - target).square() * importance).mean(1, keepdim=True)
    per_token = (square + NEAR_ENOUGH**2).sqrt() - NEAR_ENOUGH
    return (per_token * data.weight).sum() / data.weight.sum()


class Trainer:
    """The state of one expert's training, and its step."""

    def __init__(self, model: DuetTransformer, codec: PatchCodec, band: Band, config: TrainConfig) -> None:
        self.config, self.band, self.codec = config, band, codec
        self.model = model.to(config.device, getattr(torch, config.dtype))
        self.names = [name for name, _ in model.named_parameters()]
        self.masters = [p.detach().float().clone().requires_grad_() for p in model.parameters()]
        self.average = [p.detach().clone() for p in self.masters]
        decayed = [p for p in self.masters if p.ndim > 1]
        plain = [p for p in self.masters if p.ndim <= 1]
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups, lr=config.rate, betas=config.betas, weight_decay=config.weight_decay, foreach=True
        )
        self.step_number = 0

    def start_from(self, masters: list[Tensor]) -> None:
        """Take weights from elsewhere, for instance the trunk's; moments start anew."""
        with torch.no_grad():
            for own, average, given in zip(self.masters, self.average, masters, strict=True):
                own.copy_(given)
                average.copy_(given)

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        c = self.config
        left = (c.steps - step) / c.cooldown if c.cooldown else 1.0
        return c.rate * min(1.0, (step + 1) / max(c.warmup, 1), max(left, 0.0))

    def batch_for(self, step: int, clips: list[Path]) -> tuple[Batch, Tensor, Tensor]:
        """The data, noise levels and noise of a step: a function of (seed, step) and the clips alone."""
        c = self.config
        chooser = np.random.default_rng([c.seed, step])
        stretch = list(draw_clips(clips, chooser, c.batch, c.frames))
        if c.window:
            stretch = [cropped(clip, c.window, self.codec.stride[2]) for clip in stretch]
        most = 1 + (c.frames - 1) // self.codec.stride[0]
        handed = [int(chooser.integers(1, 3)) if chooser.random() < c.handed else 0 for _ in stretch]
        handed = [min(n, most - 1) for n in handed]
        data = collate(stretch, self.codec, handed, getattr(torch, c.dtype))
        generator = torch.Generator().manual_seed(c.seed * 1_000_003 + step)
        sigma = self.band.draw(c.batch, generator)
        return data, sigma, torch.randn(data.clean.shape, generator=generator)

    def step(self, data: Batch, sigma: Tensor, noise: Tensor) -> Progress:
        """One optimiser step. Raises FloatingPointError when the loss is not finite, before anything is changed."""
        with torch.no_grad():
            for p, master in zip(self.model.parameters(), self.masters, strict=True):
                p.copy_(master)
        device = self.config.device
        loss = expert_loss(self.model, data.to(device), sigma.to(device), noise.to(device))
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.step_number}")
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        for master, p in zip(self.masters, self.model.parameters(), strict=True):
            master.grad = torch.zeros_like(master) if p.grad is None else p.grad.float()
        norm = nn.utils.clip_grad_norm_(self.masters, self.config.clip)
        rate = self.rate(self.step_number)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step_number += 1
        decay = min(self.config.average, self.step_number / (self.step_number + 9))
        with torch.no_grad():
            for average, master in zip(self.average, self.masters, strict=True):
                average.lerp_(master, 1 - decay)
        return Progress(step=self.step_number, loss=loss.item(), rate=rate, norm=float(norm))

    def run(self, clips: list[Path]) -> Iterator[Progress]:
        """Train to the configured number of steps; the next batches are read while this one computes."""
        ahead = iter(range(self.step_number, self.config.steps))
        with ThreadPoolExecutor(max_workers=self.config.readers) as pool:
            waiting = deque(pool.submit(self.batch_for, k, clips) for k in islice(ahead, self.config.readers))
            try:
                while waiting:
                    data = waiting.popleft().result()
                    waiting.extend(pool.submit(self.batch_for, k, clips) for k in islice(ahead, 1))
                    yield self.step(*data)
            finally:
                for job in waiting:
                    job.cancel()

    def state(self) -> dict[str, object]:
        """Everything that resuming needs."""
        return {
            "masters": self.masters,
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step_number,
            "config": asdict(self.config),
            "band": asdict(self.band),
            "spread": self.model.spread.float(),
        }

    def save(self, path: Path) -> None:
        """Write the state so that an interrupted write loses nothing."""
        partial = path.with_suffix(".partial")
        torch.save(self.state(), partial)
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from a saved state."""
        state = torch.load(path, weights_only=True)
        with torch.no_grad():
            for kept, given in ((self.masters, state["masters"]), (self.average, state["average"])):
                for own, value in zip(kept, given, strict=True):
                    own.copy_(value)
        self.optimiser.load_state_dict(state["optimiser"])
        self.step_number = int(state["step"])

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights by name, float32, and the model's measured buffers."""
        weights = dict(zip(self.names, (a.clone() for a in self.average), strict=True))
        return weights | {"spread": self.model.spread.float().clone()}
