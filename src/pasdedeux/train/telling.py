"""How far a run is: a line now and then with loss, throughput and time left; every step in the log; previews."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pasdedeux.train.logbook import Logbook
from pasdedeux.train.loop import Progress
from pasdedeux.train.previews import Previews, write_preview
from pasdedeux.train.together import Clock, Pupil

EVERY = 50
"""Steps between lines."""


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
        self._previews, self._clock = previews, Clock(preview_every)
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
            if progress.step % EVERY == 0:
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
            f"{speed * pupil.trainer.config.batch:.1f} clips/s, {left / speed / 60:.0f} min left"
        )

    def end(self, pupil: Pupil) -> None:
        """Say on which noise levels an expert was trained."""
        drawn = pupil.trainer.drawn
        self._report(f"{pupil.name}: {drawn.line()}")
        self._log.note(expert=pupil.name, ended=pupil.step, early=pupil.gave_up, drawn=drawn.state())

    def preview(self) -> None:
        """Sample through all experts as they are."""
        assert self._previews is not None
        steps = sum(pupil.step for pupil in self._pupils)
        self._report(f"preview: {write_preview(self._folder, steps, self._previews.picture(self._pupils))}")
