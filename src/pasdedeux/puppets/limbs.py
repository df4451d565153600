"""Arms and legs with hands, sleeves, trouser legs and shoes, and what is carried."""

import numpy as np

from .character import Character
from .patterns import limb_pattern, star
from .shapes import Array, Ink, Shape, capsule, darker, disc, grow, lighter, solid, stroke, tube
from .skeleton import Joints


def leg(joints: Joints, character: Character, side: int, ink: Ink) -> list[Shape]:
    """Skin, sock, trouser leg by the kind of clothes, and a shoe."""
    outfit, body = character.outfit, character.body
    hip, knee, ankle, toe = (getattr(joints, name)[:, side, :2] for name in ("hip", "knee", "ankle", "toe"))
    thick, thin = body.leg_radius, 0.72 * body.leg_radius
    long = outfit.bottom in ("trousers", "overalls")
    shapes = tube([hip, knee, ankle], [thick, 0.85 * thick, thin], outfit.legs if long else character.skin, ink)
    if long and outfit.leg_pattern == "cuffs":
        shapes += tube([0.16 * knee + 0.84 * ankle, ankle], [thin * 1.15, thin * 1.2], outfit.trim, ink)
    if long and outfit.leg_pattern in ("stripes", "dots", "seam"):
        shapes += limb_pattern([hip, knee, ankle], [thick, 0.85 * thick, thin], outfit.leg_pattern, outfit.trim, side)
    if not long:
        shapes += tube([0.35 * knee + 0.65 * ankle, ankle], [1.02 * thin, 1.05 * thin], outfit.socks, ink)
    if outfit.bottom == "shorts":
        shapes += tube([hip, 0.3 * hip + 0.7 * knee], [1.15 * thick, 1.2 * thick], outfit.legs, ink)
    return _shoe(ankle, toe, character, ink) + shapes if long else shapes + _shoe(ankle, toe, character, ink)


def _shoe(ankle: Array, toe: Array, character: Character, ink: Ink) -> list[Shape]:
    heel = ankle + np.array([0, -0.35 * character.body.ankle])
    size = 0.8 * character.body.ankle
    sole = capsule(heel - np.array([0, 0.25 * size]), toe - np.array([0, 0.12 * size]), 0.85 * size, 0.85 * size)
    pale = lighter(character.outfit.shoes, 0.7)
    upper = tube([heel, toe], [size, 0.9 * size], character.outfit.shoes, ink)
    return [
        Shape(points=grow(sole, ink.width), colour=darker(pale)),
        Shape(points=sole, colour=pale),
        *upper[1:],
    ]


def arm(joints: Joints, character: Character, side: int, ink: Ink) -> list[Shape]:
    """Hand, skin, then the sleeve over them, with the pattern of the top."""
    outfit, thick = character.outfit, character.body.arm_radius
    shoulder, elbow, wrist = (getattr(joints, name)[:, side, :2] for name in ("shoulder", "elbow", "wrist"))
    shapes = _held(joints, character, side, ink) + hand(joints, character, side, ink)
    shapes += tube([shoulder, elbow, wrist], [thick, 0.9 * thick, 0.72 * thick], character.skin, ink)
    sleeve = outfit.sleeves
    if sleeve == 0:
        return shapes
    if sleeve <= 0.5:
        chain, radii = [shoulder, shoulder + 2 * sleeve * (elbow - shoulder)], [1.2 * thick, 1.22 * thick]
    else:
        end = elbow + (2 * sleeve - 1) * 0.96 * (wrist - elbow)
        chain, radii = [shoulder, elbow, end], [1.2 * thick, 1.12 * thick, 1.0 * thick]
    shapes += tube(chain, radii, outfit.top, ink)
    if outfit.pattern in ("stripes", "dots", "checks", "diamonds"):
        shapes += limb_pattern(chain, radii, "stripes" if outfit.pattern == "stripes" else "dots", outfit.trim, side)
    elif outfit.pattern in ("band", "star", "heart"):
        cuff = 0.88 * chain[-1] + 0.12 * chain[-2]
        shapes += tube([cuff, chain[-1]], [1.04 * radii[-1], 1.06 * radii[-1]], outfit.trim, ink)
    return shapes


def hand(joints: Joints, character: Character, side: int, ink: Ink) -> list[Shape]:
    """A palm and five short round fingers that end where the labelled fingertips are."""
    points, size = joints.hands[:, side, :, :2], character.body.hand
    colour = character.skin
    palm = capsule(
        points[:, 0] * 0.7 + points[:, 9] * 0.3,
        points[:, 9] * 0.8 + points[:, 13] * 0.2,
        0.2 * size,
        0.24 * size,
    )
    links = [
        (points[:, a], points[:, b]) for k in range(5) for a, b in ((1 + 4 * k, 3 + 4 * k), (3 + 4 * k, 4 + 4 * k))
    ]
    fingers = [(p, q, 0.09 * size) for p, q in links]
    outlines = [
        Shape(points=capsule(p, q, r + ink.width, r + ink.width, 4), colour=darker(colour)) for p, q, r in fingers
    ]
    paint = [Shape(points=capsule(p, q, r, r, 4), colour=colour, shade=0.7) for p, q, r in fingers]
    return [
        Shape(points=grow(palm, ink.width), colour=darker(colour)),
        *outlines,
        Shape(points=palm, colour=colour, shade=0.7),
        *paint,
    ]


def _held(joints: Joints, character: Character, side: int, ink: Ink) -> list[Shape]:
    """What the left hand holds: it follows the hand's direction, a balloon its own."""
    kind, colour = character.outfit.held, character.outfit.held_colour
    if kind == "none" or side == 0:
        return []
    grip = joints.hands[:, side, 9, :2]
    thumb = joints.hands[:, side, 5, :2] - joints.hands[:, side, 17, :2]
    along = thumb + np.array([0, 0.03])
    along = along / np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-6)
    if kind == "balloon":
        top = grip + np.array([0.02, 0.24])
        string = stroke(np.stack([grip, 0.5 * (grip + top) + np.array([0.012, 0]), top], 1), 0.006)
        return [Shape(points=string, colour=darker(colour)), *solid(disc(top, 0.075), colour, ink)]
    if kind == "flower":
        top = grip + 0.12 * along
        petals = [top + 0.026 * np.array([np.cos(a), np.sin(a)]) for a in np.arange(5) * 1.2566]
        stem = [Shape(points=capsule(grip - 0.05 * along, top, 0.006, 0.006), colour=(0.25, 0.5, 0.25))]
        bloom = [s for p in petals for s in solid(disc(p, 0.02, 10), colour, ink)]
        return stem + bloom + [Shape(points=disc(top, 0.018, 10), colour=(0.98, 0.82, 0.3))]
    if kind == "wand":
        top = grip + 0.16 * along
        outline = top[:, None] + 0.045 * star()
        return [
            *tube([grip - 0.04 * along, top], [0.008, 0.008], darker(colour, 0.2), ink),
            *solid(outline[:, None], (0.99, 0.85, 0.35), ink),
        ]
    if kind == "cup":
        return tube([grip - 0.02 * along, grip + 0.05 * along], [0.032, 0.037], colour, ink)
    across = np.stack([-along[:, 1], along[:, 0]], -1)
    corners = [
        grip + a * along + b * across for a, b in ((-0.06, -0.045), (-0.06, 0.045), (0.07, 0.045), (0.07, -0.045))
    ]
    return solid(np.stack(corners, 1)[:, None], colour, ink)
