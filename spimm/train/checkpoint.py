"""Checkpoints: a folder with `model.safetensors`, `ema.safetensors` (when on), `state.pt` for the rest, and
`manifest.json` with the SHA-256 of each. A model split over ranks has a folder `shards` besides (train/shards.py).

A folder is written under another name, flushed to disk and renamed, so its files always belong together; the folder it
replaces stays beside it as `<name>.old`. Whatever moment a crash picks, one of the two is whole.
"""

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spimm import models
from spimm.weights import load_state

MODEL_FILE, EMA_FILE, STATE_FILE = "model.safetensors", "ema.safetensors", "state.pt"
SHARDS = "shards"
MANIFEST_FILE = "manifest.json"
FORMAT, VERSION = "spimm-checkpoint", 1


class CheckpointError(ValueError):
    """A checkpoint that is damaged, foreign, or made for another model."""


class NotWritten(OSError):
    """A checkpoint that the disk did not take; the one before it is as it was."""


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a run: weights by name, averaged weights (empty when off), everything else as plain values."""

    model: dict[str, Tensor]
    state: dict[str, Any]
    ema: dict[str, Tensor] = field(default_factory=dict)


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replaces `folder` by `checkpoint`; the folder that was there becomes `<folder>.old`.

    NotWritten, with the reason and the free bytes, where the disk is full or not writable.
    """
    try:
        publish(begin(folder), folder, checkpoint)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save's is a RuntimeError
        shutil.rmtree(_beside(folder, "new"), ignore_errors=True)
        free = shutil.disk_usage(_existing(folder)).free
        raise NotWritten(f"the checkpoint {folder} could not be written ({error}), {free:,} bytes are free") from error


def begin(folder: Path) -> Path:
    """The empty folder in which the next checkpoint of that name is put together."""
    fresh = _beside(folder, "new")
    _remove(fresh)
    fresh.mkdir(parents=True)
    return fresh


def publish(fresh: Path, folder: Path, checkpoint: Checkpoint) -> None:
    """Adds `checkpoint` to what `fresh` holds already and puts it in the place of `folder`, which becomes `.old`."""
    for name, tensors in ((MODEL_FILE, checkpoint.model), (EMA_FILE, checkpoint.ema)):
        if tensors:
            _save_tensors(fresh / name, tensors)
    torch.save(checkpoint.state, fresh / STATE_FILE)
    files = {path.relative_to(fresh).as_posix(): _digest(path) for path in fresh.rglob("*") if path.is_file()}
    manifest = {"format": FORMAT, "version": VERSION, "files": files}
    (fresh / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for path in (*fresh.rglob("*"), fresh):
        _flush(path)
    old = _beside(folder, "old")
    if folder.exists():
        _remove(old)
        os.replace(folder, old)
    os.replace(fresh, folder)
    _flush(folder.parent)


def find_checkpoint(folder: Path) -> Path | None:
    """`folder`, or `<folder>.old` where a crash came between the two renames, or None."""
    return next((path for path in (folder, _beside(folder, "old")) if path.is_dir()), None)


def last_kept(folder: Path) -> str:
    """What an error says of the checkpoint in `folder`."""
    good = find_checkpoint(folder)
    return f"the last good checkpoint is {good}" if good else "no checkpoint had been written yet"


def run_checkpoint(run: Path, which: str) -> Path:
    """The folder of a run's `best` or `last` checkpoint. FileNotFoundError where it has none yet."""
    checkpoint = find_checkpoint(run / "checkpoints" / which)
    if checkpoint is None:
        raise FileNotFoundError(f"the run in {run} has no {which} checkpoint yet")
    return checkpoint


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, on the CPU. FileNotFoundError, or CheckpointError for a damaged or foreign one.

    Of one that is split over ranks only what is whole: the state without the optimiser, and weights where it has them.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoint folder at {folder}")
    try:
        return _read_folder(folder)
    except CheckpointError as error:
        old = _beside(folder, "old")
        advice = f"; the checkpoint before it is {old}" if old.is_dir() else ""
        raise CheckpointError(f"{error}{advice}") from error


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fills `model` from a .safetensors file, a checkpoint folder (its averaged weights if it has them) or a run folder
    (its best checkpoint).

    FileNotFoundError for a missing path; ValueError for a damaged file and for weights that do not fit the model, which
    stays as it was then.
    """
    source = Path(path)
    if (source / "checkpoints").is_dir():
        source = run_checkpoint(source, "best")
    if source.is_dir():
        whole = next((source / name for name in (EMA_FILE, MODEL_FILE) if (source / name).exists()), None)
        if whole is None and (source / SHARDS).is_dir():
            return load_state(model, _joined(source / SHARDS, model.state_dict()), str(source))
        source = whole or source / MODEL_FILE
    models.load_weights(model, source)


def _joined(shards: Path, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that are split over ranks, the averaged ones if there are, in tensors as those of `like`."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    known = FileSystemReader(shards).read_metadata().state_dict_metadata
    kind = next(name for name in ("ema", "model") if any(key.startswith(f"{name}.") for key in known))
    weights = {name: torch.empty_like(tensor) for name, tensor in like.items() if f"{kind}.{name}" in known}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # as it should be
        load({kind: weights}, storage_reader=FileSystemReader(shards), no_dist=True)
    return weights


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}.{suffix}")


def _read_folder(folder: Path) -> Checkpoint:
    files = _read_manifest(folder / MANIFEST_FILE)
    parts = {name.partition("/")[0] for name in files}
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing from its checkpoint")
        if _digest(path) != digest:
            raise CheckpointError(f"{path} is cut short or was changed after it was written: its SHA-256 is another")
    return Checkpoint(
        model=load_file(folder / MODEL_FILE) if MODEL_FILE in files or SHARDS not in parts else {},
        ema=load_file(folder / EMA_FILE) if EMA_FILE in files else {},
        state=torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True),
    )


def _read_manifest(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} is not a checkpoint of spimm: it has no {path.name}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is cut short or is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not the manifest of a checkpoint of spimm")
    if manifest["version"] != VERSION:
        raise CheckpointError(f"{path} has format version {manifest['version']}, this spimm reads version {VERSION}")
    return manifest["files"]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    # a copy of each: safetensors wants standard memory order, and storage that no other tensor uses
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
