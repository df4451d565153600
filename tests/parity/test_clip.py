"""The image encoder against its formulas, against transformers and against the pipelines of diffusers, float32."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pasdedeux.checkpoints.encoders import load_image_encoder
from pasdedeux.models.image import preprocess

transformers = pytest.importorskip("transformers")
pipeline = pytest.importorskip("diffusers.pipelines.wan.pipeline_wan_i2v")

TOLERANCE = 2e-5
DIM, HEADS, HIDDEN, LAYERS, PATCH, SIDE = 32, 16, 48, 4, 7, 28  # the native model has 16 heads, whatever its width


def native_weights() -> dict[str, Tensor]:
    torch.manual_seed(7)
    weights = {
        "visual.cls_embedding": torch.randn(1, 1, DIM),
        "visual.pos_embedding": torch.randn(1, (SIDE // PATCH) ** 2 + 1, DIM),
        "visual.patch_embedding.weight": torch.randn(DIM, 3, PATCH, PATCH) / 9,
        "visual.head": torch.randn(DIM, 8),
        "log_scale": torch.tensor(2.6),
        "textual.token_embedding.weight": torch.randn(4, 4),
    }
    norms = ["visual.pre_norm", "visual.post_norm"]
    for block in (f"visual.transformer.{i}." for i in range(LAYERS)):
        norms += [block + "norm1", block + "norm2"]
        sizes = {"attn.to_qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM), "mlp.0": (HIDDEN, DIM), "mlp.2": (DIM, HIDDEN)}
        for name, (rows, columns) in sizes.items():
            weights[f"{block}{name}.weight"] = torch.randn(rows, columns) / math.sqrt(columns)
            weights[f"{block}{name}.bias"] = torch.randn(rows) / 5
    for name in norms:
        weights |= {name + ".weight": 1 + torch.randn(DIM) / 5, name + ".bias": torch.randn(DIM) / 5}
    return weights


def by_formula(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """A vision transformer with its norms in front, up to the last layer but one."""

    def norm(x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * weights[f"visual.{name}.weight"] + weights[f"visual.{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"visual.{name}.weight"].T + weights[f"visual.{name}.bias"]

    count = SIDE // PATCH
    patches = pixels.view(3, count, PATCH, count, PATCH).permute(1, 3, 0, 2, 4).reshape(count**2, -1)
    x = patches @ weights["visual.patch_embedding.weight"].flatten(1).T
    x = torch.cat((weights["visual.cls_embedding"][0], x)) + weights["visual.pos_embedding"][0]
    x = norm(x, "pre_norm")
    for block in (f"transformer.{i}." for i in range(LAYERS - 1)):
        parts = linear(norm(x, block + "norm1"), block + "attn.to_qkv").view(-1, 3, HEADS, DIM // HEADS)
        q, k, v = parts.permute(1, 2, 0, 3)
        seen = (q @ k.transpose(1, 2) / math.sqrt(DIM // HEADS)).softmax(-1) @ v
        x = x + linear(seen.transpose(0, 1).flatten(1), block + "attn.proj")
        h = linear(norm(x, block + "norm2"), block + "mlp.0")
        x = x + linear(h * (1 + torch.erf(h / math.sqrt(2))) / 2, block + "mlp.2")
    return x


def picture(height: int, width: int) -> Tensor:
    """A smooth picture with an edge: what resampling treats differently, but not noise."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    drawn = torch.stack((rows, columns, ((rows - 0.4) ** 2 + (columns - 0.6) ** 2 < 0.05).float()), -1)
    return (drawn * 255).round().to(torch.uint8)


def largest(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, in units of the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_the_native_file_gives_what_the_formulas_say(tmp_path: Path) -> None:
    weights, image = native_weights(), picture(50, 70)
    torch.save(weights, tmp_path / "clip.pth")
    found = load_image_encoder(tmp_path / "clip.pth", dtype=torch.float32).encode(image)
    assert found.shape == (1, 17, DIM)
    assert largest(found[0], by_formula(weights, preprocess(image, SIDE)[0])) < TOLERANCE


@pytest.fixture
def reference(tmp_path: Path) -> torch.nn.Module:
    torch.manual_seed(8)
    config = transformers.CLIPVisionConfig(
        hidden_size=DIM,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    model = transformers.CLIPVisionModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "image_encoder")
    return model


def encode_image(model: torch.nn.Module, image: Image.Image) -> Tensor:
    """What the pipelines of diffusers do with a picture."""
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    stand_in = SimpleNamespace(
        image_processor=processor, image_encoder=model, _execution_device=torch.device("cpu"), device="cpu"
    )
    with torch.no_grad():
        return pipeline.WanImageToVideoPipeline.encode_image(stand_in, image)


def test_a_picture_that_needs_no_resampling_gives_what_diffusers_gives(
    tmp_path: Path, reference: torch.nn.Module
) -> None:
    image = picture(SIDE, SIDE)
    encoder = load_image_encoder(tmp_path / "image_encoder", dtype=torch.float32)
    wanted = encode_image(reference, Image.fromarray(np.asarray(image)))
    assert largest(encoder.encode(image), wanted) < TOLERANCE


def test_the_features_are_the_last_but_one_of_transformers(tmp_path: Path, reference: torch.nn.Module) -> None:
    image = picture(33, 90)
    encoder = load_image_encoder(tmp_path / "image_encoder", dtype=torch.float32)
    with torch.no_grad():
        states = reference(pixel_values=preprocess(image, SIDE), output_hidden_states=True).hidden_states
    assert len(states) == LAYERS + 1
    assert largest(encoder.encode(image), states[-2]) < TOLERANCE


def test_where_diffusers_crops_the_native_way_squeezes() -> None:
    """On purpose not what diffusers does: its processor keeps the aspect and cuts the sides off, and smooths."""
    wide = picture(224, 448)
    processor = transformers.CLIPImageProcessorPil()
    cropped = torch.tensor(np.stack(processor(Image.fromarray(np.asarray(wide)))["pixel_values"]))
    ours = preprocess(wide, 224)
    assert cropped.shape == ours.shape
    ramp, cut = ours[0, 1].mean(0), cropped[0, 1].mean(0)  # the green channel grows from left to right
    whole = 1 / 0.26130258
    assert float(ramp[-1] - ramp[0]) == pytest.approx(whole, abs=0.03)
    assert float(cut[-1] - cut[0]) == pytest.approx(whole / 2, abs=0.03)


def test_the_way_in_is_the_native_one() -> None:
    """Bicubic by the formula (a = -0.75, no smoothing), on values in [-1, 1], at pixel centres."""
    image = picture(40, 30)
    found = preprocess(image, 16)[0, 2]
    values = image[..., 2].double() / 127.5 - 1
    wanted = weights_1d(40, 16) @ values @ weights_1d(30, 16).T
    wanted = (wanted * 0.5 + 0.5 - 0.40821073) / 0.27577711
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)


def weights_1d(size: int, wanted: int) -> Tensor:
    def kernel(t: float, a: float = -0.75) -> float:
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    weights = torch.zeros(wanted, size, dtype=torch.float64)
    for i in range(wanted):
        at = (i + 0.5) * size / wanted - 0.5
        for j in range(math.floor(at) - 1, math.floor(at) + 3):
            weights[i, min(max(j, 0), size - 1)] += kernel(at - j)
    return weights
