import json
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pasdedeux.checkpoints.convert import Progress, Target, check_room, convert, convert_pair
from pasdedeux.checkpoints.formats import writers
from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.formats.writers import write_safetensors
from pasdedeux.checkpoints.packing.quantized import dequantize
from pasdedeux.checkpoints.packing.recast import in_blocks, in_full, linear, recast
from pasdedeux.checkpoints.tensors import LazyTensor, Weights
from pasdedeux.models.wan import AnimateConfig, VaceConfig, WanConfig, build_wan

TINY: dict[str, Any] = {"dim": 128, "ffn_dim": 160, "heads": 1, "layers": 2, "text_dim": 64, "freq_dim": 32}
CONFIGS = {
    "text": WanConfig(**TINY),
    "image": WanConfig(**TINY, in_dim=36, image_dim=64),
    "vace": VaceConfig(**TINY, vace_layers=(0,)),
    "animate": AnimateConfig(
        **TINY,
        image_dim=64,
        motion_channels=(4, 8, 8),
        motion_style=16,
        motion_dim=4,
        face_dim=32,
        face_heads=1,
        face_every=1,
    ),
}


def state(name: str = "text", seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Random weights of a tiny model under native names; constants of the motion encoder stay as they are."""
    torch.manual_seed(seed)
    values = build_wan(CONFIGS[name]).state_dict()
    return {
        key: (t if ".kernel" in key else torch.randn_like(t) * 0.05).to(torch.float32 if ".kernel" in key else dtype)
        for key, t in values.items()
    }


def stored(folder: Path, tensors: Mapping[str, Tensor], name: str = "in.safetensors", **metadata: str) -> Weights:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / name, metadata=metadata or None)
    return open_weights(folder / name)


def native_values(path: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    from pasdedeux.checkpoints.names.dialects import to_native

    return {name: dequantize(tensor, dtype) for name, tensor in to_native(open_weights(path))[0].items()}


def same(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> None:
    assert set(got) == set(want)
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype, name
        assert got[name].shape == tensor.shape, name
        assert torch.equal(got[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name


@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize(
    ("target", "out"),
    [
        (Target(dialect="native"), "out.safetensors"),
        (Target(dialect="native", container="sharded", shard_bytes=200_000), "out"),
        (Target(dialect="comfyui"), "out.safetensors"),
        (Target(dialect="diffusers"), "out"),
        (Target(dialect="diffusers", container="sharded", shard_bytes=200_000), "out"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dialect}-{value.container}",
)
def test_there_and_back_is_bit_equal(tmp_path: Path, model: str, target: Target, out: str) -> None:
    weights = stored(tmp_path, state(model))
    [made] = convert(weights, target, tmp_path / "there" / out)
    back = convert(open_weights(made), Target(), tmp_path / "back.safetensors")
    same(load_file(back[0]), state(model))
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


def test_shards_are_small_and_indexed(tmp_path: Path) -> None:
    [made] = convert(stored(tmp_path, state()), Target(container="sharded", shard_bytes=200_000), tmp_path / "out")
    index = json.loads((made / "diffusion_pytorch_model.safetensors.index.json").read_text())
    names = sorted(set(index["weight_map"].values()))
    assert len(names) > 3
    assert names[0] == f"diffusion_pytorch_model-00001-of-{len(names):05d}.safetensors"
    for name in names:
        tensors = load_file(made / name)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 200_000
        assert all(index["weight_map"][key] == name for key in tensors)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in state().values())
    config = json.loads((made / "config.json").read_text())
    assert (config["dim"], config["num_heads"], config["num_layers"], config["model_type"]) == (128, 1, 2, "t2v")


def test_float32_is_rounded_once_to_bfloat16(tmp_path: Path) -> None:
    whole = state(dtype=torch.float32)
    [made] = convert(stored(tmp_path, whole), Target(dtype="bfloat16"), tmp_path / "out.safetensors")
    same(load_file(made), {name: t.to(torch.bfloat16) for name, t in whole.items()})


def test_metadata_come_along_and_the_file_is_what_safetensors_reads(tmp_path: Path) -> None:
    weights = stored(tmp_path, state(), **{"modelspec.title": "wan 2.2"})
    [made] = convert(weights, Target(dtype="fp8_scaled"), tmp_path / "out.safetensors")
    with safe_open(made, framework="pt") as file:
        assert file.metadata() == {"modelspec.title": "wan 2.2", "format": "pt"}
    length = int.from_bytes(made.read_bytes()[:8], "little")
    assert length % 8 == 0


def test_fp8_scaled_is_within_half_a_step_of_its_scale(tmp_path: Path) -> None:
    whole = state("image")
    [made] = convert(
        stored(tmp_path, whole),
        Target(dialect="comfyui", dtype="fp8_scaled"),
        tmp_path / "out.safetensors",
    )
    raw = load_file(made)
    assert raw["scaled_fp8"].dtype == torch.float8_e4m3fn
    assert raw["scaled_fp8"].numel() == 2
    matrices = [name for name, t in whole.items() if linear(name, tuple(t.shape))]
    assert "text_embedding.0.weight" in matrices
    assert "head.head.weight" in matrices
    for name in matrices:
        scale = raw[name.replace(".weight", ".scale_weight")]
        assert raw[name].dtype == torch.float8_e4m3fn
        assert scale.dtype == torch.float32
        assert scale.shape == ()
        values = raw[name].float() * scale
        assert raw[name].float().abs().max() == 448
        # half a step: 1/16 of the value, or of the smallest normal one
        step = torch.maximum(whole[name].float().abs(), scale * 2.0**-6) / 16
        assert ((values - whole[name].float()).abs() <= step * 1.001).all()
    others = [name for name in whole if name not in matrices]
    assert others
    assert all(torch.equal(raw[name], whole[name]) for name in others)


def test_fp8_scaled_is_kept_or_dequantised(tmp_path: Path) -> None:
    [packed] = convert(stored(tmp_path, state()), Target(dtype="fp8_scaled"), tmp_path / "fp8.safetensors")
    for dtype in ("keep", "fp8_scaled"):
        [kept] = convert(open_weights(packed), Target(dtype=dtype), tmp_path / f"{dtype}.safetensors")
        same(load_file(kept), load_file(packed))
    [wide] = convert(open_weights(packed), Target(dialect="diffusers", dtype="float32"), tmp_path / "wide")
    got, want = native_values(wide), native_values(packed)
    assert all(torch.equal(got[name], want[name]) for name in want)
    with pytest.raises(ValueError, match="scales, which diffusers ignores"):
        convert(open_weights(packed), Target(dialect="diffusers"), tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_plain_fp8_keeps_values_in_range_and_refuses_others(tmp_path: Path) -> None:
    weights = state()
    [made] = convert(stored(tmp_path, weights), Target(dtype="fp8"), tmp_path / "out.safetensors")
    raw = load_file(made)
    assert "scaled_fp8" not in raw
    name = "blocks.0.ffn.0.weight"
    assert torch.equal(raw[name].float(), weights[name].float().to(torch.float8_e4m3fn).float())
    weights[name][0, 0] = 512
    with pytest.raises(ValueError, match=r"blocks.0.ffn.0.weight holds values beyond 448"):
        convert(stored(tmp_path, weights, "wide.safetensors"), Target(dtype="fp8"), tmp_path / "no.safetensors")
    assert not list(tmp_path.glob("no*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_packed(tmp_path: Path, value: float) -> None:
    weights = state()
    weights["blocks.1.self_attn.q.weight"][3, 4] = value
    with pytest.raises(ValueError, match=r"blocks.1.self_attn.q.weight holds values that are not finite"):
        convert(stored(tmp_path, weights), Target(dtype="fp8_scaled"), tmp_path / "no.safetensors")


def test_float16_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    weights = state()
    weights["head.head.bias"][0] = 1e6
    with pytest.raises(ValueError, match=r"head.head.bias holds values beyond 65504"):
        convert(stored(tmp_path, weights), Target(dtype="float16"), tmp_path / "no.safetensors")


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_0", "Q4_0"])
def test_gguf_blocks_are_within_a_quantum(tmp_path: Path, kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    whole = state("image")
    [made] = convert(stored(tmp_path, whole), Target(container="gguf", dtype=kind), tmp_path / "out.gguf")
    reader = gguf.GGUFReader(made)
    assert bytes(reader.fields["general.architecture"].parts[-1]).decode() == "wan"
    levels = {"Q8_0": 127, "Q5_0": 16, "Q4_0": 8}[kind]
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert set(types) == set(whole)
    for tensor in reader.tensors:
        want = whole[tensor.name].float()
        if in_blocks(tensor.name, tuple(want.shape)):
            assert types[tensor.name] == kind
            values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()).view_as(want)
            largest = want.reshape(-1, 32).abs().amax(1, keepdim=True).expand(-1, 32).reshape(want.shape)
            # half a step of the block, one at the end of a range that has a value fewer above than below
            step = largest * (0.5 if kind == "Q8_0" else 1.0) / levels + largest / 2048  # the scale is a float16
            assert ((values - want).abs() <= 1.001 * step).all()
        else:
            assert types[tensor.name] == ("F32" if in_full(tensor.name, tuple(want.shape)) else "BF16")
            assert list(reversed(tensor.shape.tolist())) == list(want.shape)
    ours = native_values(made)
    theirs = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    for name, values in ours.items():
        assert torch.equal(values.flatten(), torch.from_numpy(theirs[name].copy()).float().flatten()), name


def test_a_gguf_in_plain_types_goes_back_bit_equal(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    whole = state("animate")
    [made] = convert(stored(tmp_path, whole), Target(container="gguf", dtype="BF16"), tmp_path / "out.gguf")
    [back] = convert(open_weights(made), Target(dtype="bfloat16"), tmp_path / "back.safetensors")
    same(load_file(back), {name: t.to(torch.bfloat16) for name, t in whole.items()})


def test_gguf_blocks_are_kept_only_by_gguf(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    [made] = convert(stored(tmp_path, state()), Target(container="gguf", dtype="Q4_0"), tmp_path / "a.gguf")
    [again] = convert(open_weights(made), Target(container="gguf"), tmp_path / "b.gguf")
    one, two = gguf.GGUFReader(made), gguf.GGUFReader(again)
    assert [(t.name, t.tensor_type, t.data.tobytes()) for t in one.tensors] == [
        (t.name, t.tensor_type, t.data.tobytes()) for t in two.tensors
    ]
    with pytest.raises(ValueError, match="holds Q4_0, which only GGUF files can keep"):
        convert(open_weights(made), Target(), tmp_path / "no.safetensors")


def test_the_rules_name_what_files_in_circulation_pack() -> None:
    assert linear("blocks.0.ffn.0.weight", (160, 128))
    assert not linear("blocks.0.ffn.0.bias", (160,))
    assert not linear("motion_encoder.enc.fc.0.weight", (16, 16))
    assert in_blocks("vace_blocks.0.after_proj.weight", (128, 128))
    assert in_blocks("face_adapter.fuser_blocks.0.linear2.weight", (128, 128))
    assert not in_blocks("time_projection.1.weight", (768, 128))
    assert not in_blocks("blocks.0.ffn.2.weight", (128, 100))
    assert in_full("blocks.0.modulation", (1, 6, 5120))
    assert in_full("head.head.bias", (64,))
    assert not in_full("patch_embedding.weight", (128, 16, 1, 2, 2))


def test_a_pair_as_native_folders(tmp_path: Path) -> None:
    high, low = stored(tmp_path, state(seed=1), "h.safetensors"), stored(tmp_path, state(seed=2), "l.safetensors")
    assert convert_pair(high, low, Target(), tmp_path / "out") == [tmp_path / "out"]
    for folder, seed in (("high_noise_model", 1), ("low_noise_model", 2)):
        same(load_file(tmp_path / "out" / folder / "diffusion_pytorch_model.safetensors"), state(seed=seed))
        assert (tmp_path / "out" / folder / "config.json").is_file()


def test_a_pair_as_single_files(tmp_path: Path) -> None:
    high, low = stored(tmp_path, state(seed=1), "h.safetensors"), stored(tmp_path, state(seed=2), "l.safetensors")
    made = convert_pair(high, low, Target(dialect="comfyui"), tmp_path / "wan.safetensors")
    assert [path.name for path in made] == ["wan_high_noise.safetensors", "wan_low_noise.safetensors"]
    same(load_file(made[1]), state(seed=2))


@pytest.mark.parametrize("model", ["text", "image", "vace"])
def test_a_diffusers_pair_opens_in_diffusers(tmp_path: Path, model: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    high = stored(tmp_path, state(model, 1, torch.float32), "h.safetensors")
    low = stored(tmp_path, state(model, 2, torch.float32), "l.safetensors")
    with pytest.raises(ValueError, match="give the boundary"):
        convert_pair(high, low, Target(dialect="diffusers"), tmp_path / "out")
    convert_pair(high, low, Target(dialect="diffusers"), tmp_path / "out", bounds=(0.875,))
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["boundary_ratio"] == 0.875
    assert hasattr(diffusers, index["_class_name"])
    for folder, weights in (("transformer", high), ("transformer_2", low)):
        loaded = opened(getattr(diffusers, index[folder][1]), tmp_path / "out" / folder)
        assert torch.equal(loaded.blocks[1].attn2.to_out[0].weight, weights["blocks.1.cross_attn.o.weight"].read())


def test_an_animate_folder_opens_in_diffusers(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    weights = stored(tmp_path, state("animate", dtype=torch.float32))
    [made] = convert(weights, Target(dialect="diffusers"), tmp_path / "out")
    loaded = opened(diffusers.WanAnimateTransformer3DModel, made)
    assert torch.equal(loaded.patch_embedding.weight, weights["patch_embedding.weight"].read())


def opened(kind: Any, folder: Path) -> Any:
    """As diffusers does it, strictly; its own from_pretrained wants accelerate for this class."""
    model = kind.from_config(kind.load_config(folder))
    model.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"), strict=True)
    return model


def test_progress_counts_up_to_everything(tmp_path: Path) -> None:
    seen: list[Progress] = []
    convert(stored(tmp_path, state()), Target(), tmp_path / "out.safetensors", on_progress=seen.append)
    assert [p.tensors for p in seen] == list(range(1, len(state()) + 1))
    assert seen[-1].nbytes == seen[-1].of_bytes == sum(t.nbytes for t in state().values())
    assert seen[-1].of_tensors == len(state())


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize(("target", "out"), [(Target(), "o.safetensors"), (Target(container="sharded"), "o")])
def test_a_failure_leaves_nothing(tmp_path: Path, target: Target, out: str, fault: type[BaseException]) -> None:
    def stop(progress: Progress) -> None:
        if progress.tensors == 5:
            raise fault

    weights = stored(tmp_path, state())
    with pytest.raises(fault):
        convert(weights, target, tmp_path / out, on_progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    old = tmp_path / "out.safetensors"
    old.write_bytes(b"old")
    weights = stored(tmp_path, state())
    with pytest.raises(KeyboardInterrupt):
        convert(weights, Target(), old, overwrite=True, on_progress=stop)
    assert old.read_bytes() == b"old"


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    weights = stored(tmp_path, state())
    for _ in range(2):
        convert(weights, Target(container="sharded"), tmp_path / "out", overwrite=True)
    with pytest.raises(ValueError, match="exists already"):
        convert(weights, Target(container="sharded"), tmp_path / "out")
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"more than a model: thesis.txt"):
        convert(weights, Target(container="sharded"), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "thesis.txt").is_file()


def test_the_source_is_never_written_into(tmp_path: Path) -> None:
    weights = stored(tmp_path / "model", state())
    for out in (tmp_path / "model" / "in.safetensors", tmp_path / "model" / ".." / "model" / "in.safetensors"):
        with pytest.raises(ValueError, match="is where the model is read from"):
            convert(weights, Target(), out, overwrite=True)
    with pytest.raises(ValueError, match="is where the model is read from"):
        convert(weights, Target(container="sharded"), tmp_path / "model", overwrite=True)
    with pytest.raises(ValueError, match="lies inside"):
        convert(weights, Target(), tmp_path / "model" / "o.safetensors", sources=[tmp_path / "model"])
    same({name: t.read() for name, t in weights.items()}, state())


def test_a_full_disk_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = stored(tmp_path, state())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(ValueError, match=r"would take [\d.]+ [kM]B, but only 1 MB are free"):
        convert(weights, Target(), tmp_path / "new" / "out.safetensors")
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    check_room(tmp_path / "a" / "b", 1)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dialect": "kohya"}, "one of native, comfyui, diffusers"),
        ({"container": "zip"}, "one of safetensors, sharded, gguf"),
        ({"dtype": "int4"}, "one of keep"),
        ({"dtype": "Q8_0"}, "a type of GGUF files"),
        ({"container": "gguf", "dialect": "diffusers"}, "under native names"),
        ({"container": "gguf", "dtype": "fp8_scaled"}, "GGUF has no fp8_scaled"),
        ({"container": "sharded", "dialect": "comfyui"}, "reads single files"),
        ({"dialect": "diffusers", "dtype": "fp8_scaled"}, "ignores the scales"),
        ({"shard_bytes": 0}, "must be 1 or more"),
    ],
)
def test_targets_that_nothing_reads_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Target(**fields)


@pytest.mark.parametrize(
    ("target", "out", "said"),
    [
        (Target(), "out", "must end in .safetensors"),
        (Target(), "out.gguf", "must end in .safetensors"),
        (Target(container="gguf"), "out.safetensors", "must end in .gguf"),
        (Target(container="sharded"), "out.safetensors", "must be a folder"),
        (Target(dialect="diffusers"), "out.safetensors", "must be a folder"),
    ],
)
def test_the_name_of_the_output_fits(tmp_path: Path, target: Target, out: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        convert(stored(tmp_path, state()), target, tmp_path / out)


def large(count: int, side: int, made: Callable[[], None]) -> Weights:
    """Weights that come into being when they are read."""

    def read() -> Tensor:
        made()
        return torch.randn(side, side)

    tensors = {
        f"blocks.{k}.ffn.0.weight": LazyTensor(shape=(side, side), dtype="float32", nbytes=4 * side * side, read=read)
        for k in range(count)
    }
    return Weights(tensors=tensors, paths=(Path("nowhere"),), container="safetensors")


@pytest.mark.parametrize("dtype", ["keep", "bfloat16", "fp8_scaled", "Q8_0"])
def test_few_tensors_are_in_memory_at_once(tmp_path: Path, dtype: str) -> None:
    """60 tensors of 4 MB: never six of them at once, and each is read once."""
    from pasdedeux.checkpoints.convert import _with_scales  # pyright: ignore[reportPrivateUsage]

    if dtype == "Q8_0":
        pytest.importorskip("gguf")
    reads = 0

    def made() -> None:
        nonlocal reads
        reads += 1

    def write(path: Path, weights: Weights, watch: Callable[[LazyTensor], None]) -> None:
        if dtype == "Q8_0":
            writers.write_gguf(path, weights, {}, watch, dtype)
        else:
            write_safetensors(path, _with_scales(weights), {}, watch)

    write(tmp_path / "warm", recast(large(2, 1024, lambda: None), dtype), lambda _: None)
    weights = recast(large(60, 1024, made), dtype)
    before = _rss()
    peak = 0

    def watch(_: LazyTensor) -> None:
        nonlocal peak
        peak = max(peak, _rss())

    tracemalloc.start()
    write(tmp_path / "out", weights, watch)
    _, traced = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reads == 60
    assert traced < 6 * 4 * 1024**2
    assert peak - before < 15 * 4 * 1024**2  # of 60 tensors; the allocator keeps some for itself


def _rss() -> int:
    """Bytes of this process that are no file's."""
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("this system does not say how much memory a process has")
    return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("RssAnon"))


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=6),
    dtypes=st.lists(
        st.sampled_from(["float32", "bfloat16", "float8_e4m3fn", "uint8", "int64"]), min_size=6, max_size=6
    ),
)
def test_any_tensors_come_back(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, ...]], dtypes: list[str]
) -> None:
    """Odd sizes of mixed types: the format's own reader finds each, aligned."""
    tensors = {
        f"x{k}": torch.randint(0, 9, shape).to(getattr(torch, dtype))
        for k, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }
    lazy = {
        name: LazyTensor(
            shape=tuple(t.shape), dtype=str(t.dtype).removeprefix("torch."), nbytes=t.nbytes, read=lambda t=t: t
        )
        for name, t in tensors.items()
    }
    path = tmp_path_factory.mktemp("any") / "out.safetensors"
    write_safetensors(path, lazy, {}, lambda _: None)
    same(load_file(path), tensors)
    same({name: t.read() for name, t in open_weights(path).items()}, tensors)
