"""Moves of the legs and the whole body."""

from typing import Final

import numpy as np

from .rhythm import TAU, Move, Offsets, Rng, beat, fill, wobble
from .shapes import Array


def stand(t: Array, rng: Rng) -> Offsets:
    """Weight from one leg to the other."""
    sway = wobble(t, rng, 0.25)[:, 0]
    legs = fill(t, (2, 4))
    legs[:, 0, 1], legs[:, 1, 1] = 0.05 * sway, -0.05 * sway
    return {"pelvis": np.stack([0 * sway, 0 * sway, 0.06 * sway], -1), "legs": legs}


def walk(t: Array, rng: Rng) -> Offsets:
    """A walk on the spot: legs swing against each other, arms against the legs."""
    a, size = beat(t, rng, 0.7, 1.15), rng.uniform(0.35, 0.62)
    legs, arms, feet = fill(t, (2, 4)), fill(t, (2, 4)), fill(t, (2,))
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
    a, size = beat(t, rng, 0.6, 1.0), rng.uniform(0.7, 1.3)
    legs = fill(t, (2, 4))
    for side, phase in enumerate((a, a + np.pi)):
        lift = np.clip(np.sin(phase), 0, 1) ** 1.3
        legs[:, side, 0], legs[:, side, 3] = size * lift, 1.25 * size * lift
    return {"legs": legs, "pelvis": np.stack([0 * a, 0 * a, 0.07 * np.sin(a)], -1)}


def bounce(t: Array, rng: Rng) -> Offsets:
    """Dancing from the knees, hips to the sides."""
    a = beat(t, rng, 0.8, 1.5)
    dip, sway = 0.5 - 0.5 * np.cos(a), np.sin(0.5 * a)
    legs, root = fill(t, (2, 4)), fill(t, (3,))
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
    legs, root, arms = fill(t, (2, 4)), fill(t, (3,)), fill(t, (2, 4))
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
    legs = fill(t, (2, 4))
    legs[:, side, 0], legs[:, side, 1] = (1.35 - sideways) * swing, sideways * 0.9 * swing
    legs[:, side, 3] = 0.9 * np.exp(-(((u - 0.3) / 0.12) ** 2))
    lean = 0.16 * sideways * swing * (1 if side else -1)
    return {"legs": legs, "pelvis": np.stack([-0.12 * swing, 0 * u, lean], -1)}


def sit(t: Array, rng: Rng) -> Offsets:
    """Down on the heels or on a seat nobody sees, and a little to and fro."""
    deep = rng.uniform(0.75, 1.15) + 0.06 * wobble(t, rng, 0.3)[:, 0]
    legs = fill(t, (2, 4))
    legs[:, :, 0], legs[:, :, 3] = 1.5 * deep[:, None], 1.75 * deep[:, None]
    legs[:, :, 1] = rng.uniform(0.1, 0.5)
    return {
        "legs": legs,
        "pelvis": np.stack([0.3 * deep, 0 * deep, 0 * deep], -1),
        "spine": np.stack([0.1 * deep, 0 * deep, 0 * deep], -1),
    }


def lunge(t: Array, rng: Rng) -> Offsets:
    """A wide stance, from side to side."""
    a = beat(t, rng, 0.25, 0.5)
    s = np.sin(a)
    legs, root = fill(t, (2, 4)), fill(t, (3,))
    legs[:, 0, 1], legs[:, 1, 1] = 0.4, 0.4
    legs[:, 0, 0], legs[:, 1, 0] = 0.5 * np.clip(-s, 0, 1), 0.5 * np.clip(s, 0, 1)
    legs[:, :, 3] = 2 * legs[:, :, 0]
    root[:, 0] = 0.2 * s
    return {"legs": legs, "root": root, "pelvis": np.stack([0 * a, 0 * a, -0.1 * s], -1)}


def bow(t: Array, rng: Rng) -> Offsets:
    """Bend forward and come up again."""
    down = rng.uniform(0.5, 1.0) * (0.5 - 0.5 * np.cos(TAU * t / rng.uniform(2.0, 3.2)))
    arms = fill(t, (2, 4))
    arms[:, 0, 0], arms[:, 0, 3], arms[:, 0, 2] = 0.3 * down, 1.6 * down, 1.0 * down
    arms[:, 1, 1] = 0.9 * down * rng.integers(2)
    return {
        "pelvis": np.stack([0.5 * down, 0 * t, 0 * t], -1),
        "spine": np.stack([0.5 * down, 0 * t, 0 * t], -1),
        "head": np.stack([0.15 * down, 0 * t, 0 * t], -1),
        "arms": arms,
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
