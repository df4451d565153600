"""The repertoire: small functions of time that say how far each joint is from standing at ease.

Every move takes local times [T] in seconds and a generator (its own for each time it is danced), and returns offsets
by channel, shaped like the fields of Poses.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from .shapes import Array

Offsets = dict[str, Array]
Rng = np.random.Generator
Move = Callable[[Array, Rng], Offsets]

TAU: Final = 2 * np.pi


def wobble(t: Array, rng: Rng, hz: float, columns: int = 1) -> Array:
    """Smooth noise [T, columns] of standard size: three sines whose frequencies have no common period."""
    rate = hz * np.array([0.61803, 1.0, 1.41421]) * rng.uniform(0.85, 1.18, (columns, 3))
    phase = rng.uniform(0, TAU, (columns, 3))
    return (np.sin(TAU * rate * t[:, None, None] + phase) * [0.5, 0.6, 0.4]).sum(-1)


def _beat(t: Array, rng: Rng, low: float, high: float) -> Array:
    return TAU * rng.uniform(low, high) * t + rng.uniform(0, TAU)


def _fill(t: Array, shape: tuple[int, ...]) -> Array:
    return np.zeros((len(t), *shape))


def stand(t: Array, rng: Rng) -> Offsets:
    """Weight from one leg to the other."""
    sway = wobble(t, rng, 0.25)[:, 0]
    legs = _fill(t, (2, 4))
    legs[:, 0, 1], legs[:, 1, 1] = 0.05 * sway, -0.05 * sway
    return {"pelvis": np.stack([0 * sway, 0 * sway, 0.06 * sway], -1), "legs": legs}


def walk(t: Array, rng: Rng) -> Offsets:
    """A walk on the spot: legs swing against each other, arms against the legs."""
    a, size = _beat(t, rng, 0.7, 1.15), rng.uniform(0.35, 0.62)
    legs, arms, feet = _fill(t, (2, 4)), _fill(t, (2, 4)), _fill(t, (2,))
    for side, phase in enumerate((a, a + np.pi)):
        legs[:, side, 0] = size * np.sin(phase)
        legs[:, side, 3] = 1.5 * size * np.clip(np.cos(phase), 0, 1) ** 1.5 + 0.08
        feet[:, side] = 0.25 * np.sin(phase)
        arms[:, side, 0] = -0.9 * size * np.sin(phase)
        arms[:, side, 3] = 0.35 + 0.2 * np.sin(phase)
    bob = np.stack([0 * a, 0.1 * np.sin(a), 0.05 * np.cos(a)], -1)
    return {"legs": legs, "arms": arms, "feet": feet, "pelvis": bob, "spine": -bob * [0, 1.4, 1]}


def march(t: Array, rng: Rng) -> Offsets:
    """Knees high."""
    a, size = _beat(t, rng, 0.6, 1.0), rng.uniform(0.7, 1.3)
    legs = _fill(t, (2, 4))
    for side, phase in enumerate((a, a + np.pi)):
        lift = np.clip(np.sin(phase), 0, 1) ** 1.3
        legs[:, side, 0], legs[:, side, 3] = size * lift, 1.25 * size * lift
    return {"legs": legs, "pelvis": np.stack([0 * a, 0 * a, 0.07 * np.sin(a)], -1)}


def bounce(t: Array, rng: Rng) -> Offsets:
    """Dancing from the knees, hips to the sides."""
    a = _beat(t, rng, 0.8, 1.5)
    dip, sway = 0.5 - 0.5 * np.cos(a), np.sin(0.5 * a)
    legs, root = _fill(t, (2, 4)), _fill(t, (3,))
    legs[:, :, 0] = 0.42 * dip[:, None]
    legs[:, :, 3] = 0.84 * dip[:, None]
    legs[:, 0, 1], legs[:, 1, 1] = 0.1 + 0.14 * sway, 0.1 - 0.14 * sway
    root[:, 0] = rng.uniform(0.05, 0.16) * sway
    return {
        "legs": legs,
        "root": root,
        "pelvis": np.stack([0.08 * dip, 0.25 * sway, 0.14 * sway], -1),
        "spine": np.stack([0 * a, -0.3 * sway, -0.2 * sway], -1),
    }


def jump(t: Array, rng: Rng) -> Offsets:
    """Crouch, leave the floor, land."""
    period = rng.uniform(1.0, 1.6)
    u = (t / period + rng.uniform()) % 1
    air = np.clip(np.sin(np.pi * (u - 0.45) / 0.45), 0, 1) * (u > 0.45) * (u < 0.9)
    crouch = np.exp(-(((u - 0.3) / 0.13) ** 2)) + 0.5 * np.exp(-(((u - 0.97) / 0.06) ** 2))
    legs, root, arms = _fill(t, (2, 4)), _fill(t, (3,)), _fill(t, (2, 4))
    legs[:, :, 0], legs[:, :, 3] = 0.7 * crouch[:, None], 1.4 * crouch[:, None]
    legs[:, :, 1] = (rng.uniform(0.1, 0.45) * air)[:, None]
    root[:, 1] = rng.uniform(0.16, 0.3) * air
    arms[:, :, 1] = (rng.uniform(0.8, 1.9) * air)[:, None]
    arms[:, :, 0] = -0.5 * crouch[:, None]
    return {
        "legs": legs,
        "root": root,
        "arms": arms,
        "feet": -0.5 * np.stack([air, air], -1),
        "pelvis": np.stack([0.4 * crouch, 0 * u, 0 * u], -1),
    }


def kick(t: Array, rng: Rng) -> Offsets:
    """One leg swings up, forward or to the side."""
    u = (t / rng.uniform(1.3, 2.0) + rng.uniform()) % 1
    swing = np.exp(-(((u - 0.5) / 0.13) ** 2)) - 0.35 * np.exp(-(((u - 0.22) / 0.1) ** 2))
    side, sideways = rng.integers(2), rng.uniform(0, 1)
    legs = _fill(t, (2, 4))
    legs[:, side, 0], legs[:, side, 1] = (1.35 - sideways) * swing, sideways * 0.9 * swing
    legs[:, side, 3] = 0.9 * np.exp(-(((u - 0.3) / 0.12) ** 2))
    lean = 0.16 * sideways * swing * (1 if side else -1)
    return {"legs": legs, "pelvis": np.stack([-0.12 * swing, 0 * u, lean], -1)}


def sit(t: Array, rng: Rng) -> Offsets:
    """Down on the heels or on a seat nobody sees, and a little to and fro."""
    deep = rng.uniform(0.75, 1.15) + 0.06 * wobble(t, rng, 0.3)[:, 0]
    legs = _fill(t, (2, 4))
    legs[:, :, 0], legs[:, :, 3] = 1.5 * deep[:, None], 1.75 * deep[:, None]
    legs[:, :, 1] = rng.uniform(0.1, 0.5)
    return {
        "legs": legs,
        "pelvis": np.stack([0.3 * deep, 0 * deep, 0 * deep], -1),
        "spine": np.stack([0.1 * deep, 0 * deep, 0 * deep], -1),
    }


def lunge(t: Array, rng: Rng) -> Offsets:
    """A wide stance, from side to side."""
    a = _beat(t, rng, 0.25, 0.5)
    s = np.sin(a)
    legs, root = _fill(t, (2, 4)), _fill(t, (3,))
    legs[:, 0, 1], legs[:, 1, 1] = 0.4, 0.4
    legs[:, 0, 0], legs[:, 1, 0] = 0.5 * np.clip(-s, 0, 1), 0.5 * np.clip(s, 0, 1)
    legs[:, :, 3] = 2 * legs[:, :, 0]
    root[:, 0] = 0.2 * s
    return {"legs": legs, "root": root, "pelvis": np.stack([0 * a, 0 * a, -0.1 * s], -1)}


def bow(t: Array, rng: Rng) -> Offsets:
    """Bend forward and come up again."""
    down = rng.uniform(0.5, 1.0) * (0.5 - 0.5 * np.cos(TAU * t / rng.uniform(2.0, 3.2)))
    arms = _fill(t, (2, 4))
    arms[:, 0, 0], arms[:, 0, 3], arms[:, 0, 2] = 0.3 * down, 1.6 * down, 1.0 * down
    arms[:, 1, 1] = 0.9 * down * rng.integers(2)
    return {
        "pelvis": np.stack([0.5 * down, 0 * t, 0 * t], -1),
        "spine": np.stack([0.5 * down, 0 * t, 0 * t], -1),
        "head": np.stack([0.15 * down, 0 * t, 0 * t], -1),
        "arms": arms,
    }


def rest(t: Array, rng: Rng) -> Offsets:
    """Arms hang and breathe."""
    return {"arms": 0.07 * wobble(t, rng, 0.35, 8).reshape(-1, 2, 4)}


def wave(t: Array, rng: Rng) -> Offsets:
    """One arm up, forearm to and fro."""
    a, side = _beat(t, rng, 1.1, 2.0), rng.integers(2)
    arms, hands = _fill(t, (2, 4)), _fill(t, (2, 4))
    arms[:, side, 1] = rng.uniform(0.7, 1.5)
    arms[:, side, 2] = -1.6
    arms[:, side, 3] = 1.15 + rng.uniform(0.25, 0.45) * np.sin(a)
    hands[:, side] = np.stack([0.35 * np.sin(a + 0.5), 0 * a - 0.2, 0 * a + 0.4, 0 * a - 0.9], -1)
    return {"arms": arms, "hands": hands}


def hooray(t: Array, rng: Rng) -> Offsets:
    """Both arms in the air."""
    a = _beat(t, rng, 0.8, 1.6)
    arms, hands = _fill(t, (2, 4)), _fill(t, (2, 4))
    for side, s in enumerate((np.sin(a), np.sin(a + rng.choice([0, np.pi])))):
        arms[:, side] = np.stack([0 * a + 0.3, 2.1 + 0.28 * s, 0 * a - 0.6, 0.35 + 0.25 * s], -1)
    hands[:, :, 1:3] = [-0.2, 0.5]
    return {"arms": arms, "hands": hands}


def talk(t: Array, rng: Rng) -> Offsets:
    """Forearms raised, hands that underline what is said."""
    noise, hand = wobble(t, rng, 0.8, 8).reshape(-1, 2, 4), wobble(t, rng, 0.6, 8).reshape(-1, 2, 4)
    arms = noise * [0.2, 0.14, 0.3, 0.3] + [0.45, 0.05, 0.15, 1.15]
    return {"arms": arms, "hands": hand * [0.25, 0.2, 0.2, 0.4] + [0, 0.05, 0.2, 0.2]}


def hips(t: Array, rng: Rng) -> Offsets:
    """Hands on the hips."""
    arms = _fill(t, (2, 4))
    arms[:] = [-0.25, 0.5, 0.75, 1.55]
    return {"arms": arms + 0.04 * wobble(t, rng, 0.4, 8).reshape(-1, 2, 4)}


def swing(t: Array, rng: Rng) -> Offsets:
    """Dancing arms: both on the same beat, each on its own course."""
    a, arms = _beat(t, rng, 0.5, 1.1), _fill(t, (2, 4))
    shift = rng.choice([0, np.pi, 0.5 * np.pi])
    for side, phase in enumerate((a, a + shift)):
        for joint, middle, size in ((0, 0.6, 0.7), (1, 0.7, 0.6), (2, -0.2, 0.7), (3, 1.1, 0.6)):
            arms[:, side, joint] = middle * rng.uniform(0.4, 1.2) + size * rng.uniform(0.3, 1) * np.sin(
                phase + rng.uniform(-1, 1)
            )
    return {"arms": arms, "spine": np.stack([0 * a, 0.2 * np.sin(a), 0.1 * np.sin(a + 1)], -1)}


def glide(t: Array, rng: Rng) -> Offsets:
    """Arms spread like wings, a wave running through them."""
    a, arms = _beat(t, rng, 0.3, 0.7), _fill(t, (2, 4))
    for side, phase in enumerate((a, a + rng.choice([0, np.pi]))):
        arms[:, side] = np.stack(
            [0 * a, 1.15 + 0.35 * np.sin(phase), 0 * a - 0.5, 0.25 + 0.3 * np.sin(phase - 1)], -1
        )
    return {"arms": arms}


def think(t: Array, rng: Rng) -> Offsets:
    """A hand at the chin, the other arm across."""
    side, arms, head = rng.integers(2), _fill(t, (2, 4)), _fill(t, (3,))
    arms[:, side] = [0.75, -0.1, 0.5, 2.15]
    arms[:, 1 - side] = [0.4, -0.05, 1.1, 1.5]
    head[:, 2] = 0.12 * (1 if side else -1)
    return {"arms": arms + 0.05 * wobble(t, rng, 0.5, 8).reshape(-1, 2, 4), "head": head}


def point(t: Array, rng: Rng) -> Offsets:
    """An outstretched arm with one finger's worth of intent."""
    side, arms, hands = rng.integers(2), _fill(t, (2, 4)), _fill(t, (2, 4))
    arms[:, side] = [rng.uniform(0, 0.9), rng.uniform(0.8, 1.6), 0.0, -0.15]
    hands[:, side, 1] = 0.35
    return {"arms": arms + 0.06 * wobble(t, rng, 0.7, 8).reshape(-1, 2, 4), "hands": hands}


def clap(t: Array, rng: Rng) -> Offsets:
    """Hands meet in front of the chest."""
    a, arms = _beat(t, rng, 1.2, 2.0), _fill(t, (2, 4))
    arms[:] = np.stack([0 * a + 0.75, 0.12 + 0.16 * np.sin(a), 0.75 - 0.3 * np.sin(a), 0 * a + 1.2], -1)[
        :, None
    ]
    return {"arms": arms}


def shrug(t: Array, rng: Rng) -> Offsets:
    """Forearms out, palms up."""
    up = 0.5 - 0.5 * np.cos(_beat(t, rng, 0.3, 0.6))
    arms = _fill(t, (2, 4))
    arms[:] = (up[:, None] * [0.35, 0.35, -0.9, 1.35])[:, None]
    return {
        "arms": arms,
        "head": np.stack([0 * up, 0 * up, 0.18 * up * rng.choice([-1, 1])], -1),
        "brows": np.stack([up, up, 0 * up], -1),
    }


def keyposes(t: Array, rng: Rng) -> Offsets:
    """From one invented arm pose to the next, held for a moment each."""
    keys = rng.uniform([-0.4, 0.0, -1.4, 0.0], [1.5, 1.9, 0.9, 1.7], (5, 2, 4))
    place = t / rng.uniform(0.6, 1.1)
    part = place % 1
    ease = (part**2 * (3 - 2 * part))[:, None, None]
    index = np.floor(place).astype(int)
    return {"arms": keys[index % 5] * (1 - ease) + keys[(index + 1) % 5] * ease}


def quiet(t: Array, rng: Rng) -> Offsets:
    """A mood: smile and brows, hardly changing."""
    mood = rng.normal(0.2, 0.5)
    mouth = np.stack(
        [0.04 + 0 * t, 0.3 * wobble(t, rng, 0.2)[:, 0], mood + 0.2 * wobble(t, rng, 0.3)[:, 0]], -1
    )
    return {"mouth": mouth, "brows": 0.3 * wobble(t, rng, 0.3, 3) + [0, 0, -0.3 * mood]}


def speak(t: Array, rng: Rng) -> Offsets:
    """Syllables: four or five a second, in phrases, each with its own opening and width."""
    rate = rng.uniform(2.6, 4.4)
    voiced = np.clip(0.75 + 0.7 * wobble(t, rng, 0.45)[:, 0], 0, 1)
    syllable = np.abs(np.sin(np.pi * rate * t + 0.8 * wobble(t, rng, 0.9)[:, 0]))
    agape = voiced * syllable * np.clip(0.55 + 0.3 * wobble(t, rng, 1.3)[:, 0], 0.1, 1)
    mouth = np.stack(
        [agape, 0.55 * wobble(t, rng, 1.7)[:, 0], rng.uniform(-0.4, 0.5) + 0.2 * wobble(t, rng, 0.5)[:, 0]],
        -1,
    )
    return {
        "mouth": mouth,
        "brows": 0.45 * wobble(t, rng, 0.5, 3),
        "head": wobble(t, rng, 0.7, 3) * [0.07, 0.08, 0.05],
    }


def laugh(t: Array, rng: Rng) -> Offsets:
    """A wide open smile that shakes, eyes half shut."""
    shake = np.sin(TAU * rng.uniform(3, 4.2) * t)
    mouth = np.stack([0.55 + 0.15 * shake, 0.5 + 0 * t, 0.75 + 0 * t], -1)
    return {
        "mouth": mouth,
        "eyes": np.stack([0.45 + 0 * t, 0.45 + 0 * t, 0 * t, 0 * t], -1),
        "head": np.stack([-0.14 + 0.04 * shake, 0 * t, 0 * t], -1),
        "brows": np.stack([0.5 + 0 * t, 0.5 + 0 * t, -0.3 + 0 * t], -1),
    }


def sing(t: Array, rng: Rng) -> Offsets:
    """Long vowels."""
    open_ = np.clip(0.5 + 0.4 * wobble(t, rng, 0.5)[:, 0], 0.05, 1)
    mouth = np.stack([open_, -0.5 + 0.5 * wobble(t, rng, 0.4)[:, 0], 0.1 + 0 * t], -1)
    return {
        "mouth": mouth,
        "brows": np.stack([open_, open_, -0.3 + 0 * t], -1),
        "head": wobble(t, rng, 0.4, 3) * [0.1, 0.12, 0.1],
    }


def surprise(t: Array, rng: Rng) -> Offsets:
    """Brows up, mouth round; or, by chance, cross."""
    if rng.random() < 0.5:
        return {
            "mouth": np.stack([0.1 + 0 * t, 0 * t, -1.0 + 0 * t], -1),
            "brows": np.stack([-0.4 + 0 * t, -0.4 + 0 * t, 1 + 0 * t], -1),
        }
    return {
        "mouth": np.stack([0.5 + 0.1 * wobble(t, rng, 1)[:, 0], -0.8 + 0 * t, -0.35 + 0 * t], -1),
        "brows": np.stack([1 + 0 * t, 1 + 0 * t, -0.2 + 0 * t], -1),
    }


LOWER: Final[tuple[Move, ...]] = (
    stand,
    stand,
    walk,
    walk,
    march,
    bounce,
    bounce,
    jump,
    kick,
    sit,
    lunge,
    bow,
)
UPPER: Final[tuple[Move, ...]] = (
    rest, rest, wave, wave, hooray, talk, talk, hips, swing, swing, glide, think, point, clap, shrug, keyposes, keyposes,
)  # fmt: skip
MOODS: Final[tuple[Move, ...]] = (quiet, quiet, speak, speak, speak, laugh, sing, surprise)
