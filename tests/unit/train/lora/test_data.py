"""Lists of clips and their importers, rates, buckets, the cache, and every kind of clip that cannot be used."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pasdedeux.animate.video import read_video
from pasdedeux.apps.tuning import LoraOptions, tune
from pasdedeux.checkpoints.bundle import find_bundle
from pasdedeux.train import saving
from pasdedeux.train.lora.cache import Cache
from pasdedeux.train.lora.dataset import DatasetError, Item, read_dataset
from pasdedeux.train.lora.ingest import Fault, Taken, Wish, bucket_length, bucket_size, take
from pasdedeux.train.lora.samples import Encoder, Sample
from pasdedeux.train.saving import SaveError

from .conftest import write_video

WISH = Wish(fps=16.0, frames=9, size=(64, 64), grid=(16, 16))


def test_a_folder_with_captions_beside(folder: Path) -> None:
    assert [(item.name, item.caption) for item in read_dataset(folder).items] == [
        ("0.mp4", "a cat"),
        ("1.mp4", "a bad cab"),
        ("2.mp4", "dance"),
    ]


def test_diffusers_folder(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "1.mp4", "text": "theirs"}\n', encoding="utf-8")
    assert read_dataset(folder).items == (Item(video=folder / "1.mp4", caption="theirs"),)


def test_jsonl(folder: Path) -> None:
    lines = [
        {"video": "0.mp4", "repeats": 3, "start": 0.5},
        {"video_path": "1.mp4", "caption": "own", "driver": "2.mp4"},
    ]
    (folder / "list.jsonl").write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert read_dataset(folder / "list.jsonl").items == (
        Item(video=folder / "0.mp4", caption="a cat", repeats=3, start=0.5),
        Item(video=folder / "1.mp4", caption="own", driver=folder / "2.mp4"),
    )


def test_toml(folder: Path) -> None:
    text = 'size = [96, 64]\nframes = 9\n[[clips]]\nvideo = "0.mp4"\n[[clips]]\nvideo = "1.mp4"\ncaption = "own"\n'
    (folder / "list.toml").write_text(text, encoding="utf-8")
    dataset = read_dataset(folder / "list.toml")
    assert (dataset.size, dataset.frames) == ((96, 64), 9)
    assert [item.caption for item in dataset.items] == ["a cat", "own"]


def test_musubi_toml(folder: Path) -> None:
    text = """
[general]
resolution = [96, 64]
caption_extension = ".txt"
batch_size = 2
[[datasets]]
video_directory = "."
target_frames = [1, 9]
num_repeats = 4
source_fps = 24.0
[[datasets]]
image_directory = "pictures"
"""
    (folder / "musubi.toml").write_text(text, encoding="utf-8")
    dataset = read_dataset(folder / "musubi.toml")
    assert (dataset.size, dataset.frames, dataset.batch) == ((96, 64), 9, 2)
    assert {(item.repeats, item.fps) for item in dataset.items} == {(4, 24.0)}
    assert len(dataset.items) == 3
    assert "no videos" in dataset.notes[0]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", "{", "Line 1 of"),
        ("a.jsonl", '{"caption": "x"}', "names no video"),
        ("a.jsonl", '{"video": "x.mp4", "repeats": 0}', "repeats of 0"),
        ("a.jsonl", '{"video": "x.mp4", "start": "now"}', "start of 'now'"),
        ("a.jsonl", "", "names no clips"),
        ("a.toml", "x = = 1", "cannot be read as TOML"),
        ("a.toml", '[[datasets]]\nvideo_directory = "nowhere"', "which is not there"),
        ("a.csv", "x", "is no list of clips"),
    ],
)
def test_broken_lists_are_one_sentence(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=said):
        read_dataset(tmp_path / name)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ('"fps": 0', "fps of 0; it must be a number above 0"),
        ('"fps": -24', "fps of -24"),
        ('"fps": NaN', "fps of nan"),
        ('"fps": true', "fps of True"),
        ('"end": Infinity', "end of inf"),
        (f'"end": 1{"0" * 400}', "it must be a number above 0"),
        ('"end": 0', "end of 0"),
        ('"start": 2, "end": 2.0', "end of 2; it must be after its start, 2"),
        ('"start": -0.5', "start of -0.5; it must be a number of 0 or more"),
        ('"start": -Infinity', "start of -inf"),
        ('"repeats": Infinity', "repeats of inf; it must be a whole number"),
        ('"num_repeats": "2"', "num_repeats of '2'"),
        ('"caption": ["a"]', "caption of ['a']; it must be text"),
        ('"driver": 5', "driver of 5; it must be text"),
    ],
)
def test_values_of_a_line_that_cannot_be(values: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(f'{{"video": "0.mp4"}}\n{{"video": "1.mp4", {values}}}\n', encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"^Line 2 of {re.escape(str(path))} has .*{re.escape(said)}"):
        read_dataset(path)


@pytest.mark.parametrize("video", ["", ".", "/"])
def test_a_video_without_a_name_is_none(video: str, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps({"video": video}), encoding="utf-8")
    with pytest.raises(DatasetError, match="names no video"):
        read_dataset(tmp_path / "list.jsonl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clips = 5", "{path} has clips of 5; it must be a list of tables, [[clips]]."),
        ('clips = ["0.mp4"]', "Clip 1 of {path} is '0.mp4'; it must be an object with a video."),
        ("clips = []", "{path} names no clips"),
        ('[[clips]]\nvideo = "0.mp4"\nfps = inf', "Clip 1 of {path} has fps of inf"),
        ('frames = "x"\n[[clips]]\nvideo = "0.mp4"', "{path} has frames of 'x'; it must be a whole number"),
        ('frames = 0\n[[clips]]\nvideo = "0.mp4"', "{path} has frames of 0"),
        ('size = true\n[[clips]]\nvideo = "0.mp4"', "{path} has size of True; it must be [width, height]."),
        ("datasets = []", "{path} names no clips"),
        ("datasets = 3", "{path} has datasets of 3; it must be a list of tables, [[datasets]]."),
        ("datasets = [3]", "Dataset 1 of {path} is 3; it must be a table"),
        ("general = 3\ndatasets = []", "{path} has general of 3; it must be a table, [general]."),
    ],
)
def test_broken_toml(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError) as caught:
        read_dataset(path)
    assert str(caught.value).startswith(said.format(path=path))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('target_frames = ["x"]', "target_frames of ['x']; it must be a list of whole numbers of 1 or more."),
        ("target_frames = [1, 0]", "target_frames of [1, 0]"),
        ("target_frames = 9", "target_frames of 9"),
        ('num_repeats = "x"', "num_repeats of 'x'; it must be a whole number of 1 or more."),
        ("num_repeats = 0", "num_repeats of 0"),
        ('batch_size = "2"', "batch_size of '2'"),
        ('source_fps = "24"', "source_fps of '24'; it must be a number above 0."),
        ("source_fps = 0.0", "source_fps of 0.0"),
        ("source_fps = nan", "source_fps of nan"),
        ("video_jsonl_file = 5", "video_jsonl_file of 5; it must be text."),
        ("caption_extension = 5", "caption_extension of 5; it must be text."),
        ('caption_extension = "txt"', "caption_extension of 'txt'; it must be a dot and letters, as .txt is."),
        ("resolution = [96]", "resolution of [96]; it must be [width, height]."),
    ],
)
def test_values_of_a_musubi_list_that_cannot_be(value: str, said: str, folder: Path) -> None:
    path = folder / "musubi.toml"
    good = '[[datasets]]\nvideo_directory = "."\n'
    path.write_text(f"{good}{good}{value}\n", encoding="utf-8")
    with pytest.raises(DatasetError) as caught:
        read_dataset(path)
    assert str(caught.value).startswith(f"Dataset 2 of {path} has {said}")


def test_a_musubi_list_names_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[[datasets]]\nvideo_directory = 5\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="video_directory of 5; it must be text"):
        read_dataset(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_text('[[datasets]]\nvideo_jsonl_file = "no.jsonl"\n', encoding="utf-8")
    with pytest.raises(DatasetError, match=r"Dataset 1 of .* names the list .*no\.jsonl, which is not there"):
        read_dataset(tmp_path / "b.toml")


@pytest.mark.parametrize("name", ["0.txt", "metadata.jsonl", "list.jsonl", "list.toml"])
def test_files_that_are_not_utf8_are_named(name: str, folder: Path) -> None:
    (folder / name).write_bytes('{"video": "0.mp4", "caption": "caf\xe9"}'.encode("latin-1"))
    source = folder / name if name.startswith("list") else folder
    with pytest.raises(
        DatasetError, match=rf"^{re.escape(str(folder / name))} is not text in UTF-8 \(.* at byte \d+\)"
    ):
        read_dataset(source)


def test_frames_are_sampled_by_time_not_by_number(tmp_path: Path) -> None:
    shades = np.arange(48, dtype=np.uint8) * 5
    frames = np.broadcast_to(shades[:, None, None, None], (48, 64, 64, 3)).copy()
    path = write_video(tmp_path / "fast.mp4", frames, 48.0)
    taken = take(Item(video=path, caption="x"), WISH)
    assert isinstance(taken, Taken)
    decoded = np.stack(list(read_video(path)))
    assert len(taken.frames) == 9
    assert np.abs(taken.frames.astype(int) - decoded[0:27:3]).max() <= 2


@pytest.mark.parametrize("source", [(1920, 1080), (1080, 1920), (640, 640), (3000, 100), (854, 480)])
def test_buckets(source: tuple[int, int]) -> None:
    wish = Wish(fps=16, frames=81, size=(832, 480), grid=(16, 16))
    width, height = bucket_size(source, wish)
    assert width % 16 == height % 16 == 0
    assert width * height <= 832 * 480
    if max(source) < 3 * min(source):
        assert width * height > 0.8 * 832 * 480
        assert abs(np.log(width / height * source[1] / source[0])) < 0.08
    assert [bucket_length(n, wish) for n in (5, 8, 9, 81, 200)] == [5, 5, 9, 81, 81]


def fault(item: Item, wish: Wish = WISH) -> str:
    found = take(item, wish)
    assert isinstance(found, Fault)
    return str(found)


def test_clips_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    good = (folder / "1.mp4").read_bytes()
    (tmp_path / "corrupt.mp4").write_bytes(good[: len(good) // 3])
    (tmp_path / "empty.mp4").write_bytes(b"")
    write_video(tmp_path / "short.mp4", np.zeros((3, 64, 64, 3), np.uint8))
    write_video(tmp_path / "slow.mp4", np.zeros((20, 64, 64, 3), np.uint8), 8.0)
    assert "no caption" in fault(Item(video=folder / "1.mp4"))
    assert "corrupt.mp4" in fault(Item(video=tmp_path / "corrupt.mp4", caption="x"))
    assert "empty" in fault(Item(video=tmp_path / "empty.mp4", caption="x"))
    assert "no file" in fault(Item(video=tmp_path / "nothing.mp4", caption="x"))
    assert "5 are needed" in fault(Item(video=tmp_path / "short.mp4", caption="x"))
    assert "8 frames a second" in fault(Item(video=tmp_path / "slow.mp4", caption="x"))
    assert "the list says 30" in fault(Item(video=folder / "1.mp4", caption="x", fps=30.0))
    assert "the list says 0" in fault(Item(video=folder / "1.mp4", caption="x", fps=0.0))


def test_bad_clips_are_named_and_left_out_or_stop_all(
    folder: Path, wan_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    (folder / "9.mp4").write_bytes(b"no video")
    (folder / "1.txt").unlink()
    said: list[str] = []
    options = {"model": str(wan_folders("wan2.2-t2v-a14b")), "data": folder, "out": tmp_path / "out"}
    small = {"steps": "1", "rank": "2", "size": "64x64", "frames": 5}
    tune(LoraOptions(**options, **small, dry_run=True), said.append)  # type: ignore[arg-type]
    left = [line for line in said if line.startswith("left out")]
    assert [line.split(":")[1].strip() for line in left] == ["1.mp4", "9.mp4"]
    with pytest.raises(DatasetError, match=r"1\.mp4: it has no caption"):
        tune(LoraOptions(**options, **small, strict=True), said.append)  # type: ignore[arg-type]


def test_what_is_kept_is_found_again_by_content(
    folder: Path, wan_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle, said = find_bundle(wan_folders("wan2.2-t2v-a14b")), list[str]()

    def encoded(wish: Wish = WISH) -> list[Sample]:
        said.clear()
        found = Encoder(bundle=bundle, cache=Cache(tmp_path / "kept"), wish=wish, say=said.append)
        return [one for one in found.encode(read_dataset(folder).items) if isinstance(one, Sample)]

    first = encoded()
    assert sum("encoded" in line for line in said) == 3
    assert {sample.shape for sample in first} == {(16, 3, 8, 8), (16, 3, 10, 6)} or len(first) == 3
    (folder / "0.mp4").rename(folder / "other.mp4")
    (folder / "0.txt").rename(folder / "other.txt")
    assert {s.entry for s in encoded()} == {s.entry for s in first}
    assert said == []
    encoded(Wish(fps=16.0, frames=5, size=(64, 64), grid=(16, 16)))
    assert sum("encoded" in line for line in said) == 3
    data = bytearray(first[0].entry.read_bytes())
    data[-1] ^= 1
    first[0].entry.write_bytes(bytes(data))
    encoded()
    assert sum("encoded" in line for line in said) == 1


def test_a_full_disk_leaves_no_half_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving.os, "fsync", full)
    cache = Cache(tmp_path)
    with pytest.raises(SaveError, match="No space left"):
        cache.write(cache.path("x"), {"x": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == []
