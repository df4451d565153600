"""People found by RT-DETR, through transformers, from a folder that the user has downloaded.

Any object detector that transformers opens the same way will do, if one of its classes is called "person".
"""

import contextlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.preprocess.detector import Bytes, Person

LEAST = 0.5
PERSON = "person"
NEEDED = "It needs transformers >= 5.23: pip install 'pasdedeux[wan]'."


class DetrFinder:
    """A `PersonFinder`; folder: config.json, preprocessor_config.json and model.safetensors. Raises InputError.

    least: of a score. Nothing is downloaded and nothing is executed that lies in the folder.
    """

    def __init__(self, folder: Path, *, least: float = LEAST, device: str | None = None) -> None:
        from_folder = opened(folder, "AutoModelForObjectDetection")
        self._processor = _processor(folder)
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = from_folder.to(self._device).eval()
        self._person = _person(from_folder.config.id2label, folder)
        self._least = least
        self.name = f"{from_folder.config.model_type} {folder.name} transformers {version('transformers')}"

    @torch.no_grad()
    def find(self, picture: Bytes) -> list[Person]:
        """Everybody in uint8 [H, W, 3], surest first; boxes end at the picture's edges."""
        height, width = picture.shape[:2]
        pixels = self._processor(images=np.ascontiguousarray(picture), return_tensors="pt").pixel_values
        answer = self._model(pixel_values=pixels.to(self._device, torch.float32))
        found = self._processor.post_process_object_detection(
            answer, threshold=self._least, target_sizes=[(height, width)]
        )[0]
        people = found["labels"] == self._person
        boxes = found["boxes"][people].clamp(min=0).minimum(found["boxes"].new_tensor([width, height, width, height]))
        each = zip(boxes.tolist(), found["scores"][people].tolist(), strict=True)
        return sorted((Person(box=tuple(box), score=score) for box, score in each), key=lambda who: -who.score)


def opened(folder: Path, kind: str) -> Any:
    """The model in a folder, as float32, by one of transformers' classes; all its weights are there.

    Raises InputError without transformers, or where the folder does not hold such a model.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(NEEDED) from error
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no config.json; the whole folder of the model is needed.")
    with _quiet(transformers), unreadable(folder):
        model, report = getattr(transformers, kind).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    missing = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if missing:
        raise InputError(f"{folder} lacks {len(missing)} of the model's weights, as {missing[0]}.")
    return model


@contextlib.contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    """What transformers raises for a folder that it cannot read, as one InputError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        line = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InputError(f"{folder} does not hold a model that can be used here: {line}") from error


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without progress bars and advice on what is missing: that is said by the caller, once."""
    log = transformers.utils.logging
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()


def _processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    with unreadable(folder):
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True)


def _person(names: dict[int, str], folder: Path) -> int:
    label = next((label for label, name in names.items() if name.lower() == PERSON), None)
    if label is None:
        raise InputError(f"{folder} finds {len(names)} kinds of things, but none is called {PERSON!r}.")
    return int(label)
