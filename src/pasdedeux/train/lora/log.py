"""A run's log: a JSON object a line, and TensorBoard's files beside it where that is installed."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pasdedeux.train.lora.run import Progress, Pupil

LOG = "log.jsonl"


class Log:
    """Written to as the run goes; closed at its end, with the noise levels that were drawn."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / LOG).open("a", encoding="utf-8")
        self._board = _board(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def step(self, progress: Progress) -> None:
        """One step."""
        record: dict[str, Any] = {
            "expert": progress.expert,
            "step": progress.step,
            "loss": progress.loss,
            "rate": progress.rate,
            "norm": progress.norm,
            "seconds": round(progress.seconds, 4),
            "sigma": [round(level, 5) for level in progress.sigma],
        }
        if progress.held is not None:
            record["held"] = progress.held
        self._write(record)
        if self._board is not None:
            for name in ("loss", "rate", "norm", "held"):
                if name in record:
                    self._board.add_scalar(f"{progress.expert}/{name}", record[name], progress.step)

    def histogram(self, pupils: Sequence[Pupil]) -> None:
        """The noise levels drawn so far, beside the band that they have to lie in."""
        for pupil in pupils:
            band = [pupil.band.low, pupil.band.high]
            self._write({"expert": pupil.name, "step": pupil.step, "band": band, "levels": list(pupil.histogram)})

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps({"time": round(time.time(), 2), **record}) + "\n")
        self._file.flush()


def _board(folder: Path) -> Any:
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
