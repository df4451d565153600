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


WAN_MODELS: dict[str, WanConfig] = {
    "wan2.1-t2v-1.3b": WanConfig(dim=1536, ffn_dim=8960, heads=12, layers=30),
    "wan2.1-t2v-14b": WanConfig(),
    "wan2.1-i2v-14b": WanConfig(in_dim=36, image_dim=1280),
    "wan2.2-t2v-a14b": WanConfig(),
    "wan2.2-i2v-a14b": WanConfig(in_dim=36),
    "wan2.2-ti2v-5b": WanConfig(dim=3072, ffn_dim=14336, heads=24, layers=30, in_dim=48, out_dim=48),
    "wan2.2-animate-14b": AnimateConfig(),
}
