"""Changes one place of the library at a time and runs the tests of that part: which changes does no test notice?

    python benchmarks/mutants.py [--count 50] [--seed 0] [--list]

A mutant is drawn from the central files below: a comparison made strict or loose, a sum turned into a difference, a
product into a quotient, a number one higher, True for False, a condition negated. Each is written into a copy of the
package, and the tests of its file run on that copy until the first fails. A mutant whose tests all pass survives: a
test is missing, or the change has no effect. Prints a line for each and then the survivors; ends with 1 if there are
any. Some 20 seconds a mutant.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "spimm/kernels/lif/reference.py": ["tests/kernels/test_lif.py"],
    "spimm/kernels/norm_lif/reference.py": ["tests/kernels/test_norm_lif.py"],
    "spimm/kernels/rel_psp/reference.py": ["tests/kernels/test_rel_psp.py", "tests/models/test_ttfs.py"],
    "spimm/kernels/qk_mask/reference.py": ["tests/kernels/test_qk_mask.py"],
    "spimm/neurons/lif.py": ["tests/neurons"],
    "spimm/neurons/multi.py": ["tests/neurons", "tests/layers/test_spk.py"],
    "spimm/surrogate.py": ["tests/test_surrogate.py"],
    "spimm/layers/norm.py": ["tests/layers"],
    "spimm/layers/attention.py": [
        "tests/layers/test_attention.py",
        "tests/models/test_qkformer.py",
        "tests/models/test_hooks.py",
    ],
    "spimm/layers/grid_attention.py": ["tests/layers/test_grid_attention.py"],
    "spimm/layers/spk.py": ["tests/layers/test_spk.py"],
    "spimm/models/spikeatconv.py": ["tests/models/test_spikeatconv.py", "tests/models/test_spikeatconv_sizes.py"],
    "spimm/models/qkformer.py": ["tests/models/test_qkformer.py", "tests/golden"],
    "spimm/models/metaspikeformer.py": [
        *(f"tests/models/test_{name}.py" for name in ("metaspikeformer", "metaspikeformer_sizes", "published_steps")),
        "tests/golden",
    ],
    "spimm/models/ttfs.py": ["tests/models/test_ttfs.py", "tests/golden"],
    "spimm/tasks/classify.py": ["tests/tasks"],
    "spimm/train/engine.py": [f"tests/train/test_{name}.py" for name in ("engine", "resume", "val_share")],
    "spimm/train/optim.py": ["tests/train/test_optim.py"],
    "spimm/analyze/energy.py": ["tests/analyze/test_energy.py", "tests/analyze/test_published_energy.py"],
    "spimm/analyze/ops.py": ["tests/analyze/test_ops.py", "tests/analyze/test_spikeatconv_energy.py"],
    "spimm/deploy/fold.py": ["tests/deploy/test_fold.py"],
    "spimm/data/events.py": ["tests/data/test_events.py"],
    "spimm/data/frames.py": ["tests/data/test_frames.py"],
    "spimm/hardware/cost.py": ["tests/hardware/test_cost.py"],
}
COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
COMPUTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}


class Mutant(NamedTuple):
    """A file, the line that is changed, and the whole text afterwards."""

    file: str
    line: int
    change: str
    text: str


def mutant(file: str, index: int) -> Mutant:
    """The mutant of a file whose change is at the place of that number."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    node = places(tree)[index]
    before = _shown(node)
    _change(node)
    return Mutant(file, node.lineno, f"{before} -> {_shown(node)}", ast.unparse(tree))  # type: ignore[attr-defined]


def _shown(node: ast.AST) -> str:
    return ast.unparse(node.test if isinstance(node, ast.If) else node)


def places(tree: ast.AST) -> list[ast.AST]:
    """The nodes that can be changed."""
    return [node for node in ast.walk(tree) if _changed(node)]


def draw(count: int, seed: int) -> list[Mutant]:
    """So many mutants, from each file in turn."""
    random_order, chosen = random.Random(seed), []
    pools = {}
    for file in sorted(TESTS):
        indices = range(len(places(ast.parse((ROOT / file).read_text(encoding="utf-8")))))
        pools[file] = random_order.sample(indices, len(indices))
    while len(chosen) < count and any(pools.values()):
        chosen += [(file, pool.pop()) for file, pool in pools.items() if pool]
    return [mutant(*place) for place in chosen[:count]]


def _changed(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return type(node.ops[0]) in COMPARED
    if isinstance(node, ast.BinOp):
        return type(node.op) in COMPUTED
    if isinstance(node, ast.If):
        return True
    return isinstance(node, ast.Constant) and type(node.value) in (bool, int, float)


def _change(node: ast.AST) -> None:
    if isinstance(node, ast.Compare):
        node.ops[0] = COMPARED[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp):
        node.op = COMPUTED[type(node.op)]()
    elif isinstance(node, ast.If):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Constant):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]


def survives(mutant: Mutant, copy: Path) -> bool:
    """Whether all tests of the mutant's file pass on a copy of the package that has it."""
    target = copy / mutant.file
    before = target.read_text(encoding="utf-8")
    target.write_text(mutant.text, encoding="utf-8")
    try:
        tests = [test for test in TESTS[mutant.file] if (copy / test).exists()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=600).returncode == 0
    except subprocess.TimeoutExpired:  # an endless loop is noticed as well
        return False
    finally:
        target.write_text(before, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="print the mutants that would be tried and stop")
    arguments = parser.parse_args()
    chosen = draw(arguments.count, arguments.seed)
    if arguments.list:
        for one in chosen:
            print(f"{one.file}:{one.line}  {one.change[:120]}")
        return 0
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("spimm", "tests", "docs", "pyproject.toml", "README.md"):
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / part)
        for number, one in enumerate(chosen, 1):
            alive = survives(one, copy)
            survivors += [one] if alive else []
            word = "SURVIVES" if alive else "noticed"
            print(f"{number}/{len(chosen)}  {word}  {one.file}:{one.line}  {one.change[:120]}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
