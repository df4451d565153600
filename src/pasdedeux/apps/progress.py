"""The line that shows how far a clip is: segment, step, who denoises, and at which noise level."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pasdedeux.animate.perform import Denoised
from pasdedeux.engine import Event, Found, Loading, Noted, Prepared, Watched


class ProgressLine:
    """Feed it the engine's events inside a `with` block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn())
        # A log file is no place for a line that moves.
        quiet = not console.is_terminal
        self._progress = Progress(*columns, console=console, transient=True, disable=quiet)
        self._task = self._progress.add_task("reading character and performance", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, Watched):
            what = f"{event.what}, frame {event.frame}/{event.frames}"
            self._progress.update(self._task, total=event.frames, completed=event.frame, description=what)
        elif isinstance(event, Found):
            for warning in event.warnings:
                self._note(warning)
            self._note(f"what was found in the driver: {event.picture}")
            self._progress.reset(self._task, total=None, description="reading the model")
        elif isinstance(event, Loading):
            self._progress.update(self._task, description=f"loading {event.what}")
        elif isinstance(event, Prepared):
            for note in event.notes:
                self._note(note)
            total = event.segments * event.settings.steps
            self._progress.reset(self._task, total=total, description="denoising")
        elif isinstance(event, Noted):
            self._note(event.note)
        elif isinstance(event, Denoised):
            self._progress.update(self._task, advance=1, description=line(event))

    def _note(self, note: str) -> None:
        self._console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def line(event: Denoised) -> str:
    """ "segment 1/3  step  4/12  high  σ 0.900  log-SNR -4.39"."""
    step = event.step
    where = f"segment {event.segment + 1}/{event.segments}  step {step.i + 1:>2}/{step.of}"
    return f"{where}  {step.expert}  σ {step.sigma:.3f}  log-SNR {step.log_snr:+.2f}"
