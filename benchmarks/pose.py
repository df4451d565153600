"""How steadily and how fast the person in a video is followed, beside MediaPipe's own two ways.

Tremble is the mean length of second differences in pixels over frames in which a point is seen three times in a row.
Lag is the shift in time at which the wrists' motion fits that of the static mode best, which looks at each frame afresh
and so cannot be late. Seen is the share of frames.

Run: python benchmarks/pose.py video.mp4
"""

import argparse
import contextlib
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pasdedeux.animate.inputs import Keypoints
from pasdedeux.animate.preprocess.graphs import MEDIAPIPE, Look, mediapipe, points_of, silence
from pasdedeux.animate.preprocess.holistic import HolisticDetector, sighting
from pasdedeux.animate.preprocess.people import BlazeFinder
from pasdedeux.animate.preprocess.plausible import believe
from pasdedeux.animate.preprocess.smooth import smooth
from pasdedeux.animate.preprocess.tracking import choose, survey
from pasdedeux.animate.video import probe, read_video

RESULTS = Path(__file__).parent / "results"
SEEN = 0.5
PARTS: dict[str, Callable[[Keypoints], np.ndarray]] = {
    "shoulders": lambda keypoints: keypoints.body[:, [2, 5]],
    "wrists": lambda keypoints: keypoints.body[:, [4, 7]],
    "hands": lambda keypoints: keypoints.hands.reshape(len(keypoints), -1, 3),
    "face": lambda keypoints: keypoints.face[:, :68],
}
UPPER = [0, 1, 2, 3, 4, 5, 6, 7]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """One way of looking: its points, and the seconds it took for all frames, by the clock and of the processor's."""

    name: str
    keypoints: Keypoints
    seconds: float
    work: float


def gathered(sightings: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]], size: tuple[int, int]) -> Keypoints:
    """Keypoints of one sighting (body, hands, face) per frame."""
    body, hands, face = (np.stack(part) for part in zip(*sightings, strict=True))
    return Keypoints(body=body, hands=hands, face=face, size=size)


def raw(
    frames: list[np.ndarray], *, still: bool, smoothed: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """MediaPipe Holistic as it comes, with the same gate as ours."""
    with silence():
        holistic = mediapipe().solutions.holistic.Holistic(
            static_image_mode=still,
            model_complexity=1,
            smooth_landmarks=smoothed,
            enable_segmentation=True,
            smooth_segmentation=not still,
            refine_face_landmarks=True,
        )
    with contextlib.closing(holistic):
        for frame in frames:
            with silence():
                answer = holistic.process(frame)
            size = (frame.shape[1], frame.shape[0])
            pose, left, right, face = (
                None if found is None else points_of(found, size)
                for found in (
                    answer.pose_landmarks,
                    answer.left_hand_landmarks,
                    answer.right_hand_landmarks,
                    answer.face_landmarks,
                )
            )
            seen = sighting(Look(pose=pose, left_hand=left, right_hand=right, face=face), size)
            yield seen.body, seen.hands, seen.face


def ours(frames: list[np.ndarray], fps: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The project's own way without what comes after: one person found, chosen and watched."""
    with contextlib.closing(BlazeFinder()) as finder:
        chosen = choose(survey(frames, finder, fps))
    for seen in HolisticDetector().watch(((frame, chosen.at(i)) for i, frame in enumerate(frames)), fps):
        yield seen.body, seen.hands, seen.face


def measure(frames: list[np.ndarray], fps: float) -> list[Row]:
    """Every way of looking at the same frames, one after the other."""
    size = (frames[0].shape[1], frames[0].shape[0])
    ways = {
        "mediapipe, static mode": lambda: raw(frames, still=True, smoothed=False),
        "mediapipe, video mode, smoothing off": lambda: raw(frames, still=False, smoothed=False),
        "mediapipe, video mode, smoothing on": lambda: raw(frames, still=False, smoothed=True),
        "ours, as detected": lambda: ours(frames, fps),
    }
    rows = [_timed(name, lambda way=way: gathered(way(), size)) for name, way in ways.items()]
    last = rows[-1]
    steady = _timed("", lambda: smooth(believe(last.keypoints, fps).keypoints, fps))
    after = {"seconds": last.seconds + steady.seconds, "work": last.work + steady.work}
    return [*rows, Row(name="ours, believed and smoothed", keypoints=steady.keypoints, **after)]


def _timed(name: str, way: Callable[[], Keypoints]) -> Row:
    clock, work = time.perf_counter(), time.process_time()
    keypoints = way()
    return Row(name=name, keypoints=keypoints, seconds=time.perf_counter() - clock, work=time.process_time() - work)


def apart(points: np.ndarray, truth: np.ndarray) -> float:
    """The mean distance of points [T, N, 3] from others in pixels, where both are seen."""
    both = (points[..., 2] >= SEEN) & (truth[..., 2] >= SEEN)
    return float(np.linalg.norm((points - truth)[..., :2], axis=-1)[both].mean())


def tremble(points: np.ndarray) -> float:
    """The mean second difference of points [T, N, 3] in pixels."""
    seen = points[..., 2] >= SEEN
    three = seen[:-2] & seen[1:-1] & seen[2:]
    bends = np.linalg.norm(np.diff(points[..., :2].astype(np.float64), 2, axis=0), axis=-1)
    return float(bends[three].mean()) if three.any() else float("nan")


def lag(points: np.ndarray, truth: np.ndarray, reach: int = 4) -> float:
    """By how many frames tracks [T, N, 3] are behind others: where their velocities go together best.

    Correlations at whole frames, and the top of the parabola through the best three: frames in between would have to be
    interpolated, which smooths, and so would win by itself.
    """
    shifts = range(-reach, reach + 1)
    fits = [
        float(np.nanmean([_fit(a, b, shift) for a, b in zip(_speeds(points), _speeds(truth), strict=True)]))
        for shift in shifts
    ]
    best = min(max(int(np.argmax(fits)), 1), 2 * reach - 1)
    before, top, after = fits[best - 1 : best + 2]
    return best - reach + (before - after) / (2 * (before - 2 * top + after))


def _speeds(points: np.ndarray) -> Iterator[np.ndarray]:
    """Of each track [T, 3], per frame [T-1, 2]; NaN where it is not seen."""
    for track in points.transpose(1, 0, 2):
        yield np.diff(np.where(track[:, 2:] >= SEEN, track[:, :2], np.nan), axis=0)


def _fit(late: np.ndarray, truth: np.ndarray, shift: int) -> float:
    """The correlation of a velocity [T, 2] with another `shift` frames earlier, both known."""
    a, b = late[max(shift, 0) : len(late) + min(shift, 0)], truth[max(-shift, 0) : len(truth) + min(-shift, 0)]
    known = np.isfinite(a) & np.isfinite(b)
    return float(np.corrcoef(a[known], b[known])[0, 1]) if known.sum() > 10 else float("nan")


def seen_share(row: Row) -> list[float]:
    """The share of frames in which all of the upper body, the left hand, the right hand and the face are seen."""
    keypoints = row.keypoints
    parts = (keypoints.body[:, UPPER], keypoints.hands[:, 0], keypoints.hands[:, 1], keypoints.face)
    return [float((part[..., 2] >= SEEN).all(axis=1).mean()) for part in parts]


def cells(row: Row, truth: Keypoints) -> str:
    """A line of the table."""
    shake = " | ".join(f"{tremble(part(row.keypoints)):.2f}" for part in PARTS.values())
    wrists = PARTS["wrists"](row.keypoints), PARTS["wrists"](truth)
    seen = " | ".join(f"{100 * share:.0f}" for share in seen_share(row))
    spent = f"{1e3 * row.seconds / len(truth):.0f} | {1e3 * row.work / len(truth):.0f}"
    return f"| {row.name} | {shake} | {lag(*wrists):+.2f} | {apart(*wrists):.1f} | {seen} | {spent} |"


def commit() -> str:
    """The commit this was measured at, marked where the tree had changes."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def report(args: argparse.Namespace, rows: list[Row], fps: float) -> str:
    """The record as Markdown: what was measured, where, and the table."""
    width, height = rows[0].keypoints.size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    truth = rows[0].keypoints
    lines = [
        f"# Pose on {platform.machine()} CPU",
        "",
        f"- {datetime.now(UTC):%Y-%m-%d}, commit {commit()}, {MEDIAPIPE}",
        f"- {args.video.name}: {width}x{height}, {len(truth)} frames at {fps:g} a second; one run; peak {peak:.2f} GiB "
        "with all frames held",
        f"- `python benchmarks/pose.py {shlex.join(sys.argv[1:])}`",
        "- tremble: mean second difference in px; lag in frames and mean distance in px from the static mode's wrists; "
        "seen in % of frames; ours includes finding people",
        "",
        "| | tremble: "
        + " | ".join(PARTS)
        + " | lag | apart | seen: body | left hand | right hand | face | ms per frame | of CPU |",
        "| --- |" + " --- |" * 12,
        *(cells(row, truth) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def save(text: str) -> Path:
    """Write the record to benchmarks/results under the date."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"pose_cpu_{datetime.now(UTC):%Y-%m-%d}.md"
    path.write_text(text)
    return path


def main() -> None:
    """Measure, print the table, and with --save keep it."""
    parser = argparse.ArgumentParser(description="Steadiness, lag and speed of pose detection on a video.")
    parser.add_argument("video", type=Path)
    parser.add_argument("--side", type=int, default=1280, help="longer side the frames are scaled to, at most")
    parser.add_argument("--frames", type=int, default=150, help="most frames to look at")
    parser.add_argument("--save", action="store_true", help="also write results/pose_cpu_<date>.md")
    args = parser.parse_args()
    info = probe(args.video)
    scale = min(1.0, args.side / max(info.width, info.height))
    size = (round(info.width * scale), round(info.height * scale))
    frames = [np.ascontiguousarray(frame) for frame in read_video(args.video, size=size, max_frames=args.frames)]
    text = report(args, measure(frames, info.fps), info.fps)
    sys.stdout.write(text)
    if args.save:
        sys.stdout.write(f"\nwritten to {save(text)}\n")


if __name__ == "__main__":
    main()
