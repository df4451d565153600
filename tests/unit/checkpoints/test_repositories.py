import pytest

from pasdedeux.checkpoints.families import FAMILIES
from pasdedeux.checkpoints.repositories import REPOSITORIES, in_words, repository, sources


def test_names_are_single_and_families_known() -> None:
    names = [repo.name for repo in REPOSITORIES]
    assert len(set(names)) == len(names)
    assert {repo.family for repo in REPOSITORIES} == set(FAMILIES)
    for repo in REPOSITORIES:
        assert repo.hub.count("/") == 1
        assert repo.parts
        assert all(part.files and part.gigabytes > 0 for part in repo.parts)


def test_pairs_are_pairs_where_the_family_has_two_experts() -> None:
    for repo in REPOSITORIES:
        assert repo.pair == (FAMILIES[repo.family].experts == 2), repo.name


def test_every_model_comes_with_what_its_family_needs() -> None:
    for repo in REPOSITORIES:
        roles = {part.role for part in repo.parts}
        if "transformer" in roles:
            assert roles >= {"vae", "text", "tokenizer"}, repo.name
            assert ("clip" in roles) == FAMILIES[repo.family].clip, repo.name
            [vae] = [part for part in repo.parts if part.role == "vae"]
            assert (vae.gigabytes > 1) == (FAMILIES[repo.family].vae == "wan2.2"), repo.name


def test_one_expert_leaves_the_other_out() -> None:
    every = repository("wan2.2-t2v-a14b")
    high = every.select("high")
    assert [part.title for part in high] == ["high transformer", "vae", "text", "tokenizer"]
    assert high[0].files == ("high_noise_model/*",)
    assert [part.expert for part in every.select() if part.role == "transformer"] == ["high", "low"]
    low = repository("wan2.2-i2v-a14b-diffusers").select("low", ["transformer"])
    assert [part.files[0] for part in low] == ["transformer_2/*"]


def test_optional_parts_come_only_when_asked_for() -> None:
    animate = repository("wan2.2-animate-14b")
    assert "lora" not in [part.role for part in animate.select()]
    assert [part.files for part in animate.select(roles=["lora"])] == [("relighting_lora.ckpt",)]


def test_gguf_types_fill_the_pattern_and_the_size() -> None:
    gguf = repository("wan2.2-i2v-a14b-gguf")
    default, small = gguf.select("low")[0], gguf.select("low", quant="Q4_K_M")[0]
    assert default.files == ("LowNoise/*-Q8_0.gguf",)
    assert small.files == ("LowNoise/*-Q4_K_M.gguf",)
    assert small.size == "about 9.65 GB"
    assert small.gigabytes < default.gigabytes


@pytest.mark.parametrize(
    ("name", "expert", "roles", "quant", "said"),
    [
        ("wan2.2-animate-14b", "high", (), None, "one model, without a high expert"),
        ("wan2.2-t2v-a14b", None, ("clip",), None, "has no part clip; it has transformer, vae, text, tokenizer"),
        ("wan2.2-t2v-a14b", None, (), "Q8_0", "no choice of types"),
    ],
)
def test_what_is_not_there_is_refused(
    name: str, expert: str | None, roles: tuple[str, ...], quant: str | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        repository(name).select(expert, roles, quant)  # type: ignore[arg-type]


def test_a_repository_is_found_by_name_or_page() -> None:
    assert repository("Wan-AI/Wan2.2-T2V-A14B").name == "wan2.2-t2v-a14b"
    with pytest.raises(ValueError, match="names several of the known"):
        repository("Comfy-Org/Wan_2.2_ComfyUI_Repackaged")
    with pytest.raises(ValueError, match=r"write one of wan2\.2-t2v-lightning, wan2\.2-i2v-lightning"):
        repository("lightning")
    with pytest.raises(ValueError, match="names none"):
        repository("stable-diffusion")


def test_sources_are_smallest_first() -> None:
    sizes = [part.gigabytes for _, part in sources("transformer", "wan2.2-t2v-a14b", "low")]
    assert sizes == sorted(sizes)
    assert len(sizes) >= 4
    assert not any(part.expert == "high" for _, part in sources("transformer", "wan2.2-t2v-a14b", "low"))


@pytest.mark.parametrize(
    ("nbytes", "said"),
    [(0, "0 B"), (999, "999 B"), (254e6, "254 MB"), (1.23e9, "1.23 GB"), (28.58e9, "28.6 GB"), (999.9e6, "1.00 GB")],
)
def test_sizes_in_words(nbytes: float, said: str) -> None:
    assert in_words(nbytes) == said
