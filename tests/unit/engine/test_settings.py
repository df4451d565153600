from pathlib import Path
from typing import Literal

import pytest

from pasdedeux.checkpoints.folder import read_manifest
from pasdedeux.engine import Job, defaults_of, settle
from pasdedeux.engine.settings import shaped_as


def test_the_model_answers_what_the_job_leaves_open(tiny: Path) -> None:
    settings = settle(Job(), defaults_of(read_manifest(tiny)))
    assert (settings.steps, settings.size, settings.fps, settings.solver) == (4, (64, 64), 12.0, "euler")
    assert settings.handoff.bounds == (0.75,)
    assert settings.frames is None
    assert settings.sigmas[0] == 1
    assert settings.sigmas[-1] == 0


def test_the_job_goes_before_the_model(tiny: Path) -> None:
    job = Job(steps=7, size="96x72", fps=24, solver="unipc", handoff="snr:1", frames=5, seed=9)
    settings = settle(job, defaults_of(read_manifest(tiny)))
    assert (settings.steps, settings.size, settings.fps, settings.solver) == (7, (96, 72), 24, "unipc")
    assert settings.handoff.bounds == (0.5,)
    assert (settings.frames, settings.seed, len(settings.sigmas)) == (5, 9, 8)
    assert settings.sampling().seed == 9


@pytest.mark.parametrize(
    ("size", "nearest"), [("100x101", "96x104"), ("70x64", "72x64"), ("8x8", "64x64"), ("1x1000", "64x1000")]
)
def test_a_size_off_the_grid_is_refused_with_the_nearest(tiny: Path, size: str, nearest: str) -> None:
    defaults = defaults_of(read_manifest(tiny))
    with pytest.raises(ValueError, match=f"nearest that fits is {nearest}"):
        settle(Job(size=size), defaults)
    assert settle(Job(size=nearest), defaults).size == tuple(map(int, nearest.split("x")))


@pytest.mark.parametrize("handoff", ["0.8,0.4", "0.9,0.8,0.7"])
def test_as_many_handoffs_as_the_model_takes(tiny: Path, handoff: str) -> None:
    with pytest.raises(ValueError, match="this model takes 1"):
        settle(Job(handoff=handoff), defaults_of(read_manifest(tiny)))


@pytest.mark.parametrize(
    ("picture", "area", "grid", "rule", "wanted"),
    [
        ((1920, 1080), 832 * 480, 16, "cut", (832, 464)),
        ((1080, 1920), 1280 * 720, 16, "cut", (720, 1280)),
        ((1024, 1024), 1280 * 704, 32, "nearest", (960, 928)),
        ((1280, 704), 1280 * 704, 32, "nearest", (1280, 704)),
        ((3000, 10), 832 * 480, 16, "cut", (10944, 64)),
    ],
)
def test_a_clip_has_the_shape_of_its_picture(
    picture: tuple[int, int], area: int, grid: int, rule: Literal["cut", "nearest"], wanted: tuple[int, int]
) -> None:
    assert shaped_as(picture, area, (grid, grid), rule) == wanted
