"""`pasdedeux inspect`: an engine's description of a model, as a table and a few lines."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pasdedeux.engine import Description, describe


def show_model(name: str) -> None:
    """Print experts, codec and defaults. Raises ValueError if a file is missing or does not fit."""
    described, console = describe(name), Console()
    console.print(experts_table(described))
    for title, text in facts(described).items():
        console.print(f" {title:<9} {text}", highlight=False, markup=False, soft_wrap=True)


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
