"""Drivers of every kind in front of a model: videos, prepared folders, others' folders, drawn skeletons."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pasdedeux.animate.clips import VideoClip
from pasdedeux.animate.images import save_png
from pasdedeux.animate.inputs import InputError, Keypoints
from pasdedeux.animate.lossless import LosslessClip
from pasdedeux.animate.prepared import is_prepared
from pasdedeux.animate.preprocess.wholebody import save_keypoints
from pasdedeux.animate.video_writer import VideoWriter
from pasdedeux.animate.wan_folder import is_wan_folder, read_wan_folder
from pasdedeux.engine import Engine, Event, Found, Job, Loading, Parts, Preparation, Result
from pasdedeux.engine.folder import write_folder
from pasdedeux.engine.sources import joints
from pasdedeux.puppets import Character, Choreography, Light, Place, render

ANIMATE, VACE = "wan2.2-animate-14b", "wan2.2-vace-fun-a14b"
FRAMES, FPS, SIZE = 6, 30.0, (96, 64)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Keypoints]:
    """A film of a puppet, and a file of its true points."""
    folder = tmp_path_factory.mktemp("driver")
    poses = Choreography.from_seed(4).poses(FRAMES, FPS, start=0)
    clip = render(Character.from_seed(4), poses, Place.from_seed(4), Light.from_seed(4), SIZE)
    with VideoWriter(folder / "film.mp4", FPS, SIZE) as video:
        for frame in clip.frames:
            video.write(frame)
    points = joints(clip)
    save_keypoints(folder / "points.npz", points, FPS)
    return folder / "film.mp4", folder / "points.npz", points


def job_of(driver: tuple[Path, Path, Keypoints], **settings: object) -> Job:
    asked = Preparation(keypoints=str(driver[1]))
    return Job(**{"character": "puppet:3", "driver": str(driver[0]), "preparation": asked, **settings})


def run(folder: Path, job: Job) -> tuple[Result, list[Event]]:
    events: list[Event] = []
    with Engine.open(folder, "cpu", Parts(dtype="float32")) as engine:
        return engine.run(job, events.append), events


def prepared(driver: tuple[Path, Path, Keypoints], folder: Path, **settings: object) -> Path:
    return write_folder(job_of(driver, size="96x64", **settings), folder, lambda _: None).folder


def test_a_folder_holds_what_wan_animate_takes(driver: tuple[Path, Path, Keypoints], tmp_path: Path) -> None:
    folder = prepared(driver, tmp_path / "out", mode="replace")
    names = {path.name for path in folder.iterdir()}
    assert names >= {"src_pose.mp4", "src_face.mp4", "src_ref.png", "src_bg.mp4", "src_mask.mp4"}
    assert names >= {"keypoints.npz", "keypoints.json", "mask.mp4", "overlay.png", "prepared.json"}
    assert is_prepared(folder)
    assert is_wan_folder(folder)
    drivers, fps = read_wan_folder(folder, "replace")
    assert (len(drivers), drivers.size, fps) == (FRAMES, SIZE, FPS)
    background, mask = drivers.surroundings([0, 5])
    assert set(np.unique(mask)) == {0, 255}
    assert background[mask > 0].max() == 0
    with LosslessClip(folder / "src_mask.mp4") as own:
        np.testing.assert_array_equal(own[[0, 5]], mask)
    assert drivers.face[[0]].shape == (1, 512, 512, 3)


def test_without_a_character_there_is_no_reference(driver: tuple[Path, Path, Keypoints], tmp_path: Path) -> None:
    folder = prepared(driver, tmp_path / "out", character=None)
    assert (folder / "src_pose.mp4").is_file()
    assert not (folder / "src_ref.png").exists()
    assert not (folder / "src_bg.mp4").exists()
    with pytest.raises(InputError, match=r"src_ref\.png: a reference picture"):
        read_wan_folder(folder, "animate")


@pytest.mark.parametrize("mode", ["animate", "replace"])
def test_a_prepared_folder_is_its_driver(
    wan_folders: Callable[[str], Path], driver: tuple[Path, Path, Keypoints], tmp_path: Path, mode: str
) -> None:
    folder = prepared(driver, tmp_path / "out", mode=mode)
    shared = {"mode": mode, "prompt": "a", "steps": 1, "size": "96x64"}
    one, events = run(wan_folders(ANIMATE), job_of(driver, **shared))
    found = [event for event in events if isinstance(event, Found)]
    assert found[0].picture.name == "overlay.png"
    assert events.index(found[0]) < min(i for i, event in enumerate(events) if isinstance(event, Loading))
    other, _ = run(wan_folders(ANIMATE), Job(character="puppet:3", driver=str(folder), **shared))
    np.testing.assert_array_equal(one.frames, other.frames)


@pytest.mark.parametrize("mode", ["animate", "replace"])
def test_a_folder_of_wan_animates_own_program_leads(
    wan_folders: Callable[[str], Path], driver: tuple[Path, Path, Keypoints], tmp_path: Path, mode: str
) -> None:
    folder = prepared(driver, tmp_path / "out", mode=mode)
    for name in ("prepared.json", "keypoints.npz", "mask.mp4"):
        (folder / name).unlink()
    made, _ = run(wan_folders(ANIMATE), Job(driver=str(folder), mode=mode, prompt="a", steps=1))
    assert made.frames.shape == (FRAMES, 64, 96, 3)
    assert made.frames.std() > 1
    with pytest.raises(InputError, match="prepared for Wan-Animate"):
        run(wan_folders(VACE), Job(driver=str(folder), prompt="a", steps=1))
    with pytest.raises(ValueError, match="prepared for 96x64, not for 64x64"):
        run(wan_folders(ANIMATE), Job(driver=str(folder), prompt="a", steps=1, size="64x64"))


def test_a_drawn_skeleton_leads(
    wan_folders: Callable[[str], Path], driver: tuple[Path, Path, Keypoints], tmp_path: Path
) -> None:
    folder = prepared(driver, tmp_path / "out")
    asked = Preparation(skeleton=str(folder / "src_pose.mp4"))
    job = Job(character="puppet:3", prompt="a", steps=1, size="96x64", preparation=asked)
    made, _ = run(wan_folders(ANIMATE), job)
    assert made.frames.shape == (FRAMES, 64, 96, 3)
    assert any("no expression" in note for note in made.report.notes)
    short, _ = run(wan_folders(ANIMATE), Job(**{**vars_of(job), "frames": 5}))
    assert len(short.frames) == 5
    with pytest.raises(InputError, match="driver's video beside the skeleton"):
        run(wan_folders(ANIMATE), Job(**{**vars_of(job), "mode": "replace"}))


def vars_of(job: Job) -> dict[str, object]:
    return {name: getattr(job, name) for name in Job.__dataclass_fields__}


def test_a_character_nobody_understands_keeps_the_performers_proportions(
    wan_folders: Callable[[str], Path], driver: tuple[Path, Path, Keypoints], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, tiny: Path,
) -> None:  # fmt: skip
    def nobody(*_: object, name: str, **__: object) -> None:
        raise InputError(f"{name}: no person was found.")

    monkeypatch.setattr("pasdedeux.engine.sources.detect_character", nobody)
    save_png(tmp_path / "blob.png", np.full((64, 96, 3), 90, np.uint8), {})
    job = job_of(driver, character=str(tmp_path / "blob.png"), prompt="a", steps=1, size="96x64")
    made, _ = run(wan_folders(ANIMATE), job)
    assert any("pose is not known" in note for note in made.report.notes)
    with pytest.raises(InputError, match="--character-keypoints"):
        run(tiny, job_of(driver, character=str(tmp_path / "blob.png")))
    given = Preparation(keypoints=str(driver[1]), character_keypoints=str(driver[1]))
    one = Job(character=str(tmp_path / "blob.png"), driver=str(driver[0]), preparation=given, frames=5)
    assert "pose is not known" not in " ".join(run(tiny, one)[0].report.notes)


def test_nothing_large_is_read_for_a_driver_that_cannot_be_followed(
    wan_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no film")
    events: list[Event] = []
    with Engine.open(wan_folders(ANIMATE), "cpu") as engine, pytest.raises(InputError, match=r"film\.mp4"):
        engine.run(Job(driver=str(tmp_path / "film.mp4"), prompt="a", size="64x64"), events.append)
    assert not any(isinstance(event, Loading) for event in events)


def test_range_and_rate_are_the_drivers(driver: tuple[Path, Path, Keypoints], tmp_path: Path) -> None:
    asked = Preparation(keypoints=str(driver[1]), start=2 / FPS, end=5 / FPS)
    made = write_folder(job_of(driver, preparation=asked, size="96x64"), tmp_path / "out", lambda _: None)
    assert made.frames == 3
    with VideoClip(tmp_path / "out" / "src_pose.mp4") as pose:
        assert (len(pose), pose.fps) == (3, FPS)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"start": -1.0}, "start"),
        ({"start": 2.0, "end": 1.0}, "must come after the start"),
        ({"person": 0}, "counted from 1"),
        ({"near": "left"}, "write X,Y"),
        ({"near": "2,0.5"}, "shares of the picture"),
        ({"near": "0.5,0.5", "person": 1}, "not by both"),
        ({"backend": "yolo"}, "no backend"),
        ({"backend": "pose=,mask=sam2"}, "stages are"),
        ({"retarget": "mine"}, "Retargeting"),
        ({"grow": -1}, "grow by"),
        ({"blocks": "3"}, "COLUMNSxROWS"),
        ({"blocks": "0x2"}, "COLUMNSxROWS"),
        ({"skeleton": "a.mp4", "mask": "b.mp4"}, "drawn already"),
        ({"start": "now"}, "number of seconds"),
    ],
)
def test_what_is_of_no_use_is_told(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Preparation(**wrong)


def test_a_job_keeps_its_preparation_in_json() -> None:
    job = Job(preparation=Preparation(start=1.0, person=2, backend="pose=vitpose"))
    assert Job.from_json(job.to_json()) == job
    assert job.preparation.backends == {"people": "auto", "pose": "vitpose", "mask": "auto"}
    with pytest.raises(ValueError, match="no speed"):
        Job.from_json('{"preparation": {"speed": 2}}')
    with pytest.raises(ValueError, match="JSON object"):
        Job.from_json('{"preparation": 2}')
