"""Animate a character with two expert video denoisers that share one generation.

`Engine`, `Job` and `Result` are found here by name and loaded on first use, so that importing one room
(`pasdedeux.denoise`, say) loads neither the engine nor what it is built on.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pasdedeux.engine import Engine, Job, Result

__version__ = "0.1.0"

__all__ = ["Engine", "Job", "Result", "__version__"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'pasdedeux' has no attribute {name!r}")
    return getattr(import_module("pasdedeux.engine"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
