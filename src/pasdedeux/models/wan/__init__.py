"""The Wan video transformers: sizes, the text and image denoiser, the one driven by pose and face."""

from .animate import AnimateConditions, WanAnimateTransformer
from .config import WAN_MODELS, AnimateConfig, WanConfig
from .transformer import WanConditions, WanTransformer

__all__ = [
    "WAN_MODELS",
    "AnimateConditions",
    "AnimateConfig",
    "WanAnimateTransformer",
    "WanConditions",
    "WanConfig",
    "WanTransformer",
]
