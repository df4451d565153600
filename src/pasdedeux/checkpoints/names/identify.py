"""Which model some weights are: its sizes, read off native names and shapes, and the family it belongs to.

Two things are not to be seen in shapes: how many heads the attention has, and whether 14B text-to-video weights are
those of Wan 2.1 or of one expert of Wan 2.2. The first is 128 channels to a head in every released model, the second
is told from names, or taken for 2.2 and said.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import Any

from pasdedeux.checkpoints.families import FAMILIES, Family
from pasdedeux.checkpoints.load import on_meta
from pasdedeux.models.wan import AnimateConfig, ControlConfig, VaceConfig, WanConfig, build_wan

Shapes = Mapping[str, tuple[int, ...]]
NO_METADATA: Mapping[str, str] = MappingProxyType({})
HEAD = 128  # width of a head in every released model
FINE_CHANNELS = 48  # of the VAE of Wan 2.2; that of 2.1 has 16
CONVS = "motion_encoder.enc.net_app.convs"
OF_21 = re.compile(r"wan[ ._-]?2[._]?1(?!\d)", re.IGNORECASE)
OF_22 = re.compile(r"wan[ ._-]?2[._]?2(?!\d)|a14b|(high|low)[ ._-]?noise", re.IGNORECASE)
MOST = 500  # blocks: far above any model, and still quickly built
SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Hints:
    """What stands beside weights and not in them, as a `config.json` has it; None where it says nothing."""

    heads: int | None = None
    vace_layers: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recognised:
    """A family with the sizes found, and what is doubtful about it, in sentences."""

    family: Family
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Differences:
    """How names and shapes differ from those of a model."""

    lacking: tuple[str, ...] = field(default=())
    unknown: tuple[str, ...] = field(default=())
    misshaped: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.lacking) + len(self.unknown) + len(self.misshaped)

    def __str__(self) -> str:
        """ "lacks a, b and 3 more and has the wrong shape for c (4x4, not 5x4)"."""
        faults = {"lacks": self.lacking, "holds unknown": self.unknown, "has the wrong shape for": self.misshaped}
        return " and ".join(f"{fault} {_first(names)}" for fault, names in faults.items() if names)


def identify(shapes: Shapes, hints: Hints | None = None) -> WanConfig:
    """The sizes of the model whose native names and shapes these are; every one of them is then compared.

    Gives a WanConfig, VaceConfig, ControlConfig or AnimateConfig. Raises ValueError naming what is strange and the
    nearest family, or asking for what shapes do not tell.
    """
    try:
        config = _config(shapes, hints or Hints())
    except _AbsentError as absent:
        raise ValueError(f"These are not the weights of a Wan model: {_without(shapes, absent.args[0])}.") from absent
    faults = differences(shapes, config)
    if len(faults):
        raise ValueError(f"The weights do not fit together: {_nearest_in_words(shapes, config, faults)}.")
    return config


def family_of(
    config: WanConfig, *, names: Iterable[str] = (), metadata: Mapping[str, str] = NO_METADATA, experts: int = 1
) -> Family:
    """The family of a model of these sizes, see `recognise`."""
    return recognise(config, names=names, metadata=metadata, experts=experts).family


def recognise(
    config: WanConfig, *, names: Iterable[str] = (), metadata: Mapping[str, str] = NO_METADATA, experts: int = 1
) -> Recognised:
    """The released family these sizes are of, or the nearest of its kind with these sizes in it.

    names: of the file and its folders; metadata: of its header; experts: how many there are. Where sizes fit two
    families, what is written in those decides, else two experts are Wan 2.2's, else it is taken for 2.2 and said.
    """
    named = FAMILIES.get(metadata.get("wan.family", ""))
    if named is not None and type(named.config) is type(config):
        return Recognised(family=replace(named, config=config))
    exact = [family for family in FAMILIES.values() if family.config == config]
    fitting = exact or [family for family in FAMILIES.values() if kind(family.config) == kind(config)]
    if not fitting:
        raise ValueError(f"The weights are those of {kind(config)}, and no known family is.")
    generation = _generation(names, metadata, experts)
    told = [family for family in fitting if family.name.startswith(generation or "wan")] or fitting
    chosen = min(told, key=lambda family: not family.name.startswith("wan2.2"))
    others = ", ".join(family.name for family in fitting if family != chosen)
    if not exact:
        note = f"Its sizes are not those of any released model; it is taken for a {chosen.name}."
    elif generation is None and others:
        note = f"It is taken for {chosen.name}, but {others} has the same shapes; say --family to change."
    else:
        note = ""
    return Recognised(family=replace(chosen, config=config), notes=(note,) if note else ())


def nearest(shapes: Shapes) -> tuple[str, Differences]:
    """The family whose names and shapes differ from these in the fewest places, and those places."""
    every = ((name, differences(shapes, family.config)) for name, family in FAMILIES.items())
    return min(every, key=lambda pair: len(pair[1]))


def differences(shapes: Shapes, config: WanConfig) -> Differences:
    """How native names and shapes differ from those of a model of these sizes."""
    wanted = shapes_of(config)
    return Differences(
        lacking=tuple(name for name in wanted if name not in shapes),
        unknown=tuple(name for name in shapes if name not in wanted),
        misshaped=tuple(
            f"{name} ({_by(shapes[name])}, not {_by(shape)})"
            for name, shape in wanted.items()
            if name in shapes and tuple(shapes[name]) != shape
        ),
    )


@lru_cache(maxsize=16)
def shapes_of(config: WanConfig) -> dict[str, tuple[int, ...]]:
    """Every name and shape of a model of these sizes, from the model itself without memory behind it.

    Raises ValueError where no computer could hold such a model.
    """
    try:
        return {name: tuple(t.shape) for name, t in on_meta(lambda: build_wan(config)).state_dict().items()}
    except (RuntimeError, OverflowError) as error:  # more values than can be counted
        raise ValueError(f"A model cannot be {config.dim} wide and {config.ffn_dim} deep ({error}).") from error


def hints_of(record: Mapping[str, object]) -> Hints:
    """What a `config.json`, native or diffusers', says that shapes do not; strange values say nothing."""
    heads = record.get("num_heads", record.get("num_attention_heads"))
    layers = record.get("vace_layers")
    whole = isinstance(layers, list | tuple) and all(type(layer) is int for layer in layers)
    return Hints(
        heads=heads if type(heads) is int and heads > 0 else None,
        vace_layers=tuple(layers) if whole and isinstance(layers, list | tuple) else None,
    )


class _AbsentError(KeyError):
    """A weight that every Wan transformer has is not there, or has too few dimensions."""


def _config(shapes: Shapes, hints: Hints) -> WanConfig:
    sizes = _sizes(shapes, hints)
    if "vace_patch_embedding.weight" in shapes:
        layers = hints.vace_layers or _spread(_count(shapes, "vace_blocks."), sizes["layers"], "VACE block")
        return VaceConfig(**sizes, vace_dim=_size(shapes, "vace_patch_embedding.weight", 1), vace_layers=layers)
    if "motion_encoder.dec.direction.weight" in shapes:
        return AnimateConfig(**sizes, **_animate_sizes(shapes, sizes["layers"]))
    if "ref_conv.weight" in shapes:
        return ControlConfig(**sizes, ref_dim=_size(shapes, "ref_conv.weight", 1))
    if sizes["in_dim"] == 3 * sizes["out_dim"] + 4:  # noise, control, mask, start image
        return ControlConfig(**sizes, ref_dim=None)
    return WanConfig(**sizes)


def _sizes(shapes: Shapes, hints: Hints) -> dict[str, Any]:
    """What every Wan transformer has; `_AbsentError` where it is none."""
    patch = tuple(_size(shapes, "patch_embedding.weight", axis) for axis in (2, 3, 4))
    dim = _size(shapes, "patch_embedding.weight", 0)
    image = _size(shapes, "img_emb.proj.1.weight", 1) if "img_emb.proj.1.weight" in shapes else None
    return {
        "dim": dim,
        "ffn_dim": _size(shapes, "blocks.0.ffn.0.weight", 0),
        "heads": _heads(shapes, dim, hints),
        "layers": _count(shapes, "blocks."),
        "in_dim": _size(shapes, "patch_embedding.weight", 1),
        "out_dim": _size(shapes, "head.head.weight", 0) // prod(patch),
        "patch": patch,
        "text_dim": _size(shapes, "text_embedding.0.weight", 1),
        "freq_dim": _size(shapes, "time_embedding.0.weight", 1),
        "image_dim": image,
    }


def _animate_sizes(shapes: Shapes, layers: int) -> dict[str, Any]:
    steps = _count(shapes, f"{CONVS}.") - 2
    narrow = _size(shapes, "face_encoder.conv2.conv.weight", 0)
    channels = [_size(shapes, f"{CONVS}.0.0.weight", 0)]
    channels += [_size(shapes, f"{CONVS}.{i + 1}.conv2.1.weight", 0) for i in range(steps)]
    faces = _spread(_count(shapes, "face_adapter.fuser_blocks."), layers, "face block")
    return {
        "pose_dim": _size(shapes, "pose_patch_embedding.weight", 1),
        "motion_channels": tuple(channels),
        "motion_style": _size(shapes, "motion_encoder.dec.direction.weight", 0),
        "motion_dim": _size(shapes, "motion_encoder.dec.direction.weight", 1),
        "face_dim": narrow,
        "face_heads": _size(shapes, "face_encoder.conv1_local.conv.weight", 0) // narrow,
        "face_every": faces[1] if len(faces) > 1 else layers,
    }


def _heads(shapes: Shapes, dim: int, hints: Hints) -> int:
    """From a face block's norm where there is one, else as told, else 128 channels to a head."""
    norm = shapes.get("face_adapter.fuser_blocks.0.q_norm.weight", ())
    heads = dim // norm[0] if len(norm) == 1 and norm[0] else hints.heads
    if heads:
        return heads
    if dim % HEAD:
        raise ValueError(
            f"The number of heads cannot be told from a width of {dim}, which is no multiple of {HEAD}; "
            "a config.json beside the weights must say num_heads."
        )
    return dim // HEAD


def _spread(count: int, layers: int, what: str) -> tuple[int, ...]:
    """The blocks, evenly from the first on, that `count` others belong to. Raises ValueError where none are even."""
    every = -(-layers // count) if count else 0
    places = tuple(range(0, layers, every)) if every else ()
    if len(places) != count or not count:
        raise ValueError(f"{count} {what}s cannot be spread evenly over {layers} blocks.")
    return places


def _size(shapes: Shapes, name: str, axis: int) -> int:
    shape = shapes.get(name, ())
    if len(shape) <= axis or shape[axis] < 1:
        raise _AbsentError(name)
    return shape[axis]


def _count(shapes: Shapes, prefix: str) -> int:
    """How many different numbers follow a prefix; a gap in them is found when all names are compared."""
    count = len({name[len(prefix) :].partition(".")[0] for name in shapes if name.startswith(prefix)})
    if not count:
        raise _AbsentError(f"{prefix}0")
    if count > MOST:
        raise ValueError(f"{count} of {prefix.rstrip('.')} are more than any Wan model has.")
    return count


def kind(config: WanConfig) -> str:
    """What a model takes and gives, whatever its width and depth: "an image-to-video model with CLIP"."""
    if isinstance(config, AnimateConfig):
        what = "an Animate model"
    elif isinstance(config, VaceConfig):
        what = "a VACE model"
    elif isinstance(config, ControlConfig):
        what = "a control model"
    elif config.in_dim == config.out_dim:
        what = "a text-to-video model"
    elif config.in_dim == 2 * config.out_dim + 4:  # noise, mask, start image
        what = "an image-to-video model" + (" with CLIP" if config.image_dim is not None else "")
    else:
        what = f"a model of {config.in_dim} input channels"
    return what + (" on the latents of the 2.2 VAE" if config.out_dim == FINE_CHANNELS else "")


def _generation(names: Iterable[str], metadata: Mapping[str, str], experts: int) -> str | None:
    """ "wan2.1" or "wan2.2", as names and headers say; what is nearer to the file counts more."""
    said = [metadata.get(key, "") for key in ("modelspec.title", "modelspec.architecture", "general.name")]
    for text in (*said, *reversed(list(names))):
        older, newer = OF_21.search(text), OF_22.search(text)
        if bool(older) != bool(newer):
            return "wan2.1" if older else "wan2.2"
    return "wan2.2" if experts > 1 else None


def _without(shapes: Shapes, absent: str) -> str:
    """What is missing, and the nearest family where there is enough of it to speak of one."""
    name, faults = nearest(shapes)
    if 2 * len(faults) > len(shapes):
        return f"they lack {absent}"
    return f"they are nearest to {name}, but {_but(faults)}"


def _nearest_in_words(shapes: Shapes, config: WanConfig, own: Differences) -> str:
    """What is wrong, as measured by a released family or, where that is nearer, by the sizes of these weights."""
    name, faults = nearest(shapes)
    if len(own) < len(faults):
        return f"they are most like a {type(config).__name__} of {config.layers} blocks, but {_but(own)}"
    return f"they are nearest to {name}, but {_but(faults)}"


def _but(faults: Differences) -> str:
    """The faults of "they", not of "it"."""
    text = str(faults)
    return (
        text.replace("lacks ", "lack ", 1)
        .replace("holds unknown ", "hold unknown ", 1)
        .replace("has the", "have the", 1)
    )


def _first(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
