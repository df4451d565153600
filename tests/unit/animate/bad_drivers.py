"""Bad and odd drivers, all of the drawn puppet: files, times, sound, damage, and what is given beside them."""

import os
import struct
import wave
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from bad_kit import FPS, FRAMES, SIZE, Kit, Made, Pictures, film, good, refused, stamped, warned
from PIL import Image

# How pictures lie in the file


@good()
def plain(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames)


def _turned(kit: Kit, at: Path, matrix: tuple[int, int, int, int], undo: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A film whose pictures lie turned, and whose header says so."""
    path = film(at.with_suffix(".mp4"), [np.ascontiguousarray(undo(frame)) for frame in kit.frames])
    data = path.read_bytes()
    a, b, c, d = matrix
    identity, turn = (
        struct.pack(">9i", *(v << 16 for v in (p, q, 0, r, s, 0)), 0, 0, 1 << 30)
        for p, q, r, s in ((1, 0, 0, 1), (a, b, c, d))
    )
    place = data.index(identity, data.index(b"tkhd"))
    path.write_bytes(data[:place] + turn + data[place + len(turn) :])
    return path


@good()
def rotated_90(kit: Kit, at: Path) -> Made:
    return _turned(kit, at, (0, 1, -1, 0), lambda p: np.rot90(p, 1))


@good()
def rotated_180(kit: Kit, at: Path) -> Made:
    return _turned(kit, at, (-1, 0, 0, -1), lambda p: p[::-1, ::-1])


@good()
def rotated_270(kit: Kit, at: Path) -> Made:
    return _turned(kit, at, (0, -1, 1, 0), lambda p: np.rot90(p, -1))


@good()
def mirrored(kit: Kit, at: Path) -> Made:
    return _turned(kit, at, (-1, 0, 0, 1), lambda p: p[:, ::-1])


@good()
def odd_size(kit: Kit, at: Path) -> Made:
    pictures = [cv2.resize(frame, (161, 121), interpolation=cv2.INTER_AREA) for frame in kit.frames]
    return film(at.with_suffix(".mkv"), pictures, codec="ffv1", pix="yuv444p", options={})


@warned("not square")
def anamorphic(kit: Kit, at: Path) -> Made:
    def wide(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    pictures = [cv2.resize(frame, (120, 120), interpolation=cv2.INTER_AREA) for frame in kit.frames]
    return film(at.with_suffix(".mp4"), pictures, setup=wide)


@good()
def yuv444(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames, pix="yuv444p", options={"qp": "4"})


@warned("half-pictures were joined", levels=20)
def interlaced(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames, options={"qp": "6", "x264-params": "tff=1:bframes=0"})


def _hdr(kit: Kit, at: Path, transfer: ColorTrc, encode: Callable[[np.ndarray], np.ndarray]) -> Path:
    def tag(stream: av.VideoStream) -> None:
        stream.codec_context.color_primaries, stream.codec_context.color_trc = ColorPrimaries.BT2020, transfer

    wide = np.array([(0.6274, 0.3293, 0.0433), (0.0691, 0.9195, 0.0114), (0.0164, 0.0880, 0.8956)])
    pictures = [(255 * encode((frame / 255.0) ** 2.4 @ wide.T) + 0.5).astype(np.uint8) for frame in kit.frames]
    return film(at.with_suffix(".mp4"), pictures, pix="yuv420p10le", options={"qp": "4"}, setup=tag)


@warned("HDR pictures (PQ)", levels=40)
def hdr_pq(kit: Kit, at: Path) -> Made:
    def pq(light: np.ndarray) -> np.ndarray:
        power = (light * 203 / 10000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375

    return _hdr(kit, at, ColorTrc.SMPTE2084, pq)


@warned("HDR pictures (HLG)", levels=40)
def hdr_hlg(kit: Kit, at: Path) -> Made:
    def hlg(light: np.ndarray) -> np.ndarray:
        scene = (light * 203 / 1000) ** (1 / 1.2)
        low, high = np.sqrt(3 * scene), 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-6)) + 0.55991073
        return np.where(scene <= 1 / 12, low, high)

    return _hdr(kit, at, ColorTrc.ARIB_STD_B67, hlg)


@warned("transparent parts were laid on mid grey")
def alpha_mov(kit: Kit, at: Path) -> Made:
    pictures = [np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)]) for frame in kit.frames]
    for picture in pictures:
        picture[30:90, :20, 3] = 0
    return film(at.with_suffix(".mov"), pictures, codec="qtrle", pix="argb", options={})


@good(levels=60)
def gif(kit: Kit, at: Path) -> Made:
    pictures = [Image.fromarray(frame) for frame in kit.frames]
    pictures[0].save(at.with_suffix(".gif"), save_all=True, append_images=pictures[1:], duration=1000 // FPS, loop=0)
    return at.with_suffix(".gif")


@good()
def webm(kit: Kit, at: Path) -> Made:
    options = {"deadline": "realtime", "b": "2M"}
    return film(at.with_suffix(".webm"), kit.frames, codec="libvpx-vp9", options=options)


@good(range(4), slow=True)
def four_k(kit: Kit, at: Path) -> Made:
    large = [cv2.resize(frame, (3840, 2880), interpolation=cv2.INTER_NEAREST) for frame in kit.frames[:4]]
    return film(at.with_suffix(".mp4"), large, options={"preset": "ultrafast"})


# time


@good([0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 5, 6, 7])
def vfr(kit: Kit, at: Path) -> Made:
    ticks = [0, 2, 3, 6, 7, 8, 11, 12]
    return film(at.with_suffix(".mkv"), kit.frames[:8], ticks=ticks, clock=Fraction(1, FPS), options={"bf": "0"})


@good(sound=(0.3, 0.9))
def start_offset(kit: Kit, at: Path) -> Made:
    ticks = [i + 5 * FPS for i in range(FRAMES)]
    path = at.with_suffix(".mkv")
    return film(path, kit.frames, ticks=ticks, clock=Fraction(1, FPS), sound=("aac", 5.3, 5.9))


@good(range(4, FRAMES))
def edit_list(kit: Kit, at: Path) -> Made:
    path = film(at.with_suffix(".mp4"), kit.frames, options={"bf": "0", "g": "50", "crf": "12"})
    data = path.read_bytes()
    place = data.index(b"elst")
    scale = struct.unpack(">I", data[(m := data.index(b"mdhd")) + 16 : m + 20])[0]
    edited = struct.pack(">Ii", 1000 * (FRAMES - 4) // FPS, 4 * scale // FPS)
    path.write_bytes(data[: place + 12] + edited + data[place + 20 :])
    return path


@good([3])
def one_frame(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames[3:4])


@good([3, 4])
def two_frames(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames[3:5])


@warned("1000 frames a second, which cannot be", [0, 2, 4, 6, 8, 10])
def fps_1000(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames, rate=1000, ticks=range(FRAMES), clock=Fraction(1, 1000))


@warned("its header says 7200 s")
def claims_hours(kit: Kit, at: Path) -> Made:
    return _restated(film(at.with_suffix(".mkv"), kit.frames), 7_200_000)


@good()
def duration_zero(kit: Kit, at: Path) -> Made:
    return _restated(film(at.with_suffix(".mkv"), kit.frames), 0)


def _restated(path: Path, milliseconds: float) -> Path:
    data = bytearray(path.read_bytes())
    place = data.index(b"\x44\x89\x88")
    data[place + 3 : place + 11] = struct.pack(">d", milliseconds)
    path.write_bytes(data)
    return path


@good()
def wrong_frame_count(kit: Kit, at: Path) -> Made:
    path = film(
        at.with_suffix(".avi"), kit.frames, codec="mpeg4", options={"b": "4M", "bf": "0"}, space=Colorspace.ITU601
    )
    data = bytearray(path.read_bytes())
    place = data.index(b"avih") + 8 + 16
    data[place : place + 4] = struct.pack("<I", 9999)
    path.write_bytes(data)
    return path


@warned("missing or jump")
def times_jump_back(kit: Kit, at: Path) -> Made:
    halves = (kit.frames[:6], kit.frames[6:])
    parts = [film(at.with_suffix(f".{i}.ts"), half, options={"bf": "0"}).read_bytes() for i, half in enumerate(halves)]
    at.with_suffix(".ts").write_bytes(b"".join(parts))
    return at.with_suffix(".ts")


@refused("no frame at 60 seconds", options=("--start", "60"))
def start_beyond_the_end(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames)


@good(range(3, 9), options=("--start", "0.25", "--end", "0.75"), sound=(0.0, 0.35))
def a_range(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames, sound=("aac", 0.0, 0.6))


# sound


@good(sound=(0.0, 1.0))
def pcm_sound(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mov"), kit.frames, sound=("pcm_s16le", 0.0, 1.0))


@good(sound=(0.0, 1.0))
def long_sound(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames, sound=("aac", 0.0, 5.0))


@good(sound=(0.0, 0.4))
def short_sound(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames, sound=("aac", 0.0, 0.4))


@good(sound=(0.5, 0.9))
def late_sound(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames, sound=("aac", 0.5, 0.9))


@refused("no picture")
def music_with_cover(kit: Kit, at: Path) -> Made:
    with wave.open(str(at.with_suffix(".wav")), "wb") as file:
        file.setparams((1, 2, 44100, 0, "NONE", ""))
        file.writeframes(bytes(44100))
    Image.fromarray(kit.frames[0]).save(at.with_suffix(".png"))
    with (
        av.open(str(at.with_suffix(".wav"))) as sound,
        av.open(str(at.with_suffix(".png"))) as cover,
        av.open(str(at.with_suffix(".mp3")), "w") as out,
    ):
        stream, picture = out.add_stream("libmp3lame", rate=44100), out.add_stream_from_template(cover.streams.video[0])
        picture.disposition = av.stream.Disposition.attached_pic
        for packet in cover.demux(video=0):
            if packet.size:
                packet.stream = picture
                out.mux(packet)
        for frame in sound.decode(audio=0):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return at.with_suffix(".mp3")


# damage


@warned("after 6 of 12 frames", None)
def cut_off(kit: Kit, at: Path) -> Made:
    options = {"g": "4", "bf": "0", "crf": "12"}
    path = film(at.with_suffix(".mp4"), kit.frames, container={"movflags": "faststart"}, options=options)
    data = path.read_bytes()
    body = data.rindex(b"mdat")
    path.write_bytes(data[: body + (len(data) - body) * 6 // 10])
    return path, ("--keypoints", str(kit.points(range(_countable(path)), at.name)))


def _countable(path: Path) -> int:
    """Frames of a film that can be decoded, by FFmpeg alone."""
    count = 0
    with av.open(str(path)) as file:
        for packet in file.demux(video=0):
            try:
                count += len(packet.decode())
            except av.FFmpegError:
                break
    return count


@refused("damaged or not a video")
def cut_off_without_index(kit: Kit, at: Path) -> Made:
    path = film(at.with_suffix(".mp4"), kit.frames)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 20])
    return path


@warned("3 of its frames could not be decoded", [0, 1, 2, 3, 4, 4, 4, 4, 8, 9, 10, 11])
def corrupt_middle(kit: Kit, at: Path) -> Made:
    path = film(at.with_suffix(".mp4"), kit.frames, options={"g": "4", "bf": "0", "crf": "12"})
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        places = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
    for place, size in places[5:8]:
        data[place : place + size] = bytes(size)
    path.write_bytes(data)
    return path


@refused("(0 bytes)")
def empty(kit: Kit, at: Path) -> Made:
    at.with_suffix(".mp4").touch()
    return at.with_suffix(".mp4")


@refused("damaged or not a video")
def text(kit: Kit, at: Path) -> Made:
    at.with_suffix(".mp4").write_text("This is a letter, not a film.\n" * 40)
    return at.with_suffix(".mp4")


@refused("still picture")
def picture_called_mp4(kit: Kit, at: Path) -> Made:
    Image.fromarray(kit.frames[0]).save(at.with_suffix(".png"))
    return at.with_suffix(".png").rename(at.with_suffix(".mp4"))


@good()
def video_called_jpg(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames).rename(at.with_suffix(".jpg"))


@refused("no pictures")
def empty_folder(kit: Kit, at: Path) -> Made:
    at.mkdir()
    return at


@refused("There is no file")
def missing(kit: Kit, at: Path) -> Made:
    return at.with_suffix(".mp4")


@refused("no file")
def named_pipe(kit: Kit, at: Path) -> Made:
    os.mkfifo(at.with_suffix(".mp4"))
    return at.with_suffix(".mp4")


@refused("too long")
def long_name(kit: Kit, at: Path) -> Made:
    return at.with_name("a" * 300 + ".mp4")


@refused("cannot be read")
def unreadable(kit: Kit, at: Path) -> Made:
    path = film(at.with_suffix(".mp4"), kit.frames)
    path.chmod(0)
    return path


# sequences of pictures


def _sequence(at: Path, pictures: Pictures, numbers: Sequence[int]) -> Path:
    at.mkdir()
    for number, picture in zip(numbers, pictures, strict=True):
        Image.fromarray(picture).save(at / f"{number:03d}.png")
    return at


@warned("missing", [0, 1, 2, 4, 5, 6])
def sequence_with_a_gap(kit: Kit, at: Path) -> Made:
    numbers = [0, 1, 2, 4, 5, 6]
    return _sequence(at, [kit.frames[i] for i in numbers], numbers)


@warned("other size", range(6))
def sequence_of_sizes(kit: Kit, at: Path) -> Made:
    sizes = [SIZE, SIZE, (320, 240), SIZE, (200, 150), SIZE]
    return _sequence(at, [cv2.resize(kit.frames[i], sizes[i]) for i in range(6)], range(6))


@warned("1 of its pictures could not be read", [0, 1, 1, 3, 4, 5])
def sequence_with_a_broken_one(kit: Kit, at: Path) -> Made:
    _sequence(at, kit.frames[:6], range(6))
    (at / "002.png").write_bytes((at / "002.png").read_bytes()[:200])
    return at


# what is given beside them


@refused("points.npz")
def keypoints_with_nan(kit: Kit, at: Path) -> Made:
    return _with_points(kit, at, lambda arrays: arrays["body"].__setitem__((3, 2, 0), np.nan))


@refused("frames more than the driver")
def keypoints_too_long(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames[:6]), ("--keypoints", str(kit.points(range(FRAMES), at.name)))


@refused("frames fewer than the driver")
def keypoints_too_short(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames), ("--keypoints", str(kit.points(range(5), at.name)))


@refused("133")
def keypoints_of_another_shape(kit: Kit, at: Path) -> Made:
    np.save(at.with_suffix(".npy"), np.zeros((FRAMES, 99, 3), np.float32))
    return film(at.with_suffix(".mp4"), kit.frames), ("--keypoints", str(at.with_suffix(".npy")))


@refused("nobody")
def keypoints_of_nobody(kit: Kit, at: Path) -> Made:
    return _with_points(
        kit, at, lambda arrays: [arrays[part].fill(0) for part in ("body", "hands", "face", "wholebody")]
    )


def _with_points(kit: Kit, at: Path, spoil: Callable[[dict[str, np.ndarray]], object]) -> Made:
    path = kit.points(range(FRAMES), at.name)
    with np.load(path) as file:
        arrays = dict(file)
    spoil(arrays)
    np.savez(path, **arrays)
    return film(at.with_suffix(".mp4"), kit.frames), ("--keypoints", str(path))


@refused("not the same shape")
def keypoints_of_another_picture(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), [frame[:, :90] for frame in kit.frames])


@refused("frames fewer than the driver")
def mask_too_short(kit: Kit, at: Path) -> Made:
    film(at.with_suffix(".mask.mp4"), [np.full_like(kit.frames[0], 255)] * 4)
    return film(at.with_suffix(".mp4"), kit.frames), ("--mask", str(at.with_suffix(".mask.mp4")))


@good(range(5), frames=5)
def fewer_frames_than_keypoints(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames), ("--keypoints", str(kit.points(range(FRAMES), at.name)))


@good()
def cut_every_second(kit: Kit, at: Path) -> Made:
    pictures = [frame if i % 4 < 2 else stamped(255 - frame, i) for i, frame in enumerate(kit.frames)]
    return film(at.with_suffix(".mp4"), pictures)


@good()
def flashes(kit: Kit, at: Path) -> Made:
    pictures = [stamped(np.full_like(frame, 255), i) if i % 3 == 1 else frame for i, frame in enumerate(kit.frames)]
    return film(at.with_suffix(".mp4"), pictures)
