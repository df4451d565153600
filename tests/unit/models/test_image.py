"""The image encoder's own part: the picture's way in, and its sizes."""

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from pasdedeux.models.image import ImageConfig, ImageEncoder, build_image_tower, preprocess

TINY = ImageConfig(dim=16, hidden=24, layers=3, heads=4, patch=4, side=16)

MEAN, STD = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])


def picture(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_the_full_size_lacks_only_the_last_layer() -> None:
    config = ImageConfig()
    with torch.device("meta"):
        tower = build_image_tower(config)
    layer = 4 * config.dim * (config.dim + 1) + 2 * config.dim * config.hidden + config.hidden + config.dim
    layer += 4 * config.dim
    head = config.dim * 1024
    assert config.tokens == 257
    assert sum(p.numel() for p in tower.parameters()) + layer + head == 632_076_800


def test_there_is_a_row_per_patch_and_one_for_the_whole() -> None:
    encoder = ImageEncoder(tower=build_image_tower(TINY).eval(), side=TINY.side)
    assert encoder.encode(picture(40, 23)).shape == (1, 17, TINY.dim)


def test_one_colour_stays_one_colour_whatever_the_size() -> None:
    grey = torch.full((30, 50, 3), 102, dtype=torch.uint8)
    pixels = preprocess(grey, 224)
    assert pixels.shape == (1, 3, 224, 224)
    wanted = (0.4 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    torch.testing.assert_close(pixels.mean((0, 2, 3)), wanted, atol=1e-5, rtol=0)
    assert float(pixels.std((2, 3)).max()) < 1e-5


def test_a_wide_picture_is_squeezed_and_keeps_its_edges() -> None:
    wide = torch.zeros(32, 128, 3, dtype=torch.uint8)
    wide[:, :32] = 255
    pixels = preprocess(wide, 32)[0, 0]
    assert float(pixels[:, :7].min()) > 1.5
    assert float(pixels[:, 9:].max()) < -1.5


def test_a_picture_of_the_right_size_is_not_resampled() -> None:
    image = picture(16, 16)
    again = preprocess(image, 16)[0] * STD.view(3, 1, 1)
    again += MEAN.view(3, 1, 1)
    torch.testing.assert_close(again.permute(1, 2, 0) * 255, image.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("image", [torch.zeros(4, 4, 3), torch.zeros(4, 4, 4, dtype=torch.uint8)])
def test_anything_but_a_picture_is_refused(image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\]"):
        preprocess(image)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"heads": 3}, "cannot be shared by 3 heads"),
        ({"side": 18}, "18 pixels is no whole number of patches"),
        ({"layers": 1}, "layer before the last"),
        ({"activation": "relu"}, "gelu or quick_gelu, not 'relu'"),
    ],
)
def test_sizes_must_fit_one_another(change: dict[str, Any], says: str) -> None:
    sizes: dict[str, Any] = {"dim": 16, "hidden": 24, "layers": 3, "heads": 4, "patch": 4, "side": 16}
    with pytest.raises(ValueError, match=says):
        ImageConfig(**(sizes | change))
