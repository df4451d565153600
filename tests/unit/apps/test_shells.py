"""The options of `train pair` and `evaluate` as what they become."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file

from pasdedeux.animate.images import load_image
from pasdedeux.apps import evaluating, training
from pasdedeux.apps.calibrating import write_calibration
from pasdedeux.apps.evaluating import DENSE, EvaluationOptions, write_evaluation
from pasdedeux.apps.strip import Strip, check_strip_name
from pasdedeux.apps.training import PairOptions, pair_config, run_training
from pasdedeux.checkpoints.folder import Manifest, read_manifest
from pasdedeux.engine import open_duet
from pasdedeux.train.evaluate import Answer
from pasdedeux.train.export import manifest_of
from pasdedeux.train.pair import PairConfig, Paused, Work
from pasdedeux.train.study import Score, arms


def test_options_left_open_are_the_configurations_own() -> None:
    assert pair_config(PairOptions()) == PairConfig()


def test_options_reach_the_configuration() -> None:
    config = pair_config(PairOptions(clips=64, steps=10, branch_steps=5, seed=2))
    assert (config.clips, config.trunk.steps, config.branch.steps, config.branch.cooldown) == (64, 10, 5, 5)
    assert {config.seed, config.trunk.seed, config.branch.seed} == {2}
    assert config.trunk.device == config.branch.device == "cpu"


def test_a_training_run_says_what_its_model_is() -> None:
    config = PairConfig(sampling_steps=6, solver="unipc")
    manifest = manifest_of(config)
    assert [expert.file for expert in manifest.experts] == ["high.safetensors", "low.safetensors"]
    assert (manifest.bounds, manifest.steps, manifest.solver) == (config.bounds, 6, "unipc")
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_trained_folder_becomes_a_model_folder_and_holds_one_in_bfloat16(
    tmp_path: Path, make_tiny: Callable[[Path, int], Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_tiny(tmp_path, 2)
    (tmp_path / "duet.json").unlink()
    config = PairConfig(codec=made.codec, model=made.model, bounds=made.bounds)
    monkeypatch.setattr(training, "make_pair", lambda *_, **__: None)
    monkeypatch.setattr(training, "pair_config", lambda _: config)
    run_training(tmp_path, PairOptions(), lambda _: None)
    assert read_manifest(tmp_path) == read_manifest(tmp_path / "model") == manifest_of(config)
    assert len(open_duet(str(tmp_path / "model"), "cpu").experts) == 2
    for name, kind in (("", torch.float32), ("model", torch.bfloat16)):
        assert load_file(tmp_path / name / "low.safetensors")["head.later.weight"].dtype == kind


def test_ctrl_c_stops_training_after_the_step_that_runs_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(work: Work, *, dense: bool) -> None:
        assert not work.stop()
        signal.raise_signal(signal.SIGINT)
        assert work.stop()
        raise Paused("trunk stopped at step 3 of 10")

    monkeypatch.setattr(training, "make_pair", interrupted)
    said: list[str] = []
    with pytest.raises(typer.Exit) as stopped:
        run_training(tmp_path, PairOptions(), said.append)
    assert stopped.value.exit_code == 130
    assert said == ["Stopped: trunk stopped at step 3 of 10; the same command goes on from here."]


@pytest.mark.parametrize(
    ("experts", "names"),
    [
        (1, ["1 experts"]),
        (2, ["pair", "swapped", "high alone", "low alone"]),
        (3, ["3 experts", "swapped", "expert0 alone", "expert1 alone", "expert2 alone"]),
    ],
)
def test_what_a_model_is_judged_beside(
    tmp_path: Path, make_tiny: Callable[[Path, int], Manifest], experts: int, names: list[str]
) -> None:
    make_tiny(tmp_path, experts)
    model = open_duet(str(tmp_path), "cpu")
    assert list(arms(model.expert_set(), model.guest(DENSE))) == names
    first = next(tmp_path.glob("[eh]*.safetensors"))
    (tmp_path / "dense.safetensors").write_bytes(first.read_bytes())
    assert list(arms(model.expert_set(), model.guest(DENSE))) == [*names, "dense"]


def answered(arm: str, clip: int, *, truth: int = 200, seen: int = 50, **figures: float) -> Answer:
    pictures = [np.full((25, 16, 16, 3), level, np.uint8) for level in (truth, seen)]
    scores = dict.fromkeys(Score.__slots__, 1.0) | figures
    return Answer(arm=arm, clip=clip, truth=pictures[0], frames=pictures[1], score=Score(**scores))


def test_a_strip_shows_the_first_clips_and_keeps_no_others() -> None:
    strip = Strip()
    for clip in range(6):
        for arm, level in (("still", 40), ("codec", 60), ("pair", 80)):
            strip.look(answered(arm, clip, seen=level))
    picture = strip.picture()
    assert picture.shape[0] == 3 * 16
    # Four clips of three moments, three lines between them, behind the labels.
    wide = picture.shape[1] - (4 * 3 * 16 + 3 * 2)
    assert [int(picture[row, wide + 5, 0]) for row in (8, 24, 40)] == [200, 40, 80]
    assert (picture[:16, 0] == 255).all()
    assert (picture[:16, :wide] < 128).any()


def test_a_strip_is_a_png(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.png"):
        check_strip_name(tmp_path / "strip.jpg")


def test_an_evaluation_is_written_with_its_spread(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        answered(arm, clip, psnr=20 + clip + ahead, face_psnr=float("nan") if clip else 9.0)
        for arm, ahead in (("still", 0), ("pair", 3), ("dense", 1))
        for clip in range(3)
    ]
    monkeypatch.setattr(evaluating, "answers", lambda *_: iter(made))
    lines: list[str] = []
    options = EvaluationOptions(count=3, device="cpu")
    write_evaluation(str(tiny), tmp_path / "e.json", options, lines.append, strip=tmp_path / "e.png")
    written = json.loads((tmp_path / "e.json").read_text())
    assert (written["n"], written["options"]["mode"], written["date"][:2]) == (3, "animate", "20")
    assert {"commit", "versions"} <= set(written)
    # Student's t for two degrees of freedom is 4.303.
    assert written["summary"]["pair"]["psnr"] == pytest.approx(
        {"mean": 24, "std": 1, "ci95": 4.303 / 3**0.5, "n": 3}, rel=1e-3
    )
    assert written["summary"]["pair"]["face_psnr"] == {"mean": 9, "std": None, "ci95": None, "n": 1}
    assert written["paired"]["pair minus dense"]["psnr"] == pytest.approx({"mean": 2, "std": 0, "ci95": 0, "n": 3})
    assert written["clips"]["pair"][1]["face_psnr"] is None
    assert any("pair minus dense: psnr +2.000 ± 0.000" in line for line in lines)
    assert load_image(tmp_path / "e.png").image.shape[0] == 4 * 16


def test_experts_are_given_by_number_or_by_handoff() -> None:
    assert pair_config(PairOptions(experts=3)).bounds == pytest.approx((0.96, 0.857142857))
    assert pair_config(PairOptions(experts=2)).bounds == PairConfig().bounds
    assert pair_config(PairOptions(experts=1)).bounds == ()
    assert pair_config(PairOptions(handoff="0.95,snr:0.04")).bounds == pytest.approx((0.95, 0.8333333))
    config = pair_config(PairOptions(share="density", early_stop=3))
    assert (config.share, config.patience) == ("density", 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"experts": 3, "handoff": "0.9"}, "each decides the other"),
        ({"share": "luck"}, "equal or density"),
        ({"early_stop": -1}, "0 \\(never\\) or more"),
        ({"preview_minutes": 0.0}, "above 0"),
        ({"devices": ("cpu", "mars")}, 'device is "mars"'),
        ({"block": 0}, "block is 0"),
    ],
)
def test_options_of_no_use_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PairOptions(**options)


def test_a_dry_run_says_what_would_be_trained_and_leaves_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    training.dry_run(tmp_path / "new", PairOptions(share="density", branch_steps=500, dense=True), lines.append)
    text = "\n".join(lines)
    rows = {line.split()[0]: line.split() for line in lines if line.startswith(("trunk", "high", "low", "dense"))}
    assert rows["high"][1:] == ["0.9000", "to", "1.0000", "-inf", "to", "-4.39", "57.1%", "571", "4"]
    assert rows["low"][-3:] == ["42.9%", "429", "4"]
    assert rows["dense"][-2] == "1000"
    assert "2400 of 25 frames, 128x128" in text
    assert "6.52 million parameters each" in text
    assert "1 waiting in this machine's memory: 0.12 GB" in text
    assert "activations" in text
    assert lines[-1] == "Nothing was trained."
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverged(*_: object, **__: object) -> None:
        raise FloatingPointError("high: the loss is nan at step 30")

    monkeypatch.setattr(training, "make_pair", diverged)
    with pytest.raises(typer.Exit) as stopped:
        run_training(tmp_path, PairOptions(), lambda _: None)
    assert stopped.value.exit_code == 2
    said = capsys.readouterr().err
    assert said.strip() == (
        f"pasdedeux: Training stopped: high: the loss is nan at step 30; the checkpoints from before are in {tmp_path}."
    )


def test_the_handoff_is_calibrated(tmp_path: Path, make_tiny: Callable[[Path, int], Manifest]) -> None:
    make_tiny(tmp_path / "three", 3)
    first = next((tmp_path / "three").glob("expert0.safetensors"))
    (tmp_path / "three" / "dense.safetensors").write_bytes(first.read_bytes())
    lines: list[str] = []
    write_calibration(str(tmp_path / "three"), tmp_path / "c.json", lines.append, count=2, device="cpu")
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["experts"] == ["expert0", "expert1", "expert2"]
    assert list(written["loss"]) == [*written["experts"], "dense"]
    assert written["loss"]["dense"] == written["loss"]["expert0"]
    assert len(written["loss"]["expert0"]) == len(written["edges"]) - 1 == 32
    assert len(written["best"]["bounds"]) == 2
    assert written["best"]["loss"] <= written["given"]["loss"] + 1e-12
    assert load_image(tmp_path / "c.png").image.shape[1] > 1000
    assert any(line.startswith("best handoff: sigma ") for line in lines)
    make_tiny(tmp_path / "one", 1)
    with pytest.raises(ValueError, match="has one expert"):
        write_calibration(str(tmp_path / "one"), tmp_path / "c.json", lines.append, count=2, device="cpu")
