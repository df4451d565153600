"""The built-in pair, and folders like it, as what is tuned: filmed clips, and the loss it was trained with.

Where the clips differ from what the pair knows everywhere in the picture, as a style does, the deviation that it
expects around its base is no longer true; it is measured anew, and is part of the LoRA.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pasdedeux.checkpoints.folder import Manifest, load_codec, load_expert, read_manifest
from pasdedeux.denoise import Handoff
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer
from pasdedeux.train.bands import Band, bands
from pasdedeux.train.clips import load
from pasdedeux.train.codec import residual_spread
from pasdedeux.train.loop import Batch, collate, cropped, expert_loss
from pasdedeux.train.lora.run import Draw, Lesson

HANDED = 0.3
"""Share of samples whose first one or two latent frames are given, as in a later segment."""
FIGURE = np.uint8(128)
"""What a clip's attention is on the figure (`train.clips`)."""
CHANGED = 2.0
"""How many times another the measured deviation must be in some region to be taken over."""


@dataclass(kw_only=True, slots=True, eq=False)
class DuetSubject:
    """A model folder and the filmed clips it learns from: `batch` stretches of `frames` (1 + 4k) a step.

    window: width to which clips are cropped around the figure, None for all of it. even: whether the place counts as
    much as the figure, as it must where all of the picture changes.
    """

    folder: Path
    manifest: Manifest
    codec: PatchCodec
    clips: tuple[Path, ...]
    held_clips: tuple[Path, ...]
    spread: Tensor
    batch: int = 4
    frames: int = 5
    window: int | None = None
    even: bool = False
    device: str = "cpu"

    @property
    def names(self) -> tuple[str, ...]:
        """As the manifest has them."""
        return tuple(expert.name for expert in self.manifest.experts)

    @property
    def bands(self) -> tuple[Band, ...]:
        """Those in which the manifest's sampler uses each expert."""
        return bands(Handoff(self.manifest.bounds), self.manifest.shift)

    @property
    def held(self) -> int:
        """Lessons that are held out."""
        return len(self.held_clips)

    def open(self, position: int) -> DuetTransformer:
        """An expert, mapped from its file."""
        module = load_expert(self.folder, self.manifest, self.manifest.experts[position], self.device)
        module.spread = self.spread.to(module.spread)
        return module

    def lesson(self, draw: Draw) -> Lesson:
        """Stretches of clips, a function of the draw."""
        chooser = np.random.default_rng([draw.seed, draw.position, abs(draw.step), int(draw.step < 0)])
        if draw.step < 0:
            paths = [self.held_clips[(-1 - draw.step) % len(self.held_clips)]]
        else:
            paths = [self.clips[i] for i in chooser.integers(0, len(self.clips), self.batch)]
        stretch = []
        for path in paths:
            total = np.load(path, mmap_mode="r").shape[0]
            clip = load(path, int(chooser.integers(0, total - self.frames + 1)), self.frames)
            if self.even:
                clip = replace(clip, attention=np.maximum(clip.attention, FIGURE))
            stretch.append(cropped(clip, self.window, self.codec.stride[2]) if self.window else clip)
        most = (self.frames - 1) // self.codec.stride[0]
        handed = [min(int(chooser.integers(1, 3)), most) if chooser.random() < HANDED else 0 for _ in stretch]
        data = collate(stretch, self.codec, handed, self.manifest.compute)
        generator = draw.generator()
        sigma = self.bands[draw.position].draw(len(paths), generator)
        noise = torch.randn(data.clean.shape, generator=generator)
        return Lesson(data=(data, noise), sigma=sigma, clips=tuple(path.name for path in paths))

    def loss(self, module: nn.Module, lesson: Lesson) -> Tensor:
        """That of `train.loop`."""
        data: Batch
        data, noise = lesson.data
        assert isinstance(module, DuetTransformer)
        d = self.device
        return expert_loss(module, data.to(d), lesson.sigma.to(d), noise.to(d))

    def differences(self, position: int) -> dict[str, Tensor]:
        """The deviation, where it was measured anew."""
        file = self.manifest.experts[position]
        own = load_expert(self.folder, self.manifest, file).spread.float()
        return {} if torch.equal(own, self.spread) else {"spread": self.spread - own}


def open_duet(folder: Path, clips: list[Path], held: int, **settings: object) -> DuetSubject:
    """A model folder and clips, the last `held` of which judge. Raises ValueError where there are too few."""
    manifest = read_manifest(folder)
    if len(clips) <= held:
        raise ValueError(f"There are {len(clips)} clips, and {held} are held out; some must be left to learn from.")
    codec = load_codec(folder, manifest)
    own = load_expert(folder, manifest, manifest.experts[0]).spread.float()
    learnt = tuple(clips[: len(clips) - held])
    measured = residual_spread(codec, list(learnt), 0, count=min(8 * len(learnt), 200)).to(manifest.compute).float()
    ratio = (measured.square().mean(1) / own.square().mean(1)).sqrt()
    spread = measured if bool((ratio > CHANGED).any()) else own
    return DuetSubject(
        folder=folder,
        manifest=manifest,
        codec=codec,
        clips=learnt,
        held_clips=tuple(clips[len(clips) - held :]),
        spread=spread,
        **settings,  # type: ignore[arg-type]
    )
