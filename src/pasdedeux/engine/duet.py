"""The built-in pair, and folders like it, as an engine's model: experts on their device, the codec beside them."""

from dataclasses import dataclass

from pasdedeux.animate.condition.duet import denoiser
from pasdedeux.checkpoints.folder import ExpertFile, Manifest, load_codec, load_expert, read_manifest
from pasdedeux.denoise import Expert, ExpertSet, Handoff, schedule
from pasdedeux.engine.events import OnEvent
from pasdedeux.engine.job import GENERATE, Job
from pasdedeux.engine.model import BUILTIN, Rehearsal, Resident, checked_device, count, model_folder
from pasdedeux.engine.settings import Defaults, Settings, settle
from pasdedeux.engine.sources import cast
from pasdedeux.engine.staging import set_up
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DuetModel:
    """An opened model folder. `experts` are in the manifest's order, noisiest first."""

    name: str
    manifest: Manifest
    experts: tuple[DuetTransformer, ...]
    codec: PatchCodec
    device: str

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
        """Read character and driver, and draw their conditions."""
        found = cast(job, settings, tell)
        stage = set_up(found, job.mode, self.codec, self.manifest.compute, self.experts)
        sound = found.performance
        return Rehearsal(
            settings=settings,
            stage=stage,
            audio=sound.audio,
            audio_start=sound.audio_start,
            notes=found.notes,
        )

    def play(self, rehearsal: Rehearsal, tell: OnEvent) -> Resident:
        """The experts with the job's handoff; they are loaded already."""
        return Resident(self.expert_set(rehearsal.settings.handoff))

    def expert_set(self, handoff: Handoff | None = None) -> ExpertSet:
        """The experts with the noise bands that `handoff` gives them; None: the manifest's."""
        pairs = zip(self.manifest.experts, self.experts, strict=True)
        experts = tuple(self._expert(file, net) for file, net in pairs)
        return ExpertSet(experts, handoff or Handoff(self.manifest.bounds))

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


def refuse_text(job: Job, name: str) -> None:
    """Raise ValueError for what only the Wan families take."""
    if job.mode == GENERATE:
        raise ValueError(f'The model "{name}" animates a character; to generate from a prompt, open a Wan model.')
    for option in ("prompt", "negative", "guidance", "preset"):
        if getattr(job, option) is not None:
            raise ValueError(f'The model "{name}" takes no {option}; it follows the driver alone.')
    if job.lora:
        raise ValueError(f'The model "{name}" takes no LoRA; the Wan models do.')
    if job.preparation.skeleton is not None:
        raise ValueError(f'The model "{name}" follows points and takes no drawn skeleton; give it --keypoints.')
