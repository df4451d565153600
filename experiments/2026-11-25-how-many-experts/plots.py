"""The study's pictures: losses by noise level, losses over steps, and what an arm gains over one expert."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from gather import Study
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from plan import GROUPS, SHIFT, Arm, Part, arms

from pasdedeux.train.bands import equal_bounds

COLOURS = ("#111827", "#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#a16207", "#6b7280", "#db2777", "#0891b2")
STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def draw_all(study: Study, out: Path) -> None:
    """Every plot that what is there allows."""
    with mpl.rc_context(STYLE):
        for name, draw in (("levels", levels), ("gains", gains), ("four", four), ("cross", cross)):
            figure = Figure(figsize=(9, 4.4), dpi=140, layout="constrained")
            if draw(study, figure):
                FigureCanvasAgg(figure).print_png(str(out / f"{name}.png"))


def over_levels(axes: Axes, study: Study) -> np.ndarray:
    """An axis of noise levels as they are drawn; gives the bins' places."""
    edges = study.edges
    count = len(edges) - 1
    ticks = np.linspace(0, 1, 9)
    axes.set_xticks(ticks, [f"{np.interp(t * count, range(count + 1), edges):.3f}" for t in ticks])
    axes.set_xlabel("noise level σ, spaced as it is drawn")
    return (np.arange(count) + 0.5) / count


def by_seed(study: Study, arm: Arm) -> dict[int, np.ndarray]:
    """[bins] mean losses of a set, by seed."""
    every = {seed: study.arm(seed, arm) for seed in study.seeds}
    return {seed: losses.mean(0) for seed, losses in every.items() if losses is not None}


def levels(study: Study, figure: Figure) -> bool:
    """Loss by noise level, both budgets."""
    panels = figure.subplots(1, 2, sharey=True)
    for axes, group in zip(panels, (GROUPS.equal_total, GROUPS.equal_each), strict=True):
        places = over_levels(axes, study)
        for k, arm in enumerate(a for a in arms(study.size) if a.group == group):
            if found := by_seed(study, arm):
                axes.plot(places, np.mean(list(found.values()), 0), color=COLOURS[k % 9], label=arm.name, marker=".")
        axes.set_title(group, loc="left")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7)
    panels[0].set_ylabel("held-out loss")
    return True


def gains(study: Study, figure: Figure) -> bool:
    """What each arm's loss is below that of one expert, by noise level; a thin line for each seed."""
    panels = figure.subplots(1, 2, sharey=True)
    for axes, group, base in zip(panels, (GROUPS.equal_total, GROUPS.equal_each), ("one", "one, 2T"), strict=True):
        own = {arm.name: arm for arm in arms(study.size) if arm.group == group}
        theirs = by_seed(study, own[base])
        places = over_levels(axes, study)
        axes.axhline(0, color="black", linewidth=0.8)
        for k, (name, arm) in enumerate(own.items()):
            found = {s: v - theirs[s] for s, v in by_seed(study, arm).items() if s in theirs}
            if name == base or not found:
                continue
            axes.plot(places, np.mean(list(found.values()), 0), color=COLOURS[k % 9], label=name, marker=".")
            for values in found.values():
                axes.plot(places, values, color=COLOURS[k % 9], linewidth=0.5, alpha=0.5)
        axes.set_title(f"{group}: minus {base}", loc="left")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7)
    panels[0].set_ylabel("held-out loss minus that of one expert")
    return True


def four(study: Study, figure: Figure) -> bool:
    """The reference's four curves: loss over steps per expert."""
    axes = figure.subplots()
    t = study.size.steps
    marks = [t * k // 8 for k in range(1, 9)]
    kinds = {
        "dense": (("one", "all"), ("one", "all")),
        "dense + new high": (("two", "high"), ("one", "all")),
        "dense + new low": (("one", "all"), ("two", "low")),
        "new pair": (("two", "high"), ("two", "low")),
    }
    for k, (name, pair) in enumerate(kinds.items()):
        curves = []
        for seed in study.seeds:
            points = [
                study.arm(
                    seed,
                    Arm(
                        name=name,
                        group="",
                        parts=tuple(Part(run=r, expert=e, mark=mark) for r, e in pair),
                        bounds=equal_bounds(2, SHIFT),
                        budget=2,
                    ),
                )
                for mark in marks
            ]
            if all(point is not None for point in points):
                curves.append([float(point.mean()) for point in points])  # type: ignore[union-attr]
        if not curves:
            return False
        axes.plot(marks, np.mean(curves, 0), color=COLOURS[k], label=name, marker=".")
        for one in curves:
            axes.plot(marks, one, color=COLOURS[k], linewidth=0.5, alpha=0.5)
    axes.set_xlabel("steps of each expert")
    axes.set_ylabel("held-out loss over all noise levels")
    axes.legend(frameon=False)
    return True


def cross(study: Study, figure: Figure) -> bool:
    """Each expert of the pair over the whole range, beside one expert of as many steps."""
    axes = figure.subplots()
    places = over_levels(axes, study)
    t, drawn = study.size.steps, False
    for k, (run, expert, name) in enumerate((("one", "all", "one"), ("two", "high", "high"), ("two", "low", "low"))):
        every = [study.losses(seed, Part(run=run, expert=expert, mark=t)) for seed in study.seeds]
        known = [losses.mean(0) for losses in every if losses is not None]
        if known:
            drawn = True
            axes.plot(places, np.mean(known, 0), color=COLOURS[k], label=f"{name}, {t} steps", marker=".")
            for one in known:
                axes.plot(places, one, color=COLOURS[k], linewidth=0.5, alpha=0.5)
    axes.axvline(0.5, color="black", linestyle=":", linewidth=1, label="where they were parted")
    axes.set_ylabel("held-out loss")
    axes.legend(frameon=False)
    return drawn
