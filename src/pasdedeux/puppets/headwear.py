"""Everything on the head but the face, in the order in which it is painted."""

from dataclasses import dataclass

import numpy as np

from .character import Character
from .hair import ball_shapes, balls, beard_shapes, ear_shapes, hair_caps, mane_shapes, spike_shapes
from .hats import hat_shapes
from .head import Head
from .shapes import Ink, Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Headwear:
    """mane: hair that hangs behind the body; behind: before the head; beard: before the
    features of the face; over: after them; hat: over the brows."""

    mane: list[Shape]
    behind: list[Shape]
    beard: list[Shape]
    over: list[Shape]
    hat: list[Shape]


def headwear(head: Head, character: Character, ink: Ink) -> Headwear:
    """Everything on the head but the face."""
    behind = ear_shapes(head, character, ink, near=False)
    over = hair_caps(head, character, ink)
    for place, radius, colour in balls(character):
        rear, near = ball_shapes(head, np.array(place), radius, colour, ink)
        behind += rear
        over += near
    behind += spike_shapes(head, character, ink)
    over += ear_shapes(head, character, ink, near=True)
    return Headwear(
        mane=mane_shapes(head, character, ink),
        behind=behind,
        beard=beard_shapes(head, character),
        over=over,
        hat=hat_shapes(head, character, ink),
    )
