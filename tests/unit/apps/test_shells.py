"""The options of `train pair` and `evaluate` as what they become."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pasdedeux.apps.evaluating import arms
from pasdedeux.apps.training import PairOptions, manifest_of, pair_config
from pasdedeux.checkpoints.folder import Manifest
from pasdedeux.engine import open_model
from pasdedeux.train.pair import PairConfig


def test_options_left_open_are_the_configurations_own() -> None:
    assert pair_config(PairOptions()) == PairConfig()


def test_options_reach_the_configuration() -> None:
    config = pair_config(PairOptions(clips=64, steps=10, branch_steps=5, seed=2))
    assert (config.clips, config.trunk.steps, config.branch.steps, config.branch.cooldown) == (64, 10, 5, 5)
    assert {config.seed, config.trunk.seed, config.branch.seed} == {2}
    assert config.trunk.device == config.branch.device == "cpu"


def test_a_trained_folder_becomes_a_model_folder() -> None:
    config = PairConfig()
    manifest = manifest_of(config)
    assert [expert.file for expert in manifest.experts] == ["high.safetensors", "low.safetensors"]
    assert manifest.bounds == config.bounds
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("experts", "names"),
    [
        (1, ["1 experts"]),
        (2, ["pair", "swapped", "high alone", "low alone"]),
        (3, ["3 experts", "swapped", "expert0 alone", "expert1 alone", "expert2 alone"]),
    ],
)
def test_what_a_model_is_judged_beside(
    tmp_path: Path, make_tiny: Callable[[Path, int], Manifest], experts: int, names: list[str]
) -> None:
    make_tiny(tmp_path, experts)
    judged = arms(open_model(str(tmp_path), "cpu"))
    assert [name for name, _, _ in judged] == names
    first = next(tmp_path.glob("[eh]*.safetensors"))
    (tmp_path / "dense.safetensors").write_bytes(first.read_bytes())
    assert [name for name, _, _ in arms(open_model(str(tmp_path), "cpu"))] == [*names, "dense"]
