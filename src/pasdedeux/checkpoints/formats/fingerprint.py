"""What tells large files apart without reading all of them: for caches of what was made with a model."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

HEAD, SAMPLE, SAMPLES = 2**20, 2**16, 64
"""Bytes that are read: the first ones, those of a sample, and how many samples are spread over the rest."""


def fingerprints(path: Path) -> Iterator[tuple[int, str]]:
    """Of a file, or of each of a folder's files, by name; an index of shards stands for its folder."""
    whole = path.parent if path.name.endswith(".index.json") else path
    for file in sorted(whole.iterdir()) if whole.is_dir() else [whole]:
        if file.is_file():
            yield fingerprint(file)


def fingerprint(file: Path) -> tuple[int, str]:
    """Size, and the digest of the first megabyte and of samples spread over the rest: 11 GB would take long to read."""
    size, digest = file.stat().st_size, hashlib.sha256()
    with file.open("rb") as opened:
        digest.update(opened.read(HEAD))
        for k in range(1, SAMPLES + 1):
            opened.seek(k * size // (SAMPLES + 1))
            digest.update(opened.read(SAMPLE))
    return size, digest.hexdigest()
