"""The one door for programs: open a model, run jobs, get frames and a report.

Frames leave as they are made: `write` hands each straight to the video file, `run` keeps them for
`Result.save`.
"""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.outputs import check_writable
from pasdedeux.animate.perform import Bytes, Denoised, perform
from pasdedeux.animate.segments import plan
from pasdedeux.animate.video_writer import COPIED, VideoWriter
from pasdedeux.engine.events import Event, Noted, OnEvent, Prepared
from pasdedeux.engine.job import Job, Result
from pasdedeux.engine.memory import Memory
from pasdedeux.engine.model import BUILTIN, Model, Rehearsal
from pasdedeux.engine.opening import open_model
from pasdedeux.engine.parts import Parts
from pasdedeux.engine.previews import Preview, Previews
from pasdedeux.engine.report import (
    MemoryRecord,
    Report,
    StepRecord,
    device_peak_bytes,
    device_peak_reset,
    handoff_steps,
    peak_bytes,
    versions,
)
from pasdedeux.engine.settings import Settings

STAGES = ("open", "prepare", "denoise", "decode", "write")

Stop = Callable[[], bool]


class Sink(Protocol):
    """Takes frames [H, W, 3] in order."""

    def write(self, frame: Bytes) -> None:
        """One more frame."""
        ...


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.frames: list[Bytes] = []

    def write(self, frame: Bytes) -> None:
        """One more frame."""
        self.frames.append(frame)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsed:
    """A job that is ready to be performed, and the seconds that took."""

    job: Job
    rehearsal: Rehearsal
    seconds: float

    @property
    def settings(self) -> Settings:
        """What was settled."""
        return self.rehearsal.settings

    def noted(self, notes: tuple[str, ...]) -> Self:
        """The same with more notes."""
        return replace(self, rehearsal=replace(self.rehearsal, notes=self.rehearsal.notes + notes))


class Stopwatch:
    """Seconds by stage: `lap` credits a stage with the time since the last one."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self._last = seconds, perf_counter()

    def lap(self, stage: str, minus: float = 0.0) -> None:
        """Credit `stage` with the time since the last lap, less `minus`, which has its own account."""
        now = perf_counter()
        self.credit(stage, now - self._last - minus)
        self._last = now

    def credit(self, stage: str, seconds: float) -> None:
        """Add to a stage's account."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + max(seconds, 0.0)


class Engine:
    """A loaded model. Use it in a `with` block, or call `close`."""

    def __init__(self, model: Model, seconds: float = 0.0) -> None:
        self._model: Model | None = model
        self._opening = seconds

    @classmethod
    def open(
        cls,
        model: str | Path | None = BUILTIN,
        device: str | None = None,
        parts: Parts | None = None,
        memory: Memory | None = None,
    ) -> Self:
        """Open "builtin", a model folder or a checkpoint; `device` None takes CUDA where it is. Raises ValueError.

        `parts` are those of a Wan model that lie elsewhere, or all of them where `model` is None. `memory` is what its
        jobs may use; None: what is free.
        """
        began = perf_counter()
        name = None if model is None else str(model)
        return cls(open_model(name, device, parts, memory), perf_counter() - began)

    @property
    def model(self) -> Model:
        """What is loaded. Raises ValueError once the engine is closed."""
        if self._model is None:
            raise ValueError("The engine is closed; open it again to run a job.")
        return self._model

    def close(self) -> None:
        """Let go of the weights."""
        self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(
        self, job: Job, on_event: OnEvent | None = None, stop: Stop | None = None, *, previews: bool = False
    ) -> Result:
        """Make a clip and keep it in memory; `previews` keeps a few of its stages as well.

        `stop` is asked before every step, and Stopped is raised when it says so. Raises ValueError for a job
        that cannot be done.
        """
        ready, kept, pictures = self._rehearse(job, on_event), Kept(), Previews(wanted=previews)
        report = self._perform(ready, kept, on_event, stop, pictures)
        return Result(
            frames=np.stack(kept.frames),
            fps=ready.settings.fps,
            report=report,
            previews=pictures.taken(),
            audio=ready.rehearsal.audio,
            audio_start=ready.rehearsal.audio_start,
            metadata=_metadata(job),
        )

    def write(
        self,
        path: str | Path,
        job: Job,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
        *,
        previews: bool = False,
    ) -> tuple[Report, tuple[Preview, ...]]:
        """Make a clip straight into a video file, so that frames never pile up in memory; raises as `run`.

        Nothing is left under `path` unless the whole clip was made.
        """
        check_video_name(Path(path))
        ready, pictures = self._rehearse(job, on_event), Previews(wanted=previews)
        settings, sound = ready.settings, (ready.rehearsal.audio, ready.rehearsal.audio_start)
        with VideoWriter(Path(path), settings.fps, settings.size, *sound, _metadata(job)) as video:
            report = self._perform(ready.noted(video.notes), video, on_event, stop, pictures)
        return report, pictures.taken()

    def _rehearse(self, job: Job, on_event: OnEvent | None) -> Rehearsed:
        began, model = perf_counter(), self.model
        if job.model is not None and not _same(job.model, model.name):
            raise ValueError(f'The job asks for the model "{job.model}", but the engine holds "{model.name}".')
        rehearsal = model.rehearse(job, model.settle(job), on_event or _silent)
        return Rehearsed(job=job, rehearsal=rehearsal, seconds=perf_counter() - began)

    def _perform(
        self, ready: Rehearsed, sink: Sink, on_event: OnEvent | None, stop: Stop | None, pictures: Previews
    ) -> Report:
        model, told, said = self.model, on_event or _silent, list[str]()

        def tell(event: Event) -> None:
            if isinstance(event, Noted):
                said.append(event.note)
            told(event)

        device_peak_reset(model.device)
        tell(_prepared(ready))
        seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        seconds |= {"open": self._opening, "prepare": ready.seconds}
        watch, steps, sampling = Stopwatch(seconds), [], ready.settings.sampling()
        with ExitStack() as stack:
            playing = stack.enter_context(model.play(ready.rehearsal, tell))
            stage = playing.roomy(ready.rehearsal.stage)
            events = perform(stage, playing.experts, sampling, stop or (lambda: False))
            for event in stack.enter_context(closing(events)):
                if isinstance(event, Denoised):
                    watch.credit("denoise", event.step.seconds)
                    watch.lap("prepare", minus=event.step.seconds)
                    steps.append(StepRecord.of(event))
                    pictures.look(event)
                else:
                    watch.lap("decode")
                    for frame in event.frames:
                        sink.write(frame)
                    watch.lap("write")
                tell(event)
            pictures.develop(stage)
            watch.lap("decode")
        return _report(ready, model, tuple(steps), seconds, playing.record(), tuple(said))


def check_video_name(path: Path) -> None:
    """Raise InputError where no video could be written at `path`: before the work, not after it."""
    if path.suffix.lower() not in COPIED and not path.is_dir():
        raise InputError(f"{path} is no name for a video; it must end in one of {', '.join(COPIED)}.")
    check_writable(path)


def _silent(event: object) -> None:
    """Nobody is told."""


def _same(name: str, other: str) -> bool:
    return name == other or (BUILTIN not in (name, other) and Path(name).resolve() == Path(other).resolve())


def _prepared(ready: Rehearsed) -> Prepared:
    settings, frames = ready.settings, ready.rehearsal.stage.frames
    segments = len(plan(frames, settings.length, settings.overlap))
    return Prepared(frames=frames, segments=segments, settings=settings, notes=ready.rehearsal.notes)


def _report(
    ready: Rehearsed,
    model: Model,
    steps: tuple[StepRecord, ...],
    seconds: dict[str, float],
    memory: MemoryRecord | None,
    said: tuple[str, ...],
) -> Report:
    told = _prepared(ready)
    return Report(
        job={**asdict(ready.job), "lora": list(ready.job.lora)},
        settings={
            **asdict(ready.settings),
            "size": list(ready.settings.size),
            "handoff": list(ready.settings.handoff.bounds),
            "guidance": list(ready.settings.guidance),
            "frames": told.frames,
            "files": model.files,
        },
        model=model.name,
        device=model.device,
        experts=model.defaults.experts,
        steps=steps,
        handoffs=handoff_steps(steps),
        frames=told.frames,
        segments=told.segments,
        total_parameters=model.total_parameters,
        active_parameters=model.active_parameters,
        peak_bytes=peak_bytes(),
        device_peak_bytes=device_peak_bytes(model.device),
        seconds={stage: round(spent, 4) for stage, spent in seconds.items()},
        versions=versions(),
        memory=memory,
        notes=ready.rehearsal.notes + said,
    )


def _metadata(job: Job) -> dict[str, str]:
    return {"pasdedeux.job": job.to_json()}
