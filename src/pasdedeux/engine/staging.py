"""A cast set up for the model: the performance in the character's proportions, in the mode's place."""

from pasdedeux.animate.condition.duet import DuetStage, Scene, draw_planes, driver_scene, still_scene
from pasdedeux.animate.inputs import InputError, Performance
from pasdedeux.animate.preprocess.placement import in_place
from pasdedeux.animate.preprocess.retarget import retarget
from pasdedeux.engine.model import Model
from pasdedeux.engine.sources import Cast


def set_up(cast: Cast, mode: str, model: Model) -> DuetStage:
    """The stage of a job. Raises InputError where replace mode lacks the performer's pictures."""
    points = retarget(cast.performance.keypoints, cast.character.keypoints)
    if mode == "replace":
        points = in_place(points, cast.performance.keypoints)
    planes = draw_planes(cast.character, points, scene_of(cast, mode))
    return DuetStage(planes=planes, codec=model.codec, dtype=model.manifest.compute, experts=model.experts)


def scene_of(cast: Cast, mode: str) -> Scene:
    """The character's place (animate) or the performer's (replace), emptied."""
    if mode == "animate":
        return still_scene(cast.character)
    performance: Performance = cast.performance
    if performance.frames is None or performance.mask is None:
        raise InputError("Replace mode needs the driver's pictures and mask, but only its keypoints are known.")
    return driver_scene(performance.frames, performance.mask)
