"""A file of weights, or a folder of shards, as named lazy tensors, whatever its format.

The format is told from how a file begins, never from its name. Opening reads headers only; every header is checked
against the file, and what does not hold is refused in a sentence.
"""

from collections.abc import Mapping
from pathlib import Path

from pasdedeux.checkpoints.formats.gguf_files import MAGIC, open_gguf
from pasdedeux.checkpoints.formats.safetensors_files import MAX_HEADER, open_safetensors, parse_json
from pasdedeux.checkpoints.formats.torch_files import open_torch
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

INDEX = ".safetensors.index.json"


def open_weights(path: Path) -> Weights:
    """The tensors of a file, of a folder that holds one model's safetensors, or of the shards an index names.

    Raises ValueError where there is nothing, several models, an unknown format, or a file that is not whole.
    """
    if path.is_dir():
        return open_weights(_only(path))
    if not path.is_file():
        raise ValueError(f"There is no file of weights at {path}.")
    return open_shards(path) if path.name.endswith(INDEX) else _open_file(path)


def open_shards(index: Path) -> Weights:
    """The tensors of all shards, each exactly where the index has it."""
    placed = _read_index(index)
    shards = {name: index.parent / name for name in dict.fromkeys(placed.values())}
    tensors: dict[str, LazyTensor] = {}
    metadata: dict[str, str] = {}
    for name, path in shards.items():
        if not path.is_file():
            raise ValueError(f"{index} names the shard {name}, which is not beside it.")
        shard = open_safetensors(path)
        _check_shard(index, name, placed, shard)
        tensors.update(shard)
        metadata.update(shard.metadata)
    ordered = {name: tensors[name] for name in placed}
    return Weights(tensors=ordered, paths=tuple(shards.values()), container="sharded safetensors", metadata=metadata)


def _only(folder: Path) -> Path:
    """The one model of a folder: its index, or its only safetensors file."""
    indexes = sorted(folder.glob(f"*{INDEX}"))
    found = indexes or sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:3]) or "none"
        raise ValueError(f"{folder} must hold one index of shards or one safetensors file; found: {names}.")
    return found[0]


def _open_file(path: Path) -> Weights:
    with path.open("rb") as file:
        first = file.read(16)
    if not first:
        raise ValueError(f"{path} is not a file of weights: it is empty (0 bytes).")
    if first.startswith(MAGIC):
        return open_gguf(path)
    if first.startswith(b"PK\x03\x04"):
        return open_torch(path)
    if first[8:9] == b"{":  # before the next, with which the length of a header may begin
        return open_safetensors(path)
    if first.startswith(b"\x80"):
        raise ValueError(
            f"{path} is a bare pickle, which can run any code; save it again with torch >= 1.6, or as safetensors."
        )
    if first.startswith(b"version https://"):
        raise ValueError(f"{path} is a pointer of Git LFS, not the file itself; fetch it with git lfs pull.")
    raise ValueError(
        f"{path} is not a file of weights: it is no safetensors, no GGUF and no zipped checkpoint of torch."
    )


def _read_index(index: Path) -> Mapping[str, str]:
    try:
        if index.stat().st_size > MAX_HEADER:
            raise ValueError(f"it has {index.stat().st_size} bytes")
        placed = parse_json(index.read_bytes()).get("weight_map")
        if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
            raise ValueError("its weight_map is not file by name")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{index} is not an index of shards ({error}).") from error
    outside = [name for name in placed.values() if name in ("", "..") or Path(name).name != name or "\\" in name]
    if outside:
        raise ValueError(f'{index} names the shard "{outside[0]}"; shards must lie beside it.')
    return placed


def _check_shard(index: Path, name: str, placed: Mapping[str, str], shard: Weights) -> None:
    lacking = [key for key, file in placed.items() if file == name and key not in shard]
    if lacking:
        raise ValueError(f"{shard.path} lacks {lacking[0]}, which {index.name} says it holds.")
    unlisted = [key for key in shard if placed.get(key) != name]
    if unlisted:
        raise ValueError(f"{shard.path} holds {unlisted[0]}, which {index.name} does not say.")
