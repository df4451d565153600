"""How far retargeted joints lie from the truth: one puppet's performance against another puppet's doing the same.

Run after an installation with `.[evaluate]`; writes result.json beside this file. Arguments: the first seed and how
many pairs (default 800000 and 40; the rules were chosen on seeds from 700000 on).
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pasdedeux.animate.inputs import InputError, Keypoints
from pasdedeux.animate.preprocess.placement import unfitted
from pasdedeux.animate.preprocess.retarget import retarget
from pasdedeux.animate.preprocess.retarget_wan import retarget_wan
from pasdedeux.engine import source_commit
from pasdedeux.engine.sources import joints
from pasdedeux.puppets import Character, Choreography, Light, Place, Poses, render

HERE = Path(__file__).parent
FRAMES, FPS, SIDE = 33, 12.0, 64
GROUPS = {
    "head": [0, 14, 15, 16, 17],
    "shoulders": [2, 5],
    "arms": [3, 4, 6, 7],
    "hips": [8, 11],
    "legs": [9, 10, 12, 13],
    "feet": [18, 19],
}
SEEN, PCK = 0.5, 0.1


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A performance, the character's picture, and the same performance done by the character, in its picture."""

    performance: Keypoints
    character: Keypoints
    truth: Keypoints
    torso: float


@dataclass(frozen=True, kw_only=True)
class Setting:
    """By which points it is framed (none: whole), how it begins, and what the character's picture shows."""

    framed: tuple[int, ...] = ()
    standing: bool = False
    any_pose: bool = False


SETTINGS = {
    "full body": Setting(),
    "full body, first frame standing": Setting(standing=True),
    "full body, character in any pose": Setting(any_pose=True),
    "half body": Setting(framed=(0, 2, 5, 8, 11, 16, 17)),
    "close-up": Setting(framed=(0, 2, 5, 16, 17)),
}
RULES: dict[str, Callable[[Keypoints, Keypoints], Keypoints]] = {
    "none": lambda performance, character: unfitted(performance, character.size)[0],
    "wan": retarget_wan,
    "ours": retarget,
}


def pair(seed: int, setting: Setting) -> Pair:
    """One choreography by two puppets; views are not known, as with real pictures."""
    performer, character = Character.from_seed(2 * seed), Character.from_seed(2 * seed + 1)
    poses = Choreography.from_seed(seed).poses(FRAMES, FPS, start=0.0)
    if setting.standing:
        poses = _joined(Poses.reference(seed), poses)
    shown = Poses.reference(seed + 1)
    if setting.any_pose:
        shown = Choreography.from_seed(seed + 50).poses(1, FPS, start=3.0)
    theirs, truth, own = (
        _points(who, what) for who, what in ((performer, poses), (character, poses), (character, shown))
    )
    torso = float(np.linalg.norm(own.body[0, 1, :2] - own.body[0, [8, 11], :2].mean(axis=0)))
    if setting.framed:
        rng = np.random.default_rng(seed)
        stand = _points(performer, Poses.reference(seed))
        theirs = _seen_through(theirs, _window(stand, setting.framed, rng))
        window = _window(own, setting.framed, rng)
        truth, own, torso = _seen_through(truth, window), _seen_through(own, window), torso * SIDE / window[2]
    return Pair(performance=theirs, character=own, truth=truth, torso=torso)


def _joined(first: Poses, then: Poses) -> Poses:
    names = first.__dataclass_fields__
    return Poses(**{name: np.concatenate([getattr(first, name), getattr(then, name)]) for name in names})


def _points(who: Character, poses: Poses) -> Keypoints:
    nowhere = np.zeros((SIDE, SIDE, 3), np.uint8)
    clip = render(who, poses, Place.from_seed(0), Light.from_seed(0), (SIDE, SIDE), background=nowhere)
    return replace(joints(clip), view=None)


def _window(points: Keypoints, framed: tuple[int, ...], rng: np.random.Generator) -> tuple[float, float, float]:
    """Left, top and side of a square round points of the first frame, with room for a cameraman's taste."""
    places = points.body[0, list(framed), :2]
    side = float(np.ptp(places, axis=0).max()) * rng.uniform(1.5, 1.9)
    middle = places.min(axis=0) + np.ptp(places, axis=0) / 2 + side * rng.uniform(-0.05, 0.05, 2)
    return float(middle[0] - side / 2), float(middle[1] - side / 2), side


def _seen_through(points: Keypoints, window: tuple[float, float, float]) -> Keypoints:
    left, top, side = window
    factor = SIDE / side
    moved = points.moved((factor, factor), (-left * factor, -top * factor), (SIDE, SIDE))

    def inside(part: np.ndarray) -> np.ndarray:
        within = ((part[..., :2] >= 0) & (part[..., :2] < SIDE)).all(axis=-1)
        return np.concatenate([part[..., :2], part[..., 2:] * within[..., None]], axis=-1)

    return replace(moved, body=inside(moved.body), hands=inside(moved.hands), face=inside(moved.face))


def errors(pair: Pair, result: Keypoints) -> dict[str, float]:
    """In % of the torso; `placed` as it lies, all else without the clip's mean offset, which no rule can know.

    Of points that truth, performance and result show; `missed` are those in % that the result does not show.
    """
    parts = {"body": (result.body, pair.truth.body, pair.performance.body)}
    shift = _offset(*parts["body"])
    groups = {name: tuple(a[:, index] for a in parts["body"]) for name, index in GROUPS.items()}
    groups["hands"] = tuple(p.reshape(len(p), -1, 3) for p in (result.hands, pair.truth.hands, pair.performance.hands))
    groups["face"] = tuple(p[:, :68] for p in (result.face, pair.truth.face, pair.performance.face))
    away = _away(*parts["body"], shift) / pair.torso
    found = {"body": 100 * float(away.mean()), "pck": float((away <= PCK).mean())}
    shown = (result.body[..., 2] >= SEEN)[_both(*parts["body"][1:])]
    found["missed"] = 100 * float(1 - shown.mean())
    found["placed"] = 100 * float((_away(*parts["body"], np.zeros(2)) / pair.torso).mean())
    for name, group in groups.items():
        far = _away(*group, shift)
        if len(far):
            found[name] = 100 * float(far.mean() / pair.torso)
    return found


def _offset(result: np.ndarray, truth: np.ndarray, performance: np.ndarray) -> np.ndarray:
    both = _scored(result, truth, performance)
    return (result - truth)[both][:, :2].mean(axis=0)


def _away(result: np.ndarray, truth: np.ndarray, performance: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.linalg.norm((result - truth)[_scored(result, truth, performance)][:, :2] - shift, axis=-1)


def _scored(result: np.ndarray, truth: np.ndarray, performance: np.ndarray) -> np.ndarray:
    return _both(truth, performance) & (result[..., 2] >= SEEN)


def _both(truth: np.ndarray, performance: np.ndarray) -> np.ndarray:
    """Points that both the truth and the performance show."""
    return (truth[..., 2] >= SEEN) & (performance[..., 2] >= SEEN)


def study(first: int, count: int) -> dict[str, dict[str, dict[str, float]]]:
    """Means over pairs, by setting, rule and measure."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, setting in SETTINGS.items():
        rows: dict[str, list[dict[str, float]]] = {rule: [] for rule in RULES}
        for seed in range(first, first + count):
            one = pair(seed, setting)
            try:
                found = {rule: errors(one, fit(one.performance, one.character)) for rule, fit in RULES.items()}
            except InputError:
                continue
            for rule, row in found.items():
                rows[rule].append(row)
        table[name] = {rule: _means(found) for rule, found in rows.items()}
        for rule, row in table[name].items():
            print(f"{name:34} {rule:6}", *(f"{k} {v:.2f}" for k, v in row.items()))
    return table


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    means = {k: round(float(np.mean([row[k] for row in rows if k in row])), 3) for k in names}
    spread = np.std([row["body"] for row in rows], ddof=1) / np.sqrt(len(rows))
    return {**means, "n": len(rows), "body_error_of_mean": round(float(spread), 3)}


def main() -> None:
    """Measure, print and write."""
    first, count = (int(word) for word in (sys.argv[1:] or ("800000", "40")))
    result = {"commit": source_commit(), "first seed": first, "pairs": count, "settings": study(first, count)}
    (HERE / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
