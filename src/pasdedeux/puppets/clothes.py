"""What is worn on the trunk: top, belt, bib, skirt, collar, scarf, bag and cape."""

import numpy as np

from .anatomy import SIDES
from .character import Character
from .patterns import circle, pattern_on, square, star
from .shapes import Colour, Ink, Shape, capsule, darker, disc, lighter, solid, stroke
from .skeleton import Joints
from .trunk import Trunk, band, panel, patches


def torso(trunk: Trunk, character: Character, joints: Joints, ink: Ink) -> list[Shape]:
    """Neck, hips, top with its pattern, then what hangs from the waist and around the neck."""
    outfit = character.outfit
    overall = outfit.bottom == "overalls"
    low = -0.06 if outfit.bottom == "dress" else 0.06
    neck = capsule(joints.neck[:, :2], joints.skull[:, :2], 0.042, 0.042)
    shapes = solid(neck, character.skin, ink)
    shapes += _hips(trunk, bottom_colour(character), ink)
    shapes += _skirt(trunk, character, joints, ink) if outfit.bottom in ("skirt", "dress") else []
    shapes += panel(trunk, low, 1.0, outfit.top, ink)
    shapes += pattern_on(trunk, character, low, 0.93)
    shapes += _bib(trunk, character) if overall else _belt(trunk, character)
    return shapes + _collar(trunk, character, ink) + _extra(trunk, character, ink)


def bottom_colour(character: Character) -> Colour:
    return character.outfit.top if character.outfit.bottom == "dress" else character.outfit.legs


def _hips(trunk: Trunk, colour: Colour, ink: Ink) -> list[Shape]:
    """Like a panel, but outlined only at its sides: below, it runs into the legs."""
    t = np.linspace(-0.02, 0.22, 5)
    sides = [stroke(trunk.at(t, s), 2 * ink.width) for s in (-1.0, 1.0)]
    fill = panel(trunk, -0.1, 0.22, colour, ink)[1:]
    return [*[Shape(points=side, colour=darker(colour)) for side in sides], *fill]


def _belt(trunk: Trunk, character: Character) -> list[Shape]:
    if character.outfit.pattern_scale < 1.0 or character.outfit.bottom in ("skirt",):
        return []
    shapes = [Shape(points=band(trunk, 0.04, 0.12), colour=darker(character.outfit.trim, 0.35))]
    return shapes + patches(trunk, np.array([0.08]), np.array([0.0]), square(), (0.95, 0.8, 0.35), 0.013)


def _bib(trunk: Trunk, character: Character) -> list[Shape]:
    colour = character.outfit.legs
    shapes = [Shape(points=band(trunk, -0.02, 0.3), colour=colour)]
    shapes += patches(trunk, np.array([0.45]), np.array([0.0]), square() * [1.0, 1.3], colour, 0.058)
    for side in SIDES:
        strap = trunk.on(np.array([0.66, 0.66, 1.0, 1.0]), side * np.array([0.38, 0.62, 0.82, 0.58]))
        shapes.append(Shape(points=strap[:, None], colour=colour, visible=trunk.seen(side * 0.6)))
        button = np.array([0.66]), np.array([side * 0.5])
        shapes += patches(trunk, *button, circle(8), (0.97, 0.85, 0.45), 0.011)
    pocket = patches(trunk, np.array([0.42]), np.array([0.0]), square() * [1.2, 0.8], darker(colour, 0.25), 0.024)
    return shapes + pocket


def _skirt(trunk: Trunk, character: Character, joints: Joints, ink: Ink) -> list[Shape]:
    """From the waist to a hem that follows both knees, with folds."""
    outfit, colour = character.outfit, bottom_colour(character)
    length = outfit.skirt_length
    knees = joints.hip[:, :, :2] + length * 1.1 * (joints.knee - joints.hip)[:, :, :2]
    left, right = knees[..., 0].min(1), knees[..., 0].max(1)
    flare = 0.045 + 0.04 * length
    level = knees[..., 1].mean(1) - 0.01
    s = np.linspace(0, 1, 9)
    x = (left - flare)[:, None] + (right - left + 2 * flare)[:, None] * s
    y = level[:, None] - 0.012 * np.sin(np.pi * s) + 0.006 * (-1) ** np.arange(9)
    hem = np.stack([x, y], -1)
    waist = trunk.at(0.2, np.linspace(1, -1, 9))
    points = np.concatenate([hem, waist], 1)[:, None]
    folds = [stroke(np.stack([hem[:, i], 0.45 * hem[:, i] + 0.55 * waist[:, 8 - i]], 1), 0.007, 0.3) for i in (2, 4, 6)]
    trimmed = np.concatenate([hem, (hem * 0.86 + waist[:, ::-1] * 0.14)[:, ::-1]], 1)[:, None]
    shapes = solid(points, colour, ink)
    if outfit.leg_pattern != "plain":
        shapes.append(Shape(points=trimmed, colour=outfit.trim))
    return shapes + [Shape(points=fold, colour=darker(colour, 0.3)) for fold in folds]


def _collar(trunk: Trunk, character: Character, ink: Ink) -> list[Shape]:
    outfit, seen = character.outfit, trunk.seen(0.0)
    if outfit.neck == "turtle":
        return solid(band(trunk, 0.94, 1.1), outfit.top, ink)
    if outfit.neck == "vee":
        points = trunk.on(np.array([1.02, 1.02, 0.72]), np.array([-0.5, 0.5, 0.0]))
        return [Shape(points=points[:, None], colour=character.skin, visible=seen)]
    if outfit.neck == "collar":
        flaps = [trunk.on(np.array([1.03, 1.0, 0.8, 0.98]), s * np.array([0.0, 0.75, 0.55, 0.05])) for s in SIDES]
        return [Shape(points=flap[:, None], colour=lighter(outfit.top, 0.45), visible=seen) for flap in flaps]
    points = trunk.on(np.array([1.02, 1.02, 0.93, 0.9, 0.93]), np.array([-0.5, 0.5, 0.32, 0.0, -0.32]))
    return [Shape(points=points[:, None], colour=character.skin, visible=seen)]


def _extra(trunk: Trunk, character: Character, ink: Ink) -> list[Shape]:
    extra, colour, seen = character.outfit.extra, character.outfit.extra_colour, trunk.seen(0.0)
    if extra == "scarf":
        tail = trunk.on(np.array([0.98, 0.98, 0.45, 0.45]), np.array([0.15, 0.55, 0.6, 0.2]))[:, None]
        wrap = capsule(trunk.at(1.03, -0.62)[:, 0], trunk.at(1.03, 0.62)[:, 0], 0.034, 0.034)
        return solid(tail, darker(colour, 0.1), ink, seen) + solid(wrap, colour, ink)
    if extra == "bag":
        strap = [trunk.on(np.array([1.0, 0.1]), np.array(ends)) for ends in ((-0.75, 0.95), (-0.55, 1.15))]
        points = np.concatenate([strap[0], strap[1][:, ::-1]], 1)[:, None]
        pouch = capsule(
            trunk.on(np.array([-0.02]), np.array([1.2]))[:, 0],
            trunk.on(np.array([0.1]), np.array([1.2]))[:, 0],
            0.05,
            0.045,
        )
        return [
            Shape(points=points, colour=darker(colour, 0.35), visible=seen),
            *solid(pouch, colour, ink, trunk.seen(0.9)),
        ]
    if extra == "bowtie":
        knot = trunk.on(np.array([0.95]), np.array([0.0]))[:, 0]
        wings = [capsule(knot + trunk.across * s * 0.034, knot, 0.023, 0.005) for s in SIDES]
        return [s for w in wings for s in solid(w, colour, ink, seen)] + solid(disc(knot, 0.011), colour, ink, seen)
    if extra == "badge":
        return patches(trunk, np.array([0.72]), np.array([0.5]), star(), colour, 0.024)
    return []


def cape(trunk: Trunk, character: Character, ink: Ink) -> list[Shape]:
    """A cape hangs behind the body and spreads towards its hem."""
    if character.outfit.extra != "cape":
        return []
    top, low = (
        trunk.at(0.97, np.array([-0.9, 0.9])),
        trunk.at(-0.95, np.array([1.9, 1.2, 0.4, -0.4, -1.2, -1.9])),
    )
    low = low + 0.012 * np.array([0, 1.0]) * ((-1) ** np.arange(6))[:, None]
    return solid(np.concatenate([top, low], 1)[:, None], character.outfit.extra_colour, ink)
