"""The Wan video transformers: their sizes, the text and image denoiser, and those that are driven or steered."""

from .animate import AnimateConditions, WanAnimateTransformer
from .config import WAN_MODELS, AnimateConfig, ControlConfig, VaceConfig, WanConfig
from .control import ControlConditions, WanControlTransformer
from .transformer import WanConditions, WanTransformer, WanTrunk
from .vace import VaceConditions, WanVaceTransformer

__all__ = [
    "WAN_MODELS",
    "AnimateConditions",
    "AnimateConfig",
    "ControlConditions",
    "ControlConfig",
    "VaceConditions",
    "VaceConfig",
    "WanAnimateTransformer",
    "WanConditions",
    "WanConfig",
    "WanControlTransformer",
    "WanTransformer",
    "WanTrunk",
    "WanVaceTransformer",
    "build_wan",
]


def build_wan(config: WanConfig) -> WanTrunk:
    """The network that has these sizes."""
    match config:
        case AnimateConfig():
            return WanAnimateTransformer(config)
        case VaceConfig():
            return WanVaceTransformer(config)
        case ControlConfig():
            return WanControlTransformer(config)
        case _:
            return WanTransformer(config)
