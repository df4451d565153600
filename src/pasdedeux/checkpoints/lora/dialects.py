"""The names that LoRA files give to a model's layers, as data: which layer a key means, and which part of its change.

A key is a prefix ("diffusion_model.", "lora_unet_", "transformer."), a layer, and a part (".lora_A.weight", ".alpha",
".diff_b"). Layers are named as the model names them or as diffusers does, with dots or, in kohya's way, with
underscores throughout; since underscores also occur inside names, they are resolved against the model's own.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from pasdedeux.checkpoints.names.keymaps import transformer_keys
from pasdedeux.checkpoints.names.swaps import Expert

Shapes = Mapping[str, tuple[int, ...]]

# What may follow a layer's name, and the part of a change it is. The adapter's name of PEFT files ("default") may
# stand in between.
_PARTS = {
    r"\.lora_A(?:\.\w+)?\.weight|\.lora_A|[._]lora[._]down(?:\.\w+)?\.weight|\.lora_linear_layer\.down\.weight": "down",
    r"\.lora_B(?:\.\w+)?\.weight|\.lora_B|[._]lora[._]up(?:\.\w+)?\.weight|\.lora_linear_layer\.up\.weight": "up",
    r"\.lora_B(?:\.\w+)?\.bias|\.lora_up\.bias": "up_bias",
    r"\.lora_mid\.weight": "middle",
    r"\.alpha": "alpha",
    r"\.diff|\.w_norm": "diff",
    r"\.diff_b|\.b_norm": "diff_b",
    r"\.diff_m": "diff_m",
    r"\.set_weight": "set_weight",
    r"\.reshape_weight": "reshape_weight",
    r"\.dora_scale|\.lora_magnitude_vector(?:\.\w+)?(?:\.weight)?": "magnitude",
    r"\.lokr_w1": "lokr_w1",
    r"\.lokr_w1_a": "lokr_w1_a",
    r"\.lokr_w1_b": "lokr_w1_b",
    r"\.lokr_w2": "lokr_w2",
    r"\.lokr_w2_a": "lokr_w2_a",
    r"\.lokr_w2_b": "lokr_w2_b",
    r"\.lokr_t2": "lokr_t2",
    r"\.hada_w1_a": "hada_w1_a",
    r"\.hada_w1_b": "hada_w1_b",
    r"\.hada_w2_a": "hada_w2_a",
    r"\.hada_w2_b": "hada_w2_b",
    r"\.hada_t1": "hada_t1",
    r"\.hada_t2": "hada_t2",
}
_PART = [(re.compile(rf"(.+?)(?:{pattern})"), part) for pattern, part in _PARTS.items()]

_PREFIX = re.compile(
    r"base_model\.model\.|model\.diffusion_model\.|diffusion_model\.|transformer(?:_2)?\.|pipe\.dit2?\.|dit2?\."
    r"|model\.|module\.|lora_unet_+|lora_transformer_+|lycoris_+"
)
_DIALECTS = {
    "lora_unet__": "Fun",
    "lora_unet_": "kohya",
    "lora_transformer_": "kohya",
    "lycoris_": "LyCORIS",
    "base_model.": "PEFT",
    "pipe.dit": "DiffSynth",
    "transformer.": "diffusers",
    "transformer_2.": "diffusers",
}

_NORM = re.compile(r"blocks[._]\d+[._]norm([23])$")
_MODULATION = re.compile(r"(.+)\.modulation$")


class Place(NamedTuple):
    """A layer or bare parameter of the model; half: which half of its rows, where diffusers has two layers for one."""

    name: str
    half: int | None = None


class Key(NamedTuple):
    """A file's key: the layer as the file names it, with its prefix, and the part of the change."""

    key: str
    layer: str
    part: str


def parse(key: str) -> Key | None:
    """None for a key that is no part of a LoRA.

    >>> parse("diffusion_model.head.head.lora_A.weight")
    Key(key='diffusion_model.head.head.lora_A.weight', layer='diffusion_model.head.head', part='down')
    """
    for pattern, part in _PART:
        found = pattern.fullmatch(key)
        if found:
            return Key(key, found[1], part)
    return None


def without_prefix(layer: str) -> str:
    """The layer's name without what tools put before it."""
    while found := _PREFIX.match(layer):
        layer = layer[found.end() :]
    return layer


def expert_of_layer(layer: str) -> Expert | None:
    """The expert a prefix names, where a file holds both: the second transformer is the low-noise one."""
    if re.match(r"(base_model\.model\.)?(transformer_2|pipe\.dit2|dit2)\.", layer):
        return "low"
    return "high" if re.match(r"(base_model\.model\.)?(transformer|pipe\.dit|dit)\.", layer) else None


def dialect_of(keys: Iterable[Key]) -> str:
    """The manner in which the keys of a layer are written, in one word."""
    every = list(keys)
    layer = every[0].layer
    if any(key.part.startswith(("lokr", "hada")) for key in every):
        return "LyCORIS"
    for prefix, dialect in _DIALECTS.items():
        if layer.startswith(prefix):
            return dialect
    if re.search(r"\.attn[12]\.|condition_embedder\.|\.net\.|^proj_out$|scale_shift_table$", layer):
        return "diffusers"
    return "DiffSynth" if any(".default." in key.key for key in every) else "ComfyUI"


class Names:
    """Every name that a file may use for a layer of one model, to the layer."""

    def __init__(self, shapes: Shapes) -> None:
        keys = transformer_keys(shapes)
        self._shapes = shapes
        self._native: dict[str, Place] = {}
        self._diffusers: dict[str, Place] = {}
        for layer in {re.sub(r"\.(weight|bias)$", "", name) for name in shapes}:
            _add(self._native, layer, Place(layer))
            if found := _MODULATION.match(layer):
                _add(self._native, f"{found[1]}.diff_m", Place(layer))
            for half, name in enumerate(keys.halved.get(layer, ())):
                _add(self._diffusers, name, Place(layer, half))
            if name := keys.renamed.get(layer) or keys.renamed.get(f"{layer}.weight"):
                _add(self._diffusers, name, Place(layer))

    def in_diffusers(self, layers: Collection[str]) -> bool:
        """Whether the layers' names, prefixes taken off, are those of diffusers: some are, and none is only ours."""
        unlike = [layer for layer in layers if self._native.get(layer) != self._diffusers.get(layer)]
        unlike = [layer for layer in unlike if not _NORM.search(layer)] or unlike  # norms 2 and 3 tell least
        return any(layer in self._diffusers for layer in unlike) and not any(layer in self._native for layer in unlike)

    def find(self, layer: str, part: str, *, norms_of_diffusers: bool = False) -> Place | None:
        """The layer a name means, its prefix taken off, or None.

        Diffusers' norm 2 is ours of number 3, so that name counts only where the file is known to be in its manner.
        """
        if part == "diff_m":
            return self._native.get(f"{layer.removesuffix('.modulation')}.diff_m")
        norm = _NORM.search(layer)
        if norm and (norm[1] == "2") != norms_of_diffusers:
            return None
        return self._native.get(layer) or self._diffusers.get(layer)

    def weight(self, place: Place) -> str | None:
        """The name of the place's weight: `X.weight`, or X itself for a parameter without a layer around it."""
        return next((name for name in (f"{place.name}.weight", place.name) if name in self._shapes), None)

    def bias(self, place: Place) -> str | None:
        """The name of the place's bias, if it has one."""
        return next((name for name in (f"{place.name}.bias",) if name in self._shapes), None)


def _add(table: dict[str, Place], name: str, place: Place) -> None:
    table[name] = table[name.replace(".", "_")] = place
