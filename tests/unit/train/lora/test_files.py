"""Exports: each, read back, gives the same merged weights and the same clips; diffusers names what diffusers names."""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pasdedeux.checkpoints.bundle import ExpertWeights, find_bundle
from pasdedeux.checkpoints.folder import read_manifest
from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors
from pasdedeux.checkpoints.lora import merge, read_lora
from pasdedeux.checkpoints.lora.base import base_hash
from pasdedeux.engine import Engine, Job
from pasdedeux.models.duet import DuetTransformer
from pasdedeux.models.wan import build_wan
from pasdedeux.train.bands import Band
from pasdedeux.train.lora.files import FORMS, Layer, Trained, in_form, trained, write_lora
from pasdedeux.train.lora.layers import Shape
from pasdedeux.train.lora.learner import Course, LoraLearner
from pasdedeux.train.lora.subject import Draw, Lesson

FAMILIES = (
    "wan2.2-t2v-a14b",
    "wan2.1-i2v-14b",
    "wan2.2-animate-14b",
    "wan2.2-vace-fun-a14b",
    "wan2.2-fun-a14b-control",
)


class OneExpert:
    """A module that is tuned, and nothing to learn from."""

    batch, held = 1, 0
    bands = (Band(low=0.0, high=0.875, shift=12.0),)

    def __init__(self, name: str, module: torch.nn.Module) -> None:
        self.names, self._module = (name,), module

    def on(self, device: str) -> "OneExpert":
        return self

    def opened(self, position: int, passes: Sequence[bool]) -> AbstractContextManager[torch.nn.Module]:
        return nullcontext(self._module)

    def base(self, position: int) -> str:
        return "abc"

    def lesson(self, draw: Draw) -> Lesson:
        raise NotImplementedError

    def loss(self, module: torch.nn.Module, lesson: Lesson) -> torch.Tensor:
        raise NotImplementedError

    def differences(self, position: int) -> dict[str, torch.Tensor]:
        return {}


def learnt(module: torch.nn.Module, name: str = "low", targets: str = "all") -> Trained:
    """As if something had been learnt: random halves, alpha unlike rank."""
    course = Course(shape=Shape(rank=3, alpha=1.5, targets=targets))
    learner = LoraLearner(OneExpert(name, module), 0, course, 0)
    draw = torch.Generator().manual_seed(4)
    ups = [average for average, half in zip(learner.average, learner.names, strict=True) if half.endswith(".up")]
    for average in ups:
        average.copy_(torch.randn(average.shape, generator=draw) * 0.1)
    learner.step_number = 7
    return trained(learner, learner.averaged(), 3, "a model")


def expected(expert: ExpertWeights, result: Trained) -> dict[str, torch.Tensor]:
    """W + alpha / rank * B A, written out."""
    weights = {name: tensor.read().double() for name, tensor in expert.weights.items()}
    for name, layer in result.layers.items():
        change = layer.alpha / layer.rank * layer.up.flatten(1).double() @ layer.down.flatten(1).double()
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + change.view_as(weights[f"{name}.weight"])
    return weights


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_read_back_it_gives_the_same_weights(
    family: str, form: str, wan_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    expert = find_bundle(wan_folders(family)).experts[-1]
    result = learnt(build_wan(expert.config))
    path = write_lora(tmp_path / "x.safetensors", result, expert.weights.shapes, form)
    read = read_lora(open_weights(path), expert.weights.shapes)
    assert (read.unmatched, read.expert, read.without_alpha) == ((), "low", ())
    assert read.alphas
    merged = merge(expert.weights, [(read, 1.0)]).weights
    for name, wanted in expected(expert, result).items():
        torch.testing.assert_close(merged[name].read().double(), wanted, rtol=1e-5, atol=1e-6)
    said = open_weights(path).metadata
    assert said["wan.expert"] == "low"
    assert json.loads(said["pasdedeux.band"]) == {"low": 0.0, "high": 0.875, "shift": 12.0}
    assert (said["ss_network_dim"], said["ss_network_alpha"], said["pasdedeux.base"]) == ("3", "1.5", "abc")


@pytest.mark.parametrize("form", ["comfyui", "kohya"])
def test_alpha_stands_beside_every_layer(form: str, wan_folders: Callable[[str], Path]) -> None:
    expert = find_bundle(wan_folders(FAMILIES[0])).experts[0]
    result = learnt(build_wan(expert.config))
    tensors, _ = in_form(result, form, expert.weights.shapes)
    assert sum(name.endswith(".alpha") for name in tensors) == len(result.layers) > 20


def test_diffusers_reads_comfyuis_form_as_it_reads_its_own(wan_folders: Callable[[str], Path]) -> None:
    utils = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    expert = find_bundle(wan_folders(FAMILIES[0])).experts[0]
    result = learnt(build_wan(expert.config), targets="attention,feedforward")
    given = {name: tensor.clone() for name, tensor in in_form(result, "comfyui", {})[0].items()}  # it changes them
    theirs = utils._convert_non_diffusers_wan_lora_to_diffusers(given)
    ours, metadata = in_form(result, "diffusers", expert.weights.shapes)
    assert set(theirs) == set(ours)
    for name in (key for key in ours if key.endswith("lora_A.weight")):
        up = name.replace("lora_A", "lora_B")
        torch.testing.assert_close(theirs[up] @ theirs[name], ours[up] @ ours[name], rtol=1e-5, atol=1e-7)
    said = json.loads(metadata["lora_adapter_metadata"])
    assert said["transformer.r"] == said["transformer.lora_alpha"] == 3


def test_peft_computes_the_same(wan_folders: Callable[[str], Path]) -> None:
    peft = pytest.importorskip("peft")
    expert = find_bundle(wan_folders(FAMILIES[0])).experts[0]
    net = build_wan(expert.config)
    result = learnt(net, targets="attention")
    layer = "blocks.0.self_attn.q"
    config = peft.LoraConfig(r=3, lora_alpha=1.5, target_modules=list(result.layers))
    wrapped = peft.inject_adapter_in_model(config, net)
    state = {
        f"{name}.{half}.weight": value
        for name, it in result.layers.items()
        for half, value in (("lora_A", it.down), ("lora_B", it.up))
    }
    assert not peft.set_peft_model_state_dict(wrapped, state).unexpected_keys
    x, it = torch.randn(2, net.config.dim), result.layers[layer]
    base = net.get_submodule(layer).base_layer(x)
    torch.testing.assert_close(net.get_submodule(layer)(x), base + it.alpha / it.rank * x @ it.down.T @ it.up.T)


def test_the_base_is_known_again(wan_folders: Callable[[str], Path], tmp_path: Path) -> None:
    high, low = find_bundle(wan_folders(FAMILIES[0])).experts
    assert base_hash(high.weights) != base_hash(low.weights)
    copy = tmp_path / "copy.safetensors"
    save_file(load_file(next(iter(high.weights.paths))), copy)
    assert base_hash(open_safetensors(copy)) == base_hash(high.weights)


@pytest.fixture
def changes(tiny: Path) -> Trained:
    """Something learnt by the high expert of the tiny built-in-style pair, a deviation in full among it."""
    manifest = read_manifest(tiny)
    result = learnt(DuetTransformer(manifest.model), name="high")
    return Trained(
        expert="high",
        layers={**result.layers, "head.first": Layer(down=torch.ones(2, 8), up=torch.ones(16, 2) * 0.1, alpha=1.0)},
        differences={"spread": torch.full((3, 16), 0.5)},
        metadata=result.metadata,
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_built_in_pair_takes_each_form(form: str, tiny: Path, changes: Trained, tmp_path: Path) -> None:
    shapes = open_safetensors(tiny / "high.safetensors").shapes
    path = write_lora(tmp_path / f"{form}.safetensors", changes, shapes, form)
    reference = write_lora(tmp_path / "reference.safetensors", changes, shapes, "comfyui")
    job = {"character": "puppet:7", "driver": "puppet:8", "frames": 5, "steps": 2}
    with Engine.open(tiny, device="cpu") as engine:
        plain = engine.run(Job.animate(**job))
        mine = engine.run(Job.animate(**job, lora=(str(path),)))
        theirs = engine.run(Job.animate(**job, lora=(str(reference),)))
        again = engine.run(Job.animate(**job))
    assert (plain.frames != mine.frames).any()
    assert np.abs(mine.frames.astype(int) - theirs.frames).max() <= 1
    assert (plain.frames == again.frames).all()


def test_a_name_means_the_files_beside_the_model(tiny: Path, changes: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    shapes = open_safetensors(tiny / "high.safetensors").shapes
    path = write_lora(folder / "night_high_noise.safetensors", changes, shapes)
    job = {"frames": 5, "steps": 2}
    with Engine.open(folder, device="cpu") as engine:
        named = engine.run(Job.animate(**job, lora=("night",)))
        given = engine.run(Job.animate(**job, lora=(str(path),)))
        with pytest.raises(ValueError, match="dusk"):
            engine.run(Job.animate(**job, lora=("dusk",)))
        with pytest.raises(ValueError, match="night"):
            engine.run(Job.animate(**job, lora=("low:night",)))
    assert (named.frames == given.frames).all()


def test_a_lora_of_another_model_is_refused_in_a_sentence(
    tiny: Path, wan_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    expert = find_bundle(wan_folders(FAMILIES[0])).experts[0]
    path = write_lora(tmp_path / "x.safetensors", learnt(build_wan(expert.config)), expert.weights.shapes)
    with Engine.open(tiny, device="cpu") as engine, pytest.raises(ValueError, match="does not fit the model"):
        engine.run(Job.animate(frames=5, lora=(str(path),)))
