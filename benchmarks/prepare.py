"""How fast a driver is prepared, pass by pass, what share of a whole job that is, and that memory stays flat.

Speed: the driver, at 30 frames a second, once more for every repeat, with an empty cache: frames per second of each
pass over it, with what leads up to it; drawing and writing are those of Wan-Animate's pose and face at 720p. The share
is that of preparation in `animate` with the built-in pair, at the pair's own rate. Memory: the driver, over and over
for `--looked` minutes, with all models; and a drawn puppet that drifts for `--given` minutes with its points given, so
that every pass but the two that look is made over all of it. Each part has its own process.

Without a driver the puppet takes its place, and nothing looks for it.

Run: python benchmarks/prepare.py [DRIVER] [--repeats 3] [--looked 2] [--given 10]
"""

import argparse
import multiprocessing
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import av
import cv2
import numpy as np

from pasdedeux.animate.condition.wan_drivers import Drivers
from pasdedeux.animate.inputs import Clip, Keypoints
from pasdedeux.animate.prepared import PreparedDriver, Wanted
from pasdedeux.animate.prepared_cache import PreparedCache
from pasdedeux.animate.preparing import prepare
from pasdedeux.animate.preprocess.detect import unknown_character
from pasdedeux.animate.preprocess.wholebody import save_keypoints
from pasdedeux.animate.video import frames_at
from pasdedeux.animate.wan_folder import write_wan_folder
from pasdedeux.checkpoints.families import FAMILIES
from pasdedeux.engine import Engine, Event, Found, Job, Preparation
from pasdedeux.engine.sources import Cast
from pasdedeux.engine.wan_stages import drivers_of
from pasdedeux.puppets import Character, Choreography, Light, Place, render

RESULTS = Path(__file__).parent / "results"
SIZE, FPS = (1920, 1080), 30
SEED, ONCE, DRIFT = 11, 300, 120
"""The puppet, the frames in which it drifts to and fro once, and by how many pixels."""
QUARTERS = (0.25, 0.5, 0.75, 1.0)
FAMILY = "wan2.2-animate-14b"
OUTPUT = (1280, 720)


@dataclass(kw_only=True)
class Watch:
    """When each pass began and ended, how many frames it had, and resident megabytes at its quarters."""

    began: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    resident: dict[str, list[float]] = field(default_factory=dict)
    last: float = field(default_factory=perf_counter)

    def tell(self, what: str, i: int, n: int) -> None:
        """Frame i of n of a pass is done."""
        self.began.setdefault(what, self.last)
        self.last = self.ended[what] = perf_counter()
        self.frames[what] = n
        if any(i == max(round(quarter * n), 1) for quarter in QUARTERS):
            self.resident.setdefault(what, []).append(resident("VmRSS"))

    def seconds(self) -> dict[str, float]:
        """Of each pass."""
        return {what: self.ended[what] - self.began[what] for what in self.ended}


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A clip that notes how long its pictures take."""

    clip: Clip
    taken: list[float]

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, index: list[int], /) -> np.ndarray:
        began = perf_counter()
        pictures = self.clip[index]
        self.taken.append(perf_counter() - began)
        return pictures


def resident(what: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM the most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


# Drivers


def looped(path: Path, pictures: Iterable[np.ndarray], seconds: float) -> Path:
    """A film of 1080p pictures, encoded once and shown again and again, as long as is wanted."""
    once = path.with_suffix(".once.mp4")
    with av.open(str(once), "w") as file:
        stream = file.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "bf": "0", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    with av.open(str(once)) as source, av.open(str(path), "w") as file:
        packets = [(bytes(packet), packet.is_keyframe) for packet in source.demux(video=0) if packet.size]
        stream = file.add_stream_from_template(source.streams.video[0])
        for i in range(round(seconds * FPS)):
            data, key = packets[i % len(packets)]
            packet = av.Packet(data)
            packet.pts = packet.dts = i
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, FPS), key
            file.mux(packet)
    return path


def puppet(folder: Path, seconds: float) -> tuple[Path, Path]:
    """A puppet that drifts to and fro in a 1080p film, and the file of its points."""
    clip = render(
        Character.from_seed(SEED),
        Choreography.from_seed(SEED).poses(1, 12.0, start=0),
        Place.from_seed(SEED),
        Light.from_seed(SEED),
        (480, 272),
    )
    scale = (SIZE[0] + 2 * DRIFT) / 480
    large = cv2.resize(clip.frames[0], None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    shifts = [round(DRIFT * (1 + np.sin(2 * np.pi * i / ONCE))) for i in range(ONCE)]
    film = looped(folder / "puppet.mp4", (large[: SIZE[1], s : s + SIZE[0]] for s in shifts), seconds)
    count = round(seconds * FPS)
    moved = np.array([shifts[i % ONCE] for i in range(count)], np.float32)
    parts = {name: np.repeat(getattr(clip, name), count, axis=0) for name in ("body", "hands", "face")}
    for part in parts.values():
        part[..., :2] *= scale
        part[..., 0] -= moved.reshape(-1, *[1] * (part.ndim - 2))
    points = Keypoints(body=parts["body"], hands=parts["hands"], face=parts["face"], size=SIZE)
    save_keypoints(folder / "puppet.npz", points, FPS)
    return film, folder / "puppet.npz"


def again(driver: Path, folder: Path, seconds: float) -> Path:
    """The driver over and over."""
    return looped(folder / "driver.mp4", frames_at(driver, FPS, size=SIZE), seconds)


# Measuring


def passes(wanted: Wanted, watch: Watch, folder: Path) -> dict[str, float]:
    """Prepare with an empty cache and write what Wan-Animate takes: seconds of each pass."""
    began = perf_counter()
    found = prepare(wanted, watch.tell, PreparedCache(folder=Path(tempfile.mkdtemp(dir=folder))))
    whole, told = perf_counter() - began, sum(watch.seconds().values())
    drawing: list[float] = []
    drivers = drivers_for(found)
    timed = replace(drivers, **{name: Timed(clip=getattr(drivers, name), taken=drawing) for name in ("pose", "face")})
    watch.last = perf_counter()
    target = Path(tempfile.mkdtemp(dir=folder))
    write_wan_folder(target, timed, found.fps, lambda i, n: watch.tell("writing", i, n), reference=False)
    found.close()
    seconds = watch.seconds()
    rest = {"points, records, overlay": whole - told, "drawing for Wan-Animate": sum(drawing)}
    return {**seconds, **rest, "writing": seconds["writing"] - sum(drawing)}


def drivers_for(found: PreparedDriver) -> Drivers:
    """Pose and face for Wan-Animate at 720p, without a character."""
    character = unknown_character(np.zeros((OUTPUT[1], OUTPUT[0], 3), np.uint8))
    cast = Cast(character=character, performance=found.performance(OUTPUT))
    return drivers_of(cast, Job(), FAMILIES[FAMILY])


def speed(driver: str | None, repeats: int) -> tuple[int, list[dict[str, float]]]:
    """The driver's frames, and seconds of each pass, of every repeat. The first is not counted: models load."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, points = (Path(driver), None) if driver else puppet(folder, 4)
        wanted = Wanted(driver=path, fps=FPS, keypoints=points)
        rows: list[dict[str, float]] = []
        frames = 0
        for _ in range(repeats + 1):
            watch = Watch()
            rows.append(passes(wanted, watch, folder))
            frames = max(frames, *(watch.frames[what] for what in watch.frames if what != "writing"))
        return frames, rows[1:]


def share(driver: str | None, repeats: int) -> list[tuple[float, float]]:
    """Seconds of preparation, and of the whole job with the built-in pair, by repeat."""
    rows: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name, Engine.open("builtin", "cpu") as engine:
        path, points = (Path(driver), None) if driver else puppet(Path(name), 4)
        given = Preparation(keypoints=None if points is None else str(points))
        job = Job(character="puppet:7", driver=str(path), preparation=given)
        for i in range(repeats + 1):
            os.environ["XDG_CACHE_HOME"] = f"{name}/cache{i}"
            rows.append(_timed(lambda tell, i=i: engine.write(Path(name) / f"{i}.mp4", job, tell)))
    return rows[1:]


def _timed(work: Callable[[Callable[[Event], None]], Any]) -> tuple[float, float]:
    found: list[float] = []
    began = perf_counter()
    work(lambda event: found.append(perf_counter() - began) if isinstance(event, Found) else None)
    return found[0], perf_counter() - began


def memory(driver: str | None, minutes: float) -> tuple[Watch, float]:
    """Resident megabytes at the quarters of each pass over a long driver, and the most; the puppet's without one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        points: Path | None = None
        if driver:
            path = again(Path(driver), folder, 60 * minutes)
        else:
            path, points = puppet(folder, 60 * minutes)
        Path("/proc/self/clear_refs").write_text("5")  # the most is counted from here: the film was made in here too
        watch = Watch()
        passes(Wanted(driver=path, fps=FPS, keypoints=points), watch, folder)
        return watch, resident("VmHWM")


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's answer from a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# Telling


def spread(values: Sequence[float]) -> str:
    """ "median (least to most)"."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def speed_table(frames: int, rows: list[dict[str, float]]) -> str:
    """Frames per second of each pass, and its share."""
    lines = [f"Speed, {frames} frames:", "", "| pass | frames a second | seconds |", "| --- | --- | --- |"]
    for what in rows[0]:
        seconds = [row[what] for row in rows]
        lines.append(f"| {what} | {spread([frames / s for s in seconds])} | {spread(seconds)} |")
    sums = [sum(row.values()) for row in rows]
    return "\n".join([*lines, f"| all | {spread([frames / s for s in sums])} | {spread(sums)} |"])


def share_line(rows: list[tuple[float, float]]) -> str:
    """The share of preparation in a job."""
    parts, wholes = zip(*rows, strict=True)
    shares = [100 * part / whole for part, whole in rows]
    whole = f"A whole job with the built-in pair, at its own rate, the model open: {spread(wholes)} s"
    return f"{whole}, of which preparation {spread(parts)} s, {spread(shares)} percent."


def memory_table(title: str, watch: Watch, most: float) -> str:
    """Megabytes at the quarters of each pass."""
    heads = "| pass | 1/4 | 1/2 | 3/4 | end |"
    lines = [f"Memory, {title}: resident megabytes; {most:.0f} at most.", "", heads, "| --- " * 5 + "|"]
    for what, values in watch.resident.items():
        lines.append(f"| {what}, {watch.frames[what]} | {' | '.join(f'{value:.0f}' for value in values)} |")
    growth = max((later - earlier for values in watch.resident.values() for earlier, later in pairwise(values)))
    return "\n".join([*lines, "", f"The most that a quarter of a pass added: {growth:.0f} MB."])


def heading(options: argparse.Namespace, today: str) -> str:
    """How the figures came about."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"# Preparing a driver, {platform.machine()} CPU, {os.cpu_count()} cores, {today}\n\n"
        f"`python benchmarks/prepare.py {shlex.join(sys.argv[1:])}` at commit {commit}; Python "
        f"{platform.python_version()}, OpenCV {cv2.__version__}, PyAV {av.__version__}; load of the machine at the "
        f"start: {load}.\nSpeed is the median (least to most) of n = {options.repeats} after one that is not counted; "
        "memory is measured once (n = 1).\n"
    )


def main() -> None:
    """Measure, print, and write after every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("driver", nargs="?", help="a video of somebody; default: a puppet, with its points given")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--looked", type=float, default=2.0, help="minutes in which the models look at all frames")
    parser.add_argument("--given", type=float, default=10.0, help="minutes in which points are given")
    options = parser.parse_args()
    today = datetime.now(UTC).date().isoformat()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"prepare_cpu_{today}.md"
    text = heading(options, today)
    parts: list[Callable[[], str]] = []
    if options.repeats:
        parts.append(lambda: speed_table(*alone(speed, options.driver, options.repeats)))
        parts.append(lambda: share_line(alone(share, options.driver, options.repeats)))
    if options.looked and options.driver:
        title = f"{options.looked:g} minutes of 1080p with all models"
        parts.append(lambda: memory_table(title, *alone(memory, options.driver, options.looked)))
    if options.given:
        long = f"{options.given:g} minutes of 1080p, points given in place of the two passes that look"
        parts.append(lambda: memory_table(long, *alone(memory, None, options.given)))
    for part in parts:
        figures = part()
        print(figures, flush=True)
        text += "\n" + figures + "\n"
        path.write_text(text, encoding="utf-8")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
