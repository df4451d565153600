"""The text encoder's own part: cleaning, cutting, and that padding changes nothing."""

import pytest
import torch

pytest.importorskip("transformers")

from hypothesis import given
from hypothesis import strategies as st

from pasdedeux.models.text import MAX_TOKENS, TextConfig, TextEncoder, build_text_stack, clean_prompt

TINY = TextConfig(vocabulary=40, dim=16, attention=24, hidden=32, layers=2, heads=3, buckets=8, reach=12)
END = 1


def encoder(ids: list[int], config: TextConfig = TINY) -> TextEncoder:
    """Tiny random weights, and a tokenizer that reads every prompt as `ids`."""
    torch.manual_seed(0)
    return TextEncoder(stack=build_text_stack(config).eval().requires_grad_(False), tokenize=lambda _: list(ids))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a\n\tb\u3000c ", "a b c"),
        ("&amp;lt;b&amp;gt; &quot;x&quot;", '<b> "x"'),
        ("it\u2019s \u201cfine\u201d", 'it\'s "fine"'),
        ("it&rsquo;s", "it's"),
        ("色调艳丽，过曝。ＡＢ", "色调艳丽,过曝。AB"),
        ("e\u0301", "\u00e9"),
        ("", ""),
    ],
)
def test_a_prompt_is_cleaned(raw: str, clean: str) -> None:
    assert clean_prompt(raw) == clean


@given(st.text(alphabet=st.characters(exclude_characters="&")))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    once = clean_prompt(text)
    assert clean_prompt(once) == once
    assert once == once.strip()
    assert "  " not in once


def test_the_full_size_is_the_published_one() -> None:
    with torch.device("meta"):
        stack = build_text_stack(TextConfig())
    tensors = stack.state_dict()
    assert len(tensors) == 242
    assert sum(t.numel() for t in tensors.values()) == 5_680_910_336


def test_there_is_a_row_per_token_and_no_padding() -> None:
    embedding = encoder([5, 6, 7, END]).encode("x")
    assert embedding.values.shape == (1, 4, TINY.dim)
    assert embedding.note is None


def test_padding_and_masking_it_gives_the_same_rows() -> None:
    ids = [5, 9, 33, 7, 2, END]
    with_us = encoder(ids)
    padded = torch.tensor([ids + [0] * 10])
    masked = with_us.stack(input_ids=padded, attention_mask=(padded != 0).long()).last_hidden_state[:, : len(ids)]
    torch.testing.assert_close(with_us.encode("x").values, masked, atol=2e-6, rtol=0)


def test_a_long_prompt_loses_its_end_but_not_its_end_mark() -> None:
    config = TextConfig(vocabulary=1000, dim=4, attention=4, hidden=4, layers=1, heads=1)
    ids = [*range(2, 602), END]
    cut = encoder(ids, config).encode("x")
    whole = encoder([*range(2, 2 + MAX_TOKENS - 1), END], config).encode("x")
    assert cut.values.shape[1] == MAX_TOKENS
    assert cut.dropped == len(ids) - MAX_TOKENS
    assert cut.note is not None
    assert "89 tokens longer than the 512" in cut.note
    assert torch.equal(cut.values, whole.values)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="gives token 40, but the text encoder knows 40"):
        encoder([40, END]).encode("x")


def test_values_that_are_not_finite_are_refused() -> None:
    with_us = encoder([5, END])
    with_us.stack.get_parameter("final_layer_norm.weight").fill_(torch.inf)
    with pytest.raises(ValueError, match="not finite in float32"):
        with_us.encode("x")


def test_heads_must_share_the_width() -> None:
    with pytest.raises(ValueError, match="width of 10 cannot be shared by 3 heads"):
        TextConfig(attention=10, heads=3)
