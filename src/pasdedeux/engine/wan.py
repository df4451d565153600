"""A Wan model of any family, in whatever files it came, as an engine's model.

Opening reads headers only. Experts are loaded at their turn (`loader.py`), the video autoencoder at the first job, the
text encoder where a prompt is not cached, CLIP for the one picture it looks at.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from pasdedeux.animate.condition.wan import Prompts
from pasdedeux.animate.perform import Bytes
from pasdedeux.animate.segments import length_for
from pasdedeux.checkpoints.bundle import Bundle, find_bundle, make_bundle
from pasdedeux.checkpoints.encoders import load_image_encoder, tokenizer_of
from pasdedeux.checkpoints.families import Family
from pasdedeux.checkpoints.formats.mapped import name_of
from pasdedeux.checkpoints.video import load_vae
from pasdedeux.engine.encoding import open_text_encoder
from pasdedeux.engine.events import Loading, OnEvent
from pasdedeux.engine.job import GENERATE, Job
from pasdedeux.engine.loader import ExpertLoader
from pasdedeux.engine.memory import Memory
from pasdedeux.engine.model import Rehearsal, checked_device
from pasdedeux.engine.numbers import run_numbers, stride_of
from pasdedeux.engine.parts import Parts
from pasdedeux.engine.playing import Playing
from pasdedeux.engine.prompts import PromptCache
from pasdedeux.engine.settings import Defaults, Settings, settle
from pasdedeux.engine.wan_loras import against, preset_of, with_preset, with_relight, with_usual_weights
from pasdedeux.engine.wan_stages import (
    as_prepared,
    check_task,
    clip_length,
    driven_stage,
    find_drivers,
    generated_stage,
    shape_of,
    start_picture,
)
from pasdedeux.models.text import TextEncoder
from pasdedeux.models.vae import StreamingVAE
from pasdedeux.residency.budget import RunNumbers, base_bytes, in_gb, place
from pasdedeux.residency.placing import PHASES, with_codec

NEEDED = {
    "text": "the text encoder, umT5 (--text)",
    "vae": "the video autoencoder (--vae)",
    "image": "the image encoder, CLIP (--clip)",
}
# As in the reference: frames go through it again, from segment to segment. Where float32 does not fit, half of it.
CODEC_TYPES = {4: torch.float32, 2: torch.bfloat16}
STAGES = {
    "text": "the text encoder",
    "image": "CLIP",
    "encoding": "encoding a segment",
    "denoising": "denoising",
    "decoding": "decoding a segment",
}
HALF_CODEC = "the video autoencoder computes in bfloat16, since float32 does not fit"
STARTS = {"unipc": 0.999}  # Wan's own unipc starts a thousandth below pure noise, its other solvers at it


@dataclass(slots=True, kw_only=True, eq=False)
class WanModel:
    """An opened Wan model; the loader has its experts, noisiest first."""

    name: str
    bundle: Bundle
    loader: ExpertLoader
    device: str
    memory: Memory
    _vae: StreamingVAE | None = field(default=None)
    _codec: torch.dtype = torch.float32

    @property
    def family(self) -> Family:
        """What it is."""
        return self.bundle.family

    @property
    def defaults(self) -> Defaults:
        """The family's, for as many experts as there are."""
        family, experts = self.family, tuple(expert.name for expert in self.bundle.experts)
        _, rows, columns = self.vae_stride
        _, high, wide = family.config.patch
        return Defaults(
            experts=experts,
            bounds=self.bundle.bounds,
            guidance=guidance_of(family, experts),
            steps=family.steps,
            shift=family.shift,
            solver=family.solver,
            length=family.frames,
            overlap=family.overlap,
            fps=family.fps,
            size=family.size,
            grid=(columns * wide, rows * high),
            starts=STARTS,
            least=family.least,
            shape="nearest" if family.task == "text or image" else "cut",
        )

    @property
    def files(self) -> dict[str, str]:
        """What it is put together of, for a report."""
        bundle = self.bundle
        parts = {"vae": bundle.vae, "text": bundle.text, "tokenizer": bundle.tokenizer, "clip": bundle.image}
        experts = {expert.name: str(expert.path) for expert in bundle.experts}
        kinds = {"family": self.family.name, "dtype": name_of(self.loader.dtype)}
        return kinds | experts | {part: str(path) for part, path in parts.items() if path is not None}

    @property
    def vae_stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels per latent."""
        return stride_of(self.family.vae)

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
        asked = with_preset(job, preset_of(job, self.bundle.experts))
        settings = as_prepared(job, settle(asked, self.defaults, shape_of(job) if job.size is None else None))
        if job.mode == GENERATE:
            length = clip_length(job, self.family, self.vae_stride[0])
            return replace(settings, frames=length, length=length, overlap=0)
        return settings

    def rehearse(self, job: Job, settings: Settings, tell: OnEvent) -> Rehearsal:
        """Read what the job names, encode its words and pictures, draw its conditions."""
        for part in NEEDED:
            if part != "image" or self.family.clip:
                self._needed(part)
        preset = preset_of(job, self.bundle.experts)
        loras, told = with_relight(job, self.bundle.relight, self.family.task == "animate")
        loras, usual = with_usual_weights(loras, preset)
        notes = self.bundle.notes + told + usual + against(job, preset) + self.loader.use_loras(loras)
        notes += self._room(settings)
        # Before anything large is read: what cannot be followed is found out here.
        directed = None if job.mode == GENERATE else find_drivers(job, settings, self.family, tell)
        prompts, more, encoded = self._prompts(job, settings, tell)
        if directed is None:
            image, said = start_picture(job, settings.size, self.family)
            features = self._features(image, tell) if image is not None and self.family.clip else None
            stage = generated_stage(self.family, self._video(tell), settings, prompts, image, features)
            return Rehearsal(settings=settings, stage=stage, notes=notes + more + said, encoded=encoded)
        drivers = directed.drivers
        features = self._features(drivers.reference, tell) if self.family.clip else None
        stage = driven_stage(self.family, self._video(tell), drivers, prompts, features)
        if self.family.task != "animate":  # Wan-Animate was trained on whole segments, and its reference fills them
            settings = shortened(settings, stage.frames)
        return Rehearsal(
            settings=settings,
            stage=stage,
            audio=directed.audio,
            audio_start=directed.audio_start,
            notes=notes + more + directed.notes,
            encoded=encoded,
        )

    def play(self, rehearsal: Rehearsal, tell: OnEvent) -> Playing:
        """The experts at work, with the job's handoff and guidance; they are loaded when their turn comes."""
        settings = rehearsal.settings
        run = replace(self._numbers(settings, rehearsal.stage.frames), codec_value=self._codec.itemsize)
        run = run if rehearsal.encoded else replace(run, text=0)
        return Playing(
            loader=self.loader,
            run=run,
            placement=place(run, self.memory.usable(self.device), self._base(run)),
            handoff=settings.handoff,
            guidance=settings.guidance,
            codec=self._video(tell),
            tell=tell,
            pinnable=self.memory.pinnable(self.device, self.loader.pinned),
        )

    def _numbers(self, settings: Settings, frames: int) -> RunNumbers:
        """The job, with LoRAs in its weights."""
        pairs = list(zip(self.bundle.experts, self.loader.merged, strict=True))
        bundle = replace(self.bundle, experts=tuple(replace(it, weights=merged.weights) for it, merged in pairs))
        beside = {it.name: merged.beside for it, merged in pairs}
        run = run_numbers(bundle, settings, frames, dtype=self.loader.dtype, beside=beside)
        here = self.device == "cpu"
        free = here and run.text_mapped and self.memory.main is None
        return replace(run, from_disk=here, text=0 if free else run.text)

    def _room(self, settings: Settings) -> tuple[str, ...]:
        """Decide what the autoencoder computes in, and say what there is to say of memory.

        Raises ValueError where the memory that was allowed is too little.
        """
        usable = self.memory.usable(self.device)
        run = self._numbers(settings, settings.frames or settings.length)
        run, placement = with_codec(run, usable, self._base(run))
        self._codec = CODEC_TYPES[run.codec_value]
        notes = () if run.codec_value == 4 else (HALF_CODEC,)
        if placement.fits(usable, PHASES):
            return notes
        name, most = max(placement.phases, key=lambda phase: phase[1])
        lack = f"{STAGES[name]} needs {in_gb(most)} at least, and {in_gb(usable)} can be used"
        less = "" if name in ("text", "image") else "; fewer frames or pixels need less"
        if self.memory.main is not None:
            raise ValueError(f"The memory is too little: {lack}{less}.")
        return (*notes, f"memory may run out: {lack}")

    def _base(self, run: RunNumbers) -> int:
        return base_bytes(run, processor=self.device == "cpu")

    def _prompts(self, job: Job, settings: Settings, tell: OnEvent) -> tuple[Prompts, tuple[str, ...], bool]:
        """The embedded words (those to steer away from only where one is guided), notes, and whether some were new."""
        family = self.family
        texts = [family.prompt if job.prompt is None else job.prompt]
        if any(scale != 1 for scale in settings.guidance):
            texts.append(family.negative if job.negative is None else job.negative)

        path = self._needed("text")
        tokenizer = self.bundle.tokenizer or tokenizer_of(path)

        new: list[int] = []

        def opened(prompts: int) -> AbstractContextManager[TextEncoder]:
            new.append(prompts)
            tell(Loading(what="the text encoder"))
            self.loader.release()
            return open_text_encoder(
                path,
                None if tokenizer == path else tokenizer,
                prompts,
                dtype=torch.bfloat16,
                device=self.device,
                room=self.memory.left(self.device),
                pages=self.memory.main is not None,
            )

        embedded = PromptCache().encode(texts, path, opened, tokenizer=tokenizer)
        values = [embedding.values for embedding in embedded]
        notes = tuple(dict.fromkeys(embedding.note for embedding in embedded if embedding.note is not None))
        return Prompts(wanted=values[0], unwanted=values[1] if len(values) > 1 else None), notes, bool(new)

    def _features(self, image: Bytes, tell: OnEvent) -> Tensor:
        """What CLIP sees in a picture [H, W, 3]."""
        path = self._needed("image")
        tell(Loading(what="CLIP"))
        self.loader.release()
        encoder = load_image_encoder(path, dtype=torch.float32, device=self.device)
        return encoder.encode(torch.from_numpy(image)).float().cpu()

    def _video(self, tell: OnEvent) -> StreamingVAE:
        if self._vae is None or next(self._vae.parameters()).dtype != self._codec:
            tell(Loading(what="the video autoencoder"))
            path = self._needed("vae")
            vae = load_vae(path, dtype=self._codec, device=self.device)
            if (vae.channels, vae.stride) != (self.family.config.out_dim, self.vae_stride):
                other = "2.1" if self.family.vae == "wan2.2" else "2.2"
                raise ValueError(f"{path} is the VAE of Wan {other}; {self.family.name} needs {self.family.vae}'s.")
            self._vae = vae
        return self._vae

    def _needed(self, part: str) -> Path:
        """A part's file. Raises ValueError that names all that are lacking: one at a time would be told for ever."""
        if (path := getattr(self.bundle, part)) is not None:
            return path
        parts = [name for name in NEEDED if name != "image" or self.family.clip]
        lacking = " and ".join(NEEDED[name] for name in parts if getattr(self.bundle, name) is None)
        raise ValueError(f"{self.name} is not enough for {self.family.name}; it also needs {lacking}.")


def shortened(settings: Settings, frames: int) -> Settings:
    """The settings of a clip that one segment, no longer than needed, can hold; the same where it takes several."""
    if frames > settings.length:
        return settings
    return replace(settings, length=length_for(frames), overlap=0)


def guidance_of(family: Family, experts: tuple[str, ...]) -> tuple[float, ...]:
    """The family's scales for the experts that are here: a low-noise expert alone keeps its own."""
    if len(family.guidance) == len(experts):
        return family.guidance
    own = family.guidance[-1] if experts == ("low",) else family.guidance[0]
    return (own,) * len(experts)


def bundle_of(name: str | None, parts: Parts) -> Bundle:
    """The bundle of a folder or file, of parts, or of both, where a part goes before the folder's."""
    experts = parts.high or parts.low
    if name is None or experts is not None:
        if name is not None:
            raise ValueError(f"The experts are given twice: in {name}, and as {experts}; name one of them.")
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


def open_wan(name: str | None, device: str | None, parts: Parts, memory: Memory) -> WanModel:
    """Open a folder, a file, or the parts alone. Raises ValueError where nothing fits."""
    device = checked_device(device)
    bundle = bundle_of(name, parts)
    loader = ExpertLoader(bundle=bundle, device=device, dtype=getattr(torch, parts.dtype))
    given = " + ".join(str(expert.path) for expert in bundle.experts)
    return WanModel(name=name or given, bundle=bundle, loader=loader, device=device, memory=memory)
