"""Prompt embeddings on disk."""

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from pasdedeux.engine.prompts import PromptCache, default_folder, identity
from pasdedeux.models.text import TextEncoder, clean_prompt


class Stack(nn.Module):
    """In place of umT5: every token becomes a row of its own number."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(70000, 3, dtype=dtype)

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=input_ids[..., None].expand(-1, -1, 3).to(self.embed_tokens.weight))


class Loader:
    """Loads the stand-in, counts how often, and watches what becomes of it."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        self.dtype = dtype
        self.stacks: list[weakref.ref[Stack]] = []

    def __call__(self) -> TextEncoder:
        stack = Stack(self.dtype)
        stack.circle = [stack]
        self.stacks.append(weakref.ref(stack))
        return TextEncoder(stack=stack, tokenize=lambda text: [*map(ord, text), 1])


def rows(text: str) -> Tensor:
    return torch.tensor([*map(ord, text), 1.0])[None, :, None].expand(-1, -1, 3).bfloat16()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "t5.safetensors"
    path.write_bytes(b"weights")
    return path


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_the_encoder_is_loaded_for_new_prompts_only_and_let_go(tmp_path: Path, weights: Path) -> None:
    cache, load = PromptCache(folder=tmp_path / "p"), Loader()
    first = cache.encode(["a  cat", "", "a cat"], weights, load)
    assert [e.values.shape[1] for e in first] == [6, 1, 6]
    assert torch.equal(first[0].values, rows("a cat"))
    assert len(entries(tmp_path / "p")) == 2
    again = cache.encode(["", "a\tcat"], weights, load)
    assert len(load.stacks) == 1
    assert load.stacks[0]() is None
    assert torch.equal(again[1].values, rows("a cat"))
    assert again[1].values.dtype == torch.bfloat16
    cache.encode(["a cat", "a dog"], weights, load)
    assert len(load.stacks) == 2


def test_a_text_is_cleaned_once(tmp_path: Path, weights: Path) -> None:
    text = "<&amp;amp;amp;lt;"
    found = PromptCache(folder=tmp_path / "p").encode([text], weights, Loader())
    assert torch.equal(found[0].values, rows(clean_prompt(text)))


def grow(path: Path) -> None:
    path.write_bytes(b"weights, more of them")


def other(path: Path) -> None:
    state = path.stat()
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("change", [grow, other])
def test_another_encoder_has_entries_of_its_own(tmp_path: Path, weights: Path, change: Callable[[Path], None]) -> None:
    cache, load = PromptCache(folder=tmp_path / "p"), Loader()
    cache.encode(["x"], weights, load)
    change(weights)
    cache.encode(["x"], weights, load)
    assert len(load.stacks) == len(entries(tmp_path / "p")) == 2


def test_type_tokenizer_and_folder_tell_encoders_apart(tmp_path: Path, weights: Path) -> None:
    names = {identity([weights], torch.float32), identity([weights], torch.bfloat16)}
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    names.add(identity([weights, folder], torch.float32) + "+")
    (folder / "tokenizer.json").write_text("{}")
    names.add(identity([weights, folder], torch.float32))
    (folder / "tokenizer.json").write_text("[]")
    names.add(identity([weights, folder], torch.float32))
    assert len(names) == 5
    index = folder / "model.safetensors.index.json"
    index.write_text("{}")
    assert identity([index], torch.float32) == identity([folder], torch.float32)


def test_an_encoder_of_another_type_is_refused(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(ValueError, match=r"computes in torch.float32, but its embeddings are kept as torch.bfloat16"):
        PromptCache(folder=tmp_path / "p").encode(["x"], weights, Loader(torch.float32))
    assert not entries(tmp_path / "p")


def test_a_damaged_entry_is_made_anew(tmp_path: Path, weights: Path) -> None:
    cache, load = PromptCache(folder=tmp_path / "p"), Loader()
    cache.encode(["hello"], weights, load)
    path = entries(tmp_path / "p")[0]
    whole = path.read_bytes()
    damages = [whole[:40], b"", bytes([*whole[:-1], whole[-1] ^ 1]), whole.replace(b"dropped", b"dripped")]
    for count, damaged in enumerate(damages, start=2):
        path.write_bytes(damaged)
        assert torch.equal(cache.encode(["hello"], weights, load)[0].values, rows("hello"))
        assert len(load.stacks) == count
        cache.encode(["hello"], weights, load)
        assert len(load.stacks) == count


def test_a_cut_prompt_is_said_from_the_cache_too(tmp_path: Path, weights: Path) -> None:
    cache, load = PromptCache(folder=tmp_path / "p"), Loader()
    notes = [cache.encode(["x" * 600], weights, load)[0].note for _ in range(2)]
    assert len(load.stacks) == 1
    assert notes[0] == notes[1]
    assert notes[0] is not None
    assert "89 tokens longer" in notes[0]


def test_what_was_used_longest_ago_goes(tmp_path: Path, weights: Path) -> None:
    cache, load = PromptCache(folder=tmp_path / "p", most=2), Loader()
    for age, text in enumerate(["a", "b"]):
        cache.encode([text], weights, load)
        newest = max(entries(tmp_path / "p"), key=lambda path: path.stat().st_mtime)
        os.utime(newest, (100 + age, 100 + age))
    (tmp_path / "p" / "left.part").write_bytes(b"interrupted")
    os.utime(tmp_path / "p" / "left.part", (50, 50))
    cache.encode(["a"], weights, load)
    cache.encode(["c"], weights, load)
    assert len(list((tmp_path / "p").iterdir())) == 2
    loads = len(load.stacks)
    cache.encode(["a", "c"], weights, load)
    assert len(load.stacks) == loads
    cache.encode(["b"], weights, load)
    assert len(load.stacks) == loads + 1


def test_a_folder_that_cannot_be_written_is_said_and_no_error(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "p").write_text("a file")
    found = PromptCache(folder=tmp_path / "p").encode(["x"], weights, Loader())[0]
    assert torch.equal(found.values, rows("x"))
    assert found.note is not None
    assert "could not be kept" in found.note


def test_the_default_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "pasdedeux" / "prompts"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_folder() == Path.home() / ".cache" / "pasdedeux" / "prompts"
    with pytest.raises(ValueError, match="room for one at least, not 0"):
        PromptCache(most=0)


def test_the_same_content_elsewhere_is_the_same_encoder(tmp_path: Path, weights: Path) -> None:
    cache, load = PromptCache(folder=tmp_path / "p"), Loader()
    cache.encode(["x"], weights, load)
    os.utime(weights, ns=(1, 1))
    moved = weights.rename(tmp_path / "other.safetensors")
    cache.encode(["x"], moved, load)
    assert len(load.stacks) == 1
