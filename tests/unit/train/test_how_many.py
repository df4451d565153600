"""The study of how many experts: its arms are what they say, and it runs, stops and goes on."""

import importlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pasdedeux.train.heldout import HeldOut

STUDY = Path(__file__).parents[3] / "experiments" / "2026-11-25-how-many-experts"
MODULES = ("plan", "jobs", "gather", "plots", "report")


@pytest.fixture(scope="module")
def study() -> Iterator[dict[str, ModuleType]]:
    """The study's modules, by name; they are a folder of scripts and no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDY))
        try:
            yield {name: importlib.import_module(name) for name in MODULES}
        finally:
            for name in MODULES:
                sys.modules.pop(name, None)


@pytest.mark.parametrize("size", ["small", "cpu", "gpu"])
def test_arms_are_made_of_what_is_trained_and_cost_what_they_say(study: dict[str, ModuleType], size: str) -> None:
    plan: Any = study["plan"]
    own = plan.SIZES[size]
    made = {run.name: run for run in plan.runs(own)}
    for arm in plan.arms(own):
        parts = set(arm.parts)
        assert len(arm.bounds) == len(arm.parts) - 1
        for part in parts:
            assert part.mark in made[part.run].marks
            assert part.mark <= made[part.run].steps
            assert part.expert in made[part.run].levels
        if arm.group == plan.GROUPS.swap:
            continue
        trunks = {made[part.run].trunk for part in parts if made[part.run].trunk}
        steps = sum(part.mark for part in parts) + sum(trunk[2] for trunk in trunks)
        assert steps == pytest.approx(arm.budget * own.steps, rel=0.05)
        if arm.group == plan.GROUPS.equal_total:
            assert arm.budget == 1


def test_experts_on_random_levels_part_them_between_each_other(study: dict[str, ModuleType]) -> None:
    plan: Any = study["plan"]
    first, second = (plan.scattered(own) for own in plan.cells())
    assert first.mass == pytest.approx(0.5)
    sigma = plan.whole(plan.SHIFT).draw(4000, torch.Generator().manual_seed(0))
    assert (first.holds(sigma) ^ second.holds(sigma)).all()
    # As it is sampled, each level goes to whom it was trained on.
    arm = next(a for a in plan.arms(plan.SIZES["small"]) if "random" in a.name)
    owners = {"a": first, "b": second}
    for level in sigma[:200]:
        part = arm.parts[sum(float(level) < bound for bound in arm.bounds)]
        assert owners[part.expert].holds(level)


def test_the_larger_expert_has_the_parameters_of_a_pair(study: dict[str, ModuleType]) -> None:
    plan: Any = study["plan"]
    for size in plan.SIZES.values():
        with torch.device("meta"):
            counts = [
                sum(p.numel() for p in plan_model(config, size).parameters()) for config in (size.model, size.big)
            ]
        assert counts[1] == pytest.approx(2 * counts[0], rel=0.07)


def plan_model(config: Any, size: Any) -> torch.nn.Module:
    from pasdedeux.models.duet import DuetTransformer

    return DuetTransformer(replace(config, channels=size.codec.channels))


@pytest.mark.slow
def test_a_run_stops_goes_on_and_is_reported(
    study: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, jobs, report, gather = (study[name] for name in ("plan", "jobs", "report", "gather"))
    size = replace(plan.SIZES["small"], steps=8, clips=18, judged=2, sampled=2, bins=4, block=2)
    monkeypatch.setitem(plan.SIZES, "small", size)
    never = time.time() + 1e6
    jobs.prepare(tmp_path, size, 1, never)
    jobs.baselines(tmp_path, size)
    assert not jobs.train_run(tmp_path, "small", 0, "one", 0.0)
    for name in ("one", "two", "branch"):
        assert jobs.train_run(tmp_path, "small", 0, name, never)
    written = jobs.run_file(tmp_path, 0, "two")
    before = written.stat().st_mtime_ns
    assert jobs.train_run(tmp_path, "small", 0, "two", never)
    assert written.stat().st_mtime_ns == before
    for sample in plan.samples(size):
        if all(part.run in ("one", "two", "branch") for part in sample.parts):
            assert jobs.sample_set(tmp_path, "small", 0, sample.key, never)
    lines, record = report.text(gather.open_study(tmp_path))
    arms = {(loss["group"], loss["arm"]) for loss in record["losses"]}
    assert (plan.GROUPS.four, "dense + new high") in arms
    assert (plan.GROUPS.equal_total, "three") not in arms
    assert any(line.startswith("| two, branched |") for line in lines)
    assert len(record["handoffs"]) == 2
    scores = {score["arm"]: score for score in record["scores"] if score["group"] == plan.GROUPS.four}
    assert scores["new pair"]["psnr"]["mean"]["mean"] > 5


def test_every_level_is_measured_by_its_owner(study: dict[str, ModuleType], tmp_path: Path) -> None:
    plan, gather = study["plan"], study["gather"]
    size = plan.SIZES["cpu"]
    held = HeldOut(data=(), shift=plan.SHIFT, bins=size.bins)
    (tmp_path / "s0-run-random.json").write_text(json.dumps({"edges": held.edges}))
    own = gather.Study(folder=tmp_path, size=size)
    parts, bounds = plan.set_of("random", size, size.steps)
    owners = own.owners(bounds, size.judged)
    first, second = (plan.scattered(cells) for cells in plan.cells())
    for clip in range(size.judged):
        for level, owner in zip(held.levels(clip), owners[clip], strict=True):
            assert (first if parts[owner].expert == "a" else second).holds(level)
