"""Every row of the model table has the tensors of the released checkpoint: names, shapes and counts."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from pasdedeux.models.wan import WAN_MODELS, AnimateConfig, WanAnimateTransformer, WanConfig, WanTransformer

STATE_DICTS = Path(__file__).parents[3] / "../shared/notes/state_dicts"

# name: tensors, values, sha256 of the sorted lines "name shape", all from the lists of the released models.
# Wan-Animate's values are 17,274,816,884 parameters and 14 blur kernels of 4x4.
FINGERPRINTS = {
    "wan2.2-t2v-a14b": (
        1095,
        14_288_491_584,
        "7ca52b13faf083dcb17dd2de5b34a0ec72db782ec816192b9c40543a40ae3186",
    ),
    "wan2.2-i2v-a14b": (
        1095,
        14_288_901_184,
        "9dc5a4e7268a050f3708609791596e50ae93d7324592636d21090c51cb71baec",
    ),
    "wan2.2-ti2v-5b": (
        825,
        4_999_787_712,
        "e6aa5b3ad491053717cbb3af607b9d9e6e22e91bb0ae32a0c41eaeccba85787b",
    ),
    "wan2.2-animate-14b": (
        1441,
        17_274_817_108,
        "16b8b5c2c70523c3d46ce1651da24847704816f05d8aff1ea5ee714190c3d05d",
    ),
}


def shapes(name: str) -> dict[str, list[int]]:
    config = WAN_MODELS[name]
    with torch.device("meta"):
        model = WanAnimateTransformer(config) if isinstance(config, AnimateConfig) else WanTransformer(config)
    return {key: list(tensor.shape) for key, tensor in model.state_dict().items()}


def fingerprint(table: dict[str, list[int]]) -> tuple[int, int, str]:
    lines = "\n".join(sorted(f"{key} {shape}" for key, shape in table.items()))
    values = sum(int(torch.tensor(shape).prod()) for shape in table.values())
    return len(table), values, hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_tensors_are_those_of_the_released_checkpoint(name: str) -> None:
    assert fingerprint(shapes(name)) == FINGERPRINTS[name]


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_names_and_shapes_against_the_full_list(name: str) -> None:
    path = STATE_DICTS / f"{name}.native.json"
    if not path.exists():
        pytest.skip("the full lists are not beside this checkout")
    assert shapes(name) == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("wan2.1-t2v-1.3b", 1_418_996_800),
        ("wan2.1-t2v-14b", 14_288_491_584),
        ("wan2.1-i2v-14b", 16_394_878_784),
    ],
)
def test_sizes_of_wan21(name: str, values: int) -> None:
    assert fingerprint(shapes(name))[1] == values


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="dim 50 must be 4 heads"):
        WanConfig(dim=50, heads=4)
