"""What a file holds, whatever its format; and that a wrong one is refused in a sentence."""

import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.formats.mapped import MappedFile
from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors

DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)


def every_type() -> dict[str, Tensor]:
    values = torch.arange(6.0).reshape(2, 3)
    return {name: values.to(getattr(torch, name)) for name in DTYPES} | {
        "none": torch.zeros(0, 4),
        "one": torch.tensor(3.5),
    }


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.double(), other.double())


def test_safetensors_of_every_type(tmp_path: Path) -> None:
    save_file(every_type(), tmp_path / "w.bin", metadata={"format": "pt"})
    weights = open_weights(tmp_path / "w.bin")
    assert (weights.container, weights.metadata, weights.path) == (
        "safetensors",
        {"format": "pt"},
        tmp_path / "w.bin",
    )
    for name, expected in every_type().items():
        assert same(weights[name].read(), expected)
        assert weights[name].dtype == str(expected.dtype).removeprefix("torch.")
        assert weights[name].nbytes == expected.nbytes


def test_writing_into_a_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1000)}, tmp_path / "w")
    open_weights(tmp_path / "w")["a"].read().add_(1)
    assert torch.equal(open_weights(tmp_path / "w")["a"].read(), torch.zeros(1000))


def test_values_that_lie_unaligned_are_read(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
        }
    ).encode()
    data = bytes([1, 2, 3]) + struct.pack("<2f", 1.5, -2.0)
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header + data)
    assert open_weights(tmp_path / "w")["b"].read().tolist() == [1.5, -2.0]


def test_opening_a_file_larger_than_memory_reads_no_weights(tmp_path: Path) -> None:
    size = 1 << 38
    header = json.dumps({"a": {"dtype": "BF16", "shape": [1 << 18, 1 << 19], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "w"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    tensor = open_weights(path)["a"].read()
    assert tensor.shape == (1 << 18, 1 << 19)
    assert tensor[-1, -1] == 0
    assert path.stat().st_blocks * 512 < 1 << 20


def test_a_file_that_changed_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "w")
    weights = open_weights(tmp_path / "w")
    save_file({"a": torch.zeros(8)}, tmp_path / "w")
    with pytest.raises(ValueError, match="has changed since it was opened"):
        weights["a"].read()
    with pytest.raises(ValueError, match="but a tensor ends at"):
        MappedFile(tmp_path / "w").tensor(1 << 20, (1,), torch.uint8)


def shard(folder: Path, **changes: Any) -> Path:
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, folder / "m-1.safetensors")
    save_file({"c": torch.full((2, 2), 4.0)}, folder / "m-2.safetensors")
    placed = {"a": "m-1.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors", **changes}
    index = folder / "m.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {k: v for k, v in placed.items() if v is not None}}))
    return index


def test_shards_are_one_model(tmp_path: Path) -> None:
    index = shard(tmp_path)
    for path in (index, tmp_path):
        weights = open_weights(path)
        assert (weights.container, weights.path) == ("sharded safetensors", tmp_path)
        assert weights.shapes == {"a": (2,), "b": (3,), "c": (2, 2)}
        assert same(weights["c"].read(), torch.full((2, 2), 4.0))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d": "m-1.safetensors"}, "lacks d, which"),
        ({"b": None}, "holds b, which"),
        ({"b": "m-2.safetensors"}, "lacks b, which|holds b, which"),
        ({"c": "../m-2.safetensors"}, "must lie beside it"),
        ({"c": "/etc/passwd"}, "must lie beside it"),
        ({"c": ".."}, "must lie beside it"),
        ({"c": "m-3.safetensors"}, "names the shard m-3.safetensors, which is not beside it"),
        ({"c": 3}, "not an index of shards"),
    ],
)
def test_an_index_that_does_not_hold_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_weights(shard(tmp_path, **changes))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "[" * 100_000, '{"a":1,"a":1}']
)
def test_what_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="is not an index of shards"):
        open_weights(tmp_path)


def test_a_folder_must_hold_one_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found: none"):
        open_weights(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert open_weights(tmp_path).path == tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match=r"found: x\.safetensors, y\.safetensors"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not a file of weights"),
        (b"hello, this is some text", "is not a file of weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS"),
        (pickle.dumps({"a": 1}), "is a bare pickle"),
        (b"PK\x03\x04 and no more", "cannot|can be loaded"),
        (b"GGUF", "its header ends early"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "its version is 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "bytes in one text"),
        (struct.pack("<Q", 1 << 60) + b"{}", "its header should be"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "w").write_bytes(data)
    with pytest.raises(ValueError, match=said):
        open_weights(tmp_path / "w")
    with pytest.raises(ValueError, match="There is no file"):
        open_weights(tmp_path / "absent")


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": entry(dtype="F4")}, "a is of type F4"),
        ({"a": entry(dtype="F64")}, "8 bytes where its shape and type need 16"),
        ({"a": entry(shape=[3])}, "need 12"),
        ({"a": entry(shape=[1 << 62, 1 << 62])}, "8 bytes where"),
        ({"a": entry(shape=[-2])}, "no whole numbers"),
        ({"a": entry(shape=[2.0])}, "no whole numbers"),
        ({"a": entry(shape="2")}, "no whole numbers"),
        ({"a": entry(data_offsets=[8, 0])}, "-8 bytes where"),
        ({"a": entry(data_offsets=[0, 8, 16])}, "no whole numbers"),
        ({"a": entry(data_offsets=[8, 16])}, "begins at byte 8, where 0 is next"),
        ({"a": entry(), "b": entry()}, "begins at byte 0, where 8 is next"),
        ({"a": entry(), "b": entry(data_offsets=[8, 16])}, "need 16 bytes, but it has 8"),
        ({}, "need 0 bytes, but it has 8"),
        ({"a": entry(more=1)}, "not described"),
        ({"a": 3}, "not described"),
        ({"a": entry(), "__metadata__": {"x": 3}}, "not text"),
        ([], "not an object"),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, header: Any, said: str) -> None:
    text = json.dumps(header).encode()
    text = b"{" + text[1:] if isinstance(header, dict) else text + b" " * 7
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(ValueError, match="is not a whole safetensors file") as caught:
        open_safetensors(tmp_path / "w.safetensors")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: OrderedDict(state),
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "note": "x", "optimizer": {"steps": [1, 2]}},
        lambda state: {"module": {"state_dict": state}},
        lambda state: {**state, "epoch": 3, "name": "x", "rate": 0.1, "best": None, "done": True},
    ],
)
def test_a_checkpoint_of_torch_is_what_torch_loads(tmp_path: Path, wrap: Any) -> None:
    grid = torch.arange(12.0).reshape(3, 4)
    state = every_type() | {"turned": grid.t(), "part": grid[1:, ::2], "kept": nn.Parameter(grid)}
    torch.save(wrap(state), tmp_path / "w.pth")
    weights = open_weights(tmp_path / "w.pth")
    assert weights.container == "pth"
    assert set(weights) == set(state)
    for name, expected in state.items():
        assert same(weights[name].read(), expected.detach())
        assert weights[name].dtype == str(expected.dtype).removeprefix("torch.")
    loaded = torch.load(tmp_path / "w.pth", weights_only=True)
    assert wrap(state).keys() == loaded.keys()


class Evil:
    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.name}",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    ran = tmp_path / "ran"
    torch.save({"a": torch.zeros(2), "b": Evil(str(ran))}, tmp_path / "w.pth", pickle_protocol=protocol)
    with pytest.raises(ValueError, match=r"it would run (posix|nt)\.system"):
        open_weights(tmp_path / "w.pth")
    assert not ran.exists()


def zipped(path: Path, pickled: bytes, storage: bytes = bytes(16), compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/data/0", storage)
    return path


def pickled_tensor(count: int = 4, offset: int = 0, shape: str = "K\x04\x85", strides: str = "K\x01\x85") -> bytes:
    """A dict with one tensor in storage 0, its numbers as asked for."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK"
        + bytes([count])
        + b"tQ"
    )
    view = b"K" + bytes([offset]) + shape.encode("latin1") + strides.encode("latin1")
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"\x89}tR"
    return b"\x80\x02}X\x01\x00\x00\x00a" + made + b"s."


def test_a_pickle_written_by_hand_is_read(tmp_path: Path) -> None:
    path = zipped(tmp_path / "w", pickled_tensor(), struct.pack("<4f", 1, 2, 3, 4))
    assert open_weights(path)["a"].read().tolist() == [1, 2, 3, 4]


HUGE = "\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x10"  # 2 ** 60


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (pickled_tensor(count=5), "has 16 bytes, not 20"),
        (pickled_tensor(offset=1), "reaches beyond"),
        (pickled_tensor(shape=f"{HUGE}\x85"), "reaches beyond"),
        (pickled_tensor(shape=f"{HUGE}\x85", strides="K\x00\x85"), "reaches beyond"),
        (pickled_tensor(shape="K\x02K\x02\x86"), "the shape of a is"),
        (pickled_tensor(strides="J\xff\xff\xff\xff\x85"), "its strides"),
        (pickled_tensor().replace(b"\x000X", b"\x001X"), "its storage 1 is missing"),
        (pickled_tensor().replace(b"FloatStorage", b"CharStorage_"), "would run torch.CharStorage_"),
        (pickled_tensor()[:-1], "ends early|broken|exhausted"),
        (pickle.dumps({"a": 1, "b": [1, 2]}, 2), "b is no tensor"),
        (pickle.dumps({1: 2}, 2), "no tensors by name"),
        (pickle.dumps([1, 2], 2), "no tensors by name"),
        (pickle.dumps(b"x" * 100, 5), "SHORT_BINBYTES"),
        (pickle.dumps(bytearray(100), 5), "BYTEARRAY8|would run builtins.bytearray"),
        (b"\x80\x02" + b"}" * (1 << 20) + b".", "instructions"),
        (b"\x80\x02" + b"]0" * (5 << 20) + b".", "its data.pkl is compressed, or has more than"),
        (b"\x80\x02\x96\xff\xff\xff\xff\xff\xff\xff\x0f.", "bytearray|exhausted|expected"),
        (b"\x80\x02]r\xff\xff\xff\xff.", "no tensors by name"),
        (b"\x80\x02(i\n.", "broken|loaded"),
        (b"\x80\x02(iposix\nsystem\n.", "would run posix.system"),
        (b"\x80\x02" + b"(" * 1000 + b"t" * 2000 + b".", "broken"),
        (b"\x80\x02}" + b"\x85" * 100_000 + b"K\x01s.", "is broken|fills what is no dict"),
        (b"\x80\x02}}" + b"\x85" * 100_000 + b"K\x01s.", "fills what is no dict"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x01sX\x01\x00\x00\x00aK\x01s.", "a stands in it twice"),
    ],
)
def test_a_checkpoint_that_lies_is_refused(tmp_path: Path, pickled: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_weights(zipped(tmp_path / "w", pickled))


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "w", pickled_tensor(), bytes(16), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="is compressed"):
        open_weights(path)
    bomb = zipped(tmp_path / "bomb", b"\x80\x02" + bytes(1 << 26), bytes(16), zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="is compressed"):
        open_weights(bomb)


def test_a_zip_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="without one data"):
        open_weights(tmp_path / "w")
    torch.save({"model": {"a": 1}, "module": {"a": 1}}, tmp_path / "two")
    with pytest.raises(ValueError, match="holds model and module"):
        open_weights(tmp_path / "two")
