"""Tiny Wan models of every family, with encoders and autoencoder, as native folders."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pasdedeux.models.vae import VAEConfig, WanVAE
from pasdedeux.models.vae22 import VAE22Config, WanVAE22
from pasdedeux.models.wan import WAN_MODELS, AnimateConfig, VaceConfig, WanConfig, build_wan

SIZES = {"dim": 128, "ffn_dim": 64, "heads": 1, "layers": 2, "text_dim": 16, "freq_dim": 32}
MOTION = {"motion_channels": (4, 8, 8), "motion_style": 8, "motion_dim": 4, "face_dim": 16, "face_heads": 2}
CLIP_WIDTH = 32
PAIRS = {"wan2.2-t2v-a14b", "wan2.2-i2v-a14b", "wan2.2-vace-fun-a14b", "wan2.2-fun-a14b-control"}
PIECES = ["<pad>", "</s>", "<s>", "<unk>", "▁", *(f"▁{c}" for c in "abcdefgh"), *"ijklmnopqrstuvwxyz"]
Tensors = dict[str, Tensor]


def small(config: WanConfig) -> WanConfig:
    """A released config with the sizes of a toy."""
    hints = {"vace_layers": (0, 1)} if isinstance(config, VaceConfig) else {}
    config = replace(config, **SIZES, **hints)
    if isinstance(config, AnimateConfig):
        config = replace(config, face_every=1, **MOTION)
    return config if config.image_dim is None else replace(config, image_dim=CLIP_WIDTH)


def filled(module: nn.Module, seed: int) -> Tensors:
    """Random weights that keep a signal alive; buffers as they are."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        scale = 0.3 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        parameter.data.copy_(torch.randn(parameter.shape, generator=draw) * scale)
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def text_tensors(width: int = 16) -> Tensors:
    """umT5 in miniature, under native names."""
    shapes = {"token_embedding.weight": (len(PIECES), width), "norm.weight": (width,)}
    for name, shape in {"norm1": (width,), "norm2": (width,), "attn.o": (width, 24)}.items():
        shapes[f"blocks.0.{name}.weight"] = shape
    shapes |= {f"blocks.0.attn.{k}.weight": (24, width) for k in "qkv"}
    shapes |= {"blocks.0.ffn.gate.0.weight": (32, width), "blocks.0.ffn.fc1.weight": (32, width)}
    shapes |= {"blocks.0.ffn.fc2.weight": (width, 32), "blocks.0.pos_embedding.embedding.weight": (8, 3)}
    return {name: torch.randn(s, generator=torch.Generator().manual_seed(3)) for name, s in shapes.items()}


def image_tensors(dim: int = CLIP_WIDTH) -> Tensors:
    """CLIP in miniature, under native names."""
    shapes = {
        "visual.cls_embedding": (1, 1, dim),
        "visual.pos_embedding": (1, 5, dim),
        "visual.patch_embedding.weight": (dim, 3, 4, 4),
        "visual.head": (dim, 12),
    }
    layers = {"visual.pre_norm": (dim,), "visual.post_norm": (dim,)}
    for i in range(2):
        layers |= {f"visual.transformer.{i}.{name}": (dim,) for name in ("norm1", "norm2")}
        layers |= {f"visual.transformer.{i}.attn.to_qkv": (3 * dim, dim)}
        layers |= {f"visual.transformer.{i}.attn.proj": (dim, dim)}
        layers |= {f"visual.transformer.{i}.mlp.0": (48, dim), f"visual.transformer.{i}.mlp.2": (dim, 48)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {name: torch.randn(s, generator=torch.Generator().manual_seed(4)) * 0.3 for name, s in shapes.items()}


def write_tokenizer(folder: Path) -> None:
    """Every letter a piece."""
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    made = tokenizers.Tokenizer(tokenizers.models.Unigram([(p, -float(i)) for i, p in enumerate(PIECES)], unk_id=3))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True)
    made.save(str(folder / "tokenizer.json"))


def write_wan(folder: Path, family: str) -> Path:
    """A whole model as its makers lay it out."""
    config = small(WAN_MODELS[family])
    for seed, name in enumerate(("high_noise_model", "low_noise_model") if family in PAIRS else ("",)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file(filled(build_wan(config), seed), folder / name / "diffusion_pytorch_model.safetensors")
    if family == "wan2.2-ti2v-5b":
        vae = WanVAE22(VAE22Config(dim=4, decoder_dim=4, multipliers=(1, 1, 2, 2), res_blocks=1))
        torch.save(filled(vae, 7), folder / "Wan2.2_VAE.pth")
    else:
        vae = WanVAE(VAEConfig(dim=4, multipliers=(1, 1, 2, 2), res_blocks=1))
        torch.save(filled(vae, 7), folder / "Wan2.1_VAE.pth")
    torch.save(text_tensors(), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    write_tokenizer(folder / "google" / "umt5-xxl")
    if config.image_dim is not None:
        torch.save(image_tensors(), folder / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    return folder


@pytest.fixture(scope="session")
def wan_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model of a family, written once; its name is the family's."""
    root = tmp_path_factory.mktemp("wan")

    def find(family: str) -> Path:
        folder = root / family
        return folder if folder.exists() else write_wan(folder, family)

    return find


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are cached where nobody else looks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
