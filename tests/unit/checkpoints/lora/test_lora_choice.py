from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasdedeux.checkpoints.lora import LoRAChoice, assign, expert_of, parse_lora
from pasdedeux.checkpoints.lora.distill import PRESETS, find_preset, recognise
from pasdedeux.denoise.levels import schedule


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a.safetensors", (None, "a.safetensors", 1.0)),
        ("high:a.safetensors", ("high", "a.safetensors", 1.0)),
        ("LOW:b/a.safetensors@0.8", ("low", "b/a.safetensors", 0.8)),
        ("a.safetensors@-1", (None, "a.safetensors", -1.0)),
        (r"C:\loras\a.safetensors@2", (None, r"C:\loras\a.safetensors", 2.0)),
        (r"high:C:\a.safetensors", ("high", r"C:\a.safetensors", 1.0)),
        ("ink@home.safetensors", (None, "ink@home.safetensors", 1.0)),
        ("ink@home.safetensors@.5", (None, "ink@home.safetensors", 0.5)),
        ("loras/v@2/a.safetensors", (None, "loras/v@2/a.safetensors", 1.0)),
        ("higher:a.safetensors", (None, "higher:a.safetensors", 1.0)),
        ("folder@1e-1", (None, "folder", 0.1)),
    ],
)
def test_what_is_asked_for(text: str, want: tuple[str | None, str, float]) -> None:
    assert parse_lora(text) == LoRAChoice(want[0], Path(want[1]), want[2])  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "high:", "@1", "a.safetensors@", "a.safetensors@much", "a@nan", "low:a.pt@inf"])
def test_what_cannot_be_asked_for(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no LoRA file|it must be a number"):
        parse_lora(text)


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["", "high:", "low:"]))
def test_every_weight_comes_back(weight: float, expert: str) -> None:
    assert parse_lora(f"{expert}x@y.safetensors@{weight!r}") == LoRAChoice(
        expert.rstrip(":") or None,  # type: ignore[arg-type]
        Path("x@y.safetensors"),
        weight,
    )


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("dance_high_noise.safetensors", "high"),
        ("dance-LowNoise.safetensors", "low"),
        ("wan2.2_i2v_A14b_high_noise_lora_rank64_lightx2v_4step_1022.safetensors", "high"),
        ("Wan2.2-Lightning_T2V-v1.1-A14B-4steps-lora_HIGH_fp16.safetensors", "high"),
        ("Wan22_A14B_T2V_LOW_Lightning_4steps_lora_250928_rank128_fp16.safetensors", "low"),
        ("style-HN.safetensors", "high"),
        ("style_LN_000002000.safetensors", "low"),
        ("style_low.safetensors", "low"),
        ("style_high_v2.safetensors", "high"),
        ("high_noise_model/adapter.safetensors", "high"),
        ("low_poly.safetensors", None),
        ("high_detail_fashion.safetensors", None),
        ("highlands.safetensors", None),
        ("follow.safetensors", None),
        ("high_and_low.safetensors", None),
        ("style.safetensors", None),
    ],
)
def test_which_expert_a_name_means(name: str, want: str | None) -> None:
    assert expert_of(Path("/loras") / name) == want
    assert expert_of(Path("/loras") / name, {"wan.expert": "low"}) == "low"


def test_giving_out() -> None:
    pair = ("high", "low")
    high, plain, asked = (parse_lora(text) for text in ("a_high_noise.pt", "b.pt@0.5", "low:c.pt"))
    given_out, notes = assign([high, plain, asked], pair)
    assert given_out == {"high": (high, plain), "low": (plain, asked)}
    assert notes == ("a_high_noise.pt says it is for the high-noise expert, and goes to that one only.",)
    by_metadata, notes = assign([plain], pair, {plain.path: {"wan.expert": "low"}})
    assert by_metadata == {"high": (), "low": (plain,)}
    assert len(notes) == 1
    single, notes = assign([high], ("denoiser",))
    assert single == {"denoiser": (high,)}
    assert "this model is one, and takes it" in notes[0]


@pytest.mark.parametrize(
    ("text", "experts", "said"),
    [
        ("low:a_high_noise.pt", ("high", "low"), "says it is for the high-noise expert, but is given to the low one"),
        ("high:a.pt", ("denoiser",), "is for the high-noise expert, which this model has not; it has denoiser"),
        ("a_high_noise.pt", ("low",), "which this model has not"),
    ],
)
def test_what_cannot_be_given(text: str, experts: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match="noise expert") as caught:
        assign([parse_lora(text)], experts)
    assert said in str(caught.value)


def test_the_timesteps_of_the_four_step_pairs() -> None:
    """Those their makers publish, which are ours at that number of steps and shift."""
    preset = PRESETS["lightning"]
    assert preset.timesteps == pytest.approx((1000, 937.5, 833.3333, 625), abs=1e-4)
    assert (preset.steps, preset.solver, preset.shift, preset.guidance, preset.experts) == (4, "euler", 5, (1,), 2)
    assert [1000 * sigma for sigma in schedule(4, 5.0)[:-1]] == pytest.approx(preset.timesteps)


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1/high_noise_model.safetensors", "lightning"),
        ("Wan2.2-I2V-A14B-4steps-lora-rank64-Seko-V1/low_noise_model.safetensors", "lightning"),
        ("wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors", "lightning"),
        ("wan2.2_i2v_A14b_low_noise_lora_rank64_lightx2v_4step_1022.safetensors", "lightning"),
        ("Wan2.2-Lightning_I2V-A14B-4steps-lora_LOW_fp16.safetensors", "lightning"),
        ("Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors", "lightx2v"),
        ("wan2.2/lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors", "lightx2v"),
        ("Wan21_CausVid_14B_T2V_lora_rank32.safetensors", "causvid"),
        ("Wan2.1_I2V_14B_FusionX_LoRA.safetensors", "fusionx"),
        ("Wan21_AccVid_T2V_14B_lora_rank32_fp16.safetensors", "accvid"),
        ("wan2.2/dance_high_noise.safetensors", None),
        ("relighting_lora.ckpt", None),
    ],
)
def test_presets_are_told_from_names(path: str, want: str | None) -> None:
    found = recognise(Path("loras") / path)
    assert (found.name if found else None) == want
    assert find_preset(None, [f"high:loras/{path}@0.9", "style.safetensors"]) == found


def test_presets_by_name() -> None:
    assert find_preset("Lightning", ["Wan21_CausVid_14B.safetensors"]) == PRESETS["lightning"]
    assert find_preset(None) is None
    assert recognise(Path("a.safetensors"), {"wan.preset": "fusionx"}) == PRESETS["fusionx"]
    with pytest.raises(ValueError, match='no preset "fast"; known are lightning'):
        find_preset("fast")
    with pytest.raises(ValueError, match=r"causvid\.pt asks for the settings of causvid, fusionx\.pt for those of"):
        find_preset(None, ["causvid.pt", "fusionx.pt"])


def test_experts_of_a_larger_set_are_told_by_their_own_names() -> None:
    three, loras = ("expert0", "expert1", "expert2"), [parse_lora(f"ink_expert{k}.pt") for k in (2, 0)]
    said = {lora.path: {"pasdedeux.expert": lora.path.stem.removeprefix("ink_")} for lora in loras}
    given_out, notes = assign(loras, three, said)
    assert given_out == {"expert0": (loras[1],), "expert1": (), "expert2": (loras[0],)}
    assert notes[0] == "ink_expert2.pt says it is for expert2, and goes to that one only."
    elsewhere, _ = assign(loras, ("model",), said)  # another set: to all, as a LoRA that says nothing
    assert elsewhere == {"model": tuple(loras)}
