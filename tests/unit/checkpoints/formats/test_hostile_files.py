"""Files somebody, or a bad disk, has changed: each is refused in a sentence, or is still the same model.

What cannot be known is left out: no format has a checksum over its weights, so a flipped bit inside a value, bfloat16
called float16, or two names of one shape exchanged make another file that is whole.
"""

import json
import random
import re
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.load import load_weights
from pasdedeux.checkpoints.packing.quantized import join_scales
from pasdedeux.checkpoints.tensors import Weights

Mutation = Callable[[bytes, random.Random], bytes]
Seen = dict[str, tuple[tuple[int, ...], str, bytes]]
SECONDS, MEMORY = 20.0, 200 << 20  # a file takes milliseconds; a hang takes for ever


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(32, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4, bias=False)
        self.register_buffer("steps", torch.zeros(3, dtype=torch.int64))


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    found = Tiny().state_dict()
    return {**found, "head.weight": found["head.weight"].bfloat16(), "embed.weight": found["embed.weight"].half()}


def safetensors_file() -> bytes:
    quantised = {**state(), "embed.weight": state()["embed.weight"].to(torch.float8_e4m3fn)}
    return save({**quantised, "embed.scale_weight": torch.tensor(0.5)}, metadata={"format": "pt", "made": "by hand"})


def gguf_file() -> bytes:
    """Version 3, with a Q8_0 weight and one stored in a shape that was changed."""
    text: Callable[[str], bytes] = lambda word: struct.pack("<Q", len(word)) + word.encode()  # noqa: E731
    blocks = b"".join(struct.pack("<e", 0.01 * k + 0.01) + bytes(range(k, k + 32)) for k in range(8))
    stored = {name: (tensor, number) for name, tensor, number in _plain(state())}
    data = {name: tensor.flatten().view(torch.uint8).numpy().tobytes() for name, (tensor, _) in stored.items()}
    data["embed.weight"] = blocks
    infos, body = b"", b""
    for name, (tensor, number) in stored.items():
        sides = (32, 1) if name == "head.weight" else tuple(tensor.shape)[::-1]
        shape = struct.pack(f"<I{len(sides)}Q", len(sides), *sides)
        infos += text(name) + shape + struct.pack("<IQ", 8 if name == "embed.weight" else number, len(body))
        body += data[name] + bytes(-len(data[name]) % 32)
    known = text("general.architecture") + struct.pack("<I", 8) + text("wan")
    known += text("general.alignment") + struct.pack("<II", 4, 32)
    known += text("words") + struct.pack("<IIQ", 9, 8, 100) + text("word") * 100
    known += text("comfy.gguf.orig_shape.head.weight") + struct.pack("<IIQ2i", 9, 5, 2, 4, 8)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(stored), 4) + known + infos
    return header + bytes(-len(header) % 32) + body


def _plain(tensors: dict[str, Tensor]) -> list[tuple[str, Tensor, int]]:
    numbers = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30, torch.int64: 27}
    return [(name, tensor, numbers[tensor.dtype]) for name, tensor in tensors.items()]


def torch_file(tmp_path: Path) -> bytes:
    torch.save({"state_dict": state(), "epoch": 3}, tmp_path / "made.pth")
    return (tmp_path / "made.pth").read_bytes()


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def extend(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 200))


def flip(data: bytes, rng: random.Random, start: int = 0, end: int | None = None) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        changed[rng.randrange(start, len(data) if end is None else end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, rng: random.Random, end: int) -> bytes:
    """Eight bytes of the header become one number, often a huge one."""
    place = rng.randrange(end - 8)
    number = rng.choice([0, 1, 255, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 60, (1 << 63) - 1, (1 << 64) - 1])
    return data[:place] + struct.pack("<Q", number) + data[place + 8 :]


def rewrite_header(data: bytes, rng: random.Random) -> bytes:
    """The JSON header of a safetensors file with one entry changed."""
    length = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + length])
    names = sorted(set(header) - {"__metadata__"})
    one, other = rng.sample(names, 2)
    entry = header[one]
    change = rng.choice(["dtype", "shape", "turn", "offsets", "overlap", "rename", "remove", "add", "swap", "twice"])
    if change == "dtype":
        sizes = {"F64": 8, "F32": 4, "I32": 4, "I64": 8, "F16": 2, "U8": 1, "BOOL": 1, "F4": 1, "": 0}
        entry["dtype"] = rng.choice([kind for kind in sizes if (kind, entry["dtype"]) != ("F16", "BF16")])
    elif change == "shape":
        entry["shape"] = [rng.choice([-1, 0, 1, 7, 1 << 40, 2.5, None, "8"]) for _ in range(rng.randrange(4))]
    elif change == "turn":
        entry["shape"] = [*entry["shape"][1:], *entry["shape"][:1], 1]
    elif change == "offsets":
        entry["data_offsets"] = [n + rng.choice([-8, -1, 0, 1, 8, 1 << 50]) for n in entry["data_offsets"]]
    elif change == "overlap":
        entry["data_offsets"] = header[other]["data_offsets"]
    elif change == "rename":
        header[one + rng.choice(["x", ".weight", " "])] = header.pop(one)
    elif change == "remove":
        del header[one]
    elif change == "add":
        header["extra"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    elif change == "swap" and header[one]["shape"] != header[other]["shape"]:
        header[one], header[other] = header[other], header[one]
    text = json.dumps(header)
    if change == "twice":
        text = f'{text[:-1]}, "{one}": {json.dumps(entry)}}}'
    return struct.pack("<Q", len(text.encode())) + text.encode() + data[8 + length :]


def look(weights: Weights) -> Seen:
    return {
        name: (tensor.shape, tensor.dtype, tensor.read().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for name, tensor in weights.items()
    }


def opened(path: Path, data: bytes) -> Seen | str:
    """What the file holds, once it is in a model; or the sentence with which it was refused."""
    path.write_bytes(data)
    try:
        weights = join_scales(open_weights(path))
        load_weights(Tiny, weights, dtype=torch.float32)
        return look(weights)
    except ValueError as error:
        return str(error)


def judge(path: Path, data: bytes, true: Seen, body: bool, said: str) -> bool:
    """Whether the file was refused; fails unless it was, or is the same model still."""
    begun = time.perf_counter()
    found = opened(path, data)
    assert time.perf_counter() - begun < SECONDS, said
    if isinstance(found, str):
        assert re.fullmatch(r"[^\n]+\.", found), f"{said}: {found!r}"
        assert len(found) < 1000, said
        return True
    assert {n: seen[:2] for n, seen in found.items()} == {n: seen[:2] for n, seen in true.items()}, said
    assert body or found == true, said
    return False


def run(tmp_path: Path, data: bytes, mutations: dict[str, Mutation], count: int) -> dict[str, int]:
    """Try every mutation `count` times; how many of each were refused."""
    path = tmp_path / "mutated"
    true = opened(path, data)
    assert isinstance(true, dict), true
    refused = dict.fromkeys(mutations, 0)
    with no_more_memory_than(MEMORY):
        for name, mutate in mutations.items():
            for seed in range(count):
                changed = mutate(data, random.Random(f"{name} {seed}"))
                refused[name] += judge(path, changed, true, name == "body", f"{name} {seed}")
    return refused


@contextmanager
def no_more_memory_than(extra: int) -> Iterator[None]:
    """Whoever asks the system for more than so many bytes gets a MemoryError, which nobody here catches."""
    if not sys.platform.startswith("linux"):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_the_limit_limits() -> None:
    with no_more_memory_than(MEMORY):
        bytearray(MEMORY // 4)
        if sys.platform.startswith("linux"):
            with pytest.raises(MemoryError):
                bytearray(2 * MEMORY)


def test_safetensors(tmp_path: Path) -> None:
    data = safetensors_file()
    header = 8 + struct.unpack_from("<Q", data)[0]
    mutations: dict[str, Mutation] = {
        "truncate": truncate,
        "extend": extend,
        "header": lambda d, rng: flip(d, rng, 0, header),
        "body": lambda d, rng: flip(d, rng, header),
        "length": lambda d, rng: struct.pack("<Q", rng.getrandbits(rng.randrange(1, 65))) + d[8:],
        "overwrite": lambda d, rng: overwrite(d, rng, header),
        "entry": rewrite_header,
    }
    refused = run(tmp_path, data, mutations, 30)
    assert refused["truncate"] == refused["extend"] == refused["length"] == refused["overwrite"] == 30
    assert refused["header"] > 20
    assert refused["body"] == 0


def test_gguf(tmp_path: Path) -> None:
    data = gguf_file()
    header = data.index(b"steps") + 40
    mutations: dict[str, Mutation] = {
        "truncate": truncate,
        "extend": lambda d, rng: extend(d, rng) + bytes(32),
        "header": lambda d, rng: flip(d, rng, 0, header),
        "body": lambda d, rng: flip(d, rng, len(d) - 300),
        "overwrite": lambda d, rng: overwrite(d, rng, header),
    }
    refused = run(tmp_path, data, mutations, 26)
    assert refused["truncate"] == refused["extend"] == 26
    assert refused["header"] > 5
    assert refused["overwrite"] > 10
    assert refused["body"] == 0


def test_checkpoints_of_torch(tmp_path: Path) -> None:
    data = torch_file(tmp_path)
    pickled = data.index(b"state_dict")
    directory = data.index(b"PK\x01\x02")
    mutations: dict[str, Mutation] = {
        "truncate": truncate,
        "pickle": lambda d, rng: flip(d, rng, pickled, pickled + 600),
        "directory": lambda d, rng: flip(d, rng, directory),
        "overwrite": lambda d, rng: overwrite(d[:directory], rng, directory)[:directory] + d[directory:],
    }
    refused = run(tmp_path, data, {name: mutations[name] for name in ("truncate", "pickle", "directory")}, 20)
    assert refused["truncate"] == refused["pickle"] == 20
    assert refused["directory"] > 5
    refused = run(tmp_path, data, {"body": mutations["overwrite"]}, 20)
    assert refused["body"] < 20


def test_the_length_of_a_field_that_shifts_a_storage_is_refused(tmp_path: Path) -> None:
    data = torch_file(tmp_path)
    header = data.index(b"/data/0") - len("made") - 30
    true = struct.unpack_from("<H", data, header + 28)[0]
    for extra in (0, true - 16, true - 1, true + 1, true + 8, 1000, 65535):
        changed = data[: header + 28] + struct.pack("<H", extra) + data[header + 30 :]
        found = opened(tmp_path / "w", changed)
        assert isinstance(found, str), extra
        assert "is not where its zip says" in found


@pytest.mark.parametrize("seed", range(20))
def test_an_index_that_was_changed(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    (tmp_path / "a.safetensors").write_bytes(save({"a": torch.ones(2), "b": torch.ones(3)}))
    (tmp_path / "b.safetensors").write_bytes(save({"c": torch.ones(4)}))
    index = tmp_path / "m.safetensors.index.json"
    placed = {"a": "a.safetensors", "b": "a.safetensors", "c": "b.safetensors"}
    index.write_text(json.dumps({"weight_map": placed}))
    true = look(open_weights(tmp_path))
    index.write_bytes(flip(index.read_bytes(), rng) if seed % 2 else truncate(index.read_bytes(), rng))
    try:
        found = look(open_weights(tmp_path))
    except ValueError as error:
        found = str(error)
    assert found == true or (isinstance(found, str) and re.fullmatch(r"[^\n]+\.", found))
