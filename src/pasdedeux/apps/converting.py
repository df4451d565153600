"""`pasdedeux convert`: a model, or one expert of it, into another layout, with a line that shows how far it is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pasdedeux.apps.faults import STOPPED
from pasdedeux.checkpoints.bundle import Bundle, ExpertWeights, find_bundle, make_bundle
from pasdedeux.checkpoints.convert import Progress as Written
from pasdedeux.checkpoints.convert import Target, convert, convert_pair, labelled
from pasdedeux.checkpoints.formats.writers import SHARD_BYTES
from pasdedeux.checkpoints.repositories import in_words
from pasdedeux.engine.model import BUILTIN

GGUF, SAFETENSORS = ".gguf", ".safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertOptions:
    """What the command takes. container None: told from the output's name; expert: one of a pair.

    Raises ValueError where options contradict one another.
    """

    model: Path | None = None
    high: Path | None = None
    low: Path | None = None
    expert: str | None = None
    layout: str = "native"
    container: str | None = None
    dtype: str = "keep"
    shard_gb: float = SHARD_BYTES / 1e9
    family: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if (self.model is None) == (self.high is None and self.low is None):
            raise ValueError("Give a model, or its experts by --high and --low, but not both.")
        if self.expert not in (None, "high", "low"):
            raise ValueError(f'The expert is "{self.expert}"; it must be high or low.')
        if not 0 < self.shard_gb < inf:
            raise ValueError(f"Shards of {self.shard_gb:g} GB cannot be written; it must be a number, and more than 0.")

    @property
    def sources(self) -> tuple[Path, ...]:
        """What must not be written into."""
        return tuple(path for path in (self.model, self.high, self.low) if path is not None)

    def target(self, output: Path) -> Target:
        """The layout to write. Raises ValueError where nothing reads it."""
        container = self.container or _container(output, self.layout)
        return Target(
            dialect=self.layout, container=container, dtype=self.dtype, shard_bytes=max(1, int(self.shard_gb * 1e9))
        )


def convert_model(output: Path, options: ConvertOptions, console: Console | None = None) -> list[Path]:
    """Convert, show progress, and say what was written. Ctrl-C leaves nothing behind and ends in typer.Exit(130)."""
    console, started = console or Console(), time.monotonic()
    target = options.target(output)
    bundle = _bundle(options)
    experts = _chosen(bundle, options.expert)
    console.print(_plan(bundle, experts, target, output), highlight=False, markup=False, soft_wrap=True)
    try:
        with _progress(console) as say:
            made = _convert(bundle, experts, target, output, options, say)
    except KeyboardInterrupt as error:
        typer.echo(f"Stopped; {output} was not written.", err=True)
        raise typer.Exit(STOPPED) from error
    seconds = time.monotonic() - started
    for path in made:
        console.print(f"{path}  {in_words(_bytes(path))}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"written in {seconds:.0f} s", highlight=False)
    if any((bundle.vae, bundle.text, bundle.image)):
        console.print("VAE and encoders were not converted; they are used where they are.", highlight=False)
    return made


def _bundle(options: ConvertOptions) -> Bundle:
    if options.model is not None:
        if str(options.model) == BUILTIN and not options.model.exists():
            raise ValueError("The built-in pair has one layout only; what is converted are Wan models.")
        return find_bundle(options.model, family=options.family)
    return make_bundle(high=options.high, low=options.low, family=options.family)


def _chosen(bundle: Bundle, expert: str | None) -> tuple[ExpertWeights, ...]:
    """The experts to convert. Raises ValueError if the one asked for is not here."""
    if expert is None:
        return bundle.experts
    found = tuple(one for one in bundle.experts if one.name == expert)
    if not found:
        names = [one.name for one in bundle.experts]
        held = "is one, without high and low" if names == ["model"] else f"has: {' and '.join(names)}"
        raise ValueError(f"There is no {expert}-noise expert to convert; the model {held}.")
    return found


def _convert(
    bundle: Bundle,
    experts: tuple[ExpertWeights, ...],
    target: Target,
    output: Path,
    options: ConvertOptions,
    say: Callable[[Written], None],
) -> list[Path]:
    more: dict[str, Any] = {"overwrite": options.overwrite, "sources": options.sources, "on_progress": say}
    known = [labelled(expert.weights, bundle.family.name, expert.name) for expert in experts]
    if len(known) == 2:
        high, low = known
        return convert_pair(high, low, target, output, bounds=bundle.bounds, **more)
    return convert(known[0], target, output, **more)


def _container(output: Path, layout: str) -> str:
    """By the output's suffix: a single file, or without one shards."""
    if output.suffix == GGUF:
        return "gguf"
    return "safetensors" if output.suffix == SAFETENSORS or layout == "comfyui" else "sharded"


def _plan(bundle: Bundle, experts: tuple[ExpertWeights, ...], target: Target, output: Path) -> str:
    alone = "the model" if experts[0].name == "model" else f"the {experts[0].name}-noise expert"
    which = "both experts" if len(experts) > 1 else alone
    size = in_words(sum(expert.weights.nbytes for expert in experts))
    dtype = "as stored" if target.dtype == "keep" else f"in {target.dtype}"
    return f"{bundle.family.name}, {which}, {size}: to {output}, {target.dialect} names, {target.container}, {dtype}"


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[Written], None]]:
    """A bar over bytes; silent where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), DownloadColumn())
    times = (TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("converting", total=None)

        def say(done: Written) -> None:
            what = f"tensor {done.tensors}/{done.of_tensors}"
            bar.update(task, total=done.of_bytes, completed=done.nbytes, description=what)

        yield say


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(inside.stat().st_size for inside in path.rglob("*") if inside.is_file())
