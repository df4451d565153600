"""Clips encoded for a Wan model and kept: latents, the conditions its stage draws, embedded captions.

For a model that follows a performance a raw clip is enough: the project's own preparation finds who is in it and how
they move; the first frame is the character's picture.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pasdedeux.animate.condition.wan import Bytes, Prompts, VideoVAE, WanInputs, encode, to_video
from pasdedeux.animate.condition.wan_animate import AnimateStage
from pasdedeux.animate.condition.wan_control import ControlStage
from pasdedeux.animate.condition.wan_drivers import Drivers, draw_drivers
from pasdedeux.animate.condition.wan_image import ImageStage
from pasdedeux.animate.condition.wan_text import TextStage
from pasdedeux.animate.condition.wan_vace import VaceStage
from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.perform import Stage
from pasdedeux.animate.prepared import Wanted
from pasdedeux.animate.prepared_cache import PreparedCache
from pasdedeux.animate.preparing import prepare
from pasdedeux.animate.preprocess.detect import unknown_character
from pasdedeux.animate.preprocess.face_crops import SIDE
from pasdedeux.checkpoints.bundle import Bundle
from pasdedeux.checkpoints.encoders import load_image_encoder, load_text_encoder, tokenizer_of
from pasdedeux.checkpoints.video import load_vae
from pasdedeux.models.image import ImageEncoder
from pasdedeux.models.wan.config import AnimateConfig, ControlConfig
from pasdedeux.train.lora.cache import Cache, fingerprint
from pasdedeux.train.lora.dataset import Item
from pasdedeux.train.lora.ingest import Fault, Taken, Wish, content, take

DRIVEN = ("animate", "vace", "control")
Say = Callable[[str], None]
_CLEAN, _CHANNELS, _PREPARE, _TEXT = "clean", "channels", "prepare.", "text"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A clip that is encoded: its entry and its words', the latent's shape [C, F, h, w], how often it is to be seen."""

    name: str
    entry: Path
    words: Path
    shape: tuple[int, ...]
    repeats: int = 1


def read_sample(sample: Sample) -> tuple[Tensor, WanInputs]:
    """Clean latents [1, C, F, h, w], and what its transformer is given. Raises ValueError where an entry was lost."""
    held, words = Cache(sample.entry.parent).read(sample.entry), read_words(sample.words)
    if held is None or words is None:
        raise ValueError(f"The encoded clip {sample.name} in {sample.entry.parent} is broken; start the run anew.")
    prepare = {name.removeprefix(_PREPARE): t for name, t in held.items() if name.startswith(_PREPARE)}
    inputs = WanInputs(prepare={**prepare, "text": words}, channels=held.get(_CHANNELS))
    return held[_CLEAN], inputs


def read_words(entry: Path) -> Tensor | None:
    """An embedded text [1, n, text_dim]; None where its entry is not whole."""
    held = Cache(entry.parent).read(entry)
    return None if held is None else held[_TEXT]


@dataclass(kw_only=True, slots=True, eq=False)
class Encoder:
    """Encodes clips for a model, and keeps what it made in a cache; encoders are opened when one is needed."""

    bundle: Bundle
    cache: Cache
    wish: Wish
    mode: str = "animate"
    device: str = "cpu"
    say: Say = field(default=lambda _: None)
    _vae: VideoVAE | None = None
    _clip: ImageEncoder | None = None

    def encode(self, items: Sequence[Item]) -> Iterator[Sample | Fault]:
        """A sample for every item, or what is wrong with it. Words are embedded first: umT5 is the largest encoder."""
        words = self.words([item.caption or self.bundle.family.prompt for item in items])
        for item, entry in zip(items, words, strict=True):
            yield self._sample(item, entry)
        self._vae = self._clip = None

    def words(self, texts: Sequence[str]) -> list[Path]:
        """The entry of each text, embedded where it is new."""
        path = self._needed(self.bundle.text, "the text encoder")
        tokenizer = self.bundle.tokenizer or tokenizer_of(path)
        name = [fingerprint(path), fingerprint(tokenizer)]
        entries = {text: self.cache.path("words", *name, text) for text in texts}
        new = [text for text, entry in entries.items() if self.cache.read(entry) is None]
        if new:
            self.say(f"embedding {len(new)} caption{'' if len(new) == 1 else 's'}")
            encoder = load_text_encoder(
                path, None if tokenizer == path else tokenizer, dtype=torch.bfloat16, device=self.device
            )
            for text in new:
                self.cache.write(entries[text], {_TEXT: encoder.encode(text).values.cpu()})
        return [entries[text] for text in texts]

    def _sample(self, item: Item, words: Path) -> Sample | Fault:
        try:
            entry = self._entry(item)
        except OSError as error:
            return Fault(item=item, why=error.strerror or str(error))
        held = self.cache.read(entry)
        if held is None:
            taken = take(item, self.wish)
            if isinstance(taken, Fault):
                return taken
            try:
                held = self._encoded(taken)
            except InputError as error:
                return Fault(item=item, why=str(error))
            self.say(f"encoded {item.name}: {len(taken.frames)} frames of {taken.size[0]}x{taken.size[1]}")
            self.cache.write(entry, held)
        shape = tuple(held[_CLEAN].shape[1:])
        return Sample(name=item.name, entry=entry, words=words, shape=shape, repeats=item.repeats)

    def _entry(self, item: Item) -> Path:
        """By the clip's bytes and all that decides what is made of it."""
        files = (item.video, item.driver, item.keypoints, item.mask)
        makings = [None if file is None else content(file) for file in files]
        clip = self.bundle.image if self.bundle.family.clip else None
        models = [fingerprint(self.bundle.vae), fingerprint(clip), self.bundle.family.name, self.mode]
        said = [item.start, item.end, item.fps, bool(item.caption), asdict(self.wish)]
        return self.cache.path("clip", makings, models, said)

    @torch.no_grad()
    def _encoded(self, taken: Taken) -> dict[str, Tensor]:
        task = self.bundle.family.task
        latent = encode(self.vae, to_video(taken.frames))
        drivers = self._drivers(taken) if task in DRIVEN else None
        cond = self._stage(taken, drivers).condition(list(range(len(taken.frames))), None).cond
        if drivers is not None and task != "control":  # the first latent frame is the character's picture
            latent = torch.cat((encode(self.vae, to_video(drivers.reference[None])), latent), dim=2)
        prepare = {f"{_PREPARE}{key}": t for key, t in cond.prepare.items() if isinstance(t, Tensor) and key != "text"}
        channels = {} if cond.channels is None else {_CHANNELS: cond.channels}
        return {_CLEAN: latent, **channels, **prepare}

    def _stage(self, taken: Taken, drivers: Drivers | None) -> Stage:
        """The family's; the words are put in later."""
        family, frames = self.bundle.family, len(taken.frames)
        none = Prompts(wanted=torch.zeros(1, 1, family.config.text_dim))
        if drivers is None:
            if family.task != "image":
                return TextStage(vae=self.vae, frames=frames, size=taken.size, prompts=none)
            first = taken.frames[0]
            seen = self._features(first)
            return ImageStage(vae=self.vae, frames=frames, size=taken.size, prompts=none, image=first, features=seen)
        seen = self._features(drivers.reference)
        if family.task == "vace":
            return VaceStage(vae=self.vae, drivers=drivers, prompts=none)
        if isinstance(family.config, ControlConfig):
            return ControlStage(vae=self.vae, drivers=drivers, prompts=none, config=family.config, features=seen)
        assert seen is not None
        return AnimateStage(vae=self.vae, drivers=drivers, prompts=none, features=seen)

    def _drivers(self, taken: Taken) -> Drivers:
        """Pose, face and, to replace, the place, found in the clip or in the one whose movements it has."""
        item, config = taken.item, self.bundle.experts[0].config
        wanted = Wanted(
            driver=item.driver or item.video,
            fps=self.wish.fps,
            start=item.start,
            end=item.end,
            most=len(taken.frames),
            keypoints=item.keypoints,
            mask=item.mask,
        )
        self.say(f"looking through {wanted.driver.name}")
        with closing(prepare(wanted, cache=PreparedCache(folder=self.cache.folder / "prepared"))) as found:
            if len(found) < len(taken.frames):
                raise InputError(f"its driver has {len(found)} frames, but it has {len(taken.frames)}")
            performance = found.performance(taken.size)
            face = config.face_size if isinstance(config, AnimateConfig) else SIDE
            drivers = draw_drivers(
                unknown_character(taken.frames[0]),
                performance,
                performance.keypoints,
                self.mode,
                face_side=face,
                face_on_pose=self.bundle.family.task != "animate",
            )
            return _read(drivers)

    def _features(self, picture: Bytes) -> Tensor | None:
        if not self.bundle.family.clip:
            return None
        if self._clip is None:
            path = self._needed(self.bundle.image, "the image encoder, CLIP")
            self._clip = load_image_encoder(path, dtype=torch.float32, device=self.device)
        return self._clip.encode(torch.from_numpy(picture)).float().cpu()

    @property
    def vae(self) -> VideoVAE:
        """The autoencoder, opened at its first use, in float32."""
        if self._vae is None:
            path = self._needed(self.bundle.vae, "the video autoencoder")
            self._vae = load_vae(path, dtype=torch.float32, device=self.device)
        return self._vae

    def _needed(self, path: Path | None, what: str) -> Path:
        if path is None:
            raise ValueError(f"To encode clips, {self.bundle.family.name} needs {what}; it is not beside the model.")
        return path


def _read(drivers: Drivers) -> Drivers:
    """The same with all its pictures in memory, so that the driver can be let go of."""
    every = list(range(len(drivers)))
    background, mask = (None if c is None else c[every] for c in (drivers.background, drivers.mask))
    return Drivers(
        pose=drivers.pose[every],
        face=drivers.face[every],
        reference=drivers.reference,
        background=background,
        mask=mask,
    )
