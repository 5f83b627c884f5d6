"""From finished runs to a record: their files copied to the results, their figures read, what they ran on."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import spimm
from spimm.bench.environment import hardware
from spimm.files import write_text
from spimm.reproduce.logs import RunFiles
from spimm.reproduce.match import check_alike
from spimm.reproduce.published import list_rows
from spimm.reproduce.records import FOLDER, Record, entry, save, verify
from spimm.reproduce.rows import find_row
from spimm.train import Recipe, load_recipe, read_log

LOG, TRACE, ENERGY = "log.jsonl", "analysis/trace.json", "analysis/energy.json"
FACTS = ("recipe.json", "data.json")
MERGED = "runs.jsonl"
VARIED = {"seed": "seed=S", "fold": "fold=K"}
"""What the runs of one record may differ in."""


def record_runs(folders: Sequence[Path], rows: Sequence[str], *, name: str) -> Record:
    """The record of finished runs that differ in seed or fold alone; the files of a single one are relative to it.

    Spikes a neuron, for rows that print them and for runs without a row, and energy come from what `spimm analyze RUN
    --images ALL --out RUN/analysis` wrote, if it is there. Commit and hardware are those of now and here. ValueError
    for a run that is not complete, is not like the others or does not stand for a row.
    """
    if not folders:
        raise ValueError("no run is given; wanted at least one folder")
    sparse = not rows or any("sparsity" in find_row(list_rows(), row).figures for row in rows)
    wanted = {TRACE: sparse, ENERGY: True}
    entries, runs = [], []
    for folder in folders:
        there = (file if wanted[file] and (folder / file).is_file() else None for file in wanted)
        found, run = entry(folder, RunFiles(LOG, {}, *there))
        entries.append(found)
        runs.append(run)
    check_alike([run.recipe for run in runs])
    first = runs[0]
    record = Record(
        name=name,
        rows=tuple(rows),
        command=command([run.recipe for run in runs]),
        entries=tuple(entries),
        commit=commit(),
        hardware=describe_hardware(first.device, first.threads),
        versions={"spimm": spimm.__version__, "torch": first.torch},
    )
    for folder, found in zip(folders, entries, strict=True):
        verify(replace(record, entries=(found,)), folder)
    return record


def add_runs(folders: Sequence[Path], rows: Sequence[str], results: Path, *, name: str | None = None) -> Path:
    """Copies log, recipe, data facts and analysis of finished runs to `results`/NAME; returns the path of the record.

    Of several runs the log becomes `runs.jsonl`, with the start and the epochs of each. name: by default that of the
    first run's folder. FileExistsError where there is a result of that name, FileNotFoundError for a missing file.
    """
    record = record_runs(folders, rows, name=name or folders[0].resolve().name)
    target = results / record.name
    if target.exists() or (results / FOLDER / f"{record.name}.json").exists():
        raise FileExistsError(f"{results} has a result {record.name!r} already; give this one another name")
    for missing in (folder / file for folder in folders for file in FACTS if not (folder / file).is_file()):
        raise FileNotFoundError(f"there is no {missing}")
    target.mkdir(parents=True)
    for file in FACTS:
        shutil.copyfile(folders[0] / file, target / file)
    if len(folders) > 1:
        write_text(target / MERGED, "".join(_marked_lines(folders, record)))
    else:
        shutil.copyfile(folders[0] / LOG, target / LOG)
    entries = []
    for folder, found in zip(folders, record.entries, strict=True):
        mark = {"seed": found.seed, "fold": found.fold}
        suffix = "" if len(folders) == 1 else f"_{'_'.join(f'{k}{v}' for k, v in mark.items() if v is not None)}"
        copied = [
            file and _copy(folder / file, target / f"{Path(file).stem}{suffix}.json", results)
            for file in (found.files.trace, found.files.energy)
        ]
        log, where = (MERGED, mark) if len(folders) > 1 else (LOG, {})
        moved, _ = entry(results, RunFiles(f"{record.name}/{log}", where, *copied))
        entries.append(moved)
    return save(replace(record, entries=tuple(entries)), results)


def _copy(source: Path, target: Path, results: Path) -> str:
    shutil.copyfile(source, target)
    return target.relative_to(results).as_posix()


def _marked_lines(folders: Sequence[Path], record: Record) -> list[str]:
    """All lines of the runs but those of single steps, with their run's seed and fold."""
    return [
        json.dumps({"seed": found.seed, "fold": found.fold, **line}) + "\n"
        for folder, found in zip(folders, record.entries, strict=True)
        for line in read_log(folder / LOG)
        if line["kind"] != "step"
    ]


def command(recipes: Sequence[Recipe]) -> str:
    """What runs the recipes: their name and what they change of the recipe of that name; S and K where they differ."""
    first = recipes[0]
    varied = [name for name in VARIED if len({getattr(recipe, name) for recipe in recipes}) > 1]
    settings = [
        f"{key}={_text(value)}" for key, value in _changes(first, load_recipe(first.name)).items() if key not in varied
    ]
    words = ["SPIMM_DATA=FOLDER spimm train", first.name, *settings, *(VARIED[name] for name in varied)]
    return " ".join(words)


def _changes(recipe: Recipe, base: Recipe) -> dict[str, Any]:
    before, after = _flat(base.to_json()), _flat(recipe.to_json())
    return {key: value for key, value in after.items() if key not in before or before[key] != value}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with keys of the form owner.key."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
    return found


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def commit() -> str:
    """Short name of the commit that is checked out, with + where its source was changed; without one the version."""
    root = Path(spimm.__file__).resolve().parents[1]
    try:
        head = _git(root, "rev-parse", "--short", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--", "spimm", "csrc") else "")
    except (OSError, subprocess.CalledProcessError):
        return f"v{spimm.__version__}"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def describe_hardware(device: str, threads: int) -> str:
    """Processor, cores and instruction set; the GPU where the run was on one."""
    about = hardware()
    if device.startswith("cuda") and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(device)}, {about['cpu']}"
    return f"{about['cpu']}, {about['cores']} cores, {about['spimm_isa']}, {threads} thread{'s' if threads > 1 else ''}"
