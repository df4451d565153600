"""What a file or folder of weights is, told from headers: a model, one expert, a LoRA, a VAE or an encoder.

Of a model it also says what is missing for a job, and where that can be had.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pasdedeux.checkpoints.bundle import Bundle, ExpertWeights, find_bundle
from pasdedeux.checkpoints.encoders import tokenizer_of
from pasdedeux.checkpoints.families import FAMILIES, Family
from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.lora.report import lora_facts
from pasdedeux.checkpoints.names.dialects import vae_names, vae_to_native, without_prefix
from pasdedeux.checkpoints.names.keymaps import vae_version
from pasdedeux.checkpoints.names.layouts import TEXT, kind_of
from pasdedeux.checkpoints.names.swaps import evidence
from pasdedeux.checkpoints.repositories import Expert, Part, Repository, Role, sources
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

SHOWN, PLACES = 3, 2
EXPERTS: tuple[Expert, ...] = ("high", "low")
NAMES = {"native": "native", "comfyui": "ComfyUI", "diffusers": "diffusers"}
TEXT_NAMINGS = dict(zip((row[0] for row in TEXT), ("native", "Hugging Face", "Hugging Face", "llama.cpp"), strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class PartFacts:
    """One part of what was looked at: its role in the model, the file or folder, and its sizes.

    layout: the container and whose names; stored: types by their share of the values; packing: how values are
    quantised, "" where they are not.
    """

    role: str
    path: Path
    layout: str = ""
    parameters: int | None = None
    nbytes: int = 0
    stored: str = ""
    packing: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """A part that a job needs and that is not here: for what, and where it is to be had, best first."""

    part: str
    purpose: str
    places: tuple[tuple[Repository, Part], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What was found at a path: `what` in a few words, facts a line each, its parts, doubts, and what it lacks."""

    path: Path
    what: str
    facts: Mapping[str, str]
    parts: tuple[PartFacts, ...]
    notes: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()


def describe_path(path: Path) -> Described:
    """What is at a path. Raises ValueError in a sentence if it is nothing that a Wan model needs."""
    if path.is_dir():
        return _folder(path)
    weights = open_weights(path)
    if kind_of(weights) == "transformer":
        return describe_bundle(path, find_bundle(path))
    return describe_weights(weights, path)


def describe_bundle(path: Path, bundle: Bundle) -> Described:
    """A model: family, experts, what stands around them."""
    family = bundle.family
    experts = tuple(_expert_part(expert) for expert in bundle.experts)
    around = {"vae": bundle.vae, "text": bundle.text, "tokenizer": bundle.tokenizer, "clip": bundle.image}
    around |= {"lora": bundle.relight}
    others = tuple(_other_part(role, place) for role, place in around.items() if place is not None)
    return Described(
        path=path,
        what=f"{family.name}, {_which(bundle)}",
        facts=_family_facts(bundle),
        parts=(*experts, *others),
        notes=bundle.notes,
        needs=tuple(_needs(bundle)),
    )


def describe_weights(weights: Weights, path: Path) -> Described:
    """A LoRA, a VAE, a text or picture encoder. Raises ValueError for anything else."""
    kind = kind_of(weights)
    if kind == "vae":
        return _vae(weights, path)
    if kind == "text":
        return _text(weights, path)
    if kind == "image":
        return _image(weights, path)
    facts = lora_facts(weights)
    if facts is not None:
        part = _part("lora", weights, "")
        return Described(path=path, what="a LoRA", facts=facts.facts, parts=(part,), notes=facts.notes)
    named = ", ".join(list(weights)[:SHOWN])
    raise ValueError(f"{path} holds {len(weights)} tensors that no Wan model needs; the first are {named or 'none'}.")


def packing(weights: Weights) -> str:
    """How values are quantised, in words; "" where they are not."""
    packed = [tensor for tensor in weights.values() if tensor.packed]
    if not packed:
        return ""
    blocks = [tensor for tensor in packed if tensor.dtype[:1].isupper()]
    if blocks:
        return f"GGUF, mostly {_most(blocks)}"
    scales = [tensor.scale.size for tensor in packed if tensor.scale is not None]
    if not scales:
        return "fp8 without scales"
    return "fp8 with a scale per row" if max(scales) > 1 else "fp8_scaled"


def stored(weights: Weights) -> str:
    """ "float8_e4m3fn 98.3 %, bfloat16 1.7 %": types by their share of the values; without it where there is one."""
    counts = _counts(weights.values())
    total = sum(counts.values()) or 1
    shares = [f"{dtype} {_percent(count / total)}" for dtype, count in counts.items()]
    return ", ".join(shares) if len(counts) > 1 else next(iter(counts), "nothing")


def _folder(path: Path) -> Described:
    try:
        return describe_bundle(path, find_bundle(path))
    except ValueError as no_model:
        try:
            weights = open_weights(path)
            return describe_weights(weights, path)
        except ValueError:  # what was wrong with it as a model says more
            raise ValueError(str(no_model)) from no_model


def _which(bundle: Bundle) -> str:
    if len(bundle.experts) == 2:
        return "both experts"
    name = bundle.experts[0].name
    if name != "model":
        return f"the {name}-noise expert"
    return "one expert" if bundle.family.experts > 1 else "one model"


def _family_facts(bundle: Bundle) -> dict[str, str]:
    family, config = bundle.family, bundle.experts[0].config
    sizes = f"{config.layers} blocks, {config.dim} wide, {config.heads} heads, {config.in_dim} to {config.out_dim}"
    facts = {"family": family.name, "sizes": f"{sizes} channels"}
    for expert in bundle.experts:
        facts["expert" if len(bundle.experts) == 1 else expert.name] = _expert_told(expert, len(bundle.experts))
    if len(bundle.experts) == 2:
        facts["handoff"] = f"the second takes over at sigma {', '.join(f'{bound:g}' for bound in bundle.bounds)}"
    guidance = " and ".join(f"{scale:g}" for scale in family.guidance)
    facts["defaults"] = (
        f"{family.steps} steps of {family.solver}, shift {family.shift:g}, guidance {guidance}, "
        f"{family.frames} frames of {family.size[0]}x{family.size[1]} at {family.fps:g} fps"
    )
    return facts


def _expert_told(expert: ExpertWeights, count: int) -> str:
    told = evidence(expert.weights)
    if told is not None and (count == 2 or told.expert == expert.name):
        return f"{told.expert}-noise, by {told.source}"
    if count == 2:
        return f"{expert.name}-noise, by its place"
    return "the only one" if expert.name == "model" else f"{expert.name}-noise"


def _expert_part(expert: ExpertWeights) -> PartFacts:
    return _part(expert.name, expert.weights, NAMES[expert.dialect])


def _other_part(role: str, path: Path) -> PartFacts:
    """VAE, encoder or tokenizer of a model; a file that cannot be opened shows as its size alone."""
    try:
        weights = open_weights(path)
    except ValueError:
        return PartFacts(role=role, path=path, nbytes=_bytes(path))
    found = _part(role, weights, "")
    return PartFacts(
        role=role,
        path=path,
        layout=found.layout,
        parameters=found.parameters,
        nbytes=found.nbytes,
        stored=found.stored,
        packing=found.packing,
    )


def _part(role: str, weights: Weights, names: str) -> PartFacts:
    layout = f"{weights.container}, {names} names" if names else weights.container
    return PartFacts(
        role=role,
        path=weights.path,
        layout=layout,
        parameters=sum(tensor.size for tensor in weights.values()),
        nbytes=weights.nbytes,
        stored=stored(weights),
        packing=packing(weights),
    )


def _vae(weights: Weights, path: Path) -> Described:
    version = vae_version(vae_names(weights)) or ""
    native, dialect = vae_to_native(weights)
    part = _part("vae", native, NAMES[dialect])
    used = "Wan 2.2 TI2V-5B" if version == "wan2.2" else "every Wan model but TI2V-5B"
    return Described(
        path=path, what=f"the VAE of {version.replace('wan', 'Wan ')}", facts={"used by": used}, parts=(part,)
    )


def _text(weights: Weights, path: Path) -> Described:
    names = without_prefix(weights)
    shapes = dict(zip(names, (weights[name].shape for name in weights), strict=False))
    embedding = next(name for name in TEXT_NAMINGS if name in names)
    block = next(row[1] for row in TEXT if row[0] == embedding)
    count = len({name[len(block) :].partition(".")[0] for name in names if name.startswith(block)})
    words, width = (shapes.get(embedding, ()) + (0, 0))[:2]
    part = _part("text", weights, TEXT_NAMINGS[embedding])
    facts = {"sizes": f"{count} blocks, {width} wide, {words:,} tokens", "used by": "every Wan model"}
    return Described(path=path, what="a text encoder (umT5)", facts=facts, parts=(part,))


def _image(weights: Weights, path: Path) -> Described:
    native = any(name.startswith("visual.") for name in weights)
    embedding = "visual.cls_embedding" if native else "vision_model.embeddings.class_embedding"
    width = weights[embedding].shape[-1] if embedding in weights else 0
    part = _part("clip", weights, "native" if native else "Hugging Face")
    facts = {"sizes": f"{width} wide", "used by": "Wan 2.1 image to video, Wan 2.2 Animate"}
    return Described(path=path, what="a picture encoder (CLIP)", facts=facts, parts=(part,))


def _needs(bundle: Bundle) -> list[Need]:
    """What a job would need beside what is here."""
    family, needs = bundle.family, []
    if len(bundle.experts) < family.experts:
        name = bundle.experts[0].name
        other: Expert | None = {"high": "low", "low": "high"}.get(name)  # type: ignore[assignment]
        purpose = "the other steps" if other else "its steps, unless this is it"
        for each in (other,) if other else EXPERTS:
            needs.append(_need(bundle, "transformer", f"the {each}-noise expert", purpose, each))
    if bundle.vae is None:
        needs.append(_need(bundle, "vae", f"the VAE of {family.vae.replace('wan', 'Wan ')}", "every job"))
    if bundle.text is None:
        needs.append(_need(bundle, "text", "the text encoder", "every prompt"))
    if bundle.tokenizer is None and (bundle.text is None or tokenizer_of(bundle.text) is None):
        needs.append(_need(bundle, "tokenizer", "the tokenizer", "every prompt"))
    if family.clip and bundle.image is None:
        needs.append(_need(bundle, "clip", "the picture encoder (CLIP)", "every job"))
    if family.task == "animate" and bundle.relight is None:
        needs.append(_need(bundle, "lora", "the relighting LoRA", "replace mode"))
    return needs


def _need(bundle: Bundle, role: Role, part: str, purpose: str, expert: Expert | None = None) -> Need:
    places: dict[tuple[str, ...], tuple[Repository, Part]] = {}  # one for each file
    for repo, found in _places(bundle, role, expert):
        places.setdefault((found.hub or repo.hub, *found.files), (repo, found))
    return Need(part=part, purpose=purpose, places=tuple(places.values())[:PLACES])


def _places(bundle: Bundle, role: Role, expert: Expert | None) -> list[tuple[Repository, Part]]:
    """For an expert, files like the one that is here come first; for the rest, small ones."""
    found = sources(role, bundle.family.name, expert) or _elsewhere(bundle.family, role)
    if role != "transformer":
        return found
    weights = bundle.experts[0].weights
    size = weights.nbytes / 1e9
    alike = [pair for pair in found if ("gguf" in pair[0].form.lower()) == (weights.container == "gguf")]
    return sorted(alike or found, key=lambda pair: abs(pair[1].gigabytes - size))


def _elsewhere(family: Family, role: Role) -> list[tuple[Repository, Part]]:
    """Parts that all families share, where no repository of this family is known."""
    if role not in ("vae", "text", "tokenizer", "clip"):
        return []
    alike = (other for other in FAMILIES.values() if other.vae == family.vae)
    return next((found for other in alike if (found := sources(role, other.name))), [])


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(inside.stat().st_size for inside in path.rglob("*") if inside.is_file())


def _counts(tensors: Iterable[LazyTensor]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.size
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def _most(tensors: list[LazyTensor]) -> str:
    return next(iter(_counts(tensors)))


def _percent(share: float) -> str:
    rounded = f"{100 * share:.1f} %"
    return {"0.0 %": "< 0.1 %", "100.0 %": "> 99.9 %"}.get(rounded, rounded)
