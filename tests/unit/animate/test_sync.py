"""Sound and picture stay together: a click and a flash every second, measured in what was written."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pasdedeux.animate.clips import VideoClip
from pasdedeux.animate.video import probe
from pasdedeux.animate.video_writer import VideoWriter

SIDE, FPS = 64, 10
WITHIN = 0.020  # seconds
SAMPLES = {"s16": (2**15 - 1, np.int16), "s32": (2**31 - 129, np.int32), "flt": (1, np.float32)}


def clicks(seconds: float, rate: int, layout: str, ahead: float = 0.0) -> np.ndarray:
    """float32 [channels, n]: silence with a click of 2 ms at each full second; `ahead` seconds more before 0."""
    times = np.arange(round((seconds + ahead) * rate)) / rate - ahead
    near = np.abs(times - np.rint(times)) < 0.5 / rate
    wave = np.zeros(len(times), np.float32)
    for at in np.flatnonzero(near):
        length = min(rate // 500, len(wave) - at)
        wave[at : at + length] = 0.8 * np.sign(np.sin(np.arange(length) * 2 * np.pi * 2000 / rate + 0.1))
    channels = av.AudioLayout(layout).nb_channels
    return np.repeat(wave[None], channels, axis=0)


def driver(
    path: Path,
    seconds: float,
    codec: str = "aac",
    *,
    rate: int = 48000,
    layout: str = "stereo",
    picture_at: float = 0.0,
    sound_at: float = 0.0,
    sound_for: float | None = None,
    ahead: float = 0.0,
    silent_first: bool = False,
) -> Path:
    """A video that flashes white for one frame at every full second, and clicks then; its clock begins at 1 s."""
    clock = 0 if path.suffix == ".avi" else 1  # AVI has no clock
    with av.open(str(path), "w") as file:
        # AVI tells when H.264 is decoded, but not when it is shown.
        kind = "mpeg4" if path.suffix == ".avi" else "libx264"
        pictures = file.add_stream(kind, rate=FPS, options={"preset": "ultrafast", "crf": "20", "bf": "0"})
        pictures.width, pictures.height, pictures.pix_fmt = SIDE, SIDE, "yuv420p"
        if silent_first:
            other = file.add_stream(codec, rate=rate, layout=layout)
            other.disposition = av.stream.Disposition(0)
        sound = file.add_stream(codec, rate=rate, layout=layout)
        if silent_first:
            sound.disposition = av.stream.Disposition.default
        wave = clicks(seconds if sound_for is None else sound_for, rate, layout, ahead)
        packets = []
        if silent_first:
            packets += encoded(other, np.zeros_like(wave), rate, layout, 0)
        packets += encoded(sound, wave, rate, layout, round((sound_at - ahead + clock) * rate))
        for i in range(round(seconds * FPS)):
            frame = av.VideoFrame(SIDE, SIDE, "yuv420p")
            for plane, value in zip(frame.planes, (235 if i % FPS == 0 else 16, 128, 128), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.pts, frame.time_base = i + round((picture_at + clock) * FPS), Fraction(1, FPS)
            packets += pictures.encode(frame)
        packets += pictures.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            file.mux(packet)
    return path


def encoded(stream, wave: np.ndarray, rate: int, layout: str, at: int) -> list:
    packets = []
    kind = stream.codec_context.format.name
    for begin in range(0, wave.shape[1], rate):
        part = wave[:, begin : begin + rate]
        scale, dtype = SAMPLES[kind.removesuffix("p")]
        part = (part * scale).astype(dtype)
        part = part if kind.endswith("p") else part.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format=kind, layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, at + begin, Fraction(1, rate)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def heard(path: Path) -> np.ndarray:
    """When clicks begin, by the file's own clock, in seconds."""
    times, last = [], -1.0
    with av.open(str(path)) as file:
        for frame in file.decode(audio=0):
            wave = frame.to_ndarray().astype(np.float64) / SAMPLES[frame.format.name.removesuffix("p")][0]
            wave = wave if frame.format.is_planar else wave.reshape(frame.samples, -1).T
            loud = np.flatnonzero(np.abs(wave).max(axis=0) > 0.25)
            for at in loud:
                time = frame.time + at / frame.sample_rate
                if time - last > 0.1:
                    times.append(time)
                last = time
    return np.array(times)


def flashed(path: Path) -> np.ndarray:
    """When white frames begin, by the file's own clock."""
    with av.open(str(path)) as file:
        return np.array([f.time for f in file.decode(video=0) if f.to_ndarray(format="gray").mean() > 128])


def copy(source: Path, path: Path, start: float = 0.0, end: float | None = None) -> Path:
    with (
        VideoClip(source, start=start, end=end) as clip,
        VideoWriter(path, clip.fps, clip.size, audio_from=source, audio_start=start) as video,
    ):
        for picture in clip.each():
            video.write(picture)
    return path


def error(path: Path, missing: int = 0) -> float:
    """The largest distance in seconds of a flash from its click; all but `missing` flashes must have one."""
    seen, sounds = flashed(path), heard(path)
    distances = np.abs(seen[:, None] - sounds[None]).min(axis=1)
    near = distances[distances < 0.3]
    assert len(near) >= len(seen) - missing, (seen, sounds)
    assert len(sounds) <= len(seen) + 1  # the last packet of sound may reach beyond the end
    return float(near.max())


CODECS = {
    "mp4": [("aac", 48000, "stereo"), ("aac", 44100, "mono"), ("aac", 48000, "5.1"), ("libmp3lame", 44100, "stereo")],
    "mkv": [
        ("pcm_s16le", 44100, "mono"),
        ("libopus", 48000, "stereo"),
        ("ac3", 48000, "5.1"),
        ("flac", 44100, "stereo"),
    ],
    "ts": [("aac", 48000, "stereo"), ("mp2", 44100, "stereo")],
    "mov": [("pcm_s16le", 48000, "stereo"), ("aac", 44100, "stereo")],
    "avi": [("pcm_s16le", 48000, "stereo")],
}


@pytest.mark.parametrize(
    ("suffix", "sound"), [(suffix, sound) for suffix, sounds in CODECS.items() for sound in sounds]
)
def test_every_kind_of_sound_keeps_its_place(tmp_path, suffix, sound):
    target = "mkv" if suffix in ("mov", "ts") else "mp4"
    source = driver(tmp_path / f"a.{suffix}", 6, sound[0], rate=sound[1], layout=sound[2])
    base = error(source)
    assert base < WITHIN
    assert error(copy(source, tmp_path / f"b.{target}")) < WITHIN
    # a range that begins inside a packet of sound, at a flash and between two
    assert error(copy(source, tmp_path / f"c.{target}", start=2.0), missing=1) < WITHIN
    assert error(copy(source, tmp_path / f"d.{target}", start=1.5, end=5.2)) < WITHIN


@pytest.mark.parametrize(
    "options",
    [
        {"sound_at": 0.5 + 0.5, "sound_for": 4},
        {"picture_at": 1.0, "sound_for": 7},
        {"ahead": 0.517},
        {"ahead": 0.005},
        {"sound_for": 3},
        {"sound_for": 9},
        {"silent_first": True},
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_sound_that_begins_or_ends_elsewhere(tmp_path, suffix, options):
    if suffix == "ts" and "silent_first" in options:
        pytest.skip("such a stream knows no default")
    source = driver(tmp_path / f"a.{suffix}", 6, **options)
    path = copy(source, tmp_path / "b.mp4")
    expected = {"sound_at": 2, "sound_for": 4}
    missing = max((expected[name] for name in options if name in expected), default=0)
    assert error(path, missing=missing) < WITHIN
    with av.open(str(path)) as file:
        assert abs(file.duration / av.time_base - 6) < 0.06
    assert probe(path).frames == 60


def test_damaged_sound_keeps_its_place(tmp_path):
    source = driver(tmp_path / "a.ts", 8)
    data = bytearray(source.read_bytes())
    for packet in range(0, len(data), 188):
        if packet // 188 % 9 == 4:
            data[packet : packet + 188] = bytes(188)
    (tmp_path / "b.ts").write_bytes(data)
    with VideoWriter(tmp_path / "c.mp4", FPS, (SIDE, SIDE), audio_from=tmp_path / "b.ts") as video:
        for i in range(80):
            video.write(np.full((SIDE, SIDE, 3), 255 * (i % FPS == 0), np.uint8))
    assert error(tmp_path / "c.mp4", missing=5) < WITHIN


def test_a_sound_file_alone_begins_at_its_own_start(tmp_path):
    source = driver(tmp_path / "a.mkv", 5, "pcm_s16le")
    with av.open(str(source)) as file, av.open(str(tmp_path / "s.wav"), "w") as out:
        stream = out.add_stream_from_template(file.streams.audio[0])
        for packet in file.demux(file.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    with VideoWriter(tmp_path / "c.mp4", FPS, (SIDE, SIDE), audio_from=tmp_path / "s.wav") as video:
        for i in range(50):
            video.write(np.full((SIDE, SIDE, 3), 255 * (i % FPS == 0), np.uint8))
    assert error(tmp_path / "c.mp4") < WITHIN


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "rate"), [("aac", 48000), ("pcm_s16le", 44100)])
def test_ten_minutes_do_not_drift(tmp_path, codec, rate):
    source = driver(tmp_path / "a.mkv", 600, codec, rate=rate)
    assert error(copy(source, tmp_path / "b.mp4")) < WITHIN
    assert error(copy(source, tmp_path / "c.mp4", start=0.5)) < WITHIN
