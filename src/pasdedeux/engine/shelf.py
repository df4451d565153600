"""The experts of a Wan model, loaded when their turn comes, with the LoRAs of the job in them.

On the CPU weights that need no change stay mapped from their file, so that every expert may stay loaded; on an
accelerator one is there at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from pasdedeux.animate.condition.wan import WanDenoiser
from pasdedeux.checkpoints.bundle import Bundle
from pasdedeux.checkpoints.load import load_weights
from pasdedeux.checkpoints.lora import fit_loras, parse_lora
from pasdedeux.checkpoints.lora.merge import Merged, merge
from pasdedeux.models.wan import build_wan

Say = Callable[[str], None]


def _silent(what: str) -> None:
    """Nobody is told."""


@dataclass(slots=True)
class Shelf:
    """Experts by position, noisiest first; `keep` are how many stay loaded at once."""

    bundle: Bundle
    device: str
    dtype: torch.dtype
    keep: int
    _dressed: tuple[str, ...] = ()
    _notes: tuple[str, ...] = ()
    _weights: list[Merged] = field(default_factory=list)
    _loaded: dict[int, WanDenoiser] = field(default_factory=dict)

    def dress(self, loras: tuple[str, ...]) -> tuple[str, ...]:
        """Use these LoRAs ("[high:|low:]FILE[@WEIGHT]") from now on, and say what came of them.

        Nothing is loaded. Raises ValueError where a file is none, or fits nowhere.
        """
        if self._weights and loras == self._dressed:
            return self._notes
        models = {expert.name: expert.weights for expert in self.bundle.experts}
        given, notes = fit_loras([parse_lora(text) for text in loras], models)
        weights = [merge(model, given[name]) for name, model in models.items()]
        said = {name: merged.notes for name, merged in zip(models, weights, strict=True)}
        more = (f"In the {name} expert, {note}" for name, some in said.items() for note in some)
        self._loaded.clear()
        self._dressed, self._weights, self._notes = loras, weights, (*notes, *more)
        return self._notes

    def take(self, position: int, say: Say = _silent) -> WanDenoiser:
        """The expert, loaded if it is not: `say` is told which."""
        if position not in self._loaded:
            while len(self._loaded) >= self.keep:
                self._loaded.pop(next(iter(self._loaded)))
            say(self.title(position))
            self._loaded[position] = WanDenoiser(self._load(position))
        return self._loaded[position]

    def title(self, position: int) -> str:
        """What an expert is called while it is loaded."""
        name = self.bundle.experts[position].name
        return "the model" if name == "model" else f"the {name} expert"

    @contextmanager
    def turn(self, position: int, say: Say) -> Iterator[None]:
        """Around an expert's steps: what it prepared for the segment is let go afterwards."""
        expert = self.take(position, say)
        try:
            yield
        finally:
            expert.forget()

    def _load(self, position: int) -> nn.Module:
        merged, config = self._weights[position], self.bundle.experts[position].config
        return load_weights(
            lambda: build_wan(config), merged.weights, dtype=self.dtype, device=self.device, beside=merged.beside
        )
