"""Frames per second of the puppets' world, with one process and with one process per core: prints a table."""

import argparse
import multiprocessing
import os
import sys
import time

import cv2

from pasdedeux.puppets import Character, Choreography, Light, Place, render


def work(job: tuple[int, int, int, int]) -> tuple[int, float]:
    """Render `clips` clips of `frames` frames from `seed` on; returns the number of frames and the
    seconds they took.
    """
    seed, clips, frames, size = job
    cv2.setNumThreads(1)
    begin = time.perf_counter()
    for s in range(seed, seed + clips):
        poses = Choreography.from_seed(s).poses(frames, 12.0)
        render(Character.from_seed(s), poses, Place.from_seed(s), Light.from_seed(s), (size, size))
    return clips * frames, time.perf_counter() - begin


def measure(processes: int, clips: int, frames: int, size: int) -> float:
    """Frames per second of all processes together, start-up excluded."""
    jobs = [(1000 * p, clips, frames, size) for p in range(processes)]
    if processes == 1:
        results = [work(jobs[0])]
    else:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            results = pool.map(work, jobs, chunksize=1)
    return sum(count / seconds for count, seconds in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--frames", type=int, default=33)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    sys.stdout.write("| size | processes | frames/s | frames/s per process |\n| --- | --- | --- | --- |\n")
    for size in (128, 256):
        for processes in sorted({1, cores}):
            rate = measure(processes, options.clips, options.frames, size)
            sys.stdout.write(f"| {size} | {processes} | {rate:.0f} | {rate / processes:.0f} |\n")


if __name__ == "__main__":
    main()
