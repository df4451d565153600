"""Where the weights are: public repositories as data, and what of them a job needs.

A repository here is one thing to fetch, not one page: where a page holds several models or several precisions, each
has a row, and where it lacks the VAE or the text encoder, the row says from which page they come. Sizes are in
decimal gigabytes; one that was computed from the number of parameters, not read off the page, is marked `about`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

Role = Literal["transformer", "vae", "text", "tokenizer", "clip", "lora"]
Expert = Literal["high", "low"]
ROLES: tuple[Role, ...] = ("transformer", "vae", "text", "tokenizer", "clip", "lora")
APACHE = "Apache-2.0"
APACHE_BASE = "the original's, Apache-2.0"  # the page states none of its own
COMFY_21, COMFY_22 = "Comfy-Org/Wan_2.1_ComfyUI_repackaged", "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"
QUANT = "Q8_0"
NEAR = 5  # names that are offered where there is none of the one asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Files that belong together: `files` are patterns in the page's tree, where `{quant}` is a GGUF type.

    optional: fetched only when asked for; hub: the page, where it is another than the repository's.
    """

    role: Role
    files: tuple[str, ...]
    gigabytes: float
    about: bool = False
    expert: Expert | None = None
    optional: bool = False
    hub: str | None = None

    @property
    def title(self) -> str:
        """ "high transformer", "vae"."""
        return f"{self.expert} {self.role}" if self.expert else self.role

    @property
    def size(self) -> str:
        """ "28.6 GB", or "about 28.6 GB"."""
        return ("about " if self.about else "") + in_words(self.gigabytes * 1e9)


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """One thing to fetch. `family` names a row of FAMILIES; a LoRA's is the model it is for."""

    name: str
    hub: str
    family: str
    licence: str
    parts: tuple[Part, ...]
    form: str

    @property
    def size(self) -> str:
        """Everything but the optional parts."""
        needed = [part for part in self.parts if not part.optional]
        total = sum(part.gigabytes for part in needed)
        return ("about " if any(part.about for part in needed) else "") + in_words(total * 1e9)

    @property
    def pair(self) -> bool:
        """Whether it holds two experts."""
        return {part.expert for part in self.parts} >= {"high", "low"}

    def select(
        self, expert: Expert | None = None, roles: Iterable[str] = (), quant: str | None = None
    ) -> tuple[Part, ...]:
        """The parts to fetch: of one expert or of both, of some roles or of all that are not optional.

        Raises ValueError if the repository has no such part.
        """
        if expert is not None and not self.pair:
            raise ValueError(f"{self.name} is one model, without a {expert} expert; leave the expert out.")
        known, asked = {part.role for part in self.parts}, set(roles)
        if asked - known:
            strange, held = ", ".join(sorted(asked - known)), ", ".join(r for r in ROLES if r in known)
            raise ValueError(f"{self.name} has no part {strange}; it has {held}.")
        if quant is not None and not any("{quant}" in file for part in self.parts for file in part.files):
            raise ValueError(f"{self.name} is no GGUF repository: it has no choice of types, and {quant} is none.")
        return tuple(
            _filled(part, quant or QUANT)
            for part in self.parts
            if (part.role in asked if asked else not part.optional)
            and (expert is None or part.expert in (None, expert))
        )


def repository(name: str) -> Repository:
    """By its name, or by its hub id where only one row has that. Raises ValueError with the nearest names."""
    wanted = name.lower()
    found = [r for r in REPOSITORIES if wanted == r.name] or [r for r in REPOSITORIES if wanted == r.hub.lower()]
    if len(found) == 1:
        return found[0]
    every = [r.name for r in REPOSITORIES]
    near = [r.name for r in found] or [other for other in every if wanted and wanted in other]
    near = near or get_close_matches(wanted, every, n=NEAR)
    why = "names several" if found else "names none"
    write = f"write one of {', '.join(near)}" if near else "pasdedeux models lists them"
    raise ValueError(f'"{name}" {why} of the known repositories; {write}.')


def sources(role: Role, family: str, expert: Expert | None = None) -> list[tuple[Repository, Part]]:
    """Where a part for a family can be had, smallest first."""
    found = [
        (repo, part)
        for repo in REPOSITORIES
        if repo.family == family
        for part in repo.parts
        if part.role == role and part.expert in (None, expert)
    ]
    return sorted(found, key=lambda pair: pair[1].gigabytes)


def in_words(nbytes: float) -> str:
    """A size as the hub writes it: decimal units, three digits."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 999.5:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.1f} GB" if nbytes >= 9.995 else f"{nbytes:.2f} GB"


def _filled(part: Part, quant: str) -> Part:
    if not any("{quant}" in file for file in part.files):
        return part
    ratio = _BITS.get(quant, _BITS[QUANT]) / _BITS[QUANT]
    return Part(
        role=part.role,
        files=tuple(file.format(quant=quant) for file in part.files),
        gigabytes=part.gigabytes * ratio,
        about=True,
        expert=part.expert,
        hub=part.hub,
    )


# Bits per value of a whole file, read off the sizes of published ones (14.3 B parameters in 5.30 to 15.4 GB).
_BITS = {
    "Q2_K": 2.97,
    "Q3_K_S": 3.65,
    "Q3_K_M": 4.02,
    "Q4_0": 4.79,
    "Q4_K_S": 4.90,
    "Q4_1": 5.19,
    "Q4_K_M": 5.40,
    "Q5_0": 5.79,
    "Q5_K_S": 5.68,
    "Q5_K_M": 6.04,
    "Q6_K": 6.72,
    "Q8_0": 8.62,
}

_VAE_21 = Part(role="vae", files=("Wan2.1_VAE.pth",), gigabytes=0.508)
_VAE_22 = Part(role="vae", files=("Wan2.2_VAE.pth",), gigabytes=2.82)
_TEXT = Part(role="text", files=("models_t5_umt5-xxl-enc-bf16.pth",), gigabytes=11.36)
_TOKENIZER = Part(role="tokenizer", files=("google/umt5-xxl/*",), gigabytes=0.0215)
_CLIP = Part(role="clip", files=("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",), gigabytes=4.77)
_SHARDS = ("config.json", "diffusion_pytorch_model*")
_COMFY_TOKENIZER = Part(role="tokenizer", files=("google/umt5-xxl/*",), gigabytes=0.0215, hub="Wan-AI/Wan2.2-TI2V-5B")
_COMFY_TEXT = Part(
    role="text",
    files=("split_files/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",),
    gigabytes=6.74,
    hub=COMFY_21,
)
_COMFY_VAE_21 = Part(role="vae", files=("split_files/vae/wan_2.1_vae.safetensors",), gigabytes=0.254, hub=COMFY_21)
_COMFY_VAE_22 = Part(role="vae", files=("split_files/vae/wan2.2_vae.safetensors",), gigabytes=1.41, hub=COMFY_22)
_COMFY_CLIP = Part(
    role="clip", files=("split_files/clip_vision/clip_vision_h.safetensors",), gigabytes=1.26, hub=COMFY_21
)


def _pair(role: Role, pattern: str, gigabytes: float, about: bool = False) -> tuple[Part, Part]:
    """High and low: `{expert}` in the pattern is "high" or "low", `{Expert}` the same with a capital."""
    return tuple(  # type: ignore[return-value]
        Part(
            role=role,
            files=(pattern.replace("{expert}", e).replace("{Expert}", e.title()),),
            gigabytes=gigabytes,
            about=about,
            expert=e,
        )
        for e in ("high", "low")
    )


def _one(pattern: str | tuple[str, ...], gigabytes: float, about: bool = False) -> Part:
    files = (pattern,) if isinstance(pattern, str) else pattern
    return Part(role="transformer", files=files, gigabytes=gigabytes, about=about)


def _native(hub: str, family: str, *parts: Part, name: str | None = None) -> Repository:
    return Repository(name=name or family, hub=hub, family=family, licence=APACHE, parts=parts, form="native")


def _diffusers(
    hub: str, family: str, transformer: float, *, text: float, vae: float = 0.508, clip: float = 0
) -> Repository:
    """A diffusers folder; sizes of its transformers, text encoder, VAE and image encoder."""
    pair = family in ("wan2.2-t2v-a14b", "wan2.2-i2v-a14b")
    index = ("model_index.json", "scheduler/*")
    folders: tuple[tuple[str, Expert | None], ...] = (("transformer/*", "high"), ("transformer_2/*", "low"))
    folders = folders if pair else (("transformer/*", None),)
    parts = [
        Part(role="transformer", files=(files, *index), gigabytes=transformer, about=True, expert=expert)
        for files, expert in folders
    ]
    parts += [
        Part(role="text", files=("text_encoder/*",), gigabytes=text),
        Part(role="tokenizer", files=("tokenizer/*",), gigabytes=0.0215),
        Part(role="vae", files=("vae/*",), gigabytes=vae),
    ]
    if clip:
        parts.append(Part(role="clip", files=("image_encoder/*", "image_processor/*"), gigabytes=clip, about=True))
    name = f"{hub.split('/')[1].lower()}"
    return Repository(name=name, hub=hub, family=family, licence=APACHE, parts=tuple(parts), form="diffusers")


def _comfy(family: str, form: str, *parts: Part, clip: bool = False) -> Repository:
    """Single files of the ComfyUI repackaging, with the fp8 text encoder."""
    vae = _COMFY_VAE_22 if family == "wan2.2-ti2v-5b" else _COMFY_VAE_21
    extra = (vae, _COMFY_TEXT, _COMFY_TOKENIZER, *((_COMFY_CLIP,) if clip else ()))
    return Repository(
        name=f"{family}-{form.replace('_', '-')}",
        hub=COMFY_21 if "wan2.1" in family else COMFY_22,
        family=family,
        licence=APACHE_BASE,
        parts=(*parts, *extra),
        form=f"ComfyUI, {form}",
    )


def _gguf(hub: str, family: str, *parts: Part, clip: bool = False) -> Repository:
    vae = _COMFY_VAE_22 if family == "wan2.2-ti2v-5b" else _COMFY_VAE_21
    extra = (vae, _COMFY_TEXT, _COMFY_TOKENIZER, *((_COMFY_CLIP,) if clip else ()))
    return Repository(
        name=f"{family}-gguf", hub=hub, family=family, licence=APACHE_BASE, parts=(*parts, *extra), form="GGUF"
    )


def _lora(name: str, hub: str, family: str, pattern: str, gigabytes: float) -> Repository:
    parts = _pair("lora", pattern, gigabytes)
    return Repository(name=name, hub=hub, family=family, licence=APACHE, parts=parts, form="LoRA, 4 steps")


_MODELS = "split_files/diffusion_models/"
_RELIGHT = Part(role="lora", files=("relighting_lora.ckpt",), gigabytes=1.44, about=True, optional=True)
_RELIGHT_COMFY = Part(
    role="lora",
    files=("split_files/loras/wan2.2_animate_14B_relight_lora_bf16.safetensors",),
    gigabytes=1.44,
    optional=True,
    hub=COMFY_22,
)
T2V, I2V, ANIMATE, TI2V = "wan2.2-t2v-a14b", "wan2.2-i2v-a14b", "wan2.2-animate-14b", "wan2.2-ti2v-5b"
CONTROL, VACE = "wan2.2-fun-a14b-control", "wan2.2-vace-fun-a14b"
T2V_21, T2V_21_SMALL, I2V_21 = "wan2.1-t2v-14b", "wan2.1-t2v-1.3b", "wan2.1-i2v-14b"
_COMMON = (_VAE_21, _TEXT, _TOKENIZER)
REPOSITORIES: tuple[Repository, ...] = (
    _native("Wan-AI/Wan2.2-T2V-A14B", T2V, *_pair("transformer", "{expert}_noise_model/*", 57.154), *_COMMON),
    _native("Wan-AI/Wan2.2-I2V-A14B", I2V, *_pair("transformer", "{expert}_noise_model/*", 57.16, True), *_COMMON),
    _native("Wan-AI/Wan2.2-Animate-14B", ANIMATE, _one(_SHARDS, 34.55, True), *_COMMON, _CLIP, _RELIGHT),
    _native("Wan-AI/Wan2.2-TI2V-5B", TI2V, _one(_SHARDS, 20.0, True), _VAE_22, _TEXT, _TOKENIZER),
    _native(
        "alibaba-pai/Wan2.2-Fun-A14B-Control",
        CONTROL,
        *_pair("transformer", "{expert}_noise_model/*", 28.6, True),
        *_COMMON,
    ),
    _native(
        "alibaba-pai/Wan2.2-VACE-Fun-A14B", VACE, *_pair("transformer", "{expert}_noise_model/*", 34.7, True), *_COMMON
    ),
    _native("Wan-AI/Wan2.1-T2V-14B", T2V_21, _one(_SHARDS, 57.2, True), *_COMMON),
    _native("Wan-AI/Wan2.1-T2V-1.3B", T2V_21_SMALL, _one(_SHARDS, 5.68), *_COMMON),
    _native("Wan-AI/Wan2.1-I2V-14B-480P", I2V_21, _one(_SHARDS, 65.6, True), *_COMMON, _CLIP),
    _native(
        "Wan-AI/Wan2.1-I2V-14B-720P", I2V_21, _one(_SHARDS, 65.6, True), *_COMMON, _CLIP, name="wan2.1-i2v-14b-720p"
    ),
    _native("Wan-AI/Wan2.1-VACE-14B", "wan2.1-vace-14b", _one(_SHARDS, 69.4, True), *_COMMON),
    _diffusers("Wan-AI/Wan2.2-T2V-A14B-Diffusers", T2V, 57.154, text=11.36),
    _diffusers("Wan-AI/Wan2.2-I2V-A14B-Diffusers", I2V, 57.16, text=11.36),
    _diffusers("Wan-AI/Wan2.2-Animate-14B-Diffusers", ANIMATE, 69.1, text=11.36, clip=1.26),
    _diffusers("Wan-AI/Wan2.2-TI2V-5B-Diffusers", TI2V, 20.0, text=11.36, vae=2.82),
    _diffusers("Wan-AI/Wan2.1-T2V-14B-Diffusers", T2V_21, 57.2, text=22.7),
    _diffusers("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", T2V_21_SMALL, 5.68, text=22.7),
    _diffusers("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", I2V_21, 65.6, text=22.7, clip=2.52),
    _comfy(
        T2V, "fp8_scaled", *_pair("transformer", _MODELS + "wan2.2_t2v_{expert}_noise_14B_fp8_scaled.safetensors", 14.3)
    ),
    _comfy(T2V, "fp16", *_pair("transformer", _MODELS + "wan2.2_t2v_{expert}_noise_14B_fp16.safetensors", 28.6)),
    _comfy(
        I2V, "fp8_scaled", *_pair("transformer", _MODELS + "wan2.2_i2v_{expert}_noise_14B_fp8_scaled.safetensors", 14.3)
    ),
    _comfy(I2V, "fp16", *_pair("transformer", _MODELS + "wan2.2_i2v_{expert}_noise_14B_fp16.safetensors", 28.6)),
    _comfy(ANIMATE, "bf16", _one(_MODELS + "wan2.2_animate_14B_bf16.safetensors", 34.5), _RELIGHT_COMFY, clip=True),
    _comfy(TI2V, "fp16", _one(_MODELS + "wan2.2_ti2v_5B_fp16.safetensors", 10.0)),
    _comfy(
        CONTROL,
        "fp8_scaled",
        *_pair("transformer", _MODELS + "wan2.2_fun_control_{expert}_noise_14B_fp8_scaled.safetensors", 14.3, True),
    ),
    _comfy(
        CONTROL,
        "bf16",
        *_pair("transformer", _MODELS + "wan2.2_fun_control_{expert}_noise_14B_bf16.safetensors", 28.6, True),
    ),
    _comfy(
        VACE,
        "fp8_scaled",
        *_pair("transformer", _MODELS + "wan2.2_fun_vace_{expert}_noise_14B_fp8_scaled.safetensors", 17.35),
    ),
    _comfy(
        VACE, "bf16", *_pair("transformer", _MODELS + "wan2.2_fun_vace_{expert}_noise_14B_bf16.safetensors", 34.7, True)
    ),
    _comfy(T2V_21, "fp16", _one(_MODELS + "wan2.1_t2v_14B_fp16.safetensors", 28.6)),
    _comfy(T2V_21_SMALL, "fp16", _one(_MODELS + "wan2.1_t2v_1.3B_fp16.safetensors", 2.84)),
    _comfy("wan2.1-vace-1.3b", "fp16", _one(_MODELS + "wan2.1_vace_1.3B_fp16.safetensors", 4.3, True)),
    _comfy(I2V_21, "fp8_scaled", _one(_MODELS + "wan2.1_i2v_480p_14B_fp8_scaled.safetensors", 16.4), clip=True),
    _gguf("QuantStack/Wan2.2-T2V-A14B-GGUF", T2V, *_pair("transformer", "{Expert}Noise/*-{quant}.gguf", 15.4, True)),
    _gguf("QuantStack/Wan2.2-I2V-A14B-GGUF", I2V, *_pair("transformer", "{Expert}Noise/*-{quant}.gguf", 15.4, True)),
    _gguf("QuantStack/Wan2.2-Animate-14B-GGUF", ANIMATE, _one("*-{quant}.gguf", 18.7, True), clip=True),
    _gguf("QuantStack/Wan2.2-TI2V-5B-GGUF", TI2V, _one("*-{quant}.gguf", 5.4, True)),
    _gguf(
        "QuantStack/Wan2.2-Fun-A14B-Control-GGUF",
        CONTROL,
        *_pair("transformer", "{Expert}Noise/*-{quant}.gguf", 15.4, True),
    ),
    _gguf(
        "QuantStack/Wan2.2-VACE-Fun-A14B-GGUF", VACE, *_pair("transformer", "{Expert}Noise/*-{quant}.gguf", 18.6, True)
    ),
    _lora(
        "wan2.2-t2v-lightning",
        "lightx2v/Wan2.2-Lightning",
        T2V,
        "Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1/{expert}_noise_model.safetensors",
        1.23,
    ),
    _lora(
        "wan2.2-i2v-lightning",
        "lightx2v/Wan2.2-Lightning",
        I2V,
        "Wan2.2-I2V-A14B-4steps-lora-rank64-Seko-V1/{expert}_noise_model.safetensors",
        1.23,
    ),
    Repository(
        name="wan2.2-i2v-distill",
        hub="lightx2v/Wan2.2-Distill-Models",
        family=I2V,
        licence=APACHE,
        parts=(
            *_pair("transformer", "wan2.2_i2v_A14b_{expert}_noise_lightx2v_4step.safetensors", 28.6),
            _COMFY_VAE_21,
            _COMFY_TEXT,
            _COMFY_TOKENIZER,
        ),
        form="4 steps, bf16",
    ),
)
