"""Drivers in which the models have to find somebody, or nobody, and bad and odd pictures of characters."""

from pathlib import Path

import cv2
import numpy as np
from bad_kit import MEDIA, SIZE, Kit, Made, Pictures, case, character, film, refused, warned
from PIL import Image

from pasdedeux.animate.preprocess.wholebody import save_keypoints
from pasdedeux.puppets import Character, Choreography, Light, Place, render

# Drivers


def _real(kit: Kit, at: Path, pictures: Pictures) -> Path:
    del kit
    return film(at.with_suffix(".mp4"), pictures, rate=6)


@refused("no person was found", real=True)
def no_person(kit: Kit, at: Path) -> Made:
    place = render(
        Character.from_seed(1),
        Choreography.from_seed(1).poses(1, 1.0, start=0),
        Place.from_seed(4),
        Light.from_seed(4),
        (480, 272),
    ).background
    return _real(kit, at, [np.roll(place, 4 * i, axis=1) for i in range(4)])


@refused("no person was found", real=True)
def cat(kit: Kit, at: Path) -> Made:
    picture = np.full((270, 480, 3), 200, np.uint8)
    cv2.ellipse(picture, (240, 190), (60, 70), 0, 0, 360, (90, 80, 70), -1)
    cv2.circle(picture, (240, 100), 45, (90, 80, 70), -1)
    for side in (-1, 1):
        ear = np.array([(240 + side * 42, 88), (240 + side * 40, 30), (240 + side * 12, 62)])
        cv2.fillPoly(picture, [ear], (90, 80, 70))
        cv2.circle(picture, (240 + side * 18, 95), 7, (220, 220, 60), -1)
        cv2.line(picture, (240 + side * 10, 118), (240 + side * 70, 112), (20, 20, 20), 2)
    return _real(kit, at, [picture] * 4)


@refused("no person was found", real=True)
def skeleton_video(kit: Kit, at: Path) -> Made:
    from pasdedeux.animate.video import frames_at

    seen = frames_at(MEDIA / "skeleton.mp4", 6, size=(480, 270))
    return _real(kit, at, [next(seen) for _ in range(4)])


@warned("people", None, real=True)
def several_people(kit: Kit, at: Path) -> Made:
    return _real(kit, at, [_two(frame) for frame in kit.man])


@refused("There is no person number 9", real=True, options=("--person", "9"))
def person_nine(kit: Kit, at: Path) -> Made:
    return _real(kit, at, [_two(frame) for frame in kit.man[:3]])


def _two(frame: np.ndarray) -> np.ndarray:
    half = frame[:, 90:390]
    return np.concatenate([half, half[:, ::-1]], axis=1)


@warned("frames", None, real=True)
def leaves_and_comes_back(kit: Kit, at: Path) -> Made:
    return _real(kit, at, [np.full_like(f, 128) if 2 <= i < 6 else f for i, f in enumerate(kit.man)])


@case("driver", "good", "", None, real=True)
def face_only(kit: Kit, at: Path) -> Made:
    return _real(kit, at, [cv2.resize(frame[:150, 235:391], (312, 300)) for frame in kit.man[:6]])


@refused("no person was found", real=True)
def no_face(kit: Kit, at: Path) -> Made:
    pictures = [frame.copy() for frame in kit.man[:6]]
    for picture in pictures:
        cv2.ellipse(picture, (313, 62), (44, 60), 0, 0, 360, (70, 50, 40), -1)
    return _real(kit, at, pictures)


@warned("pixels wide", None, real=True)
def tiny_person(kit: Kit, at: Path) -> Made:
    pictures = [np.full((270, 480, 3), 150, np.uint8) for _ in kit.man[:6]]
    for picture, frame in zip(pictures, kit.man, strict=False):
        picture[80:215, 120:360] = cv2.resize(frame, (240, 135), interpolation=cv2.INTER_AREA)
    return _real(kit, at, pictures)


@warned("brightened", None, real=True)
def dark(kit: Kit, at: Path) -> Made:
    return _real(kit, at, [(frame * 0.06).astype(np.uint8) for frame in kit.man[:6]])


# Characters


def _image(kit: Kit) -> Image.Image:
    return Image.fromarray(cv2.resize(kit.frames[0], (480, 360), interpolation=cv2.INTER_CUBIC))


def _posed(kit: Kit, at: Path, path: Path) -> Made:
    """The picture, and the points of the puppet in it."""
    return path, ("--character-keypoints", str(kit.points([0], at.name)))


@character("good")
def plain_character(kit: Kit, at: Path) -> Made:
    _image(kit).save(at.with_suffix(".png"))
    return _posed(kit, at, at.with_suffix(".png"))


@character("good")
def turned_character(kit: Kit, at: Path) -> Made:
    exif = Image.Exif()
    exif[0x0112] = 6
    _image(kit).rotate(90, expand=True).save(at.with_suffix(".jpg"), exif=exif, quality=95)
    return _posed(kit, at, at.with_suffix(".jpg"))


@character("warned", "transparent parts were laid on mid grey")
def alpha_character(kit: Kit, at: Path) -> Made:
    picture = _image(kit).convert("RGBA")
    layer = np.array(picture)
    layer[70:280, :90, 3] = 0
    Image.fromarray(layer).save(at.with_suffix(".png"))
    return _posed(kit, at, at.with_suffix(".png"))


@character("warned", "16-bit values were scaled")
def deep_character(kit: Kit, at: Path) -> Made:
    grey = np.asarray(_image(kit).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(at.with_suffix(".png"))
    return _posed(kit, at, at.with_suffix(".png"))


@character("warned", "CMYK colours were converted")
def cmyk_character(kit: Kit, at: Path) -> Made:
    _image(kit).convert("CMYK").save(at.with_suffix(".jpg"), quality=95)
    return _posed(kit, at, at.with_suffix(".jpg"))


@character("warned", "several frames; the first is used")
def animated_character(kit: Kit, at: Path) -> Made:
    more = [Image.fromarray(frame) for frame in kit.frames[1:4]]
    Image.fromarray(kit.frames[0]).save(at.with_suffix(".png"), save_all=True, append_images=more, duration=100)
    return _posed(kit, at, at.with_suffix(".png"))


@character("refused", "damaged or cut off")
def cut_off_character(kit: Kit, at: Path) -> Made:
    _image(kit).save(at.with_suffix(".jpg"))
    data = at.with_suffix(".jpg").read_bytes()
    at.with_suffix(".jpg").write_bytes(data[: len(data) // 2])
    return at.with_suffix(".jpg")


@character("refused", "1x1 pixels")
def one_pixel_character(kit: Kit, at: Path) -> Made:
    Image.new("RGB", (1, 1)).save(at.with_suffix(".png"))
    return at.with_suffix(".png")


@character("refused", "million")
def huge_character(kit: Kit, at: Path) -> Made:
    Image.new("L", (10_000, 10_000), 90).save(at.with_suffix(".png"))
    return at.with_suffix(".png")


@character("refused", "still picture is needed")
def video_as_character(kit: Kit, at: Path) -> Made:
    return film(at.with_suffix(".mp4"), kit.frames).rename(at.with_suffix(".jpg"))


@character("refused", "not a picture")
def text_as_character(kit: Kit, at: Path) -> Made:
    at.with_suffix(".png").write_text("no picture")
    return at.with_suffix(".png")


@character("refused", "There is no file")
def missing_character(kit: Kit, at: Path) -> Made:
    return at.with_suffix(".png")


@character("refused", "folder")
def folder_as_character(kit: Kit, at: Path) -> Made:
    at.mkdir()
    return at


@character("good")
def portrait_character(kit: Kit, at: Path) -> Made:
    """A portrait's points are in shares of it, so that they fit whatever its size is."""
    tall = cv2.copyMakeBorder(kit.frames[0], 60, 60, 0, 0, cv2.BORDER_REPLICATE)
    Image.fromarray(cv2.resize(tall, (320, 480))).save(at.with_suffix(".png"))
    points = kit.puppet[1].frame(0).moved((1, 1), (0, 60), (SIZE[0], SIZE[1] + 120))
    save_keypoints(at.with_suffix(".npz"), points)
    return at.with_suffix(".png"), ("--character-keypoints", str(at.with_suffix(".npz")))


@character("refused", "no person was found", real=True)
def character_of_nobody(kit: Kit, at: Path) -> Made:
    Image.new("RGB", (320, 240), (90, 120, 90)).save(at.with_suffix(".png"))
    return at.with_suffix(".png")
