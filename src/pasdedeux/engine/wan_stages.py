"""Which stage a Wan family performs on, and what it is given: pictures read and fitted, conditions drawn."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch import Tensor

from pasdedeux.animate.clips import VideoClip
from pasdedeux.animate.condition.wan import Prompts, VideoVAE
from pasdedeux.animate.condition.wan_animate import AnimateStage
from pasdedeux.animate.condition.wan_control import ControlStage
from pasdedeux.animate.condition.wan_drivers import Drivers, draw_drivers
from pasdedeux.animate.condition.wan_image import ImageStage, StartStage
from pasdedeux.animate.condition.wan_text import TextStage
from pasdedeux.animate.condition.wan_vace import VaceStage
from pasdedeux.animate.images import covering, load_image, resized
from pasdedeux.animate.inputs import Clip, InputError
from pasdedeux.animate.perform import Bytes, Stage
from pasdedeux.animate.prepared import is_prepared, read_record
from pasdedeux.animate.preprocess.face_crops import SIDE, no_faces
from pasdedeux.animate.preprocess.given import given_pose
from pasdedeux.animate.preprocess.masks import GROW
from pasdedeux.animate.wan_folder import POSE, is_wan_folder, read_wan_folder
from pasdedeux.checkpoints.families import Family
from pasdedeux.engine.events import OnEvent
from pasdedeux.engine.job import GENERATE, Job, parse_size, puppet_seed
from pasdedeux.engine.settings import Settings, Size
from pasdedeux.engine.sources import DEFAULT_CHARACTER, Cast, find_character
from pasdedeux.engine.sources import cast as cast_of
from pasdedeux.engine.staging import fitted
from pasdedeux.models.wan.config import AnimateConfig, ControlConfig

MOST_SQUEEZE = 1.05
"""How much one side may be squeezed against the other before that shows."""
DRIVEN = ("animate", "vace", "control")


def check_task(job: Job, family: Family) -> None:
    """Raise ValueError where the family cannot do what the job asks."""
    driven = family.task in DRIVEN
    if driven and job.mode == GENERATE:
        raise ValueError(f"{family.name} animates a character by a driver; use animate, not generate.")
    if not driven and job.mode != GENERATE:
        raise ValueError(f"{family.name} makes clips of a prompt; use generate, or a model that takes a driver.")
    if job.mode == GENERATE and job.prompt is None:
        raise ValueError(f"{family.name} needs a prompt.")
    if family.task == "image" and job.image is None:
        raise ValueError(f"{family.name} begins with a picture; give it one with --image.")
    if family.task == "text" and job.image is not None:
        raise ValueError(f"{family.name} takes no picture; an image-to-video model does.")


def shape_of(job: Job) -> Size | None:
    """(width, height) of the picture whose shape the clip should have: the scene's; None where it is drawn to fit."""
    source = job.driver if job.mode == "replace" else job.image if job.mode == GENERATE else job.character
    if source is None or puppet_seed(source) is not None or wan_folder_of(job) is not None:
        return None
    if job.mode == "replace":
        return size_of(Path(source))
    height, width = load_image(Path(source)).image.shape[:2]
    return width, height


def size_of(driver: Path) -> Size:
    """(width, height) of a driver's own pictures. Raises InputError."""
    if is_prepared(driver):
        width, height = read_record(driver)["size"]
        return width, height
    with VideoClip(driver, most=1) as clip:
        return clip.size


def as_prepared(job: Job, settings: Settings) -> Settings:
    """The settings of a job whose driver another program has prepared: its pictures decide size and rate."""
    folder = wan_folder_of(job)
    if folder is None:
        return settings
    with VideoClip(folder / POSE) as pose:
        if job.size is not None and parse_size(job.size) != pose.size:
            raise ValueError(f"{folder} was prepared for {pose.size[0]}x{pose.size[1]}, not for {job.size}.")
        return replace(settings, size=pose.size, fps=job.fps or pose.fps, frames=len(pose))


def clip_length(job: Job, family: Family, time: int) -> int:
    """Frames of a generated clip. Raises ValueError unless they are 1 plus a multiple of `time`."""
    frames = job.frames or family.frames
    if (frames - 1) % time:
        near = 1 + time * round((frames - 1) / time)
        raise ValueError(f"frames is {frames}; it must be 1 plus a multiple of {time}, and {near} is the nearest.")
    return frames


def start_picture(job: Job, size: Size, family: Family) -> tuple[Bytes | None, tuple[str, ...]]:
    """The picture a clip begins with, in the clip's size, and notes on it.

    Wan's 14B models squeeze it, which is a matter of a few pixels in a clip of its shape; the 5B model, and any other
    in a clip of another shape, sees its middle.
    """
    if job.image is None:
        return None, ()
    loaded = load_image(Path(job.image))
    notes = tuple(f"{job.image}: {note}" for note in loaded.notes)
    height, width = loaded.image.shape[:2]
    stretch = width / height * size[1] / size[0]
    near = max(stretch, 1 / stretch) < MOST_SQUEEZE
    if near and family.task != "text or image":
        return resized(loaded.image, size), notes
    if not near:
        notes += (f"{job.image}: it is {width}x{height}, and its middle is cut out to the clip's {size[0]}x{size[1]}",)
    return covering(loaded.image, size), notes


def generated_stage(
    family: Family, vae: VideoVAE, settings: Settings, prompts: Prompts, image: Bytes | None, features: Tensor | None
) -> Stage:
    """The stage of a clip that is made of a prompt, and perhaps of a picture."""
    shared = {"vae": vae, "frames": settings.length, "size": settings.size, "prompts": prompts}
    if family.task == "text or image":
        return StartStage(**shared, image=image)
    if image is None:
        return TextStage(**shared)
    return ImageStage(**shared, image=image, features=features)


def driven_stage(family: Family, vae: VideoVAE, drivers: Drivers, prompts: Prompts, features: Tensor | None) -> Stage:
    """The stage of a character who is animated."""
    if family.task == "vace":
        return VaceStage(vae=vae, drivers=drivers, prompts=prompts)
    if family.task == "control":
        config = cast(ControlConfig, family.config)
        return ControlStage(vae=vae, drivers=drivers, prompts=prompts, config=config, features=features)
    if features is None:
        raise InputError(f"{family.name} looks at the character through CLIP; give its file with --clip.")
    return AnimateStage(vae=vae, drivers=drivers, prompts=prompts, features=features)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Directed:
    """All that leads a character, and the sound that belongs to it."""

    drivers: Drivers
    audio: Path | None = None
    audio_start: float = 0.0
    notes: tuple[str, ...] = ()


def find_drivers(job: Job, settings: Settings, family: Family, tell: OnEvent) -> Directed:
    """What leads the character: a driver that is looked through, a folder as Wan-Animate's own preparation writes it,
    or a skeleton that is drawn already. Raises InputError.
    """
    folder = wan_folder_of(job)
    if folder is not None:
        if family.task != "animate":
            raise InputError(f"{folder} was prepared for Wan-Animate; {family.name} takes the driver's video itself.")
        character = None if job.character is None else Path(job.character)
        return Directed(drivers=read_wan_folder(folder, job.mode, character, _face_side(family))[0])
    if job.driver is None and job.preparation.skeleton is not None:
        return _undriven(job, settings, family)
    margins = "black" if family.task == "animate" else "white"
    found = cast_of(job, settings, tell, margins, posed=False)
    drivers, sound = drivers_of(found, job, family), found.performance
    notes = found.notes + drivers.notes
    if job.preparation.skeleton is not None:
        pose, said = _skeleton(job, settings, len(drivers))
        drivers, notes = replace(drivers, pose=pose), notes + said
    return Directed(drivers=drivers, audio=sound.audio, audio_start=sound.audio_start, notes=notes)


def wan_folder_of(job: Job) -> Path | None:
    """The driver, where it is a folder that was prepared by another program than this."""
    path = None if job.driver is None or puppet_seed(job.driver) is not None else Path(job.driver)
    return path if path is not None and is_wan_folder(path) and not is_prepared(path) else None


def _undriven(job: Job, settings: Settings, family: Family) -> Directed:
    """A character led by drawn poses alone: no face is known, and nobody to replace."""
    if job.mode == "replace":
        raise InputError("Replace mode needs the driver's video beside the skeleton.")
    pose, notes = _skeleton(job, settings, None)
    character, said = find_character(
        job.character or DEFAULT_CHARACTER, settings.size, "black" if family.task == "animate" else "white", posed=False
    )
    drivers = Drivers(pose=pose, face=no_faces(len(pose), _face_side(family)), reference=character.image)
    return Directed(drivers=drivers, notes=notes + said + ("a skeleton shows no face, so no expression is given",))


def _face_side(family: Family) -> int:
    return family.config.face_size if isinstance(family.config, AnimateConfig) else SIDE


def _skeleton(job: Job, settings: Settings, frames: int | None) -> tuple[Clip, tuple[str, ...]]:
    """The drawn poses, for so many frames, or as many as there are and are wanted."""
    asked, end = job.preparation, job.preparation.end
    if frames is None and settings.frames is not None:
        most = asked.start + settings.frames / settings.fps
        end = most if end is None else min(end, most)
    path = Path(asked.skeleton or "")
    return given_pose(path, settings.size, settings.fps, frames=frames, start=asked.start, end=end)


def drivers_of(found: Cast, job: Job, family: Family) -> Drivers:
    """What a family that is driven takes from character and performance.

    To replace somebody the pose is the performer's own, unfitted, as in the reference: the character fills the place.
    """
    points, notes = (found.performance.keypoints, ()) if job.mode == "replace" else fitted(found, job.mode)
    asked = job.preparation
    drivers = draw_drivers(
        found.character,
        found.performance,
        points,
        job.mode,
        face_side=_face_side(family),
        face_on_pose=family.task != "animate",
        grow=GROW if asked.grow is None else asked.grow,
        blocks=asked.grid,
    )
    return replace(drivers, notes=drivers.notes + notes)
