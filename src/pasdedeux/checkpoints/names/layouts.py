"""Where the files of a model lie: native folders, diffusers' layout, folders as ComfyUI keeps them, one file.

Native folders and diffusers' are told by their fixed names; anywhere else every file of weights is opened and told by
what it holds.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pasdedeux.checkpoints.families import Family
from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.names.dialects import vae_names, without_prefix
from pasdedeux.checkpoints.names.keymaps import vae_version
from pasdedeux.checkpoints.names.swaps import evidence
from pasdedeux.checkpoints.tensors import Weights

Kind = Literal["transformer", "vae", "text", "image", "lora"]
TITLES: Mapping[Kind, str] = {
    "transformer": "a Wan transformer",
    "vae": "a video autoencoder (VAE)",
    "text": "a text encoder (umT5)",
    "image": "a picture encoder (CLIP)",
}
SUFFIXES = (".safetensors", ".gguf", ".pth", ".pt", ".ckpt", ".bin")
INDEX = ".safetensors.index.json"
SHARD = "-of-"
NATIVE = {"high": "high_noise_model", "low": "low_noise_model"}
DIFFUSERS = {"high": "transformer", "low": "transformer_2"}
ROOT_WEIGHTS = ("diffusion_pytorch_model", "model")
# Folders beside the weights of a model that hold others.
ELSEWHERE = frozenset(
    (
        *("assets", "examples", "loras", "lora", "relighting_lora", "process_checkpoint", "google"),
        *("xlm-roberta-large", "tokenizer", "controlnet", "upscale_models", "embeddings", "scheduler"),
    )
)
# How each naming of umT5 calls its tokens, the start of a block, and the distances in it.
TEXT = (
    ("token_embedding.weight", "blocks.", "pos_embedding.embedding.weight"),
    ("shared.weight", "encoder.block.", "layer.0.SelfAttention.relative_attention_bias.weight"),
    ("encoder.embed_tokens.weight", "encoder.block.", "layer.0.SelfAttention.relative_attention_bias.weight"),
    ("token_embd.weight", "enc.blk.", "attn_rel_b.weight"),
)
DEPTH = 3
MOST = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where one expert lies; its name where the layout says which it is."""

    path: Path
    expert: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the parts of a model lie, experts from the noisiest on.

    bounds, names: what the layout says of the handoff and of the model's name. candidates: files that may be the
    parts that have no fixed place, by kind.
    """

    experts: tuple[Place, ...]
    bounds: tuple[float, ...] | None = None
    names: tuple[str, ...] = ()
    vae: Path | None = None
    text: Path | None = None
    tokenizer: Path | None = None
    image: Path | None = None
    relight: Path | None = None
    candidates: tuple[tuple[Kind, Weights], ...] = field(default=())


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The parts chosen among candidates, and what was chosen over others."""

    vae: Path | None = None
    text: Path | None = None
    image: Path | None = None
    notes: tuple[str, ...] = ()


def find_places(model: Path) -> Places:
    """The parts in a folder, or the one file. Raises ValueError where no model is to be found."""
    if model.is_file() and model.name.endswith(INDEX):
        return Places(experts=(Place(path=model),))
    if model.is_file():
        return _in_file(model)
    if not model.is_dir():
        raise ValueError(f"There is no model at {model}.")
    if (model / "model_index.json").is_file():
        return _in_diffusers(model)
    folders = {name: model / folder for name, folder in NATIVE.items() if (model / folder).is_dir()}
    if folders:
        experts = tuple(Place(path=_weights_in(folder), expert=name) for name, folder in folders.items())
        return _beside(model, experts)
    if own := _root(model):
        return _beside(model, (Place(path=own),))
    return _anywhere(model)


def kind_of(weights: Weights) -> Kind | None:
    """What a file holds, by its names; None for anything that no Wan model needs."""
    names = without_prefix(weights)
    every = frozenset(names)
    if any(".lora_" in name or "lora_down" in name or "lora_up" in name for name in names):
        return "lora"
    if any(name.startswith(("visual.", "vision_model.")) for name in names):
        return "image"
    if _is_text(every):
        return "text"
    if "patch_embedding.weight" in every and any(name.startswith("blocks.") for name in names):
        return "transformer"
    return "vae" if vae_version(vae_names(weights)) else None


@contextmanager
def needed_as(wanted: Kind, weights: Weights) -> Iterator[None]:
    """Inside, a ValueError about strange names becomes one that says what the file is instead, where that is known."""
    try:
        yield
    except ValueError as error:
        held = kind_of(weights)
        if held is None or held == wanted or held not in TITLES:
            raise
        raise ValueError(f"{weights.path} is {TITLES[held]}, but here {TITLES[wanted]} is needed.") from error


def fitting_parts(places: Places, family: Family) -> Parts:
    """Of the candidates those that the family needs: the VAE by its version, CLIP by its width; of equals the first."""
    chosen: dict[str, Path] = {}
    notes: list[str] = []
    for part, name in (("vae", "VAE"), ("text", "text encoder"), ("image", "CLIP")):
        found = [weights for kind, weights in places.candidates if kind == part and _fits(kind, weights, family)]
        if not found or (part == "image" and not family.clip) or getattr(places, part) is not None:
            continue
        chosen[part] = found[0].path
        if len(found) > 1:
            others = ", ".join(weights.path.name for weights in found[1:])
            notes.append(f"Of several files with a {name}, {found[0].path.name} was taken over {others}.")
    return Parts(**chosen, notes=tuple(notes))


def _in_file(model: Path) -> Places:
    """One file: an expert, and in a file that holds a whole pipeline its VAE too."""
    weights = open_weights(model)
    held = weights if len(without_prefix(weights)) < len(weights) and vae_version(vae_names(weights)) else None
    candidates: tuple[tuple[Kind, Weights], ...] = () if held is None else (("vae", held),)
    return Places(experts=(Place(path=model),), candidates=candidates)


def _in_diffusers(model: Path) -> Places:
    index = json_object(model / "model_index.json")
    folders = {name: model / folder for name, folder in DIFFUSERS.items() if (model / folder).is_dir()}
    if not folders:
        raise ValueError(
            f"{model} has a model_index.json but neither of the folders {' and '.join(DIFFUSERS.values())}."
        )
    ratio = index.get("boundary_ratio")
    bounds = (float(ratio),) if isinstance(ratio, int | float) and not isinstance(ratio, bool) else None
    names = tuple(str(index[key]) for key in ("_name_or_path",) if index.get(key))
    alone = len(folders) == 1 and "high" in folders
    experts = tuple(Place(path=path, expert=None if alone else name) for name, path in folders.items())
    return Places(
        experts=experts,
        bounds=bounds,
        names=names,
        vae=_folder(model / "vae"),
        text=_folder(model / "text_encoder"),
        tokenizer=_folder(model / "tokenizer"),
        image=_folder(model / "image_encoder"),
    )


def _beside(model: Path, experts: tuple[Place, ...]) -> Places:
    """What a native release has beside its experts, by its names; what has other names is looked for."""
    relights = (model / "relighting_lora.ckpt", model / "relighting_lora" / "adapter_model.safetensors")
    places = Places(
        experts=experts,
        vae=_first(model, "Wan2.*_VAE.*"),
        text=_first(model, "models_t5_*.pth"),
        image=_first(model, "models_clip_*.pth"),
        tokenizer=_folder(model / "google" / "umt5-xxl"),
        relight=next((path for path in relights if path.is_file()), None),
    )
    missing = {part for part in ("vae", "text", "image") if getattr(places, part) is None}
    others = [path for path in _files(model, 0) if path not in {place.path for place in experts}] if missing else []
    opened, _ = _opened(others)
    return Places(
        experts=experts,
        vae=places.vae,
        text=places.text,
        image=places.image,
        tokenizer=places.tokenizer,
        relight=places.relight,
        candidates=tuple((kind, weights) for kind, weights in opened if kind in missing),
    )


def _anywhere(model: Path) -> Places:
    """Every file of weights in the folder, told by what is in it."""
    opened, faults = _opened(list(_files(model, DEPTH)))
    transformers = [weights for kind, weights in opened if kind == "transformer"]
    if not transformers:
        more = f" {faults[0]}" if faults else ""
        raise ValueError(f"{model} holds no weights of a Wan transformer.{more}")
    return Places(
        experts=_pair(model, transformers),
        tokenizer=next((path for path in _tokenizers(model) if _has_tokenizer(path)), None),
        candidates=tuple((kind, weights) for kind, weights in opened if kind in ("vae", "text", "image")),
    )


def _pair(model: Path, found: Sequence[Weights]) -> tuple[Place, ...]:
    """One transformer, or two that are known to be a pair, the noisier first."""
    if len(found) == 1:
        return (Place(path=_given_path(found[0])),)
    if len(found) == 2:
        said = [None if one is None else one.expert for one in map(evidence, found)]
        if ("high" in said and said[0] != said[1]) or said in (["low", None], [None, "low"]):
            high, low = found if said[0] == "high" or said[1] == "low" else reversed(found)
            return (Place(path=_given_path(high), expert="high"), Place(path=_given_path(low), expert="low"))
    names = (_given_path(weights).relative_to(model) for weights in found[:4])
    listed = ", ".join(map(str, names)) + (" and more" if len(found) > 4 else "")
    raise ValueError(
        f"{model} holds {len(found)} Wan transformers ({listed}), and it cannot be told which to use: "
        "name one or two with --high and --low."
    )


def _opened(paths: Sequence[Path]) -> tuple[list[tuple[Kind, Weights]], list[str]]:
    """Files that can be opened, with what they are, and why the others cannot."""
    opened: list[tuple[Kind, Weights]] = []
    faults: list[str] = []
    for path in paths:
        try:
            weights = open_weights(path)
        except ValueError as error:  # a folder may hold anything
            faults.append(str(error))
            continue
        if kind := kind_of(weights):
            opened.append((kind, weights))
    return opened, faults


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """Files of weights in a folder and so many levels below; shards by their index. Raises ValueError for too many."""
    found = list(_walk(folder, depth))
    if len(found) > MOST:
        raise ValueError(f"{folder} holds more than {MOST} files of weights; name those of the model.")
    yield from found


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    inside = sorted(folder.iterdir())
    indexed = {path.name.removesuffix(INDEX) for path in inside if path.name.endswith(INDEX)}
    for path in inside:
        if path.is_dir() and depth and path.name not in ELSEWHERE and not path.name.startswith("."):
            yield from _walk(path, depth - 1)
        elif path.name.endswith(INDEX):
            yield path
        elif path.suffix in SUFFIXES and path.is_file():
            shard = SHARD in path.stem and any(path.name.startswith(f"{stem}-") for stem in indexed)
            if not shard:
                yield path


def _root(folder: Path) -> Path | None:
    """The weights that lie in a folder itself under the usual names."""
    for stem in ROOT_WEIGHTS:
        for name in (f"{stem}{INDEX}", f"{stem}.safetensors"):
            if (folder / name).is_file():
                return folder / name
    return None


def _weights_in(folder: Path) -> Path:
    """An expert's folder, or its only file where that is of another kind."""
    own = list(_walk(folder, 0))
    return own[0] if len(own) == 1 else folder


def _given_path(weights: Weights) -> Path:
    """The path that opens these weights again: the index of shards, else the file."""
    if weights.container != "sharded safetensors":
        return weights.path
    folder = weights.paths[0].parent
    index = weights.paths[0].name.partition("-0")[0] + INDEX
    return folder / index if (folder / index).is_file() else folder


def _fits(kind: Kind, weights: Weights, family: Family) -> bool:
    if kind == "vae":
        return vae_version(vae_names(weights)) == family.vae
    if kind == "image":
        names = ("vision_model.embeddings.class_embedding", "visual.cls_embedding")
        widths = [weights[name].shape[-1] for name in names if name in weights and weights[name].shape]
        return not widths or widths[0] == family.config.image_dim
    return True


def _is_text(names: Collection[str]) -> bool:
    """umT5 in any naming: it has a table of distances in every block, where T5 has one in the first."""
    for embedding, block, distances in TEXT:
        if embedding in names and f"{block}0.{distances}" in names:
            return f"{block}1.{distances}" in names or not any(name.startswith(f"{block}1.") for name in names)
    return False


def _tokenizers(model: Path) -> tuple[Path, ...]:
    return (model / "google" / "umt5-xxl", model / "tokenizer", model / "text_encoders", model)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model"))


def _folder(path: Path) -> Path | None:
    return path if path.is_dir() else None


def _first(folder: Path, pattern: str) -> Path | None:
    return next(iter(sorted(path for path in folder.glob(pattern) if path.suffix in SUFFIXES)), None)


def json_object(path: Path) -> dict[str, object]:
    """A file that holds a JSON object. Raises ValueError if it does not."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not whole JSON ({error}).") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} must hold a JSON object.")
    return record
