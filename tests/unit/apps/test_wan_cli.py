"""The command line with Wan models and hostile input: each fault ends in one sentence, exit code 2 and no leftovers."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from pasdedeux.apps.cli import app
from pasdedeux.apps.faults import out_of_memory, user_faults
from pasdedeux.apps.making import write_report
from pasdedeux.checkpoints.formats.writers import check_free

T2V, FINE = "wan2.2-t2v-a14b", "wan2.2-ti2v-5b"
WEIGHTS = "diffusion_pytorch_model.safetensors"
Find = Callable[[str], Path]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Find:
    """Folders of tiny Wan models, as the engine's tests write them."""
    spec = importlib.util.spec_from_file_location("engine_conftest", Path(__file__).parents[1] / "engine/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    root = tmp_path_factory.mktemp("wan")
    return lambda family: root / family if (root / family).exists() else made.write_wan(root / family, family)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def lora(models: Find, tmp_path: Path) -> Path:
    """A LoRA that fits the tiny text-to-video model."""
    layers = {
        name.removesuffix(".weight"): tensor
        for name, tensor in load_file(models(T2V) / "high_noise_model" / WEIGHTS).items()
        if name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2
    }
    draw = torch.Generator().manual_seed(5)
    halves = {f"{name}.lora_A.weight": torch.randn(2, t.shape[1], generator=draw) for name, t in layers.items()}
    halves |= {f"{name}.lora_B.weight": torch.randn(t.shape[0], 2, generator=draw) for name, t in layers.items()}
    path = tmp_path / "style.safetensors"
    save_file(halves, path)
    return path


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def generate(model: object, output: Path, *words: object) -> Result:
    small = ("--steps", 1, "--frames", 1, "--size", "64x64", "--device", "cpu")
    return call("generate", "a cat", "--model", model, "-o", output, *small, *words)


def fault(done: Result) -> str:
    """The one sentence of a run that was refused."""
    assert done.exit_code == 2, done.output
    (sentence,) = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert sentence.startswith("pasdedeux: ")
    assert sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--size", "99984x99984"), "neither side may have more than 8192 pixels"),
        (("--frames", 10**9 + 1), "frames is 1000000001; it must be 100000 at most"),
        (("--steps", 10**9), "steps is 1000000000; it must be 1000 at most"),
        (("--tokenizer", "nowhere"), "There is no file or folder nowhere, which --tokenizer names"),
        (("--clip", "nowhere"), "There is no file or folder nowhere, which --clip names"),
        (("--handoff", "0.9"), "one expert, with none to hand over to"),
        (("--guidance", "4,3"), "has 2 scales, but this model is one expert"),
    ],
)
def test_values_that_no_model_can_use(models: Find, tmp_path: Path, words: tuple[object, ...], said: str) -> None:
    assert said in fault(generate(models(FINE), tmp_path / "x.mp4", *words))
    assert not list(tmp_path.glob("*.mp4"))


def test_a_file_of_another_kind_is_called_what_it_is(models: Find, tmp_path: Path) -> None:
    model, out = models(T2V), tmp_path / "x.mp4"
    vae, text = model / "Wan2.1_VAE.pth", model / "models_t5_umt5-xxl-enc-bf16.pth"
    assert "is a video autoencoder (VAE), but here a Wan transformer is needed" in fault(generate(vae, out))
    assert "is a text encoder (umT5), but here a Wan transformer is needed" in fault(generate(text, out))
    expert = model / "high_noise_model" / WEIGHTS
    assert "is a Wan transformer, but here a video autoencoder" in fault(generate(model, out, "--vae", expert))


def test_everything_that_is_lacking_is_named_at_once(models: Find, tmp_path: Path) -> None:
    said = fault(generate(models(T2V) / "low_noise_model", tmp_path / "x.mp4"))
    assert "it also needs the text encoder, umT5 (--text) and the video autoencoder (--vae)" in said
    assert "--clip" not in said


def test_names_that_are_none(models: Find, tmp_path: Path) -> None:
    assert 'The model is ""' in fault(generate("", tmp_path / "x.mp4"))
    assert 'is ""' in fault(call("inspect", ""))
    (tmp_path / "none.safetensors").touch()
    assert "it is empty (0 bytes)" in fault(call("inspect", tmp_path / "none.safetensors"))
    assert "pasdedeux models lists them" in fault(call("models", "show", "qqq"))
    assert "write one of wan2.2-t2v-a14b," in fault(call("models", "show", "wan2.2-t2v-a14"))
    assert "is a file; --dir" in fault(call("models", "get", FINE, "--dir", tmp_path / "none.safetensors"))


def test_models_to_choose_from_are_listed_with_their_folders(models: Find, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / "all" / name).mkdir(parents=True)
        (tmp_path / "all" / name / WEIGHTS).symlink_to(models(T2V) / "high_noise_model" / WEIGHTS)
    said = fault(call("inspect", tmp_path / "all"))
    assert f"one/{WEIGHTS}, three/{WEIGHTS}, two/{WEIGHTS}" in said


def test_an_expert_whose_place_is_unknown_needs_either_other(models: Find, tmp_path: Path) -> None:
    (tmp_path / "some.safetensors").symlink_to(models(T2V) / "high_noise_model" / WEIGHTS)
    done = call("inspect", tmp_path / "some.safetensors")
    assert done.exit_code == 0, done.output
    for name in ("high", "low"):
        assert f"the {name}-noise expert, for its steps, unless this is it" in done.stdout
        assert f"--expert {name} --part transformer" in done.stdout


def test_a_lora_for_an_expert_that_is_not_there(models: Find, tmp_path: Path, lora: Path) -> None:
    said = fault(generate(models(FINE), tmp_path / "x.mp4", "--lora", f"high:{lora}"))
    assert "which this model has not; it is one, without high and low" in said
    done = generate(models(FINE), tmp_path / "x.mp4", "--lora", f"{lora}@0")
    assert "note: In the model, style.safetensors has the weight 0" in done.stderr


def test_values_that_are_not_finite_are_no_clip(models: Find, tmp_path: Path, lora: Path) -> None:
    said = fault(generate(models(T2V), tmp_path / "x.mp4", "--lora", f"{lora}@1e30"))
    assert "The high expert gives values that are not finite in bfloat16: a LoRA weighs too much" in said
    assert not list(tmp_path.glob("*.mp4"))
    assert not list(tmp_path.glob(".*.mp4"))


def test_options_against_a_preset_are_said(models: Find, tmp_path: Path) -> None:
    words = ("--preset", "lightning", "--guidance", "5,1", "--solver", "euler", "--shift", "9")
    done = generate(models(T2V), tmp_path / "x.mp4", *words)
    assert done.exit_code == 0, done.output
    assert (
        "note: Options go before the settings of lightning: steps 1 (not 4), shift 9.0 (not 5.0), guidance 5,1 (not 1)."
    ) in done.stderr.splitlines()
    same = generate(models(T2V), tmp_path / "x.mp4", "--preset", "lightning", "--steps", 4, "--guidance", "1")
    assert "Options go before" not in same.stderr


def test_notes_stand_on_one_line(models: Find, tmp_path: Path) -> None:
    done = generate(models(T2V), tmp_path / "x.mp4")
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()
    assert all(line.startswith("note: ") and line.endswith(".") for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("output", "words", "said"),
    [
        ("x.pth", (), ".pth is only read"),
        ("x", ("--shard-gb", "inf"), "Shards of inf GB"),
        ("x", ("--shard-gb", "nan"), "Shards of nan GB"),
        ("note.txt/x", (), "note.txt is no folder"),
        ("note.txt", ("--overwrite",), "is a file, and no folder is written over it"),
        ("others", ("--overwrite",), "holds more than a model: precious.safetensors"),
        ("one.safetensors", ("--overwrite", "--expert", "low"), "is a folder, and no file is written over it"),
        ("here", (), "(--overwrite)"),
    ],
)
def test_where_convert_does_not_write(
    models: Find, tmp_path: Path, output: str, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "note.txt").write_text("mine")
    for folder in ("others", "one.safetensors", "here"):
        (tmp_path / folder).mkdir()
    (tmp_path / "others" / "precious.safetensors").write_bytes(b"mine")
    before = sorted(tmp_path.rglob("*"))
    assert said in fault(call("convert", models(T2V), "-o", tmp_path / output, *words))
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_a_converted_folder_is_written_over_and_nothing_else(models: Find, tmp_path: Path) -> None:
    words = ("convert", models(T2V), "-o", tmp_path / "out", "--layout", "diffusers")
    for more in ((), ("--overwrite",)):
        assert call(*words, *more).exit_code == 0
    (tmp_path / "out" / "vae").mkdir()
    (tmp_path / "out" / "vae" / WEIGHTS).write_bytes(b"mine")
    with pytest.raises(ValueError, match="more than a model"):
        check_free(tmp_path / "out", overwrite=True)


def test_there_is_nothing_to_convert(models: Find, tmp_path: Path) -> None:
    said = fault(call("convert", models(FINE), "-o", tmp_path / "x", "--expert", "high"))
    assert "no high-noise expert to convert; the model is one, without high and low" in said
    assert "built-in pair" in fault(call("convert", "builtin", "-o", tmp_path / "x"))


def test_ctrl_c_anywhere_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left, user_faults():
        raise KeyboardInterrupt
    assert left.value.exit_code == 130
    assert capsys.readouterr().err == "Stopped.\n"


def test_full_memory_is_no_fault_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError) as real:
        torch.empty(2**60, dtype=torch.uint8)
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), real.value):
        assert out_of_memory(error)
        with pytest.raises(typer.Exit) as left, user_faults():
            raise error
        assert left.value.exit_code == 2
        assert "The memory is full" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="ours"), user_faults():
        raise RuntimeError("ours")


def test_a_report_is_whole_or_not_there(tmp_path: Path) -> None:
    class Full:
        def to_json(self) -> str:
            raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match=r"r.json could not be written: No space left on device\."):
        write_report(Full(), (), tmp_path / "r.json")  # type: ignore[arg-type]
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


@pytest.mark.parametrize(("package", "extra"), [("gguf", "wan"), ("mediapipe.tasks", "people")])
def test_a_package_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], package: str, extra: str) -> None:
    with pytest.raises(typer.Exit) as left, user_faults():
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)
    assert left.value.exit_code == 2
    assert f"needs the package {package}: pip install 'pasdedeux[{extra}]'" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError), user_faults():
        raise ModuleNotFoundError("No module named 'ours'", name="ours")
