"""A drawn world of articulated characters in which every joint, mask and face point is known."""

from .anatomy import ANATOMY, BODY_NAMES
from .character import Character
from .choreography import Choreography
from .light import Light
from .place import Place
from .poses import Poses
from .render import Camera, Clip, render, render_still

__all__ = [
    "ANATOMY",
    "BODY_NAMES",
    "Camera",
    "Character",
    "Choreography",
    "Clip",
    "Light",
    "Place",
    "Poses",
    "render",
    "render_still",
]
