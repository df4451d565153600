"""`pasdedeux inspect`: what a model folder holds, from its manifest and the headers of its files."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pasdedeux.checkpoints.folder import CODEC_FILE, Manifest, read_manifest
from pasdedeux.checkpoints.load import check, on_meta, shapes
from pasdedeux.denoise import Handoff, log_snr
from pasdedeux.engine import count, model_folder
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer


def show_model(name: str) -> None:
    """Print experts, codec and defaults. Raises ValueError if a file is missing or does not fit."""
    folder = model_folder(name)
    manifest = read_manifest(folder)
    console = Console()
    console.print(experts_table(folder, manifest))
    for title, text in facts(folder, manifest).items():
        console.print(f" {title:<9} {text}", highlight=False, markup=False, soft_wrap=True)


def experts_table(folder: Path, manifest: Manifest) -> Table:
    """One row per expert: the noise band it owns, its parameters and the bytes of its file."""
    handoff, size = Handoff(manifest.bounds), count(on_meta(lambda: DuetTransformer(manifest.model)))
    table = Table("expert", "sigma", "log-SNR", "guidance", "parameters", "bytes", box=SIMPLE_HEAD)
    for k, expert in enumerate(manifest.experts):
        path = folder / expert.file
        check(on_meta(lambda: DuetTransformer(manifest.model)), shapes(path), path)
        low, high = handoff.band(k)
        sigmas = f"{low:.3f} to {high:.3f}"
        ratios = f"{log_snr(high):+.2f} to {log_snr(low):+.2f}"
        sizes = (f"{size:,}", f"{path.stat().st_size:,}")
        table.add_row(expert.name, sigmas, ratios, f"{expert.guidance:g}", *sizes)
    return table


def facts(folder: Path, manifest: Manifest) -> dict[str, str]:
    """The rest, one line each."""
    codec = on_meta(lambda: PatchCodec(manifest.codec))
    path = folder / CODEC_FILE
    check(codec, shapes(path), path)
    each = count(on_meta(lambda: DuetTransformer(manifest.model)))
    time, rows, columns = manifest.codec.stride
    m, width, height = manifest, *manifest.size
    return {
        "total": f"{each * len(m.experts):,} parameters, {each:,} active in a step, computed in {m.dtype}",
        "codec": f"{time}x{rows}x{columns} (time, height, width) to {m.codec.channels} channels, "
        f"{count(codec):,} parameters, {path.stat().st_size:,} bytes",
        "defaults": f"{m.steps} steps of {m.solver}, shift {m.shift:g}, {width}x{height} at {m.fps:g} fps",
        "segments": f"{m.length} frames, of which {m.overlap} are handed over from the one before",
    }
