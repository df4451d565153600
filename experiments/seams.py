"""Is a segment's border visible? Frame differences of a 10 s performance, at borders and elsewhere.

Run after an installation, with the folder that seams.json and seams.png go to.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from pasdedeux import Engine, Job

FRAMES = 121


def main() -> None:
    """Sample, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with Engine.open("builtin", "cpu") as engine:
        defaults = engine.model.defaults
        frames = np.stack(list(engine.run(Job.animate(frames=FRAMES)).frames)).astype(np.float64)
    gaps = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    # Frame b is the first that a new segment makes; gap b - 1 lies before it.
    borders = np.arange(defaults.length, FRAMES, defaults.length - defaults.overlap) - 1
    others = np.delete(gaps, borders)
    result = {
        "frames": FRAMES,
        "borders": (borders + 1).tolist(),
        "at_borders": gaps[borders].round(3).tolist(),
        "elsewhere": {
            name: round(float(value), 3)
            for name, value in zip(
                ("min", "p5", "median", "p95", "max"), np.percentile(others, (0, 5, 50, 95, 100)), strict=True
            )
        },
        "within_the_range_of_the_others": bool((gaps[borders] <= others.max()).all()),
    }
    (folder / "seams.json").write_text(json.dumps(result, indent=1))
    rows = [np.concatenate(list(frames[b - 1 : b + 3]), axis=1) for b in borders[:3] + 1]
    picture = np.concatenate(rows).astype(np.uint8)
    cv2.imwrite(str(folder / "seams.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
