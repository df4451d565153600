"""`pasdedeux models`: the known repositories; `models show`: the parts of one; `models get`: what a job needs of it."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pasdedeux.apps.faults import STOPPED
from pasdedeux.checkpoints.repositories import (
    APACHE,
    APACHE_BASE,
    QUANT,
    REPOSITORIES,
    ROLES,
    Expert,
    Part,
    Repository,
    in_words,
    repository,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GetOptions:
    """What `models get` takes: one expert or both, some parts or all, a GGUF type, and where to put them.

    Raises ValueError for an unknown expert or part.
    """

    expert: str | None = None
    parts: tuple[str, ...] = ()
    quant: str | None = None
    folder: Path | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.expert not in (None, "high", "low"):
            raise ValueError(f'The expert is "{self.expert}"; it must be high or low.')
        strange = [part for part in self.parts if part not in ROLES]
        if strange:
            raise ValueError(f'There is no part "{strange[0]}"; parts are {", ".join(ROLES)}.')


def show_models(wanted: str | None = None, console: Console | None = None) -> None:
    """Print the known repositories, or the parts of one. Raises ValueError for an unknown name."""
    console = console or Console()
    if wanted is None:
        console.print(models_table(REPOSITORIES))
        _say("~ is a computed size; * is the licence of the original, the page states none of its own.", console)
        _say("pasdedeux models show NAME lists the parts of one, pasdedeux models get NAME fetches them.", console)
        return
    repo = repository(wanted)
    _say(f"{repo.name} is {repo.family}, {repo.form}, from {repo.hub}; licence: {repo.licence}", console)
    console.print(parts_table(repo, repo.parts))
    if any("{quant}" in file for part in repo.parts for file in part.files):
        _say(f"{{quant}} is the type of the blocks, {QUANT} unless --quant says another.", console)


def get_model(name: str, options: GetOptions, console: Console | None = None) -> list[Path]:
    """Fetch what was chosen, or only list it. A fetch that was cut off goes on where it was.

    Raises ValueError in a sentence if the name is unknown, the page is not there or closed, or there is no connection.
    """
    console, repo = console or Console(), repository(name)
    parts = repo.select(cast(Expert | None, options.expert), options.parts, options.quant)
    folder = options.folder or Path("models") / repo.name
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; --dir names the folder that the files go to.")
    _say(f"{repo.name}, licence: {repo.licence}, to {folder}", console)
    console.print(parts_table(repo, parts))
    if options.dry_run:
        _list_files(repo, parts, folder, console)
        return []
    _check_room(parts, folder)
    try:
        made = [_fetch(hub, patterns, folder) for hub, patterns in _pages(repo, parts).items()]
    except KeyboardInterrupt as error:
        typer.echo("Stopped; the same command goes on from here.", err=True)
        raise typer.Exit(STOPPED) from error
    _check_came(repo, parts, folder)
    _say(f"{folder} holds {', '.join(part.title for part in parts)}; pasdedeux inspect {folder} says more.", console)
    return made


def models_table(repositories: Sequence[Repository]) -> Table:
    """One row per repository; its page and its parts are for `parts_table`."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("name", "size", "licence"):
        table.add_column(title, no_wrap=True, overflow="fold")
    table.add_column("form")
    for repo in repositories:
        licence = f"{APACHE} *" if repo.licence == APACHE_BASE else repo.licence
        form = f"{repo.form}, pair" if repo.pair else repo.form
        table.add_row(repo.name, repo.size.replace("about ", "~"), licence, form)
    return table


def parts_table(repo: Repository, parts: Sequence[Part]) -> Table:
    """One row per part: its size and the files."""
    table = Table("part", "size", box=SIMPLE_HEAD)
    for title in ("files", "page"):
        table.add_column(title, overflow="fold")
    for part in parts:
        title = f"{part.title} (if asked for)" if part.optional else part.title
        table.add_row(title, part.size, "\n".join(part.files), part.hub or repo.hub)
    return table


def _pages(repo: Repository, parts: Sequence[Part]) -> dict[str, list[str]]:
    """Patterns by page, in order."""
    pages: dict[str, list[str]] = {}
    for part in parts:
        pages.setdefault(part.hub or repo.hub, []).extend(part.files)
    return {hub: list(dict.fromkeys(patterns)) for hub, patterns in pages.items()}


def _fetch(hub: str, patterns: list[str], folder: Path) -> Path:
    return Path(_ask(hub, {"allow_patterns": patterns, "local_dir": folder}))


def _list_files(repo: Repository, parts: Sequence[Part], folder: Path, console: Console) -> None:
    """Every file with its size, as the page has it now; without a connection the sizes above are all there is."""
    table = Table("file", "size", "", "page", box=SIMPLE_HEAD)
    total = 0
    for hub, patterns in _pages(repo, parts).items():
        try:
            files = _ask(hub, {"allow_patterns": patterns, "local_dir": folder, "dry_run": True})
        except ValueError as error:
            _say(f"The files are not listed: {error}", console)
            return
        for file in files:
            total += file.file_size if file.will_download else 0
            table.add_row(file.filename, in_words(file.file_size), "" if file.will_download else "is here", hub)
    console.print(table)
    _say(f"{in_words(total)} to fetch", console)


def _ask(hub: str, wanted: Mapping[str, Any]) -> Any:
    """The hub's own client, its faults as one sentence."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ValueError("Fetching models needs huggingface_hub: pip install 'pasdedeux[wan]'.") from error
    # The error that the client's HTTP library raises without a connection is a base of the client's own.
    network = cast(
        tuple[type[Exception], ...], tuple(b for b in errors.HfHubHTTPError.__mro__ if b.__name__ == "HTTPError")
    )
    try:
        return huggingface_hub.snapshot_download(hub, **wanted)
    except errors.GatedRepoError as error:
        raise ValueError(f"{hub} is closed: accept its licence on its page, then log in with hf auth login.") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"There is no page {hub} any more, or it is closed.") from error
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(f"{hub} cannot be reached, and its files are not here; is there a connection?") from error
    except (OSError, *network) as error:
        raise ValueError(f"{hub} cannot be fetched: {_first_line(error)}") from error


def _check_room(parts: Sequence[Part], folder: Path) -> None:
    place = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free, needed = shutil.disk_usage(place).free, sum(part.gigabytes for part in parts) * 1e9
    here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    if needed - here > free:
        raise ValueError(f"{folder} needs {in_words(needed)}, but only {in_words(free)} are free on its disk.")


def _check_came(repo: Repository, parts: Sequence[Part], folder: Path) -> None:
    """Raise ValueError if a part has no file: patterns that match nothing are no error to the client."""
    here = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    for part in parts:
        if not any(fnmatch(file, pattern) for pattern in part.files for file in here):
            raise ValueError(
                f"{part.hub or repo.hub} has no {part.files[0]}; look at its page for another type or name."
            )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _say(text: str, console: Console) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
