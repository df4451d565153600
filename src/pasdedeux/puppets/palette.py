"""The paint box: colours that sit well together, and small seeded departures from them."""

import colorsys
from typing import Final

import numpy as np

from .shapes import Colour


def _hex(code: str) -> Colour:
    return (int(code[0:2], 16) / 255, int(code[2:4], 16) / 255, int(code[4:6], 16) / 255)


def _box(codes: str) -> tuple[Colour, ...]:
    return tuple(_hex(code) for code in codes.split())


CLOTH: Final = _box(
    "e4572e f3a712 f7d060 a8c686 5b8e7d 2a9d8f 4ecdc4 5fa8d3 2b59c3 253c78 6a4c93 b084cc f49fbc e75a7c "
    "b23a48 f4f1de e9e3d5 9a8c7c 3d405b 264653 81b29a e07a5f c1121f 8ac926 ff8fa3 "
    "ffd6a5 bde0fe 7f5539 343a40 d9d9d9"
)
SKIN: Final = _box("ffe0c9 fcd2b1 f6c19c eeb18a dfa074 cf8e62 b97a50 a0643e 8a5233 6f3f27 5a3320 f9cdb8")
FUR: Final = _box("c58b54 8d5a3b e9c79b f2ede4 9fa4ad e08e45 6d6a75 d8a7b1 b7c9a8 7d8ca3")
METAL: Final = _box("b8c4d0 9fc5c9 d6cdbd a7b59e c9a7a0 8fa3bf e2d36b")
ALIEN: Final = _box("a7d676 7fd1c7 b79ae0 f0a3c4 8db8f0 f2c46d")
HAIR: Final = _box(
    "1f1a1c 2d211d 4a2f22 6b4226 8c5a2e b5763a d9a441 f0d58c e9e4da 9b9b9b a63c24 d1603d e86f9c 5a4fcf 2f9c95 f2f2f2"
)
IRIS: Final = _box("2b1d14 4a2e1b 6b4a2b 2e5e4e 3f7cac 5b6c8f 222222 7a5c99")
LIPS: Final = _box("c4565a a83f4b d97b7b 8f3b3f e0697d")


def pick(rng: np.random.Generator, box: tuple[Colour, ...], wander: float = 0.035) -> Colour:
    """One colour of the box, a little off in hue, saturation and value."""
    hue, saturation, value = colorsys.rgb_to_hsv(*box[rng.integers(len(box))])
    shift = rng.uniform(-1, 1, 3) * wander
    return colorsys.hsv_to_rgb(
        (hue + 0.4 * shift[0]) % 1,
        float(np.clip(saturation + shift[1], 0, 1)),
        float(np.clip(value + shift[2], 0, 1)),
    )


def contrast(rng: np.random.Generator, box: tuple[Colour, ...], against: Colour) -> Colour:
    """A colour of the box that is clearly another than `against`: the best of a few draws."""
    draws = [pick(rng, box) for _ in range(4)]
    return max(draws, key=lambda c: sum(abs(a - b) for a, b in zip(c, against, strict=True)))
