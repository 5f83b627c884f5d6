"""Checkpoints: a folder with `model.safetensors`, `ema.safetensors` (when on), `optimizer.safetensors`, `state.json`
for the rest, and `manifest.json` with the SHA-256 of each. A model split over ranks has a folder `shards` in place of
the optimiser's file (train/shards.py). None of them is a pickle, and none is read before its checksum was compared.

A folder is written under another name, flushed to disk and renamed, so its files always belong together; the folder it
replaces stays beside it as `<name>.old`. Whatever moment a crash picks, one of the two is whole.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from spimm import models
from spimm.files import flush, read_json
from spimm.manifest import OLD_VERSION, CheckpointError, Manifest, read_manifest, write_manifest
from spimm.train.pieces import SHARDS, Pieces
from spimm.weights import load_state, read_tensors

logger = logging.getLogger(__name__)
T = TypeVar("T")
MODEL_FILE, EMA_FILE, OPTIMIZER_FILE = "model.safetensors", "ema.safetensors", "optimizer.safetensors"
STATE_FILE = "state.json"


class NotWritten(OSError):
    """A checkpoint that the disk did not take; the one before it is as it was."""


class FolderGone(NotWritten):
    """The folder of the run was deleted or moved while it trained."""


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a run: weights by name, averaged weights (empty when off), what the optimiser carries (empty where
    ranks hold shards of it), and everything else as values that JSON has."""

    model: dict[str, Tensor]
    state: dict[str, Any]
    ema: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replaces `folder` by `checkpoint`; the folder that was there becomes `<folder>.old`.

    NotWritten, with the reason and the free bytes, where the disk is full or not writable.
    """
    try:
        publish(begin(folder), folder, checkpoint)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside(folder, "new"), ignore_errors=True)
        free = shutil.disk_usage(_existing(folder)).free
        raise NotWritten(f"the checkpoint {folder} could not be written ({error}), {free:,} bytes are free") from error


def begin(folder: Path) -> Path:
    """The empty folder in which the next checkpoint of that name is put together."""
    fresh = beside(folder, "new")
    _remove(fresh)
    folder.parent.mkdir(exist_ok=True)  # and not its parents: a run's folder that was deleted does not come back
    fresh.mkdir()
    return fresh


def publish(fresh: Path, folder: Path, checkpoint: Checkpoint) -> None:
    """Adds `checkpoint` to what `fresh` holds already and puts it in the place of `folder`, which becomes `.old`."""
    parts = (MODEL_FILE, checkpoint.model), (EMA_FILE, checkpoint.ema), (OPTIMIZER_FILE, checkpoint.optimizer)
    for name, tensors in parts:
        if tensors:
            _save_tensors(fresh / name, tensors)
    text = json.dumps(checkpoint.state, allow_nan=False)
    (fresh / STATE_FILE).write_text(text + "\n", encoding="utf-8")
    write_manifest(fresh)
    for path in (*fresh.rglob("*"), fresh):
        flush(path)
    old = beside(folder, "old")
    if folder.exists():
        _remove(old)
        os.replace(folder, old)
    os.replace(fresh, folder)
    flush(folder.parent)


def find_checkpoint(folder: Path) -> Path | None:
    """`folder`, or `<folder>.old` where a crash came between the two renames, or None."""
    return next((path for path in (folder, beside(folder, "old")) if path.is_dir()), None)


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
    with naming_older(folder):
        return _read_folder(read_manifest(folder))


def this_or_older(folder: Path, read: Callable[[Path], T], say: Callable[[str], None] = logger.warning) -> T:
    """What `read` makes of `folder`, or, where that is damaged, of the checkpoint before it, which is said.

    CheckpointError, about `folder`, where neither is whole.
    """
    try:
        return read(folder)
    except CheckpointError as error:
        old = beside(folder, "old")
        if folder.name.endswith(".old") or not old.is_dir():
            raise
        try:
            found = read(old)
        except CheckpointError as other:
            raise CheckpointError(f"{error}, which is damaged too ({other})") from other
        say(f"{error}, which is taken in its place")
        return found


@contextmanager
def naming_older(folder: Path) -> Iterator[None]:
    """Within it what cannot be read is a CheckpointError, which adds where the checkpoint before `folder` is."""
    try:
        yield
    except (CheckpointError, ValueError) as error:
        old = beside(folder, "old")
        advice = f"; the checkpoint before it is {old}" if old.is_dir() else ""
        raise CheckpointError(f"{error}{advice}") from error


def set_aside(folder: Path) -> None:
    """Renames a damaged checkpoint to `<folder>.damaged`, so that the next one does not take the place of the good one
    before it.
    """
    if folder.is_dir():
        _remove(beside(folder, "damaged"))
        os.replace(folder, beside(folder, "damaged"))


def load_weights(model: nn.Module, path: str | Path, *, new_head: bool = False) -> None:
    """Fills `model` from a .safetensors file, a checkpoint folder (its averaged weights if it has them) or a run folder
    (its best checkpoint, or the one before it where that is damaged, with a warning). `new_head`: see
    `spimm.weights.load_state`.

    FileNotFoundError for a missing path; ValueError for a damaged file and for weights that do not fit the model, which
    stays as it was then.
    """
    source = Path(path)
    if (source / "checkpoints").is_dir():
        return this_or_older(run_checkpoint(source, "best"), lambda folder: _load_folder(model, folder, new_head))
    if source.is_dir():
        return _load_folder(model, source, new_head)
    models.load_weights(model, source, new_head=new_head)


def _load_folder(model: nn.Module, folder: Path, new_head: bool) -> None:
    if not any(folder.iterdir()):
        raise FileNotFoundError(f"there is no checkpoint in the folder {folder}: it is empty")
    with naming_older(folder):
        manifest = read_manifest(folder)
        whole = next((name for name in (EMA_FILE, MODEL_FILE) if name in manifest.files), None)
        if whole is not None:
            if not (folder / whole).is_file():
                raise CheckpointError(f"{folder / whole} is missing from its checkpoint")
            return models.load_weights(model, folder / whole, new_head=new_head)  # which compares its checksum
        pieces = Pieces(manifest)
        kind = "ema" if any(name.startswith("ema/") for name in pieces.outline) else "model"
        load_state(model, pieces.whole(kind), str(folder), new_head=new_head)


def beside(folder: Path, suffix: str) -> Path:
    """The folder `<folder>.<suffix>`: of the checkpoint before it (old), or the one that is being written (new)."""
    return folder.with_name(f"{folder.name}.{suffix}")


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _read_folder(manifest: Manifest) -> Checkpoint:
    if manifest.version == OLD_VERSION:
        raise CheckpointError(
            f"{manifest.folder} was written by an earlier spimm as a pickle, which may run code and is no longer read: "
            f"start a new run from its weights, init_from={manifest.folder}"
        )
    manifest.check()
    split = any(name.startswith(f"{SHARDS}/") for name in manifest.files)
    for name in [STATE_FILE] if split else [STATE_FILE, MODEL_FILE]:
        if name not in manifest.files:
            raise CheckpointError(f"{manifest.folder / name} is missing from its checkpoint")

    def tensors(name: str) -> dict[str, Tensor]:
        return read_tensors(manifest.folder / name) if name in manifest.files else {}

    try:
        model, ema, optimizer = (tensors(name) for name in (MODEL_FILE, EMA_FILE, OPTIMIZER_FILE))
        state = read_json(manifest.folder / STATE_FILE)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return Checkpoint(model, state, ema, optimizer)


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    # a copy of each: safetensors wants standard memory order, and storage that no other tensor uses
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
