"""A report as a picture: the log-SNR over the steps, coloured by expert, and what was seen on the way."""

from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pasdedeux.engine import Preview, Report, StepRecord

COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#a16207")
GREY = "#6b7280"
STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def write_picture(report: Report, previews: tuple[Preview, ...], path: Path) -> None:
    """Draw the report's first segment into a PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 6.4), dpi=140, layout="constrained")
        columns = max(len(previews), 1)
        grid = figure.add_gridspec(2, columns, height_ratios=(3, 2.2))
        draw_curve(figure.add_subplot(grid[0, :]), report)
        for k, preview in enumerate(previews):
            draw_preview(figure.add_subplot(grid[1, k]), preview, colour_of(report, preview.expert))
        FigureCanvasAgg(figure).print_png(str(path))


def colour_of(report: Report, expert: str) -> str:
    """An expert's colour, the same in curve and previews."""
    return COLOURS[report.experts.index(expert) % len(COLOURS)]


def draw_curve(axes: Axes, report: Report) -> None:
    """Log-SNR at each step of the first segment; pure noise is minus infinity, and drawn at the bottom."""
    steps = [step for step in report.steps if step.segment == 0]
    seen = [step.log_snr for step in steps if step.log_snr is not None]
    floor = min(seen, default=0.0) - 1.5
    axes.plot([s.i + 1 for s in steps], [level_of(s, floor) for s in steps], color="#d1d5db", zorder=1)
    for name in report.experts:
        own = [s for s in steps if s.expert == name]
        label = f"{name}: {len(own)} step{'' if len(own) == 1 else 's'}"
        spot = {"color": colour_of(report, name), "label": label, "zorder": 2, "s": 46}
        axes.scatter([s.i + 1 for s in own], [level_of(s, floor) for s in own], **spot)
    if len(seen) < len(steps):
        note(axes, "−∞", (1, floor), (10, -2), "left")
    mark_handoffs(axes, report, steps, floor)
    axes.set_xlabel("step")
    axes.set_ylabel("log-SNR")
    axes.set_xticks([s.i + 1 for s in steps][:: max(len(steps) // 20, 1)])
    axes.legend(frameon=False, loc="lower right")
    axes.set_title(headline(report), loc="left", fontsize=11)


def level_of(step: StepRecord, floor: float) -> float:
    """Where a step is drawn."""
    return floor if step.log_snr is None else step.log_snr


def mark_handoffs(axes: Axes, report: Report, steps: list[StepRecord], floor: float) -> None:
    """A dashed line before each step at which a next expert took over."""
    for i in report.handoffs:
        axes.axvline(i + 0.5, color=GREY, linestyle="--", linewidth=1, zorder=0)
        bound = report.settings["handoff"][report.experts.index(steps[i].expert) - 1]
        text = f"handoff at σ {bound:g}: {steps[i - 1].expert} → {steps[i].expert}"
        # On the side where there is room.
        offset, side = ((-8, -4), "right") if 2 * i > len(steps) else ((8, -4), "left")
        note(axes, text, (i + 0.5, max(level_of(s, floor) for s in steps)), offset, side)


def note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[int, int], side: Literal["left", "right"]
) -> None:
    """Small grey text beside a point; `side` is where the text's own end lies."""
    axes.annotate(text, at, offset, textcoords="offset points", color=GREY, fontsize=9, ha=side, va="center")


def headline(report: Report) -> str:
    """The clip in one line."""
    width, height = report.settings["size"]
    clip = f"{report.frames} frames of {width}x{height}"
    steps = f"{report.settings['steps']} steps of {report.settings['solver']}"
    which = f" (first of {report.segments} segments)" if report.segments > 1 else ""
    return f"{clip}, {steps}{which}"


def draw_preview(axes: Axes, preview: Preview, colour: str) -> None:
    """The clean picture a step predicted, or the noise it left, framed in its expert's colour."""
    axes.imshow(preview.frame, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=2.5)
    what = "noise after " if preview.noisy else ""
    axes.set_title(f"{what}step {preview.i + 1}, {preview.expert}", fontsize=10, color=colour)
    axes.set_xlabel(f"σ {preview.sigma:.3f}", fontsize=9, color=GREY)
