"""The built-in pair, and folders like it, as what is tuned: filmed clips, and the loss it was trained with.

Where the clips differ from what the pair knows everywhere in the picture, as a style does, the deviation that it
expects around its base is no longer true; it is measured anew, and is part of the LoRA.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pasdedeux.checkpoints.folder import Manifest, load_codec, load_expert, read_manifest
from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors
from pasdedeux.checkpoints.lora.base import base_hash
from pasdedeux.denoise import Handoff
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer
from pasdedeux.train.bands import Band, bands
from pasdedeux.train.batches import Batch, taught
from pasdedeux.train.clips import stretch
from pasdedeux.train.codec import residual_spread
from pasdedeux.train.lora.subject import Draw, Lesson
from pasdedeux.train.losses import expert_loss
from pasdedeux.train.saving import whole_file

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

    def keep(self, path: Path) -> None:
        """Write the deviation for whoever goes on, unless it is there. Raises SaveError where the disk is full."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                file.write(save({"spread": self.spread}))

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

    def on(self, device: str) -> Self:
        """The same, computing on a device."""
        return replace(self, device=device)

    @contextmanager
    def opened(self, position: int, passes: Sequence[bool]) -> Iterator[DuetTransformer]:
        """An expert, mapped from its file; it is small, so all of it is there for all passes."""
        module = load_expert(self.folder, self.manifest, self.manifest.experts[position], self.device)
        module.spread = self.spread.to(module.spread)
        yield module

    def base(self, position: int) -> str:
        """See `Subject`."""
        return base_hash(open_safetensors(self.folder / self.manifest.experts[position].file))

    def lesson(self, draw: Draw) -> Lesson:
        """Stretches of clips, a function of the draw."""
        chooser = np.random.default_rng([draw.seed, draw.position, abs(draw.step), int(draw.step < 0)])
        if draw.step < 0:
            paths = [self.held_clips[(-1 - draw.step) % len(self.held_clips)]]
        else:
            paths = [self.clips[i] for i in chooser.integers(0, len(self.clips), self.batch)]
        clips = [stretch(path, chooser, self.frames) for path in paths]
        if self.even:
            clips = [replace(clip, attention=np.maximum(clip.attention, FIGURE)) for clip in clips]
        dtype = self.manifest.compute
        data = taught(clips, self.codec, chooser, window=self.window, handed=HANDED, dtype=dtype)
        generator = draw.generator()
        sigma = self.bands[draw.position].draw(len(paths), generator)
        noise = torch.randn(data.clean.shape, generator=generator)
        return Lesson(data=(data, noise), sigma=sigma, clips=tuple(path.name for path in paths))

    def loss(self, module: nn.Module, lesson: Lesson) -> Tensor:
        """That of the experts' own training."""
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


def open_duet(
    folder: Path, clips: list[Path], held: int, *, kept: Path | None = None, **settings: object
) -> DuetSubject:
    """A model folder and clips, the last `held` of which judge. Raises ValueError where there are too few.

    kept: where a run keeps the deviation that it began with (`DuetSubject.keep`); measured where there is none yet.
    """
    manifest = read_manifest(folder)
    if len(clips) <= held:
        raise ValueError(f"There are {len(clips)} clips, and {held} are held out; some must be left to learn from.")
    codec = load_codec(folder, manifest)
    learnt = tuple(clips[: len(clips) - held])
    if kept is not None and kept.exists():
        spread = load_file(kept)["spread"]
    else:
        spread = measured_spread(folder, manifest, codec, learnt)
    return DuetSubject(
        folder=folder,
        manifest=manifest,
        codec=codec,
        clips=learnt,
        held_clips=tuple(clips[len(clips) - held :]),
        spread=spread,
        **settings,  # type: ignore[arg-type]
    )


def measured_spread(folder: Path, manifest: Manifest, codec: PatchCodec, clips: tuple[Path, ...]) -> Tensor:
    """[3, C] the deviation on these clips where it is much another than the pair's own, else the pair's own."""
    own = load_expert(folder, manifest, manifest.experts[0]).spread.float()
    measured = residual_spread(codec, list(clips), 0, count=min(8 * len(clips), 200)).to(manifest.compute).float()
    ratio = (measured.square().mean(1) / own.square().mean(1)).sqrt()
    return measured if bool((ratio > CHANGED).any()) else own
