"""`pasdedeux plan`: what a job would take on a named card, foretold from sizes; nothing is loaded."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path

from rich.console import Console

from pasdedeux.animate.segments import length_for
from pasdedeux.checkpoints.folder import MANIFEST
from pasdedeux.engine import Job, describe
from pasdedeux.engine.forecast import (
    Card,
    Forecast,
    Prediction,
    find_card,
    forecast,
    in_gb,
    in_time,
    job_for,
    length,
    open_forecast,
    predict,
)
from pasdedeux.engine.memory import parse_memory
from pasdedeux.engine.model import BUILTIN
from pasdedeux.engine.wan import WanModel
from pasdedeux.engine.wan_stages import DRIVEN

WIDTH = 80
HALF_CODEC = "The video autoencoder computes in bfloat16, since float32 does not fit."


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanOptions:
    """What the command takes beside model and card; None is the model's own.

    memory: "24GB", of the card's or the processor's; frames, seconds and segments: three ways to say how long; dtype:
    what matrices are stored in; price: dollars per hour. Raises ValueError where options contradict one another.
    """

    size: str | None = None
    frames: int | None = None
    seconds: float | None = None
    segments: int | None = None
    memory: str | None = None
    steps: int | None = None
    guidance: str | None = None
    dtype: str | None = None
    lora: tuple[str, ...] = ()
    preset: str | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        lengths = [name for name in ("frames", "seconds", "segments") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise ValueError(f"The length is given by {' and by '.join(lengths)}; one of them is enough.")
        for name in ("seconds", "segments"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 100_000:
                raise ValueError(f"{name} is {value:g}; it must be more than 0, and 100,000 at most.")
        if self.price is not None and not 0 <= self.price < inf:
            raise ValueError(f"The price is {self.price:g} dollars per hour; it must be a number, 0 or more.")


def show_plan(model: str, gpu: str, options: PlanOptions, console: Console | None = None) -> None:
    """Print what to expect. Raises ValueError for an unknown model, card or setting, naming what is known."""
    console, card = console or Console(), find_card(gpu)
    memory = None if options.memory is None else parse_memory(options.memory)
    if model == BUILTIN or (Path(model) / MANIFEST).is_file():
        lines = _duet(model)
    else:
        opened = open_forecast(model, options.dtype)
        found = forecast(opened, _job(opened, options))
        lines = page(found, card, predict(found.run, card, memory, options.price), options.price)
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _job(model: WanModel, options: PlanOptions) -> Job:
    return job_for(
        model,
        size=options.size,
        frames=_frames(model, options),
        steps=options.steps,
        guidance=options.guidance,
        lora=options.lora,
        preset=options.preset,
    )


def _frames(model: WanModel, options: PlanOptions) -> int | None:
    """The clip's length, however it was said; seconds of a generated clip are rounded up to what it can have."""
    family = model.family
    if options.seconds is not None:
        frames = max(1, round(options.seconds * family.fps))
        return frames if family.task in DRIVEN else length_for(frames)
    if options.segments is None:
        return options.frames
    if family.task not in DRIVEN:
        raise ValueError(f"{family.name} makes a clip at once, not in segments; say how long by frames or seconds.")
    return family.frames + (options.segments - 1) * (family.frames - family.overlap)


def page(found: Forecast, card: Card, told: Prediction, price: float | None) -> Iterator[str]:
    """The prediction, 80 columns wide."""
    fit = "" if told.fits else ": it does not fit"
    yield f"{found.family.name} on {card.title}, {in_gb(told.usable)} of which can be used{fit}"
    facts = {"clip": _clip(found), "weights": _weights(found), "place": _place(told)}
    facts |= _on_processor(told) if card.processor else _on_card(told, card, price)
    for title, text in facts.items():
        yield from _wrapped(title, text)
    for sentence in told.advice:
        yield from _wrapped("better", sentence)
    for note in found.notes:
        yield from _wrapped("note", note)
    if told.codec_value < found.run.codec_value:
        yield from _wrapped("note", HALF_CODEC)
    yield from _wrapped("", "Computed from sizes and published rates; nothing was loaded or measured.")


def _on_card(told: Prediction, card: Card, price: float | None) -> dict[str, str]:
    return {
        "device": _peaks(told),
        "host": _host(told),
        "copies": f"{in_gb(told.moved_step)} a step, {in_gb(told.moved)} in all",
        "step": _steps(told),
        "video": _video(told),
        "cost": _cost(told, card, price),
    }


def _on_processor(told: Prediction) -> dict[str, str]:
    """Seconds are not foretold."""
    counted = "text" in dict(told.placement.phases)
    return {
        "memory": _peaks(told) + ("" if counted else "; a text encoder read where it lies in its file is not counted"),
        "reads": f"{in_gb(told.moved_step)} a step from the disk, {in_gb(told.moved)} in all",
        "video": "not foretold: how fast this processor and its disk are is not known",
    }


def _clip(found: Forecast) -> str:
    settings, run = found.settings, found.run
    segments = f" in {run.segments} segments of {run.frames}" if run.segments > 1 else ""
    owners = ", ".join(f"{expert.steps} {expert.name}" for expert in run.experts)
    steps = f"{settings.steps} steps" + (f" ({owners})" if len(run.experts) > 1 else "")
    scales = ", ".join(f"{scale:g}" for scale in settings.guidance)
    size = "{}x{}".format(*settings.size)
    return (
        f"{size}, {found.frames} frames{segments}; {length(run.network, run.grid):,} tokens; {steps}, guidance {scales}"
    )


def _weights(found: Forecast) -> str:
    experts = found.run.experts
    sizes = " and ".join(dict.fromkeys(in_gb(expert.nbytes) for expert in experts))
    each = f"{len(experts)} experts of {sizes}" if len(experts) > 1 else sizes
    return f"{each}, stored in {' and '.join(found.kinds)}"


def _place(told: Prediction) -> str:
    placed = told.placement
    after = "" if placed.stays else "; weights leave while a segment is decoded"
    if placed.place == "all resident":
        return f"all resident{after}"
    there = f"{in_gb(placed.weights)} of weights at once, {placed.places} of {placed.blocks} blocks"
    if placed.place == "one expert resident":
        return f"one expert resident, and the next comes as the last one's blocks leave: {there}{after}"
    return f"streamed beside the compute: {there}{after}"


def _peaks(told: Prediction) -> str:
    phases = ", ".join(f"{name} {nbytes / 1e9:.1f}" for name, nbytes in told.placement.phases)
    return f"peak {in_gb(told.device)} ({phases})"


def _host(told: Prediction) -> str:
    if told.host == told.host_disk:
        return in_gb(told.host)
    return f"{in_gb(told.host)} with weights in pinned memory; {in_gb(told.host_disk)} if they come from disk"


def _steps(told: Prediction) -> str:
    alike = len({(round(step.seconds, 2), round(step.copy, 2)) for step in told.steps}) == 1
    steps = told.steps[:1] if alike else told.steps
    texts = [
        ("" if alike else f"{step.name} ")
        + f"{in_time(step.seconds)} (computing {in_time(step.compute)}, copying {in_time(step.copy)})"
        for step in steps
    ]
    return "; ".join(texts)


def _video(told: Prediction) -> str:
    return f"{in_time(told.seconds)} ({', '.join(f'{name} {in_time(seconds)}' for name, seconds in told.stages)})"


def _cost(told: Prediction, card: Card, price: float | None) -> str:
    if told.dollars is None:
        return "no price is known for this card; --price says one"
    rate, day = (card.price, f", {card.price_of}") if price is None else (price, "")
    return f"${told.dollars:.3f} a video at ${rate:.2f} an hour{day}"


def _duet(name: str) -> Iterator[str]:
    described = describe(name)
    nbytes = sum(expert.bytes for expert in described.experts) + described.codec_bytes
    yield f"{name} is {described.total_parameters:,} parameters, {nbytes / 1e6:.0f} MB with its codec"
    yield from _wrapped("place", "all resident, on any card, or on a processor")
    yield from _wrapped("video", "not foretold: networks this small wait for launches, not for products or copies")


def _wrapped(title: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {title:<9}", subsequent_indent=" " * 11)
