"""Tables and plots of what the study has so far.

    PYTHONPATH=src python experiments/2026-11-25-how-many-experts/report.py FOLDER [--out WHERE]

Writes tables.md, summary.json and PNG plots. A difference is ours minus theirs, seed by seed; ± is half of the 95 %
interval over seeds (Student's), or over clips, paired, where there is one seed.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from gather import Study, difference, mean, open_study
from plan import GROUPS, SHIFT, Arm, Part, Sample, arms, equal
from plots import SAME_TOTAL, draw_all

from pasdedeux.train.bands import equal_bounds
from pasdedeux.train.calibrate import calibrate
from pasdedeux.train.study import Figure

FIGURES = {"psnr": "PSNR", "iou": "silhouette IoU", "face_psnr": "face PSNR"}
BASE = {GROUPS.equal_total: "one", GROUPS.equal_each: "one, 2T", GROUPS.four: "dense", GROUPS.swap: "high, low"}


def base_of(group: str, name: str) -> str:
    """What an arm is compared with: in budget B one expert of as many steps as all of the arm's together."""
    if group != GROUPS.equal_each:
        return BASE.get(group, "")
    return SAME_TOTAL.get(name) or ("" if "branched" in name else "one, 2T")  # that one's 1.5 T lie between T and 2T


def told(figure: Figure, digits: int, *, sign: bool = False) -> str:
    """ "+0.012 ± 0.003"."""
    number = f"{figure.mean:{'+' if sign else ''}.{digits}f}"
    return number if figure.ci95 is None else f"{number} ± {figure.ci95:.{digits}f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def seeds_of(study: Study, *needed: Arm) -> list[int]:
    """Seeds that have the losses of all of these arms."""
    return [seed for seed in study.seeds if all(study.arm(seed, arm) is not None for arm in needed)]


def loss_rows(study: Study, group: str) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """A row of losses for each arm of a group, and the same as records."""
    own = {arm.name: arm for arm in arms(study.size) if arm.group == group}
    rows, records = [], []
    for name, arm in own.items():
        base = own.get(base_of(group, name))
        if not (seeds := seeds_of(study, arm)):
            continue
        per_clip = [study.arm(seed, arm).mean(1) for seed in seeds]  # type: ignore[union-attr]
        velocity = mean([study.arm(seed, arm, "velocity")[:, 1:].mean(1) for seed in seeds])  # type: ignore[union-attr]
        each, whole = study.parameters(arm)
        against, gap = "", None
        if base is not None and base.name != name and (both := seeds_of(study, arm, base)):
            pairs = [(study.arm(s, arm).mean(1), study.arm(s, base).mean(1)) for s in both]  # type: ignore[union-attr]
            gap = difference([a for a, _ in pairs], [b for _, b in pairs])
            against = f"{told(gap, 4, sign=True)} ({base.name})"
        loss = mean(per_clip)
        cells = [name, f"{each:.2f} of {whole:.2f} M", f"{arm.budget:g} T", str(len(seeds))]
        rows.append([*cells, told(loss, 4), against, told(velocity, 3)])
        record = {"arm": name, "group": group, "base": base and base.name, "seeds": len(seeds)}
        records.append({**record, "loss": asdict(loss), "velocity": asdict(velocity), "gap": gap and asdict(gap)})
    return rows, records


def score_rows(study: Study, group: str) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """A row of samples' figures for each arm of a group."""
    own = {arm.name: arm for arm in arms(study.size) if arm.group == group}
    rows, records = [], []
    for name, arm in own.items():
        base = own.get(base_of(group, name))
        cells, record = [], {}
        for figure in FIGURES:
            found = sampled(study, arm, figure)
            if not found:
                break
            text = told(mean(list(found.values())), 3 if figure == "iou" else 2)
            theirs = sampled(study, base, figure) if base is not None and base.name != name else {}
            both = sorted(set(found) & set(theirs))
            gap = difference([found[s] for s in both], [theirs[s] for s in both]) if both else None
            cells += [text, told(gap, 4 if figure == "iou" else 3, sign=True) if gap else ""]
            record[figure] = {"mean": asdict(mean(list(found.values()))), "gap": gap and asdict(gap)}
        if cells:
            rows.append([name, *cells])
            records.append({"arm": name, "group": group, "base": base and base.name, **record})
    return rows, records


def sampled(study: Study, arm: Arm, figure: str) -> dict[int, Any]:
    """A figure's values per clip, by seed."""
    sample = Sample(parts=arm.parts, bounds=arm.bounds)
    every = {seed: study.scores(seed, sample, figure) for seed in study.seeds}
    return {seed: np.array(values, dtype=float) for seed, values in every.items() if values is not None}


def swap_matrix(study: Study, count: int) -> list[str]:
    """Held-out loss of each expert in each band, after T steps: rows experts, columns bands, noisiest first."""
    name = {2: "two", 3: "three", 5: "five"}[count]
    experts = list(equal(count))
    seeds = [seed for seed in study.seeds if study.run(seed, name) is not None]
    if not seeds:
        return []
    owner = study.owners(equal_bounds(count, SHIFT), study.size.judged)
    parts = {expert: Part(run=name, expert=expert, mark=study.size.steps) for expert in experts}
    rows = []
    for expert in experts:
        cells = [
            mean([np.nanmean(np.where(owner == band, study.losses(s, parts[expert]), np.nan), 1) for s in seeds])  # type: ignore[arg-type]
            for band in range(count)
        ]
        rows.append([expert, *(told(cell, 4) for cell in cells)])
    return table(["trained on", *(f"measured on {band}" for band in experts)], rows)


def handoffs(study: Study) -> tuple[list[str], list[dict[str, Any]]]:
    """Where the pair hands over best, seed by seed, at each of its marks."""
    rows, records = [], []
    for mark in (study.size.steps * 4 // 8, study.size.steps):
        for seed in study.seeds:
            of = [study.losses(seed, Part(run="two", expert=e, mark=mark)) for e in ("high", "low")]
            if any(losses is None for losses in of):
                continue
            found = calibrate(np.stack(of), study.edges)  # type: ignore[arg-type]
            low, high = found.interval[0]
            crossed = ", ".join(f"{c:.3f}" for c in found.crossings[0]) or "nowhere"
            rows.append([str(mark), str(seed), f"{found.bounds[0]:.3f}", f"{low:.3f} to {high:.3f}", crossed])
            records.append({"mark": mark, "seed": seed, **asdict(found)})
    return table(["steps", "seed", "best handoff σ", "95 % of resampled clips", "curves cross at σ"], rows), records


def gaps(study: Study) -> list[str]:
    """How much lower the loss on clips that were trained on is, by arm of budget B."""
    rows = []
    for arm in (a for a in arms(study.size) if a.group == GROUPS.equal_each and "random" not in a.name):
        seeds = seeds_of(study, arm)
        if not seeds:
            continue
        held = [study.arm(s, arm).mean() for s in seeds]  # type: ignore[union-attr]
        seen = [seen_loss(study, s, arm) for s in seeds]
        rows.append([arm.name, f"{np.mean(held):.4f}", f"{np.mean(seen):.4f}", f"{np.mean(held) - np.mean(seen):+.4f}"])
    return table(["arm", "held-out clips", "clips trained on", "gap"], rows)


def seen_loss(study: Study, seed: int, arm: Arm) -> float:
    """Mean loss of a set on clips that were trained on."""
    of = [study.losses(seed, part, "seen") for part in arm.parts]
    middles = study.levels(study.size.judged).mean(0)  # of what was trained on, only means over clips are kept
    return float(np.mean([of[sum(m < bound for bound in arm.bounds)][b] for b, m in enumerate(middles)]))  # type: ignore[index]


def text(study: Study) -> tuple[list[str], dict[str, Any]]:
    """All tables, and what they say as records."""
    lines = [f"Size {study.size.name}, T = {study.size.steps} steps of {study.size.batch} clips; seeds {study.seeds}."]
    record: dict[str, Any] = {"size": study.size.name, "seeds": study.seeds, "losses": [], "scores": []}
    for group in dict.fromkeys(arm.group for arm in arms(study.size)):
        rows, losses = loss_rows(study, group)
        if rows:
            head = ["arm", "parameters", "steps", "seeds", "held-out loss", "minus (which)", "velocity error*"]
            lines += ["", f"**{group}**", "", *table(head, rows)]
            record["losses"] += losses
        rows, scores = score_rows(study, group)
        if rows:
            head = ["arm", *(cell for name in FIGURES.values() for cell in (name, "minus"))]
            lines += ["", *table(head, rows)]
            record["scores"] += scores
    lines += [
        "",
        "*without the cleanest bin, where errors are divided by a σ that may be next to 0",
    ]
    for count in (2, 3, 5):
        if matrix := swap_matrix(study, count):
            lines += ["", f"**Expert-swap matrix, {count} experts**", "", *matrix]
    found, record["handoffs"] = handoffs(study)
    lines += ["", "**Where the pair hands over best**", "", *found]
    lines += ["", "**Held-out clips and clips trained on**", "", *gaps(study)]
    return lines, record


def main() -> None:
    """Write tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="default: FOLDER/report")
    options = parser.parse_args()
    study = open_study(options.folder)
    out: Path = options.out or options.folder / "report"
    out.mkdir(parents=True, exist_ok=True)
    lines, record = text(study)
    (out / "tables.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "summary.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    draw_all(study, out)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
