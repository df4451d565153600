"""`pasdedeux inspect`: what a model, a LoRA or another file of weights is, in a few lines.

The built-in model and folders like it are described by the engine, everything else by what its headers say.
"""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pasdedeux.checkpoints.describe import Described, Need, PartFacts, describe_path
from pasdedeux.checkpoints.folder import MANIFEST
from pasdedeux.checkpoints.repositories import in_words
from pasdedeux.engine import Description, describe


def show_model(name: str, console: Console | None = None) -> None:
    """Print what `name` is: "builtin", a folder or a file. Raises ValueError if it is nothing known, or broken."""
    if not name.strip():
        raise ValueError(f'The name of the model is "{name}"; give "builtin", a folder or a file.')
    console, path = console or Console(), Path(name)
    if (path.is_dir() and not (path / MANIFEST).is_file()) or path.is_file():
        show_described(describe_path(path), console)
        return
    described = describe(name)
    console.print(experts_table(described))
    _lines(facts(described), console)


def show_described(described: Described, console: Console) -> None:
    """A line of what it is, its parts, facts, doubts, and what a job would still need, names whole."""
    _line(f"{described.path} is {described.what}", console)
    width = max((len(part.role) for part in described.parts), default=0)
    for part in described.parts:
        _line(f"  {part.role:<{width}}  {_within(part.path, described.path)}", console)
        _line(f"  {'':<{width}}  {_sizes(part)}", console)
    _lines(dict(described.facts), console)
    for note in described.notes:
        _line(f"  note: {note}", console)
    for need in described.needs:
        _line(f"Not here: {need.part}, for {need.purpose}. To get it:", console)
        for line in _places(need) or ["no known repository has it"]:
            _line(f"  {line}", console)


def _sizes(part: PartFacts) -> str:
    """ "14.29 B parameters, 28.6 GB, bfloat16; safetensors, native names"."""
    count = "" if part.parameters is None else f"{_count(part.parameters)} parameters"
    packed = f"{part.packing}: {part.stored}" if part.packing else part.stored
    sizes = ", ".join(word for word in (count, in_words(part.nbytes), packed) if word)
    return f"{sizes}; {part.layout}" if part.layout else sizes


def _places(need: Need) -> list[str]:
    """The commands that get a part, best first, each with its size."""
    commands = [(f"pasdedeux models get {r.name} {_choice(p.role, p.expert)}", p.size) for r, p in need.places]
    width = max((len(command) for command, _ in commands), default=0)
    return [f"{command:<{width}}  {size}" for command, size in commands]


def experts_table(described: Description) -> Table:
    """One row per expert: the noise band it owns, its parameters and the bytes of its file."""
    table = Table("expert", "sigma", "log-SNR", "guidance", "parameters", "bytes", box=SIMPLE_HEAD)
    for expert in described.experts:
        sigmas = "{:.3f} to {:.3f}".format(*expert.sigmas)
        ratios = "{:+.2f} to {:+.2f}".format(*expert.log_snrs)
        sizes = (f"{expert.parameters:,}", f"{expert.bytes:,}")
        table.add_row(expert.name, sigmas, ratios, f"{expert.guidance:g}", *sizes)
    return table


def facts(described: Description) -> dict[str, str]:
    """The rest, one line each."""
    m = described.manifest
    (time, rows, columns), (width, height) = m.codec.stride, m.size
    total, active = described.total_parameters, described.active_parameters
    return {
        "total": f"{total:,} parameters, {active:,} active in a step, computed in {m.dtype}",
        "codec": f"{time}x{rows}x{columns} (time, height, width) to {m.codec.channels} channels, "
        f"{described.codec_parameters:,} parameters, {described.codec_bytes:,} bytes",
        "defaults": f"{m.steps} steps of {m.solver}, shift {m.shift:g}, {width}x{height} at {m.fps:g} fps",
        "segments": f"{m.length} frames, of which {m.overlap} are handed over from the one before",
    }


def _choice(role: str, expert: str | None) -> str:
    return (f"--expert {expert} " if expert else "") + f"--part {role}"


def _count(number: int) -> str:
    """ "14.29 B", "127 M"."""
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:,.2f} {unit}"
    return f"{number:,}"


def _within(path: Path, base: Path) -> str:
    """A path as seen from what was asked for."""
    try:
        return str(path.relative_to(base)) if path != base else path.name
    except ValueError:
        return path.name


def _lines(lines: dict[str, str], console: Console) -> None:
    width = max(map(len, lines), default=0)
    for title, text in lines.items():
        _line(f"  {title:<{width}}  {text}", console)


def _line(text: str, console: Console) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
