"""How an expert learns with a LoRA: the branches beside its layers are trained, and its own weights are borrowed.

All that is random at a step is a function of the seed, the expert and its own step, so that a run that was stopped goes
on bit for bit, in whatever order the experts' turns come.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from pasdedeux.train.ahead import read_ahead
from pasdedeux.train.lora.layers import Shape, attach, branches_for
from pasdedeux.train.lora.subject import Draw, Lesson, Subject
from pasdedeux.train.lora.targets import chosen
from pasdedeux.train.masters import Masters, Progress, Schedule, fill
from pasdedeux.train.pupil import Patience


@dataclass(frozen=True, kw_only=True, slots=True)
class Course(Schedule):
    """How one expert is tuned.

    patience: checks on held-out lessons, one every `check_every` steps, without a better average after which the
    expert stops early; 0: never.
    """

    shape: Shape
    steps: int = 1000
    warmup: int = 20
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    average: float = 0.99
    check_every: int = 100
    patience: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"The number of steps is {self.steps}; it must be 1 or more.")
        if not 0 < self.rate < 1:
            raise ValueError(f"The learning rate is {self.rate}; it must lie between 0 and 1.")


class LoraLearner(Masters):
    """One expert's LoRA in training. The expert's own weights are there only while it runs.

    Raises ValueError where the course's targets mean no layer of the expert.
    """

    def __init__(self, subject: Subject, position: int, course: Course, seed: int) -> None:
        self.subject, self.position, self.course, self.seed = subject.on("cpu"), position, course, seed
        self.name, self.band, self.batch = subject.names[position], subject.bands[position], subject.batch
        with self.subject.opened(position, ()) as module:
            names = chosen(module, course.shape.targets)
            self.branches = branches_for(module, names, course.shape, seed * 31 + position)
        halves = {
            f"{name}.{half}": values for name, one in self.branches.items() for half, values in one.named_parameters()
        }
        super().__init__(halves, course, shift=self.band.shift, device="cpu")
        judged = Patience(judge=self.judge, every=course.check_every, times=course.patience)
        self.patience = judged if self.subject.held else None
        self._module: nn.Module | None = None

    def place(self, device: str) -> None:
        """Move what is trained to a device, and open the expert there from then on."""
        super().place(device)
        self.subject = self.subject.on(device)

    def passes(self, until: int) -> list[bool]:
        """The forward passes from here to step `until`, in order: True one of training, False one that judges."""
        found: list[bool] = []
        for step in range(self.step_number + 1, until + 1):
            due = self.patience is not None and self.patience.due(step)
            found += [True] + [False] * (self.subject.held if due else 0)
        return found

    def run(self, until: int) -> Generator[Progress, None, None]:
        """Train to step `until`; the next lesson is read while this one computes."""
        steps = range(self.step_number, until)
        with self._expert(self.passes(until)) as module, closing(read_ahead(self.lesson, steps)) as lessons:
            for lesson in lessons:
                yield self.step(module, lesson)

    @contextmanager
    def _expert(self, passes: Sequence[bool]) -> Iterator[nn.Module]:
        """The expert with the branches beside its layers."""
        with self.subject.opened(self.position, passes) as module:
            handles = attach(module, self.branches)
            self._module = module
            try:
                yield module
            finally:
                self._module = None
                for handle in handles:
                    handle.remove()

    def lesson(self, step: int) -> Lesson:
        """What a step learns from, counted from 0, or a held-out lesson: -1, -2, ..."""
        return self.subject.lesson(Draw(seed=self.seed, position=self.position, step=step))

    def step(self, module: nn.Module, lesson: Lesson) -> Progress:
        """One optimiser step. FloatingPointError where loss or gradient is not finite, before anything is changed."""
        loss = self.subject.loss(module, lesson)
        self.finite("loss", loss.item(), f", from {', '.join(lesson.clips)}" if lesson.clips else "")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        return self.update(loss.item(), lesson.sigma)

    @torch.no_grad()
    def judge(self) -> float:
        """Mean loss of the average on the held-out lessons, whose noise is the same every time. Asked while it runs."""
        assert self._module is not None
        own = [p.clone() for p in self.masters]
        fill(self.masters, self.average)
        try:
            lessons = (self.lesson(-1 - k) for k in range(self.subject.held))
            losses = [self.subject.loss(self._module, lesson).item() for lesson in lessons]
        finally:
            fill(self.masters, own)
        return sum(losses) / len(losses)

    def what(self) -> dict[str, Any]:
        """See `Masters`."""
        return {
            "base": self.subject.base(self.position),
            "noise levels": asdict(self.band),
            "layers": list(self.branches),
            "course": self.course.lasting(),
            "seed": self.seed,
            "batch": self.batch,
        }
