"""Which model a LoRA was made for: it is told against every family, and the best match is said, with its rivals."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pasdedeux.checkpoints.families import FAMILIES
from pasdedeux.checkpoints.lora import config_beside, read_lora
from pasdedeux.checkpoints.lora.change import LoRA
from pasdedeux.checkpoints.lora.dialects import parse
from pasdedeux.checkpoints.names.identify import shapes_of
from pasdedeux.checkpoints.tensors import Weights

SHOWN = 3
# What a file's name or title says of its model, and the families that it then is not.
SAYS = {
    r"t2v(?!.*i2v)": "t2v",
    r"i2v": "i2v",
    r"animate|relight": "animate",
    r"vace": "vace",
    r"fun.*control|control": "control",
    r"ti2v|5b": "ti2v",
}
GENERATIONS = {r"wan[ ._-]?2[._]?1(?!\d)": "wan2.1", r"wan[ ._-]?2[._]?2(?!\d)|a14b": "wan2.2"}
WORDS = ("modelspec.title", "modelspec.architecture", "ss_output_name", "ss_base_model_version")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoRAFacts:
    """What is known of a LoRA, a line each, and what is doubtful."""

    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()


def lora_facts(weights: Weights) -> LoRAFacts | None:
    """A LoRA's dialect, ranks, coverage and model; None if the file is none. Raises ValueError if it is broken."""
    if not any(parse(name) for name in weights):
        return None
    best, rivals = best_match(weights)
    if best is None:
        return _unmatched(weights)
    name, lora = best
    notes = []
    if lora.unmatched:
        notes.append(f"{len(lora.unmatched)} of its keys have no place there: {_first(lora.unmatched)}.")
    if rivals:
        notes.append(f"By its names and shapes it fits {', '.join(rivals)} as well.")
    return LoRAFacts(facts=_facts(name, lora), notes=tuple(notes))


def best_match(weights: Weights) -> tuple[tuple[str, LoRA] | None, tuple[str, ...]]:
    """The family with the fewest keys left over and the largest share changed, and those as good by shapes."""
    config = config_beside(weights.path)
    found: list[tuple[str, LoRA]] = []
    for name, family in FAMILIES.items():
        try:
            found.append((name, read_lora(weights, shapes_of(family.config), config=config)))
        except ValueError:  # not of this one
            continue
    if not found:
        return None, ()
    ranked = sorted(found, key=lambda pair: (len(pair[1].unmatched), -pair[1].coverage))
    first = ranked[0][1]
    equal = [p for p in ranked if (len(p[1].unmatched), p[1].coverage) == (len(first.unmatched), first.coverage)]
    words = " ".join((*weights.path.parts[-2:], *(weights.metadata.get(key, "") for key in WORDS))).lower()
    equal.sort(key=lambda pair: -_said(pair[0], words))
    return equal[0], tuple(name for name, _ in equal[1:])


def _said(family: str, words: str) -> int:
    """How much of a family's name the words bear out."""
    kinds = [kind for pattern, kind in SAYS.items() if re.search(pattern, words)]
    ages = [age for pattern, age in GENERATIONS.items() if re.search(pattern, words)]
    return 2 * any(kind in family for kind in kinds) + any(family.startswith(age) for age in ages)


def _facts(name: str, lora: LoRA) -> dict[str, str]:
    facts = {"fits": name, "written as": " and ".join(lora.dialects)}
    if lora.ranks is not None:
        least, most = lora.ranks
        alpha = "with alpha" if lora.alphas else "without alpha, taken as the rank"
        facts["rank"] = f"{most if least == most else f'{least} to {most}'}, {alpha}"
    keys = len(lora.matched) + len(lora.unmatched)
    facts["changes"] = f"{len(lora.changes)} weights, {lora.coverage:.0%} of the linear layers; {len(lora.matched)} of "
    facts["changes"] += f"{keys} keys have a place"
    expert = f"the {lora.expert}-noise one, by its name or header" if lora.expert else "not said"
    if lora.other_expert:
        expert += f"; {len(lora.other_expert)} keys are for the other"
    return facts | {"expert": expert}


def _unmatched(weights: Weights) -> LoRAFacts:
    """Why it fits no family, as the first family's reader says it."""
    try:
        read_lora(weights, shapes_of(next(iter(FAMILIES.values())).config), config=config_beside(weights.path))
    except ValueError as error:
        return LoRAFacts(facts={"fits": "no known family"}, notes=(str(error),))
    raise RuntimeError(f"{weights.path} fits a family that it was not matched with.")


def _first(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
