"""`pasdedeux evaluate`: a model on held-out clips, beside its experts alone, swapped, and a dense one."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pasdedeux.animate.outputs import check_writable, written_whole
from pasdedeux.checkpoints.folder import ExpertFile, load_expert
from pasdedeux.denoise import Expert, ExpertSet, Handoff, schedule
from pasdedeux.engine import MODES, Model, model_folder, on_device, open_model, versions
from pasdedeux.train.evaluate import Arm, Score, evaluate, exam, summary

DENSE = ExpertFile(name="dense", file="dense.safetensors")


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
            raise ValueError(
                f"{self.count} clips in batches of {self.batch}: both numbers must be 1 or more."
            )
        if self.mode not in MODES:
            raise ValueError(f'The mode is "{self.mode}"; it must be {" or ".join(MODES)}.')


def arms(model: Model) -> list[Arm]:
    """The set as it is, swapped, each expert alone, and dense.safetensors where the folder has it."""
    m, whole = model.manifest, model.expert_set(Handoff(model.manifest.bounds))
    sigmas, folder = schedule(m.steps, m.shift), model_folder(model.name)
    sets = {"pair" if len(m.experts) == 2 else f"{len(m.experts)} experts": whole}
    if len(m.experts) > 1:
        sets["swapped"] = whole.swapped()
        sets |= {f"{expert.name} alone": ExpertSet.single(expert) for expert in whole.experts}
    if (folder / DENSE.file).is_file():
        dense = on_device(load_expert(folder, m, DENSE, model.device), model.device)
        sets["dense"] = ExpertSet.single(Expert(dense, DENSE.name))
    return [(name, experts, sigmas) for name, experts in sets.items()]


def write_evaluation(folder: str, out: Path, options: EvaluationOptions, say: Callable[[str], None]) -> None:
    """Judge every arm, say the means, write all figures to `out`. Raises ValueError for the user's faults."""
    check_writable(out)
    model = open_model(folder, options.device)
    compute = model.manifest.compute
    exams = [exam(i, model.codec, options.mode, options.exact, compute) for i in range(options.count)]
    say(f"{options.count} held-out clips are drawn")
    scores: dict[str, list[Score]] = defaultdict(list)
    for name, _, score, _ in evaluate(
        exams, model.codec, arms(model), model.manifest.solver, options.batch, say
    ):
        scores[name].append(score)
    means = {name: summary(values) for name, values in scores.items()}
    for name, figures in means.items():
        say(f"{name:<12} " + "  ".join(f"{key} {value['mean']:.3f}" for key, value in figures.items()))
    record = {
        "options": asdict(options),
        "model": folder,
        "steps": model.manifest.steps,
        "solver": model.manifest.solver,
        "versions": versions(),
        "summary": means,
        "clips": {name: [asdict(score) for score in values] for name, values in scores.items()},
    }
    with written_whole(out) as part:
        part.write_text(json.dumps(record, indent=1), encoding="utf-8")
