"""High and low told apart by names, headers and hashes, and refused the wrong way round."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from pasdedeux.checkpoints.names.swaps import KnownFile, check_order, evidence, of_path, verify_order
from pasdedeux.checkpoints.tensors import Weights

PAIRS = [
    ("high_noise_model", "low_noise_model"),
    ("wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"),
    ("Wan2.2-I2V-A14B-HighNoise-Q8_0.gguf", "Wan2.2-I2V-A14B-LowNoise-Q8_0.gguf"),
    ("Wan2_2-T2V-A14B_HIGH_fp8_e4m3fn_scaled_KJ.safetensors", "Wan2_2-T2V-A14B-LOW_fp8_e4m3fn_scaled_KJ.safetensors"),
    ("wan22_HN.safetensors", "wan22_LN.safetensors"),
    ("mine-high.safetensors", "mine_low.safetensors"),
    ("wanFusionHigh.safetensors", "wanFusionLow.safetensors"),
]


def weights(path: str | Path, **metadata: str) -> Weights:
    return Weights(tensors={}, paths=(Path(path),), container="safetensors", metadata=metadata)


@pytest.mark.parametrize(("high", "low"), PAIRS)
def test_names_tell(high: str, low: str) -> None:
    found = (of_path(Path("models") / high), of_path(Path("models") / low))
    assert [one.expert for one in found if one] == ["high", "low"]
    check_order(weights(f"models/{high}"), weights(f"models/{low}"))
    with pytest.raises(ValueError, match=r"wrong way round: .* is the (low|high)-noise expert by its name"):
        check_order(weights(f"models/{low}"), weights(f"models/{high}"))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "higher.safetensors", "high_low.safetensors", "slow.gguf", "flow.pth"]
)
def test_other_names_tell_nothing(name: str) -> None:
    assert of_path(Path("models") / name) is None


def test_a_word_alone_is_not_believed_against_the_user() -> None:
    check_order(weights("a/x_low_vram.safetensors"), weights("a/y.safetensors"))
    check_order(weights("a/x_low_vram.safetensors"), weights("a/y_low_vram.safetensors"))
    with pytest.raises(ValueError, match="was given as the high-noise one"):
        check_order(weights("a/x_low_noise.safetensors"), weights("a/y.safetensors"))


def test_what_is_nearer_counts() -> None:
    found = of_path(Path("low_noise_model/high_noise_model/diffusion_pytorch_model.safetensors"))
    assert found is not None
    assert found.expert == "high"
    assert of_path(Path("high_noise/a/b/c/model.safetensors")) is None


def test_the_header_counts_before_the_name() -> None:
    for metadata in (
        {"wan.expert": "low"},
        {"expert": "low-noise"},
        {"modelspec.title": "Wan 2.2 T2V low noise"},
        {"general.name": "Wan2.2-T2V-A14B-LowNoise"},
    ):
        found = evidence(weights("models/a_high_noise.safetensors", **metadata))
        assert found is not None
        assert found.expert == "low"
        with pytest.raises(ValueError, match="wrong way round"):
            check_order(weights("a.safetensors", **metadata), weights("b.safetensors"))
    found = evidence(weights("models/a_high_noise.safetensors", **{"modelspec.title": "slow flow"}))
    assert found is not None
    assert found.expert == "high"


def test_the_same_file_or_expert_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"")
    (tmp_path / "b.safetensors").symlink_to(file)
    with pytest.raises(ValueError, match="given as both experts"):
        check_order(weights(file), weights(tmp_path / "b.safetensors"))
    with pytest.raises(ValueError, match="both the high-noise expert"):
        check_order(weights("a_high_noise.safetensors"), weights("b_high_noise.safetensors"))


def test_the_folders_of_diffusers_tell(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    assert of_path(tmp_path / "transformer") is None  # it may be the only one
    (tmp_path / "transformer_2").mkdir()
    found = (of_path(tmp_path / "transformer"), of_path(tmp_path / "transformer_2" / "model.safetensors"))
    assert [one.expert for one in found if one] == ["high", "low"]


def test_known_hashes_tell(tmp_path: Path) -> None:
    one, other = weights(tmp_path / "one"), weights(tmp_path / "other")
    one.path.write_bytes(b"the quieter one")
    other.path.write_bytes(b"something else")
    known = KnownFile(sha256=sha256(b"the quieter one").hexdigest(), nbytes=15, family="wan2.2-t2v-a14b", expert="low")
    verify_order(one, other)
    verify_order(other, one, [known])
    with pytest.raises(ValueError, match=r"one is the low-noise expert by its hash, which is that of wan2.2-t2v-a14b"):
        verify_order(one, other, [known])
    verify_order(one, other, [replace(known, sha256="0" * 64)])
    verify_order(one, other, [replace(known, nbytes=14)])  # not even read
