"""The study's pictures: losses by noise level, losses over steps, and what an arm gains over one expert."""

from collections.abc import Sequence
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

COLOURS = ("#111827", "#c2410c", "#1d4ed8", "#15803d")
OF_ARM = {
    "one": "#111827",
    "one, T": "#111827",
    "one, 2T": "#4b5563",
    "one, 3T": "#9ca3af",
    "one, 5T": "#d1d5db",
    "two": "#c2410c",
    "three": "#1d4ed8",
    "five": "#15803d",
    "two, random levels": "#7e22ce",
    "two, branched": "#d97706",
    "one of the pair's size": "#db2777",
}
SAME_TOTAL = {"two": "one, 2T", "three": "one, 3T", "five": "one, 5T", "two, random levels": "one, 2T"}
"""What an arm of budget B has had as many steps as."""
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
        for arm in (a for a in arms(study.size) if a.group == group):
            if found := by_seed(study, arm):
                axes.plot(places, np.mean(list(found.values()), 0), color=OF_ARM[arm.name], label=arm.name, marker=".")
        axes.set_title(group, loc="left")
    legend(figure, panels)
    panels[0].set_ylabel("held-out loss")
    return True


def gains(study: Study, figure: Figure) -> bool:
    """What each arm's loss is below that of one expert of as many steps, by noise level; a thin line for each seed."""
    panels = figure.subplots(1, 2, sharey=True)
    for axes, group in zip(panels, (GROUPS.equal_total, GROUPS.equal_each), strict=True):
        own = {arm.name: arm for arm in arms(study.size) if arm.group == group}
        places = over_levels(axes, study)
        axes.axhline(0, color="black", linewidth=0.8)
        for name, arm in own.items():
            base = "one" if group == GROUPS.equal_total else SAME_TOTAL.get(name)
            if base in (None, name):
                continue
            theirs = by_seed(study, own[base])
            found = {s: v - theirs[s] for s, v in by_seed(study, arm).items() if s in theirs}
            if not found:
                continue
            axes.plot(places, np.mean(list(found.values()), 0), color=OF_ARM[name], label=name, marker=".")
            for values in found.values():
                axes.plot(places, values, color=OF_ARM[name], linewidth=0.5, alpha=0.5)
        axes.set_title(group, loc="left")
    legend(figure, panels)
    panels[0].set_ylabel("held-out loss minus that of one expert\nof as many steps in all; below 0 is better")
    return True


def legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One for all panels, below them."""
    named = {name: line for axes in panels for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if named:
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)


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
