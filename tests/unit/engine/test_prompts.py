"""Prompt embeddings on disk."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


class Opener:
    """Opens the stand-in, and notes for how many prompts it was opened, and each time it was closed."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        self.dtype = dtype
        self.counts: list[int] = []
        self.closed = 0

    @contextmanager
    def __call__(self, prompts: int) -> Iterator[TextEncoder]:
        self.counts.append(prompts)
        try:
            yield TextEncoder(stack=Stack(self.dtype), tokenize=lambda text: [*map(ord, text), 1])
        finally:
            self.closed += 1


def rows(text: str) -> Tensor:
    return torch.tensor([*map(ord, text), 1.0])[None, :, None].expand(-1, -1, 3).bfloat16()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "t5.safetensors"
    path.write_bytes(b"weights")
    return path


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_the_encoder_is_opened_once_for_the_prompts_that_are_new(tmp_path: Path, weights: Path) -> None:
    cache, opened = PromptCache(folder=tmp_path / "p"), Opener()
    first = cache.encode(["a  cat", "", "a cat"], weights, opened)
    assert [e.values.shape[1] for e in first] == [6, 1, 6]
    assert torch.equal(first[0].values, rows("a cat"))
    assert len(entries(tmp_path / "p")) == 2
    again = cache.encode(["", "a\tcat"], weights, opened)
    assert (opened.counts, opened.closed) == ([2], 1)
    assert torch.equal(again[1].values, rows("a cat"))
    assert again[1].values.dtype == torch.bfloat16
    cache.encode(["a cat", "a dog"], weights, opened)
    assert (opened.counts, opened.closed) == ([2, 1], 2)


def test_an_encoder_that_fails_is_closed_and_nothing_is_kept(tmp_path: Path, weights: Path) -> None:
    cache, opened = PromptCache(folder=tmp_path / "p"), Opener()
    with pytest.raises(ValueError, match=r"The tokenizer gives token 70001, but the text encoder knows 70000 tokens"):
        cache.encode(["a", chr(70001)], weights, opened)
    assert (opened.counts, opened.closed) == ([2], 1)
    assert not entries(tmp_path / "p")


def test_a_text_is_cleaned_once(tmp_path: Path, weights: Path) -> None:
    text = "<&amp;amp;amp;lt;"
    found = PromptCache(folder=tmp_path / "p").encode([text], weights, Opener())
    assert torch.equal(found[0].values, rows(clean_prompt(text)))


def grow(path: Path) -> None:
    path.write_bytes(b"weights, more of them")


def other(path: Path) -> None:
    state = path.stat()
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("change", [grow, other])
def test_another_encoder_has_entries_of_its_own(tmp_path: Path, weights: Path, change: Callable[[Path], None]) -> None:
    cache, opened = PromptCache(folder=tmp_path / "p"), Opener()
    cache.encode(["x"], weights, opened)
    change(weights)
    cache.encode(["x"], weights, opened)
    assert len(opened.counts) == len(entries(tmp_path / "p")) == 2


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
        PromptCache(folder=tmp_path / "p").encode(["x"], weights, Opener(torch.float32))
    assert not entries(tmp_path / "p")


def test_a_damaged_entry_is_made_anew(tmp_path: Path, weights: Path) -> None:
    cache, opened = PromptCache(folder=tmp_path / "p"), Opener()
    cache.encode(["hello"], weights, opened)
    path = entries(tmp_path / "p")[0]
    whole = path.read_bytes()
    damages = [whole[:40], b"", bytes([*whole[:-1], whole[-1] ^ 1]), whole.replace(b"dropped", b"dripped")]
    for count, damaged in enumerate(damages, start=2):
        path.write_bytes(damaged)
        assert torch.equal(cache.encode(["hello"], weights, opened)[0].values, rows("hello"))
        assert len(opened.counts) == count
        cache.encode(["hello"], weights, opened)
        assert len(opened.counts) == count


def test_a_cut_prompt_is_said_from_the_cache_too(tmp_path: Path, weights: Path) -> None:
    cache, opened = PromptCache(folder=tmp_path / "p"), Opener()
    notes = [cache.encode(["x" * 600], weights, opened)[0].note for _ in range(2)]
    assert len(opened.counts) == 1
    assert notes[0] == notes[1]
    assert notes[0] is not None
    assert "89 tokens longer" in notes[0]


def test_what_was_used_longest_ago_goes(tmp_path: Path, weights: Path) -> None:
    cache, opened = PromptCache(folder=tmp_path / "p", most=2), Opener()
    for age, text in enumerate(["a", "b"]):
        cache.encode([text], weights, opened)
        newest = max(entries(tmp_path / "p"), key=lambda path: path.stat().st_mtime)
        os.utime(newest, (100 + age, 100 + age))
    (tmp_path / "p" / "left.part").write_bytes(b"interrupted")
    os.utime(tmp_path / "p" / "left.part", (50, 50))
    cache.encode(["a"], weights, opened)
    cache.encode(["c"], weights, opened)
    assert len(list((tmp_path / "p").iterdir())) == 2
    times = len(opened.counts)
    cache.encode(["a", "c"], weights, opened)
    assert len(opened.counts) == times
    cache.encode(["b"], weights, opened)
    assert len(opened.counts) == times + 1


def test_a_folder_that_cannot_be_written_is_said_and_no_error(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "p").write_text("a file")
    found = PromptCache(folder=tmp_path / "p").encode(["x"], weights, Opener())[0]
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
    cache, opened = PromptCache(folder=tmp_path / "p"), Opener()
    cache.encode(["x"], weights, opened)
    os.utime(weights, ns=(1, 1))
    moved = weights.rename(tmp_path / "other.safetensors")
    cache.encode(["x"], moved, opened)
    assert len(opened.counts) == 1
