"""`pasdedeux plan`: a page for every family and card, by name or by headers, and a sentence for what is unknown."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from pasdedeux.apps.planning import WIDTH, PlanOptions, show_plan
from pasdedeux.checkpoints.families import FAMILIES
from pasdedeux.engine import forecast as engine_forecast
from pasdedeux.engine.forecast import forecast, imagined, job_for, open_forecast
from pasdedeux.engine.memory import parse_memory
from pasdedeux.engine.numbers import expert_numbers
from pasdedeux.models.wan import build_wan
from pasdedeux.models.wan.config import WanConfig

TINY = WanConfig(dim=128, ffn_dim=224, heads=1, layers=3)


def shown(model: str, gpu: str = "rtx4090", **options: object) -> str:
    out = io.StringIO()
    show_plan(model, gpu, PlanOptions(**options), Console(file=out, width=WIDTH))  # type: ignore[arg-type]
    return out.getvalue()


def words(model: str, gpu: str = "rtx4090", **options: object) -> str:
    """The page on one line."""
    return " ".join(shown(model, gpu, **options).split())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_page_of_80_columns(name: str) -> None:
    page = shown(name, "rtx3060")
    assert page.startswith(f"{name} on RTX 3060 12 GB, 12.5 GB of which can be used")
    assert max(map(len, page.splitlines())) <= WIDTH
    assert "no price is known" in page


def test_a_pair_in_bfloat16_is_streamed_and_in_fp8_one_expert_stays() -> None:
    page = words("wan2.2-t2v-a14b", size="1280x720", frames=81)
    assert "75,600 tokens; 40 steps (26 high, 14 low), guidance 4, 3" in page
    assert "2 experts of 28.6 GB, stored in bfloat16" in page
    assert "streamed beside the compute: 19.2 GB of weights at once, 26 of 80 blocks; weights leave while" in page
    assert "with weights in pinned memory; 3.6 GB if they come from disk" in page
    assert "at $0.45 an hour, May 2026" in page
    page = words("wan2.2-t2v-a14b", dtype="fp8")
    assert "2 experts of 14.5 GB, stored in float8_e4m3fn" in page
    assert "one expert resident, and the next comes as the last one's blocks leave" in page
    assert "0.0 GB a step" in page


def test_options_reach_the_prediction() -> None:
    page = words("wan2.2-t2v-a14b", "h200", steps=10, guidance="1", memory="24 GiB", price=1.5)
    assert "10 steps (7 high, 3 low), guidance 1, 1" in page
    assert "25.0 GB of which can be used" in page
    assert "a video at $1.50 an hour" in page
    assert "4 steps (2 high, 2 low), guidance 1, 1" in words("wan2.2-t2v-a14b", preset="lightning")


def test_length_in_seconds_and_segments() -> None:
    assert "300 frames in 4 segments of 77" in words("wan2.2-animate-14b", seconds=10)
    assert "305 frames in 4 segments of 77" in words("wan2.2-animate-14b", segments=4)
    assert "49 frames; " in words("wan2.2-t2v-a14b", seconds=3)
    with pytest.raises(ValueError, match="makes a clip at once, not in segments"):
        shown("wan2.2-t2v-a14b", segments=2)


def test_what_does_not_fit_is_said_first() -> None:
    page = shown("wan2.2-t2v-a14b", "rtx3060", size="1280x720", memory="8GB")
    assert "it does not fit" in page.splitlines()[0]
    assert "Decoding a segment needs 8.3 GB" in " ".join(page.split())


def test_a_codec_in_bfloat16_is_said() -> None:
    said = "The video autoencoder computes in bfloat16, since float32 does not fit."
    assert said in words("wan2.2-t2v-a14b", "rtx3060", size="1280x720")
    assert said not in words("wan2.2-t2v-a14b", "rtx4090", size="1280x720")


def test_a_processor_is_told_its_memory_and_what_it_reads() -> None:
    page = shown("wan2.2-t2v-a14b", "cpu", memory="6GB", size="64x64", frames=5)
    assert page.startswith("wan2.2-t2v-a14b on a processor, 5.8 GB of which can be used")
    assert max(map(len, page.splitlines())) <= WIDTH
    page = " ".join(page.split())
    assert "streamed beside the compute: 3.7 GB of weights at once, 4 of 80 blocks" in page
    assert "memory peak 5.8 GB (text 5.8, denoising 5.2, decoding 4.8)" in page
    assert "reads 26.7 GB a step from the disk" in page
    assert "video not foretold" in page
    assert "$" not in page
    assert "all resident" in words("wan2.2-t2v-a14b", "cpu", memory="100GB", size="64x64", frames=5)


def test_builtin() -> None:
    assert words("builtin").startswith("builtin is ")
    assert "on any card" in words("builtin")


def test_a_file_is_told_by_its_headers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = {name: t.bfloat16().contiguous() for name, t in build_wan(TINY).state_dict().items()}
    path = tmp_path / "tiny.safetensors"
    save_file(weights, path)
    (expert,) = open_forecast(str(path)).bundle.experts
    numbers = expert_numbers(expert, 4, 1, {}, torch.bfloat16)
    assert numbers.nbytes == sum(t.nbytes for t in weights.values())
    assert numbers.blocks == TINY.layers
    assert numbers.block == sum(t.nbytes for name, t in weights.items() if name.startswith("blocks.0."))
    assert "stored in bfloat16" in words(str(path))
    assert "stored in Q8_0" in words(str(path), dtype="Q8_0")
    assert "Taken as if it were stored in Q8_0." in words(str(path), dtype="Q8_0")


def test_a_lora_beside_packed_weights_takes_memory(tmp_path: Path) -> None:
    rank, file = 16, tmp_path / "some.safetensors"
    down, up = torch.zeros(rank, 5120), torch.zeros(5120, rank)
    save_file({"blocks.0.self_attn.q.lora_A.weight": down, "blocks.0.self_attn.q.lora_B.weight": up}, file)
    sizes = {}
    for kind in ("Q4_K", "fp8"):
        opened = open_forecast("wan2.1-t2v-14b", kind)
        for lora in ((), (str(file),)):
            (expert,) = forecast(opened, job_for(opened, lora=lora)).run.experts
            sizes[kind, bool(lora)] = expert.nbytes
    assert sizes["Q4_K", True] - sizes["Q4_K", False] == 2 * 2 * rank * 5120
    assert sizes["fp8", True] == sizes["fp8", False]


def test_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_forecast, "find_bundle", lambda path: pytest.fail(f"{path} was opened"))
    assert "28.6 GB" in shown("wan2.2-i2v-a14b")
    tensor = next(iter(imagined(TINY, "fp8").values()))
    with pytest.raises(RuntimeError, match="in no file"):
        imagined(TINY, "bfloat16")["head.head.weight"].read()
    assert tensor.nbytes > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpu": "gtx1080"}, 'The card "gtx1080" is not known; known are rtx3060'),
        ({"model": "wan9"}, 'There is no model "wan9"; .*wan2.2-t2v-a14b'),
        ({"model": " "}, 'There is no model " "'),
        ({"dtype": "int3"}, 'The dtype "int3" is not known; known are bfloat16'),
        ({"memory": "much"}, 'The memory "much" is not understood; write 24GB'),
        ({"memory": "0GB"}, "is not understood"),
        ({"size": "1281x720"}, "the nearest that fits is 1280x720"),
        ({"frames": 80}, "80"),
        ({"guidance": "1,2,3"}, "has 3 scales"),
        ({"steps": 0}, "steps is 0"),
        ({"price": float("nan")}, "The price is nan"),
        ({"seconds": -1.0}, "seconds is -1; it must be more than 0"),
        ({"frames": 81, "seconds": 5.0}, "by frames and by seconds; one of them is enough"),
    ],
)
def test_what_is_unknown_is_refused_in_a_sentence(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        shown(**{"model": "wan2.2-t2v-a14b", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "nbytes"), [("24GB", 24 * 10**9), ("24 GiB", 24 * 2**30), ("12", 12 * 10**9), ("8000MB", 8 * 10**9)]
)
def test_memory_in_words(text: str, nbytes: int) -> None:
    assert parse_memory(text) == nbytes
