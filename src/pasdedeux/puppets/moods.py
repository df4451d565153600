"""Moves of the face: moods and speech."""

from typing import Final

import numpy as np

from .rhythm import TAU, Move, Offsets, Rng, wobble
from .shapes import Array


def quiet(t: Array, rng: Rng) -> Offsets:
    """A mood: smile and brows, hardly changing."""
    mood = rng.normal(0.2, 0.5)
    mouth = np.stack([0.04 + 0 * t, 0.3 * wobble(t, rng, 0.2)[:, 0], mood + 0.2 * wobble(t, rng, 0.3)[:, 0]], -1)
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


MOODS: Final[tuple[Move, ...]] = (quiet, quiet, speak, speak, speak, laugh, sing, surprise)
