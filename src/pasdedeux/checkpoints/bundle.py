"""The files of one Wan model found and put together: one or two experts, and what stands around them.

Found in a native folder, in diffusers' layout, in folders as ComfyUI keeps them, or given one by one. Headers of
the experts are read, nothing else: each is brought to native names and recognised. What is not there is None; whoever
needs it says so.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from pasdedeux.checkpoints.families import FAMILIES, Family
from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.names.dialects import to_native
from pasdedeux.checkpoints.names.identify import Hints, hints_of, identify, kind, recognise
from pasdedeux.checkpoints.names.layouts import Place, Places, find_places, fitting_parts, json_object, needed_as
from pasdedeux.checkpoints.names.swaps import check_order, evidence, verify_order
from pasdedeux.checkpoints.tensors import Weights
from pasdedeux.models.wan.config import WanConfig

ASSUMED_BOUND = 0.9  # of a second expert for a model that was released as one: image-to-video's
COMPONENTS = 6  # how many parts of a path may speak of the model: a hub's cache buries the name that deep


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertWeights:
    """One expert: "high", "low", or "model" where it is the only one; its weights under native names, not read yet.

    dialect: whose names the file has ("native", "comfyui", "diffusers"); config: the sizes.
    """

    name: str
    weights: Weights
    dialect: str
    config: WanConfig

    @property
    def path(self) -> Path:
        """The file, or the folder of its shards."""
        return self.weights.path


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A model: its family, its experts from the noisiest on, and the sigmas at which the next takes over.

    vae, text (umT5), tokenizer, image (CLIP), relight (the LoRA for replacing): files or folders, None where there is
    none; notes: what was assumed, in sentences.
    """

    family: Family
    experts: tuple[ExpertWeights, ...]
    bounds: tuple[float, ...]
    vae: Path | None = None
    text: Path | None = None
    tokenizer: Path | None = None
    image: Path | None = None
    relight: Path | None = None
    notes: tuple[str, ...] = ()


def find_bundle(model: Path, *, family: str | None = None) -> Bundle:
    """The model in a folder, or in one file. Raises ValueError where there is none, several, or an unknown one.

    family: a name of FAMILIES, where files do not tell which of two it is.
    """
    places = find_places(model)
    bundle = _bundle(places, family)
    found = fitting_parts(places, bundle.family)
    return replace(
        bundle,
        vae=places.vae or found.vae,
        text=places.text or found.text,
        tokenizer=places.tokenizer,
        image=places.image or found.image,
        relight=places.relight,
        notes=bundle.notes + found.notes,
    )


def make_bundle(
    high: Path | None = None,
    low: Path | None = None,
    vae: Path | None = None,
    text: Path | None = None,
    tokenizer: Path | None = None,
    image: Path | None = None,
    bounds: tuple[float, ...] | None = None,
    family: str | None = None,
) -> Bundle:
    """A model of files, or folders of shards, given one by one; one expert alone is a whole model of one.

    Raises ValueError for none, for a pair whose sizes differ or whose order is known to be wrong, for unknown weights.
    """
    given = tuple(Place(path=path, expert=name) for path, name in ((high, "high"), (low, "low")) if path is not None)
    if not given:
        raise ValueError("A model needs at least one expert's weights.")
    if len(given) == 1:
        given = (Place(path=given[0].path),)
    bundle = _bundle(Places(experts=given, bounds=bounds), family)
    return replace(bundle, vae=vae, text=text, tokenizer=tokenizer, image=image)


def open_expert(path: Path, name: str | None = None) -> ExpertWeights:
    """One expert of a file or folder in any layout. Without a name it gets the one its surroundings tell, or "model".

    Raises ValueError if it is no Wan model.
    """
    raw = open_weights(path)
    with needed_as("transformer", raw):
        weights, dialect = to_native(raw)
    try:
        config = identify(weights.shapes, _hints(path, weights))
    except ValueError as error:
        raise ValueError(f"{path} cannot be used. {error}") from error
    told = evidence(weights)
    return ExpertWeights(
        name=name or (told.expert if told else "model"), weights=weights, dialect=dialect, config=config
    )


def _bundle(places: Places, family: str | None) -> Bundle:
    experts = tuple(open_expert(place.path, place.expert) for place in places.experts)
    first = experts[0]
    if len(experts) > 1:
        _check_alike(*experts)
        high, low = experts[0].weights, experts[1].weights
        check_order(high, low)
        if evidence(high) is None or evidence(low) is None:
            verify_order(high, low)
    names = (*first.path.absolute().parts[-COMPONENTS:], *places.names)
    if family is None:
        try:
            found = recognise(first.config, names=names, metadata=first.weights.metadata, experts=len(experts))
        except ValueError as error:
            raise ValueError(f"{first.path} cannot be used. {error}") from error
        chosen, notes = found.family, found.notes
    else:
        chosen, notes = _named(family, first.config), ()
    if len(experts) == 1 and chosen.experts > 1:
        which = f"the {first.name}-noise expert" if first.name != "model" else "one expert"
        notes += (f"Only {which} of {chosen.name} is here; it denoises alone, from beginning to end.",)
    elif len(experts) == 1:
        experts = (replace(first, name="model"),)
    bounds = _bounds(places.bounds, chosen, len(experts))
    if len(experts) > 1 and chosen.experts == 1 and places.bounds is None:
        where = f"the second takes over at sigma {bounds[0]:g}, unless told otherwise"
        notes += (f"{chosen.name} was released as one expert; {where}.",)
    return Bundle(family=chosen, experts=experts, bounds=bounds, notes=notes)


def _named(name: str, config: WanConfig) -> Family:
    """The family that was asked for, with the sizes found."""
    if name not in FAMILIES:
        raise ValueError(f'The family "{name}" is not known; known are {", ".join(FAMILIES)}.')
    family = FAMILIES[name]
    if kind(family.config) != kind(config):
        raise ValueError(f"The weights are no {name}: they are {kind(config)}, but that is {kind(family.config)}.")
    return replace(family, config=config)


def _bounds(given: tuple[float, ...] | None, family: Family, experts: int) -> tuple[float, ...]:
    """Where experts take over, as given or as the family's are. Raises ValueError where that is not known."""
    if experts == 1:
        return ()
    bounds = (family.bounds or (ASSUMED_BOUND,)) if given is None else given
    if len(bounds) != experts - 1:
        raise ValueError(
            f"{experts} experts need {experts - 1} bound between them, not {len(bounds)}: "
            f"{family.name} was released with {family.experts}, so say at which sigma the second takes over."
        )
    if not 0 < bounds[0] < 1:
        raise ValueError(f"The bound between the experts is {bounds[0]}; it must lie between 0 and 1.")
    return bounds


def _check_alike(high: ExpertWeights, low: ExpertWeights) -> None:
    """Raise ValueError unless both experts have the same sizes."""
    if high.config == low.config:
        return
    if kind(high.config) != kind(low.config):
        differ = f"the weights of {kind(high.config)} and of {kind(low.config)}"
    else:
        fields = (name for name in type(high.config).__dataclass_fields__)
        pairs = ((name, getattr(high.config, name), getattr(low.config, name)) for name in fields)
        differ = ", ".join(f"{name} {one} and {other}" for name, one, other in pairs if one != other)
    raise ValueError(f"{high.path} and {low.path} are no pair: they have {differ}.")


def _hints(path: Path, weights: Weights) -> Hints:
    """From the config.json in or beside the file, else from one that the header carries."""
    beside = (path if path.is_dir() else path.parent) / "config.json"
    if beside.is_file():
        return hints_of(json_object(beside))
    try:
        record = json.loads(weights.metadata.get("config", "{}"))
    except ValueError:  # somebody else's use of the word
        record = {}
    numbers = {key: int(text) for key, text in weights.metadata.items() if key == "num_heads" and text.isdecimal()}
    return hints_of({**numbers, **(record if isinstance(record, dict) else {})})
