"""Prompt embeddings kept on disk, so that a prompt used before needs no text encoder of 11 GB.

An entry is found by what decides its values: the cleaned text, the encoder's and the tokenizer's files, the type. The
text itself is not stored. Every entry carries a digest of its bytes; one that does not match is made anew.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pasdedeux.checkpoints.formats.fingerprint import fingerprints
from pasdedeux.models.text import PromptEmbedding, TextEncoder, clean_prompt

FORMAT = "2"
MOST = 256
"""Entries kept; one is a few megabytes at most."""
_VALUES = "values"
Opened = Callable[[int], AbstractContextManager[TextEncoder]]
"""An encoder for so many prompts, around their encoding; at its end it has given back what it took."""


def default_folder() -> Path:
    """Where the entries lie unless told otherwise: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "pasdedeux" / "prompts"


def identity(paths: Iterable[Path], dtype: torch.dtype) -> str:
    """What tells encoders apart: the content of their files as far as `fingerprints` looks, wherever they lie; and the
    type computed in."""
    said = [one for path in paths for one in fingerprints(path)]
    return hashlib.sha256(json.dumps([said, str(dtype)]).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptCache:
    """A folder that holds at most `most` embeddings, of whatever encoders."""

    folder: Path = field(default_factory=default_folder)
    most: int = MOST

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"A cache of prompts must have room for one at least, not {self.most}.")

    def encode(
        self,
        texts: Sequence[str],
        encoder: Path,
        opened: Opened,
        *,
        tokenizer: Path | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> list[PromptEmbedding]:
        """One embedding per text, on the CPU. The encoder is opened once, for all texts that are new, if some are.

        encoder, tokenizer: the files that `opened` reads; dtype: the type it computes in. A folder that cannot be
        written is no error: the embeddings say so in their notes.
        Raises ValueError if `opened` gives an encoder of another type.
        """
        name = identity([encoder, *([tokenizer] if tokenizer else [])], dtype)
        asked = {clean_prompt(text): text for text in texts}
        paths = {text: self._path(name, text) for text in asked}
        entries = {text: entry for text, path in paths.items() if (entry := _read(path)) is not None}
        new = {paths[text]: asked[text] for text in asked if text not in entries}
        made = self._make(new, opened, dtype) if new else {}
        return [entries.get(text) or made[paths[text]] for text in map(clean_prompt, texts)]

    def _make(self, texts: Mapping[Path, str], opened: Opened, dtype: torch.dtype) -> dict[Path, PromptEmbedding]:
        with opened(len(texts)) as encoder:
            made = {path: _on_cpu(encoder.encode(text)) for path, text in texts.items()}
        strange = [entry.values.dtype for entry in made.values() if entry.values.dtype != dtype]
        if strange:
            raise ValueError(f"The text encoder computes in {strange[0]}, but its embeddings are kept as {dtype}.")
        try:
            for path, entry in made.items():
                _write(path, entry)
            self._prune()
        except OSError as error:
            remark = f"the prompt's embedding could not be kept in {self.folder} ({error.strerror or error})"
            return {path: replace(entry, remark=remark) for path, entry in made.items()}
        return made

    def _path(self, encoder: str, text: str) -> Path:
        key = hashlib.sha256(json.dumps([FORMAT, encoder, text]).encode()).hexdigest()
        return self.folder / f"{key}.safetensors"

    def _prune(self) -> None:
        """Removes what was used longest ago, the leavings of an interrupted write among it."""
        files = [path for path in self.folder.iterdir() if path.suffix in (".safetensors", ".part")]
        for path in sorted(files, key=_last_used)[: max(len(files) - self.most, 0)]:
            path.unlink(missing_ok=True)


def _read(path: Path) -> PromptEmbedding | None:
    """The entry, marked as used just now; None if there is none, or none that is whole."""
    try:
        with safe_open(path, framework="pt") as file:
            said, values = file.metadata() or {}, file.get_tensor(_VALUES).clone()
        os.utime(path)
    except (SafetensorError, OSError):
        return None
    whole = values.ndim == 3 and said.get("digest") == _digest(values) and said.get("dropped", "").isdecimal()
    return PromptEmbedding(values=values, dropped=int(said["dropped"])) if whole else None


def _on_cpu(entry: PromptEmbedding) -> PromptEmbedding:
    return replace(entry, values=entry.values.cpu())


def _write(path: Path, entry: PromptEmbedding) -> None:
    """Under another name first: a reader never sees half an entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = entry.values.contiguous()
    data = save({_VALUES: values}, {"digest": _digest(values), "dropped": str(entry.dropped)})
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another run was quicker
        return 0.0
