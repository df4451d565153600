"""How far a run is: a line now and then with loss, throughput and time left; every step in the log; previews."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pasdedeux.train.logbook import Logbook
from pasdedeux.train.masters import Progress
from pasdedeux.train.previews import Previews, write_preview
from pasdedeux.train.pupil import Pupil
from pasdedeux.train.together import Clock

EVERY, SECONDS = 50, 30.0
"""Steps between lines of an expert; seconds after which there is one, however slow the steps are."""


class Teller:
    """Watches the training of a set (`together.Watch`), in whichever thread a step is made."""

    def __init__(
        self,
        pupils: Sequence[Pupil],
        report: Callable[[str], None],
        log: Logbook,
        *,
        folder: Path,
        previews: Previews | None = None,
        preview_every: float = 0.0,
    ) -> None:
        self._pupils, self._report, self._log, self._folder = pupils, report, log, folder
        self._previews, self._clock, self._silent = previews, Clock(preview_every), Clock(SECONDS)
        self._losses: dict[str, list[float]] = {pupil.name: [] for pupil in pupils}
        self._began, self._made = time.monotonic(), 0
        self._lock = threading.Lock()

    def __call__(self, pupil: Pupil, progress: Progress, held: float | None) -> None:
        """Take in one step."""
        with self._lock:
            self._made += 1
            self._losses[pupil.name].append(progress.loss)
            self._log.step(
                pupil.name, progress.step, loss=progress.loss, rate=progress.rate, norm=progress.norm, held_out=held
            )
            if held is not None:
                self._report(f"{pupil.name}: step {progress.step} held-out loss {held:.4f}")
            if progress.step % EVERY == 0 or pupil.ended or self._silent.struck():
                self._report(self._line(pupil, progress))
            if pupil.ended:
                self.end(pupil)
            if self._previews is not None and self._clock.struck():
                self.preview()

    def _line(self, pupil: Pupil, progress: Progress) -> str:
        losses, self._losses[pupil.name] = self._losses[pupil.name], []
        speed = self._made / (time.monotonic() - self._began)
        left = sum(other.steps - other.step for other in self._pupils if not other.ended)
        return (
            f"{pupil.name}: step {progress.step}/{pupil.steps} loss {sum(losses) / len(losses):.4f} "
            f"rate {progress.rate:.1e} norm {progress.norm:.2f}, "
            f"{speed * pupil.learner.batch:.1f} clips/s, {left / speed / 60:.0f} min left"
        )

    def end(self, pupil: Pupil) -> None:
        """Say on which noise levels an expert was trained, and whether it ended early."""
        drawn, early = pupil.learner.drawn, f"ended early at step {pupil.step}; " if pupil.gave_up else ""
        self._report(f"{pupil.name}: {early}{drawn.line()}")
        self._log.note(expert=pupil.name, ended=pupil.step, early=pupil.gave_up, drawn=drawn.state())

    def preview(self) -> None:
        """Sample through all experts as they are."""
        assert self._previews is not None
        steps = sum(pupil.step for pupil in self._pupils)
        self._report(f"preview: {write_preview(self._folder, steps, self._previews.picture(self._pupils))}")
