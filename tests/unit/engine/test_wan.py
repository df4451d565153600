"""Jobs with Wan models of every family, from a native folder to frames."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pasdedeux.animate.images import save_png
from pasdedeux.animate.perform import Denoised
from pasdedeux.engine import Engine, Event, Job, Loading, Parts, Result

Folders = Callable[[str], Path]
GENERATED = {"wan2.2-t2v-a14b": 2, "wan2.2-i2v-a14b": 2, "wan2.2-ti2v-5b": 1, "wan2.1-i2v-14b": 1}
DRIVEN = {"wan2.2-animate-14b": 1, "wan2.2-vace-fun-a14b": 2, "wan2.2-fun-a14b-control": 2}
FILE = "diffusion_pytorch_model.safetensors"
SMALL = {"steps": 4, "size": "64x64"}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(folder: Path, job: Job, **parts: object) -> tuple[Result, list[Event]]:
    events: list[Event] = []
    with Engine.open(folder, "cpu", Parts(dtype="float32", **parts)) as engine:
        return engine.run(job, events.append), events


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 255, (80, 64, 3), np.uint8)
    save_png(tmp_path / "picture.png", image, {})
    return tmp_path / "picture.png"


@pytest.mark.parametrize(("family", "experts"), GENERATED.items())
def test_a_clip_of_a_prompt(wan_folders: Folders, picture: Path, family: str, experts: int) -> None:
    image = None if "t2v" in family and "ti2v" not in family else picture
    made, events = run(wan_folders(family), Job.generate("a cat", image=image, frames=5, **SMALL))
    assert made.frames.shape == (5, 64, 64, 3)
    assert made.frames.std() > 1
    assert len(made.report.experts) == experts
    assert {step.expert for step in made.report.steps} == set(made.report.experts)
    loaded = [event.what for event in events if isinstance(event, Loading)]
    assert "the text encoder" in loaded
    assert ("CLIP" in loaded) == (family == "wan2.1-i2v-14b")
    assert loaded.index("the video autoencoder") < min(
        i for i, what in enumerate(loaded) if what.endswith(("expert", "model"))
    )


@pytest.mark.parametrize("mode", ["animate", "replace"])
@pytest.mark.parametrize(("family", "experts"), DRIVEN.items())
def test_a_character_is_animated(wan_folders: Folders, family: str, experts: int, mode: str) -> None:
    job = Job(character="puppet:3", driver="puppet:4", mode=mode, frames=6, prompt="a dance", **SMALL)
    made, _ = run(wan_folders(family), job)
    assert made.frames.shape == (6, 64, 64, 3)
    assert len(made.report.experts) == experts
    assert made.report.segments == 1
    assert made.fps == (30 if "animate" in family else 16)


def test_the_boundary_and_the_defaults_are_the_familys(wan_folders: Folders) -> None:
    with Engine.open(wan_folders("wan2.2-t2v-a14b"), "cpu") as engine:
        defaults = engine.model.defaults
        assert (defaults.steps, defaults.shift, defaults.solver, defaults.bounds) == (40, 12, "unipc", (0.875,))
        assert (defaults.guidance, defaults.length, defaults.fps) == ((4.0, 3.0), 81, 16)
        settings = engine.model.settle(Job.generate("a"))
        steps = [settings.handoff.owner(sigma) for sigma in settings.sigmas[:-1]]
        assert (steps.count(0), steps.count(1)) == (26, 14)  # as the reference's own schedule has it


def test_words_and_experts_matter(wan_folders: Folders) -> None:
    folder = wan_folders("wan2.2-t2v-a14b")
    job = {"frames": 1, "guidance": "2,1", **SMALL}
    first, _ = run(folder, Job.generate("a cat", **job))
    again, events = run(folder, Job.generate("a cat", **job))
    assert np.array_equal(first.frames, again.frames)
    assert not [e for e in events if isinstance(e, Loading) and "text" in e.what]  # cached
    for other in (
        Job.generate("a hen", **job),
        Job.generate("a cat", negative="b", **job),
        Job.generate("a cat", **{**job, "guidance": "1"}),
        Job.generate("a cat", handoff="0.999", **job),
    ):
        assert not np.array_equal(run(folder, other)[0].frames, first.frames), other


def test_an_expert_alone_denoises_from_beginning_to_end(wan_folders: Folders) -> None:
    folder = wan_folders("wan2.2-t2v-a14b")
    weights = folder / "high_noise_model" / "diffusion_pytorch_model.safetensors"
    parts = Parts(
        high=weights,
        vae=folder / "Wan2.1_VAE.pth",
        text=folder / "models_t5_umt5-xxl-enc-bf16.pth",
        tokenizer=folder / "google/umt5-xxl",
        family="wan2.2-t2v-a14b",
        dtype="float32",
    )
    with Engine.open(None, "cpu", parts) as engine:
        made = engine.run(Job.generate("a cat", frames=1, **SMALL))
    assert len(made.report.experts) == 1
    assert any("denoises alone" in note for note in made.report.notes)


def test_what_lacks_is_asked_for(wan_folders: Folders) -> None:
    folder = wan_folders("wan2.2-t2v-a14b")
    weights = folder / "high_noise_model" / "diffusion_pytorch_model.safetensors"
    with Engine.open(None, "cpu", Parts(high=weights)) as engine, pytest.raises(ValueError, match="--text"):
        engine.run(Job.generate("a cat"))


def test_a_lora_changes_the_clip_by_its_weight(wan_folders: Folders, tmp_path: Path) -> None:
    folder = wan_folders("wan2.2-t2v-a14b")
    layer = "diffusion_model.blocks.0.self_attn.q"
    lora = {f"{layer}.lora_A.weight": drawn(0, 2, 128), f"{layer}.lora_B.weight": drawn(1, 128, 2)}
    save_file(lora, tmp_path / "style.safetensors")
    job = {"frames": 1, "guidance": "1", **SMALL}
    plain, _ = run(folder, Job.generate("a", **job))
    both, _ = run(folder, Job.generate("a", lora=(str(tmp_path / "style.safetensors"),), **job))
    none, _ = run(folder, Job.generate("a", lora=(f"{tmp_path / 'style.safetensors'}@0",), **job))
    low, _ = run(folder, Job.generate("a", lora=(f"low:{tmp_path / 'style.safetensors'}",), **job))
    assert np.array_equal(none.frames, plain.frames)
    assert not np.array_equal(both.frames, plain.frames)
    assert not np.array_equal(low.frames, both.frames)
    save_file({"diffusion_model.blocks.9.self_attn.q.lora_A.weight": drawn(0, 2, 128)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="has a place in this model"):
        run(folder, Job.generate("a", lora=(str(tmp_path / "other.safetensors"),), **job))


def test_a_distilled_pair_brings_its_settings(wan_folders: Folders, tmp_path: Path) -> None:
    layer = "diffusion_model.blocks.0.self_attn.q"
    files = []
    for expert in ("high", "low"):
        files.append(tmp_path / f"wan2.2_t2v_lightx2v_4steps_lora_v1.1_{expert}_noise.safetensors")
        save_file({f"{layer}.lora_A.weight": drawn(0, 2, 128), f"{layer}.lora_B.weight": drawn(1, 128, 2)}, files[-1])
    job = Job.generate("a", lora=tuple(map(str, files)), frames=1, size="64x64")
    made, events = run(wan_folders("wan2.2-t2v-a14b"), job)
    sigmas = [event.step.sigma for event in events if isinstance(event, Denoised)]
    assert sigmas == pytest.approx([1, 0.9375, 0.8333, 0.625], abs=1e-4)
    assert made.report.settings["guidance"] == [1, 1]
    assert made.report.settings["solver"] == "euler"
    assert any("high" in note for note in made.report.notes)


def test_replacing_uses_the_relighting_lora(wan_folders: Folders, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wan_folders("wan2.2-animate-14b"), tmp_path / "model"))
    lora = {
        f"blocks.{i}.self_attn.q.lora_{half}.default.weight": drawn(i, *shape)
        for i in range(2)
        for half, shape in (("A", (2, 128)), ("B", (128, 2)))
    }
    job = {"character": "puppet:3", "driver": "puppet:4", "frames": 5, **SMALL}
    absent, _ = run(folder, Job.replace(**job))
    assert any("no relighting LoRA" in note for note in absent.report.notes)
    torch.save({"state_dict": lora}, folder / "relighting_lora.ckpt")
    with_it, _ = run(folder, Job.replace(**job))
    without, _ = run(folder, Job.replace(**job, lora=(f"{folder / 'relighting_lora.ckpt'}@0",)))
    own_place, _ = run(folder, Job.animate(**job))
    assert any("leaves it out" in note for note in with_it.report.notes)
    assert not np.array_equal(with_it.frames, without.frames)
    assert not any("relighting" in note for note in own_place.report.notes)


@pytest.mark.parametrize(
    ("family", "job", "said"),
    [
        ("wan2.2-t2v-a14b", Job.animate(), "makes clips of a prompt"),
        ("wan2.2-animate-14b", Job.generate("a"), "use animate, not generate"),
        ("wan2.2-t2v-a14b", Job(mode="generate"), "needs a prompt"),
        ("wan2.2-i2v-a14b", Job.generate("a"), "--image"),
        ("wan2.2-t2v-a14b", Job.generate("a", image="x.png"), "takes no picture"),
        ("wan2.2-t2v-a14b", Job.generate("a", frames=80), "81 is the nearest"),
        ("wan2.2-t2v-a14b", Job.generate("a", guidance="1,2,3"), "2 experts"),
        ("wan2.2-t2v-a14b", Job.generate("a", size="100x64"), "multiple of 16"),
        ("wan2.2-ti2v-5b", Job.generate("a", size="80x64"), "multiple of 32"),
        ("wan2.2-t2v-a14b", Job.generate("a", preset="fast"), "no preset"),
    ],
)
def test_what_a_family_cannot_do(wan_folders: Folders, family: str, job: Job, said: str) -> None:
    with Engine.open(wan_folders(family), "cpu") as engine, pytest.raises(ValueError, match=said):
        engine.run(job)


def test_swapped_experts_are_refused(wan_folders: Folders) -> None:
    folder = wan_folders("wan2.2-t2v-a14b")
    high, low = (folder / f"{name}_noise_model/diffusion_pytorch_model.safetensors" for name in ("high", "low"))
    with pytest.raises(ValueError, match="wrong way round"):
        Engine.open(None, "cpu", Parts(high=low, low=high))


def test_the_shape_is_the_pictures(wan_folders: Folders, picture: Path) -> None:
    with Engine.open(wan_folders("wan2.2-i2v-a14b"), "cpu") as engine:
        size = engine.model.settle(Job.generate("a", image=picture)).size
    assert size == (560, 704)  # of 64x80, about 832x480 pixels, multiples of 16


def test_weights_are_what_runs(wan_folders: Folders, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wan_folders("wan2.2-t2v-a14b"), tmp_path / "wan2.2-t2v-a14b"))
    path, job = folder / "high_noise_model" / FILE, Job.generate("a", frames=1, guidance="1", **SMALL)
    before, _ = run(folder, job)
    tensors = load_file(path)
    tensors["head.head.bias"] = tensors["head.head.bias"] + 1
    path.unlink()  # not written over: the first run may still have it mapped
    save_file(tensors, path)
    after, _ = run(folder, job)
    assert not np.array_equal(before.frames, after.frames)


def test_jobs_of_one_engine_do_not_leave_their_loras_behind(wan_folders: Folders, tmp_path: Path) -> None:
    layer, path = "diffusion_model.blocks.0.self_attn.q", tmp_path / "style.safetensors"
    halves = {f"{layer}.lora_A.weight": drawn(0, 2, 128), f"{layer}.lora_B.weight": drawn(1, 128, 2)}
    save_file(halves, path)
    job = {"frames": 1, "guidance": "1", **SMALL}
    plain, styled = Job.generate("a", **job), Job.generate("a", lora=(str(path),), **job)
    with Engine.open(wan_folders("wan2.2-t2v-a14b"), "cpu", Parts(dtype="float32")) as engine:
        first, second, third = (engine.run(one).frames for one in (plain, styled, plain))
        assert np.array_equal(first, third)
        assert not np.array_equal(first, second)
        path.unlink()
        save_file({**halves, f"{layer}.lora_B.weight": -drawn(1, 128, 2)}, path)
        again = engine.run(styled)
    assert not np.array_equal(again.frames, second)
    assert any("all of its 2 keys have a place" in note for note in again.report.notes)


@pytest.mark.parametrize("family", DRIVEN)
@pytest.mark.parametrize("frames", [1, 4, 5])
def test_a_short_performance_is_one_segment(wan_folders: Folders, family: str, frames: int) -> None:
    job = Job.animate(character="puppet:3", driver="puppet:4", frames=frames, prompt="a", steps=1, size="64x64")
    made, _ = run(wan_folders(family), job)
    assert (len(made.frames), made.report.segments) == (frames, 1)


def test_a_long_performance_is_chained(wan_folders: Folders) -> None:
    job = Job.animate(character="puppet:3", driver="puppet:4", frames=79, prompt="a", steps=1, size="64x64")
    made, events = run(wan_folders("wan2.2-animate-14b"), job)
    assert (len(made.frames), made.report.segments) == (79, 2)
    assert {event.segment for event in events if isinstance(event, Denoised)} == {0, 1}


def test_a_vae_of_the_other_kind_is_refused(wan_folders: Folders) -> None:
    other = wan_folders("wan2.2-ti2v-5b") / "Wan2.2_VAE.pth"
    with pytest.raises(ValueError, match=r"is the VAE of Wan 2.2; wan2.2-t2v-a14b needs wan2.1's"):
        run(wan_folders("wan2.2-t2v-a14b"), Job.generate("a", frames=1, **SMALL), vae=other)


def test_a_low_noise_expert_alone_keeps_its_guidance(wan_folders: Folders) -> None:
    low = wan_folders("wan2.2-t2v-a14b") / "low_noise_model"
    with Engine.open(None, "cpu", Parts(low=low, family="wan2.2-t2v-a14b")) as engine:
        assert engine.model.defaults.guidance == (3.0,)


def test_levels_are_those_of_the_familys_makers(wan_folders: Folders) -> None:
    with Engine.open(wan_folders("wan2.2-vace-fun-a14b"), "cpu") as engine:
        sigmas = engine.model.settle(Job(prompt="a")).sigmas
        assert sigmas[-4:] == pytest.approx((0.398, 0.284, 0.126, 0), abs=1e-3)
        assert engine.model.settle(Job(prompt="a", solver="unipc")).sigmas[0] == pytest.approx(0.99992, abs=1e-5)
        distilled = engine.model.settle(Job(prompt="a", preset="lightning"))
        assert distilled.sigmas == pytest.approx((1, 0.9375, 0.83333, 0.625, 0), abs=1e-4)


def test_a_picture_fills_the_clip(wan_folders: Folders, tmp_path: Path) -> None:
    image = np.zeros((40, 120, 3), np.uint8)
    image[:, 40:80] = 255
    save_png(tmp_path / "wide.png", image, {})
    job = Job.generate("a", image=tmp_path / "wide.png", frames=1, **SMALL)
    for family in ("wan2.2-i2v-a14b", "wan2.2-ti2v-5b"):
        with Engine.open(wan_folders(family), "cpu") as engine:
            settings = engine.model.settle(job)
            prepared = engine.model.rehearse(job, settings, lambda event: None)
        assert (prepared.stage.image[:, 2:-2] == 255).all()  # the middle third, and no margin
        assert any("its middle is cut out" in note for note in prepared.notes)
