"""Which layers of a model get a LoRA: by word or by patterns of their names.

"attention" is the attention's projections, "feedforward" the two layers after it, "pose" and "face" what Wan-Animate
has for those, "all" every linear layer and convolution with a weight of its own inside blocks and around them. Anything
else is a pattern such as "blocks.*.self_attn.q", matched against the whole name.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from pasdedeux.checkpoints.packing.linear import PackedLinear
from pasdedeux.models.wan.layers import PatchEmbedding

ATTENTION = ("*.self_attn.*", "*.cross_attn.*")
WORDS: dict[str, tuple[str, ...]] = {
    "attention": ATTENTION,
    "feedforward": ("*.ffn.*",),
    "pose": ("pose_patch_embedding",),
    "face": ("face_adapter.*", "face_encoder.out_proj"),
    "all": ("*",),
}
NEVER = ("motion_encoder.*",)
"""Layers that scale their weight as they use it, so that nothing can be added to it."""


def adaptable(module: nn.Module) -> bool:
    """Whether a LoRA can run beside a layer: a linear one, packed or not, or a convolution that is not grouped."""
    if isinstance(module, nn.Linear | PackedLinear | PatchEmbedding):
        return True
    return type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros"


def chosen(module: nn.Module, targets: str) -> list[str]:
    """The names of the layers that `targets` (words and patterns, parted by commas) means, in the module's order.

    Raises ValueError for a word or pattern that means none of them.
    """
    names = [name for name, layer in module.named_modules() if name and adaptable(layer) and not _is(name, NEVER)]
    asked = [word.strip() for word in targets.split(",") if word.strip()]
    if not asked:
        raise ValueError("No layers are named; targets are words such as attention, or patterns of layer names.")
    for word in asked:
        if not any(_is(name, _patterns(word)) for name in names):
            raise ValueError(
                f'No layer of the model fits "{word}"; there are {", ".join(_shown(names))}, and the words '
                f"{', '.join(WORDS)}."
            )
    patterns = [pattern for word in asked for pattern in _patterns(word)]
    return [name for name in names if _is(name, patterns)]


def _patterns(word: str) -> tuple[str, ...]:
    return WORDS.get(word, (word,))


def _is(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _shown(names: Sequence[str]) -> Iterator[str]:
    yield from names[:3]
    if len(names) > 3:
        yield f"{len(names) - 3} more"
