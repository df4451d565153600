"""`pasdedeux evaluate`: a model on held-out clips, beside its experts alone, swapped, and a dense one."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pasdedeux.animate.outputs import check_writable, written_whole
from pasdedeux.apps.strip import Strip, check_strip_name, write_strip
from pasdedeux.checkpoints.folder import ExpertFile
from pasdedeux.engine import MODES, DuetModel, open_duet, source_commit, versions
from pasdedeux.train.evaluate import Answer, Sampling, evaluate, exam
from pasdedeux.train.study import Figure, Score, arms, differences, summary

DENSE = ExpertFile(name="dense", file="dense.safetensors")
Scores = Mapping[str, list[Score]]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationOptions:
    """What the command takes. Raises ValueError where a value is of no use."""

    count: int = 64
    mode: str = "animate"
    exact: bool = False
    batch: int = 8
    device: str | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1:
            raise ValueError(f"{self.count} clips in batches of {self.batch}: both numbers must be 1 or more.")
        if self.mode not in MODES:
            raise ValueError(f'The mode is "{self.mode}"; it must be {" or ".join(MODES)}.')


def write_evaluation(
    folder: str, out: Path, options: EvaluationOptions, say: Callable[[str], None], *, strip: Path | None = None
) -> None:
    """Judge every arm, say the means, write all figures to `out` and, if wanted, a picture to `strip`.

    Raises ValueError for the user's faults.
    """
    if find_spec("skimage") is None:
        raise ValueError("Judging a model needs scikit-image: pip install 'pasdedeux[evaluate]'.")
    check_writable(out)
    if strip is not None:
        check_strip_name(strip)
    model = open_duet(folder, options.device)
    scores: dict[str, list[Score]] = defaultdict(list)
    shown = Strip()
    for answer in answers(model, options, say):
        scores[answer.arm].append(answer.score)
        if strip is not None:
            shown.look(answer)
    for line in told(scores):
        say(line)
    with written_whole(out) as part:
        part.write_text(json.dumps(record(model, options, scores), indent=1, allow_nan=False), encoding="utf-8")
    if strip is not None:
        write_strip(shown, strip)


def answers(model: DuetModel, options: EvaluationOptions, say: Callable[[str], None]) -> Iterator[Answer]:
    """What every baseline and arm makes of every clip."""
    m, codec = model.manifest, model.codec
    exams = (exam(i, codec, options.mode, options.exact, m.compute) for i in range(options.count))
    how = Sampling(sigmas=model.sigmas, solver=m.solver, batch=options.batch)
    return evaluate(exams, codec, arms(model.expert_set(), model.guest(DENSE)), how, say)


def told(scores: Scores) -> Iterator[str]:
    """A line of means for every arm, and one of what the whole set is ahead of the dense model by."""
    for name, values in scores.items():
        yield f"{name:<12} " + "  ".join(f"{key} {figure.mean:.3f}" for key, figure in summary(values).items())
    for name, figures in against_dense(scores).items():
        yield f"{name}: " + "  ".join(f"{key} {figure.mean:+.3f}{margin(figure)}" for key, figure in figures.items())


def margin(figure: Figure) -> str:
    """ " ± 0.012": half the 95% interval, where there is one."""
    return "" if figure.ci95 is None else f" ± {figure.ci95:.3f}"


def against_dense(scores: Scores) -> dict[str, dict[str, Figure]]:
    """The whole set minus the dense model, clip by clip; empty without a dense model."""
    if DENSE.name not in scores:
        return {}
    whole = next(name for name in scores if name == "pair" or name.endswith(" experts"))
    return {f"{whole} minus {DENSE.name}": differences(scores[whole], scores[DENSE.name])}


def record(model: DuetModel, options: EvaluationOptions, scores: Scores) -> dict[str, Any]:
    """All that is written: what was asked of which source, the figures' means and spreads, and every clip's."""
    paired = against_dense(scores)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "versions": versions(),
        "model": model.name,
        "options": {**asdict(options), "device": model.device},
        "n": options.count,
        "steps": model.manifest.steps,
        "solver": model.manifest.solver,
        "summary": {name: plain(summary(values)) for name, values in scores.items()},
        "paired": {name: plain(figures) for name, figures in paired.items()},
        "clips": {name: [finite(asdict(score)) for score in values] for name, values in scores.items()},
    }


def plain(figures: dict[str, Figure]) -> dict[str, dict[str, float | None]]:
    """Figures as JSON takes them."""
    return {name: asdict(figure) for name, figure in figures.items()}


def finite(values: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no nan: a figure that does not apply to a clip is null there."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
