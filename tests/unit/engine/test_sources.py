from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pasdedeux.animate.images import character_metadata, save_png
from pasdedeux.animate.inputs import InputError
from pasdedeux.checkpoints.folder import read_manifest
from pasdedeux.engine import Job, Settings, cast, defaults_of, settle
from pasdedeux.engine.sources import find_character, fit, padded, puppet_character


def settings_of(tiny: Path, job: Job) -> Settings:
    return settle(job, defaults_of(read_manifest(tiny)))


def test_a_puppet_has_the_jobs_size_and_length(tiny: Path) -> None:
    job = Job(character="puppet:3", driver="puppet:4", size="96x64", frames=5)
    found = cast(job, settings_of(tiny, job), print)
    assert found.character.image.shape == (64, 96, 3)
    assert found.character.keypoints.size == (96, 64)
    assert len(found.performance.keypoints) == 5
    assert found.performance.frames is not None
    assert found.performance.frames[[0, 4]].shape == (2, 64, 96, 3)


def test_seeds_decide_who_is_seen(tiny: Path) -> None:
    size = (64, 64)
    assert np.array_equal(puppet_character(3, size).image, puppet_character(3, size).image)
    assert not np.array_equal(puppet_character(3, size).image, puppet_character(4, size).image)


def test_a_written_character_is_read_back_exactly(tmp_path: Path) -> None:
    drawn = puppet_character(3, (64, 64))
    save_png(tmp_path / "hero.png", drawn.image, character_metadata(drawn, 3))
    found, notes = find_character(str(tmp_path / "hero.png"), (64, 64))
    assert np.array_equal(found.image, drawn.image)
    assert np.array_equal(found.mask, drawn.mask)
    assert np.allclose(found.keypoints.body, drawn.keypoints.body, atol=0.006)
    assert notes == ()


def test_a_picture_is_fitted_with_its_points_and_mask() -> None:
    drawn = puppet_character(3, (64, 64))
    found = fit(drawn, (192, 128))
    assert found.image.shape == (128, 192, 3)
    x, y = found.keypoints.body[0, 1, :2]
    assert np.allclose((x, y), drawn.keypoints.body[0, 1, :2] * 2 + (32, 0), atol=0.01)
    assert found.mask[:, :32].max() == 0
    assert found.mask[round(y) + 4, round(x)] > 200
    assert fit(drawn, (64, 64)) is drawn


@pytest.mark.parametrize("size", [(128, 64), (64, 128), (96, 104)])
def test_margins_continue_the_edge(size: tuple[int, int]) -> None:
    image = np.full((64, 64, 3), 40, np.uint8)
    image[:, :, 0] = 200
    out = padded(image, size)
    assert out.shape == (size[1], size[0], 3)
    assert np.abs(out.astype(int) - (200, 40, 40)).max() <= 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("absent.png", None, "no file"),
        ("empty.png", b"", "empty"),
        ("text.png", b"hello, this is text", "not a picture"),
        ("clip.png", b"\0\0\0\x18ftypmp42\0\0\0\0", "is a video"),
    ],
)
def test_a_file_that_is_no_picture(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        find_character(str(tmp_path / name), (64, 64))


@pytest.mark.parametrize("name", ["absent.mp4", "empty.mp4", "text.mp4", "still.png"])
def test_a_file_that_is_no_video(tiny: Path, tmp_path: Path, name: str) -> None:
    if name != "absent.mp4":
        (tmp_path / name).write_bytes(b"" if name == "empty.mp4" else b"hello, this is text")
    if name == "still.png":
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    job = Job(driver=str(tmp_path / name))
    with pytest.raises(InputError, match=name):
        cast(job, settings_of(tiny, job), print)
