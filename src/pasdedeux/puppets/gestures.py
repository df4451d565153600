"""Moves of the arms and hands."""

from typing import Final

import numpy as np

from .rhythm import Move, Offsets, Rng, beat, fill, wobble
from .shapes import Array


def rest(t: Array, rng: Rng) -> Offsets:
    """Arms hang and breathe."""
    return {"arms": 0.07 * wobble(t, rng, 0.35, 8).reshape(-1, 2, 4)}


def wave(t: Array, rng: Rng) -> Offsets:
    """One arm up, forearm to and fro."""
    a, side = beat(t, rng, 1.1, 2.0), rng.integers(2)
    arms, hands = fill(t, (2, 4)), fill(t, (2, 4))
    arms[:, side, 1] = rng.uniform(0.7, 1.5)
    arms[:, side, 2] = -1.6
    arms[:, side, 3] = 1.15 + rng.uniform(0.25, 0.45) * np.sin(a)
    hands[:, side] = np.stack([0.35 * np.sin(a + 0.5), 0 * a - 0.2, 0 * a + 0.4, 0 * a - 0.9], -1)
    return {"arms": arms, "hands": hands}


def hooray(t: Array, rng: Rng) -> Offsets:
    """Both arms in the air."""
    a = beat(t, rng, 0.8, 1.6)
    arms, hands = fill(t, (2, 4)), fill(t, (2, 4))
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
    arms = fill(t, (2, 4))
    arms[:] = [-0.25, 0.5, 0.75, 1.55]
    return {"arms": arms + 0.04 * wobble(t, rng, 0.4, 8).reshape(-1, 2, 4)}


def swing(t: Array, rng: Rng) -> Offsets:
    """Dancing arms: both on the same beat, each on its own course."""
    a, arms = beat(t, rng, 0.5, 1.1), fill(t, (2, 4))
    shift = rng.choice([0, np.pi, 0.5 * np.pi])
    for side, phase in enumerate((a, a + shift)):
        for joint, middle, size in ((0, 0.6, 0.7), (1, 0.7, 0.6), (2, -0.2, 0.7), (3, 1.1, 0.6)):
            arms[:, side, joint] = middle * rng.uniform(0.4, 1.2) + size * rng.uniform(0.3, 1) * np.sin(
                phase + rng.uniform(-1, 1)
            )
    return {"arms": arms, "spine": np.stack([0 * a, 0.2 * np.sin(a), 0.1 * np.sin(a + 1)], -1)}


def glide(t: Array, rng: Rng) -> Offsets:
    """Arms spread like wings, a wave running through them."""
    a, arms = beat(t, rng, 0.3, 0.7), fill(t, (2, 4))
    for side, phase in enumerate((a, a + rng.choice([0, np.pi]))):
        arms[:, side] = np.stack([0 * a, 1.15 + 0.35 * np.sin(phase), 0 * a - 0.5, 0.25 + 0.3 * np.sin(phase - 1)], -1)
    return {"arms": arms}


def think(t: Array, rng: Rng) -> Offsets:
    """A hand at the chin, the other arm across."""
    side, arms, head = rng.integers(2), fill(t, (2, 4)), fill(t, (3,))
    arms[:, side] = [0.75, -0.1, 0.5, 2.15]
    arms[:, 1 - side] = [0.4, -0.05, 1.1, 1.5]
    head[:, 2] = 0.12 * (1 if side else -1)
    return {"arms": arms + 0.05 * wobble(t, rng, 0.5, 8).reshape(-1, 2, 4), "head": head}


def point(t: Array, rng: Rng) -> Offsets:
    """An outstretched arm with one finger's worth of intent."""
    side, arms, hands = rng.integers(2), fill(t, (2, 4)), fill(t, (2, 4))
    arms[:, side] = [rng.uniform(0, 0.9), rng.uniform(0.8, 1.6), 0.0, -0.15]
    hands[:, side, 1] = 0.35
    return {"arms": arms + 0.06 * wobble(t, rng, 0.7, 8).reshape(-1, 2, 4), "hands": hands}


def clap(t: Array, rng: Rng) -> Offsets:
    """Hands meet in front of the chest."""
    a, arms = beat(t, rng, 1.2, 2.0), fill(t, (2, 4))
    arms[:] = np.stack([0 * a + 0.75, 0.12 + 0.16 * np.sin(a), 0.75 - 0.3 * np.sin(a), 0 * a + 1.2], -1)[:, None]
    return {"arms": arms}


def shrug(t: Array, rng: Rng) -> Offsets:
    """Forearms out, palms up."""
    up = 0.5 - 0.5 * np.cos(beat(t, rng, 0.3, 0.6))
    arms = fill(t, (2, 4))
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


UPPER: Final[tuple[Move, ...]] = (
    rest, rest, wave, wave, hooray, talk, talk, hips, swing, swing, glide, think, point, clap, shrug,
    keyposes, keyposes,
)  # fmt: skip
