"""Video in and out: by timestamp, upright, exact counts, true colours, sound kept, whole or not at all."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from PIL import Image

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.video import (
    VideoWriter,
    check_writable,
    frames_at,
    probe,
    read_metadata,
    read_video,
)

TALK = Path(__file__).parents[3].parent / "shared/media/talk.mp4"
needs_talk = pytest.mark.skipif(not TALK.exists(), reason="no sample video")


def flat(level: int, size=(64, 48)) -> np.ndarray:
    return np.full((size[1], size[0], 3), level, np.uint8)


def write(path: Path, levels, fps=10.0, **options) -> Path:
    with VideoWriter(path, fps, (64, 48), **options) as video:
        for level in levels:
            video.write(flat(level))
    return path


def tone(path: Path, codec: str, seconds: float = 2.0, rate: int = 48000) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        wave = np.sin(np.arange(int(seconds * rate)) * 0.06).astype(np.float32)
        shape = {"pcm_s16le": ("s16", (wave * 20000).astype(np.int16))}.get(codec, ("fltp", wave))
        frame = av.AudioFrame.from_ndarray(shape[1][None], format=shape[0], layout="mono")
        frame.rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sound_of(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.pts is not None]


def levels_of(frames) -> list[int]:
    return [int(np.rint(frame.mean())) for frame in frames]


def test_every_frame_comes_out_once(tmp_path):
    levels = list(range(20, 220, 10))
    path = write(tmp_path / "a.mp4", levels)
    np.testing.assert_allclose(levels_of(read_video(path)), levels, atol=2)
    info = probe(path)
    assert (info.width, info.height, info.fps, info.frames, info.has_audio, info.rotation) == (
        64,
        48,
        10,
        20,
        False,
        0,
    )
    assert info.duration == pytest.approx(2.0)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_colours_survive_and_are_tagged(tmp_path):
    patch = np.zeros((48, 64, 3), np.uint8)
    patch[:24, :32], patch[:24, 32:], patch[24:, :32], patch[24:] = (
        (200, 30, 40),
        (20, 180, 60),
        (30, 60, 220),
        (99, 99, 99),
    )
    patch[24:, :32] = (30, 60, 220)
    with VideoWriter(tmp_path / "a.mp4", 10, (64, 48)) as video:
        for _ in range(3):
            video.write(patch)
    first = next(read_video(tmp_path / "a.mp4")).astype(int)
    for y, x in ((10, 10), (10, 50), (40, 10), (40, 50)):
        assert np.abs(first[y, x] - patch[y, x]).max() <= 4
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        tags = (context.colorspace, context.color_trc, context.color_primaries, context.color_range)
        assert tags == (1, 1, 1, 1)
        assert context.pix_fmt == "yuv420p"


def test_colours_without_tags_are_taken_as_custom_has_them(tmp_path):
    color = np.full((48, 64, 3), (200, 30, 40), np.uint8)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(color, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU601
        )
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert np.abs(next(read_video(tmp_path / "a.mp4")).astype(int) - color).max() <= 5


def test_sampling_takes_the_last_frame_at_or_before(tmp_path):
    path = write(tmp_path / "a.mp4", range(20, 120, 10))
    np.testing.assert_allclose(levels_of(frames_at(path, 5)), [20, 40, 60, 80, 100], atol=2)
    np.testing.assert_allclose(levels_of(frames_at(path, 20)), np.repeat(range(20, 120, 10), 2), atol=2)
    np.testing.assert_allclose(levels_of(read_video(path, fps=4, start=0.5)), [70, 90], atol=2)
    assert len(list(read_video(path, max_frames=3))) == 3


def test_uneven_timestamps_are_followed(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=100, options={"bf": "0", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        for pts, level in ((0, 40), (10, 80), (70, 120), (100, 160)):
            frame = av.VideoFrame.from_ndarray(flat(level), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = pts, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    seen = levels_of(frames_at(tmp_path / "a.mp4", 10))
    np.testing.assert_allclose(seen[:11], [40, *[80] * 6, *[120] * 3, 160], atol=3)


def test_reading_at_a_size(tmp_path):
    path = write(tmp_path / "a.mp4", [50])
    assert next(read_video(path, size=(33, 21))).shape == (21, 33, 3)


def test_rotation_is_applied(tmp_path):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = 255
    with VideoWriter(tmp_path / "a.mp4", 10, (64, 48)) as video:
        video.write(picture)
    data = (tmp_path / "a.mp4").read_bytes()
    # the track header's matrix: identity, then one quarter turn
    identity = b"".join(value.to_bytes(4, "big", signed=True) for value in (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))
    turned = b"".join(value.to_bytes(4, "big", signed=True) for value in (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30))
    track = data.index(b"tkhd")
    assert data[track:].count(identity) >= 1
    at = data.index(identity, track)
    (tmp_path / "b.mp4").write_bytes(data[:at] + turned + data[at + len(turned) :])
    info = probe(tmp_path / "b.mp4")
    assert (info.width, info.height) == (48, 64)
    frame = next(read_video(tmp_path / "b.mp4"))
    assert frame.shape == (64, 48, 3)
    # a matrix of x' = -y, y' = x turns clockwise: the left half goes to the top
    assert frame[:28].mean() > 240
    assert frame[36:].mean() < 15


def test_damage_in_the_middle_costs_little(tmp_path):
    data = bytearray(write(tmp_path / "a.mp4", np.random.default_rng(0).integers(0, 255, 40)).read_bytes())
    start = data.index(b"mdat")
    data[start + 600 : start + 700] = bytes(100)
    (tmp_path / "b.mp4").write_bytes(data)
    assert len(list(frames_at(tmp_path / "b.mp4", 10))) >= 30


def test_sound_is_copied_and_ends_with_the_picture(tmp_path):
    source = tone(tmp_path / "t.mp4", "aac")
    path = write(tmp_path / "a.mp4", [50] * 10, audio_from=source)
    original, copy = sound_of(source), sound_of(path)
    assert probe(path).has_audio
    assert [data for _, data in copy] == [data for _, data in original[: len(copy)]]
    assert 0.95 < copy[-1][0] < 1.0


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [
        ("a.mp4", "libmp3lame", "mp3"),
        ("a.mkv", "libopus", "opus"),
        ("a.ts", "aac", "aac"),
        ("a.mkv", "ac3", "aac"),
        ("a.mkv", "flac", "aac"),
    ],
)
def test_sound_that_players_know_is_copied(tmp_path, name, codec, kept):
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=48000, layout="stereo")
        frame = av.AudioFrame(stream.codec_context.format.name, "stereo", 48000)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path = write(tmp_path / "b.mp4", [50] * 5, audio_from=tmp_path / name)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == kept
    copied = [data for _, data in sound_of(path)]
    original = [data for _, data in sound_of(tmp_path / name)]
    assert (copied == original[: len(copied)]) == (codec in ("libmp3lame", "libopus"))


def test_sound_of_an_unknown_kind_leaves_the_video_silent(tmp_path):
    data = tone(tmp_path / "t.mp4", "aac").read_bytes()
    (tmp_path / "u.mp4").write_bytes(data.replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzd"))
    with VideoWriter(tmp_path / "a.mp4", 10, (64, 48), audio_from=tmp_path / "u.mp4") as video:
        video.write(flat(50))
        assert "the video is silent" in video.notes[0]
    assert not probe(tmp_path / "a.mp4").has_audio


@pytest.mark.parametrize("start", [0.5, 0.5055])
def test_sound_that_is_cut_begins_at_the_sample(tmp_path, start):
    source = tone(tmp_path / "t.mp4", "aac")
    path = write(tmp_path / "a.mp4", [50] * 10, audio_from=source, audio_start=start)
    with av.open(str(path)) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])[1000:9000]
    wave = np.sin((np.arange(8000) + 1000 + round(start * 48000)) * 0.06)
    lag = min(range(-40, 40), key=lambda shift: np.abs(np.roll(heard, shift) - wave)[50:-50].mean())
    assert lag == 0


def test_other_sound_becomes_aac(tmp_path):
    source = tone(tmp_path / "t.wav", "pcm_s16le")
    path = write(tmp_path / "a.mp4", [50] * 10, audio_from=source)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
    assert 0.9 < sound_of(path)[-1][0] < 1.0


def test_a_source_without_sound_is_silence(tmp_path):
    silent = write(tmp_path / "a.mp4", [50])
    assert not probe(write(tmp_path / "b.mp4", [60], audio_from=silent)).has_audio


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_metadata_comes_back(tmp_path, suffix):
    record = {"pasdedeux.seed": "7", "prompt": 'a "dance", été'}
    assert read_metadata(write(tmp_path / f"a.{suffix}", [50], metadata=record)) == record


def test_after_an_exception_nothing_remains(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"the old one")
    levels = (1 // level for level in (1, 1, 0))
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "a.mp4", levels)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"the old one"


def test_no_frames_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="No frame"):
        write(tmp_path / "a.mp4", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "size", "options", "says"),
    [
        ("a.avi", (64, 48), {}, "must end in"),
        ("a.mp4", (63, 48), {}, "must be even"),
        ("no/a.mp4", (64, 48), {}, "no folder"),
        ("a.mp4", (64, 48), {"audio_from": Path("missing.mp3")}, "no such file"),
    ],
)
def test_what_cannot_be_written_is_said_before_any_work(tmp_path, name, size, options, says):
    with pytest.raises(InputError, match=says):
        VideoWriter(tmp_path / name, 10, size, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_cannot_be_written_as_a_file(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        check_writable(tmp_path)


def test_what_is_no_video_gets_one_sentence(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("nothing to see here " * 40)
    Image.new("RGB", (40, 40)).save(tmp_path / "still.mp4", format="PNG")
    tone(tmp_path / "sound.mp4", "aac", 0.2)
    cases = {
        "empty": "empty",
        "text": "not a video",
        "still": "still picture",
        "sound": "no picture",
        "none": "no file",
    }
    for name, says in cases.items():
        with pytest.raises(InputError, match=says):
            probe(tmp_path / f"{name}.mp4")


@needs_talk
def test_a_real_clip(tmp_path):
    info = probe(TALK)
    assert (info.width, info.height, info.fps, info.frames, info.has_audio) == (1920, 1080, 30, 106, True)
    frames = list(read_video(TALK, fps=10, size=(192, 108), max_frames=12))
    with VideoWriter(tmp_path / "a.mp4", 10, (192, 108), audio_from=TALK) as video:
        for frame in frames:
            video.write(frame)
    back = list(read_video(tmp_path / "a.mp4"))
    assert len(back) == 12
    error = np.mean([(a.astype(float) - b) ** 2 for a, b in zip(frames, back, strict=True)])
    assert 10 * np.log10(255**2 / error) > 36
    assert [data for _, data in sound_of(tmp_path / "a.mp4")] == [data for _, data in sound_of(TALK)][
        : len(sound_of(tmp_path / "a.mp4"))
    ]
