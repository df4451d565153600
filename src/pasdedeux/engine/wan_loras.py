"""What LoRAs bring to a Wan job beside their weights: settings of distilled ones, and the one for another's light."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pasdedeux.checkpoints.bundle import ExpertWeights
from pasdedeux.checkpoints.lora import expert_of, parse_lora
from pasdedeux.checkpoints.lora.distill import Preset, find_preset, recognise
from pasdedeux.engine.job import Job, parse_guidance

Loras = tuple[str, ...]
Notes = tuple[str, ...]


def preset_of(job: Job, experts: Sequence[ExpertWeights]) -> Preset | None:
    """The settings asked for by name, by a LoRA of the job, or by the names of experts that were merged with one."""
    asked = find_preset(job.preset, job.lora)
    if asked is not None:
        return asked
    found = {preset.name: preset for expert in experts if (preset := recognise(expert.path)) is not None}
    return next(iter(found.values())) if len(found) == 1 else None


def with_preset(job: Job, preset: Preset | None) -> Job:
    """The job with a distilled model's settings where it has none of its own."""
    if preset is None:
        return job
    guidance = ",".join(f"{scale:g}" for scale in preset.guidance)
    return replace(
        job,
        steps=job.steps or preset.steps,
        guidance=job.guidance or guidance,
        solver=job.solver or preset.solver,
        shift=job.shift or preset.shift,
    )


def with_usual_weights(loras: Loras, preset: Preset | None) -> tuple[Loras, Notes]:
    """The LoRAs, those of a preset at its usual weight where none was given; and what to say of the preset."""
    if preset is None:
        return loras, ()
    more = f"; {preset.note}" if preset.note else ""
    notes = (f"The settings are those of {preset.title}{more}.", *_half(loras, preset))
    if preset.weight == 1:
        return loras, notes
    bare = {text for text in loras if text.endswith(str(parse_lora(text).path)) and recognise(parse_lora(text).path)}
    weighted = tuple(f"{text}@{preset.weight:g}" if text in bare else text for text in loras)
    return weighted, (*notes, *(f"{text} is used at its usual weight, {preset.weight:g}." for text in sorted(bare)))


def against(job: Job, preset: Preset | None) -> Notes:
    """What to say where options of the job go before a preset's settings, which a distilled model is right with."""
    if preset is None:
        return ()
    guidance = None if job.guidance is None else parse_guidance(job.guidance)
    asked = {"steps": job.steps, "solver": job.solver, "shift": job.shift}
    differ = [
        f"{name} {mine} (not {its})"
        for name, mine in asked.items()
        if mine is not None and (its := getattr(preset, name)) is not None and mine != its
    ]
    if guidance is not None and {*guidance} != {*preset.guidance}:
        differ.append(f"guidance {job.guidance} (not {preset.guidance[0]:g})")
    return (f"Options go before the settings of {preset.name}: {', '.join(differ)}.",) if differ else ()


def with_relight(job: Job, relight: Path | None, animates: bool) -> tuple[Loras, Notes]:
    """The job's LoRAs, with the one that fits a character into another's light where somebody is replaced; and a note.

    A job that names that file itself decides its weight. animates: whether the model is one that it was made for.
    """
    if job.mode != "replace" or not animates:
        return job.lora, ()
    named = [parse_lora(text).path for text in job.lora]
    if relight is None:
        known = any("relight" in path.name.lower() for path in named)
        lacks = "There is no relighting LoRA beside the model, so the character keeps its own light; "
        return job.lora, () if known else (f"{lacks}pasdedeux models get has it (--part lora).",)
    if any(path.resolve() == relight.resolve() for path in named):
        return job.lora, ()
    said = f"{relight.name}, which lies beside the model, fits the character into the scene's light; "
    return (*job.lora, str(relight)), (f"{said}--lora {relight}@0 leaves it out.",)


def _half(loras: Loras, preset: Preset) -> Notes:
    """What to say where only one half of a pair was given: the other expert has not learnt to do with few steps."""
    mine = [parse_lora(text) for text in loras if recognise(parse_lora(text).path) is not None]
    told = {choice.expert or expert_of(choice.path) for choice in mine}
    if preset.experts < 2 or len(told) != 1 or None in told:
        return ()
    (one,) = told
    other = "low" if one == "high" else "high"
    return (f"Only the {one}-noise half of the pair is here; the {other}-noise expert is run the same way without it.",)
