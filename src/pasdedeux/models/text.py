"""The text encoder of the Wan models, umT5: a prompt becomes one vector per token.

The layers are those of `transformers`. Only the encoder's stack is built: the full class holds the token embedding
under two names, and a load that fills the wrong one leaves it at zero. A prompt is encoded alone and without padding:
the reference pads to 512 tokens, masks the padding and cuts its rows off again, which gives the same rows; what the
denoiser wants behind them is zeros, and it puts them there itself.
"""

import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MAX_TOKENS = 512
"""Tokens of a prompt, its end mark included; the denoisers know no more."""

_QUOTES = {ord(c): "'" for c in "\u02bc\u2018\u2019\u201a\u201b"} | {ord(c): '"' for c in "\u201c\u201d\u201e\u201f"}
_WIDE = {point: unicodedata.normalize("NFKC", chr(point)) for point in range(0xFF01, 0xFFF0)}
_PLAIN = _QUOTES | _WIDE

Tokenizer = Callable[[str], list[int]]
"""Cleaned text to token ids, the end mark last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """Sizes of the encoder; the defaults are umT5-XXL."""

    vocabulary: int = 256384
    dim: int = 4096
    attention: int = 4096  # width of all heads together
    hidden: int = 10240
    layers: int = 24
    heads: int = 64
    buckets: int = 32  # of relative positions
    reach: int = 128  # tokens from which on all distances are alike
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.attention % self.heads:
            raise ValueError(f"An attention width of {self.attention} cannot be shared by {self.heads} heads.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptEmbedding:
    """values [1, n, dim], one row per token; dropped: tokens of the prompt that did not fit; remark: what else is to
    be said of it."""

    values: Tensor
    dropped: int = 0
    remark: str | None = None

    @property
    def note(self) -> str | None:
        """What the user should know of it."""
        cut = f"the prompt is {self.dropped} tokens longer than the {MAX_TOKENS} that the model reads; its end is cut"
        said = [text for text in (cut if self.dropped else None, self.remark) if text]
        return "; ".join(said) or None


class TokenRows(nn.Module):
    """A token embedding that is not held: token ids [1, n] on the processor -> rows [1, n, dim] on `device`.

    A prompt needs a few of its 256384 rows, which are 2.1 GB together. look_up: ids [n] -> rows [n, dim].
    """

    def __init__(self, count: int, look_up: Callable[[Tensor], Tensor], device: str = "cpu") -> None:
        super().__init__()
        self.num_embeddings, self.look_up, self.device = count, look_up, device

    def forward(self, ids: Tensor) -> Tensor:
        return self.look_up(ids.flatten()).unflatten(0, ids.shape).to(self.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoder:
    """The stack and the tokenizer that belongs to it; `notes` say what of the file was left unread.

    The stack's token embedding reads ids on the processor, wherever the blocks are.
    """

    stack: nn.Module
    tokenize: Tokenizer
    notes: tuple[str, ...] = ()

    @torch.no_grad()
    def encode(self, prompt: str) -> PromptEmbedding:
        """The prompt, cleaned as the reference cleans it, in the weights' type and on the blocks' device.

        Raises ValueError if the tokenizer is of another model, or if the values are not finite.
        """
        ids, dropped = self._ids(clean_prompt(prompt))
        embedding = self.stack.get_submodule("embed_tokens")
        assert isinstance(embedding, nn.Embedding | TokenRows)
        if max(ids) >= embedding.num_embeddings:
            raise ValueError(
                f"The tokenizer gives token {max(ids)}, but the text encoder knows {embedding.num_embeddings} tokens: "
                "they do not belong together."
            )
        values = self.stack(input_ids=torch.tensor([ids])).last_hidden_state
        if not torch.isfinite(values).all():
            raise ValueError(
                f"The text encoder gives values that are not finite in {str(values.dtype).removeprefix('torch.')}: its "
                "file is damaged, or it needs bfloat16."
            )
        return PromptEmbedding(values=values, dropped=dropped)

    def _ids(self, text: str) -> tuple[list[int], int]:
        ids = self.tokenize(text)
        dropped = max(len(ids) - MAX_TOKENS, 0)
        return (ids[: MAX_TOKENS - 1] + ids[-1:] if dropped else ids), dropped


def clean_prompt(text: str) -> str:
    """The prompt as the models were trained to see it: plain quotes and widths, no HTML entities, single spaces.

    The reference runs ftfy for the first part. Of that, what changes text that was never damaged is done here, so
    that the result does not depend on a package being installed; text decoded with the wrong character set stays.
    """
    if "<" not in text:
        text = html.unescape(text)
    text = unicodedata.normalize("NFC", text.translate(_PLAIN))
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()


def build_text_stack(config: TextConfig) -> nn.Module:
    """The encoder's layers, under the names that `transformers` gives them inside the encoder."""
    try:
        from transformers import UMT5Config, UMT5EncoderModel
    except ImportError as error:
        raise ValueError("Reading a prompt needs the package transformers >= 5.23: install pasdedeux[wan].") from error

    sizes = UMT5Config(
        vocab_size=config.vocabulary,
        d_model=config.dim,
        d_kv=config.attention // config.heads,
        d_ff=config.hidden,
        num_layers=config.layers,
        num_heads=config.heads,
        relative_attention_num_buckets=config.buckets,
        relative_attention_max_distance=config.reach,
        layer_norm_epsilon=config.eps,
    )
    return UMT5EncoderModel(sizes).encoder
