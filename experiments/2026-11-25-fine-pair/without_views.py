"""The pair on the held-out clips where no picture knows its view, as with a video: what does placing by views bring?

Run after an installation with `.[evaluate]`; writes without_views.json beside this file. The performer's joints and the
character's stay exact; only the views are taken away, so that one frame of the performance ties the two together.
"""

import json
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from pasdedeux.engine import open_duet, source_commit
from pasdedeux.train import evaluate as study
from pasdedeux.train.clips import Take
from pasdedeux.train.study import Score, differences, summary

HERE = Path(__file__).parent
COUNT = 64


def blind(take: Take) -> Take:
    """The same clip; its character's picture knows no view, which is enough for none to be used."""
    character = replace(take.character, keypoints=replace(take.character.keypoints, view=None))
    return replace(take, character=character)


def main() -> None:
    """Both modes: the baselines and the pair."""
    model, seeing = open_duet("builtin", "cpu"), study.prepared
    study.prepared = lambda take: seeing(blind(take))
    how = study.Sampling(sigmas=model.sigmas, solver=model.manifest.solver, batch=8)
    result: dict[str, object] = {"commit": source_commit(), "n": COUNT}
    for mode in ("animate", "replace"):
        exams = (study.exam(i, model.codec, mode, False, model.manifest.compute) for i in range(COUNT))
        scores: dict[str, list[Score]] = defaultdict(list)
        for answer in study.evaluate(exams, model.codec, {"pair": model.expert_set()}, how, print):
            scores[answer.arm].append(answer.score)
        figures = {arm: {k: asdict(f) for k, f in summary(values).items()} for arm, values in scores.items()}
        ahead = {
            f"pair minus {arm}": {k: asdict(f) for k, f in differences(scores["pair"], scores[arm]).items()}
            for arm in ("still", "carried")
        }
        result[mode] = {"summary": figures, "paired": ahead}
        psnr = np.mean([s.psnr for s in scores["pair"]])
        print(f"{mode}: pair {psnr:.2f} dB")
    (HERE / "without_views.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
