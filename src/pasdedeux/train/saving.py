"""Files that are whole or not there: a checkpoint, an encoded clip, a LoRA."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch


class SaveError(OSError):
    """A file could not be written; the one before it is as it was."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, beside its name, which it gets when all of it is on the disk. Raises SaveError if that fails."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    # torch tells a full disk as a RuntimeError of its writer.
    except (OSError, RuntimeError) as error:
        raise SaveError(f"{path} could not be written ({error}); what was there before is kept") from error
    finally:
        partial.unlink(missing_ok=True)


def save_whole(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint. Raises SaveError."""
    with whole_file(path) as file:
        torch.save(state, file)
