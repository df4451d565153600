"""From a LoRA file's keys to the changes of one model: layers found, halves brought together, shapes checked."""

from collections.abc import Callable, Iterator, Mapping
from math import isfinite, prod

from pasdedeux.checkpoints.lora.change import Change, Form, by
from pasdedeux.checkpoints.lora.dialects import Key, Names, Place, Shapes, dialect_of, without_prefix
from pasdedeux.checkpoints.lora.hints import width_hint
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

Group = dict[str, Key]  # the keys of one layer, by part
Scale = Callable[[str, int], float]  # of a layer and a rank, where the file has no alpha for it

_FLOATS = ("float64", "float32", "float16", "bfloat16")
_FORMS: dict[str, Form] = {"down": "low rank", "up": "low rank", "hada": "LoHa", "lokr": "LoKr"}
_PAIRS = (
    ("up", "down"),
    ("hada_w1_a", "hada_w1_b"),
    ("hada_w2_a", "hada_w2_b"),
    ("lokr_w1_a", "lokr_w1_b"),
    ("lokr_w2_a", "lokr_w2_b"),
)
_REFUSED = {
    "middle": "a LoRA of a convolution in Tucker form",
    "hada_t1": "a LoHa in Tucker form",
    "hada_t2": "a LoHa in Tucker form",
    "lokr_t2": "a LoKr in Tucker form",
    "set_weight": "a weight to stand in the place of the model's",
    "reshape_weight": "a layer made wider, as control LoRAs do",
}


class Reader:
    """Collects the changes a file makes, and which of its keys made them (`matched`, key to dialect)."""

    def __init__(self, weights: Weights, shapes: Shapes, scale: Scale) -> None:
        self.weights, self.shapes, self.default_scale = weights, shapes, scale
        self.names = Names(shapes)
        self.changes: dict[str, list[Change]] = {}
        self.matched: dict[str, str] = {}
        self._dialects: dict[str, str] = {}
        self._alphas: dict[str, bool] = {}  # by layer, whether a key says its alpha

    @property
    def alphas(self) -> bool:
        """Whether any layer has an alpha."""
        return any(self._alphas.values())

    @property
    def without_alpha(self) -> tuple[str, ...]:
        """The layers that have none where others of the same dialect have."""
        having = {self._dialects[layer] for layer, given in self._alphas.items() if given}
        return tuple(layer for layer, given in self._alphas.items() if not given and self._dialects[layer] in having)

    def read(self, keys: list[Key]) -> None:
        """Raises ValueError naming the first key that cannot be what it says."""
        groups: dict[str, Group] = {}
        for key in keys:
            group = groups.setdefault(key.layer, {})
            if key.part in group:
                raise self.fault(key, f"says the same as {group[key.part].key}")
            group[key.part] = key
        diffusers = self.names.in_diffusers([without_prefix(layer) for layer in groups])
        for layer, group in groups.items():
            self._dialects[layer] = dialect_of(group.values())
            bare = without_prefix(layer)
            self._read_layer(group, self.names.find(bare, "", norms_of_diffusers=diffusers))
            if "diff_m" in group:
                self._add_difference(self.names.find(bare, "diff_m"), group["diff_m"])

    def _read_layer(self, group: Group, place: Place | None) -> None:
        """The keys of a layer; those for which the model has nothing are left."""
        if place is None:
            return
        refused = next((part for part in _REFUSED if part in group), None)
        if refused is not None:
            raise self.fault(group[refused], f"is {_REFUSED[refused]}, which cannot be merged")
        scale = self._add_product(place, group)
        for part in ("diff", "diff_b", "up_bias"):
            if part in group:
                self._add_difference(place, group[part], scale if part == "up_bias" else 1.0)

    def _add_product(self, place: Place, group: Group) -> float:
        """Add the change that is a product of matrices, if there is one; its scale."""
        form, name = self._form(group), self.names.weight(place)
        if form is None or name is None:
            return 1.0
        parts = {part: self._tensor(key) for part, key in group.items() if _form_of(part)}
        rows = self._rows(name, place)
        shape = (rows[1] - rows[0], *self.shapes[name][1:])
        self._check_product(group, parts, shape, name)
        rank = _rank(parts)
        scale = self._scale(group, rank)
        change = Change(
            layer=next(iter(group.values())).layer,
            form=form,
            shape=self.shapes[name],
            rows=rows,
            parts=parts,
            scale=scale,
            rank=rank,
            magnitude=self._magnitude(group, shape),
        )
        self._add(name, change, [key for part, key in group.items() if part in parts or part in ("alpha", "magnitude")])
        return scale

    def _form(self, group: Group) -> Form | None:
        """What the matrices of a layer are. Raises ValueError where some are missing, or are of two kinds."""
        forms: dict[Form, Key] = {form: key for part, key in group.items() if (form := _form_of(part)) is not None}
        if len(forms) > 1:
            raise self.fault(next(iter(forms.values())), f"makes its layer {' and '.join(forms)} at once")
        if not forms:
            if "magnitude" in group or "up_bias" in group:
                raise self.fault(group.get("magnitude") or group["up_bias"], "is without the matrices it belongs to")
            return None
        form, key = next(iter(forms.items()))
        lacking = next((part for part in _wanted(form, group) if part not in group), None)
        if lacking is not None:
            raise self.fault(key, f"is without its other half ({lacking})")
        double = next((part for part in ("lokr_w1", "lokr_w2") if part in group and f"{part}_a" in group), None)
        if double is not None:
            raise self.fault(group[double], f"says the same as {group[f'{double}_a'].key}")
        return form

    def _add_difference(self, place: Place | None, key: Key, scale: float = 1.0) -> None:
        """Add a change stored in full, of a weight, a bias or a modulation, if the model has it."""
        find = self.names.bias if key.part in ("diff_b", "up_bias") else self.names.weight
        name = find(place) if place is not None else None
        if place is None or name is None:
            return
        tensor, rows = self._tensor(key), self._rows(name, place)
        shape = (rows[1] - rows[0], *self.shapes[name][1:])
        if _squeezed(tensor.shape) != _squeezed(shape):
            raise self._unfit(key, name, shape)
        change = Change(
            layer=key.layer,
            form="difference",
            shape=self.shapes[name],
            rows=rows,
            parts={"diff": tensor},
            scale=scale,
        )
        self._add(name, change, [key])

    def _add(self, name: str, change: Change, keys: list[Key]) -> None:
        for other in self.changes.get(name, ()):
            overlap = max(other.rows[0], change.rows[0]) < min(other.rows[1], change.rows[1])
            if overlap and other.layer != change.layer:
                raise ValueError(
                    f"{self.weights.path} changes {name} twice, as {other.layer} and as {change.layer}; one has to go."
                )
        self.changes.setdefault(name, []).append(change)
        self.matched |= {key.key: self._dialects[key.layer] for key in keys}

    def _rows(self, name: str, place: Place) -> tuple[int, int]:
        count = self.shapes[name][0]
        return (0, count) if place.half is None else (place.half * count // 2, (place.half + 1) * count // 2)

    def _tensor(self, key: Key) -> LazyTensor:
        tensor = self.weights[key.key]
        if tensor.dtype not in _FLOATS and not tensor.packed:
            raise self.fault(key, f"holds {tensor.dtype}; a LoRA's values are floats")
        return tensor

    def _scale(self, group: Group, rank: int | None) -> float:
        """alpha / rank; where nothing is of low rank there is no scale, whatever the alpha says."""
        alpha = self._alpha(group["alpha"]) if "alpha" in group else None
        if rank is None:
            return 1.0
        layer = next(iter(group.values())).layer
        self._alphas[layer] = alpha is not None
        return self.default_scale(without_prefix(layer), rank) if alpha is None else alpha / rank

    def _alpha(self, key: Key) -> float:
        tensor = self.weights[key.key]
        if tensor.size != 1 or tensor.packed or tensor.dtype == "bool":
            raise self.fault(key, f"holds {by(tensor.shape)} of {tensor.dtype}; an alpha is one number")
        alpha = float(tensor.read().reshape(()).item())
        if not isfinite(alpha) or alpha == 0:
            raise self.fault(key, f"is {alpha}; an alpha is a finite number other than 0")
        return alpha

    def _magnitude(self, group: Group, shape: tuple[int, ...]) -> LazyTensor | None:
        """DoRA's lengths: one for each row ([O], [O, 1]) or for each column ([1, I])."""
        if "magnitude" not in group:
            return None
        tensor = self._tensor(group["magnitude"])
        sides = {(shape[0],): shape[0], (shape[0], 1): shape[0], (1, shape[1]): shape[1]}
        if sides.get(tensor.shape[:2]) != tensor.size:
            raise self.fault(group["magnitude"], f"has shape {by(tensor.shape)}; it is a number for each row or column")
        return tensor

    def _check_product(self, group: Group, parts: Mapping[str, LazyTensor], shape: tuple[int, ...], name: str) -> None:
        """Raises ValueError unless the matrices can be multiplied and give the weight's shape."""
        for part, tensor in parts.items():
            if len(tensor.shape) < 2 or 0 in tensor.shape:
                raise self.fault(group[part], f"has shape {by(tensor.shape)}; it is a matrix of rank 1 or more")
        for left, right in _PAIRS:
            if left in parts and parts[left].shape[1] != parts[right].shape[0]:
                ranks = f"{parts[left].shape[1]}, but {group[right].key} of rank {parts[right].shape[0]}"
                raise self.fault(group[left], f"is of rank {ranks}; they must agree")
        for part, fits in _fits(parts, shape[0], shape[1:]):
            if not fits:
                raise self._unfit(group[part], name, shape)

    def _unfit(self, key: Key, name: str, shape: tuple[int, ...]) -> ValueError:
        found = self.weights[key.key].shape
        hint = width_hint(found, shape)
        said = f"has shape {by(found)}, which does not fit the model's {name} ({by(shape)})"
        return self.fault(key, said + (f"; {hint}" if hint else ""))

    def fault(self, key: Key, said: str) -> ValueError:
        """What is wrong with a key, in a sentence."""
        return ValueError(f"{self.weights.path} cannot be used as a LoRA: {key.key} {said}.")


def _form_of(part: str) -> Form | None:
    return _FORMS.get(part) or _FORMS.get(part[:4] if part[4:6] == "_w" else "")


def _wanted(form: Form, group: Group) -> tuple[str, ...]:
    """The parts that a form needs; a factor of a LoKr is stored in full or as two."""
    if form == "low rank":
        return "down", "up"
    if form == "LoHa":
        return "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"
    factors = ((f,) if f in group else (f"{f}_a", f"{f}_b") for f in ("lokr_w1", "lokr_w2"))
    return tuple(part for factor in factors for part in factor)


def _rank(parts: Mapping[str, LazyTensor]) -> int | None:
    """Of the product; of a LoKr, of its second factor if that is of low rank, else of its first, else none."""
    return next((parts[f].shape[0] for f in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if f in parts), None)


def _fits(parts: Mapping[str, LazyTensor], rows: int, inner: tuple[int, ...]) -> Iterator[tuple[str, bool]]:
    """For each part that has a side in common with a weight of shape [rows, *inner], whether it has its length."""
    shapes = {part: tensor.shape for part, tensor in parts.items()}
    if not inner:
        yield next(iter(parts)), False
    for left, right in _PAIRS[:3]:
        if left in parts:
            yield left, shapes[left][0] == rows and prod(shapes[left][2:]) == 1
            yield right, shapes[right][1:] in (inner, (prod(inner),))
    if "lokr_w2" in parts or "lokr_w2_b" in parts:
        yield from _fits_kronecker(shapes, rows, inner)


def _fits_kronecker(
    shapes: Mapping[str, tuple[int, ...]], rows: int, inner: tuple[int, ...]
) -> Iterator[tuple[str, bool]]:
    """Both factors are matrices, but that the second has a kernel where the weight has one."""
    for part, shape in shapes.items():
        yield part, len(shape) == 2 or (part == "lokr_w2" and shape[2:] == inner[1:])
    (left1, right1), (left2, right2) = ((f, f) if f in shapes else (f"{f}_a", f"{f}_b") for f in ("lokr_w1", "lokr_w2"))
    columns = prod(shapes[right2][1:])
    yield left2, shapes[left1][0] * shapes[left2][0] == rows
    yield right2, shapes[right1][1] * columns == prod(inner) and columns % prod(inner[1:]) == 0


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(side for side in shape if side != 1)
