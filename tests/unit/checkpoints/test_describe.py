import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pasdedeux.checkpoints.convert import Target, convert
from pasdedeux.checkpoints.describe import describe_path, packing, stored
from pasdedeux.checkpoints.families import FAMILIES
from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.lora.report import lora_facts
from pasdedeux.checkpoints.names.identify import shapes_of
from pasdedeux.models.vae import VAEConfig, WanVAE
from pasdedeux.models.wan import WanConfig, build_wan

TINY: dict[str, Any] = {"dim": 128, "ffn_dim": 160, "heads": 1, "layers": 2, "text_dim": 64, "freq_dim": 32}
SIZES = {"BF16": 2, "F32": 4}


def tiny(**sizes: Any) -> dict[str, Tensor]:
    config = WanConfig(**TINY, **sizes)
    return {name: t.to(torch.bfloat16) for name, t in build_wan(config).state_dict().items()}


def save(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata=metadata or None)
    return path


def sparse(path: Path, shapes: Mapping[str, tuple[int, ...]], kind: str = "BF16") -> Path:
    """A file of true size whose bytes are a hole: only its header lies on the disk."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        count = SIZES[kind]
        for side in shape:
            count *= side
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [end, end + count]}
        end += count
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def test_an_expert_says_what_it_is_and_what_it_lacks(tmp_path: Path) -> None:
    shapes = shapes_of(FAMILIES["wan2.2-i2v-a14b"].config)
    found = describe_path(sparse(tmp_path / "wan2.2_i2v_low_noise_14B.safetensors", shapes))
    assert found.what == "wan2.2-i2v-a14b, the low-noise expert"
    assert "by its name (wan2.2_i2v_low_noise_14B" in found.facts["expert"]
    [part] = found.parts
    assert (part.parameters, part.nbytes, part.stored, part.packing) == (
        14_288_901_184,
        28_577_802_368,
        "bfloat16",
        "",
    )
    assert [need.part for need in found.needs] == [
        "the high-noise expert",
        "the VAE of Wan 2.1",
        "the text encoder",
        "the tokenizer",
    ]
    repo, first = found.needs[0].places[0]
    assert (repo.family, first.expert, first.gigabytes) == ("wan2.2-i2v-a14b", "high", 28.6)
    for need in found.needs:
        files = [(part.hub or repo.hub, part.files) for repo, part in need.places]
        assert files
        assert len(set(files)) == len(files)


def test_a_pair_with_all_it_needs(tmp_path: Path) -> None:
    shapes = shapes_of(FAMILIES["wan2.2-t2v-a14b"].config)
    for name in ("high", "low"):
        sparse(tmp_path / f"{name}_noise_model" / "diffusion_pytorch_model.safetensors", shapes, "F32")
    (tmp_path / "google" / "umt5-xxl").mkdir(parents=True)
    (tmp_path / "google" / "umt5-xxl" / "spiece.model").write_bytes(b"x" * 100)
    found = describe_path(tmp_path)
    assert found.what == "wan2.2-t2v-a14b, both experts"
    assert found.facts["handoff"].endswith("sigma 0.875")
    assert [part.role for part in found.parts] == ["high", "low", "tokenizer"]
    assert found.parts[0].stored == "float32"
    assert found.parts[2].nbytes == 100
    assert [need.part for need in found.needs] == ["the VAE of Wan 2.1", "the text encoder"]


def test_animate_needs_clip_and_perhaps_relighting(tmp_path: Path) -> None:
    shapes = shapes_of(FAMILIES["wan2.2-animate-14b"].config)
    found = describe_path(sparse(tmp_path / "animate.safetensors", shapes))
    assert found.what == "wan2.2-animate-14b, one model"
    needs = {need.part: need.purpose for need in found.needs}
    assert needs["the picture encoder (CLIP)"] == "every job"
    assert needs["the relighting LoRA"] == "replace mode"
    assert "the other expert" not in needs


def test_shapes_of_two_families_are_said_to_be_so(tmp_path: Path) -> None:
    shapes = shapes_of(FAMILIES["wan2.1-t2v-14b"].config)
    found = describe_path(sparse(tmp_path / "model.safetensors", shapes))
    assert any("wan2.1-t2v-14b has the same shapes" in note for note in found.notes)
    found = describe_path(sparse(tmp_path / "wan2.1_t2v_14B.safetensors", shapes))
    assert found.facts["family"] == "wan2.1-t2v-14b"


@pytest.mark.parametrize(
    ("target", "out", "told"),
    [
        (Target(dtype="fp8_scaled"), "a.safetensors", "fp8_scaled"),
        (Target(dtype="fp8"), "b.safetensors", "fp8 without scales"),
        (Target(container="gguf", dtype="Q5_0"), "c.gguf", "GGUF, mostly Q5_0"),
        (Target(), "d.safetensors", ""),
    ],
)
def test_packing_is_named(tmp_path: Path, target: Target, out: str, told: str) -> None:
    source = open_weights(save(tmp_path / "in.safetensors", tiny()))
    if target.container == "gguf":
        pytest.importorskip("gguf")
    [made] = convert(source, target, tmp_path / out)
    found = describe_path(made)
    assert found.parts[0].packing == told
    assert found.parts[0].parameters == sum(t.numel() for t in tiny().values())
    assert any("not those of any released model" in note for note in found.notes)


def test_shares_of_types() -> None:
    from pasdedeux.checkpoints.tensors import LazyTensor, Weights

    def of(dtype: str, count: int) -> LazyTensor:
        return LazyTensor(shape=(count,), dtype=dtype, nbytes=count, read=lambda: torch.zeros(count))

    def all_of(**tensors: LazyTensor) -> Weights:
        return Weights(tensors=tensors, paths=(Path("x"),), container="safetensors")

    assert stored(all_of(a=of("bfloat16", 3))) == "bfloat16"
    assert stored(all_of(a=of("float32", 1), b=of("Q8_0", 3))) == "Q8_0 75.0 %, float32 25.0 %"
    assert stored(all_of(a=of("float32", 1), b=of("Q8_0", 99_999))) == "Q8_0 > 99.9 %, float32 < 0.1 %"
    assert packing(all_of(a=of("float32", 1))) == ""


def lora(
    rank: int = 4, dim: int = 5120, prefix: str = "diffusion_model.", alpha: float | None = None
) -> dict[str, Tensor]:
    made = {}
    for k in range(2):
        layer = f"{prefix}blocks.{k}.self_attn.q"
        made[f"{layer}.lora_A.weight"] = torch.zeros(rank, dim)
        made[f"{layer}.lora_B.weight"] = torch.zeros(dim, rank)
        if alpha is not None:
            made[f"{layer}.alpha"] = torch.tensor(alpha)
    return made


def test_a_lora_says_its_rank_and_its_model(tmp_path: Path) -> None:
    found = describe_path(save(tmp_path / "wan2.2_i2v_style_high_noise.safetensors", lora(alpha=2.0)))
    assert found.what == "a LoRA"
    assert found.facts["fits"] == "wan2.2-i2v-a14b"
    assert found.facts["rank"] == "4, with alpha"
    assert found.facts["written as"] == "ComfyUI"
    assert found.facts["changes"].startswith("2 weights")
    assert found.facts["changes"].endswith("6 of 6 keys have a place")
    assert found.facts["expert"].startswith("the high-noise one")
    assert any("wan2.2-t2v-a14b" in note for note in found.notes)


def test_a_lora_for_the_small_model_fits_only_that(tmp_path: Path) -> None:
    found = describe_path(save(tmp_path / "mine.safetensors", lora(dim=3072)))
    assert found.facts["fits"] == "wan2.2-ti2v-5b"
    assert found.facts["expert"] == "not said"
    assert found.notes == ()


def test_a_lora_for_no_model_says_why(tmp_path: Path) -> None:
    found = describe_path(save(tmp_path / "mine.safetensors", lora(dim=777)))
    assert found.facts["fits"] == "no known family"
    assert found.notes
    assert "777" in found.notes[0]


def test_what_is_no_lora_has_no_facts(tmp_path: Path) -> None:
    assert lora_facts(open_weights(save(tmp_path / "x.safetensors", {"a": torch.zeros(2)}))) is None


def test_a_vae_is_known_by_its_version(tmp_path: Path) -> None:
    config = VAEConfig(
        dim=4,
        latent_channels=4,
        multipliers=(1, 1, 2, 2),
        res_blocks=1,
        latent_mean=(0.0,) * 4,
        latent_std=(1.0,) * 4,
    )
    found = describe_path(save(tmp_path / "vae.safetensors", WanVAE(config).state_dict()))
    assert found.what == "the VAE of Wan 2.1"
    assert found.parts[0].layout == "safetensors, native names"


def test_encoders_are_known(tmp_path: Path) -> None:
    text = {
        "shared.weight": torch.zeros(50, 8),
        **{
            f"encoder.block.{k}.layer.0.SelfAttention.relative_attention_bias.weight": torch.zeros(4, 2)
            for k in range(3)
        },
    }
    found = describe_path(save(tmp_path / "text.safetensors", text))
    assert found.what == "a text encoder (umT5)"
    assert found.facts["sizes"] == "3 blocks, 8 wide, 50 tokens"
    assert found.parts[0].layout == "safetensors, Hugging Face names"
    clip = {"vision_model.embeddings.class_embedding": torch.zeros(12)}
    found = describe_path(save(tmp_path / "clip.safetensors", clip))
    assert found.what == "a picture encoder (CLIP)"
    assert found.facts["sizes"] == "12 wide"


def test_what_is_none_of_these_is_a_sentence(tmp_path: Path) -> None:
    other = save(tmp_path / "other.safetensors", {"conv.weight": torch.zeros(2), "fc.bias": torch.zeros(2)})
    with pytest.raises(
        ValueError, match=r"holds 2 tensors that no Wan model needs; the first are conv\.weight, fc\.bias"
    ):
        describe_path(other)
    (tmp_path / "text.txt").write_text("a text that is long enough to be looked at")
    with pytest.raises(ValueError, match="not a file of weights"):
        describe_path(tmp_path / "text.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no weights of a Wan transformer"):
        describe_path(tmp_path / "empty")
