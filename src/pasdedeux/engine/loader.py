"""The experts of a Wan model, with the LoRAs of a job in them: whole, or as skeletons whose weights come and go.

On a processor weights that need no change stay mapped from their file and cost no memory of their own.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from pasdedeux.animate.condition.wan import WanDenoiser
from pasdedeux.checkpoints.bundle import Bundle
from pasdedeux.checkpoints.formats.mapped import name_of
from pasdedeux.checkpoints.load import Skeleton, load_weights, skeleton
from pasdedeux.checkpoints.lora import fit_loras, parse_lora, title_of
from pasdedeux.checkpoints.lora.merge import Merged, merge
from pasdedeux.checkpoints.packing.linear import release as release_unpacked
from pasdedeux.models.wan import build_wan
from pasdedeux.models.wan.transformer import WanTrunk
from pasdedeux.residency.sources import HostSource, Source, source_of
from pasdedeux.residency.stream import Streamed
from pasdedeux.residency.units import TRUNK, Unit

Say = Callable[[str], None]
Files = tuple[tuple[str, int, int], ...]
COPIED = 0.25
"""Share of an expert's bytes that may be changed as it is loaded (norms, biases) while it still counts as mapped."""


def _silent(what: str) -> None:
    """Nobody is told."""


@dataclass(slots=True, eq=False)
class _Stream:
    """Experts on meta, and where their weights come from; units kept in host memory once they were read."""

    bare: list[WanDenoiser]
    streamed: list[Streamed]
    source: Source
    kept: HostSource


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
    _stream: _Stream | None = None

    def use_loras(self, loras: tuple[str, ...]) -> tuple[str, ...]:
        """Use these LoRAs ("[high:|low:]FILE[@WEIGHT]") from now on, and say what came of them.

        No expert is loaded. Raises ValueError where a file is none, or fits nowhere.
        """
        choices = [parse_lora(text) for text in loras]
        files = tuple(state_of(choice.path) for choice in choices)
        if self._weights and (loras, files) == (self._loras, self._files):
            return self._notes
        models = {expert.name: expert.weights for expert in self.bundle.experts}
        given, notes = fit_loras(choices, models)
        weights = [merge(model, given[name]) for name, model in models.items()]
        said = {name: merged.notes for name, merged in zip(models, weights, strict=True)}
        more = (f"In {title_of(name)}, {note}" for name, some in said.items() for note in some)
        self.close()
        self._loras, self._files, self._weights, self._notes = loras, files, weights, (*notes, *more)
        return self._notes

    @property
    def merged(self) -> Sequence[Merged]:
        """The weights of every expert with the LoRAs in them."""
        return self._weights

    def expert(self, position: int, say: Say = _silent) -> WanDenoiser:
        """The whole expert, loaded if it is not: `say` is told which."""
        if position not in self._loaded:
            say(self.title(position))
            merged, build = self._weights[position], self._build(position)
            net = load_weights(build, merged.weights, dtype=self.dtype, device=self.device, beside=merged.beside)
            self._loaded[position] = WanDenoiser(net)
        return self._loaded[position]

    def bare(self, position: int) -> WanDenoiser:
        """The expert without weights: a streamer has to be carrying them."""
        return self._streaming().bare[position]

    def streamed(self, steps: Sequence[int]) -> list[Streamed]:
        """What a streamer takes; nothing of an expert that has no steps."""
        nothing = Streamed(nn.Module(), ())
        return [it if count else nothing for it, count in zip(self._streaming().streamed, steps, strict=True)]

    def units(self, steps: Sequence[int]) -> list[Unit]:
        """Of the experts that have steps."""
        found = enumerate(self.streamed(steps))
        return [Unit(k, i) for k, it in found if steps[k] for i in (TRUNK, *range(len(it.blocks)))]

    @property
    def source(self) -> Source:
        """All units as they lie in files, or as they are made of them."""
        return self._streaming().source

    def kept(self, units: Iterable[Unit], room: int) -> Source:
        """The same, of which the first of these units stay in host memory once they were read, up to `room` bytes."""
        stream, chosen = self._streaming(), list[Unit]()
        for unit in units:
            room -= stream.source.layout(unit).nbytes
            if room < 0:
                break
            chosen.append(unit)
        stream.kept.keep(chosen)
        return stream.kept

    @property
    def pinned(self) -> int:
        """Bytes of the units that are kept in host memory."""
        return 0 if self._stream is None else self._stream.kept.nbytes

    @property
    def refused(self) -> int | None:
        """Bytes of the units kept in host memory, where there was no memory for more of those chosen; else None."""
        kept = None if self._stream is None else self._stream.kept
        return kept.nbytes if kept is not None and kept.refused else None

    def title(self, position: int) -> str:
        """What an expert is called while it is loaded."""
        return title_of(self.bundle.experts[position].name)

    def no_numbers(self, position: int) -> str:
        """What is to be said of an expert that gives values that are no numbers."""
        kind = name_of(self.dtype)
        other = "its file may be damaged" if kind == "bfloat16" else "bfloat16 holds greater ones"
        what = f"{self.title(position).capitalize()} gives values that are not finite in {kind}"
        return f"{what}: a LoRA weighs too much, or {other}."

    def forget(self, position: int) -> None:
        """Let go of what an expert prepared for a segment, and of what its layers have unpacked."""
        release_unpacked()
        for denoiser in (self._loaded.get(position), self._stream and self._stream.bare[position]):
            if denoiser:
                denoiser.forget()

    @property
    def holds_any(self) -> bool:
        """Whether any whole expert is loaded."""
        return bool(self._loaded)

    def release(self, *, everything: bool = False) -> None:
        """Let go of the whole experts that take memory of their own, or of all."""
        if everything or not self.all_mapped:
            self._loaded.clear()

    def close(self) -> None:
        """Let go of all that is in memory."""
        self._loaded.clear()
        if self._stream is not None:
            self._stream.kept.close()
        self._stream = None

    @property
    def all_mapped(self) -> bool:
        """Whether whole experts cost no memory of their own."""
        return self.device == "cpu" and not self._loras and all(map(self._mapped, range(len(self._weights))))

    def _mapped(self, position: int) -> bool:
        tensors, kind = self._weights[position].weights.values(), name_of(self.dtype)
        changed = sum(t.nbytes for t in tensors if not t.packed and t.dtype != kind)
        return changed <= COPIED * self._weights[position].weights.nbytes

    def _build(self, position: int) -> Callable[[], WanTrunk]:
        config = self.bundle.experts[position].config
        return lambda: build_wan(config)

    def _streaming(self) -> _Stream:
        if self._stream is None:
            bare = [self._skeleton(position) for position in range(len(self._weights))]
            streamed = [Streamed(one.module, one.module.turns) for one in bare]
            units = {}
            for k, (one, it) in enumerate(zip(bare, streamed, strict=True)):
                units |= it.units(k, one.values)
            source = source_of(units)
            kept = HostSource(source, (), pin=self.device != "cpu", later=True)
            self._stream = _Stream([WanDenoiser(one.module) for one in bare], streamed, source, kept)
        return self._stream

    def _skeleton(self, position: int) -> Skeleton[WanTrunk]:
        merged = self._weights[position]
        return skeleton(self._build(position), merged.weights, dtype=self.dtype, beside=merged.beside)


def state_of(path: Path) -> tuple[str, int, int]:
    """What tells whether a file is still the one that was read; one that is missing is for its reader to say."""
    if not path.is_file():
        return str(path), -1, -1
    found = path.stat()
    return str(path), found.st_size, found.st_mtime_ns
