"""The experts of a Wan model, loaded when their turn comes, with the LoRAs of the job in them.

On a processor weights that need no change stay mapped from their file and cost no memory of their own, so that every
expert may stay; where they are changed as they are loaded, and on an accelerator, one is there at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from pasdedeux.animate.condition.wan import WanDenoiser
from pasdedeux.checkpoints.bundle import Bundle
from pasdedeux.checkpoints.formats.mapped import name_of
from pasdedeux.checkpoints.load import load_weights
from pasdedeux.checkpoints.lora import fit_loras, parse_lora, title_of
from pasdedeux.checkpoints.lora.merge import Merged, merge
from pasdedeux.models.wan import build_wan

Say = Callable[[str], None]
Files = tuple[tuple[str, int, int], ...]
ROOM = 18e9
"""Bytes that decoding a clip may need, at 1280x720 in float32: with less to spare the expert is let go of first."""
COPIED = 0.25
"""Share of an expert's bytes that may be changed as it is loaded (norms, biases) while it still counts as mapped."""


def _silent(what: str) -> None:
    """Nobody is told."""


@dataclass(slots=True)
class ExpertLoader:
    """Experts by position, noisiest first."""

    bundle: Bundle
    device: str
    dtype: torch.dtype
    _files: Files = ()
    _loras: tuple[str, ...] = ()
    _notes: tuple[str, ...] = ()
    _weights: list[Merged] = field(default_factory=list)
    _loaded: dict[int, WanDenoiser] = field(default_factory=dict)

    def use_loras(self, loras: tuple[str, ...]) -> tuple[str, ...]:
        """Use these LoRAs ("[high:|low:]FILE[@WEIGHT]") from now on, and say what came of them.

        No expert is loaded. Raises ValueError where a file is none, or fits nowhere.
        """
        choices = [parse_lora(text) for text in loras]
        files = tuple(_state(choice.path) for choice in choices)
        if self._weights and (loras, files) == (self._loras, self._files):
            return self._notes
        models = {expert.name: expert.weights for expert in self.bundle.experts}
        given, notes = fit_loras(choices, models)
        weights = [merge(model, given[name]) for name, model in models.items()]
        said = {name: merged.notes for name, merged in zip(models, weights, strict=True)}
        more = (f"In {title_of(name)}, {note}" for name, some in said.items() for note in some)
        self._loaded.clear()
        self._loras, self._files, self._weights, self._notes = loras, files, weights, (*notes, *more)
        return self._notes

    def expert(self, position: int, say: Say = _silent) -> WanDenoiser:
        """The expert, loaded if it is not: `say` is told which."""
        if position not in self._loaded:
            if not self._all_mapped:
                self.release()
            say(self.title(position))
            self._loaded[position] = WanDenoiser(self._load(position))
        return self._loaded[position]

    def title(self, position: int) -> str:
        """What an expert is called while it is loaded."""
        return title_of(self.bundle.experts[position].name)

    @contextmanager
    def residence(self, position: int, say: Say) -> Iterator[None]:
        """Around an expert's steps: what it prepared for the segment is let go afterwards, and the expert itself where
        there would be no room to decode beside it."""
        expert = self.expert(position, say)
        try:
            yield
        finally:
            expert.forget()
            if self.device != "cpu" and torch.cuda.mem_get_info(self.device)[0] < ROOM:
                del expert
                self.release()

    def release(self) -> None:
        """Let go of every expert that takes memory of its own."""
        if not self._all_mapped:
            self._loaded.clear()

    @property
    def _all_mapped(self) -> bool:
        """Whether experts cost no memory of their own."""
        return self.device == "cpu" and not self._loras and all(map(self._mapped, range(len(self._weights))))

    def _mapped(self, position: int) -> bool:
        tensors, kind = self._weights[position].weights.values(), name_of(self.dtype)
        changed = sum(t.nbytes for t in tensors if not t.packed and t.dtype != kind)
        return changed <= COPIED * self._weights[position].weights.nbytes

    def _load(self, position: int) -> nn.Module:
        merged, config = self._weights[position], self.bundle.experts[position].config
        return load_weights(
            lambda: build_wan(config), merged.weights, dtype=self.dtype, device=self.device, beside=merged.beside
        )


def _state(path: Path) -> tuple[str, int, int]:
    """What tells whether a file is still the one that was read; one that is missing is for its reader to say."""
    if not path.is_file():
        return str(path), -1, -1
    found = path.stat()
    return str(path), found.st_size, found.st_mtime_ns
