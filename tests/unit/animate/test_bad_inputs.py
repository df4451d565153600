"""Every case of the corpus of bad and odd inputs ends as it should, through the code that the command line uses."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pasdedeux.animate.clips import VideoClip
from pasdedeux.animate.prepared import load_prepared
from pasdedeux.apps.cli import app

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import bad_inputs  # noqa: E402 - it lies beside this file, and is a program as well
from bad_inputs import CASES, Kit, can_run, made, run  # noqa: E402
from bad_kit import discoloured, number_of, stamped  # noqa: E402

MOST_MEGABYTES = 2000
SIZE = ("--size", "64x64", "--steps", "2")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("cases"))


@pytest.fixture(autouse=True)
def apart(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is found in a cache that another run has filled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def marked(name: str):
    """The case as a parameter, with what keeps it from being run here."""
    one = CASES[name]
    marks = [pytest.mark.skip(reason=why)] if (why := can_run(one)) else []
    marks += [pytest.mark.slow] if one.slow else []
    marks += [pytest.mark.xfail(reason=one.flaw, strict=True)] if one.flaw else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [marked(name) for name in CASES])
def test_a_case_ends_as_it_should(kit, name):
    outcome = run(CASES[name], kit)
    assert not outcome.faults, outcome.said


def test_there_are_enough_cases():
    assert len(CASES) >= 40
    assert {one.expect for one in CASES.values()} == {"good", "warned", "refused"}


def test_stamps_tell_pictures_apart():
    picture = np.full((120, 160, 3), 90, np.uint8)
    for number in range(16):
        assert number_of(stamped(picture, number)) == number
        for wrong in (stamped(picture, number)[:, ::-1], stamped(picture, number)[::-1], picture):
            assert number_of(wrong) == -1
    assert discoloured(stamped(picture, 3)) == 0
    assert discoloured(stamped(picture, 3)[..., ::-1]) > 100


def test_a_wrong_result_is_found_out(kit):
    plain = CASES["plain"]
    assert not run(plain, kit).faults
    for wrong in (
        replace(plain, numbers=tuple(range(11))),
        replace(plain, numbers=(0, *range(11))),
        replace(plain, sound=(0.0, 1.0)),
        replace(plain, says="no such sentence"),
        replace(plain, expect="refused"),
        replace(plain, levels=0.0),
    ):
        assert run(wrong, kit).faults


@pytest.mark.parametrize("name", ["text", "keypoints_of_another_picture", "one_pixel_character"])
def test_a_refusal_on_the_command_line(kit, tmp_path, name):
    words = bad_inputs.words_of(CASES[name], *made(CASES[name], kit), tmp_path / "out.mp4")
    ended = subprocess.run([sys.executable, "-m", "pasdedeux", *words], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("pasdedeux: ")
    assert CASES[name].says in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_whole_corpus_needs_less_than_two_gigabytes(tmp_path):
    """In a few processes: what one case leaves behind counts for the next ones, and a person's job is one case."""
    program = [sys.executable, str(HERE / "bad_inputs.py"), str(tmp_path / "cases")]
    room = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    subprocess.run(program, env=room, check=True, capture_output=True, timeout=300)
    names = [name for name, one in CASES.items() if not can_run(one)]
    for batch in (names[k::4] for k in range(4)):
        words = [*program, "--run", *(word for name in batch for word in ("--only", name))]
        ended = subprocess.run(words, env=room, check=True, capture_output=True, text=True, timeout=900)
        *outcomes, total = map(json.loads, ended.stdout.splitlines())
        assert [one["name"] for one in outcomes] == batch
        assert [one["name"] for one in outcomes if one["faults"] and not CASES[one["name"]].flaw] == []
        assert total["megabytes"] < MOST_MEGABYTES


# A driver that was prepared before


@pytest.fixture(scope="module")
def prepared(kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The puppet's film with its sound, prepared at its own rate to be replaced."""
    film, more = made(CASES["late_sound"], kit)
    copy, folder = tmp_path_factory.mktemp("driver") / "film.mp4", tmp_path_factory.mktemp("prepared")
    shutil.copy(film, copy)
    words = ["prepare", str(copy), *more, "-o", str(folder), "--replace", "--fps", "12", "--size", "160x128"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.stderr
    return folder


def test_a_prepared_folder_shows_the_film(prepared, kit):
    with VideoClip(prepared / "src_bg.mp4") as clip:
        pictures = np.stack(list(clip.each()))[:, 4:124].astype(int)
    with VideoClip(prepared / "src_mask.mp4") as clip:
        outside = np.stack(list(clip.each()))[:, 4:124].max(axis=-1) == 0
    assert [number_of(picture) for picture in pictures] == list(range(12))
    assert 0.3 < outside.mean() < 0.95
    assert np.abs(pictures - kit.frames)[outside].mean() < 3
    assert (pictures[~outside] == 0).all()


PACES = [((), 12, 12), (("--fps", "6"), 6, 6), (("--frames", "5"), 5, 12)]


@pytest.mark.parametrize(("options", "frames", "fps"), PACES)
def test_a_prepared_driver_keeps_its_time(prepared, tmp_path, options, frames, fps):
    words = ["animate", "puppet:7", str(prepared), "-o", str(tmp_path / "out.mp4"), *SIZE, *options]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.stderr
    with VideoClip(tmp_path / "out.mp4") as clip:
        assert (len(clip), clip.fps) == (frames, fps)


def test_a_prepared_driver_in_replace_mode_is_its_own_scene(prepared, tmp_path):
    words = ["animate", "puppet:7", str(prepared), "-o", str(tmp_path / "out.mp4"), "--mode", "replace", "--steps", "2"]
    ended = CliRunner().invoke(app, [*words, "--size", "160x128", "--fps", "6"])
    assert ended.exit_code == 0, ended.stderr
    with VideoClip(tmp_path / "out.mp4") as clip:
        assert [number_of(picture[4:124]) for picture in clip.each()] == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("option", [("--start", "0.5"), ("--person", "2"), ("--keypoints", "points.npz")])
def test_what_was_decided_is_not_asked_again(prepared, tmp_path, option):
    words = ["animate", "puppet:7", str(prepared), "-o", str(tmp_path / "out.mp4"), *SIZE, *option]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 2
    assert f"is prepared already, which decided its {option[0][2:]}" in ended.stderr


def test_a_driver_that_changed_since_is_found_out(prepared, kit, tmp_path):
    driver = Path(load_prepared(prepared).record["asked"]["driver"])
    kept = driver.read_bytes()
    shutil.copy(made(CASES["two_frames"], kit)[0], driver)
    try:
        ended = CliRunner().invoke(app, ["animate", "puppet:7", str(prepared), "-o", str(tmp_path / "out.mp4"), *SIZE])
    finally:
        driver.write_bytes(kept)
    assert ended.exit_code == 2
    assert "has changed since" in ended.stderr


def test_a_driver_may_be_named_from_where_one_is_and_move(kit, tmp_path, monkeypatch):
    film, more = made(CASES["two_frames"], kit)
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        shutil.copy(film, tmp_path / place / "film.mp4")
        monkeypatch.chdir(tmp_path / place)
        words = ["prepare", "film.mp4", *more, "-o", "folder", "--fps", "12", "--size", "64x64"]
        assert CliRunner().invoke(app, words).exit_code == 0
    (tmp_path / "here/film.mp4").unlink()
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["animate", "puppet:7", "there/folder", "-o", "out.mp4", *SIZE])
    assert ended.exit_code == 0, ended.stderr


def test_a_record_that_was_spoilt_is_one_sentence(prepared, tmp_path):
    record = json.loads((prepared / "prepared.json").read_text())
    spoilt = [
        {},
        [1],
        {**record, "version": 99},
        {**record, "fps": "x"},
        {**record, "frames": 3},
        {**record, "asked": 0},
    ]
    folder = tmp_path / "folder"
    for content in spoilt:
        shutil.copytree(prepared, folder, dirs_exist_ok=True)
        (folder / "prepared.json").write_text(json.dumps(content))
        ended = CliRunner().invoke(app, ["animate", "puppet:7", str(folder), "-o", str(tmp_path / "out.mp4"), *SIZE])
        assert ended.exit_code == 2
        assert len(ended.stderr.splitlines()) == 1
        assert "prepare" in ended.stderr
    shutil.copy(prepared / "prepared.json", folder)
    (folder / "mask.mp4").write_bytes((folder / "mask.mp4").read_bytes()[:400])
    ended = CliRunner().invoke(app, ["animate", "puppet:7", str(folder), "-o", str(tmp_path / "out.mp4"), *SIZE])
    assert ended.exit_code == 2
