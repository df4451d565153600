"""Who performs: proportions, face, hair and outfit of one drawn character, all from one seed."""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from . import palette
from .shapes import Colour, darker, lighter

KINDS: Final = ("person", "bear", "cat", "bunny", "robot", "alien")
HAIRSTYLES: Final = (
    "bald", "buzz", "short", "swept", "bowl", "bob", "long", "ponytail", "pigtails", "bun", "buns", "curly",
    "afro", "spiky", "mohawk",
)  # fmt: skip
HATS: Final = ("none", "beanie", "cap", "brim", "top", "crown", "party", "bow", "headband")
PATTERNS: Final = (
    "plain",
    "stripes",
    "pinstripes",
    "dots",
    "checks",
    "diamonds",
    "star",
    "heart",
    "band",
    "buttons",
)
BOTTOMS: Final = ("trousers", "shorts", "skirt", "dress", "overalls")
SLEEVES: Final = (0.0, 0.4, 0.75, 1.0)
NECKS: Final = ("round", "collar", "vee", "turtle")
HELD: Final = ("none", "flower", "balloon", "wand", "cup", "book")
EXTRAS: Final = ("none", "scarf", "bag", "cape", "bowtie", "badge")


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """Lengths in units of an average standing height; widths are full widths, head sizes and radii are
    halves.
    """

    head_height: float
    head_width: float
    neck: float
    torso: float
    leg: float
    ankle: float
    arm: float
    hand: float
    foot: float
    shoulders: float
    waist: float
    hips: float
    belly: float
    arm_radius: float
    leg_radius: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """Where features sit on a unit head (x right, y up), and how they look."""

    chin: float
    cheek: float
    eye_x: float
    eye_y: float
    eye_width: float
    eye_height: float
    eye_slant: float
    iris: Colour
    brow_y: float
    brow_width: float
    nose_y: float
    nose_size: float
    mouth_y: float
    mouth_width: float
    lips: Colour
    lip_height: float
    blush: float
    freckles: bool
    glasses: str
    ear: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Outfit:
    """Clothes and what is worn or carried."""

    top: Colour
    trim: Colour
    pattern: str
    pattern_scale: float
    sleeves: float
    neck: str
    bottom: str
    legs: Colour
    leg_pattern: str
    skirt_length: float
    shoes: Colour
    socks: Colour
    hat: str
    hat_colour: Colour
    extra: str
    extra_colour: Colour
    held: str
    held_colour: Colour


@dataclass(frozen=True, kw_only=True, slots=True)
class Character:
    """One of a great many: equal seeds give equal records."""

    kind: str
    skin: Colour
    hair: str
    hair_colour: Colour
    fringe: float
    hair_length: float
    beard: bool
    body: Body
    face: Face
    outfit: Outfit

    @classmethod
    def from_seed(cls, seed: int) -> Self:
        """The character of this seed. Raises ValueError for a negative seed."""
        if seed < 0:
            raise ValueError(f"a character's seed must be 0 or more, not {seed}")
        rng = np.random.default_rng([seed, 1])
        kind = str(rng.choice(KINDS, p=(0.78, 0.05, 0.05, 0.04, 0.05, 0.03)))
        skin = palette.pick(rng, _skins(kind))
        bald = kind in ("bear", "cat", "bunny") or (kind != "person" and rng.random() < 0.6)
        hair = "bald" if bald else str(rng.choice(HAIRSTYLES, p=_hair_odds()))
        return cls(
            kind=kind,
            skin=skin,
            hair=hair,
            hair_colour=palette.contrast(rng, palette.HAIR, skin),
            fringe=float(rng.uniform(-1, 1)),
            hair_length=float(rng.uniform(0, 1)),
            beard=bool(kind == "person" and hair in ("bald", "buzz", "short", "swept") and rng.random() < 0.35),
            body=_body(rng),
            face=_face(rng, kind, skin),
            outfit=_outfit(rng, skin),
        )


def _hair_odds() -> list[float]:
    weights = np.ones(len(HAIRSTYLES))
    weights[0] = 0.4
    return list(weights / weights.sum())


def _skins(kind: str) -> tuple[Colour, ...]:
    furs = {"person": palette.SKIN, "robot": palette.METAL, "alien": palette.ALIEN}
    return furs.get(kind, palette.FUR)


def _body(rng: np.random.Generator) -> Body:
    height = rng.uniform(0.94, 1.04)
    head = rng.uniform(0.135, 0.18)
    neck, ankle = rng.uniform(0.012, 0.035), rng.uniform(0.035, 0.05)
    rest = height - 1.88 * head - neck - ankle
    torso = rest * rng.uniform(0.4, 0.5)
    build = rng.normal(0, 1)
    shoulders = np.clip(0.225 + 0.02 * build + rng.normal(0, 0.015), 0.17, 0.3)
    hips = np.clip(0.15 + 0.02 * build + rng.normal(0, 0.012), 0.11, 0.22)
    return Body(
        head_height=float(head),
        head_width=float(head * rng.uniform(0.84, 1.08)),
        neck=float(neck),
        torso=float(torso),
        leg=float(rest - torso),
        ankle=float(ankle),
        arm=float(rng.uniform(0.31, 0.38)),
        hand=float(rng.uniform(0.1, 0.125)),
        foot=float(rng.uniform(0.075, 0.105)),
        shoulders=float(shoulders),
        waist=float(np.clip(0.5 * (shoulders + hips) * rng.uniform(0.78, 1.02), 0.12, 0.28)),
        hips=float(hips),
        belly=float(np.clip(rng.normal(0, 0.4) + 0.25 * build, 0, 1)),
        arm_radius=float(np.clip(rng.normal(0.029, 0.004) + 0.003 * build, 0.02, 0.042)),
        leg_radius=float(np.clip(rng.normal(0.041, 0.005) + 0.005 * build, 0.03, 0.06)),
    )


def _face(rng: np.random.Generator, kind: str, skin: Colour) -> Face:
    eye = rng.uniform(0.19, 0.27)
    rosy = palette.pick(rng, palette.LIPS)
    bare = darker(skin, 0.35)
    return Face(
        chin=float(rng.uniform(-0.12, 0.3)),
        cheek=float(rng.uniform(-0.05, 0.1)),
        eye_x=float(rng.uniform(0.36, 0.44)),
        eye_y=float(rng.uniform(-0.04, 0.12)),
        eye_width=float(eye),
        eye_height=float(eye * rng.uniform(0.85, 1.3)),
        eye_slant=float(rng.normal(0, 0.12)),
        iris=palette.pick(rng, palette.IRIS),
        brow_y=float(rng.uniform(0.1, 0.17)),
        brow_width=float(rng.uniform(0.04, 0.08)),
        nose_y=float(rng.uniform(-0.3, -0.2)),
        nose_size=float(rng.uniform(0.075, 0.16)),
        mouth_y=float(rng.uniform(-0.6, -0.5)),
        mouth_width=float(rng.uniform(0.28, 0.4)),
        lips=rosy if rng.random() < 0.4 else bare,
        lip_height=float(rng.uniform(0.045, 0.09)),
        blush=float(rng.uniform(0, 0.6)) if kind != "robot" else 0.0,
        freckles=bool(kind == "person" and rng.random() < 0.15),
        glasses=str(rng.choice(("none", "round", "square"), p=(0.78, 0.13, 0.09))),
        ear=float(rng.uniform(0.16, 0.27)),
    )


def _outfit(rng: np.random.Generator, skin: Colour) -> Outfit:
    top = palette.contrast(rng, palette.CLOTH, skin)
    legs = palette.contrast(rng, palette.CLOTH, top)
    return Outfit(
        top=top,
        trim=palette.contrast(rng, palette.CLOTH, top),
        pattern=str(rng.choice(PATTERNS)),
        pattern_scale=float(rng.uniform(0.75, 1.3)),
        sleeves=float(rng.choice(SLEEVES, p=(0.15, 0.3, 0.1, 0.45))),
        neck=str(rng.choice(NECKS)),
        bottom=str(rng.choice(BOTTOMS, p=(0.4, 0.17, 0.15, 0.16, 0.12))),
        legs=legs,
        leg_pattern=str(rng.choice(("plain", "stripes", "dots", "seam", "cuffs"), p=(0.45, 0.13, 0.1, 0.16, 0.16))),
        skirt_length=float(rng.uniform(0.35, 0.95)),
        shoes=palette.contrast(rng, palette.CLOTH, legs),
        socks=lighter(palette.pick(rng, palette.CLOTH), 0.3),
        hat=str(rng.choice(HATS, p=(0.6, *([0.05] * 8)))),
        hat_colour=palette.contrast(rng, palette.CLOTH, skin),
        extra=str(rng.choice(EXTRAS, p=(0.45, 0.15, 0.1, 0.1, 0.1, 0.1))),
        extra_colour=palette.contrast(rng, palette.CLOTH, top),
        held=str(rng.choice(HELD, p=(0.7, 0.06, 0.06, 0.06, 0.06, 0.06))),
        held_colour=palette.pick(rng, palette.CLOTH),
    )
