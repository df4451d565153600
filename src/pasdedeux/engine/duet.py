"""The built-in pair, and folders like it, as an engine's model: experts on their device, the codec beside them."""

import glob
from dataclasses import dataclass, field
from pathlib import Path

from pasdedeux.animate.condition.duet import DuetStage, denoiser
from pasdedeux.checkpoints.folder import ExpertFile, Manifest, load_codec, load_expert, read_manifest
from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors
from pasdedeux.checkpoints.load import load_weights
from pasdedeux.checkpoints.lora import LoRAChoice, expert_of, fit_loras, merge, parse_lora, title_of
from pasdedeux.denoise import Expert, ExpertSet, Handoff, schedule
from pasdedeux.engine.events import OnEvent
from pasdedeux.engine.job import GENERATE, Job
from pasdedeux.engine.loader import state_of
from pasdedeux.engine.model import BUILTIN, Rehearsal, Resident, checked_device, count, model_folder
from pasdedeux.engine.settings import Defaults, Settings, settle
from pasdedeux.engine.sources import cast
from pasdedeux.engine.staging import set_up
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer

Experts = tuple[DuetTransformer, ...]


@dataclass(slots=True)
class _Tuned:
    """The experts with the LoRAs that were used last, which files those were, and what there was to say."""

    files: tuple[object, ...] = ()
    experts: Experts = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DuetModel:
    """An opened model folder. `experts` are in the manifest's order, noisiest first, without LoRAs."""

    name: str
    manifest: Manifest
    experts: Experts
    codec: PatchCodec
    device: str
    _tuned: _Tuned = field(default_factory=_Tuned)

    @property
    def defaults(self) -> Defaults:
        """The manifest's."""
        return defaults_of(self.manifest)

    @property
    def files(self) -> dict[str, str]:
        """Nothing beside its folder."""
        return {}

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The manifest's own noise levels, from 1 to 0."""
        return schedule(self.manifest.steps, self.manifest.shift)

    def settle(self, job: Job) -> Settings:
        """The job's settings. Raises ValueError for what a model without text cannot do."""
        refuse_text(job, self.name)
        return settle(job, self.defaults)

    def rehearse(self, job: Job, settings: Settings, tell: OnEvent) -> Rehearsal:
        """Read LoRAs, character and driver, and draw their conditions."""
        experts, said = self.with_loras(job.lora)
        found = cast(job, settings, tell)
        stage = set_up(found, job.mode, self.codec, self.manifest.compute, experts)
        sound = found.performance
        return Rehearsal(
            settings=settings,
            stage=stage,
            audio=sound.audio,
            audio_start=sound.audio_start,
            notes=said + found.notes,
        )

    def with_loras(self, loras: tuple[str, ...]) -> tuple[Experts, tuple[str, ...]]:
        """The experts with these LoRAs ("[high:|low:]FILE[@WEIGHT]") in their weights, and what came of them.

        A name that is no file may be that of a pair of files beside the model. Those used last are kept. Raises
        ValueError where a file is none, or fits nowhere.
        """
        if not loras:
            return self.experts, ()
        choices = [one for text in loras for one in beside(parse_lora(text), model_folder(self.name))]
        files = (loras, *(state_of(choice.path) for choice in choices))
        if self._tuned.files != files:
            folder, experts, notes = model_folder(self.name), list[DuetTransformer](), list[str]()
            models = {file.name: open_safetensors(folder / file.file) for file in self.manifest.experts}
            given, said = fit_loras(choices, models)
            for name, weights in models.items():
                merged = merge(weights, given[name])
                notes += [f"In {title_of(name)}, {note}" for note in merged.notes]
                experts.append(
                    load_weights(
                        lambda: DuetTransformer(self.manifest.model),
                        merged.weights,
                        dtype=self.manifest.compute,
                        device=self.device,
                        packed=False,
                    )
                )
            self._tuned.files, self._tuned.experts, self._tuned.notes = files, tuple(experts), (*said, *notes)
        return self._tuned.experts, self._tuned.notes

    def play(self, rehearsal: Rehearsal, tell: OnEvent) -> Resident:
        """The experts that the stage was set up for, with the job's handoff; they are loaded already."""
        stage = rehearsal.stage
        experts = stage.experts if isinstance(stage, DuetStage) and stage.experts else self.experts
        return Resident(self.expert_set(rehearsal.settings.handoff, experts))

    def expert_set(self, handoff: Handoff | None = None, experts: Experts | None = None) -> ExpertSet:
        """The experts, or those given, with the noise bands that `handoff` gives them; None: the manifest's."""
        pairs = zip(self.manifest.experts, experts or self.experts, strict=True)
        bound = tuple(self._expert(file, net) for file, net in pairs)
        return ExpertSet(bound, handoff or Handoff(self.manifest.bounds))

    def guest(self, file: ExpertFile) -> Expert | None:
        """An expert of the same make that is no part of the set; None where the folder has no such file."""
        folder = model_folder(self.name)
        if not (folder / file.file).is_file():
            return None
        return self._expert(file, load_expert(folder, self.manifest, file, self.device))

    def _expert(self, file: ExpertFile, net: DuetTransformer) -> Expert:
        return Expert(denoiser(net), file.name, file.guidance)

    @property
    def total_parameters(self) -> int:
        """Parameters of all experts together."""
        return sum(map(count, self.experts))

    @property
    def active_parameters(self) -> int:
        """Parameters that run in one step: those of the largest expert."""
        return max(map(count, self.experts))


def open_duet(name: str = BUILTIN, device: str | None = None) -> DuetModel:
    """Load "builtin" or a folder; `device` None takes CUDA where it is. Raises ValueError if unfit."""
    folder, device = model_folder(name), checked_device(device)
    manifest = read_manifest(folder)
    experts = tuple(load_expert(folder, manifest, expert, device) for expert in manifest.experts)
    return DuetModel(name=name, manifest=manifest, experts=experts, codec=load_codec(folder, manifest), device=device)


def defaults_of(manifest: Manifest) -> Defaults:
    """A manifest's answers to what a job leaves open."""
    return Defaults(
        experts=tuple(expert.name for expert in manifest.experts),
        bounds=manifest.bounds,
        guidance=tuple(expert.guidance for expert in manifest.experts),
        steps=manifest.steps,
        shift=manifest.shift,
        solver=manifest.solver,
        length=manifest.length,
        overlap=manifest.overlap,
        fps=manifest.fps,
        size=manifest.size,
        grid=manifest.grid,
    )


def beside(choice: LoRAChoice, folder: Path) -> tuple[LoRAChoice, ...]:
    """The choice itself, or where it names no file, as "night", those in the folder that bear that name.

    Each of these goes to the expert it says it is for; of a choice for one expert only that one's is meant.
    """
    name = choice.path.name
    if choice.path.exists() or name != str(choice.path) or choice.path.suffix:
        return (choice,)
    named = (choice._replace(path=path) for path in sorted(folder.glob(f"{glob.escape(name)}_*_noise.safetensors")))
    return tuple(one for one in named if choice.expert in (None, expert_of(one.path))) or (choice,)


def refuse_text(job: Job, name: str) -> None:
    """Raise ValueError for what only the Wan families take."""
    if job.mode == GENERATE:
        raise ValueError(f'The model "{name}" animates a character; to generate from a prompt, open a Wan model.')
    for option in ("prompt", "negative", "guidance", "preset"):
        if getattr(job, option) is not None:
            raise ValueError(f'The model "{name}" takes no {option}; it follows the driver alone.')
    if job.preparation.skeleton is not None:
        raise ValueError(f'The model "{name}" follows points and takes no drawn skeleton; give it --keypoints.')
