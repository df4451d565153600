"""`pasdedeux prepare`: a driver into a folder, with progress, and what there is to say; and who can look at drivers."""

from pathlib import Path

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pasdedeux.apps.progress import ProgressLine
from pasdedeux.engine import Job
from pasdedeux.engine.folder import Folder, write_folder


def prepare_driver(job: Job, output: Path) -> None:
    """Write the folder and say what is in it. Raises ValueError for the user's faults."""
    with ProgressLine(Console(stderr=True)) as shown:
        made = write_folder(job, output, shown.show)
    typer.echo(summary(made))


def summary(made: Folder) -> str:
    """What was written, in a few lines."""
    width, height = made.size
    frames = "1 frame" if made.frames == 1 else f"{made.frames} frames"
    lines = [f"{made.folder}: {frames} of {width}x{height} at {made.fps:g} fps"]
    lines += [f"  {', '.join(path.name for path in made.files)}"]
    lines += [f"  look at {made.folder / 'overlay.png'} before you go on"]
    return "\n".join(lines + [f"  note: {note}" for note in made.notes])


def show_backends(folder: str | None, console: Console | None = None) -> None:
    """Print what can look at drivers here, and what the others lack. Each that is usable is tried."""
    from pasdedeux.animate.preprocess.backends import check_backend, usable

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("for", "backend", "here", "licence"):
        table.add_column(heading)
    for backend in map(check_backend, usable(None if folder is None else Path(folder))):
        where = "" if backend.path is None else f": {backend.path}"
        good = f"; {backend.note}" if backend.note else ""
        here = f"yes{where}{good}" if backend.usable else f"no: {backend.reason}"
        table.add_row(backend.task, backend.name, here, backend.licence)
    (console or Console()).print(table)
