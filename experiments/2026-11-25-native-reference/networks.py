"""Each network by itself: their forward pass and ours, from one file of weights."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from tiny import Row, coarse, filled, ours, randn, relative, save_pickle, sentence, text_encoders
from torch import Tensor

from pasdedeux.checkpoints.encoders import load_image_encoder
from pasdedeux.checkpoints.video import load_vae
from pasdedeux.models.image import ImageEncoder

BOUND = 2e-5
SIZES: dict[str, Any] = {"dim": 256, "ffn_dim": 96, "num_heads": 2, "text_dim": 32, "freq_dim": 64}
GRID = (3, 6, 4)
TIMESTEP = 612.5


def text_model(wan: SimpleNamespace, seed: int, **sizes: Any) -> Any:
    """Their transformer of Wan 2.2's text and image models."""
    return filled(wan.model.WanModel(num_layers=2, **{**SIZES, **sizes}), seed)


def animate_model(wan: SimpleNamespace, seed: int, *, side: int, layers: int) -> Any:
    """Their Animate transformer; its motion encoder, else for crops of 512 pixels, takes crops of `side`."""

    def encoder(size: int, style_dim: int, motion_dim: int) -> Any:
        return wan.motion_encoder.Generator(size=side, style_dim=style_dim, motion_dim=motion_dim)

    with mock.patch.object(wan.model_animate, "Generator", encoder):
        return filled(wan.model_animate.WanAnimateModel(num_layers=layers, **SIZES), seed)


def lively(vae: Any) -> Any:
    """An autoencoder whose latents differ from picture to picture as much as real ones do."""
    vae.conv1.weight.data *= 20
    return vae


def vae21(wan: SimpleNamespace, path: Path, seed: int = 7) -> tuple[Any, Any]:
    """Their Wan2_1_VAE of few channels, and ours, from a .pth file."""
    make = partial(wan.vae2_1._video_vae, dim=8)
    sizes = {**SMALL_VAE, "z_dim": 16, "temperal_downsample": [False, True, True]}
    save_pickle(lively(filled(wan.vae2_1.WanVAE_(**sizes), seed)), path)
    with mock.patch.object(wan.vae2_1, "_video_vae", make):
        theirs = wan.vae2_1.Wan2_1_VAE(vae_pth=str(path), device="cpu")
    return theirs, load_vae(path, dtype=torch.float32)


def vae22(wan: SimpleNamespace, path: Path, seed: int = 8) -> tuple[Any, Any]:
    """The same for Wan2_2_VAE."""
    make = partial(wan.vae2_2._video_vae, dec_dim=16)
    sizes = {**SMALL_VAE, "dec_dim": 16, "z_dim": 48, "temperal_downsample": [False, True, True]}
    save_pickle(lively(filled(wan.vae2_2.WanVAE_(**sizes), seed)), path)
    with mock.patch.object(wan.vae2_2, "_video_vae", make):
        theirs = wan.vae2_2.Wan2_2_VAE(vae_pth=str(path), c_dim=8, device="cpu")
    return theirs, load_vae(path, dtype=torch.float32)


SMALL_VAE: dict[str, Any] = {"dim": 8, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []}


def clips(wan: SimpleNamespace, path: Path) -> tuple[Any, ImageEncoder]:
    """Their CLIPModel, made without its constructor, which builds the large one; and ours."""
    sizes = {"embed_dim": 16, "vision_dim": 64, "vision_layers": 3, "vocab_size": 20, "text_dim": 32, "text_layers": 1}
    theirs = object.__new__(wan.clip.CLIPModel)
    model, transforms = wan.clip._clip(
        return_transforms=True, pretrained_name="", model_cls=wan.clip.XLMRobertaCLIP, **sizes
    )
    theirs.model, theirs.transforms, theirs.dtype = filled(model, 13), transforms, torch.float32
    return theirs, load_image_encoder(save_pickle(theirs.model, path), dtype=torch.float32)


def row(what: str, found: Tensor, wanted: Tensor) -> Row:
    return Row(what=what, difference=relative(found, wanted), bound=BOUND)


@torch.no_grad()
def rows(wan: SimpleNamespace, folder: Path) -> Iterator[Row]:
    """A row for each network."""
    yield from text_rows(wan, folder)
    yield from animate_rows(wan, folder)
    yield from vae_rows(wan, folder)
    yield from encoder_rows(wan, folder)


def text_rows(wan: SimpleNamespace, folder: Path) -> Iterator[Row]:
    """Wan 2.2's own three: text, image, and text or image with a timestep for each token."""
    text, t, tokens = randn(70, 32, seed=1), torch.tensor([TIMESTEP]), GRID[0] * GRID[1] * GRID[2] // 4
    for kind, channels, z in (("t2v", 0, 16), ("i2v", 20, 16), ("ti2v", 0, 48)):
        theirs = text_model(wan, 21, model_type=kind, in_dim=z + channels, out_dim=z)
        mine = ours(theirs, folder / f"{kind}.safetensors")
        x, y = randn(z, *GRID, seed=2), randn(channels, *GRID, seed=3) if channels else None
        level = t
        if kind == "ti2v":
            level = t.expand(1, tokens).clone()
            level[:, : tokens // GRID[0]] = 0
        wanted = theirs([x], level, [text], tokens, None if y is None else [y])[0]
        seen = x if y is None else torch.cat((x, y))
        found = mine(seen[None], level, mine.prepare(text=text[None], grid=GRID))
        yield row(f"WanModel, {kind}" + (", a timestep per token" if kind == "ti2v" else ""), found[0], wanted)


def animate_rows(wan: SimpleNamespace, folder: Path) -> Iterator[Row]:
    """Animate whole, with crops small and as released; and its branches that no other model has."""
    for side, layers, frames in ((16, 10, 4), (512, 5, 2)):
        theirs = animate_model(wan, 22, side=side, layers=layers)
        mine = ours(theirs, folder / "animate.safetensors")
        grid = (frames, *GRID[1:])
        faces = randn(1, 3, 4 * (frames - 2) + 1, side, side, seed=4).clamp(-1, 1)
        x, y, pose = randn(16, *grid, seed=5), randn(20, *grid, seed=6), randn(1, 16, frames - 1, *grid[1:], seed=7)
        text, features, t = randn(70, 32, seed=8), randn(1, 257, 1280, seed=9), torch.tensor([TIMESTEP])
        length = frames * grid[1] * grid[2] // 4
        shown = {"clip_fea": features, "context": [text], "pose_latents": pose, "face_pixel_values": faces}
        wanted = theirs([x], t=t, seq_len=length, y=[y], **shown)[0]
        cond = mine.prepare(text=text[None], image=features, pose=pose, face=faces, grid=grid)
        found = mine(torch.cat((x, y))[None], t, cond)[0]
        crops = "a face crop" if faces.shape[2] == 1 else f"{faces.shape[2]} face crops"
        yield row(f"WanAnimateModel, {crops} of {side} pixels", found, wanted)
        motion = theirs.motion_encoder.get_motion(faces[0].transpose(0, 1))
        yield row(f"its motion encoder, {side} pixels", mine.motion_encoder(faces)[0], motion)
    many = randn(1, 13, 512, seed=10)
    yield row("its face encoder, 13 frames", mine.face_encoder(many), theirs.face_encoder(many))


def vae_rows(wan: SimpleNamespace, folder: Path) -> Iterator[Row]:
    """Both autoencoders over four chunks, in normalised latents."""
    for name, make, size in (("Wan2_1_VAE", vae21, (48, 32)), ("Wan2_2_VAE", vae22, (64, 32))):
        theirs, mine = make(wan, folder / f"{name}.pth")
        video = torch.from_numpy(coarse(13, *size, 3, seed=31)).permute(3, 0, 1, 2).float() / 127.5 - 1
        latent = theirs.encode([video])[0]
        yield row(f"{name}, encode 13 frames", mine.encode(video[None])[0], latent)
        other = randn(*latent.shape, seed=32)
        for what, z in (("those", latent), ("other", other)):
            yield row(f"{name}, decode {what} latents", mine.decode(z[None])[0], theirs.decode([z])[0])


def encoder_rows(wan: SimpleNamespace, folder: Path) -> Iterator[Row]:
    """umT5 from the words on, and CLIP from the picture on."""
    theirs, mine = text_encoders(wan, folder)
    for words in (0, 7, 200, 600):
        prompt = sentence(words, words)
        wanted = theirs([prompt], torch.device("cpu"))[0]
        yield row(f"T5EncoderModel, {words} words", mine.encode(f"  {prompt}\n").values[0], wanted)
    clip, encoder = clips(wan, folder / "clip.pth")
    picture = torch.from_numpy(coarse(64, 40, 3, seed=33))
    pixels = picture.permute(2, 0, 1)[:, None].float() / 127.5 - 1
    yield row("CLIPModel.visual, 40x64 pixels", encoder.encode(picture), clip.visual([pixels]))
