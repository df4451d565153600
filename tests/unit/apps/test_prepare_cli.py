"""`pasdedeux prepare`: a folder and a few lines, or one sentence and exit code 2."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pasdedeux.animate.preprocess.wholebody import save_keypoints
from pasdedeux.animate.video_writer import VideoWriter
from pasdedeux.apps.cli import app
from pasdedeux.engine.sources import joints
from pasdedeux.puppets import Character, Choreography, Light, Place, render


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six frames of a puppet, and its true points."""
    folder = tmp_path_factory.mktemp("film")
    clip = render(
        Character.from_seed(4),
        Choreography.from_seed(4).poses(6, 30.0, start=0),
        Place.from_seed(4),
        Light.from_seed(4),
        (96, 64),
    )
    with VideoWriter(folder / "film.mp4", 30.0, (96, 64)) as video:
        for frame in clip.frames:
            video.write(frame)
    save_keypoints(folder / "points.json", joints(clip), 30.0)
    return folder / "film.mp4", folder / "points.json"


def test_a_folder_is_written_and_named(film: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "prepared"
    made = call("prepare", film[0], "--keypoints", film[1], "--for", "puppet:3", "--size", "96x64", "-o", out)
    assert made.exit_code == 0, made.output
    assert "6 frames of 96x64 at 30 fps" in made.stdout
    assert f"look at {out / 'overlay.png'}" in made.stdout
    assert "overlay.png" in made.stderr
    for line in made.stdout.splitlines()[1:2]:
        assert all((out / name.strip()).is_file() for name in line.split(","))
    again = call("prepare", out, "--for", "puppet:3", "--replace", "--size", "96x64", "-o", out)
    assert again.exit_code == 0, again.output
    assert (out / "src_mask.mp4").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "driver's video is needed"),
        (("puppet:3",), "puppets need no preparation"),
        (("absent.mp4",), "no file absent.mp4"),
        (("FILM", "--start", "-1"), "start"),
        (("FILM", "--start", "9", "--keypoints", "POINTS"), "no frame at 9 seconds"),
        (("FILM", "--end", "0"), "must come after the start"),
        (("FILM", "--person", "0"), "counted from 1"),
        (("FILM", "--near", "here"), "write X,Y"),
        (("FILM", "--keypoints", "absent.json"), "no file absent.json"),
        (("FILM", "--keypoints", "FILM"), "film.mp4"),
        (("FILM", "--keypoints", "POINTS", "--mask", "absent.mp4"), "no file absent.mp4"),
        (("FILM", "--keypoints", "POINTS", "-o", "FILM"), "is a file"),
        (("FILM", "--keypoints", "POINTS", "--size", "90x64"), "multiple of 16"),
        (("FILM", "--keypoints", "POINTS", "--for", "absent.png"), "no file absent.png"),
        (("FILM", "--keypoints", "POINTS", "--fps", "0"), "fps"),
        (("FILM", "--skeleton", "FILM"), "drawn already"),
        (("FILM", "--backend", "openpose"), "no backend"),
        (("FILM", "--backend", "pose=vitpose"), "vitpose cannot be used here"),
        (("FILM", "--prepare-models", "absent"), "no folder absent"),
        (("FILM", "--mask-blocks", "many"), "COLUMNSxROWS"),
        (("FILM", "--retarget", "well"), "Retargeting"),
    ],
)
def test_each_fault_is_one_sentence(
    film: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"FILM": film[0], "POINTS": film[1]}
    made = call("prepare", *(names.get(word, word) for word in words))
    assert made.exit_code == 2, (made.output, made.exception)
    sentences = [line for line in made.stderr.splitlines() if line.startswith("pasdedeux: ")]
    assert len(sentences) == 1
    assert said in sentences[0]
    assert not (tmp_path / "prepared").exists()


def test_what_can_look_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = call("prepare", "--backends")
    assert made.exit_code == 0
    for name in ("rtdetr", "mediapipe", "vitpose", "sam2", "Apache-2.0", "no file"):
        assert name in made.stdout


def test_animate_says_where_to_look(film: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    made = call("animate", "puppet:3", film[0], "--keypoints", film[1], "--steps", 1, "--frames", 2, "-o", out)
    assert made.exit_code == 0, (made.output, made.exception)
    assert "what was found in the driver: " in made.stderr
    assert out.is_file()
    picture = next(line.rpartition("driver: ")[2] for line in made.stderr.splitlines() if "found in the driver" in line)
    assert Path(picture.strip()).is_file()
    assert np.fromfile(picture.strip(), np.uint8, 4)[1:4].tobytes() == b"PNG"
