"""Trunk and limbs with what is worn on them: every pattern is laid out on the body part, so it moves and turns with it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .anatomy import SIDES
from .character import Character
from .shapes import Array, Colour, Ink, Shape, capsule, darker, disc, grow, lighter, lit, solid, stroke, tube
from .skeleton import Joints


@dataclass(frozen=True, kw_only=True, slots=True)
class Trunk:
    """The torso as a bent cylinder: at height t (0 hips, 1 shoulders) and longitude phi it has a place on the picture.

    base, tip, across [T, 2]: its axis' ends and the picture's direction of its width; yaw [T]; profile: half-widths at
    t; flat [T]: how much of the width is seen; length: of the axis when it is seen in full.
    """

    base: Array
    tip: Array
    across: Array
    yaw: Array
    profile: Callable[[Array], Array]
    flat: Array
    length: float

    def at(self, t: Array | float, s: Array | float) -> Array:
        """Picture place at height t and s in [-1, 1] across the seen width: [T, K, 2]."""
        t, s = np.broadcast_arrays(np.atleast_1d(np.asarray(t, float)), np.atleast_1d(np.asarray(s, float)))
        axis = self.base[:, None] + (self.tip - self.base)[:, None] * t[..., None]
        sag = -0.012 * (1 - s**2)[..., None] * np.array([0, 1.0])
        return axis + self.across[:, None] * (self.flat[:, None] * self.profile(t) * s)[..., None] + sag

    def on(self, t: Array, phi: Array) -> Array:
        """Picture place at height t and longitude phi (0 is the front), hidden ones at the edge: [T, K, 2]."""
        turned = np.clip(_wrap(phi + self.yaw[:, None]), -np.pi / 2, np.pi / 2)
        return self.at(np.broadcast_to(t, turned.shape), np.sin(turned))

    def seen(self, phi: float) -> Array:
        return np.abs(_wrap(phi + self.yaw)) < 1.35


def _wrap(angle: Array) -> Array:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def make_trunk(joints: Joints, character: Character) -> Trunk:
    """Widths come from the character; turned sideways, the trunk is as wide as it is deep."""
    body, frame = character.body, joints.chest_frame
    yaw = np.arctan2(frame[:, 0, 2], frame[:, 2, 2])
    base, tip = joints.pelvis[:, :2], joints.neck[:, :2]
    upright = tip - base + np.array([0, 0.02])
    upright /= np.linalg.norm(upright, axis=-1, keepdims=True)
    knots = np.array([-0.12, 0.0, 0.25, 0.5, 0.85, 1.0])
    widths = 0.5 * np.array([
        body.hips + 0.03, body.hips + 0.06, body.waist + 0.05 * body.belly + 0.02,
        0.5 * (body.waist + body.shoulders) + 0.02 * body.belly, body.shoulders + 0.02, 0.68 * body.shoulders,
    ])  # fmt: skip
    flat = np.sqrt(np.cos(yaw) ** 2 + (0.72 + 0.2 * body.belly) ** 2 * np.sin(yaw) ** 2)
    across = np.stack([upright[:, 1], -upright[:, 0]], -1)
    return Trunk(
        base=base,
        tip=tip,
        across=across,
        yaw=yaw,
        flat=flat,
        length=body.torso,
        profile=lambda t: np.interp(t, knots, widths),
    )


def torso(trunk: Trunk, character: Character, joints: Joints, ink: Ink) -> list[Shape]:
    """Neck, hips, top with its pattern, then what hangs from the waist and around the neck."""
    outfit = character.outfit
    overall = outfit.bottom == "overalls"
    low = -0.06 if outfit.bottom == "dress" else 0.06
    neck = capsule(joints.neck[:, :2], joints.skull[:, :2], 0.042, 0.042)
    shapes = solid(neck, character.skin, ink)
    shapes += _hips(trunk, _bottom_colour(character), ink)
    shapes += _skirt(trunk, character, joints, ink) if outfit.bottom in ("skirt", "dress") else []
    shapes += _panel(trunk, low, 1.0, outfit.top, ink)
    shapes += _pattern(trunk, character, low, 0.93)
    shapes += _bib(trunk, character) if overall else _belt(trunk, character)
    return shapes + _collar(trunk, character, ink) + _extra(trunk, character, ink)


def _bottom_colour(character: Character) -> Colour:
    return character.outfit.top if character.outfit.bottom == "dress" else character.outfit.legs


def _band(trunk: Trunk, low: float, high: float, steps: int = 4) -> Array:
    t = np.linspace(low, high, steps)
    s = np.linspace(-1, 1, 6)
    rows = [
        trunk.at(high, s),
        trunk.at(t[::-1], 1.0)[:, 1:-1],
        trunk.at(low, s[::-1]),
        trunk.at(t, -1.0)[:, 1:-1],
    ]
    return np.concatenate(rows, 1)[:, None]


def _panel(trunk: Trunk, low: float, high: float, colour: Colour, ink: Ink) -> list[Shape]:
    points = _band(trunk, low, high, 8)
    return [
        Shape(points=grow(points, ink.width), colour=darker(colour)),
        Shape(points=points, colour=colour, shade=0.0),
        Shape(points=lit(points, ink), shade=1.0),
    ]


def _hips(trunk: Trunk, colour: Colour, ink: Ink) -> list[Shape]:
    """Like a panel, but outlined only at its sides: below, it runs into the legs."""
    t = np.linspace(-0.02, 0.22, 5)
    sides = [stroke(trunk.at(t, s), 2 * ink.width) for s in (-1.0, 1.0)]
    fill = _panel(trunk, -0.1, 0.22, colour, ink)[1:]
    return [*[Shape(points=side, colour=darker(colour)) for side in sides], *fill]


def _patches(trunk: Trunk, t: Array, phi: Array, outline: Array, colour: Colour, size: float) -> list[Shape]:
    """Copies of a small outline [K, 2] laid on the trunk at heights t and longitudes phi [N]."""
    dt = outline[:, 1] * size / trunk.length
    dphi = outline[:, 0] * size / trunk.profile(np.array(0.6))
    shapes = []
    for height, longitude in zip(t, phi, strict=True):
        place = trunk.on((height + dt)[None], (longitude + dphi)[None])
        shapes.append(Shape(points=place[:, None], colour=colour, visible=trunk.seen(longitude)))
    return shapes


def _pattern(trunk: Trunk, character: Character, low: float, high: float) -> list[Shape]:
    outfit = character.outfit
    scale, trim, pattern = outfit.pattern_scale, outfit.trim, outfit.pattern
    if pattern == "stripes":
        edges = np.arange(low + 0.05, high, 0.2 * scale)
        return [Shape(points=_band(trunk, a, min(a + 0.1 * scale, high)), colour=trim) for a in edges]
    if pattern == "band":
        return [Shape(points=_band(trunk, 0.45, 0.72), colour=trim)]
    if pattern in ("pinstripes", "buttons"):
        return (
            _uprights(trunk, low, high, trim, scale)
            if pattern == "pinstripes"
            else _buttons(trunk, low, trim)
        )
    if pattern in ("dots", "diamonds", "checks"):
        return _scatter(trunk, pattern, low, high, trim, scale)
    if pattern in ("star", "heart"):
        outline = _star() if pattern == "star" else _heart()
        return _patches(trunk, np.array([0.52]), np.array([0.0]), outline, trim, 0.055 * scale)
    return []


def _uprights(trunk: Trunk, low: float, high: float, trim: Colour, scale: float) -> list[Shape]:
    t = np.linspace(low, high, 5)
    shapes = []
    for phi in np.arange(-3, 3.1, 0.6 * scale):
        sides = [trunk.on(row, np.full(5, phi + d)) for row, d in ((t, 0.09), (t[::-1], -0.09))]
        shapes.append(Shape(points=np.concatenate(sides, 1)[:, None], colour=trim, visible=trunk.seen(phi)))
    return shapes


def _buttons(trunk: Trunk, low: float, trim: Colour) -> list[Shape]:
    seam = [trunk.on(np.linspace(low, 0.95, 4), np.full(4, phi)) for phi in (-0.03, 0.03)]
    line = np.concatenate([seam[0], seam[1][:, ::-1]], 1)[:, None]
    heights = np.array([0.2, 0.42, 0.64, 0.84])
    front = _patches(trunk, heights, np.full(4, 0.0), _round(8), trim, 0.013)
    return [Shape(points=line, colour=darker(trim, 0.5), visible=trunk.seen(0.0)), *front]


def _scatter(trunk: Trunk, pattern: str, low: float, high: float, trim: Colour, scale: float) -> list[Shape]:
    outlines = {"dots": _round(9), "diamonds": _round(4) * [0.9, 1.4], "checks": _square()}
    step = 0.045 * scale
    size = {"dots": 0.36, "diamonds": 0.5, "checks": 0.5}[pattern] * step
    rows = np.arange(low + 0.1, high - 0.04, step / 0.24)
    columns = int(2 * np.pi * 0.1 / step / 2) * 2
    grid = [
        (t, 2 * np.pi * (j + 0.5 * (i % 2)) / columns) for i, t in enumerate(rows) for j in range(columns)
    ]
    return _patches(trunk, *np.array(grid).T, outlines[pattern], trim, size)


def _round(corners: int) -> Array:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def _square() -> Array:
    return np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])


def _star() -> Array:
    angle = np.pi / 2 + np.arange(10) * np.pi / 5
    return np.stack([np.cos(angle), np.sin(angle)], -1) * np.where(np.arange(10) % 2, 0.45, 1.0)[:, None]


def _heart() -> Array:
    a = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    y = 13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)
    return np.stack([np.sin(a) ** 3, y / 16], -1)


def _belt(trunk: Trunk, character: Character) -> list[Shape]:
    if character.outfit.pattern_scale < 1.0 or character.outfit.bottom in ("skirt",):
        return []
    shapes = [Shape(points=_band(trunk, 0.04, 0.12), colour=darker(character.outfit.trim, 0.35))]
    return shapes + _patches(trunk, np.array([0.08]), np.array([0.0]), _square(), (0.95, 0.8, 0.35), 0.013)


def _bib(trunk: Trunk, character: Character) -> list[Shape]:
    colour = character.outfit.legs
    shapes = [Shape(points=_band(trunk, -0.02, 0.3), colour=colour)]
    shapes += _patches(trunk, np.array([0.45]), np.array([0.0]), _square() * [1.0, 1.3], colour, 0.058)
    for side in SIDES:
        strap = trunk.on(np.array([0.66, 0.66, 1.0, 1.0]), side * np.array([0.38, 0.62, 0.82, 0.58]))
        shapes.append(Shape(points=strap[:, None], colour=colour, visible=trunk.seen(side * 0.6)))
        button = np.array([0.66]), np.array([side * 0.5])
        shapes += _patches(trunk, *button, _round(8), (0.97, 0.85, 0.45), 0.011)
    pocket = _patches(
        trunk, np.array([0.42]), np.array([0.0]), _square() * [1.2, 0.8], darker(colour, 0.25), 0.024
    )
    return shapes + pocket


def _skirt(trunk: Trunk, character: Character, joints: Joints, ink: Ink) -> list[Shape]:
    """From the waist to a hem that follows both knees, with folds."""
    outfit, colour = character.outfit, _bottom_colour(character)
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
    folds = [
        stroke(np.stack([hem[:, i], 0.45 * hem[:, i] + 0.55 * waist[:, 8 - i]], 1), 0.007, 0.3)
        for i in (2, 4, 6)
    ]
    trimmed = np.concatenate([hem, (hem * 0.86 + waist[:, ::-1] * 0.14)[:, ::-1]], 1)[:, None]
    shapes = solid(points, colour, ink)
    if outfit.leg_pattern != "plain":
        shapes.append(Shape(points=trimmed, colour=outfit.trim))
    return shapes + [Shape(points=fold, colour=darker(colour, 0.3)) for fold in folds]


def _collar(trunk: Trunk, character: Character, ink: Ink) -> list[Shape]:
    outfit, seen = character.outfit, trunk.seen(0.0)
    if outfit.neck == "turtle":
        return solid(_band(trunk, 0.94, 1.1), outfit.top, ink)
    if outfit.neck == "vee":
        points = trunk.on(np.array([1.02, 1.02, 0.72]), np.array([-0.5, 0.5, 0.0]))
        return [Shape(points=points[:, None], colour=character.skin, visible=seen)]
    if outfit.neck == "collar":
        flaps = [
            trunk.on(np.array([1.03, 1.0, 0.8, 0.98]), s * np.array([0.0, 0.75, 0.55, 0.05])) for s in SIDES
        ]
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
        return [s for w in wings for s in solid(w, colour, ink, seen)] + solid(
            disc(knot, 0.011), colour, ink, seen
        )
    if extra == "badge":
        return _patches(trunk, np.array([0.72]), np.array([0.5]), _star(), colour, 0.024)
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


def leg(joints: Joints, character: Character, side: int, ink: Ink) -> list[Shape]:
    """Skin, sock, trouser leg by the kind of clothes, and a shoe."""
    outfit, body = character.outfit, character.body
    hip, knee, ankle, toe = (getattr(joints, name)[:, side, :2] for name in ("hip", "knee", "ankle", "toe"))
    thick, thin = body.leg_radius, 0.72 * body.leg_radius
    long = outfit.bottom in ("trousers", "overalls")
    shapes = tube(
        [hip, knee, ankle], [thick, 0.85 * thick, thin], outfit.legs if long else character.skin, ink
    )
    if long and outfit.leg_pattern == "cuffs":
        shapes += tube([0.16 * knee + 0.84 * ankle, ankle], [thin * 1.15, thin * 1.2], outfit.trim, ink)
    if long and outfit.leg_pattern in ("stripes", "dots", "seam"):
        shapes += _limb_pattern(
            [hip, knee, ankle], [thick, 0.85 * thick, thin], outfit.leg_pattern, outfit.trim, side
        )
    if not long:
        shapes += tube([0.35 * knee + 0.65 * ankle, ankle], [1.02 * thin, 1.05 * thin], outfit.socks, ink)
    if outfit.bottom == "shorts":
        shapes += tube([hip, 0.3 * hip + 0.7 * knee], [1.15 * thick, 1.2 * thick], outfit.legs, ink)
    return _shoe(ankle, toe, character, ink) + shapes if long else shapes + _shoe(ankle, toe, character, ink)


def _shoe(ankle: Array, toe: Array, character: Character, ink: Ink) -> list[Shape]:
    heel = ankle + np.array([0, -0.35 * character.body.ankle])
    size = 0.8 * character.body.ankle
    sole = capsule(
        heel - np.array([0, 0.25 * size]), toe - np.array([0, 0.12 * size]), 0.85 * size, 0.85 * size
    )
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
        shapes += _limb_pattern(
            chain, radii, "stripes" if outfit.pattern == "stripes" else "dots", outfit.trim, side
        )
    elif outfit.pattern in ("band", "star", "heart"):
        cuff = 0.88 * chain[-1] + 0.12 * chain[-2]
        shapes += tube([cuff, chain[-1]], [1.04 * radii[-1], 1.06 * radii[-1]], outfit.trim, ink)
    return shapes


def _limb_pattern(
    chain: list[Array], radii: list[float], kind: str, colour: Colour, side: int
) -> list[Shape]:
    shapes = []
    for p, q, a, b in zip(chain[:-1], chain[1:], radii[:-1], radii[1:], strict=True):
        axis = (q - p) / np.maximum(np.linalg.norm(q - p, axis=-1, keepdims=True), 1e-9)
        across = np.stack([-axis[:, 1], axis[:, 0]], -1)
        if kind == "seam":
            shapes.append(
                capsule(
                    p - SIDES[side] * 0.6 * a * across, q - SIDES[side] * 0.6 * b * across, 0.008, 0.007, 4
                )
            )
        for i, u in enumerate((0.22, 0.5, 0.78) if kind != "seam" else ()):
            middle, radius = p + u * (q - p), a + (b - a) * u
            if kind == "dots":
                shapes.append(disc(middle + 0.45 * radius * (-1) ** i * across, 0.3 * radius, 9))
            else:
                half = across * radius * 0.97
                ends = [
                    middle - half,
                    middle + half,
                    middle + half + 0.5 * radius * axis,
                    middle - half + 0.5 * radius * axis,
                ]
                shapes.append(np.stack(ends, 1)[:, None])
    return [Shape(points=points, colour=colour) for points in shapes]


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
        (points[:, a], points[:, b])
        for k in range(5)
        for a, b in ((1 + 4 * k, 3 + 4 * k), (3 + 4 * k, 4 + 4 * k))
    ]
    fingers = [(p, q, 0.09 * size) for p, q in links]
    outlines = [
        Shape(points=capsule(p, q, r + ink.width, r + ink.width, 4), colour=darker(colour))
        for p, q, r in fingers
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
        star = top[:, None] + 0.045 * _star()
        return [
            *tube([grip - 0.04 * along, top], [0.008, 0.008], darker(colour, 0.2), ink),
            *solid(star[:, None], (0.99, 0.85, 0.35), ink),
        ]
    if kind == "cup":
        return tube([grip - 0.02 * along, grip + 0.05 * along], [0.032, 0.037], colour, ink)
    across = np.stack([-along[:, 1], along[:, 0]], -1)
    corners = [
        grip + a * along + b * across
        for a, b in ((-0.06, -0.045), (-0.06, 0.045), (0.07, 0.045), (0.07, -0.045))
    ]
    return solid(np.stack(corners, 1)[:, None], colour, ink)
