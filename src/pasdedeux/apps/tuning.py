"""`pasdedeux train lora`: options to a run, its progress, and its files."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pasdedeux.apps.training import stoppable
from pasdedeux.checkpoints.bundle import Bundle, find_bundle
from pasdedeux.checkpoints.folder import MANIFEST, read_manifest
from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors
from pasdedeux.checkpoints.tensors import Weights
from pasdedeux.engine import checked_device
from pasdedeux.engine.job import parse_size
from pasdedeux.engine.memory import Memory
from pasdedeux.engine.model import BUILTIN, model_folder
from pasdedeux.train.lora.cache import Cache
from pasdedeux.train.lora.dataset import Dataset, DatasetError, read_dataset
from pasdedeux.train.lora.duet import DuetSubject, open_duet
from pasdedeux.train.lora.files import FORMS, trained, write_lora
from pasdedeux.train.lora.filmed import draw, filmed, wish_of
from pasdedeux.train.lora.ingest import Fault, Wish
from pasdedeux.train.lora.layers import Shape
from pasdedeux.train.lora.learner import Course, LoraLearner
from pasdedeux.train.lora.plan import activations, base_bytes, plan_lines, state_bytes
from pasdedeux.train.lora.samples import Encoder, Sample
from pasdedeux.train.lora.streaming import Room
from pasdedeux.train.lora.wan import WanSubject
from pasdedeux.train.pupil import Pupil
from pasdedeux.train.running import train_set
from pasdedeux.train.together import Turns

Say = Callable[[str], None]
SPREAD = "spread.safetensors"
"""Where a run of the built-in kind keeps the deviation that it began with."""
STRIDES = {"wan2.1": (4, 8, 8), "wan2.2": (4, 16, 16)}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraOptions:
    """What the command takes. steps, rank, alpha, rate and targets: one for all experts, or "high:16,low:8"."""

    model: str
    data: Path
    out: Path
    steps: str = "1000"
    rank: str = "16"
    alpha: str | None = None
    targets: str = "attention"
    rate: str = "1e-4"
    experts: str | None = None
    batch: int | None = None
    frames: int | None = None
    size: str | None = None
    held: int = 0
    patience: int = 0
    sticky: int = 50
    seed: int = 0
    mode: str = "animate"
    even: bool = False
    drop: float = 0.1
    dtype: str = "bfloat16"
    device: str | None = None
    devices: tuple[str, ...] = ()
    memory: str = "auto"
    form: str = "comfyui"
    strict: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        for device in (self.device, *self.devices):
            checked_device(device)
        Memory.parse(self.memory)
        if self.form not in FORMS:
            raise ValueError(f'The form is "{self.form}"; it must be one of {", ".join(FORMS)}.')
        if self.dtype not in ("bfloat16", "float16", "float32"):
            raise ValueError(f'The dtype is "{self.dtype}"; it must be bfloat16, float16 or float32.')
        for name in ("batch", "frames"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        for name in ("held", "patience", "seed"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{name} is {value}; it must be 0 or more.")
        if self.patience and not self.held:
            raise ValueError("An early stop needs clips that judge: give --held, too.")
        if not 0 <= self.drop < 1:
            raise ValueError(f"The share of steps without words is {self.drop}; it must be 0 or more, and below 1.")


def each(text: str, names: Sequence[str], what: str) -> dict[str, str]:
    """One value for every expert. Raises ValueError where an expert is named that is not there, or has none.

    >>> each("high:16,low:8", ("high", "low"), "rank")
    {'high': '16', 'low': '8'}
    """
    parts = re.split(r"(?:^|,)\s*(high|low|model|expert\d+):", text)
    if len(parts) == 1:
        return dict.fromkeys(names, text.strip())
    found = dict(zip(parts[1::2], (value.strip() for value in parts[2::2]), strict=True))
    strange, lacking = [name for name in found if name not in names], [name for name in names if name not in found]
    if parts[0].strip() or strange or lacking:
        raise ValueError(f'{what} is "{text}"; it must be one value, or one for each of {", ".join(names)}.')
    return found


def numbers(text: str, names: Sequence[str], what: str) -> dict[str, float]:
    """The same, as numbers."""
    try:
        return {name: float(value) for name, value in each(text, names, what).items()}
    except ValueError as error:
        if str(error).startswith(what):
            raise
        raise ValueError(f'{what} is "{text}"; it must be a number, or one for each expert: high:16,low:8.') from error


def whole(text: str, names: Sequence[str], what: str) -> dict[str, int]:
    """The same, as whole numbers."""
    found = numbers(text, names, what)
    if not all(value.is_integer() for value in found.values()):
        raise ValueError(f'{what} is "{text}"; it must be a whole number, or one for each expert: high:16,low:8.')
    return {name: int(value) for name, value in found.items()}


def courses(options: LoraOptions, names: Sequence[str]) -> dict[str, Course]:
    """How each expert is tuned."""
    steps, rank = whole(options.steps, names, "steps"), whole(options.rank, names, "rank")
    alpha = rank if options.alpha is None else numbers(options.alpha, names, "alpha")
    rate, targets = numbers(options.rate, names, "rate"), each(options.targets, names, "targets")
    return {
        name: Course(
            shape=Shape(rank=rank[name], alpha=alpha[name], targets=targets[name]),
            steps=steps[name],
            rate=rate[name],
            cooldown=steps[name] // 2,
            patience=options.patience,
        )
        for name in names
    }


def tune(options: LoraOptions, say: Say) -> None:
    """Train, or say what would be. The first Ctrl-C stops after the step that runs, the second at once."""
    folder = model_folder(options.model) if options.model == BUILTIN else Path(options.model)
    duet = (folder / MANIFEST).is_file()
    names, bases = _bases(folder, duet)
    taught = _taught(options, names)
    plans = courses(options, taught)
    subject = _duet_subject(folder, options, say) if duet else _wan_subject(find_bundle(folder), options, say)
    turns = Turns(block=options.sticky, devices=options.devices or (checked_device(options.device),))
    learners = [LoraLearner(subject, names.index(name), plans[name], options.seed) for name in taught]
    if isinstance(subject, WanSubject):
        subject.room = room_of(Memory.parse(options.memory), turns.devices[: len(learners)], learners, subject)
        learners = [LoraLearner(subject, names.index(name), plans[name], options.seed) for name in taught]
    for line in plan_lines(learners, turns):
        say(line)
    if options.dry_run:
        say("Nothing was trained (--dry-run).")
        return
    if isinstance(subject, DuetSubject):
        subject.keep(options.out / SPREAD)
    pupils = [Pupil(learner.name, learner, learner.patience) for learner in learners]
    with stoppable(options.out, say) as stop:
        train_set(pupils, options.out, turns, say, stop)
    for learner, pupil in zip(learners, pupils, strict=True):
        name = file_name(options.out.name, learner.name, len(names))
        result = trained(learner, pupil.weights(), pupil.learnt, options.model)
        path = options.out / f"{name}.safetensors"
        say(str(write_lora(path, result, bases[learner.name].shapes, options.form, torch.bfloat16)))


def room_of(
    memory: Memory, devices: Sequence[str], learners: Sequence[LoraLearner], subject: WanSubject
) -> Room | None:
    """What each expert's frozen weights may take beside a step; None where they fit, or stay mapped from their files.

    Experts that learn at the same time share a processor's memory, and what of the host's is pinned for devices.
    """
    if "cpu" in devices and memory.main is None:
        return None
    shared = {device: devices.count(device) for device in devices}
    left = min(memory.left(device) // times for device, times in shared.items())
    left -= state_bytes(learners) + activations(subject)
    if max(map(base_bytes, learners)) <= left:
        return None
    return Room(device=max(left, 0), host=min(map(memory.pinnable, devices)) // len(devices))


def _taught(options: LoraOptions, names: tuple[str, ...]) -> tuple[str, ...]:
    asked = names if options.experts is None else tuple(name.strip() for name in options.experts.split(","))
    strange = [name for name in asked if name not in names]
    if strange:
        raise ValueError(f"The model has no expert {', '.join(strange)}; it has {', '.join(names)}.")
    return tuple(name for name in names if name in asked)


def _bases(folder: Path, duet: bool) -> tuple[tuple[str, ...], dict[str, Weights]]:
    if duet:
        files = read_manifest(folder).experts
        return tuple(file.name for file in files), {file.name: open_safetensors(folder / file.file) for file in files}
    if not folder.exists():
        raise ValueError(f'There is no model "{folder}"; give "{BUILTIN}", a folder of weights, or a checkpoint.')
    experts = find_bundle(folder).experts
    return tuple(expert.name for expert in experts), {expert.name: expert.weights for expert in experts}


def file_name(run: str, expert: str, experts: int) -> str:
    """What an expert's LoRA is called, in a way by which others know the two of a pair apart."""
    if expert in ("high", "low"):
        return f"{run}_{expert}_noise"
    return run if experts == 1 else f"{run}_{expert}"


def _good(found: Sequence[object], strict: bool, say: Say) -> list[object]:
    """What is no fault. Raises DatasetError for the first fault where all must be good, or where none is."""
    faults = [one for one in found if isinstance(one, Fault)]
    if faults and strict:
        raise DatasetError(f"{str(faults[0]).rstrip('.')}.")
    for fault in faults:
        say(f"left out: {fault}")
    good = [one for one in found if not isinstance(one, Fault)]
    if not good:
        raise DatasetError(f"No clip can be used. {str(faults[0]).rstrip('.') if faults else 'There are none'}.")
    return good


def _duet_subject(folder: Path, options: LoraOptions, say: Say) -> DuetSubject:
    manifest = read_manifest(folder)
    frames = options.frames or 1 + manifest.codec.stride[0]
    if frames < 1 + manifest.codec.stride[0]:
        raise ValueError(f"frames is {frames}; this model learns from {1 + manifest.codec.stride[0]} or more.")
    clips = filmed(options.data)
    if not clips:
        dataset = read_dataset(options.data)
        found = draw(dataset.items, wish_of(manifest, frames), Cache(options.out / "cache"), say)
        clips = [one for one in _good(list(found), options.strict, say) if isinstance(one, Path)]
    kept = options.out / SPREAD
    return open_duet(folder, clips, options.held, kept=kept, batch=options.batch or 4, frames=frames, even=options.even)


def wish_for(bundle: Bundle, options: LoraOptions, dataset: Dataset) -> Wish:
    """What clips are brought to for a Wan model: as asked, else as the list says, else as the family has it."""
    family = bundle.family
    if options.frames is not None and options.frames < 5:
        raise ValueError(f"frames is {options.frames}; this model learns from 5 or more.")
    time_, rows, columns = STRIDES[family.vae]
    _, high, wide = family.config.patch
    size = parse_size(options.size) if options.size else dataset.size or family.size
    return Wish(
        fps=family.fps,
        frames=options.frames or dataset.frames or family.frames,
        size=size,
        grid=(columns * wide, rows * high),
        time=time_,
        caption=not family.prompt,
        whole=family.task in ("animate", "vace", "control"),
    )


def _wan_subject(bundle: Bundle, options: LoraOptions, say: Say) -> WanSubject:
    dataset, device = read_dataset(options.data), checked_device(options.device)
    for note in dataset.notes:
        say(note)
    cache = Cache(options.out / "cache")
    wish = wish_for(bundle, options, dataset)
    encoder = Encoder(bundle=bundle, cache=cache, wish=wish, mode=options.mode, device=device, say=say)
    found = _good(list(encoder.encode(dataset.items)), options.strict, say)
    samples = [one for one in found if isinstance(one, Sample)]
    if len(samples) <= options.held:
        raise DatasetError(f"There are {len(samples)} clips, and {options.held} are held out; some must be left.")
    kept = len(samples) - options.held
    return WanSubject(
        bundle=bundle,
        samples=samples[:kept],
        held_samples=samples[kept:],
        unworded=encoder.words([""])[0] if options.drop else None,
        batch=options.batch or dataset.batch or 1,
        dtype=getattr(torch, options.dtype),
        device=device,
        drop=options.drop,
    )
