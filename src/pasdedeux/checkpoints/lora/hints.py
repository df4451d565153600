"""What the names and widths in a LoRA file tell of the model it was made for: what to say when it does not fit."""

import re
from collections.abc import Iterable

_LAYERS = {
    r"face_adapter|face_encoder|motion_encoder|pose_patch_embedding": (
        "layers for pose and face",
        "Wan2.2-Animate",
    ),
    r"vace_(blocks|patch)": ("VACE layers", "Wan VACE"),
    r"[kv]_img|add_[kv]_proj|img_emb|image_embedder|norm_added_k": (
        "layers that look at a picture (k_img)",
        "Wan2.1 image-to-video",
    ),
    r"audio_|casual_audio": ("layers for sound", "Wan2.2 speech-to-video"),
    r"single_transformer_blocks|single_blocks|double_blocks": ("double and single blocks", "Flux or HunyuanVideo"),
    r"transformer_blocks|txt_mlp|img_mlp": ("transformer_blocks", "LTX, Qwen-Image or CogVideoX"),
    r"down_blocks|mid_block|input_blocks|output_blocks|up_blocks": ("the blocks of a U-Net", "Stable Diffusion"),
    r"^lora_te|text_encoder|t5|umt5": ("layers of a text encoder", "a text encoder, which is not changed here"),
}
_WIDTHS = {1536: "Wan 1.3B", 3072: "Wan2.2 TI2V-5B", 5120: "a Wan of 14B"}


def made_for(keys: Iterable[str]) -> str | None:
    """What keys without a place in the model tell, as half a sentence."""
    every = list(keys)
    for pattern, (layers, model) in _LAYERS.items():
        if any(re.search(pattern, key) for key in every):
            return f"it has {layers}: it was made for {model}"
    return None


def width_hint(found: Iterable[int], wanted: Iterable[int]) -> str | None:
    """What a width that is not the model's tells, as half a sentence."""
    model = set(wanted)
    for side in found:
        if side in _WIDTHS and side not in model:
            return f"a width of {side} is that of {_WIDTHS[side]}"
    return None
