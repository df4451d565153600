"""A set of experts trained to its end: from its checkpoints on, every step in the log, and told of."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pasdedeux.train.config import Paused, Report
from pasdedeux.train.logbook import Logbook
from pasdedeux.train.previews import Previews
from pasdedeux.train.pupil import Pupil
from pasdedeux.train.telling import Teller
from pasdedeux.train.together import SetTrainer, Turns


def train_set(
    pupils: Sequence[Pupil],
    folder: Path,
    turns: Turns,
    report: Report,
    stop: Callable[[], bool],
    *,
    previews: Previews | None = None,
    preview_every: float = 0.0,
) -> None:
    """Train until all have ended; `folder` holds checkpoints and log. Raises Paused, after saving, when asked to stop.

    Raises ValueError where a checkpoint is of another run, and what `SetTrainer.run` raises.
    """
    trainer = SetTrainer(pupils, folder, turns)
    trainer.resume()
    for pupil in pupils:
        if pupil.step:
            report(f"{pupil.name}: resumed at step {pupil.step}/{pupil.steps}")
    with Logbook(folder) as log:
        log.note(began={pupil.name: pupil.step for pupil in pupils}, time=time.time())
        teller = Teller(pupils, report, log, folder=folder, previews=previews, preview_every=preview_every)
        if not trainer.run(teller, stop):
            where = ", ".join(f"{pupil.name} stopped at step {pupil.step} of {pupil.steps}" for pupil in pupils)
            raise Paused(where)
