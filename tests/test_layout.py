"""The rooms of the package and the direction of imports between them."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import spimm
from spimm.kernels import list_backends

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "spimm"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 500

LOWER = {"words", "files", "manifest", "reading", "weights", "surrogate", "kernels", "neurons", "layers"}
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {"models"},
    "words": set(),
    "files": {"reading"},
    "reading": set(),
    "manifest": {"files"},
    "weights": {"files", "manifest", "reading"},
    "surrogate": set(),
    "kernels": {"surrogate"},
    "neurons": {"surrogate", "kernels"},
    "layers": {"surrogate", "kernels", "neurons"},
    "models": LOWER,
    "tasks": LOWER,
    "analyze": LOWER,
    "deploy": LOWER,
    "hardware": {"words", "analyze", "files", "reading"},
    "data": {"words", "files", "reading"},
    "train": LOWER | {"models", "tasks", "data", "analyze"},
    "bench": LOWER | {"models", "deploy", "data"},
    "reproduce": LOWER | {"models", "analyze", "hardware", "train", "bench"},
    "cli": LOWER | {"models", "tasks", "analyze", "deploy", "hardware", "data", "train", "bench", "reproduce"},
    "__main__": {"cli"},
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    """Full names of our own modules that a file imports, at any depth of the code, for types as well."""
    package = ("spimm", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) + 1 - node.level]) + "." if node.level else ""
            module = (start + (node.module or "")).rstrip(".")
            yield from (f"{module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def imported_rooms(path: Path) -> set[str]:
    names = (name.split(".") for name in imported_modules(path) if name.split(".")[0] == "spimm")
    rooms = {parts[1] if len(parts) > 1 else "create_model" for parts in names}
    public = rooms & set(spimm.__all__)  # `import spimm` and `from spimm import create_model` are imports of models
    return (rooms - public) | ({"models"} if public - {"__version__"} else set())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_downwards_only(path: Path) -> None:
    room = room_of(path)
    assert room in MAY_IMPORT, f"{room} is a new room; say in this test what it may import"
    forbidden = imported_rooms(path) - MAY_IMPORT[room] - {room}
    assert not forbidden, f"{room} must not import {forbidden}"


def test_the_hardware_room_reads_traces_and_nothing_else_of_the_analysis() -> None:
    for path in FILES:
        if room_of(path) == "hardware":
            analysis = {name for name in imported_modules(path) if name.startswith("spimm.analyze")}
            assert analysis <= {"spimm.analyze.Trace", "spimm.analyze.trace.Trace"}


def test_every_form_of_import_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "layers").mkdir()
    path = tmp_path / "layers" / "odd.py"
    path.write_text(
        "import spimm.data, torch\nfrom spimm import train, create_model\n"
        "from ..tasks import base\nfrom . import conv\n"
        "def f():\n    from spimm.cli.main import main\n    importlib.import_module('spimm.analyze')\n"
    )
    assert imported_rooms(path) == {"data", "train", "models", "tasks", "layers", "cli", "analyze"}


def test_no_room_is_named_for_nothing() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "misc", "common")]


@pytest.mark.parametrize("folder", ["spimm", "csrc", "tests", "benchmarks"])
def test_no_file_is_longer_than_the_limit(folder: str) -> None:
    sources = [path for ending in ("py", "cpp", "h") for path in (ROOT / folder).rglob(f"*.{ending}")]
    lengths = {path.name: len(path.read_text().splitlines()) for path in sources}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


OPS = sorted(path.parent.name for path in (PACKAGE / "kernels").glob("*/__init__.py"))


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_a_reference(op: str) -> None:
    assert (PACKAGE / "kernels" / op / "reference.py").is_file()
    registered = re.findall(r'register\("(\w+)", "reference"', (PACKAGE / "kernels" / op / "__init__.py").read_text())
    assert registered
    assert all("reference" in list_backends(name) for name in registered)


def test_every_module_can_be_imported() -> None:
    for module in pkgutil.walk_packages(spimm.__path__, "spimm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def test_importing_the_package_is_quick_because_it_leaves_torch_alone() -> None:
    code = "import sys, spimm; spimm.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
