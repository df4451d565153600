"""Tokenizers from tokenizer.json and from sentencepiece models."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasdedeux.checkpoints.tokenizer import Encode, from_sentencepiece, read_tokenizer

tokenizers = pytest.importorskip("tokenizers")

SPECIAL = ("<pad>", "</s>", "<s>", "<unk>")
PIECES = dict.fromkeys(SPECIAL, 0.0) | {
    "▁": -2.0,
    "a": -2.5,
    "b": -3.0,
    "c": -3.5,
    "▁a": -2.7,
    "ab": -4.0,
    "bc": -5.5,
    "▁abc": -8.5,
    "cab": -6.0,
}
UNKNOWN = 3
END = 1


def field(number: int, kind: int, data: bytes | int) -> bytes:
    """One field of a protocol buffer; lengths and values below 2**14."""
    value = data if isinstance(data, int) else len(data)
    small = bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7])
    key = number << 3 | kind
    head = bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])
    return head + small + (data if isinstance(data, bytes) else b"")


def model(pieces: dict[str, float], kind: int = 1, fallback: bool = False) -> bytes:
    """A sentencepiece model, written as the format says."""
    data = b""
    for i, (piece, score) in enumerate(pieces.items()):
        sort = {UNKNOWN: 2, END: 3}.get(i, 6 if piece.startswith("<0x") else 1)
        number = bytes([2 << 3 | 5]) + struct.pack("<f", score)
        data += field(1, 2, field(1, 2, piece.encode()) + number + field(3, 0, sort))
    trainer = field(3, 0, kind) + field(4, 0, len(pieces)) + field(35, 0, int(fallback))
    return data + field(2, 2, trainer) + field(3, 2, field(1, 2, b"identity"))


def likeliest(word: str) -> float:
    """The best score of any way to cut a word into pieces."""
    best = [0.0, *[-1e9] * len(word)]
    for stop in range(1, len(word) + 1):
        for start in range(stop):
            best[stop] = max(best[stop], best[start] + PIECES.get(word[start:stop], -1e9))
    return best[-1]


def test_a_written_model_is_what_other_readers_see() -> None:
    pytest.importorskip("google.protobuf")
    pb2 = pytest.importorskip("transformers.utils.sentencepiece_model_pb2_new")
    read = pb2.ModelProto.FromString(model(PIECES, fallback=True))
    assert {piece.piece: round(piece.score, 5) for piece in read.pieces} == PIECES
    assert read.pieces[UNKNOWN].type == 2
    assert read.trainer_spec.byte_fallback
    assert read.normalizer_spec.name == "identity"


@given(st.lists(st.text("abc", min_size=1, max_size=8), max_size=4))
def test_the_likeliest_pieces_are_found(words: list[str]) -> None:
    ids = from_sentencepiece(model(PIECES), "it")(" ".join(words))
    names = list(PIECES)
    assert ids[-1] == END
    pieces = [names[i] for i in ids[:-1]]
    assert "".join(pieces) == "".join("▁" + word for word in words)
    assert sum(PIECES[p] for p in pieces) == pytest.approx(sum(likeliest("▁" + word) for word in words))


def test_an_unknown_letter_is_the_unknown_token_or_its_bytes() -> None:
    plain = from_sentencepiece(model(PIECES), "it")
    assert plain("a é") == [8, 4, UNKNOWN, END]
    pieces = {**PIECES, **{f"<0x{i:02X}>": -9.0 for i in range(256)}}
    fallen = from_sentencepiece(model(pieces, fallback=True), "it")
    first = len(PIECES)
    assert fallen("a é") == [8, 4, first + 0xC3, first + 0xA9, END]


def test_a_folder_a_json_and_a_model_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(model(PIECES))
    assert read_tokenizer(tmp_path)("ab") == read_tokenizer(tmp_path / "spiece.model")("ab")
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(list(PIECES.items()), unk_id=UNKNOWN))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    made.save(str(tmp_path / "no_end.json"))
    with pytest.raises(ValueError, match="does not end a prompt with </s>"):
        read_tokenizer(tmp_path / "no_end.json")
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    made.save(str(tmp_path / "tokenizer.json"))
    assert read_tokenizer(tmp_path)("ab ca") == read_tokenizer(tmp_path / "spiece.model")("ab ca")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "holds no pieces"),
        (model(PIECES)[:-3], "is not a whole sentencepiece model"),
        (model(PIECES, kind=2), "of kind 2, but umT5's is of kind 1"),
        (model({"a": 0.0, "b": 0.0}), "has no </s>"),
        (model(PIECES) + field(3, 2, field(2, 2, b"no map")), "cannot use"),
        (b'{"a": ', "is not a whole tokenizer.json"),
        (b'{"a": 1}', "cannot use"),
        (b'{"a":' * 100_000, "is not a whole tokenizer.json"),
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=says):
        read_tokenizer(path)


def test_where_there_is_none_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs tokenizer.json or spiece.model"):
        read_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="no tokenizer at"):
        read_tokenizer(tmp_path / "none.json")


def ids_or_refusal(make: Callable[[], Encode]) -> list[int] | str:
    try:
        return make()("abc é")
    except ValueError as error:
        return str(error)


@given(st.data())
def test_a_damaged_model_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    whole = bytearray(model(PIECES))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    found = ids_or_refusal(lambda: from_sentencepiece(bytes(whole[:cut]), "it"))
    assert "it" in found if isinstance(found, str) else len(found) >= 1
