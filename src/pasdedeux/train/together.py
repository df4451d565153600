"""One trainer for a set of experts: each with its own optimiser, schedule, average and steps, in one run.

On one device the experts take turns in sticky blocks, and whoever waits is off the device; on several, each device has
experts of its own and they train at the same time. What an expert learns at its step n depends on (seed, n) and on no
other expert, so the order of turns changes nothing: alternating, side by side, stopped and resumed give the same bits.
That is also why one file per expert is a whole checkpoint, however a run ended.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pasdedeux.train.loop import Progress, Trainer, save_whole

Judge = Callable[[Trainer], float]
Stop = Callable[[], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """Early stop: `judge` gives a held-out loss every `every` steps; `times` in a row without a better one end it."""

    judge: Judge
    every: int
    times: int


class Pupil:
    """One expert of a set in training: its trainer, the clips it reads, and when it has learnt enough."""

    def __init__(self, name: str, trainer: Trainer, clips: list[Path], patience: Patience | None = None) -> None:
        self.name, self.trainer, self.clips, self.patience = name, trainer, clips, patience
        self.judged: list[tuple[int, float]] = []
        self.best: list[Tensor] | None = None
        self._saved = -1

    @property
    def step(self) -> int:
        """Steps made."""
        return self.trainer.step_number

    @property
    def steps(self) -> int:
        """Steps to be made, if nothing ends it before."""
        return self.trainer.config.steps

    @property
    def gave_up(self) -> bool:
        """Whether the held-out loss has stopped falling."""
        if self.patience is None or not self.judged:
            return False
        best = min(range(len(self.judged)), key=lambda k: self.judged[k][1])
        return len(self.judged) - 1 - best >= self.patience.times

    @property
    def ended(self) -> bool:
        """Whether no step is left to be made."""
        return self.step >= self.steps or self.gave_up

    def look(self) -> float | None:
        """Judge the averaged weights if it is time to, and keep the best; the held-out loss, if it was measured."""
        if self.patience is None or self.step % self.patience.every:
            return None
        loss = self.patience.judge(self.trainer)
        if all(loss < before for _, before in self.judged):
            self.best = [a.detach().to("cpu", copy=True) for a in self.trainer.average]
        self.judged.append((self.step, loss))
        return loss

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights by name, float32: the best that were judged, or else the last."""
        averaged = self.trainer.averaged()
        if self.best is not None:
            averaged |= dict(zip(self.trainer.names, (b.clone() for b in self.best), strict=True))
        return averaged

    def save(self, path: Path) -> None:
        """Write the checkpoint unless it is written. Raises SaveError, the last one then being as it was."""
        if self._saved != self.step:
            save_whole(self.trainer.state() | {"judged": self.judged, "best": self.best}, path)
            self._saved = self.step

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = self.trainer.restore(path)
        self.judged = [(int(step), float(loss)) for step, loss in state.get("judged", [])]
        self.best, self._saved = state.get("best"), self.step


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """How a set shares devices: steps of an expert before the next one's turn, the devices, seconds between saves."""

    block: int = 50
    devices: tuple[str, ...] = ("cpu",)
    save_every: float = 120.0


Watch = Callable[[Pupil, Progress, float | None], None]
"""Told every step, in the thread that made it and before a checkpoint holds it; with the held-out loss, if measured."""


class SetTrainer:
    """The experts of a set and their checkpoints `folder`/NAME.pt."""

    def __init__(self, pupils: Sequence[Pupil], folder: Path, turns: Turns) -> None:
        self.pupils, self.folder, self.turns = tuple(pupils), folder, turns

    @property
    def ended(self) -> bool:
        """Whether every expert has learnt to its end."""
        return all(pupil.ended for pupil in self.pupils)

    def path(self, pupil: Pupil) -> Path:
        """Where an expert's checkpoint is."""
        return self.folder / f"{pupil.name}.pt"

    def resume(self) -> None:
        """Every expert goes on from its checkpoint, if there is one."""
        for pupil in self.pupils:
            if self.path(pupil).exists():
                pupil.restore(self.path(pupil))

    def run(self, watch: Watch, stop: Stop) -> bool:
        """Train until all have ended (True) or until asked to stop (False); checkpoints are written either way.

        Raises FloatingPointError where a loss is not finite and SaveError where a checkpoint cannot be written; the
        checkpoints from before are kept.
        """
        groups = [self.pupils[k :: len(self.turns.devices)] for k in range(len(self.turns.devices))]
        pairs = [(group, device) for group, device in zip(groups, self.turns.devices, strict=True) if group]
        if len(pairs) == 1:
            self._alternate(*pairs[0], watch, stop)
        else:
            self._side_by_side(pairs, watch, stop)
        return self.ended

    def _side_by_side(self, pairs: Sequence[tuple[Sequence[Pupil], str]], watch: Watch, stop: Stop) -> None:
        failed = threading.Event()

        def work(group: Sequence[Pupil], device: str) -> None:
            try:
                self._alternate(group, device, watch, lambda: failed.is_set() or stop())
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(len(pairs)) as pool:
            for job in [pool.submit(work, *pair) for pair in pairs]:
                job.result()

    def _alternate(self, group: Sequence[Pupil], device: str, watch: Watch, stop: Stop) -> None:
        """Turns on one device until all of the group have ended or somebody asks to stop."""
        clock = Clock(self.turns.save_every)
        for pupil in group:
            pupil.trainer.place(device if len(group) == 1 else "cpu")
        while (pupil := furthest_behind(group)) is not None and not stop():
            for other in group:
                if other is not pupil:
                    other.trainer.place("cpu")
            pupil.trainer.place(device)
            self._block(pupil, group, clock, watch, stop)
        self.save(group)

    def _block(self, pupil: Pupil, group: Sequence[Pupil], clock: "Clock", watch: Watch, stop: Stop) -> None:
        until = min((pupil.step // self.turns.block + 1) * self.turns.block, pupil.steps)
        for progress in named(pupil.name, pupil.trainer.run(pupil.clips, until)):
            watch(pupil, progress, pupil.look())
            if clock.struck():
                self.save(group)
            if pupil.ended or stop():
                return

    def save(self, group: Sequence[Pupil]) -> None:
        """Write what has changed."""
        for pupil in group:
            pupil.save(self.path(pupil))


def named(name: str, steps: Iterator[Progress]) -> Iterator[Progress]:
    """The same steps, whose fault says which expert's it is."""
    try:
        yield from steps
    except FloatingPointError as error:
        raise FloatingPointError(f"{name}: {error}") from error


class Clock:
    """Strikes every so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def struck(self) -> bool:
        """Whether the time is up, which begins it anew."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def furthest_behind(group: Sequence[Pupil]) -> Pupil | None:
    """Whose turn it is: of those that have not ended, whoever has made the smallest share of its steps."""
    left = [pupil for pupil in group if not pupil.ended]
    return min(left, key=lambda pupil: pupil.step / pupil.steps) if left else None
