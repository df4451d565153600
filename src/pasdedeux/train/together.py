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
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pasdedeux.train.masters import Progress
from pasdedeux.train.pupil import Pupil

Stop = Callable[[], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """How a set shares devices: steps of an expert before the next one's turn, the devices, seconds between saves."""

    block: int = 50
    devices: tuple[str, ...] = ("cpu",)
    save_every: float = 120.0

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"A turn is {self.block} steps; it must be 1 or more.")


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
            pupil.learner.place(device if len(group) == 1 else "cpu")
        while (pupil := furthest_behind(group)) is not None and not stop():
            for other in group:
                if other is not pupil:
                    other.learner.place("cpu")
            pupil.learner.place(device)
            self._block(pupil, group, clock, watch, stop)
        self.save(group)

    def _block(self, pupil: Pupil, group: Sequence[Pupil], clock: "Clock", watch: Watch, stop: Stop) -> None:
        until = min((pupil.step // self.turns.block + 1) * self.turns.block, pupil.steps)
        with closing(pupil.learner.run(until)) as steps:
            for progress in named(pupil.name, steps):
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
