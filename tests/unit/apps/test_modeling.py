from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rich.console import Console

from pasdedeux.apps.modeling import GetOptions, get_model, show_models

hub = pytest.importorskip("huggingface_hub")


class Hub:
    """In place of the client: remembers what was asked for, and makes a file for every pattern."""

    def __init__(self, fault: BaseException | None = None, makes: bool = True) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._fault, self._makes = fault, makes

    def __call__(self, repo_id: str, **wanted: Any) -> Any:
        self.asked.append((repo_id, wanted))
        if self._fault is not None:
            raise self._fault
        if wanted.get("dry_run"):
            return [
                SimpleNamespace(filename=pattern, file_size=2_000_000_000, will_download="vae" not in pattern)
                for pattern in wanted["allow_patterns"]
            ]
        for pattern in wanted["allow_patterns"] if self._makes else ():
            path = wanted["local_dir"] / pattern.replace("*", "a")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        return str(wanted["local_dir"])


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**12))


def client(monkeypatch: pytest.MonkeyPatch, **how: Any) -> Hub:
    made = Hub(**how)
    monkeypatch.setattr(hub, "snapshot_download", made)
    return made


def fetched(name: str, options: GetOptions, width: int = 140) -> str:
    out = StringIO()
    get_model(name, options, Console(file=out, width=width))
    return out.getvalue()


def test_the_list_names_every_repository_whole() -> None:
    out = StringIO()
    show_models(console=Console(file=out, width=80))
    assert "wan2.2-fun-a14b-control-fp8-scaled" in out.getvalue()
    assert "about 126.2 GB" in out.getvalue().replace("\n", " ") or "126.2" in out.getvalue()
    out = StringIO()
    show_models("wan2.2-animate-14b", Console(file=out, width=140))
    assert "relighting_lora.ckpt" in out.getvalue()
    assert "if asked for" in out.getvalue()
    assert "licence: Apache-2.0" in out.getvalue()


def test_one_expert_is_asked_for_without_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = client(monkeypatch).asked
    said = fetched("wan2.2-t2v-a14b", GetOptions(expert="high", folder=tmp_path))
    assert asked == [
        (
            "Wan-AI/Wan2.2-T2V-A14B",
            {
                "allow_patterns": [
                    "high_noise_model/*",
                    "Wan2.1_VAE.pth",
                    "models_t5_umt5-xxl-enc-bf16.pth",
                    "google/umt5-xxl/*",
                ],
                "local_dir": tmp_path,
            },
        )
    ]
    assert "holds high transformer, vae, text, tokenizer" in said


def test_parts_of_other_pages_are_asked_for_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = client(monkeypatch).asked
    options = GetOptions(expert="low", parts=("transformer", "vae"), quant="Q4_K_M", folder=tmp_path)
    fetched("wan2.2-i2v-a14b-gguf", options)
    assert [(page, wanted["allow_patterns"]) for page, wanted in asked] == [
        ("QuantStack/Wan2.2-I2V-A14B-GGUF", ["LowNoise/*-Q4_K_M.gguf"]),
        ("Comfy-Org/Wan_2.1_ComfyUI_repackaged", ["split_files/vae/wan_2.1_vae.safetensors"]),
    ]


def test_by_default_the_files_go_to_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = client(monkeypatch).asked
    fetched("wan2.2-ti2v-5b", GetOptions())
    assert asked[0][1]["local_dir"] == Path("models/wan2.2-ti2v-5b")


def test_a_dry_run_lists_files_and_fetches_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = client(monkeypatch).asked
    said = fetched("wan2.2-t2v-a14b-diffusers", GetOptions(expert="low", dry_run=True, folder=tmp_path / "x"))
    assert all(wanted["dry_run"] for _, wanted in asked)
    assert "transformer_2/*" in said
    assert "transformer/*" not in said
    assert "is here" in said
    assert "10.0 GB to fetch" in said
    assert not (tmp_path / "x").exists()


def test_a_dry_run_without_a_connection_still_shows_the_known_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(monkeypatch, fault=hub.errors.OfflineModeIsEnabled("offline"))
    said = fetched("wan2.2-t2v-a14b", GetOptions(dry_run=True, folder=tmp_path))
    assert "57.2 GB" in said
    assert "not listed: Wan-AI/Wan2.2-T2V-A14B cannot be fetched: offline" in said


def response(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None, url="x", text="")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda: hub.errors.GatedRepoError("no", response=response(403)), "accept its licence on its page"),
        (lambda: hub.errors.RepositoryNotFoundError("no", response=response(404)), "There is no page"),
        (lambda: hub.errors.LocalEntryNotFoundError("no"), "is there a connection"),
        (
            lambda: hub.errors.HfHubHTTPError("503 Server Error\nmore", response=response(503)),
            "fetched: 503 Server Error$",
        ),
        (lambda: hub.errors.HfHubHTTPError.__mro__[1]("Name resolution failed"), "fetched: Name resolution failed$"),
        (lambda: OSError("No space left on device"), "fetched: No space left"),
    ],
)
def test_faults_of_the_net_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, said: str
) -> None:
    client(monkeypatch, fault=fault())
    with pytest.raises(ValueError, match=said) as caught:
        fetched("wan2.2-t2v-a14b", GetOptions(folder=tmp_path))
    assert "\n" not in str(caught.value)


def test_files_that_a_page_lacks_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(monkeypatch, makes=False)
    with pytest.raises(ValueError, match=r"GGUF has no HighNoise/\*-Q9.gguf"):
        fetched("wan2.2-t2v-a14b-gguf", GetOptions(folder=tmp_path, quant="Q9"))


def test_a_full_disk_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = client(monkeypatch).asked
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**10))
    with pytest.raises(ValueError, match=r"needs 126.2 GB, but only 10.0 GB are free"):
        fetched("wan2.2-t2v-a14b", GetOptions(folder=tmp_path))
    assert asked == []


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client(monkeypatch, fault=KeyboardInterrupt())
    with pytest.raises(typer.Exit) as caught:
        fetched("wan2.2-t2v-a14b", GetOptions(folder=tmp_path))
    assert caught.value.exit_code == 130
    assert "goes on from here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"expert": "middle"}, "must be high or low"), ({"parts": ("unet",)}, "parts are transformer, vae")],
)
def test_options_are_checked(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GetOptions(**fields)
