"""`pasdedeux animate` and `generate`: a job into a video file, with progress, a clean stop, a report if wanted."""

from collections.abc import Iterator
from pathlib import Path

import typer
from rich.console import Console

from pasdedeux.animate.outputs import check_writable, written_whole
from pasdedeux.animate.perform import Stopped
from pasdedeux.apps.faults import STOPPED
from pasdedeux.apps.interrupt import Interrupt
from pasdedeux.apps.progress import ProgressLine
from pasdedeux.engine import Engine, Event, Job, Memory, Parts, Prepared, Preview, Report, check_video_name
from pasdedeux.engine.memory import in_gb


def make_file(
    job: Job,
    output: Path,
    *,
    device: str | None = None,
    report: Path | None = None,
    parts: Parts | None = None,
    memory: Memory | None = None,
) -> None:
    """Make the clip and say what was made. ValueError for the user's faults, typer.Exit(130) when stopped."""
    check_video_name(output)
    if report is not None:
        check_report_name(report)
    try:
        made, previews = perform_job(job, output, device, parts, memory, previews=report is not None)
    except (Stopped, KeyboardInterrupt) as error:
        typer.echo(f"Stopped; {output} was not written.", err=True)
        raise typer.Exit(STOPPED) from error
    typer.echo(summary(made, output))
    if report is not None:
        write_report(made, previews, report)


def perform_job(
    job: Job, output: Path, device: str | None, parts: Parts | None, memory: Memory | None, *, previews: bool
) -> tuple[Report, tuple[Preview, ...]]:
    """Run the job with a progress line on stderr; Ctrl-C stops within one step."""
    with Interrupt() as stop, ProgressLine(Console(stderr=True)) as shown:

        def on_event(event: Event) -> None:
            stop.gentle = stop.gentle or isinstance(event, Prepared)
            shown.show(event)

        with Engine.open(job.model, device, parts, memory) as engine:
            return engine.write(output, job, on_event, stop, previews=previews)


def check_report_name(path: Path) -> None:
    """Raise ValueError where the report could not be written, before the work is done."""
    if path.suffix.lower() != ".json":
        raise ValueError(f"The report is to be {path}; its name must end in .json (a .png goes beside it).")
    check_writable(path)
    check_writable(path.with_suffix(".png"))


def write_report(report: Report, previews: tuple[Preview, ...], path: Path) -> None:
    """The report as JSON, and its picture beside it."""
    from pasdedeux.apps.picture import write_picture

    picture = path.with_suffix(".png")
    try:
        with written_whole(path) as part:
            part.write_text(report.to_json(), encoding="utf-8")
        with written_whole(picture) as part:
            write_picture(report, previews, part)
    except OSError as error:
        raise ValueError(f"The report {path} could not be written: {error.strerror or error}.") from error


def summary(report: Report, output: Path) -> str:
    """What was made, in a few lines."""
    width, height = report.settings["size"]
    seconds, fps = sum(report.seconds.values()), report.settings["fps"]
    frames = "1 frame" if report.frames == 1 else f"{report.frames} frames"
    clip = f"{output}: {frames} of {width}x{height} at {fps:g} fps in {seconds:.1f} s"
    first = [step for step in report.steps if step.segment == 0]
    shares = ", ".join(f"{name} {sum(step.expert == name for step in first)}" for name in report.experts)
    active, total = report.active_parameters / 1e6, report.total_parameters / 1e6
    share = f"steps per expert: {shares}; {active:.1f} of {total:.1f} million parameters per step"
    return "\n".join((clip, share, *memory_line(report)))


def memory_line(report: Report) -> Iterator[str]:
    """What memory it took beside what was foretold, where that was."""
    if report.memory is None:
        return
    peak = report.peak_bytes if report.device_peak_bytes is None else report.device_peak_bytes
    said = f"memory: {in_gb(peak)} at most, {in_gb(report.memory.foretold_peak)} foretold"
    if report.memory.moved:
        said += f"; {in_gb(report.memory.moved)} of weights came and went, waited for {report.memory.waited:.1f} s"
    yield said
