"""The held-out study of a trained pair: every arm on every clip, in both modes, to one JSON and a strip of stills."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from pasdedeux.animate.condition.duet import denoiser
from pasdedeux.denoise import Expert, ExpertSet, Handoff, schedule
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer
from pasdedeux.train.evaluate import Arm, Exam, Score, evaluate, exam, summary
from pasdedeux.train.pair import PairConfig, make_model, names

Bytes = NDArray[np.uint8]


def load_expert(path: Path, config: PairConfig, dtype: torch.dtype) -> DuetTransformer:
    """A trained expert from its averaged weights."""
    weights = load_file(path)
    model = make_model(config, weights["spread"])
    model.load_state_dict(weights)
    return model.to(dtype).eval()


def make_arms(folder: Path, config: PairConfig, steps: int, dtype: torch.dtype) -> list[Arm]:
    """The pair, each expert alone over all noise levels, the pair swapped, and the dense model where there is one."""
    handoff = Handoff(bounds=config.bounds)
    sigmas = schedule(steps, config.shift)
    experts = [
        Expert(denoiser(load_expert(folder / f"{name}.safetensors", config, dtype)), name) for name in names(handoff)
    ]
    pair = ExpertSet(tuple(experts), handoff)
    arms: list[Arm] = [("pair", pair, sigmas)]
    arms += [(f"{e.name} alone", ExpertSet.single(e), sigmas) for e in experts]
    arms.append(("swapped", pair.swapped(), sigmas))
    for extra in ("dense", "trunk"):
        if (folder / f"{extra}.safetensors").exists():
            model = load_expert(folder / f"{extra}.safetensors", config, dtype)
            arms.append((extra, ExpertSet.single(Expert(denoiser(model), extra)), sigmas))
    return arms


def study(
    folder: Path, config: PairConfig, *, count: int, steps: int, solver: str, out: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """Evaluate on `count` held-out clips, half of them in each mode and retargeted; writes result.json and strips.

    The pair alone is scored a second time on the characters' exact joints, which tells retargeting's part in the error.
    """
    out.mkdir(parents=True, exist_ok=True)
    codec = PatchCodec(config.codec)
    codec.load_state_dict(load_file(folder / "codec.safetensors"))
    arms = make_arms(folder, config, steps, torch.bfloat16)
    result: dict[str, Any] = {"clips": count, "steps": steps, "solver": solver, "config": asdict(config), "modes": {}}
    for mode in ("animate", "replace"):
        clips = [exam(i, codec, mode, False, torch.bfloat16) for i in range(count // 2)]
        result["modes"][mode] = score_arms(clips, codec, arms, solver, report, out / f"{mode}.png")
        clips = [exam(i, codec, mode, True, torch.bfloat16) for i in range(count // 2)]
        exact = score_arms(clips, codec, arms[:1], solver, report, out / f"{mode}-exact.png")
        result["modes"][mode] |= {f"{name}, exact joints": figures for name, figures in exact.items()}
        (out / "result.json").write_text(json.dumps(result, indent=1))
    return result


def score_arms(
    clips: list[Exam], codec: PatchCodec, arms: list[Arm], solver: str, report: Callable[[str], None], picture: Path
) -> dict[str, Any]:
    """Mean figures of every arm, and a picture of the first clips."""
    scores: dict[str, list[Score]] = {}
    shown: dict[str, dict[int, Bytes]] = {"truth": {i: e.take.truth.frames for i, e in enumerate(clips[:4])}}
    for name, i, figures, frames in evaluate(clips, codec, arms, solver, 4, report):
        scores.setdefault(name, []).append(figures)
        if i < 4:
            shown.setdefault(name, {})[i] = frames
    save_strip(picture, shown)
    return {name: summary(s) | {"each": [asdict(one) for one in s]} for name, s in scores.items()}


def save_strip(path: Path, shown: dict[str, dict[int, Bytes]]) -> None:
    """Rows of stills: for every arm, three moments of each clip, side by side."""
    rows = []
    for name, clips in shown.items():
        stills = [frames[t] for frames in clips.values() for t in (4, 12, 20)]
        row = np.concatenate(stills, axis=1)
        label = np.full((14, row.shape[1], 3), 255, np.uint8)
        cv2.putText(label, name, (4, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (20, 20, 20), 1, cv2.LINE_AA)
        rows += [label, row]
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))
