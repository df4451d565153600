"""Any video as a clip: the right picture for every frame, in any order, whatever is odd about the file."""

import shutil
import struct
import wave
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from PIL import Image

from pasdedeux.animate.clips import Drawn, Fitted, VideoClip
from pasdedeux.animate.images import letterbox_of
from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.pixels import to_bt709
from pasdedeux.animate.reel import Reel
from pasdedeux.animate.video import probe, read_video

BITS = 8
SIZE = (64, 48)


def numbered(number: int, size=SIZE) -> np.ndarray:
    """A picture that says its number in black and white bars, so that any codec keeps it."""
    bars = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
    row = bars[np.arange(size[0]) * BITS // size[0]]
    return np.broadcast_to(row[None, :, None], (size[1], size[0], 3)).copy()


def number_of(picture: np.ndarray) -> int:
    columns = picture.mean(axis=(0, 2))
    bars = [part.mean() > 127 for part in np.array_split(columns, BITS)]
    return sum(1 << bit for bit, lit in enumerate(bars) if lit)


def numbers_of(pictures: Iterable[np.ndarray]) -> list[int]:
    return [number_of(picture) for picture in pictures]


def film(
    path: Path,
    pictures: Sequence[np.ndarray],
    *,
    codec="libx264",
    pix="yuv420p",
    fps: float = 10,
    ticks: Sequence[int] | None = None,
    clock: Fraction | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    setup: Callable[[av.VideoStream], None] = lambda stream: None,
    dress: Callable[[av.VideoFrame], av.VideoFrame] | None = None,
    name: str | None = None,
) -> Path:
    """A video of these pictures, at `fps` or at `ticks` of the `clock`."""
    rate = Fraction(fps).limit_denominator(1001)
    clock = clock or 1 / rate
    with av.open(str(path), "w", format=name, options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], pix
        stream.codec_context.time_base = clock
        setup(stream)
        for count, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[-1] == 4 else "rgb24")
            frame = frame.reformat(format=pix) if dress is None else dress(frame)
            frame.pts, frame.time_base = count if ticks is None else ticks[count], clock
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def count_film(path: Path, count: int, **more) -> Path:
    return film(path, [numbered(i) for i in range(count)], **more)


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """The numbers of all frames decoded so far."""
    seen: list[int] = []
    plain = Reel._numbered

    def watched(self, gop):
        for number, frame in plain(self, gop):
            seen.append(number)
            yield number, frame

    monkeypatch.setattr(Reel, "_numbered", watched)
    return seen


KINDS = {
    "mp4": {"options": {"g": "12", "bf": "2"}},
    "mov": {"codec": "prores_ks", "pix": "yuv422p10le"},
    "mkv": {"codec": "libx265", "options": {"x265-params": "keyint=12:log-level=none", "preset": "ultrafast"}},
    "webm": {"codec": "libvpx-vp9", "options": {"g": "12", "deadline": "realtime"}},
    "ts": {"options": {"g": "12", "bf": "2"}},
    "avi": {"codec": "mpeg4", "options": {"g": "12"}},
    "gif": {"codec": "gif", "pix": "rgb8"},
}


ODD_KINDS = {
    "open groups.ts": {"options": {"x264-params": "open_gop=1:keyint=10:bframes=3"}},
    "open groups.mp4": {"options": {"x264-params": "open_gop=1:keyint=10:bframes=3"}},
    "no key frames.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "12", "bf": "2"}},
    "h264.avi": {"options": {"bf": "2", "g": "12"}},
    "old.mpg": {"codec": "mpeg2video", "fps": 25, "options": {"bf": "2", "g": "12"}},
    "old.flv": {"options": {"bf": "2", "g": "12"}},
    "old.wmv": {"codec": "wmv2", "options": {"g": "12"}},
    "hidden frames.webm": {
        "codec": "libvpx-vp9",
        "options": {"g": "24", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "6", "b": "200k"},
    },
    "new.mp4": {"codec": "libsvtav1", "options": {"preset": "12", "g": "12"}},
}


@pytest.mark.parametrize("name", ODD_KINDS)
def test_odd_kinds_in_any_order(tmp_path, name):
    path = count_film(tmp_path / name, 50, **ODD_KINDS[name])
    with VideoClip(path) as clip:
        straight = list(clip.each())
        assert numbers_of(straight) == list(range(50))
        assert clip.notes == ()
    with VideoClip(path) as clip:
        for i in (33, 2, 40, 25, 12, 49, 0):
            assert np.array_equal(clip[[i]][0], straight[i])


@pytest.mark.parametrize("suffix", KINDS)
def test_any_order_gives_the_pixels_of_the_first_reading(tmp_path, suffix):
    path = count_film(tmp_path / f"a.{suffix}", 50, **KINDS[suffix])
    with VideoClip(path) as clip:
        straight = list(clip.each())
        assert numbers_of(straight) == list(range(50))
        order = np.random.default_rng(0).permutation(50).tolist() + [49, 0, 3, 3, -1]
        for i, picture in zip(order, clip.each(order), strict=True):
            assert np.array_equal(picture, straight[i])
        assert np.array_equal(clip[[40, 2]], np.stack([straight[40], straight[2]]))
        assert clip.notes == (("its 10-bit pictures were brought to 8 bits",) if suffix == "mov" else ())


def test_in_order_every_frame_is_decoded_once_and_going_back_costs_a_little(tmp_path, decoded):
    path = count_film(tmp_path / "a.mp4", 100, options={"g": "10", "bf": "0", "sc_threshold": "0"})
    with VideoClip(path) as clip:
        assert decoded == list(range(90, 100))  # whether the file's end is whole
        decoded.clear()
        list(clip.each())
        assert len(decoded) == 100
        decoded.clear()
        for _ in range(5):
            assert number_of(clip[[99]][0]) == 99
        assert decoded == []
        assert number_of(clip[[55]][0]) == 55
        assert decoded == [50, 51, 52, 53, 54, 55]
        decoded.clear()
        assert numbers_of(clip.each(range(56, 96, 10))) == [56, 66, 76, 86]
        assert len(decoded) == 31


def test_frames_are_picked_by_rate_and_range(tmp_path):
    path = count_film(tmp_path / "a.mp4", 30)
    for options, wanted in (
        ({"fps": 5}, list(range(0, 30, 2))),
        ({"fps": 20}, [i // 2 for i in range(60)]),
        ({"start": 1.0}, list(range(10, 30))),
        ({"start": 1.0, "end": 1.5}, list(range(10, 15))),
        ({"start": 1.05, "end": 9.0, "fps": 10}, list(range(10, 30))),
        ({"most": 7, "start": 0.2}, list(range(2, 9))),
        ({"fps": 16}, [int(i * 10 / 16) for i in range(48)]),
    ):
        with VideoClip(path, **options) as clip:
            assert numbers_of(clip.each()) == wanted, options
            assert len(clip) == len(wanted)
            assert clip.fps == options.get("fps", 10)
            assert abs(clip.duration - len(wanted) / clip.fps) < 1e-9
        if "end" not in options and "most" not in options:
            again = read_video(path, fps=options.get("fps", 10), start=options.get("start", 0.0))
            assert numbers_of(again) == wanted


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"start": 3.0}, "it lasts 3.00"),
        ({"start": -1.0}, "earliest"),
        ({"start": 2.0, "end": 1.0}, "behind the start"),
        ({"fps": 0}, "between 0 and 1000"),
        ({"fps": float("nan")}, "between 0 and 1000"),
        ({"most": 0}, "At least one"),
    ],
)
def test_a_range_without_frames_is_one_sentence(tmp_path, options, says):
    path = count_film(tmp_path / "a.mp4", 30)
    with pytest.raises(InputError, match=says):
        VideoClip(path, **options)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_uneven_times_are_followed(tmp_path, suffix):
    ticks = [0, 4, 8, 40, 41, 42, 80, 100]
    path = count_film(tmp_path / f"a.{suffix}", 8, fps=100, ticks=ticks, clock=Fraction(1, 100), options={"bf": "2"})
    with VideoClip(path, fps=25) as clip:
        wanted = [int(np.searchsorted(ticks, k * 4 + 0.01, side="right")) - 1 for k in range(len(clip))]
        assert numbers_of(clip.each()) == wanted
        assert 25 <= len(clip) <= 27


# Ways in which pictures are to be turned or stretched

TURNS = {
    "quarter": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "half": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "back": ((0, -1, 1, 0), lambda p: np.rot90(p)),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda p: p[::-1]),
    "turned and mirrored": ((0, 1, 1, 0), lambda p: np.swapaxes(p, 0, 1)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_pictures_are_turned_upright(tmp_path, turn):
    (a, b, c, d), turned = TURNS[turn]
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = 250, 160, 80
    film(tmp_path / "a.mp4", [picture] * 3, options={"qp": "4"})
    data = (tmp_path / "a.mp4").read_bytes()
    identity, matrix = (
        struct.pack(">9i", *(v << 16 for v in (p, q, 0, r, s, 0)), 0, 0, 1 << 30)
        for p, q, r, s in ((1, 0, 0, 1), (a, b, c, d))
    )
    at = data.index(identity, data.index(b"tkhd"))
    (tmp_path / "b.mp4").write_bytes(data[:at] + matrix + data[at + len(matrix) :])
    wanted = turned(picture)
    info = probe(tmp_path / "b.mp4")
    with VideoClip(tmp_path / "b.mp4") as clip:
        assert clip.size == (info.width, info.height) == (wanted.shape[1], wanted.shape[0])
        assert np.abs(clip[[0]][0].astype(int) - wanted).mean() < 4


def test_pixels_that_are_not_square_become_square(tmp_path):
    def wide(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)

    path = count_film(tmp_path / "a.mp4", 5, setup=wide)
    with VideoClip(path) as clip:
        assert clip.size == (round(64 * 16 / 11), 48)
        assert numbers_of(clip.each()) == list(range(5))
        assert clip.notes == ("its pixels are not square, so that its pictures were stretched to 93x48",)
    assert probe(path).width == 93


@pytest.mark.parametrize("size", [(63, 47), (1, 1), (2, 50)])
def test_odd_sizes(tmp_path, size):
    path = film(tmp_path / "a.mkv", [np.full((size[1], size[0], 3), 200, np.uint8)] * 3, codec="ffv1", pix="yuv444p")
    with VideoClip(path) as clip:
        assert clip.size == size
        assert abs(int(clip[[2]].mean()) - 200) <= 2


# Colours


def flat_film(path: Path, values: tuple[int, int, int], pix: str, tags: dict[str, int], **more) -> Path:
    """A video of one colour, given as its raw values."""

    def raw(_: av.VideoFrame) -> av.VideoFrame:
        frame = av.VideoFrame(64, 48, pix)
        for plane, value in zip(frame.planes, values, strict=True):
            kind = np.uint16 if "10" in pix else np.uint8
            plane.update(np.full(plane.buffer_size // kind().itemsize, value, kind).tobytes())
        for name, tag in tags.items():
            setattr(frame, name, tag)
        return frame

    def tag(stream):
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)

    return film(path, [numbered(0)] * 3, pix=pix, setup=tag, dress=raw, **more)


def primaries_matrix(xy: Sequence[tuple[float, float]]) -> np.ndarray:
    """Linear RGB of these primaries with the white of D65 to XYZ."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in xy]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return columns * np.linalg.solve(columns, white)


BT709_XY = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
BT2020_XY = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
P3_XY = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))


def pq_nits(level: np.ndarray) -> np.ndarray:
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = level ** (1 / m2)
    return 10000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def hlg_nits(level: np.ndarray) -> np.ndarray:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(level <= 0.5, level**2 / 3, (np.exp((level - c) / a) + b) / 12)
    return 1000 * scene * (scene @ [0.2627, 0.6780, 0.0593]) ** 0.2


def shown(nits: np.ndarray) -> np.ndarray:
    """Light in BT.2020 to the levels of an ordinary display, after the rule in the module."""
    light = np.linalg.inv(primaries_matrix(BT709_XY)) @ primaries_matrix(BT2020_XY) @ (nits / 203)
    light = np.maximum(light, 0)
    peak = light.max()
    if peak > 0.75:
        over, most = (peak - 0.75) * 4, (1000 / 203 - 0.75) * 4
        light = light / peak * (0.75 + 0.25 * over * (1 + over / most**2) / (1 + over))
    return np.minimum(light, 1) ** (1 / 2.4) * 255


def limited_rgb(y: int, u: int, v: int) -> np.ndarray:
    """10-bit BT.2020 YUV of limited range to RGB in 0..1."""
    luma, blue, red = (y - 64) / 876, (u - 512) / 896, (v - 512) / 896
    r, b = luma + 1.4746 * red, luma + 1.8814 * blue
    return np.clip(np.array([r, (luma - 0.2627 * r - 0.0593 * b) / 0.6780, b]), 0, 1)


HDR = {"colorspace": 9, "color_primaries": ColorPrimaries.BT2020, "color_range": ColorRange.MPEG}
X265 = {"codec": "libx265", "options": {"x265-params": "lossless=1:log-level=none", "preset": "ultrafast"}}


@pytest.mark.parametrize("transfer", ["PQ", "HLG"])
@pytest.mark.parametrize("yuv", [(64, 512, 512), (300, 512, 512), (572, 512, 512), (500, 470, 560), (800, 500, 500)])
def test_hdr_becomes_what_the_formulas_say(tmp_path, transfer, yuv):
    tags = {**HDR, "color_trc": ColorTrc.SMPTE2084 if transfer == "PQ" else ColorTrc.ARIB_STD_B67}
    path = flat_film(tmp_path / "a.mp4", yuv, "yuv420p10le", tags, **X265)
    rgb = limited_rgb(*yuv)
    wanted = shown(pq_nits(rgb) if transfer == "PQ" else hlg_nits(rgb))
    with VideoClip(path) as clip:
        assert np.abs(clip[[1]][0] - wanted).max() <= 1.6
        assert clip.notes == (f"its HDR pictures ({transfer}) were tone-mapped to BT.709",)
    assert probe(path).notes == (f"its HDR pictures ({transfer}) were tone-mapped to BT.709",)


def test_hdr_keeps_order_white_and_skin_in_their_places():
    level = np.linspace(0, 65535, 400).astype(np.uint16)
    grey = to_bt709(np.repeat(level[None, :, None], 3, axis=2), ColorTrc.SMPTE2084, ColorPrimaries.BT2020)[0, :, 0]
    nits = pq_nits(level / 65535)
    assert (np.diff(grey.astype(int)) >= 0).all()
    assert 235 <= grey[np.argmin(np.abs(nits - 203))] <= 248  # reference white
    assert grey[nits > 1010].min() == 255
    assert abs(int(grey[np.argmin(np.abs(nits - 26))]) - 109) <= 2  # 18 % grey, as it is without HDR


@pytest.mark.parametrize("primaries", [ColorPrimaries.BT709, ColorPrimaries.BT2020, 0, 3])
def test_hdr_of_any_primaries(primaries):
    red = np.broadcast_to(np.array([30000, 0, 0], np.uint16), (2, 2, 3))
    seen = to_bt709(red, ColorTrc.SMPTE2084, primaries)[0, 0]
    assert seen[0] > 100
    assert seen[1:].max() == 0


def test_wide_colours_are_brought_in(tmp_path):
    tags = {"colorspace": 1, "color_primaries": ColorPrimaries.SMPTE432, "color_trc": 1, "color_range": ColorRange.MPEG}
    path = flat_film(tmp_path / "a.mp4", (126, 110, 160), "yuv420p", tags, options={"qp": "0"})
    luma, blue, red = (126 - 16) / 219, (110 - 128) / 224, (160 - 128) / 224
    r, b = luma + 1.5748 * red, luma + 1.8556 * blue
    rgb = np.array([r, (luma - 0.2126 * r - 0.0722 * b) / 0.7152, b])
    light = np.linalg.inv(primaries_matrix(BT709_XY)) @ primaries_matrix(P3_XY) @ rgb**2.4
    with VideoClip(path) as clip:
        assert np.abs(clip[[0]][0] - np.clip(light, 0, 1) ** (1 / 2.4) * 255).max() <= 1.6
        assert clip.notes == ("its wide colours were brought to BT.709",)


@pytest.mark.parametrize(
    ("pix", "tags", "values", "wanted"),
    [
        ("yuv420p", {"color_range": ColorRange.JPEG, "colorspace": 1}, (200, 128, 128), 200),
        ("yuvj420p", {}, (200, 128, 128), 200),
        ("yuv420p", {"color_range": ColorRange.MPEG, "colorspace": 1}, (235, 128, 128), 255),
        ("yuv420p", {}, (126, 128, 128), 128),
        ("yuv420p10le", {"color_range": ColorRange.MPEG, "colorspace": 1}, (502, 512, 512), 128),
    ],
)
def test_ranges_and_depths(tmp_path, pix, tags, values, wanted):
    path = flat_film(tmp_path / "a.mp4", values, pix, tags, options={"qp": "0"})
    with VideoClip(path) as clip:
        assert np.abs(clip[[0]].astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("suffix", "more"),
    [
        ("mov", {"codec": "prores_ks", "pix": "yuva444p10le", "options": {"profile": "4444"}}),
        ("mov", {"codec": "qtrle", "pix": "argb"}),
        ("webm", {"codec": "libvpx-vp9", "pix": "yuva420p", "options": {"deadline": "realtime"}}),
        ("webm", {"codec": "libvpx", "pix": "yuva420p", "options": {"deadline": "realtime", "auto-alt-ref": "0"}}),
    ],
)
def test_transparency_lies_on_mid_grey(tmp_path, suffix, more):
    picture = np.full((48, 64, 4), 255, np.uint8)
    picture[:, 32:] = (255, 0, 0, 0)
    with VideoClip(film(tmp_path / f"a.{suffix}", [picture] * 4, **more)) as clip:
        for seen in (clip[[0]][0], clip[[3]][0]):
            assert seen[:, :26].mean() > 250
            assert np.abs(seen[:, 40:].astype(int) - 128).max() <= 6
        assert "its transparent parts were laid on mid grey" in clip.notes


def test_interlaced_pictures_are_joined_alike_in_any_order(tmp_path):
    # Lines that were seen at two times: a bar stands further right in every second one.
    pictures = []
    for i in range(30):
        picture = np.full((48, 128, 3), 40, np.uint8)
        for field in (0, 1):
            left = (8 * i + 4 * field) % 96
            picture[field::2, left : left + 24] = 220
        picture[24:, 64:] = 60 + 80 * (np.arange(24) % 2)[:, None, None]
        if i // 8 % 2 == 0:  # something that is gone at a key frame
            picture[24:, 80:110] = 250
        pictures.append(picture)
    path = film(tmp_path / "a.mp4", pictures, options={"qp": "6", "x264-params": "tff=1:keyint=8:bframes=0"})
    with VideoClip(path) as clip:
        assert clip.notes == ("its pictures are interlaced, so that their half-pictures were joined",)
        straight = list(clip.each())
        assert len(straight) == 30
        combs = [np.abs(np.diff(p[:24, :, 0].astype(int), axis=0)).mean() for p in (pictures[10], straight[10])]
        assert combs[1] < combs[0] / 4
        for i in (29, 8, 16, 0, 15, 7, 24):
            assert np.array_equal(clip[[i]][0], straight[i]), i


# Odd containers and headers


def test_pictures_that_change_size_are_scaled_to_the_first(tmp_path):
    path = tmp_path / "a.ts"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        count = 0
        for size in (SIZE, (96, 32)):
            coder = av.CodecContext.create("libx264", "w")
            coder.width, coder.height, coder.pix_fmt, coder.time_base = *size, "yuv420p", Fraction(1, 10)
            packets = []
            for _ in range(10):
                frame = av.VideoFrame.from_ndarray(numbered(count, size), format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = count, Fraction(1, 10)
                packets += coder.encode(frame)
                count += 1
            for packet in packets + coder.encode(None):
                packet.stream, packet.time_base = stream, Fraction(1, 10)
                file.mux(packet)
    with VideoClip(path) as clip:
        pictures = list(clip.each())
        assert numbers_of(pictures) == list(range(20))
        assert {picture.shape for picture in pictures} == {(48, 64, 3)}
        assert clip.notes == ("its picture size changes, so that every picture was scaled to the first one's",)


def test_a_video_whose_name_lies(tmp_path):
    count_film(tmp_path / "a.mp4", 5)
    shutil.copy(tmp_path / "a.mp4", tmp_path / "b.jpg")
    shutil.copy(tmp_path / "a.mp4", tmp_path / "http:c%02d.mp4")
    for name in ("b.jpg", "http:c%02d.mp4"):
        with VideoClip(tmp_path / name) as clip:
            assert numbers_of(clip.each()) == list(range(5))


def test_the_part_before_an_edit_is_not_seen(tmp_path):
    path = count_film(tmp_path / "a.mp4", 20, options={"bf": "0", "g": "50"})
    data = path.read_bytes()
    at = data.index(b"elst")
    count = struct.unpack(">I", data[at + 8 : at + 12])[0]
    assert count == 1
    # length in 1/1000 s, first tick of the media: seven frames of 1024 are left away
    scale = struct.unpack(">I", data[(m := data.index(b"mdhd")) + 16 : m + 20])[0]
    edited = struct.pack(">Ii", 1300, 7 * scale // 10)
    (tmp_path / "b.mp4").write_bytes(data[: at + 12] + edited + data[at + 20 :])
    with VideoClip(tmp_path / "b.mp4") as clip:
        assert numbers_of(clip.each()) == list(range(7, 20))
        assert number_of(clip[[0]][0]) == 7
        assert clip.notes == ()


def test_a_late_start_and_negative_times_begin_at_the_first_picture(tmp_path):
    for name, shift in (("late.mkv", 50), ("late.ts", 300), ("early.ts", -25)):
        path = count_film(tmp_path / name, 10, ticks=[i + shift for i in range(10)], clock=Fraction(1, 10))
        with VideoClip(path) as clip:
            assert numbers_of(clip.each()) == list(range(10)), name


def test_times_that_jump_are_put_one_after_the_other(tmp_path):
    parts = [count_film(tmp_path / f"{i}.ts", 10, options={"bf": "0"}) for i in range(2)]
    later = film(tmp_path / "c.ts", [numbered(i) for i in range(10, 20)], options={"bf": "0"})
    (tmp_path / "back.ts").write_bytes(parts[0].read_bytes() + later.read_bytes())
    far = film(
        tmp_path / "d.ts",
        [numbered(i) for i in range(10, 20)],
        ticks=[i + 36000 for i in range(10)],
        clock=Fraction(1, 10),
        options={"bf": "0"},
    )
    (tmp_path / "far.ts").write_bytes(parts[0].read_bytes() + far.read_bytes())
    for name in ("back.ts", "far.ts"):
        with VideoClip(tmp_path / name) as clip:
            assert abs(len(clip) - 20) <= 1
            assert numbers_of(clip.each())[::19] == [0, 19] or numbers_of(clip.each())[-1] == 19
            assert "missing or jump" in clip.notes[0]


@pytest.mark.parametrize(
    "clock", [lambda i: 0, lambda i: i // 2 * 200, lambda i: i * 100 + (i > 18) * 7_000_000], ids=["0", "pairs", "far"]
)
def test_times_that_cannot_be(tmp_path, clock):
    path = count_film(tmp_path / "a.mkv", 20, options={"bf": "0"})
    with av.open(str(path)) as old, av.open(str(tmp_path / "b.mkv"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for count, packet in enumerate([packet for packet in old.demux(video=0) if packet.size]):
            packet.pts = packet.dts = clock(count)
            packet.stream = stream
            new.mux(packet)
    with VideoClip(tmp_path / "b.mkv") as clip:
        assert numbers_of(clip.each()) == list(range(20))
        assert "missing or jump" in clip.notes[0]


def test_files_are_let_go(tmp_path):
    path, process = count_film(tmp_path / "a.mp4", 20), psutil.Process()
    before = len(process.open_files())
    with VideoClip(path) as clip:
        clip[[3]]
        assert len(process.open_files()) == before + 1
    with pytest.raises(InputError):
        VideoClip(path, start=99)
    frames = read_video(path)
    next(frames)
    frames.close()
    assert len(process.open_files()) == before


def test_a_raw_stream_without_times(tmp_path):
    path = count_film(tmp_path / "a.h264", 30, options={"bf": "2", "g": "10"})
    with VideoClip(path) as clip:
        straight = numbers_of(clip.each())
        assert straight == list(range(30))
        assert number_of(clip[[4]][0]) == 4


@pytest.mark.parametrize("rate", [1000, 90000])
def test_a_rate_that_cannot_be(tmp_path, rate):
    path = count_film(tmp_path / "a.mp4", 20, ticks=list(range(20)), clock=Fraction(1, rate), fps=rate)
    with VideoClip(path) as clip:
        assert clip.fps == 25
        assert numbers_of(clip.each()) == list(range(20))
        assert f"{rate} frames a second, which cannot be" in clip.notes[0]


def test_a_header_that_promises_hours(tmp_path):
    data = bytearray(count_film(tmp_path / "a.mkv", 20).read_bytes())
    at = data.index(b"\x44\x89\x88")  # the header's duration, in ms
    data[at + 3 : at + 11] = struct.pack(">d", 7_200_000)
    (tmp_path / "b.mkv").write_bytes(data)
    with VideoClip(tmp_path / "b.mkv") as clip:
        assert numbers_of(clip.each()) == list(range(20))
        assert clip.notes == ("its header says 7200 s, but its pictures end at 2.00 s",)


def test_a_rate_in_the_header_that_the_times_deny(tmp_path):
    path = count_film(tmp_path / "a.mkv", 20, fps=200, ticks=[i * 20 for i in range(20)], clock=Fraction(1, 200))
    with VideoClip(path) as clip:
        assert clip.fps == pytest.approx(10, rel=0.02)
        assert abs(len(clip) - 20) <= 1


# Damage


def test_a_file_that_was_cut_off(tmp_path):
    path = count_film(tmp_path / "a.mp4", 60, container={"movflags": "faststart"}, options={"g": "10"})
    data = path.read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[: data.rindex(b"mdat") + (len(data) - data.rindex(b"mdat")) * 6 // 10])
    with VideoClip(tmp_path / "b.mp4") as clip:
        assert 20 <= len(clip) <= 45
        assert numbers_of(clip.each()) == list(range(len(clip)))
        assert len(clip.notes) == 1
        assert f"reading stopped at {len(clip) / 10:.2f} s" in clip.notes[0]


@pytest.mark.parametrize("suffix", ["mkv", "ts", "webm"])
def test_other_files_that_were_cut_off(tmp_path, suffix):
    path = count_film(tmp_path / f"a.{suffix}", 60, **KINDS["ts" if suffix == "mkv" else suffix])
    data = path.read_bytes()
    (tmp_path / f"b.{suffix}").write_bytes(data[: len(data) * 6 // 10])
    with VideoClip(tmp_path / f"b.{suffix}") as clip:
        assert 20 <= len(clip) <= 50
        # of the last few, some that are shown earlier come later in the file
        assert numbers_of(clip.each())[:-3] == list(range(len(clip) - 3))


def places(path: Path) -> list[tuple[int, int]]:
    """Where each packet lies in its file, in the order of decoding."""
    with av.open(str(path)) as file:
        return [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]


def test_damage_in_the_middle_repeats_the_frame_before(tmp_path):
    path = count_film(tmp_path / "a.mp4", 40, options={"g": "10", "bf": "0"})
    data = bytearray(path.read_bytes())
    for pos, size in places(path)[13:16]:
        data[pos : pos + size] = bytes(size)
    (tmp_path / "b.mp4").write_bytes(data)
    with VideoClip(tmp_path / "b.mp4") as clip:
        straight = list(clip.each())
        seen = numbers_of(straight)
        assert len(seen) == 40
        assert seen[:13] == list(range(13))
        assert seen[13:16] == [12, 12, 12]
        assert seen[20:] == list(range(20, 40))
        assert clip.notes == ("it is damaged: 3 of its frames could not be decoded and repeat others",)
        for i in (39, 15, 30, 12, 18, 25, 10):
            assert np.array_equal(clip[[i]][0], straight[i]), i
    with VideoClip(tmp_path / "b.mp4") as clip:
        for i in (17, 14, 22, 16, 11):
            assert np.array_equal(clip[[i]][0], straight[i]), i


def test_a_damaged_end_is_left_away(tmp_path):
    path = count_film(tmp_path / "a.mp4", 40, options={"g": "10", "bf": "0"})
    data = bytearray(path.read_bytes())
    for pos, size in places(path)[27:]:
        data[pos : pos + size] = bytes(size)
    (tmp_path / "b.mp4").write_bytes(data)
    with VideoClip(tmp_path / "b.mp4") as clip:
        assert numbers_of(clip.each()) == list(range(27))
        assert clip.notes == ("it is damaged: reading stopped at 2.70 s, after 27 of 40 frames",)


def test_a_damaged_start_shows_the_first_picture_there_is(tmp_path):
    path = count_film(tmp_path / "a.mp4", 40, options={"g": "10", "bf": "0"})
    data = bytearray(path.read_bytes())
    pos, size = places(path)[0]
    data[pos : pos + size] = bytes(size)
    (tmp_path / "b.mp4").write_bytes(data)
    with VideoClip(tmp_path / "b.mp4") as clip:
        seen = numbers_of(clip.each())
        assert len(seen) == 40
        assert seen[10:] == list(range(10, 40))
        assert numbers_of(clip.each([3, 12, 0])) == [seen[3], 12, seen[0]]


@pytest.mark.parametrize("seed", range(6))
def test_noise_in_a_file_ends_in_pictures_or_a_sentence(tmp_path, seed):
    rng = np.random.default_rng(seed)
    suffix = ("mp4", "mkv", "ts")[seed % 3]
    data = bytearray(count_film(tmp_path / f"a.{suffix}", 40, options={"g": "10"}).read_bytes())
    for at in rng.integers(0 if seed % 2 else 600, len(data) - 40, 12):
        data[at : at + 8] = rng.bytes(8)
    (tmp_path / f"b.{suffix}").write_bytes(data)
    try:
        clip = VideoClip(tmp_path / f"b.{suffix}")
    except InputError as error:
        said = str(error)
        assert "\n" not in said
        return
    with clip:
        straight = list(clip.each())
        assert 1 <= len(straight) <= 80
        for i in rng.integers(0, len(straight), 8):
            assert np.array_equal(clip[[i]][0], straight[i])


# What is no video


def test_what_is_no_video_is_one_sentence(tmp_path):
    def music(path: Path) -> Path:
        """Sound with a cover picture."""
        with wave.open(str(tmp_path / "s.wav"), "wb") as file:
            file.setparams((1, 2, 44100, 0, "NONE", ""))
            file.writeframes(bytes(44100))
        Image.new("RGB", (64, 64), "red").save(tmp_path / "c.png")
        with (
            av.open(str(tmp_path / "s.wav")) as sound,
            av.open(str(tmp_path / "c.png")) as cover,
            av.open(str(path), "w") as out,
        ):
            stream = out.add_stream("libmp3lame", rate=44100)
            picture = out.add_stream_from_template(cover.streams.video[0])
            picture.disposition = av.stream.Disposition.attached_pic
            for packet in cover.demux(video=0):
                if packet.size:
                    packet.stream = picture
                    out.mux(packet)
            for frame in sound.decode(audio=0):
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return path

    still = tmp_path / "still.png"
    Image.new("RGB", (64, 64)).save(still)
    Image.new("P", (64, 64)).save(tmp_path / "still.gif")
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    shutil.copy(still, tmp_path / "one")
    unknown = tmp_path / "unknown.mp4"
    data = count_film(tmp_path / "a.mp4", 5).read_bytes()
    unknown.write_bytes(data.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    frames = [Image.fromarray(numbered(i)) for i in range(3)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], duration=100)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n")
    large = film(tmp_path / "large.mkv", [np.zeros((16, 8194, 3), np.uint8)], codec="ffv1", pix="yuv444p")
    for path, says in (
        (music(tmp_path / "song.mp3"), "no picture"),
        (still, "still picture"),
        (tmp_path / "still.gif", "still picture"),
        (tmp_path / "empty", "no pictures"),
        (tmp_path / "one", "single still picture"),
        (tmp_path / "%05d.png", "no pictures"),
        (unknown, "cannot be decoded"),
        (tmp_path / "moving.webp", "animated WebP"),
        (tmp_path / "list.m3u8", "list of other files"),
        (large, "8194x16 pixels; at most 8192"),
        (tmp_path / "nothing.mp4", "There is no file"),
    ):
        with pytest.raises(InputError, match=says):
            VideoClip(path)


# Sequences of pictures


def pictures_in(folder: Path, names: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    for name, picture in names.items():
        Image.fromarray(picture).save(folder / name)
    return folder


def test_a_folder_of_pictures_in_natural_order(tmp_path):
    names = {f"f{i}.png": numbered(i) for i in (1, 2, 9, 10, 11)}
    folder = pictures_in(tmp_path / "frames", {**names, "f12.png": numbered(12, (32, 48))})
    (folder / "notes.txt").write_text("no picture")
    with VideoClip(folder, fps=16) as clip:
        pictures = list(clip.each())
        assert numbers_of(pictures[:5]) == [1, 2, 9, 10, 11]
        assert pictures[5][:, :16].max() == 0
        assert number_of(pictures[5][:, 16:48]) == 12
        assert (clip.fps, clip.size, clip.has_audio, len(clip)) == (16, SIZE, False, 6)
        assert clip.notes == (
            "its 6 pictures were taken as 16 frames a second",
            "its numbers have gaps: 6 are missing",
            "1 of its pictures are of other sizes and were brought to that of the first",
        )
        assert np.array_equal(clip[[3, 0]], np.stack([pictures[3], pictures[0]]))
    with VideoClip(folder) as clip:
        assert (clip.fps, len(clip)) == (25, 6)
    with VideoClip(folder, fps=2, start=1, end=2.5) as clip:
        assert numbers_of(clip.each()) == [9, 10, 11]


def test_a_folder_with_videos_is_no_sequence(tmp_path):
    folder = pictures_in(tmp_path / "frames", {f"{i}.png": numbered(i) for i in range(3)})
    (folder / "src_pose.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="holds videos"):
        VideoClip(folder)


def test_a_pattern_and_a_broken_picture(tmp_path):
    folder = pictures_in(tmp_path / "frames", {f"{i:05d}.png": numbered(i) for i in range(3, 12)})
    Image.fromarray(numbered(1)).save(folder / "a00001.png")
    (folder / "00006.png").write_bytes(b"not a picture at all")
    with VideoClip(folder / "%05d.png", fps=10) as clip:
        assert numbers_of(clip.each()) == [3, 4, 5, 5, 7, 8, 9, 10, 11]
        assert "1 of its pictures could not be read and repeat the one before" in clip.notes[1]
        assert numbers_of(clip.each([3, 8, 3])) == [5, 11, 5]


def test_a_turned_picture_of_a_sequence_is_upright(tmp_path):
    (tmp_path / "f").mkdir()
    exif = Image.Exif()
    exif[274] = 6
    for i in range(3):
        Image.fromarray(np.rot90(numbered(i))).save(tmp_path / "f" / f"{i}.png", exif=exif)
    with VideoClip(tmp_path / "f", fps=5) as clip:
        assert numbers_of(clip.each()) == [0, 1, 2]


# Clips made of others


def test_fitted_pictures_lie_where_the_letterbox_says():
    pictures = np.stack([np.full((48, 64, 3), 10 * i + 50, np.uint8) for i in range(4)])
    pictures[:, :, 0] = 7
    placed = letterbox_of((64, 48), (160, 60))
    plain, spread = Fitted(pictures, placed)[[3]][0], Fitted(pictures, placed, edges=True)[[3]][0]
    assert plain.shape == spread.shape == (60, 160, 3)
    assert placed.left == 40
    assert plain[:, :40].max() == 0
    assert plain[:, 120:].max() == 0
    assert (plain[:, 60:110] == 80).all()
    assert np.abs(spread[:, :40].astype(int) - 7).max() <= 6
    assert (spread[:, 120:] == 80).all()
    tall = Fitted(pictures, letterbox_of((64, 48), (64, 96)), edges=True)[[0]][0]
    assert np.abs(tall[0].astype(int) - tall[30]).max() <= 3


def test_fitted_masks_stay_black_and_white_and_sizes_are_checked():
    mask = np.zeros((2, 48, 64), np.uint8)
    mask[:, 10:31, 20:41] = 255
    for size in ((50, 50), (200, 90)):
        fitted = Fitted(mask, letterbox_of((64, 48), size))
        assert len(fitted) == 2
        assert set(np.unique(fitted[[0, 1]]).tolist()) == {0, 255}
    with pytest.raises(ValueError, match="placed"):
        Fitted(mask, letterbox_of((64, 64), (50, 50)))[[0]]


def test_drawn_pictures_are_drawn_when_asked_for():
    drawn = Drawn(5, lambda i: np.full((2, 3, 3), i, np.uint8))
    assert len(drawn) == 5
    assert drawn[[4, 1]][:, 0, 0, 0].tolist() == [4, 1]
