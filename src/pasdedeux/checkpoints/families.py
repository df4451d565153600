"""The Wan families, a row each: what is released, and what its makers run it with.

A family is a transformer's sizes together with the defaults of a job: steps, shift, solver, where the experts change,
guidance of each, length, rate and size of a clip. The defaults are those of the released code, except where its own
page says otherwise.
"""

from dataclasses import dataclass, replace
from typing import Literal

from pasdedeux.models.wan.config import WAN_MODELS, WanConfig

Task = Literal["text", "image", "text or image", "control", "vace", "animate"]

# What the released models are steered away from: lurid colours, stills, blur, subtitles, bad hands, crowds, walking
# backwards.
NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"
    "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
ANIMATE_PROMPT = "视频中的人在做动作"  # the one Wan-Animate was trained with: "the people in the video are moving"


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One family.

    experts: how many were released; bounds: sigmas at which the next takes over, one fewer than a pair has even where
    one was released; guidance: of each expert, noisiest first (1: none); least: where the last step starts, before
    both shifts of diffusers' Euler, for models that are run with that; frames and overlap: of a segment; size: (width,
    height); vae: "wan2.1" or "wan2.2"; image: whether CLIP sees a picture; task: what it takes beside text.
    """

    name: str
    config: WanConfig
    task: Task
    experts: int = 1
    bounds: tuple[float, ...] = ()
    guidance: tuple[float, ...] = (5.0,)
    steps: int = 50
    shift: float = 5.0
    solver: str = "unipc"
    frames: int = 81
    overlap: int = 0
    fps: float = 16.0
    size: tuple[int, int] = (832, 480)
    least: float | None = None
    vae: Literal["wan2.1", "wan2.2"] = "wan2.1"
    prompt: str = ""
    negative: str = NEGATIVE

    @property
    def clip(self) -> bool:
        """Whether the transformer looks at a picture through CLIP."""
        return self.config.image_dim is not None


def _family(name: str, task: Task, **settings: object) -> Family:
    return replace(Family(name=name, config=WAN_MODELS[name], task=task), **settings)  # type: ignore[arg-type]


_PAIR = {"experts": 2, "steps": 40}
_FUN_PAIR = {"experts": 2, "steps": 50, "solver": "euler", "least": 0.001}  # as VideoX-Fun's examples run them
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _family("wan2.2-t2v-a14b", "text", **_PAIR, bounds=(0.875,), guidance=(4.0, 3.0), shift=12.0),
        _family("wan2.2-i2v-a14b", "image", **_PAIR, bounds=(0.9,), guidance=(3.5, 3.5)),
        _family(
            "wan2.2-animate-14b",
            "animate",
            guidance=(1.0,),
            steps=20,
            frames=77,
            overlap=1,
            fps=30.0,
            prompt=ANIMATE_PROMPT,
        ),
        _family(
            "wan2.2-vace-fun-a14b", "vace", **_FUN_PAIR, bounds=(0.875,), guidance=(5.0, 5.0), shift=12.0, overlap=5
        ),
        _family("wan2.2-fun-a14b-control", "control", **_FUN_PAIR, bounds=(0.9,), guidance=(6.0, 6.0), overlap=1),
        _family("wan2.2-ti2v-5b", "text or image", frames=121, fps=24.0, size=(1280, 704), vae="wan2.2"),
        _family("wan2.1-t2v-14b", "text"),
        _family("wan2.1-t2v-1.3b", "text", guidance=(6.0,), shift=8.0),
        _family("wan2.1-i2v-14b", "image", steps=40, shift=3.0),
        _family("wan2.1-vace-14b", "vace", shift=16.0, overlap=5),
        _family("wan2.1-vace-1.3b", "vace", shift=16.0, overlap=5),
    )
}
