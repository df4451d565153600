"""Judge the style LoRA on held-out clips: is it the style, and does the figure still follow?

PYTHONPATH=src python experiments/2026-11-25-style-lora/judge.py COUNT OUT HIGH.safetensors LOW.safetensors

Three arms from the same noise: the pair as it is ("plain"), its answers put through the filter that made the training
clips ("filtered": the style without any learning), and the pair with the LoRA ("lora").

A silhouette is where a frame differs from the empty place. "strict" takes the place from the truth (filtered, for the
last two arms), so that an error of the place's own style counts as figure. "own" takes it from the answer: for each
pixel the median of its frames in which nobody is near by the truth, so that only what moves counts.
"""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from style import night

from pasdedeux.animate.condition.duet import DuetPrompt, video_tensor
from pasdedeux.engine.duet import DuetModel, open_duet
from pasdedeux.train.evaluate import Exam, Sampling, exam, join, sample, start
from pasdedeux.train.metrics import iou, psnr, silhouette

Bytes = NDArray[np.uint8]
AROUND, SHOWN, FRAME = 9, 8, 12
ARMS = ("plain", "filtered", "lora")


def own_place(frames: Bytes, mask: Bytes, otherwise: Bytes) -> Bytes:
    """[H, W, 3]: the median of each pixel's frames that are well away from the figure, else the truth's place."""
    away = np.stack([cv2.dilate(m, np.ones((AROUND, AROUND), np.uint8)) for m in mask]) < 8
    masked = np.ma.masked_array(frames, np.broadcast_to(~away[..., None], frames.shape))
    return np.ma.median(masked, axis=0).filled(0).astype(np.uint8) + otherwise * ~away.any(0)[..., None]


def judged(frames: Bytes, truth: Bytes, place: Bytes, mask: Bytes) -> dict[str, float]:
    """One answer beside its truth."""
    real = silhouette(truth, place)
    return {
        "psnr": psnr(frames, truth),
        "strict": iou(silhouette(frames, place), real),
        "own": iou(silhouette(frames, own_place(frames, mask, place)), real),
    }


def answers(model: DuetModel, files: tuple[str, ...], exams: list[Exam]) -> dict[str, list[Bytes]]:
    """Frames of every clip by each arm."""
    tuned, _ = model.with_loras(files)
    x = start(exams)
    how = Sampling(sigmas=model.sigmas, solver=model.manifest.solver, batch=len(exams))
    made = {}
    for name, experts in (("plain", model.experts), ("lora", tuned)):
        prompt = DuetPrompt(join(exams), torch.cat([video_tensor(e.rough) for e in exams]))
        made[name] = list(sample(model.expert_set(None, experts), x, prompt, model.codec, how))
    return {"plain": made["plain"], "filtered": [night(frames) for frames in made["plain"]], "lora": made["lora"]}


def mean(values: list[float]) -> list[float]:
    """Mean, and half of its 95% interval."""
    return [round(float(np.mean(values)), 4), round(float(1.96 * np.std(values, ddof=1) / len(values) ** 0.5), 4)]


def main(count: int, out: Path, files: tuple[str, ...]) -> None:
    """Every clip, the table, and a strip of stills: the driver, then plain, lora, filtered, filtered truth."""
    model = open_duet("builtin", "cpu")
    scores: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    columns = []
    for first in range(0, count, 4):
        exams = [exam(i, model.codec, "animate", False, model.manifest.compute) for i in range(first, first + 4)]
        made = answers(model, files, exams)
        for k, e in enumerate(exams):
            truth = e.take.truth
            styled, place = night(truth.frames), night(truth.background)
            scores["plain"].append(judged(made["plain"][k], truth.frames, truth.background, truth.mask))
            for arm in ("filtered", "lora"):
                scores[arm].append(judged(made[arm][k], styled, place, truth.mask))
            if len(columns) < SHOWN:
                shown = (e.take.driver.frames, made["plain"][k], made["lora"][k], made["filtered"][k], styled)
                columns.append(np.vstack([frames[FRAME] for frames in shown]))
        print(first + len(exams), {arm: scores[arm][-1] for arm in ARMS}, flush=True)
    write(out, files, scores)
    strip = np.hstack(columns)
    cv2.imwrite(
        str(out / "strip.png"), cv2.resize(strip, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC)[..., ::-1]
    )


def write(out: Path, files: tuple[str, ...], scores: dict[str, list[dict[str, float]]]) -> None:
    """result.json."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "commit": commit.stdout.strip(),
        "n": len(scores["lora"]),
        "bytes": {Path(file).name: Path(file).stat().st_size for file in files},
        "mean and half of the 95% interval": {
            arm: {key: mean([s[key] for s in some]) for key in some[0]} for arm, some in scores.items()
        },
        "lora minus the other, clip by clip": {
            other: {
                key: mean([a[key] - b[key] for a, b in zip(scores["lora"], scores[other], strict=True)])
                for key in ("strict", "own")
            }
            for other in ("plain", "filtered")
        },
        "clips": scores,
    }
    (out / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps({k: v for k, v in result.items() if k != "clips"}, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), tuple(sys.argv[3:]))
