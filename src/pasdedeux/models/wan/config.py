"""Sizes of the Wan video transformers, as data: a frozen record per family, a row per released model."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class WanConfig:
    """Sizes of a Wan transformer; the defaults are those of the 14B text-to-video expert.

    `image_dim` is the width of the CLIP features of models that have an image branch, else None.
    Raises ValueError if `dim` cannot be divided into heads of an even width.
    """

    dim: int = 5120
    ffn_dim: int = 13824
    heads: int = 40
    layers: int = 40
    in_dim: int = 16
    out_dim: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    image_dim: int | None = None
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be {self.heads} heads times an even head width")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


@dataclass(frozen=True, kw_only=True, slots=True)
class AnimateConfig(WanConfig):
    """Sizes of Wan-Animate: the image-to-video transformer with its pose and face branches.

    `motion_channels` are the widths of the motion encoder from its input resolution, halving down to 4
    pixels, so their number sets the size of a face crop. `face_every` is the number of blocks from one face
    block to the next.
    """

    in_dim: int = 36
    image_dim: int | None = 1280
    pose_dim: int = 16
    motion_channels: tuple[int, ...] = (32, 64, 128, 256, 512, 512, 512, 512)
    motion_style: int = 512
    motion_dim: int = 20
    face_dim: int = 1024
    face_heads: int = 4
    face_every: int = 5

    @property
    def face_size(self) -> int:
        """Pixels along the side of a face crop."""
        return 4 << (len(self.motion_channels) - 1)

    @property
    def face_blocks(self) -> int:
        """One face block after block 0 and after every `face_every`-th block from there."""
        return -(-self.layers // self.face_every)


@dataclass(frozen=True, kw_only=True, slots=True)
class VaceConfig(WanConfig):
    """Sizes of VACE: the text-to-video transformer with a second row of blocks that reads control latents.

    `vace_dim` counts the control channels: 16 of what changes, 16 of what stays, and 64 of the mask, 8 x 8 pixels
    to a latent. `vace_layers` are the blocks that receive a hint, one for each block of the second row; the default
    is every fifth, as in VACE 14B. Raises ValueError unless they begin with 0, ascend, and exist, and where there is
    an image branch, which VACE does not have.
    """

    vace_dim: int = 96
    vace_layers: tuple[int, ...] = tuple(range(0, 40, 5))

    def __post_init__(self) -> None:
        WanConfig.__post_init__(self)  # super() does not survive the slots
        layers = self.vace_layers
        if not layers or layers[0] != 0 or layers[-1] >= self.layers or list(layers) != sorted(set(layers)):
            raise ValueError(f"vace_layers {layers} must start with 0, ascend, and lie below {self.layers} layers")
        if self.image_dim is not None:
            raise ValueError(f"VACE has no CLIP branch; image_dim is {self.image_dim} and must be None")


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlConfig(WanConfig):
    """Sizes of Wan2.2-Fun-A14B-Control: the image-to-video transformer that also takes control latents.

    `in_dim` is 52 in both experts: 16 of noise, 16 of control latents, 4 of mask, 16 of start-image latents, in this
    order (the order is that of VideoX-Fun's pipeline; 52 and the absence of a CLIP branch are in the table by which
    DiffSynth-Studio recognises the released file, whose digest these sizes reproduce). `ref_dim` is the number of
    latent channels of the reference picture, which becomes an extra frame of tokens; None for a model without it.
    Wan2.1-Fun-V1.1-Control is the same with in_dim 48 (no mask) and a CLIP branch.
    """

    in_dim: int = 52
    ref_dim: int | None = 16


WAN_MODELS: dict[str, WanConfig] = {
    "wan2.1-t2v-1.3b": WanConfig(dim=1536, ffn_dim=8960, heads=12, layers=30),
    "wan2.1-t2v-14b": WanConfig(),
    "wan2.1-i2v-14b": WanConfig(in_dim=36, image_dim=1280),
    "wan2.2-t2v-a14b": WanConfig(),
    "wan2.2-i2v-a14b": WanConfig(in_dim=36),
    "wan2.2-ti2v-5b": WanConfig(dim=3072, ffn_dim=14336, heads=24, layers=30, in_dim=48, out_dim=48),
    "wan2.2-animate-14b": AnimateConfig(),
    "wan2.1-vace-1.3b": VaceConfig(dim=1536, ffn_dim=8960, heads=12, layers=30, vace_layers=tuple(range(0, 30, 2))),
    "wan2.1-vace-14b": VaceConfig(),
    "wan2.2-vace-fun-a14b": VaceConfig(),
    "wan2.2-fun-a14b-control": ControlConfig(),
}
