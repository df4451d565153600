"""What the weights of Wan are called, natively and by diffusers: tables of stems, used both ways.

A stem is a name without its last part where that is `weight`, `bias` or `gamma`. The tables are made for the
indices that a file has, so that a name either stands in them or is strange. Two traps are in here: diffusers
calls norm2 what is natively norm3, and its two projections `to_k` and `to_v` of a face block are one natively.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

LEAVES = ("weight", "bias", "gamma")
ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
IMAGE_ATTENTION = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}
BLOCK = {
    "modulation": "scale_shift_table",
    "norm3": "norm2",
    **{f"self_attn.{native}": f"attn1.{theirs}" for native, theirs in ATTENTION.items()},
    **{f"cross_attn.{native}": f"attn2.{theirs}" for native, theirs in (ATTENTION | IMAGE_ATTENTION).items()},
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
VACE_BLOCK = {**BLOCK, "before_proj": "proj_in", "after_proj": "proj_out"}
EMBEDDINGS = {
    "patch_embedding": "patch_embedding",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "vace_patch_embedding": "vace_patch_embedding",
    "pose_patch_embedding": "pose_patch_embedding",
    "ref_conv": "ref_conv",  # diffusers has no such model; its name would be this
    "head.modulation": "scale_shift_table",
    "head.head": "proj_out",
}
FACE = {
    "face_encoder.conv1_local.conv": "face_encoder.conv1_local",
    "face_encoder.conv2.conv": "face_encoder.conv2",
    "face_encoder.conv3.conv": "face_encoder.conv3",
    "face_encoder.out_proj": "face_encoder.out_proj",
    "face_encoder.padding_tokens": "face_encoder.padding_tokens",
    "motion_encoder.dec.direction.weight": "motion_encoder.motion_synthesis_weight",
}
FACE_BLOCK = {"linear1_q": "to_q", "linear2": "to_out", "q_norm": "norm_q", "k_norm": "norm_k"}
FACE_HALVES = {"linear1_kv": ("to_k", "to_v")}
MOTION_BLOCK = {
    "conv1.0": "conv1",
    "conv1.1": "conv1.act_fn",
    "conv2.1": "conv2",
    "conv2.2": "conv2.act_fn",
    "skip.1": "conv_skip",
}
MOTION_KERNELS = ("conv2.0.kernel", "skip.0.kernel")  # constants, which diffusers does not store
CONVS = "motion_encoder.enc.net_app.convs"

RESNET = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
RESAMPLE = {"resample.1": "resample.1", "time_conv": "time_conv"}
VAE_ENDS = {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out"}
VAE_MIDDLE = {
    **{f"middle.0.{native}": f"mid_block.resnets.0.{theirs}" for native, theirs in RESNET.items()},
    **{f"middle.1.{name}": f"mid_block.attentions.0.{name}" for name in ("norm", "to_qkv", "proj")},
    **{f"middle.2.{native}": f"mid_block.resnets.1.{theirs}" for native, theirs in RESNET.items()},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyMap:
    """Native stems and the stems of diffusers.

    renamed: one for one; halved: a native stem whose rows are two of theirs; flattened: the renamed ones whose values
    diffusers keeps in one dimension; kernels: whole native names of constants that diffusers has not.
    """

    renamed: Mapping[str, str]
    halved: Mapping[str, tuple[str, str]]
    flattened: frozenset[str]
    kernels: frozenset[str]

    @property
    def native(self) -> frozenset[str]:
        """Every native stem; kernels stand with their whole names."""
        return frozenset((*self.renamed, *self.halved, *self.kernels))

    @property
    def theirs(self) -> frozenset[str]:
        """Every stem of diffusers."""
        return frozenset((*self.renamed.values(), *(half for pair in self.halved.values() for half in pair)))

    @property
    def back(self) -> dict[str, str]:
        """From diffusers' stems to the native ones, where they go one for one."""
        return {theirs: native for native, theirs in self.renamed.items()}

    @property
    def half_of(self) -> dict[str, tuple[str, int]]:
        """From a stem of diffusers to the native one that it is the first (0) or second (1) half of."""
        return {half: (native, i) for native, pair in self.halved.items() for i, half in enumerate(pair)}


def split(name: str, stems: Collection[str]) -> tuple[str, str] | None:
    """A name as its stem and the rest, or None where it has none of these stems."""
    if name in stems:
        return name, ""
    stem, _, leaf = name.rpartition(".")
    return (stem, f".{leaf}") if leaf in LEAVES and stem in stems else None


def transformer_keys(names: Collection[str]) -> KeyMap:
    """The table for a transformer with the blocks that these names, of either dialect, speak of."""
    blocks, vaces = _indices(names, "blocks."), _indices(names, "vace_blocks.")
    faces = _indices(names, "face_adapter.fuser_blocks.") | _indices(names, "face_adapter.")
    layers = _indices(names, "motion_encoder.enc.fc.") | _indices(names, "motion_encoder.motion_network.")
    renamed = {**EMBEDDINGS, **FACE}
    renamed |= {f"blocks.{i}.{a}": f"blocks.{i}.{b}" for i in blocks for a, b in BLOCK.items()}
    renamed |= {f"vace_blocks.{i}.{a}": f"vace_blocks.{i}.{b}" for i in vaces for a, b in VACE_BLOCK.items()}
    fuser = "face_adapter.fuser_blocks"
    renamed |= {f"{fuser}.{i}.{a}": f"face_adapter.{i}.{b}" for i in faces for a, b in FACE_BLOCK.items()}
    renamed |= {f"motion_encoder.enc.fc.{i}": f"motion_encoder.motion_network.{i}" for i in layers}
    steps = _motion_steps(names)
    renamed |= _motion_keys(steps)
    return KeyMap(
        renamed=renamed,
        halved={
            f"{fuser}.{i}.{a}": (f"face_adapter.{i}.{k}", f"face_adapter.{i}.{v}")
            for i in faces
            for a, (k, v) in FACE_HALVES.items()
        },
        flattened=frozenset(a for a, b in renamed.items() if b.endswith("act_fn")),
        kernels=frozenset(f"{CONVS}.{i + 1}.{kernel}" for i in range(steps) for kernel in MOTION_KERNELS),
    )


def vae_keys(names: Collection[str]) -> KeyMap:
    """The table for an autoencoder of the depth that these names, of either dialect and either version, speak of."""
    renamed = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        renamed |= {f"{side}.{a}": f"{side}.{b}" for a, b in (VAE_ENDS | VAE_MIDDLE).items()}
    for native, theirs, inner in _vae_layers(names):
        renamed |= {f"{native}.{a}": f"{theirs}.{b}" for a, b in inner.items()}
    return KeyMap(renamed=renamed, halved={}, flattened=frozenset(), kernels=frozenset())


def vae_version(names: Iterable[str]) -> str | None:
    """ "wan2.1" or "wan2.2", by the way the encoder nests its layers, or None if these are no Wan autoencoder's."""
    start = {name.split(".", 4)[3] for name in names if name.startswith("encoder.down") and name.count(".") > 3}
    if not start:
        return None
    return "wan2.2" if start & {"downsamples", "resnets", "downsampler"} else "wan2.1"


def _motion_steps(names: Collection[str]) -> int:
    """How often the motion encoder halves its picture: one fewer than there are convolutions after the first."""
    theirs = len(_indices(names, "motion_encoder.res_blocks."))
    return theirs or max(len(_indices(names, f"{CONVS}.")) - 2, 0)


def _motion_keys(steps: int) -> dict[str, str]:
    first = {f"{CONVS}.0.0": "motion_encoder.conv_in", f"{CONVS}.0.1": "motion_encoder.conv_in.act_fn"}
    last = {f"{CONVS}.{steps + 1}": "motion_encoder.conv_out"}
    between = {
        f"{CONVS}.{i + 1}.{a}": f"motion_encoder.res_blocks.{i}.{b}"
        for i in range(steps)
        for a, b in MOTION_BLOCK.items()
    }
    return first | between | last


def _vae_layers(names: Collection[str]) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    """Native and diffusers' stems of the encoder's and the decoder's layers, level by level, and what is inside."""
    nested = vae_version(names) == "wan2.2"
    levels, blocks = _vae_sizes(names, nested)
    if levels * blocks > len(names):  # a header can say anything
        return
    for side, way, count in (("encoder", "down", blocks), ("decoder", "up", blocks + 1)):
        place = 0
        for level in range(levels):
            for i in range(count + (level < levels - 1)):
                native = f"{level}.{way}samples.{i}" if nested else f"{place}"
                theirs = f"{level}." + (f"resnets.{i}" if i < count else f"{way}sampler{'' if nested else 's.0'}")
                if not nested and way == "down":
                    theirs = native  # numbered through in both
                inner = RESNET if i < count else RESAMPLE
                yield f"{side}.{way}samples.{native}", f"{side}.{way}_blocks.{theirs}", inner
                place += 1


def _vae_sizes(names: Collection[str], nested: bool) -> tuple[int, int]:
    """Levels, and residual blocks of one in the encoder; the decoder has one more of them."""
    if theirs := _indices(names, "decoder.up_blocks."):
        return len(theirs), len(_indices(names, "decoder.up_blocks.0.resnets.")) - 1
    levels = len(_indices(names, "decoder.upsamples."))
    if nested:
        last = _indices(names, f"decoder.upsamples.{levels - 1}.upsamples.")  # where nothing is resampled
        return levels, len(last) - 1
    steps = sum(name.startswith("decoder.upsamples.") and name.endswith(".resample.1.weight") for name in names)
    return steps + 1, (levels - steps) // (steps + 1) - 1


def _indices(names: Iterable[str], prefix: str) -> set[str]:
    """The numbers that follow a prefix. As many as there are, whatever they are: a header can say anything."""
    after = (name[len(prefix) :].partition(".")[0] for name in names if name.startswith(prefix))
    return {number for number in after if number.isascii() and number.isdecimal()}
