"""Files that are either whole or not there: written beside their final name, and renamed only on success."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pasdedeux.animate.inputs import InputError


def check_writable(path: Path) -> None:
    """Raises InputError where a file could not be written at `path`: worth knowing before hours of work."""
    folder = path.parent
    if not folder.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {folder}.")
    if path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder; give the name of a file in it.")
    try:
        _beside(path).unlink()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A new file's path to write to. It takes the name `path` when the block ends well, and is removed
    otherwise.
    """
    check_writable(path)
    part = _beside(path)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """An empty file in the same folder, of the same kind, readable by whom any new file would be."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    part = Path(name)
    mask = os.umask(0)
    os.umask(mask)
    part.chmod(0o666 & ~mask)
    return part
