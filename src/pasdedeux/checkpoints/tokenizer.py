"""A tokenizer's file into a function from text to token ids: tokenizer.json, or a sentencepiece model.

The files are read as they are, through `tokenizers`. The classes of `transformers` rebuild a tokenizer from its
vocabulary and put the unknown token where T5 has it, at 2, wherever the file does. A sentencepiece model is small
enough a format to be read here: text encoders carry one inside, and the `sentencepiece` package is often missing.
"""

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

END = "</s>"
FILES = ("tokenizer.json", "spiece.model")
_UNKNOWN, _BYTE, _UNIGRAM = 2, 6, 1  # kinds of piece and of model
_GGUF = "tokenizer.ggml."
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # wire types of protocol buffers

Encode = Callable[[str], list[int]]


@dataclass(slots=True)
class Pieces:
    """What a sentencepiece model holds: pieces with their log-probabilities, and how text is normalised."""

    vocabulary: list[tuple[str, float]] = field(default_factory=list)
    unknown: int | None = None
    charsmap: bytes = b""
    bytes_for_unknown: bool = False
    kind: int = _UNIGRAM


def read_tokenizer(path: Path) -> Encode:
    """The tokenizer of a folder, of a tokenizer.json or of a sentencepiece model, told by content.

    Raises ValueError if there is none or if it cannot be read.
    """
    if path.is_dir():
        found = [path / name for name in FILES if (path / name).is_file()]
        if not found:
            raise ValueError(f"There is no tokenizer in {path}: it needs {' or '.join(FILES)}.")
        path = found[0]
    if not path.is_file():
        raise ValueError(f"There is no tokenizer at {path}.")
    data = path.read_bytes()
    return _from_json(data, path) if data.lstrip()[:1] == b"{" else from_sentencepiece(data, str(path))


def from_sentencepiece(data: bytes, name: str) -> Encode:
    """The tokenizer of a sentencepiece model's bytes; `name` is what a message calls it."""
    try:
        pieces = _pieces(memoryview(data))
    except (ValueError, struct.error) as error:
        raise ValueError(f"{name} is not a whole sentencepiece model ({error}).") from error
    return from_pieces(pieces, name)


def from_gguf(path: Path) -> Encode:
    """The tokenizer in a GGUF file's metadata. The file must have been opened by `open_weights` before, which checks
    its header; the reader of the `gguf` package does not."""
    try:
        import gguf
    except ImportError as error:
        raise ValueError(f"Reading the tokenizer in {path} needs the package gguf, which is not installed.") from error
    stored = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items() if _GGUF in name}
    kind, texts = stored.get(_GGUF + "model"), stored.get(_GGUF + "tokens")
    scores, kinds = stored.get(_GGUF + "scores"), stored.get(_GGUF + "token_type")
    if kind != "t5" or not texts or not scores or not kinds or not len(texts) == len(scores) == len(kinds):
        raise ValueError(f"{path} holds a tokenizer of kind {kind}, not a whole one of kind t5; name a tokenizer.")
    pieces = Pieces(
        vocabulary=list(zip(texts, scores, strict=True)),
        unknown=kinds.index(_UNKNOWN) if _UNKNOWN in kinds else None,
        charsmap=bytes(value & 0xFF for value in stored.get(_GGUF + "precompiled_charsmap", ())),
        bytes_for_unknown=_BYTE in kinds,
    )
    return from_pieces(pieces, f"the tokenizer in {path}")


def from_pieces(pieces: Pieces, name: str) -> Encode:
    """A tokenizer that finds the likeliest pieces, as sentencepiece does. Raises ValueError if they are not T5's."""
    tokenizers = _library()
    if pieces.kind != _UNIGRAM:
        raise ValueError(f"{name} is a sentencepiece model of kind {pieces.kind}, but umT5's is of kind {_UNIGRAM}.")
    ids = {piece: i for i, (piece, _) in enumerate(pieces.vocabulary)}
    if pieces.unknown is None or END not in ids:
        raise ValueError(f"{name} is no tokenizer of umT5: it has no {END} or no piece for unknown text.")
    with _refusals(name):
        tokenizer = tokenizers.Tokenizer(
            tokenizers.models.Unigram(pieces.vocabulary, unk_id=pieces.unknown, byte_fallback=pieces.bytes_for_unknown)
        )
        if pieces.charsmap:
            tokenizer.normalizer = tokenizers.normalizers.Precompiled(pieces.charsmap)
    split = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = split.Sequence(
        [split.WhitespaceSplit(), split.Metaspace(replacement="▁", prepend_scheme="always")]
    )

    def encode(text: str) -> list[int]:
        with _refusals(name):
            return [*tokenizer.encode(text).ids, ids[END]]

    return encode


def beside(path: Path) -> list[Path]:
    """Where the tokenizer of a text encoder's file or folder usually lies: in it, near it, or next to it."""
    folder = path if path.is_dir() else path.parent
    return [folder, folder / "google" / "umt5-xxl", folder / "tokenizer", folder.parent / "tokenizer"]


def _from_json(data: bytes, path: Path) -> Encode:
    tokenizers = _library()
    try:
        text = data.decode()
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole tokenizer.json ({error}).") from error
    with _refusals(str(path)):
        tokenizer = tokenizers.Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def encode(text: str) -> list[int]:
        with _refusals(str(path)):
            return tokenizer.encode(text).ids

    if encode("") != [tokenizer.token_to_id(END)]:
        raise ValueError(f"{path} is no tokenizer of umT5: it does not end a prompt with {END}.")
    return encode


def _library() -> ModuleType:
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError("Reading a prompt needs the package tokenizers: install pasdedeux[wan].") from error
    return tokenizers


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """`tokenizers` refuses with a plain Exception, and where its own code panics with one that is no Exception."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ValueError(f"{name} holds a tokenizer that the package tokenizers cannot use ({error}).") from error
        raise


def _pieces(data: memoryview) -> Pieces:
    """Reads a ModelProto: pieces are field 1, the trainer's settings 2, the normaliser's 3."""
    pieces = Pieces()
    for number, value in _fields(data):
        match number, value:
            case 1, memoryview():
                _add_piece(pieces, value)
            case 2, memoryview():
                trainer = dict(_numbers(value))
                pieces.kind = trainer.get(3, _UNIGRAM)
                pieces.bytes_for_unknown = bool(trainer.get(35, 0))
            case 3, memoryview():
                pieces.charsmap = next((bytes(v) for n, v in _fields(value) if n == 2 and not isinstance(v, int)), b"")
            case _:
                pass
    if not pieces.vocabulary:
        raise ValueError("it holds no pieces")
    return pieces


def _add_piece(pieces: Pieces, data: memoryview) -> None:
    text, score = "", 0.0
    for number, value in _fields(data):
        match number, value:
            case 1, memoryview():
                text = str(value, "utf-8")
            case 2, memoryview():
                (score,) = struct.unpack("<f", value)
            case 3, int():
                if value == _UNKNOWN:
                    pieces.unknown = len(pieces.vocabulary)
            case _:
                pass
    pieces.vocabulary.append((text, score))


def _numbers(data: memoryview) -> Iterator[tuple[int, int]]:
    return ((number, value) for number, value in _fields(data) if isinstance(value, int))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protocol buffer message: a whole number, or the bytes of anything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_EIGHT, _FOUR):
            length = 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"byte {at} begins a field of unknown kind {kind}")
        if at + length > len(data):
            raise ValueError(f"the field at byte {at} is longer than the rest")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends within a number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError(f"the number before byte {at} does not end")
