"""What a run leaves to be read: one JSON line per step, and TensorBoard's files where tensorboard is installed.

A run that was killed makes the steps since its last checkpoint again, and logs them again, equal.
"""

import json
import os
import threading
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LOG = "log.jsonl"


class Logbook:
    """The log of a folder; several threads may write to it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = _ends_within_a_line(folder / LOG)
        self._file = (folder / LOG).open("a", encoding="utf-8", buffering=1)
        if unfinished:
            self._file.write("\n")
        self._lock = threading.Lock()
        self._board: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def step(self, expert: str, step: int, **values: float | None) -> None:
        """Figures of one step of one expert; those that are None were not measured."""
        known = {name: value for name, value in values.items() if value is not None}
        self.note(expert=expert, step=step, **known)
        if self._board is not None:
            with self._lock:
                for name, value in known.items():
                    self._board.add_scalar(f"{expert}/{name}", value, step)

    def note(self, **record: Any) -> None:
        """Any record."""
        with self._lock:
            self._file.write(json.dumps(record) + "\n")


def _ends_within_a_line(path: Path) -> bool:
    """Whether the run that wrote the log was killed in the middle of a line."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def steps_of(path: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """A log's steps by expert and number, each once. Lines that were cut off are left out."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "step" in record:
            found.setdefault(record["expert"], {})[record["step"]] = record
    return found
