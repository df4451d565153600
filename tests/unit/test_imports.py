"""The walls of the house: which room may import which, and what may be imported at all.

The table is the one in docs/architecture.md. Imports are read from the source, however they are spelled and
however deep they are nested; what is loaded at run time is asked of a fresh interpreter.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "src" / "pasdedeux"

MAY_IMPORT: dict[str, set[str]] = {
    "denoise": set(),
    "residency": set(),
    "models": set(),
    "puppets": set(),
    "builtin": set(),
    "checkpoints": {"models"},
    "animate": {"denoise", "models"},
    "train": {"denoise", "residency", "models", "checkpoints", "puppets", "animate"},
    "engine": {"denoise", "residency", "models", "checkpoints", "animate", "puppets"},
    "apps": {"engine", "train", "checkpoints", "animate", "puppets"},
}
CORE = ("denoise", "residency", "models", "checkpoints")


def imported(path: Path, house: Path) -> Iterator[str]:
    """Every dotted name the file imports, relative ones made absolute."""
    here = (house.name, *path.relative_to(house).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else ()
            stem = (*base, *filter(None, [node.module]))
            yield from (".".join((*stem, alias.name)) for alias in node.names)
        elif isinstance(node, ast.Call):
            yield from called_import(node)


def called_import(node: ast.Call) -> Iterator[str]:
    """The name in `import_module("...")`, `importlib.import_module("...")` or `__import__("...")`."""
    function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if function in {"import_module", "__import__"} and node.args:
        name = node.args[0]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            yield name.value


def allowed(name: str, house: str, rooms: set[str]) -> bool:
    """Another package, the version, or an allowed room. The bare package is not one: it opens the engine."""
    first, _, rest = name.partition(".")
    return first != house or rest == "__version__" or rest.split(".")[0] in rooms


def violations(house: Path, table: dict[str, set[str]]) -> list[str]:
    return [
        f"{path.relative_to(house)} imports {name}"
        for room, others in table.items()
        for path in sorted((house / room).rglob("*.py"))
        for name in imported(path, house)
        if not allowed(name, house.name, others | {room})
    ]


def test_rooms_import_only_what_the_table_allows() -> None:
    wrong = violations(HOUSE, MAY_IMPORT)
    assert not wrong, "\n".join(wrong)


def test_every_room_is_in_the_table_and_the_other_way_round() -> None:
    rooms = {path.name for path in HOUSE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(MAY_IMPORT)


def test_the_page_shows_the_same_table() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.split("## Who may import whom")[1].split("\n## ")[0]
    shown: dict[str, set[str]] = {}
    for rooms, others in re.findall(r"^\| ([a-z, ]+) \| ([a-z, ]+) \|$", section, flags=re.MULTILINE)[1:]:
        names = set() if others == "nothing of ours" else set(others.split(", "))
        shown |= dict.fromkeys(rooms.split(", "), names)
    assert shown == MAY_IMPORT


VIOLATIONS = {
    "from a module": "from house.high.step import walk",
    "from the package": "from house import high",
    "the module": "import house.high.step",
    "the module, renamed": "import house.high.step as step",
    "relative, two dots": "from ..high import step",
    "relative, the package": "from .. import high",
    "in a function": "def late() -> None:\n    from house.high import step",
    "in a method of a nested class": (
        "class A:\n    class B:\n        def c(self) -> None:\n            import house.high"
    ),
    "for type checking only": ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.high import step"),
    "in a try": "try:\n    import house.high\nexcept ImportError:\n    pass",
    "by a call": "import importlib\nimportlib.import_module('house.high')",
    "by a bare call": "from importlib import import_module\nimport_module('house.high')",
    "by the built-in call": "__import__('house.high')",
    "second in a line": "import os, house.high",
    "through the front door": "from house import Engine",
    "the whole house": "import house",
    "everything": "from house import *",
}
HARMLESS = {
    "its own room": "from house.low.other import thing",
    "its own room, relative": "from .other import thing",
    "an allowed room": "from house.middle import thing",
    "an allowed room, relative": "from ..middle import thing",
    "somebody else's package": "import householder.high",
    "the version": "from house import __version__",
    "words only": "text = 'import house.high'  # import house.high",
}


def small_house(root: Path, source: str, file: str = "low/code.py") -> list[str]:
    house = root / "house"
    path = house / file
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    return violations(house, {"low": {"middle"}, "middle": set(), "high": {"low"}})


@pytest.mark.parametrize("source", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_every_spelling_of_a_wrong_import_is_caught(tmp_path: Path, source: str) -> None:
    wrong = small_house(tmp_path, source)
    assert len(wrong) == 1
    assert wrong[0].startswith("low/code.py imports house")


@pytest.mark.parametrize("source", HARMLESS.values(), ids=HARMLESS.keys())
def test_a_right_import_is_let_through(tmp_path: Path, source: str) -> None:
    assert small_house(tmp_path, source) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("low/__init__.py", "from ..high import step"),
        ("low/deep/code.py", "from ...high import step"),
        ("low/deep/__init__.py", "from ...high import step"),
    ],
)
def test_dots_are_counted_from_where_the_file_lies(tmp_path: Path, file: str, source: str) -> None:
    assert small_house(tmp_path, source, file) == [f"{file} imports house.high.step"]


# Run in a fresh interpreter, which refuses whatever is installed but these four, what torch itself asks for,
# and ours.
BARE = """
import importlib, importlib.abc, importlib.metadata, pkgutil, sys

ALLOWED = {"torch", "torchgen", "functorch", "einops", "safetensors", "numpy", "pasdedeux"}
TORCH_NEEDS = {
    "typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec",
    "triton", "nvidia", "cuda", "setuptools", "_distutils_hack", "pkg_resources",
}
INSTALLED = set(importlib.metadata.packages_distributions())
REFUSED = INSTALLED - ALLOWED - TORCH_NEEDS - set(sys.stdlib_module_names)

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"refused: {fullname}", name=fullname)

sys.meta_path.insert(0, Refuse())
for outsider in ("av", "typer"):
    try:
        importlib.import_module(outsider)
        sys.exit(f"{outsider} was not refused")
    except ModuleNotFoundError:
        pass
room = importlib.import_module("pasdedeux." + sys.argv[1])
for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
    importlib.import_module(module.name)
"""


def fresh(program: str, *arguments: str) -> str:
    """What a fresh interpreter prints; its error is this test's."""
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=600
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip()


@pytest.mark.parametrize("room", CORE)
def test_core_rooms_need_only_torch_einops_safetensors_and_numpy(room: str) -> None:
    fresh(BARE, room)


def loaded(statement: str, *names: str) -> set[str]:
    """Which of `names` a fresh interpreter has loaded after `statement`."""
    return set(fresh(f"import sys\n{statement}\nprint(*[n for n in {names!r} if n in sys.modules])").split())


def test_the_package_itself_loads_nothing_heavy() -> None:
    assert loaded("import pasdedeux", "torch", "numpy", "av", "cv2", "typer", "rich") == set()


def test_a_room_does_not_load_the_engine() -> None:
    assert loaded("import pasdedeux.denoise", "pasdedeux.engine", "pasdedeux.apps", "av", "typer") == set()


def test_the_front_door_opens_by_name() -> None:
    said = fresh("from pasdedeux import Engine, Job, Result; print(Engine.__name__, Job.__name__, Result.__name__)")
    assert said == "Engine Job Result"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(ImportError, match="Enjine"):
        from pasdedeux import Enjine  # noqa: F401
