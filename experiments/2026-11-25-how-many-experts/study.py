"""How many experts? Films clips once, trains every run of every seed, and samples every arm; see README.md.

    PYTHONPATH=src python experiments/2026-11-25-how-many-experts/study.py FOLDER --size cpu

It may be stopped at any moment, by Ctrl-C, by `--minutes` or by kill -9, and goes on when it is given again: a job
whose result is there is skipped, a run that was stopped goes on from its checkpoints, bit for bit. report.py makes
tables and plots of what there is.
"""

import argparse
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from jobs import baselines, prepare, run_file, sample_file, sample_set, say, train_run, weights_file
from plan import SIZES, Part, Size, runs, samples

from pasdedeux.train.pair import Paused


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something a worker does: its result, and the results it needs."""

    work: Callable[[Path, str, int, str, float], bool]
    seed: int
    name: str
    result: Path
    needs: tuple[Path, ...] = ()


def jobs(folder: Path, size: Size, seeds: int) -> list[Job]:
    """Everything there is to do, seed by seed, so that what is done first is complete; extra runs come last."""
    return [
        job
        for extra in (False, True)
        for seed in range(min(seeds, size.extra_seeds) if extra else seeds)
        for job in (*training(folder, size, seed, extra), *sampling(folder, size, seed, extra))
    ]


def training(folder: Path, size: Size, seed: int, extra: bool) -> list[Job]:
    """The runs of a seed."""
    return [
        Job(
            work=train_run,
            seed=seed,
            name=run.name,
            result=run_file(folder, seed, run.name),
            needs=(weights_file(folder, seed, trunk_of(run.trunk)),) if run.trunk else (),
        )
        for run in runs(size)
        if run.extra == extra
    ]


def trunk_of(trunk: tuple[str, str, int]) -> Part:
    """Where a run starts from."""
    run, expert, mark = trunk
    return Part(run=run, expert=expert, mark=mark)


def sampling(folder: Path, size: Size, seed: int, extra: bool) -> list[Job]:
    """The sets of a seed that are sampled."""
    return [
        Job(
            work=sample_set,
            seed=seed,
            name=sample.key,
            result=sample_file(folder, seed, sample.key),
            needs=tuple({weights_file(folder, seed, part) for part in sample.parts}),
        )
        for sample in samples(size)
        if sample.extra == extra
    ]


def work_off(folder: Path, size: Size, todo: list[Job], workers: int, end: float) -> bool:
    """Carry out jobs by several processes, those whose needs are met in order; whether all are done."""
    running: dict[Future[bool], Job] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=leave_interrupts) as pool:
        while todo or running:
            ready = [job for job in todo if all(path.exists() for path in job.needs)]
            for job in ready[: workers - len(running)] if time.time() < end else []:
                todo.remove(job)
                running[pool.submit(job.work, folder, size.name, job.seed, job.name, end)] = job
            if not running:
                return False
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                if future.result():
                    say(f"done: s{job.seed} {job.name}; {len(todo) + len(running)} left")
    return all(job.result.exists() for job in jobs(folder, size, size.seeds))


def leave_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; workers are ended by their parent."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """As far as the minutes reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--seeds", type=int, help="fewer or more than the size's")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e6)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    size, end = SIZES[options.size], time.time() + 60 * options.minutes
    folder: Path = options.folder
    try:
        prepare(folder, size, options.workers, end)
        baselines(folder, size)
        todo = [job for job in jobs(folder, size, options.seeds or size.seeds) if not job.result.exists()]
        say(f"{len(todo)} jobs to do")
        finished = work_off(folder, size, todo, options.workers, end)
    except Paused:
        finished = False
    say("done" if finished else "stopped; give the same command again")


if __name__ == "__main__":
    main()
