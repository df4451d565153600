"""The families that follow a performance, from noise to pixels over two segments, against other implementations.

Animate and VACE against diffusers' pipelines; Fun-Control, which diffusers does not have, against a plain loop written
from its formulas. Same tiny random weights, noise, noise levels, text; float32. Diffusers' timesteps are made exact
here, and the frames it hands from segment to segment rounded to 8 bits, as ours are. In what a segment is shown its
Animate does what the released code does, for all that was looked at: the character's frame is denoised and dropped,
frames handed over are marked over the mask of the person, and the face that guidance steers away from is black.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pasdedeux.animate.condition.wan import Prompts, WanDenoiser
from pasdedeux.animate.condition.wan_animate import AnimateStage
from pasdedeux.animate.condition.wan_control import ControlStage
from pasdedeux.animate.condition.wan_drivers import Drivers
from pasdedeux.animate.condition.wan_vace import VaceStage
from pasdedeux.animate.perform import Denoised, Ready, Settings, Stage, noise, perform
from pasdedeux.animate.segments import Segment, plan
from pasdedeux.denoise import Expert, ExpertSet, Handoff, schedule
from pasdedeux.models.wan import ControlConfig, VaceConfig, WanAnimateTransformer
from pasdedeux.models.wan.control import WanControlTransformer
from pasdedeux.models.wan.vace import WanVaceTransformer

WIDTH, HEIGHT, SIDE = 32, 48, 16
SEED, STEPS, BOUNDARY = 5, 5, 0.875
SIGMAS = schedule(STEPS, 5.0, start=0.999)
GUIDANCE = (4.0, 2.5)
TOLERANCE = 2e-5
"""Of the largest number in their latents; each thing the models are shown changes the latents by far more."""
SIZES: dict[str, Any] = {"dim": 24, "ffn_dim": 32, "heads": 2, "text_dim": 16, "freq_dim": 32, "out_dim": 4}
VACE = VaceConfig(**SIZES, layers=3, in_dim=4, vace_dim=4 + 4 + 64, vace_layers=(0, 2))
CONTROL = ControlConfig(**SIZES, layers=2, in_dim=4 + 4 + 4 + 4, ref_dim=4)


class Result(NamedTuple):
    """The last latent [1, C, F, h, w] of each segment, and the frames, uint8 [T, H, W, 3]."""

    latents: list[Tensor]
    frames: np.ndarray


@dataclass(frozen=True)
class Cut:
    """How long a performance is, and how it is cut into segments."""

    frames: int
    length: int
    overlap: int
    settings: Settings = field(init=False)

    def __post_init__(self) -> None:
        settings = Settings(sigmas=SIGMAS, seed=SEED, length=self.length, overlap=self.overlap)
        object.__setattr__(self, "settings", settings)


TWO_SEGMENTS = Cut(frames=17, length=9, overlap=1)
REFLECTED = Cut(frames=14, length=9, overlap=1)
FIVE_HANDED = Cut(frames=21, length=13, overlap=5)


def prompts(tiny) -> Prompts:
    """Long and each with a bent of its own, so that they outweigh the zeros behind them and guidance matters."""

    def text(tokens: int, seed: int) -> Tensor:
        return 2 * tiny.random(1, tokens, 16, seed=seed) + 3 * tiny.random(1, 1, 16, seed=seed + 1)

    return Prompts(wanted=text(300, 21), unwanted=text(250, 23))


def coarse(tiny, *shape: int, seed: int) -> np.ndarray:
    """Random squares of 8 x 8, for an average over noise is grey whatever is in it; and a little noise."""
    *front, height, width, colours = shape
    squares = tiny.pictures(*front, height // 8, width // 8, colours, seed=seed)
    squares = squares.repeat(8, axis=-3).repeat(8, axis=-2)
    return np.uint8(squares // 2 + squares // 4 + tiny.pictures(*shape, seed=seed + 100) // 4)


def drivers(tiny, mode: str, frames: int) -> Drivers:
    """Random pictures; to replace, a box that wanders and has no edge on the grid of latents."""
    pose, face = coarse(tiny, frames, HEIGHT, WIDTH, 3, seed=51), coarse(tiny, frames, SIDE, SIDE, 3, seed=52)
    reference = coarse(tiny, HEIGHT, WIDTH, 3, seed=53)
    if mode == "animate":
        return Drivers(pose=pose, face=face, reference=reference)
    mask = np.zeros((frames, HEIGHT, WIDTH), np.uint8)
    for k in range(frames):
        mask[k, 5 + k : 30 + k, 6 + k // 2 : 19 + k // 2] = 255
    background = coarse(tiny, frames, HEIGHT, WIDTH, 3, seed=54) * (mask == 0)[..., None]
    return Drivers(pose=pose, face=face, reference=reference, background=background, mask=mask)


def ours(stage: Stage, nets: list[Any], cut: Cut) -> Result:
    experts = tuple(Expert(WanDenoiser(net), f"expert {k}", GUIDANCE[k]) for k, net in enumerate(nets))
    events = perform(stage, ExpertSet(experts, Handoff((BOUNDARY,) if len(nets) == 2 else ())), cut.settings)
    latents: dict[int, Tensor] = {}
    names: set[str] = set()
    frames = []
    for event in events:
        if isinstance(event, Denoised):
            latents[event.segment] = event.step.x
            names.add(event.step.expert)
        elif isinstance(event, Ready):
            frames.append(event.frames)
    assert len(names) == len(nets)
    return Result(list(latents.values()), np.concatenate(frames))


def pipeline(tiny, kind: str, **parts: Any) -> Any:
    """`kind` of diffusers' pipelines over the tiny autoencoder."""
    _, vae = tiny.vaes()
    shared = {"tokenizer": None, "text_encoder": None, "vae": vae, "scheduler": tiny.scheduler(SIGMAS)}
    pipe = getattr(tiny.diffusers, kind)(**shared, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def arguments(tiny) -> dict[str, Any]:
    """What each of them is called with."""
    words = prompts(tiny)
    return {
        "prompt_embeds": tiny.padded(words.wanted),
        "negative_prompt_embeds": tiny.padded(words.unwanted),
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": STEPS,
    }


def with_handed(
    segment: Segment, video: np.ndarray, unknown: np.ndarray, made: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A segment's part of a video and of what is to be made (uint8, 255), over which the last frames made are put."""
    index = segment.source_indices(len(video))
    video, unknown = video[index], unknown[index]
    if segment.overlap:
        video[: segment.overlap], unknown[: segment.overlap] = made[-segment.overlap :], 0
    return video, unknown


def pictures(frames: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in frames]


def rounded(video: Tensor) -> Tensor:
    """To the nearest of 256 levels."""
    return ((video + 1) * 127.5).round() / 127.5 - 1


def to_levels(pixels: np.ndarray) -> np.ndarray:
    return np.rint(255 * pixels).astype(np.uint8)


def compare(name: str, found: Result, wanted: Result, record: Callable[[str, object], None]) -> None:
    assert len(found.latents) == len(wanted.latents)
    assert found.frames.shape == wanted.frames.shape
    pairs = list(zip(found.latents, wanted.latents, strict=True))
    difference = max(relative(a, b) for a, b in pairs)
    levels = int(np.abs(found.frames.astype(int) - wanted.frames).max())
    record("largest difference", difference)
    print(f"{name}: latents {difference:.1e} of the largest, frames {levels} grey levels")  # noqa: T201
    assert difference < TOLERANCE, f"latents differ by {difference:.1e} of the largest number"
    assert levels <= 1, f"frames differ by up to {levels} grey levels"
    # The comparison could not fail if the frames were all one grey, or black and white.
    assert wanted.frames.std() > 5
    assert np.mean((wanted.frames > 0) & (wanted.frames < 255)) > 0.3


def relative(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


# --- Animate


def features(tiny) -> Tensor:
    return tiny.random(1, 257, 12, seed=44)


def animate_net(tiny) -> Any:
    config = tiny.animate(**SIZES, layers=4, in_dim=4 + 4 + 4, image_dim=12, pose_dim=4)
    return tiny.filled(WanAnimateTransformer(config), 31)


def our_animate(tiny, mode: str, cut: Cut, *, guided: bool = True) -> Result:
    vae, _ = tiny.vaes()
    words = prompts(tiny) if guided else Prompts(wanted=prompts(tiny).wanted)
    stage = AnimateStage(vae=vae, drivers=drivers(tiny, mode, cut.frames), prompts=words, features=features(tiny))
    return ours(stage, [animate_net(tiny)], cut)


def their_animate(tiny, mode: str, cut: Cut, *, guided: bool = True, eight_bits: bool = True) -> Result:
    net = tiny.theirs(animate_net(tiny))
    pipe = pipeline(tiny, "WanAnimatePipeline", image_processor=None, image_encoder=None, transformer=net)
    pipe.encode_image = lambda *_: features(tiny)
    shape = (1, 4, 2 + cut.length // 4, HEIGHT // 8, WIDTH // 8)
    drawn: list[int] = []

    def next_noise(*_: Any, **__: Any) -> Tensor:
        drawn.append(len(drawn))
        return noise(shape, SEED, drawn[-1])

    pipe.prepare_latents = next_noise
    decode = pipe.vae.decode
    if eight_bits:
        pipe.vae.decode = lambda *a, **k: (rounded(decode(*a, **k)[0]),)
    latents = []

    def keep(_: Any, i: int, __: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
        if i == STEPS - 1:
            latents.append(values["latents"])
        return {}

    given, scene = drivers(tiny, mode, cut.frames), {}
    if mode == "replace":
        scene = {"background_video": pictures(given.background), "mask_video": pictures(given.mask)}
    pixels = pipe(
        image=Image.fromarray(given.reference),
        pose_video=pictures(given.pose),
        face_video=pictures(given.face),
        **scene,
        **arguments(tiny),
        segment_frame_length=cut.length,
        prev_segment_conditioning_frames=cut.overlap,
        mode=mode,
        guidance_scale=GUIDANCE[0] if guided else 1.0,
        callback_on_step_end=keep,
        output_type="np",
    ).frames[0]
    return Result(latents, to_levels(pixels))


@pytest.mark.parametrize("cut", [TWO_SEGMENTS, REFLECTED, FIVE_HANDED], ids=["17", "14, reflected", "21, 5 handed"])
@pytest.mark.parametrize("mode", ["animate", "replace"])
def test_animate(tiny, mode: str, cut: Cut, record_property: Callable[[str, object], None]):
    found, wanted = our_animate(tiny, mode, cut), their_animate(tiny, mode, cut)
    assert len(wanted.latents) == 2
    compare(f"Animate, {mode}", found, wanted, record_property)


def test_animate_without_guidance(tiny, record_property: Callable[[str, object], None]):
    """As it is released: one pass a step."""
    found, wanted = (make(tiny, "animate", TWO_SEGMENTS, guided=False) for make in (our_animate, their_animate))
    compare("Animate, unguided", found, wanted, record_property)


def test_frames_are_handed_over_in_8_bits_on_purpose(tiny):
    """Diffusers goes on from the decoder's floats. What we hand over is what was shown and written, so that a clip can
    be taken up again from its file; only segments after the first can differ, and by little.
    """
    found = our_animate(tiny, "animate", TWO_SEGMENTS)
    bytes_, floats = (their_animate(tiny, "animate", TWO_SEGMENTS, eight_bits=bits) for bits in (True, False))
    assert relative(found.latents[0], floats.latents[0]) < TOLERANCE
    same, other = (relative(found.latents[1], theirs.latents[1]) for theirs in (bytes_, floats))
    assert 5 * same < other < 0.01


def test_a_black_face_is_the_one_that_guidance_steers_away_from(tiny):
    """Guided by its own text, a black face changes nothing, for both passes are the same; any other face does."""
    vae, _ = tiny.vaes()
    given, net, text = drivers(tiny, "animate", 9), animate_net(tiny), prompts(tiny).wanted
    black = replace(given, face=np.zeros_like(given.face))

    def latent(faces: Drivers, unwanted: Tensor | None) -> Tensor:
        words = Prompts(wanted=text, unwanted=unwanted)
        stage = AnimateStage(vae=vae, drivers=faces, prompts=words, features=features(tiny))
        return ours(stage, [net], Cut(frames=9, length=9, overlap=1)).latents[0]

    assert relative(latent(black, text), latent(black, None)) < TOLERANCE
    assert relative(latent(given, text), latent(given, None)) > 100 * TOLERANCE


# --- VACE


def vace_nets(tiny) -> list[Any]:
    return [tiny.filled(WanVaceTransformer(VACE), 61 + k) for k in range(2)]


def their_vace(tiny, mode: str, cut: Cut, scale: float) -> Result:
    """Diffusers' pipeline knows no segments: it is called for each, with what is known in its video and mask."""
    high, low = (tiny.theirs(net) for net in vace_nets(tiny))
    pipe = pipeline(tiny, "WanVACEPipeline", transformer=high, transformer_2=low, boundary_ratio=BOUNDARY)
    given = drivers(tiny, mode, cut.frames)
    video, mask = given.pose, np.full((cut.frames, HEIGHT, WIDTH), 255, np.uint8)
    if mode == "replace":
        mask, video = given.mask, np.where(given.mask[..., None] > 0, given.pose, given.background)
    latents, made = [], np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)
    for segment in plan(cut.frames, cut.length, cut.overlap):
        seen, changes = with_handed(segment, video, mask, made)
        shape = (1, 4, 2 + cut.length // 4, HEIGHT // 8, WIDTH // 8)
        asked = {
            **arguments(tiny),
            "video": pictures(seen),
            "mask": pictures(changes),
            "reference_images": Image.fromarray(given.reference),
            "conditioning_scale": scale,
            "num_frames": cut.length,
            "guidance_scale": GUIDANCE[0],
            "guidance_scale_2": GUIDANCE[1],
            "latents": noise(shape, SEED, segment.index),
        }
        latents.append(pipe(**asked, output_type="latent").frames)
        frames = to_levels(pipe(**asked, output_type="np").frames[0])
        made = np.concatenate((made, frames[segment.overlap : segment.length - segment.pad]))
    return Result(latents, made)


@pytest.mark.parametrize(("cut", "scale"), [(TWO_SEGMENTS, 1.0), (FIVE_HANDED, 0.7)], ids=["17", "21, 5 handed"])
@pytest.mark.parametrize("mode", ["animate", "replace"])
def test_vace_pair(tiny, mode: str, cut: Cut, scale: float, record_property: Callable[[str, object], None]):
    vae, _ = tiny.vaes()
    stage = VaceStage(vae=vae, drivers=drivers(tiny, mode, cut.frames), prompts=prompts(tiny), scale=scale)
    found, wanted = ours(stage, vace_nets(tiny), cut), their_vace(tiny, mode, cut, scale)
    compare(f"VACE pair, {mode}", found, wanted, record_property)


def test_it_matters_which_vace_expert_runs_where(tiny):
    vae, _ = tiny.vaes()
    cut = Cut(frames=9, length=9, overlap=1)
    stage = VaceStage(vae=vae, drivers=drivers(tiny, "animate", 9), prompts=prompts(tiny))
    right, wrong = ours(stage, vace_nets(tiny), cut), ours(stage, vace_nets(tiny)[::-1], cut)
    assert relative(wrong.latents[0], right.latents[0]) > 100 * TOLERANCE


# --- Fun-Control, by its formulas


def control_nets(tiny) -> list[Any]:
    return [tiny.filled(WanControlTransformer(CONTROL), 71 + k) for k in range(2)]


class Formulas:
    """Fun-Control by a plain loop over diffusers' transformer, with its reference put in, autoencoder and solver.

    A picture is given where `unknown` (uint8, 255: to be made) is 0. What is given: the video with zeros elsewhere,
    encoded; and 1 - unknown, its first picture four times, four in the channels of a latent frame, each resized by
    itself. Where nothing is given, both are zero. The transformer sees noise, pose, mask, given; and the reference.
    """

    def __init__(self, tiny: Any) -> None:
        self.tiny, (_, self.vae) = tiny, tiny.vaes()
        self.nets = [tiny.theirs(net) for net in control_nets(tiny)]

    def encoded(self, frames: np.ndarray, known: np.ndarray | None = None) -> Tensor:
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        if known is not None:
            video = video * torch.from_numpy(known).float()
        return self.tiny.encoded(self.vae, video)

    def decoded(self, latent: Tensor) -> np.ndarray:
        video = self.tiny.decoded(self.vae, latent)
        return to_levels((video[0].permute(1, 2, 3, 0).numpy() + 1) / 2)

    def given(self, video: np.ndarray, unknown: np.ndarray) -> Tensor:
        frames, rows, columns = 1 + len(video) // 4, HEIGHT // 8, WIDTH // 8
        if (unknown == 255).all():
            return torch.zeros(1, 8, frames, rows, columns)
        known = torch.from_numpy((unknown == 0).astype(np.float32))
        four = torch.stack([known[[0] * 4 if f == 0 else range(4 * f - 3, 4 * f + 1)] for f in range(frames)], dim=1)
        first = functional.interpolate(four[None, :, :1], size=(1, rows, columns), mode="trilinear")
        rest = functional.interpolate(four[None, :, 1:], size=(frames - 1, rows, columns), mode="trilinear")
        return torch.cat((torch.cat((first, rest), dim=2), self.encoded(video, unknown == 0)), dim=1)

    def sample(self, x: Tensor, channels: Tensor, reference: Tensor) -> Tensor:
        scheduler, words = self.tiny.scheduler(SIGMAS), prompts(self.tiny)
        scheduler.set_timesteps(STEPS)
        for t in scheduler.timesteps:
            net, scale = (self.nets[0], GUIDANCE[0]) if t >= 1000 * BOUNDARY else (self.nets[1], GUIDANCE[1])
            seen, texts = torch.cat((x, channels), dim=1), (words.wanted, words.unwanted)
            good, bad = (net(seen, t[None], self.tiny.padded(text), reference) for text in texts)
            x = scheduler.step(bad + scale * (good - bad), t, x, return_dict=False)[0]
        return x

    @torch.no_grad()
    def run(self, given: Drivers, cut: Cut) -> Result:
        scene = np.zeros_like(given.pose) if given.background is None else given.background
        person = np.full(scene.shape[:3], 255, np.uint8) if given.mask is None else given.mask
        reference = self.encoded(given.reference[None])[:, :, 0]
        latents, made = [], np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)
        for segment in plan(cut.frames, cut.length, cut.overlap):
            pose = given.pose[segment.source_indices(cut.frames)]
            channels = torch.cat((self.encoded(pose), self.given(*with_handed(segment, scene, person, made))), dim=1)
            shape = (1, 4, *channels.shape[2:])
            latents.append(self.sample(noise(shape, SEED, segment.index), channels, reference))
            fresh = self.decoded(latents[-1])[segment.overlap : segment.length - segment.pad]
            made = np.concatenate((made, fresh))
        return Result(latents, made)


@pytest.mark.parametrize("cut", [TWO_SEGMENTS, FIVE_HANDED], ids=["17", "21, 5 handed"])
@pytest.mark.parametrize("mode", ["animate", "replace"])
def test_control_pair(tiny, mode: str, cut: Cut, record_property: Callable[[str, object], None]):
    vae, _ = tiny.vaes()
    given = drivers(tiny, mode, cut.frames)
    stage = ControlStage(vae=vae, drivers=given, prompts=prompts(tiny), config=CONTROL)
    found, wanted = ours(stage, control_nets(tiny), cut), Formulas(tiny).run(given, cut)
    compare(f"Fun-Control pair, {mode}", found, wanted, record_property)


# --- The comparisons could not fail if a family did not heed what it is shown


def stage_and_nets(tiny, family: str, given: Drivers) -> tuple[Stage, list[Any]]:
    shared = {"vae": tiny.vaes()[0], "drivers": given, "prompts": prompts(tiny)}
    if family == "Animate":
        return AnimateStage(**shared, features=features(tiny)), [animate_net(tiny)]
    if family == "VACE":
        return VaceStage(**shared), vace_nets(tiny)
    return ControlStage(**shared, config=CONTROL), control_nets(tiny)


@pytest.mark.parametrize("mode", ["animate", "replace"])
@pytest.mark.parametrize("family", ["Animate", "VACE", "Fun-Control"])
def test_everything_shown_matters(tiny, family: str, mode: str):
    given, cut = drivers(tiny, mode, 17), TWO_SEGMENTS
    right = ours(*stage_and_nets(tiny, family, given), cut)
    others = {"pose": given.pose[::-1].copy(), "reference": given.reference[::-1].copy()}
    if family == "Animate":
        others["face"] = given.face[::-1].copy()
    if mode == "replace":
        others |= {"background": given.background[::-1].copy(), "mask": np.roll(given.mask, 5, axis=1)}
    for name, other in others.items():
        wrong = ours(*stage_and_nets(tiny, family, replace(given, **{name: other})), cut)
        for k in range(2):
            assert relative(wrong.latents[k], right.latents[k]) > 20 * TOLERANCE, f"{name}, segment {k}"


@pytest.mark.parametrize("family", ["Animate", "VACE", "Fun-Control"])
def test_a_segment_goes_on_from_the_last(tiny, family: str):
    """Other frames handed over make another segment."""
    stage, nets = stage_and_nets(tiny, family, drivers(tiny, "animate", 17))

    def second(handed: np.ndarray) -> Tensor:
        what = stage.condition(list(range(8, 17)), handed)
        denoiser, sigma = WanDenoiser(nets[-1]), torch.tensor([0.5])
        return denoiser(noise(what.shape, SEED, 1), sigma, what.cond)

    one, other = (coarse(tiny, 1, HEIGHT, WIDTH, 3, seed=seed) for seed in (81, 82))
    assert relative(second(one), second(other)) > 20 * TOLERANCE
