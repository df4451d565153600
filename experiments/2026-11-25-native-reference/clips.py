"""Whole clips of Wan 2.2: their `generate`, from the prompt and the pictures to the frames, and ours.

Both sides have their own text encoder, CLIP, autoencoder, transformers, solver and loop, and share the weights' files,
the noise and the inputs. The pipelines are made without their constructors, which load the large models and want CUDA.
Their timesteps are made exact and the frames they hand from clip to clip rounded to 8 bits, but in the rows that say
what these two do.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from clones import run_as
from networks import animate_model, text_model, vae21, vae22
from networks import clips as clip_encoders
from PIL import Image
from tiny import Row, coarse, ours, randn, relative, sentence, text_encoders
from torch import Tensor

from pasdedeux.animate.condition.wan import Bytes, Prompts, WanDenoiser, with_start
from pasdedeux.animate.condition.wan_animate import AnimateStage
from pasdedeux.animate.condition.wan_drivers import Drivers
from pasdedeux.animate.condition.wan_image import ImageStage, StartStage
from pasdedeux.animate.condition.wan_text import TextStage
from pasdedeux.animate.images import letterbox
from pasdedeux.animate.perform import Denoised, Ready, SegmentCondition, Settings, Stage, noise, perform
from pasdedeux.denoise import Expert, ExpertSet, Handoff, schedule
from pasdedeux.models.image import ImageEncoder

BOUND = 1e-5
FLOOR = 50 * BOUND  # what anything shown must change, or the comparison could not tell it from nothing
GREY = 1.01 / 255  # one grey level, where both sides round values that lie about the middle of two
SEED, STEPS, FRAMES = 5, 5, 9
CPU = torch.device("cpu")


class Result(NamedTuple):
    """The last latent [C, F, h, w] of each clip, and all frames, uint8 [T, H, W, 3]."""

    latents: list[Tensor]
    frames: np.ndarray


@dataclass
class Watched:
    """An autoencoder of theirs, that keeps what it decodes and can round it to 8 bits."""

    vae: Any
    eight_bits: bool = True

    def __post_init__(self) -> None:
        self.model, self.latents = self.vae.model, []

    def encode(self, videos: Any) -> Any:
        return self.vae.encode(videos)

    def decode(self, latents: list[Tensor]) -> list[Tensor]:
        self.latents += [latent.clone() for latent in latents]
        made = self.vae.decode(latents)
        return [((video + 1) * 127.5).round() / 127.5 - 1 for video in made] if self.eight_bits else made


@dataclass(frozen=True)
class Words:
    """Two prompts, and both text encoders."""

    theirs: Any
    mine: Any
    wanted: str = sentence(200, 1)
    unwanted: str = sentence(150, 2)

    @property
    def prompts(self) -> Prompts:
        """Embedded by ours."""
        return Prompts(wanted=self.mine.encode(self.wanted).values, unwanted=self.mine.encode(self.unwanted).values)


def to_frames(video: Tensor) -> np.ndarray:
    """[3, T, H, W] in [-1, 1] to uint8 [T, H, W, 3]."""
    return ((video + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()


def our_noise() -> Callable[..., Tensor]:
    """In the place of their randn: our noise of one segment after another."""
    drawn: list[int] = []

    def draw(*shape: int, **_: Any) -> Tensor:
        drawn.append(len(drawn))
        return noise((1, *shape), SEED, drawn[-1])[0]

    return draw


def performed(stage: Stage, nets: list[Any], guidance: tuple[float, ...], settings: Settings, bound: float) -> Result:
    """Ours."""
    experts = tuple(Expert(WanDenoiser(net), f"expert {k}", guidance[k]) for k, net in enumerate(nets))
    latents: dict[int, Tensor] = {}
    frames, names = [], set()
    for event in perform(stage, ExpertSet(experts, Handoff((bound,) if len(nets) > 1 else ())), settings):
        if isinstance(event, Denoised):
            latents[event.segment] = event.step.x[0]
            names.add(event.step.expert)
        elif isinstance(event, Ready):
            frames.append(event.frames)
    if len(names) != len(nets):
        raise AssertionError(f"only {names} ran")
    return Result(list(latents.values()), np.concatenate(frames))


def settings_of(shift: float, solver: str = "unipc", length: int = FRAMES, overlap: int = 0) -> Settings:
    """Noise levels as the engine makes them."""
    sigmas = schedule(STEPS, shift, start=0.999 if solver == "unipc" else 1.0)
    return Settings(sigmas=sigmas, seed=SEED, length=length, overlap=overlap, solver=solver)


def pipeline(kind: type, words: Words, vae: Watched, **more: Any) -> Any:
    """One of their pipelines on the CPU."""
    made = object.__new__(kind)
    plain = {"device": CPU, "rank": 0, "sp_size": 1, "t5_cpu": True, "init_on_cpu": False, "patch_size": (1, 2, 2)}
    plain |= {"num_train_timesteps": 1000, "param_dtype": torch.float32, "text_encoder": words.theirs, "vae": vae}
    vars(made).update({**plain, "sample_neg_prompt": words.unwanted, "sample_prompt": words.wanted, **more})
    return made


def latent_difference(found: Result, wanted: Result) -> float:
    if len(found.latents) != len(wanted.latents):
        raise AssertionError(f"there are {len(found.latents)} and {len(wanted.latents)} clips")
    return max(relative(a, b) for a, b in zip(found.latents, wanted.latents, strict=True))


def compared(what: str, found: Result, wanted: Result) -> Iterator[Row]:
    """Latents and frames, which must not be so flat that nothing could differ."""
    inside = np.mean((wanted.frames > 0) & (wanted.frames < 255))
    if wanted.frames.std() < 5 or inside < 0.3 or found.frames.shape != wanted.frames.shape:
        raise AssertionError(f"{what}: frames of {wanted.frames.shape} have a deviation of {wanted.frames.std():.1f}")
    yield Row(what=f"{what}: latents", difference=latent_difference(found, wanted), bound=BOUND)
    apart = np.abs(found.frames.astype(int) - wanted.frames).max()
    yield Row(what=f"{what}: frames", difference=float(apart) / 255, bound=GREY)


@torch.no_grad()
def rows(wan: SimpleNamespace, folder: Path) -> Iterator[Row]:
    """T2V, I2V, TI2V, Animate."""
    words = Words(*text_encoders(wan, folder))
    yield from text_rows(wan, folder, words)
    yield from image_rows(wan, folder, words)
    yield from start_rows(wan, folder, words)
    yield from animate_rows(wan, folder, words)


def pair(wan: SimpleNamespace, folder: Path, **sizes: Any) -> tuple[list[Any], list[Any]]:
    """Two experts of theirs, the noisier first, and ours."""
    theirs = [text_model(wan, 50 + k, **sizes) for k in range(2)]
    return theirs, [ours(net, folder / f"expert{k}.safetensors") for k, net in enumerate(theirs)]


def text_rows(wan: SimpleNamespace, folder: Path, words: Words) -> Iterator[Row]:
    """WanT2V, both solvers."""
    (high, low), mine = pair(wan, folder, in_dim=16, out_dim=16)
    their_vae, our_vae = vae21(wan, folder / "vae.pth")
    size, guidance, bound = (32, 48), (4.0, 3.0), 0.875

    def theirs(solver: str, integers: bool = False) -> Result:
        vae = Watched(their_vae, eight_bits=False)
        experts = {"high_noise_model": high, "low_noise_model": low, "boundary": bound, "vae_stride": (4, 8, 8)}
        made = pipeline(wan.text2video.WanT2V, words, vae, **experts)
        with run_as(wan.text2video, integers=integers, randn=our_noise()):
            video = made.generate(
                words.wanted,
                size=size,
                frame_num=FRAMES,
                shift=12.0,
                sample_solver=solver,
                sampling_steps=STEPS,
                guide_scale=guidance[::-1],
                seed=SEED,
                offload_model=False,
            )
        return Result(vae.latents, to_frames(video))

    stage = TextStage(vae=our_vae, frames=FRAMES, size=size, prompts=words.prompts)
    for solver in ("unipc", "dpm++"):
        found, wanted = performed(stage, mine, guidance, settings_of(12.0, solver), bound), theirs(solver)
        yield from compared(f"WanT2V.generate, two experts, {solver}", found, wanted)
    wanted = theirs("unipc")
    cut = latent_difference(theirs("unipc", integers=True), wanted)
    yield Row(what="of it: what cutting timesteps to integers does to theirs, 5 steps", difference=cut)
    wrong = performed(stage, mine[::-1], guidance, settings_of(12.0), bound)
    apart = latent_difference(wrong, wanted)
    yield Row(what="control: our experts exchanged", difference=apart, floor=FLOOR)
    deaf = TextStage(vae=our_vae, frames=FRAMES, size=size, prompts=Prompts(wanted=words.prompts.wanted[:, :150]))
    apart = latent_difference(performed(deaf, mine, guidance, settings_of(12.0), bound), wanted)
    yield Row(what="control: our prompt cut to 150 words, nothing unwanted", difference=apart, floor=FLOOR)


def image_rows(wan: SimpleNamespace, folder: Path, words: Words) -> Iterator[Row]:
    """WanI2V."""
    (high, low), mine = pair(wan, folder, in_dim=36, out_dim=16, model_type="i2v")
    their_vae, our_vae = vae21(wan, folder / "vae.pth")
    size, guidance, bound, picture = (32, 64), (3.5, 2.5), 0.9, coarse(64, 32, 3, seed=61)
    vae = Watched(their_vae, eight_bits=False)
    experts = {"high_noise_model": high, "low_noise_model": low, "boundary": bound, "vae_stride": (4, 8, 8)}
    made = pipeline(wan.image2video.WanI2V, words, vae, **experts)
    with run_as(wan.image2video, randn=our_noise()):
        video = made.generate(
            words.wanted,
            Image.fromarray(picture),
            max_area=size[0] * size[1],
            frame_num=FRAMES,
            shift=5.0,
            sampling_steps=STEPS,
            guide_scale=guidance[::-1],
            seed=SEED,
            offload_model=False,
        )
    stage = ImageStage(vae=our_vae, frames=FRAMES, size=size, prompts=words.prompts, image=picture)
    found = performed(stage, mine, guidance, settings_of(5.0), bound)
    wanted = Result(vae.latents, to_frames(video))
    yield from compared("WanI2V.generate, two experts", found, wanted)
    other = ImageStage(vae=our_vae, frames=FRAMES, size=size, prompts=words.prompts, image=picture[::-1].copy())
    apart = latent_difference(performed(other, mine, guidance, settings_of(5.0), bound), wanted)
    yield Row(what="control: our picture upside down", difference=apart, floor=FLOOR)


def start_rows(wan: SimpleNamespace, folder: Path, words: Words) -> Iterator[Row]:
    """WanTI2V, with a picture and without."""
    net = text_model(wan, 53, in_dim=48, out_dim=48)
    mine = [ours(net, folder / "start.safetensors")]
    their_vae, our_vae = vae22(wan, folder / "vae22.pth")
    size, guidance, picture = (32, 64), (5.0,), coarse(64, 32, 3, seed=62)
    for image in (picture, None):
        vae = Watched(their_vae, eight_bits=False)
        made = pipeline(wan.textimage2video.WanTI2V, words, vae, model=net, vae_stride=(4, 16, 16))
        with run_as(wan.textimage2video, randn=our_noise()):
            video = made.generate(
                words.wanted,
                img=None if image is None else Image.fromarray(image),
                size=size,
                max_area=size[0] * size[1],
                frame_num=FRAMES,
                sampling_steps=STEPS,
                guide_scale=guidance[0],
                seed=SEED,
                offload_model=False,
            )
        stage = StartStage(vae=our_vae, frames=FRAMES, size=size, prompts=words.prompts, image=image)
        found = performed(stage, mine, guidance, settings_of(5.0), 0)
        wanted = Result(vae.latents, to_frames(video))
        if image is not None:  # theirs puts what is known back after every step, ours as it decodes
            known = stage.condition(list(range(FRAMES)), None).cond.known
            found.latents[0] = with_start(found.latents[0][None], known)[0]
        yield from compared(f"WanTI2V.generate, {'no' if image is None else 'a'} picture", found, wanted)


# --- Animate


@dataclass(frozen=True)
class Take:
    """A performance, its mode, and how it is sampled."""

    name: str
    frames: int
    length: int = FRAMES
    overlap: int = 1
    solver: str = "unipc"
    guidance: float = 1.0

    @property
    def replace(self) -> bool:
        return self.name.startswith("replace")


TAKES = (
    Take("animate, dpm++, 14 frames, no guidance", 14, solver="dpm++"),
    Take("animate, 17 frames, guided", 17, guidance=2.5),
    Take("replace, 14 frames, no guidance", 14),
    Take("replace, 21 frames, 5 handed over, guided", 21, length=13, overlap=5, guidance=2.5),
)
SIDE, WIDTH, HEIGHT = 8, 32, 48


def drivers_of(take: Take) -> Drivers:
    """Random pictures; to replace, a box that wanders, with a soft edge such as a lossy video gives a mask."""
    pose, face = coarse(take.frames, HEIGHT, WIDTH, 3, seed=71), coarse(take.frames, SIDE, SIDE, 3, seed=72)
    reference = coarse(HEIGHT, WIDTH, 3, seed=73)
    if not take.replace:
        return Drivers(pose=pose, face=face, reference=reference)
    mask = np.zeros((take.frames, HEIGHT, WIDTH), np.uint8)
    for k in range(take.frames):
        mask[k, 5 + k : 30 + k, 6 + k // 2 : 19 + k // 2] = 255
        mask[k, 5 + k : 30 + k, 16 + k // 2 : 19 + k // 2] = 100
    background = coarse(take.frames, HEIGHT, WIDTH, 3, seed=74) * (mask == 0)[..., None]
    return Drivers(pose=pose, face=face, reference=reference, background=background, mask=mask)


def write_source(folder: Path, given: Drivers) -> Path:
    """What their generate reads: the videos as arrays beside where they would lie, the picture as it is."""
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "src_ref.png"), given.reference[..., ::-1])
    np.save(folder / "src_pose.npy", given.pose)
    np.save(folder / "src_face.npy", given.face)
    if given.background is not None:
        np.save(folder / "src_bg.npy", given.background)
        np.save(folder / "src_mask.npy", np.repeat(np.asarray(given.mask)[..., None], 3, axis=-1))
    return folder


def animate_rows(wan: SimpleNamespace, folder: Path, words: Words) -> Iterator[Row]:
    """WanAnimate.generate over two clips, in both modes; CLIP's features are widened to 1280 by a fixed matrix."""
    net = animate_model(wan, 54, side=SIDE, layers=10)
    mine = ours(net, folder / "animate.safetensors")
    (their_vae, our_vae), (clip, encoder) = vae21(wan, folder / "vae.pth"), clip_encoders(wan, folder / "clip.pth")
    wide = randn(64, 1280, seed=75)
    looking = SimpleNamespace(visual=lambda videos: clip.visual(videos) @ wide)

    def theirs(take: Take, **changes: bool) -> Result:
        vae = Watched(their_vae, eight_bits=changes.get("eight_bits", True))
        made = pipeline(wan.animate.WanAnimate, words, vae, noise_model=net, clip=looking)
        source = write_source(folder / "source", drivers_of(take))
        with run_as(wan.animate, integers=changes.get("integers", False), randn=our_noise()):
            video = made.generate(
                str(source),
                replace_flag=take.replace,
                clip_len=take.length,
                refert_num=take.overlap,
                sample_solver=take.solver,
                sampling_steps=STEPS,
                guide_scale=take.guidance,
                seed=SEED,
                offload_model=False,
            )
        return Result(vae.latents, to_frames(video))

    def found(take: Take) -> Result:
        prompts = words.prompts if take.guidance > 1 else Prompts(wanted=words.prompts.wanted)
        stage = animate_stage(our_vae, drivers_of(take), prompts, encoder, wide)
        settings = settings_of(5.0, take.solver, take.length, take.overlap)
        made = performed(stage, [mine], (take.guidance,), settings, 0)
        return Result([latent[:, 1:] for latent in made.latents], made.frames)

    for take in TAKES:
        yield from compared(f"WanAnimate.generate, {take.name}", found(take), theirs(take))
    take = TAKES[0]
    wanted = theirs(take)
    cut = latent_difference(theirs(take, integers=True), wanted)
    yield Row(what="of it: what cutting timesteps to integers does to theirs, 5 steps", difference=cut)
    floats = latent_difference(theirs(take, eight_bits=False), wanted)
    yield Row(what="of it: what handing over floats, not 8 bits, does to theirs", difference=floats)
    yield from controls(our_vae, mine, drivers_of(TAKES[2]), words, encoder, wide)
    yield from padding_rows(wan)


def animate_stage(vae: Any, given: Drivers, prompts: Prompts, encoder: ImageEncoder, wide: Tensor) -> AnimateStage:
    """Ours."""
    features = encoder.encode(torch.from_numpy(given.reference)) @ wide
    return AnimateStage(vae=vae, drivers=given, prompts=prompts, features=features)


@dataclass(frozen=True)
class Muddled:
    """A stage that is handed over its frames upside down."""

    stage: Stage

    @property
    def frames(self) -> int:
        return self.stage.frames

    def condition(self, index: list[int], handed: Bytes | None) -> SegmentCondition:
        return self.stage.condition(index, None if handed is None else handed[:, ::-1].copy())

    def decode(self, latent: Tensor, what: SegmentCondition | None = None) -> Iterator[Bytes]:
        return self.stage.decode(latent, what)


def controls(vae: Any, net: Any, given: Drivers, words: Words, encoder: ImageEncoder, wide: Tensor) -> Iterator[Row]:
    """What each thing shown to Animate changes in the second clip, were it another."""
    prompts, settings = Prompts(wanted=words.prompts.wanted), settings_of(5.0, overlap=1)

    def second(stage: Stage) -> Tensor:
        return performed(stage, [net], (1.0,), settings, 0).latents[1][:, 1:]

    plain = animate_stage(vae, given, prompts, encoder, wide)
    right = second(plain)
    others = {name: getattr(given, name)[::-1].copy() for name in ("pose", "face", "background", "reference")}
    others["mask"] = np.roll(given.mask, 5, axis=1)
    for name, other in others.items():
        stage = animate_stage(vae, replace(given, **{name: other}), prompts, encoder, wide)
        yield Row(what=f"control: our {name} another", difference=relative(second(stage), right), floor=FLOOR)
    blind = replace(plain, features=-plain.features)
    yield Row(what="control: our CLIP features another", difference=relative(second(blind), right), floor=FLOOR)
    muddled = relative(second(Muddled(plain)), right)
    yield Row(what="control: our frames handed over upside down", difference=muddled, floor=FLOOR)


def padding_rows(wan: SimpleNamespace) -> Iterator[Row]:
    """The character's picture into the output's shape. Ours resamples otherwise, so only where it lies must agree."""
    made = object.__new__(wan.animate.WanAnimate)
    for width, height in ((64, 96), (96, 48), (50, 81)):
        picture = coarse(96, 96, 3, seed=76)[:height, :width] // 2 + 64
        wanted = made.padding_resize(picture, height=HEIGHT, width=WIDTH)
        mine, _ = letterbox(picture, (WIDTH, HEIGHT))
        apart = np.mean((mine > 0).any(-1) != (wanted > 0).any(-1))
        mean = np.abs(mine.astype(int) - wanted).mean() / 255
        what = f"padding_resize, {width}x{height} to {WIDTH}x{HEIGHT}"
        yield Row(what=f"{what}: share of pixels that are margin for one side only", difference=float(apart))
        yield Row(what=f"{what}: mean difference", difference=float(mean))
