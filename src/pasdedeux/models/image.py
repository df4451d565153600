"""The image encoder of the Wan models that look at their reference: CLIP ViT-H/14, one vector per patch.

What the models want is the output of the last layer but one, so the last layer is never built. The picture is
squeezed to a square, whatever its aspect, and not cropped: the whole character stays in view.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of the pictures CLIP was trained on, per channel.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
ACTIVATIONS = ("gelu", "quick_gelu")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    """Sizes of the encoder; the defaults are ViT-H/14. `layers` are the file's, of which the last is not built."""

    dim: int = 1280
    hidden: int = 5120
    layers: int = 32
    heads: int = 16
    patch: int = 14
    side: int = 224  # pixels of the square
    activation: str = "gelu"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"A width of {self.dim} cannot be shared by {self.heads} heads.")
        if self.side % self.patch:
            raise ValueError(f"A side of {self.side} pixels is no whole number of patches of {self.patch}.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"The activation must be {' or '.join(ACTIVATIONS)}, not {self.activation!r}.")
        if self.layers < 2:
            raise ValueError(f"The layer before the last is wanted, but there are {self.layers}.")

    @property
    def tokens(self) -> int:
        """Patches, and one for the whole."""
        return (self.side // self.patch) ** 2 + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEncoder:
    """The tower without its last layer; `notes` say what of the file was left unread."""

    tower: nn.Module
    side: int = 224
    notes: tuple[str, ...] = ()

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """uint8 [H, W, 3] -> [1, tokens, dim] in the weights' type and on their device."""
        weight = next(self.tower.parameters())
        pixels = preprocess(image.to(weight.device), self.side)
        return self.tower(pixel_values=pixels.to(weight.dtype)).last_hidden_state


def preprocess(image: Tensor, side: int = 224) -> Tensor:
    """uint8 [H, W, 3] -> float [1, 3, side, side] as the reference does it: bicubic without smoothing, by channel
    statistics; values that the filter drives out of range stay.

    Raises ValueError for anything but a picture of three channels.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(
            f"An image must be uint8 [H, W, 3], not {str(image.dtype).removeprefix('torch.')} {list(image.shape)}."
        )
    pixels = image.permute(2, 0, 1)[None].float() / 127.5 - 1
    pixels = F.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False) * 0.5 + 0.5
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return (pixels - mean) / std


def build_image_tower(config: ImageConfig) -> nn.Module:
    """The layers but the last, under the names that `transformers` gives them inside its vision model."""
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModel
    except ImportError as error:
        raise ValueError(
            "Looking at a picture needs the package transformers >= 5.23: install pasdedeux[wan]."
        ) from error

    sizes = CLIPVisionConfig(
        hidden_size=config.dim,
        intermediate_size=config.hidden,
        num_hidden_layers=config.layers - 1,
        num_attention_heads=config.heads,
        image_size=config.side,
        patch_size=config.patch,
        hidden_act=config.activation,
        layer_norm_eps=config.eps,
    )
    tower = CLIPVisionModel(sizes)
    # In no file, so it must have its values even where the weights have none yet.
    positions = torch.arange(config.tokens, device="cpu").expand(1, -1)
    tower.get_submodule("embeddings").register_buffer("position_ids", positions, persistent=False)
    return tower
