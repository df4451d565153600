"""The options that several commands share, as typer is told of them, and what they add up to."""

from pathlib import Path
from typing import Annotated

import typer

Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]
Model = Annotated[str | None, typer.Option(help='"builtin", a folder of weights, or a checkpoint.')]
Size = Annotated[str | None, typer.Option(metavar="WxH", help="Picture size in pixels; default: the model's.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps per segment; default: the model's.")]
Seed = Annotated[int, typer.Option(help="Of the noise.")]
Fps = Annotated[float | None, typer.Option(help="Frames per second; default: the model's.")]
Handoff = Annotated[str, typer.Option(help="Where the next expert takes over: auto, a sigma, or snr:VALUE.")]
Solver = Annotated[str | None, typer.Option(help="euler, dpm++ or unipc; default: the model's.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda where there is one.")]
Memory = Annotated[
    str,
    typer.Option(
        help="What a Wan model may use of the device's memory (on a processor: of this machine's): 24GB, or auto."
    ),
]
HostMemory = Annotated[
    str,
    typer.Option(
        help="With CUDA, what may be pinned of this machine's memory for weights that come and go: 32GB; auto."
    ),
]
Report = Annotated[Path | None, typer.Option(help="Write a report: this .json, and a .png beside it.")]

WAN = "Wan models"
Negative = Annotated[
    str | None, typer.Option(help="What to steer away from; default: the model's.", rich_help_panel=WAN)
]
Guidance = Annotated[
    str | None,
    typer.Option(
        help='One scale, or one per expert, noisiest first: "4,3"; 1 is none; default: the model\'s.',
        rich_help_panel=WAN,
    ),
]
Shift = Annotated[
    float | None, typer.Option(help="Flow shift of the schedule; default: the model's.", rich_help_panel=WAN)
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[high:|low:]FILE[@WEIGHT]",
        help="A LoRA, of one expert or of those it says it is for; may be repeated.",
        rich_help_panel=WAN,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Settings of a distilled LoRA: lightning, lightx2v, causvid, fusionx or accvid.", rich_help_panel=WAN
    ),
]
High = Annotated[Path | None, typer.Option(help="The high-noise expert, or the only one.", rich_help_panel=WAN)]
Low = Annotated[Path | None, typer.Option(help="The low-noise expert.", rich_help_panel=WAN)]
Vae = Annotated[Path | None, typer.Option(help="The video autoencoder.", rich_help_panel=WAN)]
Text = Annotated[Path | None, typer.Option(help="The text encoder, umT5.", rich_help_panel=WAN)]
Tokenizer = Annotated[
    Path | None, typer.Option(help="The tokenizer of umT5: its folder, or a file.", rich_help_panel=WAN)
]
Clip = Annotated[
    Path | None, typer.Option(help="The image encoder, CLIP, for models that look through it.", rich_help_panel=WAN)
]
Family = Annotated[
    str | None,
    typer.Option(help="Which model it is, where files do not tell: wan2.1-t2v-14b, say.", rich_help_panel=WAN),
]
Dtype = Annotated[
    str, typer.Option(help="What the experts compute in: bfloat16, float16 or float32.", rich_help_panel=WAN)
]

DRIVER = "Driver and character"
Start = Annotated[float, typer.Option(help="Seconds at which the driver is begun.", rich_help_panel=DRIVER)]
End = Annotated[float | None, typer.Option(help="Seconds at which it is left.", rich_help_panel=DRIVER)]
Person = Annotated[
    int | None, typer.Option(help="Whom to follow: a number of the picture people.png.", rich_help_panel=DRIVER)
]
Near = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y", help="Whom to follow: near this place, in shares of the picture.", rich_help_panel=DRIVER
    ),
]
GivenPoints = Annotated[
    str | None,
    typer.Option(
        "--keypoints", help="The driver's keypoints: NPZ, JSON, or OpenPose's folder.", rich_help_panel=DRIVER
    ),
]
GivenMask = Annotated[
    str | None, typer.Option("--mask", help="The performer's mask: a video or a folder.", rich_help_panel=DRIVER)
]
Skeleton = Annotated[
    str | None, typer.Option(help="A video of poses drawn already (Wan models).", rich_help_panel=DRIVER)
]
CharacterPoints = Annotated[
    str | None, typer.Option("--character-keypoints", help="Those of the character's picture.", rich_help_panel=DRIVER)
]
Backend = Annotated[
    str,
    typer.Option(
        help="What looks: auto, mediapipe, vitpose, or by stage people=rtdetr,pose=vitpose,mask=sam2.",
        rich_help_panel=DRIVER,
    ),
]
PrepareModels = Annotated[
    str | None, typer.Option(help="The folder of the backends' downloaded files.", rich_help_panel=DRIVER)
]
Retarget = Annotated[
    str,
    typer.Option(
        help="auto, wan (Wan-Animate's own rule) or none (the performer's proportions).", rich_help_panel=DRIVER
    ),
]
MaskGrow = Annotated[
    int | None, typer.Option(help="Pixels by which the performer's mask is widened.", rich_help_panel=DRIVER)
]
MaskBlocks = Annotated[
    str,
    typer.Option(
        metavar="CxR", help="Blocks of the mask's box that are filled; 0x0 for its outline.", rich_help_panel=DRIVER
    ),
]
