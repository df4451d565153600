"""The command: values by expert, the dry run, the built-in kind of model, going on, and Ctrl-C."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from pasdedeux.apps.cli import app
from pasdedeux.apps.tuning import LoraOptions, each, file_name, tune
from pasdedeux.checkpoints.folder import read_manifest
from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors
from pasdedeux.models.duet import DuetTransformer
from pasdedeux.train.clips import ClipSpec, film, store
from pasdedeux.train.lora import duet
from pasdedeux.train.lora.filmed import filmed
from pasdedeux.train.lora.targets import chosen
from pasdedeux.train.telling import Teller

PAIR = ("high", "low")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Filmed clips, inverted: a style unlike anything."""
    folder = tmp_path_factory.mktemp("filmed")
    for seed in range(3):
        take = film(ClipSpec.from_seed(seed, frames=9, size=64))
        store(folder / f"{seed}.npy", take)
        stack = np.load(folder / f"{seed}.npy")
        stack[..., 14:17] = 255 - stack[..., 14:17]
        np.save(folder / f"{seed}.npy", stack)
    return folder


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("16", {"high": "16", "low": "16"}),
        ("high:16,low:8", {"high": "16", "low": "8"}),
        ("low:attention,face,high:all", {"low": "attention,face", "high": "all"}),
    ],
)
def test_values_by_expert(text: str, found: dict[str, str]) -> None:
    assert each(text, PAIR, "rank") == found


@pytest.mark.parametrize("text", ["high:16", "high:1,low:2,model:3", "5,high:16,low:8"])
def test_values_for_strange_or_too_few_experts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"one value, or one for each of high, low"):
        each(text, PAIR, "rank")


def test_targets(tiny: Path) -> None:
    model = DuetTransformer(read_manifest(tiny).model)
    assert chosen(model, "attention") == [f"blocks.{i}.self_attn.{n}" for i in range(2) for n in ("qkv", "o")]
    assert chosen(model, "head.*, blocks.0.*.o") == ["blocks.0.self_attn.o", "head.first", "head.later"]
    assert "condition_pyramid.down.0" in chosen(model, "all")
    with pytest.raises(ValueError, match=r'No layer of the model fits "blocks\.9'):
        chosen(model, "blocks.9.*")


def call(*words: object) -> "tuple[int, str]":
    found = CliRunner().invoke(app, ["train", "lora", *map(str, words)])
    return found.exit_code, found.output


def test_a_dry_run_trains_nothing_and_says_what_it_would(tiny: Path, clips: Path, tmp_path: Path) -> None:
    arguments = ("--model", tiny, "--data", clips, "--out", tmp_path / "out", "--rank", "high:4,low:2")
    code, said = call(*arguments, "--steps", "high:30,low:60", "--targets", "all", "--dry-run")
    assert code == 0
    assert "high: " in said
    assert "0.75 <= sigma <= 1 at shift 3" in said
    assert "0 <= sigma < 0.75 at shift 3" in said
    assert "90 steps in all, in turns of 50" in said
    assert "memory: " in said
    assert not (tmp_path / "out").exists()


@pytest.fixture
def sure(tiny: Path, tmp_path: Path) -> Path:
    """The tiny pair, which expects next to nothing to differ from its composite."""
    folder = tmp_path / "sure"
    shutil.copytree(tiny, folder)
    for name in PAIR:
        weights = load_file(folder / f"{name}.safetensors")
        save_file(weights | {"spread": weights["spread"] * 0.01}, folder / f"{name}.safetensors")
    return folder


def test_a_pair_learns_a_style_and_saves_it(sure: Path, clips: Path, tmp_path: Path) -> None:
    options = {"model": str(sure), "data": clips, "rank": "4", "targets": "all", "rate": "1e-2", "batch": 2}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said: list[str] = []
    tune(LoraOptions(**options, out=whole, steps="12", sticky=4, even=True, held=1), said.append)  # type: ignore[arg-type]
    assert any("min left" in line for line in said)
    records = [json.loads(line) for line in (whole / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [r["loss"] for r in records if r.get("expert") == "high" and "loss" in r]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert sum("held_out" in r for r in records) == 0  # by default every hundred steps
    drawn = {r["expert"]: r["drawn"] for r in records if "drawn" in r}
    assert {name: sum(one["counts"]) for name, one in drawn.items()} == {"high": 24, "low": 24}
    assert drawn["low"]["high"] < 0.75 <= drawn["high"]["low"]
    file = open_safetensors(whole / "whole_high_noise.safetensors")
    assert "diffusion_model.spread.diff" in file
    assert file.metadata["wan.expert"] == "high"
    small = {**options, "out": parts, "sticky": 4, "even": True, "held": 1}
    tune(LoraOptions(**small, steps="12", experts="low"), said.append)  # type: ignore[arg-type]
    a, b = (open_safetensors(f / f"{f.name}_low_noise.safetensors") for f in (whole, parts))
    assert all(torch.equal(a[name].read(), b[name].read()) for name in a)  # who else is taught makes no difference


def test_faults_are_one_sentence(tiny: Path, clips: Path, tmp_path: Path) -> None:
    arguments = ("--model", tiny, "--data", clips, "--out", tmp_path / "out")
    for more, wanted in (
        (("--rank", "many"), 'rank is "many"'),
        (("--targets", "nothing"), 'No layer of the model fits "nothing"'),
        (("--experts", "middle"), "no expert middle"),
        (("--form", "civitai"), 'The form is "civitai"'),
        (("--held", 3), "some must be left"),
        (("--steps", 0), "must be 1 or more"),
        (("--steps", "inf"), 'steps is "inf"; it must be a whole number'),
        (("--steps", "high:nan,low:3"), "it must be a whole number"),
        (("--rank", 16.7), 'rank is "16.7"; it must be a whole number'),
        (("--seed", -1), "seed is -1; it must be 0 or more"),
        (("--patience", 2), "give --held, too"),
        (("--patience", -1), "patience is -1"),
        (("--memory", "much"), 'The memory "much" is not understood'),
        (("--sticky", 0), "A turn is 0 steps"),
        (("--devices", "cpu,abacus"), "abacus"),
    ):
        code, said = call(*arguments, *more)
        assert (code, wanted in said) == (2, True), said
    code, said = call("--model", tmp_path / "nowhere", "--data", clips, "--out", tmp_path / "out")
    assert (code, "There is no model" in said) == (2, True)


def test_a_pair_learns_from_videos_whose_points_are_known(tiny: Path, followed: Path, tmp_path: Path) -> None:
    options = LoraOptions(
        model=str(tiny), data=followed, out=tmp_path / "out", steps="1", rank="2", batch=1, strict=True, frames=5
    )
    tune(options, lambda _: None)
    (clip,) = filmed(tmp_path / "out" / "cache")
    stack = np.load(clip)
    assert stack.shape[1:] == (64, 64, 18)
    assert stack[..., 8:11].any()
    assert (stack[..., 17] == 255).any()


def test_side_by_side_stopped_and_resumed_a_pair_learns_the_same(
    sure: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--model", sure, "--data", clips, "--rank", 4, "--targets", "all", "--batch", 1, "--steps", 4, "--even")
    words = (*words, "--sticky", 2, "--held", 1, "--patience", 1)
    assert call(*words, "--out", tmp_path / "a" / "night")[0] == 0
    assert call(*words, "--out", tmp_path / "b" / "night", "--devices", "cpu,cpu")[0] == 0
    made, teller = list[int](), Teller.__call__

    def interrupted(self: Teller, *told: object) -> None:
        teller(self, *told)  # type: ignore[arg-type]
        made.append(0)
        if len(made) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Teller, "__call__", interrupted)
    code, said = call(*words, "--out", tmp_path / "c" / "night")
    assert (code, len(made)) == (130, 3)
    assert "high stopped at step 2 of 4, low stopped at step 1 of 4; the same command goes on from here" in said
    spread = tmp_path / "c" / "night" / "spread.safetensors"
    before = spread.read_bytes()
    monkeypatch.setattr(duet, "residual_spread", lambda *_, **__: pytest.fail("measured anew"))
    code, said = call(*words, "--out", tmp_path / "c" / "night")
    assert (code, len(made), spread.read_bytes()) == (0, 8, before)
    assert "low: resumed at step 1/4" in said
    for name in PAIR:
        a, b, c = (load_file(tmp_path / f / "night" / f"night_{name}_noise.safetensors") for f in "abc")
        assert all(torch.equal(a[key], b[key]) and torch.equal(a[key], c[key]) for key in (*a, *b, *c))


def test_a_loss_that_is_no_number_is_one_sentence(tiny: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        real = duet.DuetSubject.loss
        patch.setattr(duet.DuetSubject, "loss", lambda *given: real(*given) * float("nan"))
        code, said = call("--model", tiny, "--data", clips, "--out", tmp_path / "out", "--rank", 2, "--batch", 1)
    assert code == 2
    assert "Training stopped: high: the loss is nan at step 0, from " in said
    assert "Traceback" not in said


def test_what_files_are_called() -> None:
    assert [file_name("ink", name, 2) for name in PAIR] == ["ink_high_noise", "ink_low_noise"]
    assert [file_name("ink", f"expert{k}", 3) for k in range(3)] == ["ink_expert0", "ink_expert1", "ink_expert2"]
    assert file_name("ink", "model", 1) == "ink"
