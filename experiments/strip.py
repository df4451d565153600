"""The README's strip: the skeleton that leads, what carrying the reference gives, and what the pair makes of it.

Run after an installation; writes docs/images/strip.png.
"""

from pathlib import Path

import cv2
import numpy as np

from pasdedeux import Engine, Job
from pasdedeux.animate.condition.duet import composite
from pasdedeux.engine import cast, open_duet
from pasdedeux.engine.staging import set_up

OUT = Path(__file__).parents[1] / "docs/images/strip.png"
MOMENTS = (2, 9, 16, 23, 30, 37, 44)


def main() -> None:
    """Sample the built-in performance and lay out three rows, the reference first."""
    job = Job.animate()
    model = open_duet("builtin", "cpu")
    with Engine(model) as engine:
        found = cast(job, model.settle(job))
        planes = set_up(found, "animate", model.codec, model.manifest.compute, model.experts).planes
        frames = list(engine.run(job).frames)
    blank = np.full_like(found.character.image, 255)
    rows = [
        [blank, *(planes.pose[t] for t in MOMENTS)],
        [blank, *(composite(planes)[t] for t in MOMENTS)],
        [found.character.image, *(frames[t] for t in MOMENTS)],
    ]
    picture = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    cv2.imwrite(str(OUT), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
