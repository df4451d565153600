"""The text encoder streamed gives what the whole one gives, to the bit, and leaves nothing behind."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

pytest.importorskip("transformers")

from pasdedeux.checkpoints.encoders import BareTextEncoder, bare_text_encoder
from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.names.encoder_keymaps import text_from_ours, text_to_ours
from pasdedeux.engine import encoding
from pasdedeux.engine.encoding import PROMPT, held_bytes, loaded, open_text_encoder

BLOCKS, TOKENS, DIM, INNER, HIDDEN, HEADS = 5, 90, 32, 64, 96, 4
PROMPTS = ["a cat", "", "a dog that waits"]
BF16 = torch.bfloat16
Tensors = dict[str, Tensor]


def native(dtype: torch.dtype) -> Tensors:
    """A tiny umT5 as the Wan release names it, every block with other values."""
    draw = torch.Generator().manual_seed(3)
    shapes = {"token_embedding.weight": (TOKENS, DIM), "norm.weight": (DIM,)}
    for i in range(BLOCKS):
        shapes |= {f"blocks.{i}.norm{k}.weight": (DIM,) for k in (1, 2)}
        shapes |= {f"blocks.{i}.attn.{k}.weight": (INNER, DIM) for k in "qkv"}
        shapes |= {f"blocks.{i}.attn.o.weight": (DIM, INNER)}
        shapes |= {f"blocks.{i}.ffn.{k}.weight": (HIDDEN, DIM) for k in ("gate.0", "fc1")}
        shapes |= {f"blocks.{i}.ffn.fc2.weight": (DIM, HIDDEN)}
        shapes |= {f"blocks.{i}.pos_embedding.embedding.weight": (8, HEADS)}
    return {name: (torch.randn(shape, generator=draw) * 0.3).to(dtype) for name, shape in shapes.items()}


def write_safetensors(folder: Path, dtype: torch.dtype = BF16) -> Path:
    path = folder / "t5.safetensors"
    save_file(native(dtype), path)
    return path


def write_pickle(folder: Path) -> Path:
    torch.save(native(BF16), folder / "t5.pth")
    return folder / "t5.pth"


def write_fp8(folder: Path) -> Path:
    """Matrices, the token embedding among them, in 8 bits: those of blocks by a number, the embedding row by row."""
    stored: Tensors = {}
    for name, tensor in native(torch.float32).items():
        stored[name] = tensor
        if tensor.ndim == 2 and "pos_embedding" not in name:
            rows = torch.linspace(0.01, 0.02, len(tensor))[:, None] if "token" in name else torch.tensor(0.01)
            stored |= {name: (tensor / rows).to(torch.float8_e4m3fn), name.replace(".weight", ".scale_weight"): rows}
    save_file(stored, folder / "t5.safetensors")
    return folder / "t5.safetensors"


def write_gguf(folder: Path) -> Path:
    gguf = pytest.importorskip("gguf")
    plain = open_weights(write_safetensors(folder, torch.float32))
    writer = gguf.GGUFWriter(folder / "t5.gguf", "t5encoder")
    for name, tensor in text_from_ours(text_to_ours(plain).weights, "gguf").items():
        values = tensor.read().numpy()
        packed = values.ndim == 2 and "rel_b" not in name
        kind = gguf.GGMLQuantizationType.Q8_0 if packed else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "t5.gguf"


KINDS: dict[str, Callable[[Path], Path]] = {
    "bf16": write_safetensors,
    "pth": write_pickle,
    "fp32": lambda folder: write_safetensors(folder, torch.float32),
    "fp8": write_fp8,
    "gguf": write_gguf,
}


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer that makes a token of each letter."""
    monkeypatch.setattr(
        "pasdedeux.checkpoints.encoders._tokenizer", lambda *_, **__: lambda t: [*(ord(c) % 89 for c in t), 1]
    )


@pytest.fixture
def stream_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are mapped count too, as they do where they have to be copied to a device."""
    monkeypatch.setattr(encoding, "held_bytes", lambda bare, device, **_: held_bytes(bare, "cuda"))


def held(stack: nn.Module) -> set[str]:
    """Which blocks have weights."""
    return {name.split(".")[1] for name, tensor in stack.state_dict().items() if "block" in name and not tensor.is_meta}


def traces_of(stack: nn.Module) -> list[Any]:
    """What may not be left when the encoder has been closed."""
    hooks = [module for module in stack.modules() if module._forward_hooks or module._forward_pre_hooks]
    values = [name for name, tensor in stack.state_dict().items() if not tensor.is_meta]
    return [*hooks, *values, *(thread for thread in threading.enumerate() if thread.name == "residency")]


def watched(encoder: Any) -> list[int]:
    """How many blocks have weights when a block has computed, noted from now on."""
    counts: list[int] = []
    for block in encoder.stack.block:
        block.layer[-1].register_forward_hook(lambda *_, **__: counts.append(len(held(encoder.stack))))
    return counts


def encoded(path: Path, room: int | None, prompts: list[str] = PROMPTS) -> tuple[list[Tensor], list[int]]:
    """Their values as bits, and what was `watched`."""
    with open_text_encoder(path, None, len(prompts), dtype=BF16, room=room) as encoder:
        counts = watched(encoder)
        found = [encoder.encode(prompt).values for prompt in prompts]
    return [values.view(torch.int16) for values in found], counts


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_is_whole_to_the_bit(tmp_path: Path, stream_all: None, kind: str) -> None:
    path = KINDS[kind](tmp_path)
    whole, counts = encoded(path, None)
    assert counts == [BLOCKS] * BLOCKS * len(PROMPTS)
    streamed, counts = encoded(path, 0)
    assert len(counts) == BLOCKS * len(PROMPTS)
    assert max(counts) <= 2
    assert [values.shape for values in whole] == [(1, len(prompt) + 1, DIM) for prompt in PROMPTS]
    assert all(torch.equal(a, b) for a, b in zip(whole, streamed, strict=True))
    assert not torch.equal(whole[0][:, 0], whole[2][:, 0])


def test_as_many_blocks_stay_as_there_is_room_for(tmp_path: Path, stream_all: None) -> None:
    path = write_safetensors(tmp_path)
    bare = bare_text_encoder(path, dtype=BF16)
    everything = held_bytes(bare, "cuda")
    assert everything == sum(t.nbytes for name, t in native(BF16).items() if name != "token_embedding.weight")
    streamed, counts = encoded(path, PROMPT + everything - 1)
    assert max(counts) == BLOCKS - 1
    whole, counts = encoded(path, PROMPT + everything)
    assert counts == [BLOCKS] * BLOCKS * len(PROMPTS)
    assert all(torch.equal(a, b) for a, b in zip(whole, streamed, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_processor_only_what_is_changed_counts(tmp_path: Path, kind: str) -> None:
    path = KINDS[kind](tmp_path)
    bare = bare_text_encoder(path, dtype=BF16)
    small = 2 * (BLOCKS * (2 * DIM + 8 * HEADS) + DIM)  # norms and position biases, which lie there in float32
    packed = small + 2 * BLOCKS * DIM * HIDDEN  # and the one matrix of a block that cannot stay packed
    scales = 4 * 6 * BLOCKS
    whole = held_bytes(bare, "cuda")
    expected = {"bf16": 0, "pth": 0, "fp32": whole, "fp8": packed + scales, "gguf": packed}[kind]
    assert held_bytes(bare, "cpu") == expected
    _, counts = encoded(path, 0)
    assert (max(counts) == BLOCKS) == (expected == 0)


def use(bare: BareTextEncoder, room: int | None) -> None:
    with loaded(bare, 1, device="cpu", room=room):
        bare.encoder.encode("a")


@pytest.mark.parametrize("room", [None, 0])
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_what_goes_wrong_half_way_leaves_nothing(tmp_path: Path, room: int | None, kind: type[BaseException]) -> None:
    bare, error = bare_text_encoder(KINDS["fp32"](tmp_path), dtype=BF16), kind("in the middle")

    def fail(*_: Any) -> None:
        raise error

    handle = bare.encoder.stack.get_submodule("block.3.layer.1").register_forward_hook(fail)
    with pytest.raises(kind) as caught:
        use(bare, room)
    handle.remove()
    assert caught.value is error
    assert traces_of(bare.encoder.stack) == []


@pytest.mark.parametrize("room", [None, 0])
def test_when_all_went_well_nothing_is_left_either(tmp_path: Path, room: int | None) -> None:
    with open_text_encoder(KINDS["fp32"](tmp_path), None, 1, dtype=BF16, room=room) as encoder:
        encoder.encode("a")
        assert held(encoder.stack)
    assert traces_of(encoder.stack) == []


@pytest.mark.parametrize("room", [None, 0])
def test_values_that_are_not_finite_are_refused_alike(tmp_path: Path, room: int | None) -> None:
    tensors = native(torch.float32)
    tensors["blocks.4.ffn.fc2.weight"][0, 0] = torch.inf
    save_file(tensors, tmp_path / "t5.safetensors")
    bare = bare_text_encoder(tmp_path / "t5.safetensors", dtype=BF16)
    with pytest.raises(ValueError, match="gives values that are not finite in bfloat16: its file is damaged"):
        use(bare, room)
    assert traces_of(bare.encoder.stack) == []


@pytest.mark.parametrize("room", [None, 0])
def test_a_file_that_changes_after_it_was_opened_is_refused(tmp_path: Path, room: int | None) -> None:
    path = write_safetensors(tmp_path, torch.float32)
    bare = bare_text_encoder(path, dtype=BF16)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ValueError, match="has changed since it was opened"):
        use(bare, room)
    assert traces_of(bare.encoder.stack) == []
