"""`pasdedeux train pair`: options to a training configuration; the folder becomes a model folder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from pasdedeux.apps.faults import STOPPED, fail
from pasdedeux.apps.foretelling import foretold
from pasdedeux.apps.interrupt import Interrupt
from pasdedeux.engine import checked_device
from pasdedeux.train.config import PairConfig, Paused, Work, bounds_for
from pasdedeux.train.export import export
from pasdedeux.train.pair import make_pair


@dataclass(frozen=True, kw_only=True, slots=True)
class PairOptions:
    """What the command takes; None is the configuration's own default."""

    clips: int | None = None
    steps: int | None = None
    branch_steps: int | None = None
    experts: int | None = None
    handoff: str | None = None
    share: str = "equal"
    block: int = 50
    early_stop: int = 0
    seed: int = 0
    processes: int = 2
    device: str = "cpu"
    devices: tuple[str, ...] = ()
    preview_minutes: float | None = None
    dense: bool = False

    def __post_init__(self) -> None:
        for name in ("clips", "steps", "branch_steps", "experts", "block", "processes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more.")
        for device in (self.device, *self.devices):
            checked_device(device)
        if self.share not in ("equal", "density"):
            raise ValueError(f'Steps are shared out "{self.share}"; it must be equal or density.')
        if self.early_stop < 0:
            raise ValueError(f"early_stop is {self.early_stop}; it must be 0 (never) or more.")
        if self.preview_minutes is not None and not self.preview_minutes > 0:
            raise ValueError(f"preview_minutes is {self.preview_minutes:g}; it must be above 0.")
        # The last 16 clips are kept for judging the codec (train.pair), so some must be left to learn from.
        if self.clips is not None and self.clips < 32:
            raise ValueError(f"clips is {self.clips}; at least 32 are needed, of which 16 judge the codec.")
        if self.experts is not None and self.handoff is not None:
            raise ValueError("Give the number of experts or the handoff: each decides the other.")


def pair_config(options: PairOptions) -> PairConfig:
    """The default training run with what the options change."""
    default = PairConfig()
    trunk = replace(default.trunk, device=options.device, seed=options.seed, steps=options.steps or default.trunk.steps)
    steps = options.branch_steps or default.branch.steps
    branch = replace(default.branch, device=options.device, seed=options.seed, steps=steps, cooldown=steps)
    return replace(
        default,
        seed=options.seed,
        clips=options.clips or default.clips,
        trunk=trunk,
        branch=branch,
        bounds=bounds_for(options.handoff, options.experts, default),
        share=options.share,
        patience=options.early_stop,
    )


def dry_run(folder: Path, options: PairOptions, say: Callable[[str], None]) -> None:
    """Say what would be trained, on which noise levels and with how much memory; trains and writes nothing."""
    for line in foretold(folder, pair_config(options), devices=options.devices, dense=options.dense):
        say(line)


def run_training(folder: Path, options: PairOptions, say: Callable[[str], None]) -> None:
    """Train every stage that is not there yet; `folder` becomes a model folder and gets one to be passed on."""
    config = pair_config(options)
    folder.mkdir(parents=True, exist_ok=True)
    with stoppable(folder, say) as stop:
        make_pair(work_of(folder, config, options, say, stop), dense=options.dense)
    exported = export(folder, config)
    say(f"{exported} is a model folder now: pasdedeux animate --model {exported}")


@contextmanager
def stoppable(folder: Path, say: Callable[[str], None]) -> Iterator[Interrupt]:
    """For training into `folder`: the first Ctrl-C stops after the step that runs, the second at once; typer.Exit(130).

    A loss that is not finite is told in one sentence; the checkpoints from before are kept.
    """
    try:
        with Interrupt() as stop:
            stop.gentle = True
            yield stop
    except (Paused, KeyboardInterrupt) as error:
        say(f"Stopped{f': {error}' if str(error) else ''}; the same command goes on from here.")
        raise typer.Exit(STOPPED) from error
    except FloatingPointError as error:
        raise fail(f"Training stopped: {error}; the checkpoints from before are in {folder}.") from error


def work_of(
    folder: Path, config: PairConfig, options: PairOptions, say: Callable[[str], None], stop: Interrupt
) -> Work:
    """The configuration with where and how it is carried out."""
    return Work(
        folder=folder,
        config=config,
        report=say,
        processes=options.processes,
        stop=stop,
        devices=options.devices,
        block=options.block,
        preview_every=None if options.preview_minutes is None else 60 * options.preview_minutes,
    )
