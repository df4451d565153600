"""One expert in training, whatever it learns with: how far it is, whether it has learnt enough, and its checkpoint."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pasdedeux.train.drawn import Drawn
from pasdedeux.train.masters import Progress
from pasdedeux.train.saving import save_whole

Judge = Callable[[], float]


class Learner(Protocol):
    """What an expert learns with: all of its weights (`loop.Trainer`), or a LoRA beside them (`lora.learner`)."""

    step_number: int
    """Steps made."""
    steps: int
    """Steps to be made, if nothing ends it before."""
    batch: int
    """Clips a step."""
    drawn: Drawn
    """The noise levels of the steps that were made."""

    def place(self, device: str) -> None:
        """Be on a device with all that has to be there; no value changes."""
        ...

    def run(self, until: int) -> Generator[Progress, None, None]:
        """Train to step `until`; closed before, it holds nothing more than while it waits.

        Raises FloatingPointError where a loss or a gradient is not finite, before anything is changed.
        """
        ...

    def averaged(self) -> dict[str, Tensor]:
        """A copy of what is to be used of it so far, by name."""
        ...

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises ValueError where it is of another run."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """Early stop: `judge` gives a held-out loss every `every` steps; `times` in a row without a better one end it.

    It is asked between two steps of `Learner.run`. times: 0 only measures, and has the best weights kept.
    """

    judge: Judge
    every: int
    times: int

    def due(self, step: int) -> bool:
        """Whether it is asked after a step."""
        return step % self.every == 0


class Pupil:
    """One expert of a set in training: what it learns with, and when it has learnt enough."""

    def __init__(self, name: str, learner: Learner, patience: Patience | None = None) -> None:
        self.name, self.learner, self.patience = name, learner, patience
        self.judged: list[tuple[int, float]] = []
        self.best: dict[str, Tensor] | None = None
        self._saved = -1

    @property
    def step(self) -> int:
        """Steps made."""
        return self.learner.step_number

    @property
    def steps(self) -> int:
        """Steps to be made, if nothing ends it before."""
        return self.learner.steps

    @property
    def gave_up(self) -> bool:
        """Whether the held-out loss has stopped falling."""
        if self.patience is None or not self.patience.times or not self.judged:
            return False
        best = min(range(len(self.judged)), key=lambda k: self.judged[k][1])
        return len(self.judged) - 1 - best >= self.patience.times

    @property
    def ended(self) -> bool:
        """Whether no step is left to be made."""
        return self.step >= self.steps or self.gave_up

    def look(self) -> float | None:
        """Judge the averaged weights if it is time to, and keep the best; the held-out loss, if it was measured.

        Raises FloatingPointError where that is not finite.
        """
        if self.patience is None or not self.patience.due(self.step):
            return None
        loss = self.patience.judge()
        if not isfinite(loss):
            raise FloatingPointError(f"{self.name}: the held-out loss is {loss} at step {self.step}")
        if all(loss < before for _, before in self.judged):
            self.best = {name: weight.cpu() for name, weight in self.learner.averaged().items()}
        self.judged.append((self.step, loss))
        return loss

    @property
    def learnt(self) -> int:
        """The step of `weights`."""
        return self.step if self.best is None else min(self.judged, key=lambda judged: judged[1])[0]

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights by name, float32: the best that were judged, or else the last."""
        return self.learner.averaged() if self.best is None else dict(self.best)

    def save(self, path: Path) -> None:
        """Write the checkpoint unless it is written. Raises SaveError, the last one then being as it was."""
        if self._saved != self.step:
            save_whole(self.learner.state() | {"judged": self.judged, "best": self.best}, path)
            self._saved = self.step

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint. Raises ValueError where it is of another run."""
        state = torch.load(path, weights_only=True, map_location="cpu")
        try:
            self.learner.restore(state)
        except ValueError as error:
            raise ValueError(f"The checkpoint {path} cannot be gone on from: {error}.") from error
        self.judged = [(int(step), float(loss)) for step, loss in state["judged"]]
        self.best, self._saved = state["best"], self.step
