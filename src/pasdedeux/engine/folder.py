"""A driver prepared into a folder, without a model: what `animate` would make of it, to be looked at and kept.

The folder holds what was found in the driver (`animate.prepared`) and what Wan-Animate takes (`animate.wan_folder`), so
that this program, Wan2.2's own and diffusers' pipeline can go on from there.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.outputs import written_whole
from pasdedeux.animate.prepared import MASK, OVERLAY, PEOPLE, POINTS, RECORD, PreparedDriver, copy_record
from pasdedeux.animate.preprocess.detect import unknown_character
from pasdedeux.animate.wan_folder import write_wan_folder
from pasdedeux.checkpoints.families import FAMILIES
from pasdedeux.engine.events import OnEvent, Watched
from pasdedeux.engine.job import Job, parse_size, puppet_seed
from pasdedeux.engine.settings import Size, on_grid, shaped_as
from pasdedeux.engine.sources import Cast, find_character, find_driver
from pasdedeux.engine.wan_stages import drivers_of, shape_of, size_of

FAMILY = "wan2.2-animate-14b"
AREA, GRID = 1280 * 720, (16, 16)
KEPT = (MASK, OVERLAY, PEOPLE, POINTS, Path(POINTS).stem + ".json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """What was written: paths, the clip's frames and size, and sentences on results and on the input."""

    folder: Path
    files: tuple[Path, ...]
    frames: int
    fps: float
    size: Size
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def write_folder(job: Job, folder: Path, tell: OnEvent) -> Folder:
    """Prepare a job's driver, for its character where it has one, into `folder`, which is made. Raises InputError."""
    if job.driver is None or puppet_seed(job.driver) is not None:
        raise InputError("A driver's video is needed; puppets need no preparation.")
    if job.preparation.skeleton is not None:
        raise InputError("A skeleton is drawn already: give it to animate.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give the name of a folder.")
    family, driver, size = FAMILIES[FAMILY], Path(job.driver), _size(job, Path(job.driver))
    # The character first: a fault there is found in a second, a driver takes minutes.
    if job.character is None:
        character, said = unknown_character(np.zeros((size[1], size[0], 3), np.uint8)), ()
    else:
        character, said = find_character(job.character, size, "black", job.preparation, posed=False)
    found = find_driver(driver, job.preparation, job.fps or family.fps, job.frames, tell)
    cast = Cast(character=character, performance=found.performance(size), retarget=job.preparation.retarget)
    drivers = drivers_of(cast, job, family)
    folder.mkdir(parents=True, exist_ok=True)
    files = write_wan_folder(
        folder,
        drivers,
        found.fps,
        lambda i, n: tell(Watched(what="writing", frame=i, frames=n)),
        reference=job.character is not None,
    )
    return Folder(
        folder=folder,
        files=(*files, *_copied(found, folder)),
        frames=len(found),
        fps=found.fps,
        size=size,
        warnings=found.warnings,
        notes=tuple(dict.fromkeys(found.notes + said + drivers.notes)),
    )


def _size(job: Job, driver: Path) -> Size:
    """The job's, else Wan-Animate's area in the shape of the scene: the character's picture, or the driver's."""
    if job.size is not None:
        return on_grid(parse_size(job.size), GRID)
    return shaped_as(shape_of(job) or size_of(driver), AREA, GRID)


def _copied(found: PreparedDriver, folder: Path) -> list[Path]:
    """What was found, beside what was drawn; the record last, since it says that the folder is whole."""
    made = [folder / name for name in KEPT if (found.folder / name).is_file()]
    for path in made:
        if path.parent.resolve() != found.folder.resolve():
            with written_whole(path) as part:
                shutil.copyfile(found.folder / path.name, part)
    copy_record(found, folder)
    return [*made, folder / RECORD]
