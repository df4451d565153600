"""All stages of making a pair, at toy size: complete, resumable, equal compute for the dense model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pasdedeux.animate.images import load_image
from pasdedeux.models.codec import CodecConfig, PatchCodec
from pasdedeux.models.duet import DuetConfig
from pasdedeux.train import pair
from pasdedeux.train.codec import PainterConfig
from pasdedeux.train.config import branches, dense_run
from pasdedeux.train.logbook import LOG, steps_of
from pasdedeux.train.loop import TrainConfig
from pasdedeux.train.pair import PairConfig, Paused, Work, make_pair

TINY = PairConfig(
    clips=18,
    frames=5,
    size=64,
    codec=CodecConfig(channels=4, width=8, depth=1),
    model=DuetConfig(dim=16, depth=2, heads=2, ffn=16, channels=4, frequency=8, pyramid=(4, 4, 8)),
    painter=PainterConfig(steps=2, batch=1, frames=5),
    trunk=TrainConfig(steps=3, batch=1, frames=5, window=48, dtype="float32"),
    branch=TrainConfig(steps=2, cooldown=2, batch=1, frames=5, dtype="float32"),
)


def work(folder: Path, said: list[str], patience: int = 10**6) -> Work:
    """Work that is asked to pause after `patience` training steps."""
    asked = iter(range(10**6))
    return Work(folder=folder, config=TINY, report=said.append, processes=1, stop=lambda: next(asked) >= 2 * patience)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    make_pair(work(folder, []), dense=True)
    return folder


def test_every_stage_leaves_its_file(whole: Path) -> None:
    for name in ("codec", "high", "low", "dense"):
        assert load_file(whole / f"{name}.safetensors")
    assert json.loads((whole / "config.json").read_text())["bounds"] == [0.9]


def test_experts_leave_the_trunk_and_each_other(whole: Path) -> None:
    high, low, dense = (load_file(whole / f"{n}.safetensors")["head.later.weight"] for n in ("high", "low", "dense"))
    assert not torch.equal(high, low)
    assert not torch.equal(high, dense)


def test_the_dense_model_has_the_steps_of_all_experts(whole: Path) -> None:
    steps = {n: torch.load(whole / f"{n}.pt", weights_only=True)["step"] for n in ("high", "low", "dense")}
    assert steps == {"high": 2, "low": 2, "dense": 4}


def test_paused_and_resumed_equals_uninterrupted(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").symlink_to(whole / "clips")
    for _ in range(20):
        try:
            make_pair(work(tmp_path, [], patience=1), dense=False)
            break
        except Paused:
            continue
    for name in ("high", "low"):
        once, again = load_file(whole / f"{name}.safetensors"), load_file(tmp_path / f"{name}.safetensors")
        assert all(torch.equal(once[k], again[k]) for k in once)


def test_filming_stops_when_asked_and_keeps_what_it_has(tmp_path: Path) -> None:
    asked = iter(range(10**6))
    stopping = Work(folder=tmp_path, config=TINY, report=lambda _: None, processes=1, stop=lambda: next(asked) >= 4)
    with pytest.raises(Paused, match="clip 5 of 18"):
        make_pair(stopping, dense=False)
    filmed = len(list((tmp_path / "clips").glob("???????.npy")))
    assert 5 <= filmed < 18


@pytest.mark.parametrize("lost", ["0000000.npy", "0000000.ref.npy"])
def test_a_clip_that_lost_either_file_is_filmed_again(lost: str, tmp_path: Path) -> None:
    one = replace(work(tmp_path, []), config=replace(TINY, clips=1))
    (path,) = pair.film_clips(one)
    before = (path.parent / lost).read_bytes()
    (path.parent / lost).unlink()
    assert pair.film_clips(one) == [path]
    assert (path.parent / lost).read_bytes() == before
    (path.parent / lost).unlink()
    pair.film_one(path.parent, 0, TINY.frames, TINY.size)
    assert (path.parent / lost).read_bytes() == before


def test_a_finished_run_is_left_alone(whole: Path) -> None:
    before = (whole / "high.safetensors").stat().st_mtime_ns
    said: list[str] = []
    make_pair(work(whole, said), dense=True)
    assert (whole / "high.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bounds": (0.8,)}, r"bounds \[0.9\], not \[0.8\]"),
        ({"branch": replace(TINY.branch, seed=5)}, "branch seed 0, not 5"),
        ({"seed": 1}, "seed 0, not 1"),
    ],
)
def test_a_folder_with_another_run_is_refused(whole: Path, change: dict[str, Any], said: str) -> None:
    before = (whole / "config.json").read_text()
    with pytest.raises(ValueError, match=f"holds a run with {said}; give this one another folder"):
        make_pair(replace(work(whole, []), config=replace(TINY, **change)), dense=True)
    assert (whole / "config.json").read_text() == before
    elsewhere = replace(TINY, trunk=replace(TINY.trunk, device="cuda", readers=3))
    pair.settle(whole / "config.json", elsewhere)  # where it is carried out decides nothing
    pair.settle(whole / "config.json", TINY)


def test_the_log_holds_every_step_and_the_levels_that_were_drawn(whole: Path) -> None:
    steps = steps_of(whole / LOG)
    assert {name: sorted(own) for name, own in steps.items()} == {
        "trunk": [1, 2, 3],
        "high": [1, 2],
        "low": [1, 2],
        "dense": [1, 2, 3, 4],
    }
    ends = [json.loads(line) for line in (whole / LOG).read_text().splitlines() if "drawn" in line]
    high = next(end["drawn"] for end in ends if end["expert"] == "high")
    assert sum(high["counts"]) == 2
    assert high["low"] >= 0.9


def test_five_experts_by_density_ending_early_with_previews(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").symlink_to(whole / "clips")
    config = replace(TINY, bounds=(0.97, 0.9, 0.8, 0.5), share="density", patience=1, judge_every=1, judged=1)
    said: list[str] = []
    work = Work(folder=tmp_path, config=config, report=said.append, processes=1, block=1, preview_every=0.0)
    make_pair(work, dense=False)
    runs = branches(config)
    assert sum(run.steps for _, run in runs.values()) == dense_run(config).steps == 10
    assert runs["expert1"][1].steps > runs["expert4"][1].steps
    for name in runs:
        assert load_file(tmp_path / f"{name}.safetensors")
    pictures = sorted((tmp_path / "previews").glob("*.png"))
    # Two clips, three moments each; three rows.
    assert load_image(pictures[-1]).image.shape == (3 * 64, 2 * 3 * 64, 3)
    assert any("held-out loss" in line for line in said)
    assert any("expert3: " in line and "noise to clean |" in line for line in said)


@pytest.mark.parametrize(("devices", "wanted"), [((), ("cuda:1",)), (("cuda:0", "cuda:1"), ("cuda:0", "cuda:1"))])
def test_experts_train_on_the_branchs_device_or_on_those_asked_for(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(pair, "train_set", lambda _, __, turns, *___, **____: asked.append(turns.devices))
    shutil.copy(whole / "trunk.pt", tmp_path)
    config = replace(TINY, branch=replace(TINY.branch, device="cuda:1"))
    work = Work(folder=tmp_path, config=config, report=print, devices=devices)
    pair.make_experts(work, PatchCodec(TINY.codec), [])
    assert asked == [wanted]


def test_each_branch_has_its_own_data_and_cools_down_over_the_same_share() -> None:
    config = replace(TINY, branch=replace(TINY.branch, steps=100, cooldown=50), share="density")
    runs = [run for _, run in branches(config).values()]
    assert len({run.seed for run in (*runs, dense_run(config))}) == 3
    assert [round(run.cooldown / run.steps, 2) for run in (*runs, dense_run(config))] == [0.5] * 3
