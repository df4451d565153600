"""Prepared drivers kept by content, so that a driver that was looked through before is there at once.

An entry is found by what decides it: the driver's bytes, what is wanted, which backends look, and the version of both
this program's preparation and the record. Its folder is worked on under another name until it is whole, and a run that
was stopped finds there what it had.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import mkdtemp

from pasdedeux.animate.prepared import VERSION, Wanted, is_prepared

MOST_BYTES = 4_000_000_000
"""Of all entries together; those that were not used for longest go first."""
PIECE = 1 << 20


def default_folder() -> Path:
    """Where the entries lie unless told otherwise: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "pasdedeux" / "drivers"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedCache:
    """A folder of prepared drivers, of `most` bytes at most."""

    folder: Path = field(default_factory=default_folder)
    most: int = MOST_BYTES

    def entry(self, wanted: Wanted, backends: Iterable[str]) -> Path:
        """The folder of what is wanted, there or not; backends: the names of those that look."""
        asked = asdict(wanted) | {"driver": digest(wanted.driver), "models": None, "beside": None}
        for name in ("keypoints", "mask"):
            path = getattr(wanted, name)
            asked[name] = None if path is None else digest(path)
        text = json.dumps([VERSION, asked, sorted(backends)])
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def begun(self, entry: Path) -> Path:
        """A folder to work in for an entry: the one that a stopped run left, or a new one; elsewhere if need be."""
        part = entry.with_suffix(".part")
        try:
            part.mkdir(parents=True, exist_ok=True)
        except OSError:
            return Path(mkdtemp(prefix="pasdedeux-"))
        return part

    def finished(self, part: Path, entry: Path) -> Path:
        """The folder's final place. Makes room for it among the others."""
        if part.parent != entry.parent:
            return part
        if is_prepared(entry):
            shutil.rmtree(part)
        else:
            shutil.rmtree(entry, ignore_errors=True)
            part.rename(entry)
        self._make_room(entry)
        return entry

    def used(self, entry: Path) -> None:
        """Note that an entry was of use."""
        os.utime(entry)

    def _make_room(self, newest: Path) -> None:
        entries = sorted(
            (path for path in self.folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
        )
        sizes = {path: sum(file.stat().st_size for file in path.iterdir() if file.is_file()) for path in entries}
        for path in entries:
            if sum(sizes.values()) <= self.most or path == newest:
                continue
            shutil.rmtree(path, ignore_errors=True)
            sizes.pop(path)


def digest(path: Path) -> str:
    """What tells contents apart: of a file its bytes, of a folder (or a pattern of numbered pictures) its files'."""
    if not path.exists():
        return _of_files(sorted(path.parent.glob("*")), path.name)
    return _of_files(sorted(file for file in path.iterdir() if file.is_file())) if path.is_dir() else _of_files([path])


def _of_files(files: Iterable[Path], name: str = "") -> str:
    found = hashlib.sha256(name.encode())
    for file in files:
        if file.is_file():
            with file.open("rb") as opened:
                while piece := opened.read(PIECE):
                    found.update(piece)
            found.update(b"\0" + (file.name.encode() if name else b""))
    return found.hexdigest()
