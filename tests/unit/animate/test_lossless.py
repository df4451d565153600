"""Clips that keep every bit: read back by ours, by OpenCV, and by whoever asks FFmpeg for RGB."""

import av
import cv2
import numpy as np
import pytest

from pasdedeux.animate.clips import VideoClip
from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.lossless import LosslessClip, LosslessWriter
from pasdedeux.animate.video import read_metadata

SIZES = [(64, 48), (63, 47), (2, 2)]


def noise(count: int, size: tuple[int, int], kind: str) -> np.ndarray:
    rng = np.random.default_rng(size[0])
    if kind == "rgb":
        return rng.integers(0, 256, (count, size[1], size[0], 3), np.uint8)
    return rng.choice(np.array([0, 255], np.uint8), (count, size[1], size[0]))


def written(path, pictures, kind, fps=16.0, **more):
    with LosslessWriter(path, fps, (pictures.shape[2], pictures.shape[1]), kind, **more) as file:
        for picture in pictures:
            file.write(picture)
    return path


class Breaking:
    """Pictures of which the third cannot be had."""

    shape = (3, 48, 64)

    def __iter__(self):
        yield from np.zeros((2, 48, 64), np.uint8)
        raise ZeroDivisionError


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["rgb", "grey"])
def test_every_bit_comes_back_in_any_order(tmp_path, kind, size):
    pictures = noise(70, size, kind)
    with LosslessClip(written(tmp_path / "a.mp4", pictures, kind, fps=29.97)) as clip:
        assert (len(clip), clip.kind, clip.size) == (70, kind, size)
        assert clip.fps == pytest.approx(29.97)
        order = np.random.default_rng(1).permutation(70).tolist()
        assert np.array_equal(clip[order], pictures[order])
        assert np.array_equal(clip[[-1, 0]], pictures[[-1, 0]])
        with pytest.raises(IndexError):
            clip[[70]]


@pytest.mark.parametrize("kind", ["rgb", "grey"])
def test_other_readers_see_the_same(tmp_path, kind):
    pictures = noise(40, (64, 48), kind)
    path = written(tmp_path / "a.mp4", pictures, kind)
    colour = pictures if kind == "rgb" else np.repeat(pictures[..., None], 3, axis=-1)
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == 16
    for picture in colour:
        good, seen = capture.read()
        assert good
        assert np.array_equal(seen[..., ::-1], picture)
    with av.open(str(path)) as file:  # as imageio, decord and torchvision do
        seen = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert np.array_equal(seen, colour)
    with VideoClip(path) as clip:
        assert np.array_equal(np.stack(list(clip.each())), colour)


def test_all_levels_of_grey_survive(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, axis=0)
    path = written(tmp_path / "a.mp4", ramp, "grey")
    with LosslessClip(path) as clip:
        assert np.array_equal(clip[[0, 1, 2]], ramp)
    seen = cv2.VideoCapture(str(path)).read()[1]
    assert np.array_equal(seen[..., 0], ramp[0])


def test_going_back_decodes_few_frames(tmp_path, monkeypatch):
    path = written(tmp_path / "a.mp4", noise(200, (64, 48), "grey"), "grey")
    with LosslessClip(path) as clip:
        clip[[199]]
        decoded: list[int] = []
        plain = clip._reel._convert
        numbered = type(clip._reel)._numbered

        def watched(self, gop):
            for number, frame in numbered(self, gop):
                decoded.append(number)
                yield number, frame

        monkeypatch.setattr(type(clip._reel), "_numbered", watched)
        clip[[100]]
        assert 1 <= len(decoded) <= 30
        assert plain is clip._reel._convert


def test_metadata_comes_back(tmp_path):
    record = {"person": "2", "model": "é"}
    assert read_metadata(written(tmp_path / "a.mp4", noise(2, (64, 48), "grey"), "grey", metadata=record)) == record


def test_whole_or_not_at_all(tmp_path):
    with pytest.raises(InputError, match="No picture"), LosslessWriter(tmp_path / "a.mp4", 16, (64, 48), "grey"):
        pass
    with pytest.raises(ZeroDivisionError):
        written(tmp_path / "a.mp4", Breaking(), "grey")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("picture", [np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), bool), np.zeros((2, 2), "u1")])
def test_only_its_own_pictures_are_written(tmp_path, picture):
    with (
        pytest.raises(ValueError, match="must be uint8"),
        LosslessWriter(tmp_path / "a.mp4", 16, (64, 48), "grey") as f,
    ):
        f.write(picture)


@pytest.mark.parametrize(
    ("name", "fps", "size", "says"),
    [("a.mkv", 16, (64, 48), "end in .mp4"), ("a.mp4", 0, (64, 48), "Frames per"), ("a.mp4", 16, (1, 48), "2x2")],
)
def test_what_cannot_be_written(tmp_path, name, fps, size, says):
    with pytest.raises(InputError, match=says):
        LosslessWriter(tmp_path / name, fps, size, "grey")


def test_another_video_is_no_lossless_clip(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for packet in stream.encode(av.VideoFrame(64, 48, "yuv420p")) + stream.encode(None):
            file.mux(packet)
    with pytest.raises(InputError, match="not a lossless clip"):
        LosslessClip(tmp_path / "a.mp4")
