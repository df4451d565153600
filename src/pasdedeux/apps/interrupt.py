"""Ctrl-C: while denoising it asks for a stop at the next step; before that, or the second time, at once."""

import signal
from types import FrameType, TracebackType
from typing import Self


class Interrupt:
    """A `stop` for the engine. Inside the block the first Ctrl-C sets it once `gentle` is on."""

    def __init__(self) -> None:
        self.asked = False
        self.gentle = False
        self._before = signal.getsignal(signal.SIGINT)

    def __call__(self) -> bool:
        """Whether somebody asked to stop."""
        return self.asked

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self.gentle:
            raise KeyboardInterrupt
        self.asked = True
