"""A cast set up for the model: the performance in the character's proportions, in the mode's place."""

import torch

from pasdedeux.animate.condition.duet import DuetStage, Scene, driver_scene, sketch, still_scene
from pasdedeux.animate.inputs import InputError, Keypoints, Performance
from pasdedeux.animate.preprocess.placement import in_place, known, unfitted
from pasdedeux.animate.preprocess.retarget import retarget
from pasdedeux.animate.preprocess.retarget_wan import retarget_wan
from pasdedeux.engine.sources import Cast
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer


def set_up(
    cast: Cast, mode: str, codec: PatchCodec, dtype: torch.dtype, experts: tuple[DuetTransformer, ...]
) -> DuetStage:
    """The built-in pair's stage of a job. Raises InputError where replace mode lacks the performer's pictures."""
    planes = sketch(cast.character, fitted(cast, mode)[0], scene_of(cast, mode))
    return DuetStage(planes=planes, codec=codec, dtype=dtype, experts=experts)


def fitted(cast: Cast, mode: str) -> tuple[Keypoints, tuple[str, ...]]:
    """The performance in the character's proportions, and notes; in replace mode where the performer stands.

    A character whose pose is not known is no measure: the performance keeps its own proportions then.
    """
    theirs, own = cast.performance.keypoints, cast.character.keypoints
    if cast.retarget == "none":
        return unfitted(theirs, own.size)[0], ()
    if not known(own):
        points, note = unfitted(theirs, own.size)
        return points, (note,)
    points = retarget_wan(theirs, own) if cast.retarget == "wan" else retarget(theirs, own)
    return (in_place(points, theirs) if mode == "replace" else points), ()


def scene_of(cast: Cast, mode: str) -> Scene:
    """The character's place (animate) or the performer's (replace), emptied."""
    if mode == "animate":
        return still_scene(cast.character)
    performance: Performance = cast.performance
    if performance.frames is None or performance.mask is None:
        raise InputError("Replace mode needs the driver's pictures and mask, but only its keypoints are known.")
    return driver_scene(performance.frames, performance.mask)
