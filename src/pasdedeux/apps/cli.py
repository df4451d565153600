"""The command line: a thin skin over Job and Engine. Heavy imports are inside the commands.

Exit codes: 0 done, 1 our fault (a traceback), 2 the user's input (one sentence), 130 stopped by Ctrl-C.
"""

from pathlib import Path
from typing import Annotated

import typer

from pasdedeux import __version__
from pasdedeux.apps import options as o
from pasdedeux.apps.faults import user_faults

app = typer.Typer(
    help="Animate a character with a pair of expert denoisers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
character_app = typer.Typer(help="Characters.", no_args_is_help=True)
train_app = typer.Typer(help="Training.", no_args_is_help=True)
models_app = typer.Typer(help="Known models, and how to get one.", invoke_without_command=True)
app.add_typer(character_app, name="character")
app.add_typer(models_app, name="models")
app.add_typer(train_app, name="train")


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        typer.echo(f"pasdedeux {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """Animate a character with a pair of expert denoisers."""


@app.command()
def animate(  # one argument per option is how typer is told of them
    character: Annotated[str | None, typer.Argument(help="A picture, or puppet:SEED; default: a puppet.")] = None,
    driver: Annotated[
        str | None, typer.Argument(help="A video, a prepared folder, or puppet:SEED; default: a puppet.")
    ] = None,
    output: o.Output = Path("out.mp4"),
    model: o.Model = None,
    mode: Annotated[
        str, typer.Option(help="animate (in the character's place) or replace (in the driver's).")
    ] = "animate",
    steps: o.Steps = None,
    seed: o.Seed = 0,
    size: o.Size = None,
    frames: Annotated[int | None, typer.Option(help="Length with a puppet; the most taken of a video.")] = None,
    fps: o.Fps = None,
    handoff: o.Handoff = "auto",
    solver: o.Solver = None,
    device: o.Device = None,
    memory: o.Memory = "auto",
    host_memory: o.HostMemory = "auto",
    report: o.Report = None,
    prompt: Annotated[
        str | None, typer.Option(help="What is to be seen; default: the model's.", rich_help_panel=o.WAN)
    ] = None,
    negative: o.Negative = None,
    guidance: o.Guidance = None,
    shift: o.Shift = None,
    lora: o.Lora = None,
    preset: o.Preset = None,
    high: o.High = None,
    low: o.Low = None,
    vae: o.Vae = None,
    text: o.Text = None,
    tokenizer: o.Tokenizer = None,
    clip: o.Clip = None,
    family: o.Family = None,
    dtype: o.Dtype = "bfloat16",
    start: o.Start = 0.0,
    end: o.End = None,
    person: o.Person = None,
    near: o.Near = None,
    keypoints: o.GivenPoints = None,
    mask: o.GivenMask = None,
    skeleton: o.Skeleton = None,
    character_keypoints: o.CharacterPoints = None,
    backend: o.Backend = "auto",
    prepare_models: o.PrepareModels = None,
    retarget: o.Retarget = "auto",
    mask_grow: o.MaskGrow = None,
    mask_blocks: o.MaskBlocks = "1x1",
) -> None:
    """Make CHARACTER move as DRIVER does, and write a video."""
    with user_faults():
        from pasdedeux.apps.making import make_file
        from pasdedeux.engine import Job, Memory, Parts, Preparation

        parts = Parts(
            high=high, low=low, vae=vae, text=text, tokenizer=tokenizer, clip=clip, family=family, dtype=dtype
        )
        preparation = Preparation(
            start=start,
            end=end,
            person=person,
            near=near,
            keypoints=keypoints,
            mask=mask,
            skeleton=skeleton,
            character_keypoints=character_keypoints,
            backend=backend,
            models=prepare_models,
            retarget=retarget,
            grow=mask_grow,
            blocks=mask_blocks,
        )
        job = Job(
            character=character,
            driver=driver,
            mode=mode,
            steps=steps,
            seed=seed,
            size=size,
            frames=frames,
            fps=fps,
            handoff=handoff,
            solver=solver,
            model=parts.name_of(model),
            prompt=prompt,
            negative=negative,
            guidance=guidance,
            shift=shift,
            lora=tuple(lora or ()),
            preset=preset,
            preparation=preparation,
        )
        allowed = Memory.parse(memory, host_memory)
        make_file(job, output, device=device, report=report, parts=parts, memory=allowed)


@app.command()
def prepare(
    driver: Annotated[Path | None, typer.Argument(help="A video, a GIF, or a folder of pictures.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")] = Path("prepared"),
    character: Annotated[
        str | None, typer.Option("--for", help="A picture, or puppet:SEED: the pose is fitted to it.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also background and mask, to put the character in the driver's place.")
    ] = False,
    size: o.Size = None,
    frames: Annotated[int | None, typer.Option(help="The most frames that are taken.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second; default: 30, as Wan-Animate.")] = None,
    start: o.Start = 0.0,
    end: o.End = None,
    person: o.Person = None,
    near: o.Near = None,
    keypoints: o.GivenPoints = None,
    mask: o.GivenMask = None,
    skeleton: o.Skeleton = None,
    character_keypoints: o.CharacterPoints = None,
    backend: o.Backend = "auto",
    prepare_models: o.PrepareModels = None,
    retarget: o.Retarget = "auto",
    mask_grow: o.MaskGrow = None,
    mask_blocks: o.MaskBlocks = "1x1",
    backends: Annotated[bool, typer.Option("--backends", help="Only say what can look, and what it lacks.")] = False,
) -> None:
    """Find the performer in DRIVER, and write pose, face and mask, and a picture to judge them by.

    The folder is what Wan2.2-Animate takes, and a driver for animate.
    """
    with user_faults():
        from pasdedeux.apps.preparing import prepare_driver, show_backends
        from pasdedeux.engine import Job, Preparation

        if backends:
            show_backends(prepare_models)
            return
        preparation = Preparation(
            start=start,
            end=end,
            person=person,
            near=near,
            keypoints=keypoints,
            mask=mask,
            skeleton=skeleton,
            character_keypoints=character_keypoints,
            backend=backend,
            models=prepare_models,
            retarget=retarget,
            grow=mask_grow,
            blocks=mask_blocks,
        )
        job = Job(
            character=character,
            driver=None if driver is None else str(driver),
            mode="replace" if replace else "animate",
            size=size,
            frames=frames,
            fps=fps,
            preparation=preparation,
        )
        prepare_driver(job, output)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What is to be seen.")],
    image: Annotated[str | None, typer.Option(help="A picture to begin with, for models that take one.")] = None,
    output: o.Output = Path("out.mp4"),
    model: o.Model = None,
    steps: o.Steps = None,
    seed: o.Seed = 0,
    size: o.Size = None,
    frames: Annotated[int | None, typer.Option(help="Length, 1 plus a multiple of 4; default: the model's.")] = None,
    fps: o.Fps = None,
    handoff: o.Handoff = "auto",
    solver: o.Solver = None,
    device: o.Device = None,
    memory: o.Memory = "auto",
    host_memory: o.HostMemory = "auto",
    report: o.Report = None,
    negative: o.Negative = None,
    guidance: o.Guidance = None,
    shift: o.Shift = None,
    lora: o.Lora = None,
    preset: o.Preset = None,
    high: o.High = None,
    low: o.Low = None,
    vae: o.Vae = None,
    text: o.Text = None,
    tokenizer: o.Tokenizer = None,
    clip: o.Clip = None,
    family: o.Family = None,
    dtype: o.Dtype = "bfloat16",
) -> None:
    """Make a clip of PROMPT with a Wan model, and write a video."""
    with user_faults():
        from pasdedeux.apps.making import make_file
        from pasdedeux.engine import Job, Memory, Parts

        parts = Parts(
            high=high, low=low, vae=vae, text=text, tokenizer=tokenizer, clip=clip, family=family, dtype=dtype
        )
        job = Job.generate(
            prompt,
            image=image,
            steps=steps,
            seed=seed,
            size=size,
            frames=frames,
            fps=fps,
            handoff=handoff,
            solver=solver,
            model=parts.name_of(model),
            negative=negative,
            guidance=guidance,
            shift=shift,
            lora=tuple(lora or ()),
            preset=preset,
        )
        allowed = Memory.parse(memory, host_memory)
        make_file(job, output, device=device, report=report, parts=parts, memory=allowed)


@character_app.command("new")
def character_new(
    seed: Annotated[int, typer.Option(help="Which character.")] = 7,
    output: o.Output = Path("hero.png"),
    size: Annotated[str, typer.Option(metavar="WxH", help="Picture size in pixels.")] = "128x128",
) -> None:
    """Draw a character, and write a picture that carries its own keypoints and mask."""
    with user_faults():
        from pasdedeux.apps.character import write_character

        typer.echo(write_character(seed, output, size))


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help='"builtin", a folder, or a file of weights or of a LoRA.')] = "builtin",
) -> None:
    """Say what a model or a file is.

    Its experts, layout, types and sizes, and what a job would still need.
    """
    with user_faults():
        from pasdedeux.apps.inspecting import show_model

        show_model(model)


@app.command()
def convert(
    model: Annotated[Path | None, typer.Argument(help="A Wan model's folder or file.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A file, or a folder.")] = Path("converted"),
    high: o.High = None,
    low: o.Low = None,
    expert: Annotated[str | None, typer.Option(help="high or low: only that one.")] = None,
    layout: Annotated[str, typer.Option(help="native, comfyui or diffusers.")] = "native",
    container: Annotated[
        str | None, typer.Option(help="safetensors, sharded or gguf; default: by the output's name.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="keep, bfloat16, float16, float32, fp8, fp8_scaled; GGUF: F16, BF16, Q8_0, Q5_0, Q4_0.")
    ] = "keep",
    shard_gb: Annotated[float, typer.Option(help="Most gigabytes of a shard.")] = 5.0,
    family: o.Family = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write a Wan model in another layout or type.

    Its experts are converted, a tensor at a time; VAE and encoders are not.
    """
    with user_faults():
        from pasdedeux.apps.converting import ConvertOptions, convert_model

        options = ConvertOptions(
            model=model,
            high=high,
            low=low,
            expert=expert,
            layout=layout,
            container=container,
            dtype=dtype,
            shard_gb=shard_gb,
            family=family,
            overwrite=overwrite,
        )
        convert_model(output, options)


@app.command()
def plan(
    model: Annotated[str, typer.Option(help='A family (wan2.2-t2v-a14b), "builtin", a folder, or a file.')],
    gpu: Annotated[
        str, typer.Option(help="rtx3060, rtx4060ti, rtx3090, rtx4090, rtx5090, a100-40, a100-80, h100, h200 or cpu.")
    ],
    size: o.Size = None,
    frames: Annotated[int | None, typer.Option(help="Length; default: the model's.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length, in place of frames.")] = None,
    segments: Annotated[int | None, typer.Option(help="Length, for models that work in segments.")] = None,
    memory: Annotated[str | None, typer.Option(help="Of the card's: 24GB, 24GiB; default: all.")] = None,
    steps: o.Steps = None,
    guidance: o.Guidance = None,
    dtype: Annotated[str | None, typer.Option(help="bf16, fp8, fp8_scaled, Q8_0, Q4_K; default: as stored.")] = None,
    lora: o.Lora = None,
    preset: o.Preset = None,
    price: Annotated[float | None, typer.Option(help="Dollars per hour.")] = None,
) -> None:
    """Say what a clip would need, take and cost; loads nothing."""
    with user_faults():
        from pasdedeux.apps.planning import PlanOptions, show_plan

        options = PlanOptions(
            size=size,
            frames=frames,
            seconds=seconds,
            segments=segments,
            memory=memory,
            steps=steps,
            guidance=guidance,
            dtype=dtype,
            lora=tuple(lora or ()),
            preset=preset,
            price=price,
        )
        show_plan(model, gpu, options)


@models_app.callback()
def models(context: typer.Context) -> None:
    """List the known models."""
    if context.invoked_subcommand is None:
        with user_faults():
            from pasdedeux.apps.modeling import show_models

            show_models()


@models_app.command("show")
def models_show(name: Annotated[str, typer.Argument(help="As pasdedeux models lists it.")]) -> None:
    """List the parts of one."""
    with user_faults():
        from pasdedeux.apps.modeling import show_models

        show_models(name)


@models_app.command("get")
def models_get(
    name: Annotated[str, typer.Argument(help="As pasdedeux models lists it.")],
    expert: Annotated[str | None, typer.Option(help="high or low: only that one.")] = None,
    part: Annotated[list[str] | None, typer.Option(help="Only this part; may be repeated.")] = None,
    quant: Annotated[str | None, typer.Option(help="The GGUF type, for instance Q4_K_M.")] = None,
    folder: Annotated[Path | None, typer.Option("--dir", help="Where to; default: models/NAME.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the files.")] = False,
) -> None:
    """Fetch the files of one for a job.

    A fetch that was cut off goes on when it is asked for again.
    """
    with user_faults():
        from pasdedeux.apps.modeling import GetOptions, get_model

        options = GetOptions(expert=expert, parts=tuple(part or ()), quant=quant, folder=folder, dry_run=dry_run)
        get_model(name, options)


@train_app.command("pair")
def train_pair(
    folder: Annotated[Path, typer.Option(help="Holds clips, checkpoints, the log and, in the end, the model.")],
    clips: Annotated[int | None, typer.Option(help="Training clips to film.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the trunk.")] = None,
    branch_steps: Annotated[int | None, typer.Option(help="Steps of each expert after the trunk.")] = None,
    experts: Annotated[
        int | None, typer.Option(help="How many, on bands of equal probability; default: a pair.")
    ] = None,
    handoff: Annotated[str | None, typer.Option(help="Their bounds: a sigma, or snr:VALUE; several by commas.")] = None,
    share: Annotated[
        str, typer.Option(help="Steps per expert: equal, or by the density of its noise levels.")
    ] = "equal",
    block: Annotated[int, typer.Option(help="Steps of an expert before the next one's turn.")] = 50,
    early_stop: Annotated[
        int, typer.Option(help="End an expert after so many held-out losses without a better one; 0: never.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Decides data order, weights and noise.")] = 0,
    processes: Annotated[int, typer.Option(help="Processes that film.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    devices: Annotated[
        str | None, typer.Option(help="Train experts at the same time, one on each: cuda:0,cuda:1.")
    ] = None,
    preview_minutes: Annotated[float | None, typer.Option(help="Sample a picture every so many minutes.")] = None,
    dense: Annotated[bool, typer.Option(help="Also train one dense model with the same total compute.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be trained, and what it would take.")
    ] = False,
) -> None:
    """Train a pair from nothing.

    A run that was stopped goes on where it was, bit for bit.
    """
    with user_faults():
        from pasdedeux.apps import training

        options = training.PairOptions(
            clips=clips,
            steps=steps,
            branch_steps=branch_steps,
            experts=experts,
            handoff=handoff,
            share=share,
            block=block,
            early_stop=early_stop,
            seed=seed,
            processes=processes,
            device=device,
            devices=tuple(devices.split(",")) if devices else (),
            preview_minutes=preview_minutes,
            dense=dense,
        )
        if dry_run:
            training.dry_run(folder, options, typer.echo)
        else:
            training.run_training(folder, options, typer.echo)


@train_app.command("lora")
def train_lora(
    data: Annotated[Path, typer.Option(help="A folder of clips with captions, or a .jsonl or .toml list of them.")],
    out: Annotated[Path, typer.Option(help="Holds checkpoints, cache, log and, in the end, the LoRA files.")],
    model: Annotated[str, typer.Option(help='"builtin", or a folder of weights.')] = "builtin",
    steps: Annotated[str, typer.Option(help="Of each expert, or high:300,low:600.")] = "1000",
    rank: Annotated[str, typer.Option(help="One, or high:16,low:8.")] = "16",
    alpha: Annotated[str | None, typer.Option(help="One, or one for each expert; default: the rank.")] = None,
    targets: Annotated[
        str, typer.Option(help="attention, feedforward, pose, face, all, or patterns of layer names; by commas.")
    ] = "attention",
    rate: Annotated[str, typer.Option(help="Learning rate, or one for each expert.")] = "1e-4",
    experts: Annotated[str | None, typer.Option(help="Only these: high, low.")] = None,
    batch: Annotated[int | None, typer.Option(help="Clips a step.")] = None,
    frames: Annotated[int | None, typer.Option(help="Most frames of a clip (1 + 4k).")] = None,
    size: o.Size = None,
    held: Annotated[int, typer.Option(help="Clips at the list's end that judge and are not learnt from.")] = 0,
    patience: Annotated[int, typer.Option(help="Checks without gain after which an expert stops; 0: never.")] = 0,
    sticky: Annotated[int, typer.Option(help="Steps of an expert's turn.")] = 50,
    seed: Annotated[int, typer.Option(help="Decides data order, weights and noise.")] = 0,
    mode: Annotated[str, typer.Option(help="animate or replace, for models that follow a driver.")] = "animate",
    even: Annotated[
        bool, typer.Option("--even", help="The built-in pair: the place counts as much as the figure.")
    ] = False,
    drop: Annotated[float, typer.Option(help="Share of steps without words.")] = 0.1,
    dtype: o.Dtype = "bfloat16",
    device: o.Device = None,
    devices: Annotated[
        str | None, typer.Option(help="Tune experts at the same time, one on each: cuda:0,cuda:1.")
    ] = None,
    memory: Annotated[
        str, typer.Option(help="What a step may take of the device; frozen weights beyond it come and go: auto, 24GB.")
    ] = "auto",
    form: Annotated[str, typer.Option(help="comfyui, kohya or diffusers.")] = "comfyui",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first clip that cannot be used.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be trained.")] = False,
) -> None:
    """Tune a model's experts by a LoRA each. A run that was stopped goes on where it was."""
    with user_faults():
        from pasdedeux.apps.tuning import LoraOptions, tune

        options = LoraOptions(
            model=model,
            data=data,
            out=out,
            steps=steps,
            rank=rank,
            alpha=alpha,
            targets=targets,
            rate=rate,
            experts=experts,
            batch=batch,
            frames=frames,
            size=size,
            held=held,
            patience=patience,
            sticky=sticky,
            seed=seed,
            mode=mode,
            even=even,
            drop=drop,
            dtype=dtype,
            device=device,
            devices=tuple(devices.split(",")) if devices else (),
            memory=memory,
            form=form,
            strict=strict,
            dry_run=dry_run,
        )
        tune(options, typer.echo)


@app.command()
def evaluate(
    folder: Annotated[
        str, typer.Option(help='"builtin", or a model folder; dense.safetensors in it is judged too.')
    ] = "builtin",
    count: Annotated[int, typer.Option("-n", "--count", help="Held-out clips.")] = 64,
    out: Annotated[Path, typer.Option(help="The .json file to write.")] = Path("evaluation.json"),
    mode: Annotated[str, typer.Option(help="animate or replace.")] = "animate",
    exact: Annotated[bool, typer.Option(help="Give the character's true joints in place of retargeted ones.")] = False,
    batch: Annotated[int, typer.Option(help="Clips sampled at once.")] = 8,
    strip: Annotated[
        Path | None, typer.Option(help="Write a picture: this .png, a few clips by every arm beside the truth.")
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Only measure each expert at all noise levels, for the best handoff."),
    ] = False,
    device: o.Device = None,
) -> None:
    """Judge a model on held-out clips.

    Beside its experts alone and swapped, and beside simple baselines. With --calibrate: where the experts' held-out
    losses cross, as JSON and as a .png beside it.
    """
    with user_faults():
        if calibrate:
            from pasdedeux.apps.calibrating import write_calibration

            write_calibration(folder, out, typer.echo, count=count, device=device)
            return
        from pasdedeux.apps.evaluating import EvaluationOptions, write_evaluation

        options = EvaluationOptions(count=count, mode=mode, exact=exact, batch=batch, device=device)
        write_evaluation(folder, out, options, typer.echo, strip=strip)


def main() -> None:
    """Where the installed command begins."""
    app()


if __name__ == "__main__":
    main()
