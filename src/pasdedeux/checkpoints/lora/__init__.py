"""LoRAs of every dialect: read against a model's names, given to its experts, merged."""

from pasdedeux.checkpoints.lora.change import Change, LoRA
from pasdedeux.checkpoints.lora.choice import LoRAChoice, assign, expert_of, parse_lora
from pasdedeux.checkpoints.lora.files import config_beside, fit_loras, read_lora, title_of
from pasdedeux.checkpoints.lora.merge import Merged, merge

__all__ = [
    "Change",
    "LoRA",
    "LoRAChoice",
    "Merged",
    "assign",
    "config_beside",
    "expert_of",
    "fit_loras",
    "merge",
    "parse_lora",
    "read_lora",
    "title_of",
]
