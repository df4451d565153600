"""A Wan model of any family, in whatever files it came, as an engine's model.

Opening reads headers only. Experts are loaded at their turn (`shelf.py`), the video autoencoder at the first job, the
text encoder where a prompt is not cached, CLIP for the one picture it looks at.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pasdedeux.animate.condition.wan import Prompts
from pasdedeux.animate.perform import Bytes
from pasdedeux.animate.segments import length_for
from pasdedeux.checkpoints.bundle import Bundle, find_bundle, make_bundle
from pasdedeux.checkpoints.encoders import load_image_encoder, load_text_encoder
from pasdedeux.checkpoints.families import Family
from pasdedeux.checkpoints.lora import parse_lora
from pasdedeux.checkpoints.lora.distill import Preset, find_preset, recognise
from pasdedeux.checkpoints.video import load_vae
from pasdedeux.denoise import Expert, ExpertSet
from pasdedeux.engine.duet import watching
from pasdedeux.engine.events import Loading, OnEvent
from pasdedeux.engine.job import GENERATE, Job
from pasdedeux.engine.model import Rehearsal, checked_device
from pasdedeux.engine.parts import Parts
from pasdedeux.engine.prompts import PromptCache
from pasdedeux.engine.settings import Defaults, Settings, settle
from pasdedeux.engine.shelf import Shelf
from pasdedeux.engine.sources import cast
from pasdedeux.engine.wan_stages import (
    check_task,
    clip_length,
    driven_stage,
    drivers_of,
    generated_stage,
    shape_of,
    start_picture,
)
from pasdedeux.models.text import TextEncoder
from pasdedeux.models.vae import StreamingVAE


@dataclass(slots=True, kw_only=True, eq=False)
class WanModel:
    """An opened Wan model; the shelf holds its experts, noisiest first."""

    name: str
    bundle: Bundle
    shelf: Shelf
    device: str
    _vae: StreamingVAE | None = field(default=None)

    @property
    def family(self) -> Family:
        """What it is."""
        return self.bundle.family

    @property
    def defaults(self) -> Defaults:
        """The family's, for as many experts as there are."""
        family, experts = self.family, tuple(expert.name for expert in self.bundle.experts)
        guidance = family.guidance if len(family.guidance) == len(experts) else family.guidance[:1] * len(experts)
        _, rows, columns = self.vae_stride
        _, high, wide = family.config.patch
        return Defaults(
            experts=experts,
            bounds=self.bundle.bounds,
            guidance=guidance,
            steps=family.steps,
            shift=family.shift,
            solver=family.solver,
            length=family.frames,
            overlap=family.overlap,
            fps=family.fps,
            size=family.size,
            grid=(columns * wide, rows * high),
            start=0.999 if family.solver == "unipc" else 1.0,
            shaped=True,
        )

    @property
    def vae_stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels per latent."""
        return (4, 16, 16) if self.family.vae == "wan2.2" else (4, 8, 8)

    @property
    def total_parameters(self) -> int:
        """Parameters of all experts together."""
        return sum(self._sizes)

    @property
    def active_parameters(self) -> int:
        """Parameters that run in one step: those of the largest expert."""
        return max(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [sum(tensor.size for tensor in expert.weights.values()) for expert in self.bundle.experts]

    def settle(self, job: Job) -> Settings:
        """The job's settings, a distilled LoRA's preset included. Raises ValueError for what the family cannot do."""
        check_task(job, self.family)
        preset = find_preset(job.preset, job.lora)
        asked = job if preset is None else with_preset(job, preset)
        settings = settle(asked, self.defaults, shape_of(job) if job.size is None else None)
        if job.mode == GENERATE:
            length = clip_length(job, self.family, self.vae_stride[0])
            return replace(settings, frames=length, length=length, overlap=0)
        return settings

    def rehearse(self, job: Job, settings: Settings, tell: OnEvent) -> Rehearsal:
        """Read what the job names, encode its words and pictures, draw its conditions."""
        loras, told = with_relight(job, self.bundle.relight)
        loras, usual = with_usual_weights(loras, find_preset(job.preset, job.lora))
        notes = self.bundle.notes + told + usual + self.shelf.dress(loras)
        prompts, more = self._prompts(job, settings, tell)
        if job.mode == GENERATE:
            image, said = start_picture(job, settings.size)
            features = self._features(image, tell) if image is not None and self.family.clip else None
            stage = generated_stage(self.family, self._video(tell), settings, prompts, image, features)
            return Rehearsal(settings=settings, stage=stage, notes=notes + more + said)
        found = cast(job, settings, watching(tell), margins="black")
        drivers = drivers_of(found, job.mode, self.family)
        features = self._features(drivers.reference, tell) if self.family.clip else None
        stage = driven_stage(self.family, self._video(tell), drivers, prompts, features)
        if self.family.task != "animate":  # Wan-Animate was trained on whole segments, and its reference fills them
            settings = replace(settings, length=min(settings.length, length_for(stage.frames)))
        sound = found.performance
        notes += more + found.notes + drivers.notes
        return Rehearsal(settings=settings, stage=stage, audio=sound.audio, audio_start=sound.audio_start, notes=notes)

    def experts_for(self, settings: Settings, tell: OnEvent) -> ExpertSet:
        """The experts with the job's handoff and guidance, loaded when their turn comes."""

        def expert(position: int, guidance: float) -> Expert:
            def velocity(x: Tensor, sigma: Tensor, cond: Any, /) -> Tensor:
                return self.shelf.take(position)(x, sigma, cond)

            turn = partial(self.shelf.turn, position, lambda what: tell(Loading(what=what)))
            return Expert(velocity, self.bundle.experts[position].name, guidance, turn)

        return ExpertSet(tuple(expert(k, scale) for k, scale in enumerate(settings.guidance)), settings.handoff)

    def _prompts(self, job: Job, settings: Settings, tell: OnEvent) -> tuple[Prompts, tuple[str, ...]]:
        """The embedded words; those to steer away from only where some expert is guided."""
        family = self.family
        texts = [family.prompt if job.prompt is None else job.prompt]
        if any(scale != 1 for scale in settings.guidance):
            texts.append(family.negative if job.negative is None else job.negative)

        path, tokenizer = self._needed("text", "its prompt is read by umT5", "--text"), self.bundle.tokenizer

        def load() -> TextEncoder:
            tell(Loading(what="the text encoder"))
            return load_text_encoder(path, tokenizer, dtype=torch.bfloat16, device=self.device)

        embedded = PromptCache().encode(texts, path, load, tokenizer=tokenizer)
        values = [embedding.values for embedding in embedded]
        notes = tuple(embedding.note for embedding in embedded if embedding.note is not None)
        return Prompts(wanted=values[0], unwanted=values[1] if len(values) > 1 else None), notes

    def _features(self, image: Bytes, tell: OnEvent) -> Tensor:
        """What CLIP sees in a picture [H, W, 3]."""
        path = self._needed("image", "it looks at the picture through CLIP", "--clip")
        tell(Loading(what="CLIP"))
        encoder = load_image_encoder(path, dtype=torch.float32, device=self.device)
        return encoder.encode(torch.from_numpy(image)).float().cpu()

    def _video(self, tell: OnEvent) -> StreamingVAE:
        if self._vae is None:
            tell(Loading(what="the video autoencoder"))
            # On an accelerator memory is what lacks; on a CPU bfloat16 convolutions are slow.
            dtype = torch.float32 if self.device == "cpu" else torch.bfloat16
            path = self._needed("vae", "its latents are decoded by the Wan VAE", "--vae")
            self._vae = load_vae(path, dtype=dtype, device=self.device)
        return self._vae

    def _needed(self, part: str, why: str, option: str) -> Path:
        path = getattr(self.bundle, part)
        if path is None:
            raise ValueError(f"{self.name} is not enough for {self.family.name}: {why}; give that file with {option}.")
        return path


def with_preset(job: Job, preset: Preset) -> Job:
    """The job with a distilled LoRA's settings where it has none of its own."""
    guidance = ",".join(f"{scale:g}" for scale in preset.guidance)
    return replace(
        job,
        steps=job.steps or preset.steps,
        guidance=job.guidance or guidance,
        solver=job.solver or preset.solver,
        shift=job.shift or preset.shift,
    )


def with_relight(job: Job, relight: Path | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The job's LoRAs, with the one that fits a character into another's light where somebody is replaced; and a note.

    A job that names that file itself decides its weight.
    """
    named = [parse_lora(text).path for text in job.lora]
    if job.mode != "replace" or relight is None or any(path.resolve() == relight.resolve() for path in named):
        return job.lora, ()
    said = f"{relight.name}, which lies beside the model, fits the character into the scene's light; "
    return (*job.lora, str(relight)), (f"{said}--lora {relight}@0 leaves it out.",)


def with_usual_weights(loras: tuple[str, ...], preset: Preset | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The LoRAs, those of a preset at its usual weight where none was given; and what to say of the preset."""
    if preset is None:
        return loras, ()
    more = f"; {preset.note}" if preset.note else ""
    said = (f"The settings are those of {preset.title}{more}.",)
    if preset.weight == 1:
        return loras, said
    bare = {text for text in loras if text.endswith(str(parse_lora(text).path)) and recognise(parse_lora(text).path)}
    weighted = tuple(f"{text}@{preset.weight:g}" if text in bare else text for text in loras)
    return weighted, (*said, *(f"{text} is used at its usual weight, {preset.weight:g}." for text in sorted(bare)))


def bundle_of(name: str | None, parts: Parts) -> Bundle:
    """The bundle of a folder or file, of parts, or of both, where a part goes before the folder's."""
    if name is None or parts.high is not None:
        if name is not None:
            raise ValueError(f"The experts are given twice: in {name}, and as {parts.high}; name one of them.")
        return make_bundle(
            parts.high, parts.low, parts.vae, parts.text, parts.tokenizer, parts.clip, family=parts.family
        )
    if not Path(name).exists():
        raise ValueError(f'There is no model "{name}"; give "builtin", a folder of weights, or a checkpoint.')
    bundle = find_bundle(Path(name), family=parts.family)
    return replace(
        bundle,
        vae=parts.vae or bundle.vae,
        text=parts.text or bundle.text,
        tokenizer=parts.tokenizer or bundle.tokenizer,
        image=parts.clip or bundle.image,
    )


def open_wan(name: str | None, device: str | None, parts: Parts) -> WanModel:
    """Open a folder, a file, or the parts alone. Raises ValueError where nothing fits."""
    device = checked_device(device)
    bundle = bundle_of(name, parts)
    keep = len(bundle.experts) if device == "cpu" else 1
    shelf = Shelf(bundle=bundle, device=device, dtype=getattr(torch, parts.dtype), keep=keep)
    return WanModel(name=name or str(parts.high), bundle=bundle, shelf=shelf, device=device)
