"""What a pickle describes, without unpickling it.

A checkpoint of torch is a list of tensors written as a small program for Python's pickle machine, which can be made
to run anything. Here the program is only followed on paper: it may build dicts, lists, tuples, text and numbers, and
mention the few names a tensor is rebuilt by. Those come out as records of what was asked for; nothing is ever called.
"""

import pickletools
from dataclasses import dataclass
from typing import Any

MAX_PICKLE = 4 << 20  # of a pair's 1,095 tensors it is 0.2 MB
MAX_STEPS = 1 << 19

_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
_WHOLE = ("int64", "int32", "int16", "int8", "uint8", "bool")
NAMES = {
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "torch.storage.UntypedStorage",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    *(f"torch.{name}Storage" for name in _STORAGES),
    *(f"torch.{name}" for name in (*_FLOATS, *_WHOLE)),
}
_SIMPLE = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "INT", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
}


@dataclass(frozen=True, slots=True)
class Name:
    """A name the pickle mentions."""

    path: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call the pickle asks for."""

    path: str
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """What the pickle says lies beside it."""

    key: Any


def read_pickle(data: bytes) -> Any:
    """What the pickle builds, with Name, Call and Stored where it would need more than plain values.

    Raises ValueError if it is broken, too large, or mentions a name no tensor needs.
    """
    if len(data) > MAX_PICKLE:
        raise ValueError(f"its pickle has {len(data)} bytes, more than {MAX_PICKLE}")
    machine = _Machine()
    try:
        for steps, (opcode, value, _) in enumerate(pickletools.genops(data)):
            if opcode.name == "STOP":
                return machine.pop()
            if steps > MAX_STEPS:
                raise ValueError(f"its pickle has more than {MAX_STEPS} instructions")
            machine.step(opcode.name, value)
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(f"its pickle is broken ({type(error).__name__})") from error
    raise ValueError("its pickle ends early")


class _Machine:
    """The stack, the marks on it and the memory of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memory: dict[int, Any] = {}

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise ValueError("its pickle takes more than it made")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def step(self, name: str, value: Any) -> None:
        """Follow one instruction."""
        if name in _VALUES:
            self.stack.append(value)
        elif name in _SIMPLE:
            self.stack.append(_SIMPLE[name])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memory[value] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memory[value])
        elif name == "MEMOIZE":
            self.memory[len(self.memory)] = self.stack[-1]
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name not in ("PROTO", "FRAME"):
            self._build(name, value)

    def _build(self, name: str, value: Any) -> None:
        match name:
            case "EMPTY_DICT":
                self.stack.append({})
            case "EMPTY_LIST":
                self.stack.append([])
            case "TUPLE":
                self.stack.append(tuple(self.since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple([self.pop() for _ in range(int(name[-1]))][::-1]))
            case "SETITEM":
                item, key = self.pop(), self.pop()
                _set_items(self.stack[-1], [key, item])
            case "SETITEMS":
                items = self.since_mark()
                _set_items(self.stack[-1], items)
            case "APPEND":
                item = self.pop()
                _extend(self.stack[-1], [item])
            case "APPENDS":
                items = self.since_mark()
                _extend(self.stack[-1], items)
            case _:
                self._mention(name, value)

    def _mention(self, name: str, value: Any) -> None:
        match name:
            case "GLOBAL" | "INST":
                self.stack.append(_allowed(value.replace(" ", "."), instruction=name))
            case "STACK_GLOBAL":
                last, first = self.pop(), self.pop()
                self.stack.append(_allowed(f"{first}.{last}", instruction=name))
            case "REDUCE":
                args, function = self.pop(), self.pop()
                self.stack.append(_called(function, args))
            case "BUILD":  # attributes beside the items of a dict, or of a parameter: not weights
                self.pop()
                if not isinstance(self.stack[-1], dict | Call):
                    raise ValueError("its pickle changes what is no dict")
            case "BINPERSID":
                self.stack.append(Stored(self.pop()))
            case _:
                raise ValueError(f"its pickle has the instruction {name}, which no weights need")


def _allowed(path: str, instruction: str) -> Name:
    if path not in NAMES or instruction == "INST":
        raise ValueError(f"it would run {path}, which no weights need")
    return Name(path)


def _called(function: Any, args: Any) -> Any:
    if not isinstance(function, Name) or not isinstance(args, tuple):
        raise ValueError("its pickle calls what is no name")
    if function.path == "collections.OrderedDict":
        found: dict[Any, Any] = {}
        for pair in args[0] if args else ():
            _set_items(found, list(pair))
        return found
    if function.path == "torch.Size":
        return tuple(args[0])
    return Call(function.path, args)


def _set_items(found: Any, items: list[Any]) -> None:
    keys = items[::2]
    if not isinstance(found, dict) or len(items) % 2 or not all(isinstance(key, str | int) for key in keys):
        raise ValueError("its pickle fills what is no dict of names")
    for key, item in zip(keys, items[1::2], strict=True):
        if key in found:
            raise ValueError(f"{key} stands in it twice")
        found[key] = item


def _extend(found: Any, items: list[Any]) -> None:
    if not isinstance(found, list):
        raise ValueError("its pickle extends what is no list")
    found.extend(items)
