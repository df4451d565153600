"""Which stage a Wan family performs on, and what it is given: pictures read and fitted, conditions drawn."""

from pathlib import Path
from typing import cast

from torch import Tensor

from pasdedeux.animate.condition.wan import Prompts, VideoVAE
from pasdedeux.animate.condition.wan_animate import AnimateStage
from pasdedeux.animate.condition.wan_control import ControlStage
from pasdedeux.animate.condition.wan_drivers import Drivers, draw_drivers
from pasdedeux.animate.condition.wan_image import ImageStage, StartStage
from pasdedeux.animate.condition.wan_text import TextStage
from pasdedeux.animate.condition.wan_vace import VaceStage
from pasdedeux.animate.images import covering, load_image, resized
from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.perform import Bytes, Stage
from pasdedeux.animate.preprocess.face_crops import SIDE
from pasdedeux.animate.video import probe
from pasdedeux.checkpoints.families import Family
from pasdedeux.engine.job import GENERATE, Job, puppet_seed
from pasdedeux.engine.settings import Settings, Size
from pasdedeux.engine.sources import Cast
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
    if source is None or puppet_seed(source) is not None:
        return None
    if job.mode == "replace":
        info = probe(Path(source))
        return info.width, info.height
    height, width = load_image(Path(source)).image.shape[:2]
    return width, height


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


def drivers_of(found: Cast, mode: str, family: Family) -> Drivers:
    """What a family that is driven takes from character and performance.

    To replace somebody the pose is the performer's own, unfitted, as in the reference: the character fills the place.
    """
    side = family.config.face_size if isinstance(family.config, AnimateConfig) else SIDE
    points = found.performance.keypoints if mode == "replace" else fitted(found, mode)
    return draw_drivers(
        found.character, found.performance, points, mode, face_side=side, face_on_pose=family.task != "animate"
    )
