"""The experts of a Wan model at work for one job: whole where they all fit, else their blocks coming and going.

Where the weights are is decided before the first step (`residency.placing`), from what is free or was allowed. Where
memory runs out all the same, less of the weights is kept and the step is made again: a step changes nothing but what
it returns. Each such change is told.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from traceback import clear_frames
from typing import Any, Self

import torch
from torch import Tensor, nn

from pasdedeux.animate.perform import Bytes, SegmentCondition, Stage
from pasdedeux.denoise import Expert, ExpertSet, Handoff
from pasdedeux.engine.events import Loading, Noted, OnEvent
from pasdedeux.engine.loader import ExpertLoader
from pasdedeux.engine.memory import ran_out
from pasdedeux.engine.report import MemoryRecord
from pasdedeux.residency.advice import in_gb
from pasdedeux.residency.numbers import Place, Placement, RunNumbers
from pasdedeux.residency.plan import least_budget, place_bytes, plan
from pasdedeux.residency.stream import Streamer
from pasdedeux.residency.trace import Step, trace
from pasdedeux.residency.units import TRUNK, Plan, Unit, Use

LESS = 0.75
"""What is left of the weights' memory when there was not enough of it."""


@dataclass(slots=True, kw_only=True, eq=False)
class Playing:
    """A context manager around one performance; `experts` denoise in it.

    codec: the video autoencoder; pinnable: bytes of host memory that may be pinned for weights that come and go.
    budget: bytes that weights may take now; whole: whether experts are loaded whole; stays: whether weights stay while
    a segment is decoded; done: steps so far, of all segments.
    """

    loader: ExpertLoader
    run: RunNumbers
    placement: Placement
    handoff: Handoff
    guidance: tuple[float, ...]
    codec: nn.Module
    tell: OnEvent
    pinnable: int = 0
    budget: int = field(init=False)
    whole: bool = field(init=False)
    stays: bool = field(init=False)
    done: int = field(init=False, default=0)
    _place: Place = field(init=False)
    _until: int = field(init=False, default=0)
    _held: int = field(init=False, default=0)
    _moved: int = field(init=False, default=0)
    _waited: float = field(init=False, default=0.0)
    _streamer: Streamer | None = field(init=False, default=None)
    _told: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.budget, self.stays = self.placement.budget, self.placement.stays
        self.whole = self.placement.place == "all resident" and self.stays
        self._place = self.placement.place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._end_stream(error)

    @property
    def experts(self) -> ExpertSet:
        """The experts with their bands and guidance."""
        names = [expert.name for expert in self.loader.bundle.experts]
        made = (
            Expert(_Turns(self, k), name, scale, partial(self._turn, k))
            for k, (name, scale) in enumerate(zip(names, self.guidance, strict=True))
        )
        return ExpertSet(tuple(made), self.handoff)

    def roomy(self, stage: Stage) -> Stage:
        """The stage, for which room is made where it runs out of memory."""
        return _Roomy(stage, self._make_room)

    def record(self) -> MemoryRecord:
        """What was foretold, and what came of it so far."""
        return MemoryRecord(
            place=self._place,
            budget=self.budget,
            foretold_peak=max(nbytes for _, nbytes in self.placement.phases),
            foretold_moved=0 if self.whole else self.placement.moved,
            moved=self._moved,
            waited=round(self._waited, 4),
        )

    def velocities(self, position: int, x: Tensor, sigma: Tensor, conds: Sequence[Any]) -> list[Tensor]:
        """One step's. Raises ValueError where there is no room for it beside the least weights."""
        found = self._attempted(position, x, sigma, conds)
        while isinstance(found, BaseException):
            self._have_less(found)
            found = self._attempted(position, x, sigma, conds)
        self._tell_refused()
        self.done += 1
        if self.done == self._until:
            self._end_stream()
        return found

    def _attempted(self, position: int, x: Tensor, sigma: Tensor, conds: Sequence[Any]) -> list[Tensor] | BaseException:
        """The velocities, or how memory ran out."""
        try:
            return self._computed(position, x, sigma, conds)
        except (RuntimeError, MemoryError) as error:
            return _cleared(error)

    def _computed(self, position: int, x: Tensor, sigma: Tensor, conds: Sequence[Any]) -> list[Tensor]:
        if self.whole:
            denoiser = self.loader.expert(position, self._say)
            return [denoiser(x, sigma, cond) for cond in conds]
        if self._streamer is None:
            self._begin_stream()
        return self.loader.bare(position).together(x, sigma, conds)

    @contextmanager
    def _turn(self, position: int) -> Iterator[None]:
        """Around an expert's steps: what it prepared for the segment is let go of afterwards."""
        try:
            yield
        finally:
            self.loader.forget(position)

    def _begin_stream(self) -> None:
        self._say("the experts")
        self.loader.release(everything=True)
        sizes, uses = self._sizes(), self._uses()
        spread = self.run.from_disk or self.placement.again > self.pinnable
        made = plan(uses, sizes, max(self.budget, least_budget(uses, sizes)), spread=spread)
        self._held = sum(place_bytes(made, sizes))
        self._moved += sum(sizes[unit] for unit in made.first if unit.index == TRUNK)
        source = self.loader.kept(self._often(made), self.pinnable)
        self._streamer = Streamer(self.loader.streamed(self._steps), source, made, self.loader.device).__enter__()

    def _end_stream(self, failure: BaseException | None = None) -> None:
        streamer, self._streamer = self._streamer, None
        if streamer is None:
            return
        try:
            streamer.__exit__(type(failure) if failure else None, failure, None)
        finally:
            self._moved += streamer.moved
            self._waited += streamer.waited

    @property
    def _steps(self) -> tuple[int, ...]:
        """Of each expert, in a segment."""
        return tuple(expert.steps for expert in self.run.experts)

    def _sizes(self) -> dict[Unit, int]:
        """Bytes of all units of experts that have steps, as a streamer places them."""
        units = self.loader.units(self._steps)
        return {unit: self.loader.source.layout(unit).nbytes for unit in units}

    def _uses(self) -> tuple[Use, ...]:
        """Those that are still to come: to the end, or to where the weights have to leave."""
        passes = [expert.passes for expert in self.run.experts]
        segment = [Step(k, passes=passes[k]) for k, count in enumerate(self._steps) for _ in range(count)]
        ends = self.run.segments if self.stays else self.done // len(segment) + 1
        self._until = ends * len(segment)
        return trace((segment * ends)[self.done :], [expert.blocks for expert in self.run.experts])

    def _often(self, made: Plan) -> list[Unit]:
        """Units that are loaded more than once, those loaded most often first."""
        times = Counter((*made.first, *(move.load for move in made.moves)))
        once = self._until == self.run.segments * sum(self._steps)
        return [unit for unit, count in times.most_common() if count > 1 or not once]

    def _have_less(self, failure: BaseException) -> None:
        """Keep less of the weights from now on, and say so. Raises ValueError where there is no less."""
        uses, sizes = self._uses(), self._sizes()
        held = sum(sizes.values()) if self.whole else self._held
        least = least_budget(uses, sizes)
        self._leave(failure)
        if not self.whole and held <= least:
            raise ValueError(
                f"There is no memory for a step of this job beside the least weights ({in_gb(least)}); fewer frames "
                "or pixels need less."
            )
        self.whole, self.budget, self._place = False, max(least, int(LESS * held)), "streamed"
        self.tell(Noted(note=f"Memory ran out; from here on {in_gb(self.budget)} of weights are kept there at most."))

    def _tell_refused(self) -> None:
        """Once, where host memory did not suffice for what was to be kept there."""
        kept = self.loader.refused
        if kept is not None and not self._told:
            self._told = True
            note = f"No more than {in_gb(kept)} of weights can be kept in host memory; the others are read each time."
            self.tell(Noted(note=note))

    def _make_room(self, what: str) -> None:
        """For a part of the job that needs no expert. Raises ValueError where there is nothing left to let go of."""
        if self._leave():
            self.whole = self.stays = False
            self.tell(Noted(note=f"{what} ran out of memory; from here on the experts leave meanwhile."))
            return
        if next(self.codec.parameters()).dtype != torch.float32:
            raise ValueError(f"{what} needs more memory than there is; fewer pixels need less.")
        self.codec.to(torch.bfloat16)
        self.tell(Noted(note=f"{what} ran out of memory; the video autoencoder computes in bfloat16 from here on."))

    def _leave(self, failure: BaseException | None = None) -> bool:
        """Let go of all weights; whether there were any."""
        there = self._streamer is not None or self.loader.holds_any
        self._end_stream(failure)
        self.loader.release(everything=True)
        if self.loader.device != "cpu":
            with torch.cuda.device(self.loader.device):  # without, it would settle on the first card, too
                torch.cuda.empty_cache()
        return there

    def _say(self, what: str) -> None:
        self.tell(Loading(what=what))


@dataclass(frozen=True, slots=True)
class _Turns:
    """One expert as a denoiser (denoise.SharedDenoiser)."""

    playing: Playing
    position: int

    def __call__(self, x: Tensor, sigma: Tensor, cond: Any, /) -> Tensor:
        return self.each(x, sigma, (cond,))[0]

    def each(self, x: Tensor, sigma: Tensor, conds: Sequence[Any], /) -> list[Tensor]:
        """Raises ValueError where what it computes is not finite."""
        found = self.playing.velocities(self.position, x, sigma, conds)
        if not all(torch.isfinite(velocity).all() for velocity in found):
            raise ValueError(self.playing.loader.no_numbers(self.position))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Roomy:
    """A stage (animate.perform.Stage) that tries again after `make_room`."""

    within: Stage
    make_room: Callable[[str], None]

    @property
    def frames(self) -> int:
        """Length of the performance."""
        return self.within.frames

    def condition(self, index: list[int], handed: Bytes | None) -> SegmentCondition:
        """As the stage within."""
        while True:
            try:
                return self.within.condition(index, handed)
            except (RuntimeError, MemoryError) as error:
                _cleared(error)
            self.make_room("Encoding a segment")

    def decode(self, latent: Tensor, what: SegmentCondition | None = None) -> Iterator[Bytes]:
        """As the stage within; what was given already is not given again."""
        given = 0
        while True:
            position = 0
            try:
                for chunk in self.within.decode(latent, what):
                    fresh = chunk[max(given - position, 0) :]
                    position += len(chunk)
                    if len(fresh):
                        given += len(fresh)
                        yield fresh
                return
            except (RuntimeError, MemoryError) as error:
                _cleared(error)
            self.make_room("Decoding a segment")


def _cleared(error: BaseException) -> BaseException:
    """An error that says that memory ran out, without the tensors that its frames held. Raises any other."""
    if not ran_out(error):
        raise error
    clear_frames(error.__traceback__)
    # A cleared frame still has its function, which holds what it closes over: in a comprehension a whole expert.
    return error.with_traceback(None)
