import json
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pasdedeux import __version__
from pasdedeux.animate.images import load_image
from pasdedeux.animate.video import probe
from pasdedeux.apps.cli import app
from pasdedeux.engine import Report


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def animate(tiny: Path, *words: object) -> Result:
    return call("animate", "--model", tiny, "--frames", 5, "--steps", 4, "--device", "cpu", *words)


def test_a_clip_and_its_report(tiny: Path, tmp_path: Path) -> None:
    done = animate(tiny, "-o", tmp_path / "out.mp4", "--report", tmp_path / "out.json", "--seed", 3)
    assert done.exit_code == 0, done.output
    assert "5 frames of 64x64 at 12 fps" in done.stdout
    assert "high 3, low 1" in done.stdout
    assert probe(tmp_path / "out.mp4").frames == 5
    report = Report.from_json((tmp_path / "out.json").read_text())
    assert report.job["seed"] == 3
    assert load_image(tmp_path / "out.png").image.shape[1] > 1000


def test_a_new_character_can_be_animated(tiny: Path, tmp_path: Path) -> None:
    drawn = call("character", "new", "--seed", 5, "--size", "96x80", "-o", tmp_path / "hero.png")
    assert drawn.exit_code == 0, drawn.output
    assert load_image(tmp_path / "hero.png").metadata["pasdedeux.seed"] == "5"
    done = animate(tiny, tmp_path / "hero.png", "puppet:2", "-o", tmp_path / "out.mp4")
    assert done.exit_code == 0, done.output


def test_inspect_says_bands_and_sizes(tiny: Path) -> None:
    done = call("inspect", tiny)
    assert done.exit_code == 0, done.output
    for said in (
        "high",
        "low",
        "0.750 to 1.000",
        "-inf to -2.20",
        "4x8x8",
        "4 steps of euler",
        "active in a step",
    ):
        assert said in done.stdout


def test_version() -> None:
    assert call("--version").stdout.strip() == f"pasdedeux {__version__}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("absent.png",), "There is no file absent.png"),
        (("puppet:1", "absent.mp4"), "no file absent.mp4"),
        (("puppet:one",), "names no puppet"),
        (("--size", "100x100"), "nearest that fits is 96x96"),
        (("--size", "big"), "WIDTHxHEIGHT"),
        (("--handoff", "0"), "between 0 and 1"),
        (("--handoff", "1"), "between 0 and 1"),
        (("--handoff", "1.5"), "between 0 and 1"),
        (("--handoff", "abc"), "write auto"),
        (("--handoff", "0.8,0.4"), "this model takes 1"),
        (("--mode", "dance"), "animate or replace"),
        (("--steps", "0"), "steps is 0"),
        (("--frames", "0"), "frames is 0"),
        (("--solver", "ddim"), "one of euler"),
        (("-o", "nowhere/out.mp4"), "there is no folder"),
        (("-o", "folder.mp4"), "it is a folder"),
        (("-o", "out.xyz"), "must end in"),
        (("--report", "out.txt"), "must end in .json"),
        (("--report", "nowhere/out.json"), "there is no folder"),
        (("--model", "nowhere"), 'There is no model "nowhere"'),
        (("--device", "mars"), 'The device is "mars"'),
    ],
)
def test_a_fault_of_the_user_is_one_sentence_and_code_2(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.mp4").mkdir()
    done = animate(tiny, *words)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["folder.mp4"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("character", "new", "-o", "hero.jpg"), "must end in .png"),
        (("character", "new", "--seed", "-3"), "seed is -3"),
        (("character", "new", "--size", "x"), "WIDTHxHEIGHT"),
        (("character", "new", "--size", "4x4"), "at least 16"),
        (("inspect", "nowhere"), "There is no model"),
        (("train", "pair", "--folder", "new", "--clips", "4"), "at least 32"),
        (("train", "pair", "--folder", "new", "--steps", "0"), "steps is 0"),
        (("train", "pair", "--folder", "new", "--device", "mars"), 'The device is "mars"'),
        (("train", "pair", "--folder", "new", "--share", "luck", "--dry-run"), "equal or density"),
        (("train", "pair", "--folder", "new", "--handoff", "abc"), "write auto"),
        (("train", "pair", "--folder", "new", "--devices", "cpu,mars"), 'The device is "mars"'),
        (("evaluate", "--folder", "nowhere"), "There is no model"),
        (("evaluate", "--calibrate", "--out", "c.txt"), "must end in .json"),
        (("evaluate", "--calibrate", "-n", "0"), "must be 1 or more"),
        (("evaluate", "--mode", "dance"), "animate or replace"),
        (("evaluate", "-n", "0"), "must be 1 or more"),
        (("evaluate", "--strip", "strip.jpg"), "must end in .png"),
    ],
)
def test_other_commands_refuse_in_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*words)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_ours_is_not_blamed_on_the_user(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        json.loads("{")

    monkeypatch.setattr("pasdedeux.apps.inspecting.show_model", broken)
    done = call("inspect", tiny)
    assert done.exit_code == 1
    assert isinstance(done.exception, ValueError)


def test_ctrl_c_stops_within_a_step(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pasdedeux.apps.progress import ProgressLine
    from pasdedeux.engine import Event

    seen: list[Event] = []

    def press(_: ProgressLine, event: Event) -> None:
        seen.append(event)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ProgressLine, "show", press)
    done = animate(tiny, "-o", tmp_path / "out.mp4")
    assert done.exit_code == 130, done.output
    assert "was not written" in done.stderr
    assert len(seen) == 3
    assert list(tmp_path.iterdir()) == []
