"""Pictures people have: turned, transparent, deep, broken, huge; and a character inside its own PNG."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pasdedeux.animate.images import (
    character_metadata,
    embedded_character,
    fit_points,
    letterbox,
    load_image,
    save_png,
)
from pasdedeux.animate.inputs import CharacterImage, InputError


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_png_round_trip_keeps_pixels_and_texts(tmp_path, picture):
    save_png(tmp_path / "a.png", picture, {"name": "Ondine, été"})
    loaded = load_image(tmp_path / "a.png")
    assert (loaded.image == picture).all()
    assert loaded.metadata["name"] == "Ondine, été"
    assert loaded.alpha is None
    assert loaded.notes == ()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_exif_rotation_is_applied(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    assert (load_image(tmp_path / "a.png").image == np.rot90(picture, -1)).all()


def test_transparency_is_laid_on_grey(tmp_path, picture):
    alpha = np.zeros((40, 60, 1), np.uint8)
    alpha[:20] = 255
    Image.fromarray(np.concatenate([picture, alpha], -1)).save(tmp_path / "a.png")
    loaded = load_image(tmp_path / "a.png")
    assert (loaded.image[:20] == picture[:20]).all()
    assert (loaded.image[20:] == 128).all()
    assert (loaded.alpha == alpha[..., 0]).all()
    assert "transparent" in loaded.notes[0]


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    Image.fromarray(np.full((20, 20), 128 * 257, np.uint16)).save(tmp_path / "a.png")
    loaded = load_image(tmp_path / "a.png")
    assert (loaded.image == 128).all()
    assert "16-bit" in loaded.notes[0]


def test_cmyk_is_converted(tmp_path):
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert np.abs(load_image(tmp_path / "a.jpg").image[5, 5].astype(int) - (255, 0, 0)).max() < 12


def _bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.png", b"", "empty"),
        ("text.png", b"not a picture at all", "not a picture"),
        ("film.png", b"\0\0\0\x20ftypisom\0\0\0\0", "is a video"),
        ("bomb.png", _bomb(), "80 million"),
        ("folder", None, "is a folder"),
        ("missing.png", "missing", "There is no file"),
    ],
)
def test_what_is_no_picture_gets_one_sentence(tmp_path, name, content, says):
    path = tmp_path / name
    if content is None:
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_cut_off_is_an_error(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="damaged or cut off"):
        load_image(path)


def test_a_tiny_picture_is_an_error(tmp_path):
    Image.new("RGB", (8, 40)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="8x40"):
        load_image(tmp_path / "a.png")


def test_saving_where_there_is_no_folder_is_an_error(tmp_path, picture):
    with pytest.raises(InputError, match="no folder"):
        save_png(tmp_path / "nowhere" / "a.png", picture, {})


def test_a_failed_save_leaves_nothing(tmp_path):
    with pytest.raises((TypeError, ValueError)):
        save_png(tmp_path / "a.png", np.zeros((4, 4, 7), np.uint8), {})
    assert list(tmp_path.iterdir()) == []


def test_a_character_travels_in_its_png(tmp_path, figure):
    keypoints = figure(np.zeros((1, 21)))
    mask = np.zeros((256, 256), np.uint8)
    mask[40:200, 90:160] = 255
    image = np.full((256, 256, 3), 9, np.uint8)
    character = CharacterImage(image=image, mask=mask, keypoints=keypoints)
    save_png(tmp_path / "a.png", image, character_metadata(character, seed=7))
    loaded = load_image(tmp_path / "a.png")
    back = embedded_character(loaded)
    assert back is not None
    assert loaded.metadata["pasdedeux.seed"] == "7"
    assert (back.mask == mask).all()
    np.testing.assert_allclose(back.keypoints.body, keypoints.body, atol=0.006)


def test_a_plain_png_holds_no_character(tmp_path, picture):
    save_png(tmp_path / "a.png", picture, {})
    assert embedded_character(load_image(tmp_path / "a.png")) is None


def test_letterbox_and_points_agree(figure):
    keypoints = figure(np.zeros((1, 21)), size=(300, 200))
    image = np.zeros((200, 300, 3), np.uint8)
    image[100:110, 150:160] = 255
    boxed, fit = letterbox(image, (128, 128), 7)
    assert boxed.shape == (128, 128, 3)
    assert (boxed[:20] == 7).all()
    moved = fit_points(keypoints, fit)
    assert moved.size == (128, 128)
    rows, columns = np.nonzero(boxed[..., 0] > 128)
    expected = np.array([154.5, 104.5]) * fit.scale + [fit.left, fit.top]
    np.testing.assert_allclose([columns.mean(), rows.mean()], expected, atol=0.6)
    np.testing.assert_allclose(
        moved.body[0, 0, :2], keypoints.body[0, 0, :2] * fit.scale + [fit.left, fit.top], rtol=1e-5
    )
