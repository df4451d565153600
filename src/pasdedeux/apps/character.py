"""`pasdedeux character new`: a drawn character as a picture that brings its own keypoints and mask."""

from pathlib import Path

from pasdedeux.animate.images import character_metadata, save_png
from pasdedeux.engine import parse_size, puppet_character


def write_character(seed: int, output: Path, size: str) -> str:
    """Draw it, write it, and say so. Raises ValueError for a bad seed, size or file name."""
    if output.suffix.lower() != ".png":
        raise ValueError(f"The picture is to be {output}; its name must end in .png (which carries keypoints).")
    if seed < 0:
        raise ValueError(f"The seed is {seed}; it must be 0 or more.")
    width, height = parse_size(size)
    character = puppet_character(seed, (width, height))
    save_png(output, character.image, character_metadata(character, seed))
    return f"{output}: character {seed}, {width}x{height}, with its keypoints and mask"
