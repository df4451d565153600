"""Weights from the names of any dialect to the native ones, and back.

Names are changed at once, values when they are read: what one dialect keeps in two tensors and the other in one is
cut or joined then, in the type it is stored in, 8-bit scales with it. Nothing unknown passes.
"""

from collections.abc import Collection, Iterable

import torch

from pasdedeux.checkpoints.names.keymaps import KeyMap, split, transformer_keys, vae_keys
from pasdedeux.checkpoints.names.pieces import concatenated, halves, plain, reshaped
from pasdedeux.checkpoints.packing.scales import join_scales
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

Dialect = str  # "native", "comfyui" or "diffusers"
DIALECTS = ("native", "comfyui", "diffusers")
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "module.", "model.")
VAE_PREFIXES = ("first_stage_model.", "vae.", "module.", "model.")
# What the names of each model begin with in a file that holds a whole pipeline.
PIPELINE = (
    *("model.diffusion_model.", "first_stage_model.", "vae."),
    *("text_encoders.", "cond_stage_model.", "conditioner.", "clip_vision."),
)
# Names that give away a model of the Wan kind which is none of ours.
STRANGERS = {
    "control_adapter.": "a Wan camera-control model",
    "casual_audio_encoder.": "Wan2.2-S2V",
    "audio_injector.": "Wan2.2-S2V",
    "img_emb.emb_pos": "Wan2.1-FLF2V",
    "condition_embedder.image_embedder.pos_embed": "Wan2.1-FLF2V",
    "audio_proj.": "an audio-driven Wan model",
    "double_blocks.": "a model of another kind",
    "transformer_blocks.": "a model of another kind",
}
SHOWN = 3


def to_native(weights: Weights) -> tuple[Weights, Dialect]:
    """A transformer's weights under native names, and the dialect they came in.

    Raises ValueError with the first strange names where there are any, or where dialects are mixed.
    """
    bare, prefixed = _without_prefix(weights, PREFIXES)
    joined = join_scales(bare)
    native, dialect = _native(joined, transformer_keys(joined))
    marked = prefixed or len(joined) < len(bare)  # scales and markers are a habit of ComfyUI's files
    return native, "comfyui" if marked and dialect == "native" else dialect


def from_native(weights: Weights, dialect: Dialect) -> Weights:
    """A transformer's native weights under the names of `dialect`; ComfyUI's files name them natively.

    Raises ValueError for another dialect, or where the dialect has no place for a value.
    """
    return _from_native(weights, dialect, transformer_keys(weights))


def vae_to_native(weights: Weights) -> tuple[Weights, Dialect]:
    """As `to_native`, for the autoencoder of Wan 2.1 or 2.2."""
    bare, prefixed = _without_prefix(weights, VAE_PREFIXES)
    joined = join_scales(bare)
    native, dialect = _native(joined, vae_keys(joined))
    return native, "comfyui" if prefixed and dialect == "native" else dialect


def vae_from_native(weights: Weights, dialect: Dialect) -> Weights:
    """As `from_native`, for the autoencoder."""
    return _from_native(weights, dialect, vae_keys(weights))


def without_prefix(names: Iterable[str]) -> tuple[str, ...]:
    """Names as they are without the prefix that all of a transformer's bear: for telling what a file holds."""
    every = list(names)
    prefix = _prefix(every, PREFIXES)
    return tuple(name.removeprefix(prefix) for name in _own(every, prefix)) if prefix else tuple(every)


def vae_names(names: Iterable[str]) -> tuple[str, ...]:
    """As `without_prefix`, for the autoencoder in the same file."""
    every = list(names)
    prefix = _prefix(every, VAE_PREFIXES)
    return tuple(name.removeprefix(prefix) for name in _own(every, prefix)) if prefix else tuple(every)


def _without_prefix(weights: Weights, prefixes: tuple[str, ...]) -> tuple[Weights, bool]:
    """The weights of one model, without what stands before all of its names, and whether something did."""
    prefix = _prefix(weights, prefixes)
    if not prefix:
        return weights, False
    own = _own(weights, prefix)
    left = [name for name in own if not name.startswith(prefix)]
    if left:
        raise ValueError(f"{weights.path} mixes names: {_first(left)} lack the prefix {prefix} of the others.")
    bare, _ = _without_prefix(weights.with_tensors({n.removeprefix(prefix): weights[n] for n in own}), prefixes)
    return bare, True


def _prefix(names: Iterable[str], prefixes: tuple[str, ...]) -> str:
    """The first of the prefixes that most of a model's names bear; "" where there is none."""
    for prefix in prefixes:
        own = _own(names, prefix)
        if 2 * sum(name.startswith(prefix) for name in own) > len(own):
            return prefix
    return ""


def _own(names: Iterable[str], prefix: str) -> list[str]:
    """The names that may belong to the model with this prefix: all but those of a pipeline's other models."""
    others = tuple(other for other in PIPELINE if other != prefix and not other.startswith(prefix))
    return [name for name in names if not name.startswith(others)]


def _native(weights: Weights, keys: KeyMap) -> tuple[Weights, Dialect]:
    strange_native = [name for name in weights if not split(name, keys.native)]
    strange_theirs = [name for name in weights if not split(name, keys.theirs)]
    if weights and not strange_native:
        return weights.with_tensors(_with_kernels(dict(weights), keys)), "native"
    if weights and not strange_theirs:
        return weights.with_tensors(_with_kernels(_renamed(weights, keys), keys)), "diffusers"
    raise ValueError(_strangeness(weights, strange_native, strange_theirs))


def _strangeness(weights: Weights, native: list[str], theirs: list[str]) -> str:
    foreign = set(theirs)
    neither = [name for name in native if name in foreign]
    if not weights:
        return f"{weights.path} holds no weights."
    if any("lora" in name or name.endswith((".diff", ".diff_b")) for name in neither):
        return f"{weights.path} holds a LoRA ({_first(neither)}), not a model."
    for start, what in STRANGERS.items():
        if any(name.startswith(start) for name in neither):
            return f"{weights.path} is {what}, which is not supported: it holds {_first(neither)}."
    if neither:
        return f"{weights.path} holds names that no Wan model of a known layout has: {_first(neither)}."
    return f"{weights.path} mixes layouts: {_first(theirs)} are native, {_first(native)} are those of diffusers."


def _renamed(weights: Weights, keys: KeyMap) -> dict[str, LazyTensor]:
    """From diffusers' names to native ones."""
    back, half_of = keys.back, keys.half_of
    native: dict[str, LazyTensor] = {}
    halves: dict[str, dict[int, LazyTensor]] = {}
    for name, tensor in weights.items():
        stem, rest = split(name, keys.theirs) or (name, "")
        if stem in half_of:
            whole, half = half_of[stem]
            halves.setdefault(whole + rest, {})[half] = tensor
        elif back[stem] in keys.flattened:
            native[back[stem] + rest] = reshaped(tensor, (1, *tensor.shape, 1, 1))
        else:
            native[back[stem] + rest] = tensor
    for name, parts in halves.items():
        if len(parts) < 2:
            raise ValueError(f"{weights.path} has only one half of {name}: diffusers keeps it as to_k and to_v.")
        native[name] = concatenated(parts[0], parts[1])
    return native


def _from_native(weights: Weights, dialect: Dialect, keys: KeyMap) -> Weights:
    if dialect not in DIALECTS:
        raise ValueError(f'The layout is "{dialect}"; it must be one of {", ".join(DIALECTS)}.')
    strange = [name for name in weights if not split(name, keys.native)]
    if strange:
        raise ValueError(f"{_first(strange)} are no native names of a Wan model.")
    if dialect != "diffusers":
        return weights
    theirs: dict[str, LazyTensor] = {}
    for name, tensor in weights.items():
        stem, rest = split(name, keys.native) or (name, "")
        if stem in keys.kernels:
            _check_kernel(name, tensor)
        elif stem in keys.halved:
            for half, part in zip(keys.halved[stem], halves(name, tensor), strict=True):
                theirs[half + rest] = part
        elif stem in keys.flattened:
            theirs[keys.renamed[stem] + rest] = reshaped(tensor, (tensor.size,))
        else:
            theirs[keys.renamed[stem] + rest] = tensor
    return weights.with_tensors(theirs)


def _with_kernels(native: dict[str, LazyTensor], keys: KeyMap) -> dict[str, LazyTensor]:
    """The constants too, where a file leaves them out, as diffusers' do."""
    if keys.kernels & native.keys():
        return native
    return native | {name: kernel() for name in sorted(keys.kernels)}


def kernel() -> LazyTensor:
    """The low-pass before every halving in the motion encoder: a binomial of 4 x 4 (StyleGAN2)."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return LazyTensor(shape=(4, 4), dtype="float32", nbytes=64, read=lambda: torch.outer(taps, taps) / 64)


def _check_kernel(name: str, tensor: LazyTensor) -> None:
    if tensor.shape != (4, 4) or not torch.equal(plain(tensor).read().float(), kernel().read()):
        raise ValueError(f"{name} is not the kernel of the released models, and diffusers has no place for it.")


def _first(names: Collection[str]) -> str:
    every = list(names)
    return ", ".join(every[:SHOWN]) + (f" and {len(every) - SHOWN} more" if len(every) > SHOWN else "")
