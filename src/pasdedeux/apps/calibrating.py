"""`pasdedeux evaluate --calibrate`: every expert's held-out loss at all noise levels, and the best handoff by it."""

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pasdedeux.animate.outputs import check_writable, written_whole
from pasdedeux.apps.evaluating import DENSE
from pasdedeux.apps.picture import COLOURS, GREY, STYLE
from pasdedeux.checkpoints.folder import load_expert
from pasdedeux.engine import DuetModel, model_folder, open_duet, source_commit, versions
from pasdedeux.train.calibrate import Calibration, calibrate, loss_under
from pasdedeux.train.heldout import Curve, curve, held_out

BINS, FRAMES = 32, 9


def write_calibration(
    folder: str, out: Path, say: Callable[[str], None], *, count: int = 64, device: str | None = None
) -> None:
    """Measure, say the best handoff beside the model's own, write the curves to `out` and a picture beside it.

    Raises ValueError for the user's faults.
    """
    if count < 1:
        raise ValueError(f"{count} clips: the number must be 1 or more.")
    if out.suffix.lower() != ".json":
        raise ValueError(f"The calibration is to be {out}; its name must end in .json (a .png goes beside it).")
    check_writable(out)
    model = open_duet(folder, device)
    if len(model.experts) < 2:
        raise ValueError(f"{folder} has one expert; a handoff is between two or more.")
    m = model.manifest
    held = held_out(model.codec, m.shift, count=count, frames=FRAMES, size=m.size[0], bins=BINS, dtype=m.compute)
    curves: dict[str, Curve] = {}
    for file, expert in zip(m.experts, model.experts, strict=True):
        curves[file.name] = curve(expert, held)
        say(f"{file.name}: held-out loss {curves[file.name].loss.mean():.4f} over all noise levels")
    found = calibrate(np.stack([c.loss for c in curves.values()]), held.edges)
    if (model_folder(folder) / DENSE.file).is_file():
        curves[DENSE.name] = curve(load_expert(model_folder(folder), m, DENSE, model.device), held)
    written = record(model, curves, found, held.edges, count)
    for line in told(written):
        say(line)
    with written_whole(out) as part:
        part.write_text(json.dumps(written, indent=1, allow_nan=False), encoding="utf-8")
    with written_whole(out.with_suffix(".png")) as part:
        draw(written, part)


def record(
    model: DuetModel, curves: dict[str, Curve], found: Calibration, edges: tuple[float, ...], count: int
) -> dict[str, Any]:
    """All that is written."""
    names = [file.name for file in model.manifest.experts]
    losses = np.stack([curves[name].loss.mean(0) for name in names])
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "versions": versions(),
        "model": model.name,
        "n": count,
        "shift": model.manifest.shift,
        "edges": list(edges),
        "experts": names,
        "loss": {name: c.loss.mean(0).tolist() for name, c in curves.items()},
        "velocity": {name: c.velocity.mean(0).tolist() for name, c in curves.items()},
        "best": asdict(found),
        "given": {"bounds": list(model.manifest.bounds), "loss": loss_under(losses, edges, model.manifest.bounds)},
    }


def told(written: dict[str, Any]) -> list[str]:
    """The answer in a few lines."""
    best, given = written["best"], written["given"]
    spans = [
        f"{b:.4f} (95%: {low:.4f} to {high:.4f})"
        for b, (low, high) in zip(best["bounds"], best["interval"], strict=True)
    ]
    crossed = [", ".join(f"{sigma:.4f}" for sigma in own) or "nowhere" for own in best["crossings"]]
    handed = ", ".join(f"{b:.4f}" for b in given["bounds"])
    return [
        f"best handoff: sigma {', '.join(spans)}; held-out loss {best['loss']:.5f}",
        f"the model's own: sigma {handed}; held-out loss {given['loss']:.5f}",
        f"the experts' curves cross at sigma {'; '.join(crossed)}",
    ]


def draw(written: dict[str, Any], path: Path) -> None:
    """The curves over the density (equal widths are equally often drawn), and the handoffs, into a PNG."""
    edges = written["edges"]
    places = (np.arange(len(edges) - 1) + 0.5) / (len(edges) - 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.6), dpi=140, layout="constrained")
        axes = figure.add_subplot()
        for k, (name, losses) in enumerate(written["loss"].items()):
            known = name in written["experts"]
            axes.plot(places, losses, color=COLOURS[k % len(COLOURS)] if known else GREY, label=name, marker=".")
        for bounds, style, label in (
            (written["best"]["bounds"], "-", "best"),
            (written["given"]["bounds"], ":", "own"),
        ):
            for k, bound in enumerate(bounds):
                u = float(np.interp(bound, edges, np.linspace(0, 1, len(edges))))
                axes.axvline(u, color="black", linestyle=style, linewidth=1, label=None if k else f"{label} handoff")
        ticks = np.linspace(0, 1, 9)
        axes.set_xticks(ticks, [f"{np.interp(t, np.linspace(0, 1, len(edges)), edges):.3f}" for t in ticks])
        axes.set_xlabel("noise level sigma, spaced as it is drawn")
        axes.set_ylabel("held-out loss")
        axes.legend(frameon=False)
        FigureCanvasAgg(figure).print_png(str(path))
