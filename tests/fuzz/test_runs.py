"""A run folder from a stranger: damaged recipes, facts, manifests, states, logs and weights are read or refused.

A hundred and sixty at each run; `pytest -m slow tests/fuzz` tries 1,600 more, of other seeds with SPIMM_FUZZ_SEED=N.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spimm.manifest import MANIFEST_FILE, write_manifest
from spimm.train import Recipe, load_run
from spimm.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from spimm.train.log import read_log

from .damage import Target, check, of_bytes, of_json

SEED = int(os.environ.get("SPIMM_FUZZ_SEED", "0"))
VARIANTS = 160
REFUSED = (ValueError, FileNotFoundError)


def log() -> bytes:
    records = ({"kind": "start", "step": 0}, {"kind": "step", "step": 5, "loss": 2.5}, {"kind": "stop", "step": 9})
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def in_place(root: Path, name: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
    """Puts the damaged file at `name` of a copy of the run."""

    def put(path: Path) -> object:
        copy = path.with_suffix(".run")
        shutil.copytree(root, copy)
        shutil.copyfile(path, copy / name)
        # one who damages a file on purpose states its new checksum
        if name.startswith("checkpoints") and not name.endswith(MANIFEST_FILE):
            (copy / name).with_name(MANIFEST_FILE).unlink()
            write_manifest((copy / name).parent)
        try:
            return read(copy)
        finally:
            shutil.rmtree(copy)

    return put


def targets(root: Path) -> list[Target]:
    facts = {"name": "digits", "num_classes": 10, "class_names": list("0123456789"), "in_chans": 1}
    facts |= {"image_size": [8, 8], "frames": None, "mean": [0.3], "std": [0.4], "note": ""}
    recipe = Recipe(name="digits", model="qkformer_3_64_digits", data="digits")
    tensors = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    best = root / "checkpoints" / "best"
    write_checkpoint(best, Checkpoint(tensors, {"step": 3, "best": [0.5, {"a": None}]}))
    (root / "recipe.json").write_text(json.dumps(recipe.to_json()), encoding="utf-8")
    (root / "data.json").write_text(json.dumps(facts), encoding="utf-8")

    def checkpoint(run: Path) -> object:
        return read_checkpoint(run / "checkpoints" / "best")

    found = [
        Target(
            "recipe.json",
            ".json",
            (root / "recipe.json").read_bytes(),
            of_json,
            in_place(root, "recipe.json", load_run),
            REFUSED,
        ),
        Target(
            "data.json",
            ".json",
            (root / "data.json").read_bytes(),
            of_json,
            in_place(root, "data.json", load_run),
            REFUSED,
        ),
        Target("log.jsonl", ".jsonl", log(), of_bytes, read_log, (ValueError,)),
    ]
    for path in sorted(best.iterdir()):
        damage = of_json if path.suffix == ".json" else of_bytes
        read = in_place(root, f"checkpoints/best/{path.name}", checkpoint)
        found.append(Target(path.name, path.suffix, path.read_bytes(), damage, read, REFUSED))
    return found


def test_a_damaged_run_is_read_or_refused_in_bounded_memory_and_time(tmp_path):
    (tmp_path / "run").mkdir()
    check(targets(tmp_path / "run"), VARIANTS, tmp_path, SEED)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_damaged_runs_are_read_or_refused(tmp_path, part):
    (tmp_path / "run").mkdir()
    check(targets(tmp_path / "run"), VARIANTS, tmp_path, SEED + 1 + part)
