"""Whose fault it was: the user's input ends in one sentence and code 2, ours in a traceback and code 1."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import typer

PACKAGE = Path(__file__).parents[1]
USER_FAULT, STOPPED = 2, 130
EXTRAS = {
    **dict.fromkeys(("gguf", "huggingface_hub", "tokenizers", "transformers"), "wan"),
    **dict.fromkeys(("skimage", "scipy"), "evaluate"),
    "mediapipe": "people",
    "onnxruntime": "pose",
}
"""Which extra brings a package that not everybody needs."""


@contextmanager
def user_faults() -> Iterator[None]:
    """Turn errors about the user's input into a sentence on stderr and exit code 2, and Ctrl-C into 130."""
    try:
        yield
    except KeyboardInterrupt as error:
        typer.echo("Stopped.", err=True)
        raise typer.Exit(STOPPED) from error
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise fail(f"This needs the package {error.name}: pip install 'pasdedeux[{extra}]'.") from error
    except OSError as error:
        raise fail(_system(error)) from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise fail("The memory is full; a smaller size, fewer frames or packed weights need less.") from error
    except ValueError as error:
        # A ValueError that a library raised was not worded for the user: it is a fault of ours.
        if not raised_here(error.__traceback__):
            raise
        raise fail(str(error)) from error


def fail(sentence: str) -> typer.Exit:
    """Say a sentence on stderr; the exit to raise."""
    typer.echo(f"pasdedeux: {sentence}", err=True)
    return typer.Exit(USER_FAULT)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, NumPy's, an accelerator's, or that of torch on a processor."""
    full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return full or "DefaultCPUAllocator" in str(error)


def raised_here(trace: TracebackType | None) -> bool:
    """Whether the error was raised by a line of this package."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and PACKAGE in Path(trace.tb_frame.f_code.co_filename).parents


def _system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}."
