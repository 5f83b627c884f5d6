"""Nothing in the package turns bytes of a file into code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "spimm"
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "runpy",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.hub.load"}
"""As a call is written; torch.distributed.checkpoint reads an index that is a pickle."""
MESSAGES_OF_PICKLE = {"models/torch_files.py"}
"""Names an error of torch.load's restricted reader, and reads nothing by pickle itself."""


def faults(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(name.name for name in node.names)]
            yield from (f"imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES)
            if any(name.startswith("torch.distributed.checkpoint") for name in names):
                yield "imports torch.distributed.checkpoint"
        if isinstance(node, ast.Call):
            yield from calls(node)


def calls(node: ast.Call) -> Iterator[str]:
    name = dotted(node.func)
    settings = {item.arg: ast.unparse(item.value) for item in node.keywords if "load" in name or "file" in name}
    if name in FORBIDDEN_CALLS or name.endswith(("load_state_dict_from_url", "jit.load", "load_source")):
        yield f"calls {name}"
    if name == "torch.load" and settings.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load", "np.fromfile") and settings.get("allow_pickle", "False") != "False":
        yield f"{name} with pickles"
    if name.endswith("import_module") and not is_own(node.args[0]):
        yield f"imports by a name that is computed: {ast.unparse(node)}"


def dotted(function: ast.expr) -> str:
    """The name that is called, as it is written; nothing for what has none."""
    if isinstance(function, ast.Attribute):
        return f"{dotted(function.value)}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ""


def is_own(name: ast.expr) -> bool:
    """Whether it is a text in the code, or starts with one or with the package's own name."""
    if isinstance(name, ast.JoinedStr):
        start = name.values[0]
        own = isinstance(start, ast.FormattedValue) and ast.unparse(start.value) == "__name__"
        return own or (isinstance(start, ast.Constant) and str(start.value).startswith("spimm."))
    return isinstance(name, ast.Constant)


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("import pickle", 1),
        ("from joblib import load", 1),
        ("from torch.distributed.checkpoint import load", 1),
        ("torch.load(path)", 1),
        ("torch.load(path, weights_only=False)", 1),
        ("torch.load(path, weights_only=True)", 0),
        ("np.load(path, allow_pickle=True)", 1),
        ("np.load(path)", 0),
        ("eval(text)", 1),
        ("model.eval()", 0),
        ("importlib.import_module(name)", 1),
        ("importlib.import_module(f'spimm.kernels.{name}')", 0),
        ("importlib.import_module(f'{__name__}.{name}')", 0),
    ],
)
def test_every_way_to_run_code_is_seen(code: str, number: int) -> None:
    assert len(list(faults(ast.parse(code)))) == number


BY_TABLE = {"data/formats/compression.py", "bench/peers/libraries.py"}
"""Import a library whose name one of their own callers gives, never a file."""


def test_no_file_of_the_package_can_run_what_it_reads() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        kinds = list(faults(ast.parse(path.read_text())))
        if name in MESSAGES_OF_PICKLE:
            kinds.remove("imports pickle")
        if name in BY_TABLE:
            kinds = [kind for kind in kinds if "a name that is computed" not in kind]
        if kinds:
            found[name] = kinds
    assert found == {}
