"""One run that tunes a set of experts: each has its LoRA, optimiser, schedule, average, steps and early stop.

Experts take turns of a fixed number of steps ("sticky", since a change of expert means other weights in memory); the
one whose turn it is not is let go of. All that is random at a step is a function of the seed, the expert and its own
step, so that a run that was stopped goes on bit for bit, in whatever order the turns come.
"""

import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pasdedeux.train.bands import Band
from pasdedeux.train.lora.layers import Branch, Shape, attach, branches_for
from pasdedeux.train.lora.targets import chosen

STATE = "state.pt"
BINS = 20
"""Of the noise levels' histogram, over 0 to 1."""


class Stopped(Exception):  # noqa: N818  (not an error: somebody asked)
    """The run was stopped before its end, by request, and goes on from its checkpoint when it is called again."""


class TrainingError(ValueError):
    """The run cannot go on as it is; the last checkpoint is whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """What decides a step: the run's seed, `position` of the expert in its set, its `step` (negative: held-out)."""

    seed: int
    position: int
    step: int

    def generator(self) -> torch.Generator:
        """For noise and its levels."""
        held = self.step < 0
        return torch.Generator().manual_seed(((self.seed * 31 + self.position) * 2 + held) * 1_000_003 + abs(self.step))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lesson:
    """What a step learns from: the data as the subject has it, noise levels [B], and which clips they are."""

    data: Any
    sigma: Tensor
    clips: tuple[str, ...] = ()


class Subject(Protocol):
    """A model that is tuned: its experts by position, noisiest first, and what they learn from."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the experts are called."""
        ...

    @property
    def bands(self) -> tuple[Band, ...]:
        """The noise levels of each."""
        ...

    @property
    def held(self) -> int:
        """How many lessons are held out to judge by; 0: none."""
        ...

    def open(self, position: int) -> nn.Module:
        """An expert, frozen, on its device."""
        ...

    def lesson(self, draw: Draw) -> Lesson:
        """What a step learns from. Another thread may ask for it."""
        ...

    def loss(self, module: nn.Module, lesson: Lesson) -> Tensor:
        """The mean loss of a lesson."""
        ...

    def differences(self, position: int) -> dict[str, Tensor]:
        """What the LoRA has to change in full beside its layers, by the model's names."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How one expert is tuned.

    rate: linear warm-up, constant, then linear to zero over the last `cooldown` steps. patience: checks on held-out
    lessons without a better average after which the expert stops early; 0: never.
    """

    shape: Shape
    steps: int = 1000
    rate: float = 1e-3
    warmup: int = 20
    cooldown: int = 0
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    average: float = 0.99
    clip: float = 1.0
    check_every: int = 100
    patience: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"The number of steps is {self.steps}; it must be 1 or more.")
        if not 0 < self.rate < 1:
            raise ValueError(f"The learning rate is {self.rate}; it must lie between 0 and 1.")

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        left = (self.steps - step) / self.cooldown if self.cooldown else 1.0
        return self.rate * min(1.0, (step + 1) / max(self.warmup, 1), max(left, 0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One finished step of an expert. held: loss of its average on held-out lessons, where that was measured."""

    expert: str
    step: int
    of: int
    loss: float
    rate: float
    norm: float
    seconds: float
    sigma: tuple[float, ...]
    held: float | None = None
    early: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Pupil:
    """One expert's training: its branches, their average, its optimiser, and how far it is.

    kept: the average that was best on held-out lessons, if any were judged.
    """

    name: str
    position: int
    band: Band
    course: Course
    branches: dict[str, Branch]
    average: list[Tensor]
    optimiser: torch.optim.AdamW
    step: int = 0
    best: float = math.inf
    stale: int = 0
    kept: list[Tensor] = field(default_factory=list)
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)

    @property
    def masters(self) -> list[nn.Parameter]:
        """The trainable values, float32, in the order of the branches."""
        return [p for branch in self.branches.values() for p in (branch.down, branch.up)]

    @property
    def early(self) -> bool:
        """Whether it has stopped getting better."""
        return bool(self.course.patience) and self.stale >= self.course.patience

    @property
    def done(self) -> bool:
        """Whether it makes no more steps."""
        return self.step >= self.course.steps or self.early

    def update(self, loss: Tensor, sigma: Tensor) -> tuple[float, float]:
        """One optimiser step from a loss that is finite: learning rate and norm of the gradient."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.masters, self.course.clip))
        if not math.isfinite(norm):
            raise TrainingError(f"The gradient of the {self.name} expert is {norm} at step {self.step}.")
        rate = self.course.rate_at(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step += 1
        decay = min(self.course.average, self.step / (self.step + 9))
        with torch.no_grad():
            for average, master in zip(self.average, self.masters, strict=True):
                average.lerp_(master, 1 - decay)
        for level in sigma.tolist():
            self.histogram[min(int(level * BINS), BINS - 1)] += 1
        return rate, norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the branches have the values of the average."""
        own = [p.detach().clone() for p in self.masters]
        _fill(self.masters, self.average)
        try:
            yield
        finally:
            _fill(self.masters, own)

    def judged(self, loss: float) -> None:
        """Take note of a loss on held-out lessons."""
        if loss < self.best:
            self.best, self.stale, self.kept = loss, 0, [value.clone() for value in self.average]
        else:
            self.stale += 1

    @property
    def learnt(self) -> list[Tensor]:
        """What is to be used of it: the average, or the best one where some were judged."""
        return self.kept or self.average

    def state(self) -> dict[str, Any]:
        """All that going on needs."""
        return {
            "masters": [p.detach() for p in self.masters],
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "best": self.best,
            "stale": self.stale,
            "kept": self.kept,
            "histogram": self.histogram,
            "layers": list(self.branches),
            "course": asdict(self.course),
            "band": asdict(self.band),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises TrainingError where it is of another run."""
        other = next((key for key in ("band", "layers", "course") if not self._same(key, state[key])), None)
        if other is not None:
            raise TrainingError(
                f"The checkpoint of the {self.name} expert is of a run with another {other}; give it another folder."
            )
        _fill(self.masters, state["masters"])
        _fill(self.average, state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.best, self.stale = state["step"], state["best"], state["stale"]
        self.histogram, self.kept = list(state["histogram"]), list(state["kept"])

    def _same(self, key: str, kept: Any) -> bool:
        mine = list(self.branches) if key == "layers" else asdict(getattr(self, key))
        if key == "course":  # a run may be made longer
            free = ("steps", "cooldown", "patience", "check_every")
            mine, kept = ({k: v for k, v in it.items() if k not in free} for it in (mine, kept))
        return mine == kept


def enrol(subject: Subject, position: int, course: Course, seed: int) -> Pupil:
    """A new pupil for an expert. Raises ValueError where the course's targets mean no layer of it."""
    module = subject.open(position)
    names = chosen(module, course.shape.targets)
    branches = branches_for(module, names, course.shape, seed * 31 + position)
    device = next(module.parameters()).device
    for branch in branches.values():
        branch.to(device)
    masters = [p for branch in branches.values() for p in (branch.down, branch.up)]
    optimiser = torch.optim.AdamW(
        masters, lr=course.rate, betas=course.betas, weight_decay=course.weight_decay, foreach=True
    )
    return Pupil(
        name=subject.names[position],
        position=position,
        band=subject.bands[position],
        course=course,
        branches=branches,
        average=[p.detach().clone() for p in masters],
        optimiser=optimiser,
    )


def _never() -> bool:
    return False


@dataclass(kw_only=True, slots=True, eq=False)
class Run:
    """A run: who is taught, in turns of `sticky` steps, saved into `folder` every `save_every` seconds."""

    subject: Subject
    pupils: Sequence[Pupil]
    folder: Path
    seed: int = 0
    sticky: int = 50
    save_every: float = 120.0
    stop: Callable[[], bool] = _never
    _module: nn.Module | None = None
    _handles: list[RemovableHandle] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.sticky < 1:
            raise ValueError(f"A turn is {self.sticky} steps; it must be 1 or more.")

    def go(self) -> Iterator[Progress]:
        """Every step until all are done. Raises Stopped after saving, TrainingError with the last checkpoint whole."""
        self.restore()
        saved = time.monotonic()
        try:
            with ThreadPoolExecutor(max_workers=1) as reader:
                while turn := self._next_turn():
                    for progress in self._teach(*turn, reader):
                        yield progress
                        if self.stop() or time.monotonic() - saved > self.save_every:
                            self.save()
                            saved = time.monotonic()
                        if self.stop():
                            raise Stopped(f"{progress.expert} at step {progress.step} of {progress.of}")
            self.save()
        finally:
            self._leave()

    def _next_turn(self) -> tuple[Pupil, int] | None:
        """Who is to be taught, and how many steps: whoever is behind most in turns, noisiest first."""
        waiting = [pupil for pupil in self.pupils if not pupil.done]
        if not waiting:
            return None
        pupil = min(waiting, key=lambda one: one.step // self.sticky)
        return pupil, min(self.sticky - pupil.step % self.sticky, pupil.course.steps - pupil.step)

    def _teach(self, pupil: Pupil, steps: int, reader: ThreadPoolExecutor) -> Iterator[Progress]:
        module = self._enter(pupil)
        ahead: Future[Lesson] = reader.submit(self.subject.lesson, self._draw(pupil, pupil.step))
        for k in range(steps):
            began, lesson = time.monotonic(), ahead.result()
            if k + 1 < steps:
                ahead = reader.submit(self.subject.lesson, self._draw(pupil, pupil.step + 1))
            progress = self._step(pupil, module, lesson, began)
            yield progress
            if pupil.done:
                ahead.cancel()
                return

    def _step(self, pupil: Pupil, module: nn.Module, lesson: Lesson, began: float) -> Progress:
        loss = self.subject.loss(module, lesson)
        value = loss.item()
        if not math.isfinite(value):
            clips = f", from {', '.join(lesson.clips)}" if lesson.clips else ""
            raise TrainingError(f"The loss of the {pupil.name} expert is {value} at step {pupil.step}{clips}.")
        rate, norm = pupil.update(loss, lesson.sigma)
        held = None
        if self.subject.held and pupil.step % pupil.course.check_every == 0:
            held = self.judge(pupil, module)
            pupil.judged(held)
        return Progress(
            expert=pupil.name,
            step=pupil.step,
            of=pupil.course.steps,
            loss=value,
            rate=rate,
            norm=norm,
            seconds=time.monotonic() - began,
            sigma=tuple(lesson.sigma.tolist()),
            held=held,
            early=pupil.early,
        )

    def judge(self, pupil: Pupil, module: nn.Module) -> float:
        """Mean loss of the average on the held-out lessons, whose noise is the same every time."""
        with torch.no_grad(), pupil.averaged():
            draws = (self._draw(pupil, -1 - k) for k in range(self.subject.held))
            losses = [self.subject.loss(module, self.subject.lesson(draw)).item() for draw in draws]
        return sum(losses) / len(losses)

    def _draw(self, pupil: Pupil, step: int) -> Draw:
        return Draw(seed=self.seed, position=pupil.position, step=step)

    def _enter(self, pupil: Pupil) -> nn.Module:
        """The pupil's expert with its branches beside it; the one before is let go of first."""
        self._leave()
        module = self.subject.open(pupil.position)
        self._handles = attach(module, pupil.branches)
        self._module = module
        return module

    def _leave(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._module = [], None

    def save(self) -> None:
        """Write the state. Raises TrainingError where it cannot be written; what was there before stays."""
        buffer = io.BytesIO()
        torch.save({pupil.name: pupil.state() for pupil in self.pupils}, buffer)
        write_whole(self.folder / STATE, buffer.getvalue())

    def restore(self) -> None:
        """Go on where the folder's state is, if there is one. Raises TrainingError where it is of another run."""
        path = self.folder / STATE
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        if set(state) != {pupil.name for pupil in self.pupils}:
            raise TrainingError(
                f"{path} is of a run for {', '.join(state)}; this one is for "
                f"{', '.join(pupil.name for pupil in self.pupils)}."
            )
        for pupil in self.pupils:
            pupil.restore(state[pupil.name])


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name first. Raises TrainingError where that fails; the file from before stays."""
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        kept = " The one from before is whole." if path.exists() else ""
        raise TrainingError(f"{path} could not be written ({error.strerror or error}).{kept}") from error


def _fill(own: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for mine, value in zip(own, given, strict=True):
            mine.copy_(value)
