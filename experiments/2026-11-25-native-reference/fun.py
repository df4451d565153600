"""VideoX-Fun's transformers with VACE and with a reference picture, and its pipelines for Wan2.2-VACE-Fun and
Wan2.2-Fun-Control.

Their pipelines know no segments: they are called for each, with the frames already made in their video and mask.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch
import yaml
from clips import FLOOR, HEIGHT, SEED, STEPS, TAKES, WIDTH, Muddled, Result, compared, drivers_of, performed
from clones import run_as
from networks import GRID, SMALL_VAE, TIMESTEP, lively
from networks import row as network_row
from tiny import Row, filled, ours, randn, relative, save_pickle
from torch import Tensor, nn

from pasdedeux.animate.condition.wan import Prompts
from pasdedeux.animate.condition.wan_control import ControlStage
from pasdedeux.animate.condition.wan_drivers import Drivers
from pasdedeux.animate.condition.wan_vace import VaceStage
from pasdedeux.animate.perform import Settings, Stage, noise
from pasdedeux.animate.segments import plan
from pasdedeux.checkpoints.families import FAMILIES
from pasdedeux.checkpoints.video import load_vae
from pasdedeux.denoise import schedule, shift_sigma

SIZES: dict[str, Any] = {"dim": 256, "ffn_dim": 96, "num_heads": 2, "text_dim": 32, "freq_dim": 64, "num_layers": 4}
CUTS = {False: TAKES[1], True: TAKES[3]}  # whether somebody is replaced: how it is cut
GUIDANCE, SCALE = 4.0, 0.7
Call = Callable[[Tensor, list[int], np.ndarray | None], Tensor]


def vace_model(fun: SimpleNamespace, seed: int) -> Any:
    return filled(fun.vace.VaceWanTransformer3DModel(vace_layers=[0, 2], vace_in_dim=96, **SIZES), seed)


def control_model(fun: SimpleNamespace, seed: int) -> Any:
    sizes = {"in_dim": 52, "out_dim": 16, "add_ref_conv": True, "in_dim_ref_conv": 16}
    return filled(fun.transformer.Wan2_2Transformer3DModel(model_type="i2v", **sizes, **SIZES), seed)


@torch.no_grad()
def rows(fun: SimpleNamespace, folder: Path) -> Iterator[Row]:
    """The networks, then the pipelines."""
    yield from network_rows(fun, folder)
    yield from default_rows(fun)
    yield from euler_rows()
    yield from mask_rows(fun)
    # Long and each with a bent of its own, so that they outweigh the zeros behind them.
    wanted, unwanted = (2 * randn(1, n, 32, seed=n) + 3 * randn(1, 1, 32, seed=n + 1) for n in (300, 250))
    words = Prompts(wanted=wanted, unwanted=unwanted)
    vaes = autoencoders(fun, folder / "vae.pth")
    yield from vace_rows(fun, folder, vaes, words)
    yield from control_rows(fun, folder, vaes, words)


def network_rows(fun: SimpleNamespace, folder: Path) -> Iterator[Row]:
    """Both transformers by themselves."""
    x, text, t = randn(1, 16, *GRID, seed=2), randn(70, 32, seed=1), torch.tensor([TIMESTEP])
    tokens = GRID[0] * GRID[1] * GRID[2] // 4
    theirs, control = vace_model(fun, 81), randn(1, 96, *GRID, seed=3)
    mine = ours(theirs, folder / "vace.safetensors")
    wanted = theirs(x, t=t, vace_context=control, context=[text], seq_len=tokens, vace_context_scale=SCALE)
    found = mine(x, t, mine.prepare(text=text[None], control=control, grid=GRID, scale=SCALE))
    yield network_row("VaceWanTransformer3DModel, hints at 0.7", found, wanted)
    theirs, y, picture = control_model(fun, 82), randn(1, 36, *GRID, seed=4), randn(1, 16, *GRID[1:], seed=5)
    mine = ours(theirs, folder / "control.safetensors")
    for reference, named in ((picture, "a reference"), (torch.zeros_like(picture), "zeros for a reference")):
        wanted = theirs(x, t=t, context=[text], seq_len=tokens, y=y, full_ref=reference)
        given = reference if reference is picture else None
        cond = mine.prepare(text=text[None], reference=given, grid=GRID)
        yield network_row(f"Wan2_2Transformer3DModel, {named}", mine(torch.cat((x, y), dim=1), t, cond), wanted)


def default_rows(fun: SimpleNamespace) -> Iterator[Row]:
    """How many of a family's shift and bound are not those of its configuration files."""
    for name, file in (("wan2.2-vace-fun-a14b", "wan_civitai_t2v"), ("wan2.2-fun-a14b-control", "wan_civitai_i2v")):
        config = yaml.safe_load((fun.root / "config" / "wan2.2" / f"{file}.yaml").read_text(encoding="utf-8"))
        family, bound = FAMILIES[name], config["transformer_additional_kwargs"]["boundary"]
        other = (family.shift != config["scheduler_kwargs"]["shift"]) + (family.bounds != (bound,))
        yield Row(what=f"{name}: defaults that differ", difference=float(other), bound=0)


def euler_rows() -> Iterator[Row]:
    """The levels of its examples' sampler, which shifts twice; and how far an even list lies from them."""
    for shift in (12.0, 5.0):
        what = f"VideoX-Fun's euler, shift {shift:g}, 50 steps"
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(50)
        found = torch.tensor(schedule(50, shift, end=shift_sigma(0.001, shift)))
        yield Row(what=f"{what}: sigmas, given their end", difference=relative(found, scheduler.sigmas), bound=2e-6)
        even = relative(torch.tensor(schedule(50, shift)), scheduler.sigmas)
        yield Row(what=f"{what}: sigmas, evenly down to 0", difference=even)


def mask_rows(fun: SimpleNamespace) -> Iterator[Row]:
    """Which picture's mask each latent frame has, for every length of a segment; and where in a latent a pixel goes."""
    pipe, other = object.__new__(fun.vace_pipeline.Wan2_2VaceFunPipeline), 0
    for frames in range(1, 242, 4):
        mask = torch.arange(frames * 16 * 32, dtype=torch.float32).view(1, frames, 16, 32)
        wanted = pipe.vace_encode_masks([mask])[0]
        stage = SimpleNamespace(vae=SimpleNamespace(stride=(4, 8, 8)))
        other += int((VaceStage._folded(stage, mask[None])[0] != wanted).sum())  # type: ignore[arg-type]
    yield Row(what="VACE's mask in latents, 1 to 241 frames: values that differ", difference=float(other), bound=0)


def autoencoders(fun: SimpleNamespace, path: Path) -> tuple[Any, Any]:
    """Theirs of few channels, and ours, from one file."""
    sizes = {**SMALL_VAE, "z_dim": 16, "temperal_downsample": [False, True, True]}
    save_pickle(lively(filled(fun.vae.AutoencoderKLWan_(**sizes), 7)), path)
    with mock.patch.object(fun.vae, "_video_vae", partial(fun.vae._video_vae, dim=8)):
        theirs = fun.vae.AutoencoderKLWan()
    theirs.model.load_state_dict(torch.load(path))
    theirs.temporal_compression_ratio, theirs.spatial_compression_ratio, theirs.latent_channels = 4, 8, 16
    return theirs.eval().requires_grad_(False), load_vae(path, dtype=torch.float32)


class NoText(nn.Module):
    """In the place of a text encoder: the pipelines ask it for its type only."""

    dtype, device = torch.float32, torch.device("cpu")


def scheduler_of(module: ModuleType, solver: str, shift: float) -> Any:
    """One of those its examples choose from."""
    if solver == "euler":
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    return module.FlowUniPCMultistepScheduler(1000, shift=1, use_dynamic_shifting=False)


@contextmanager
def pipeline(
    module: ModuleType, kind: str, solver: str, vae: Any, nets: list[Any], words: Prompts
) -> Iterator[Callable[..., Any]]:
    """One of its pipelines on the CPU with words already embedded, `nets` with the noisier first."""
    cuda = SimpleNamespace(device=lambda device: nullcontext(), amp=torch.cuda.amp)
    with run_as(module, cuda=cuda):
        scheduler = scheduler_of(module, solver, 5.0)
        high, low = nets
        parts = {"vae": vae, "transformer": low, "transformer_2": high, "scheduler": scheduler}
        made = getattr(module, kind)(tokenizer=None, text_encoder=NoText(), **parts)
        made.set_progress_bar_config(disable=True)
        made.encode_prompt = lambda *_, **__: ([words.wanted[0]], [words.unwanted[0]])  # type: ignore[index]
        plain = {"prompt": "", "height": HEIGHT, "width": WIDTH, "num_inference_steps": STEPS, "shift": 5}
        yield partial(made, **plain, guidance_scale=GUIDANCE, boundary=0.9)


def pixels(frames: np.ndarray) -> Tensor:
    """uint8 [T, H, W, c] to [1, c, T, H, W] in [0, 1], as its examples read videos."""
    return torch.from_numpy(frames.copy()).permute(3, 0, 1, 2)[None].float() / 255


def masks(mask: np.ndarray) -> Tensor:
    """uint8 [T, H, W] to [1, 1, T, H, W], 0 to 255, as its examples read masks."""
    return torch.from_numpy(mask.copy())[None, None].float()


def settings_of(solver: str, replaced: bool) -> Settings:
    """Levels: ours for unipc; for euler those of its sampler."""
    take = CUTS[replaced]
    sigmas = schedule(STEPS, 5.0, start=0.999)
    if solver == "euler":
        sigmas = schedule(STEPS, 5.0, end=shift_sigma(0.001, 5.0))
    return Settings(sigmas=sigmas, seed=SEED, length=take.length, overlap=take.overlap, solver=solver)


def hard(replaced: bool) -> Drivers:
    """Drivers whose mask is one or the other: its pipelines round masks, ours takes them as they are."""
    given = drivers_of(CUTS[replaced])
    if replaced:
        given.mask[:] = np.where(given.mask > 0, 255, 0)  # type: ignore[index]
    return given


def by_segment(replaced: bool, extra: int, call: Call, vae: Any) -> Result:
    """Theirs over all segments: `call` makes the video of one from noise, its frames and those handed over."""
    take, latents, made = CUTS[replaced], [], np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)
    decode = vae.decode

    def kept(latent: Tensor) -> Any:
        latents.append(latent[0].clone())
        return decode(latent)

    with mock.patch.object(vae, "decode", kept):
        for segment in plan(take.frames, take.length, take.overlap):
            shape = (1, 16, 1 + take.length // 4 + extra, HEIGHT // 8, WIDTH // 8)
            index = segment.source_indices(take.frames)
            video = call(noise(shape, SEED, segment.index), index, made[-take.overlap :] if segment.overlap else None)
            frames = (video[0] * 255).round().byte().permute(1, 2, 3, 0).numpy()
            made = np.concatenate((made, frames[segment.overlap : segment.length - segment.pad]))
    return Result(latents, made)


def seen(given: Drivers, index: list[int], handed: np.ndarray | None, scene: np.ndarray) -> tuple[np.ndarray, ...]:
    """Video and mask (255: to be made) of a segment, with the frames already made in them."""
    video = scene[index]
    mask = np.full(video.shape[:3], 255, np.uint8) if given.mask is None else np.asarray(given.mask)[index]
    if handed is not None:
        video[: len(handed)], mask[: len(handed)] = handed, 0
    return video, mask


def pair(make: Callable[[int], Any], folder: Path) -> tuple[list[Any], list[Any]]:
    """Two experts of theirs, and ours."""
    theirs = [make(91 + k) for k in range(2)]
    return theirs, [ours(net, folder / f"expert{k}.safetensors") for k, net in enumerate(theirs)]


def vace_rows(fun: SimpleNamespace, folder: Path, vaes: tuple[Any, Any], words: Prompts) -> Iterator[Row]:
    """Wan2_2VaceFunPipeline."""
    theirs, mine = pair(partial(vace_model, fun), folder)
    for solver, replaced in (("unipc", False), ("unipc", True), ("euler", True)):
        given = hard(replaced)
        scene = given.pose
        if replaced:
            scene = np.where(np.asarray(given.mask)[..., None] > 0, given.pose, given.background)
        with pipeline(fun.vace_pipeline, "Wan2_2VaceFunPipeline", solver, vaes[0], theirs, words) as pipe:

            def call(x: Tensor, index: list[int], handed: np.ndarray | None) -> Tensor:
                video, mask = seen(given, index, handed, scene)  # noqa: B023
                shown = {"video": pixels(video), "control_video": pixels(video), "mask_video": masks(mask)}
                picture = pixels(given.reference[None])  # noqa: B023
                return pipe(
                    **shown, subject_ref_images=picture, latents=x, num_frames=len(index), vace_context_scale=SCALE
                ).videos

            wanted = by_segment(replaced, 1, call, vaes[0])
        stage = VaceStage(vae=vaes[1], drivers=given, prompts=words, scale=SCALE)
        made = performed(stage, mine, (GUIDANCE, GUIDANCE), settings_of(solver, replaced), 0.9)
        found = Result([latent[:, 1:] for latent in made.latents], made.frames)
        mode = "replace, 5 frames handed over" if replaced else "animate"
        yield from compared(f"Wan2_2VaceFunPipeline, two experts, {mode}, {solver}", found, wanted)
    yield from controls("VACE", stage, mine)


def controls(name: str, stage: Any, nets: list[Any]) -> Iterator[Row]:
    """What each thing shown changes in the second segment, were it another."""
    guidance, settings = (GUIDANCE, GUIDANCE), settings_of("unipc", True)

    def second(stage: Stage, nets: list[Any]) -> Tensor:
        return performed(stage, nets, guidance, settings, 0.9).latents[1]

    right, given = second(stage, nets), stage.drivers
    others = {what: getattr(given, what)[::-1].copy() for what in ("pose", "background", "reference")}
    others["mask"] = np.roll(given.mask, 5, axis=1)
    for what, other in others.items():
        changed = replace(stage, drivers=replace(given, **{what: other}), _constant={})
        apart = relative(second(changed, nets), right)
        yield Row(what=f"control, {name}: our {what} another", difference=apart, floor=FLOOR)
    apart = relative(second(Muddled(stage), nets), right)
    yield Row(what=f"control, {name}: our frames handed over upside down", difference=apart, floor=FLOOR)
    apart = relative(second(stage, nets[::-1]), right)
    yield Row(what=f"control, {name}: our experts exchanged", difference=apart, floor=FLOOR)


def control_rows(fun: SimpleNamespace, folder: Path, vaes: tuple[Any, Any], words: Prompts) -> Iterator[Row]:
    """Wan2_2FunControlPipeline."""
    theirs, mine = pair(partial(control_model, fun), folder)
    for solver, replaced in (("unipc", False), ("euler", False), ("unipc", True)):
        given = hard(replaced)
        scene = given.background if replaced else np.zeros_like(given.pose)
        with pipeline(fun.control_pipeline, "Wan2_2FunControlPipeline", solver, vaes[0], theirs, words) as pipe:

            def call(x: Tensor, index: list[int], handed: np.ndarray | None) -> Tensor:
                video, mask = seen(given, index, handed, scene)  # noqa: B023
                shown = {"video": pixels(video), "mask_video": masks(mask), "control_video": pixels(given.pose[index])}  # noqa: B023
                picture = pixels(given.reference[None])  # noqa: B023
                return pipe(**shown, ref_image=picture, latents=x, num_frames=len(index)).videos

            wanted = by_segment(replaced, 0, call, vaes[0])
        stage = ControlStage(vae=vaes[1], drivers=given, prompts=words)
        found = performed(stage, mine, (GUIDANCE, GUIDANCE), settings_of(solver, replaced), 0.9)
        mode = "replace, 5 frames handed over" if replaced else "animate"
        yield from compared(f"Wan2_2FunControlPipeline, two experts, {mode}, {solver}", found, wanted)
    yield from controls("Fun-Control", stage, mine)
