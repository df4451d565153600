"""Evaluation as a whole, on the tiny pair, and the joints a job would have."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pasdedeux.animate.preprocess.placement import anchors
from pasdedeux.engine import open_duet
from pasdedeux.train.clips import HELD_OUT, ClipSpec, film, keypoints
from pasdedeux.train.evaluate import Exam, Sampling, evaluate, exam, prepared
from pasdedeux.train.study import arms


def test_every_arm_answers_every_clip(tiny: Path) -> None:
    model = open_duet(str(tiny), "cpu")
    drawn: list[int] = []

    def exams() -> Iterator[Exam]:
        for clip in range(3):
            drawn.append(clip)
            yield exam(clip, model.codec, "animate", False, torch.float32)

    sets, how = arms(model.expert_set()), Sampling(sigmas=(1.0, 0.7, 0.0), solver="euler", batch=2)
    made = []
    for answer in evaluate(exams(), model.codec, sets, how, lambda _: None):
        # Clips are drawn as they are needed, a batch at a time.
        assert len(drawn) <= 2 or answer.clip == 2
        made.append((answer.arm, answer.clip, answer.score.psnr, answer.frames.shape))
    names = ["still", "carried", "codec", *sets]
    assert sorted(m[:2] for m in made) == sorted((name, clip) for name in names for clip in range(3))
    assert {m[3] for m in made} == {(25, 128, 128, 3)}
    assert len({m[2] for m in made if m[1] == 2}) == len(names)


@pytest.mark.parametrize("mode", ["replace", "animate"])
def test_the_prepared_performance_stands_where_the_truth_does(mode: str) -> None:
    for clip in range(3):
        take = film(ClipSpec.from_seed(HELD_OUT + clip, mode=mode, frames=13, size=64))
        placed, truth = (anchors(points.body, feet=True) for points in (prepared(take), keypoints(take.truth)))
        assert np.abs(placed - truth).mean() < 0.4
