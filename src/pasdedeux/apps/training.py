"""`pasdedeux train pair`: options to a training configuration; the folder becomes a model folder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from pasdedeux.apps.faults import STOPPED
from pasdedeux.apps.interrupt import Interrupt
from pasdedeux.engine import checked_device
from pasdedeux.train.export import export
from pasdedeux.train.pair import PairConfig, Paused, Work, make_pair


@dataclass(frozen=True, kw_only=True, slots=True)
class PairOptions:
    """What the command takes; None is the configuration's own default."""

    clips: int | None = None
    steps: int | None = None
    branch_steps: int | None = None
    seed: int = 0
    processes: int = 2
    device: str = "cpu"
    dense: bool = False

    def __post_init__(self) -> None:
        for name in ("clips", "steps", "branch_steps", "processes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        checked_device(self.device)
        # The last 16 clips are kept for judging the codec (train.pair), so some must be left to learn from.
        if self.clips is not None and self.clips < 32:
            raise ValueError(f"clips is {self.clips}; at least 32 are needed, of which 16 judge the codec.")


def pair_config(options: PairOptions) -> PairConfig:
    """The default training run with what the options change."""
    default = PairConfig()
    trunk = replace(default.trunk, device=options.device, seed=options.seed, steps=options.steps or default.trunk.steps)
    steps = options.branch_steps or default.branch.steps
    branch = replace(default.branch, device=options.device, seed=options.seed, steps=steps, cooldown=steps)
    clips = options.clips or default.clips
    return replace(default, seed=options.seed, clips=clips, trunk=trunk, branch=branch)


def run_training(folder: Path, options: PairOptions, say: Callable[[str], None]) -> None:
    """Train every stage that is not there yet; `folder` becomes a model folder and gets one to be passed on.

    The first Ctrl-C stops after the step that runs, the second at once; typer.Exit(130) then.
    """
    config = pair_config(options)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Interrupt() as stop:
            stop.gentle = True
            work = Work(folder=folder, config=config, report=say, processes=options.processes, stop=stop)
            make_pair(work, dense=options.dense)
    except (Paused, KeyboardInterrupt) as error:
        say(f"Stopped{f': {error}' if str(error) else ''}; the same command goes on from here.")
        raise typer.Exit(STOPPED) from error
    exported = export(folder, config)
    say(f"{exported} is a model folder now: pasdedeux animate --model {exported}")
