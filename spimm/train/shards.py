"""Checkpoints of a model that is split over ranks: each writes and reads its own shards, on any number of ranks.

Beside the files of every checkpoint a folder `shards`, in the format of torch.distributed.checkpoint, holds weights,
averaged weights and optimiser. The folder must be one that all machines see.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from spimm.train.checkpoint import SHARDS, Checkpoint, CheckpointError, begin, publish
from spimm.train.distributed import Ranks


def write_shards(
    folder: Path,
    state: dict[str, Any],
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: nn.Module | None,
    ranks: Ranks,
    whole: bool,
) -> None:
    """Replaces `folder`, as `write_checkpoint`; every rank calls it. whole: also the weights in one file, to load."""
    fresh = folder.with_name(f"{folder.name}.new")
    if ranks.leads:
        begin(folder)
    ranks.wait()
    save(_tensors(model, optimizer, ema), storage_writer=FileSystemWriter(fresh / SHARDS))
    weights, averaged = (_gathered(part) if whole and part is not None else {} for part in (model, ema))
    if ranks.leads:
        publish(fresh, folder, Checkpoint(model=weights, ema=averaged, state=state))
    ranks.wait()


def read_shards(folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None) -> None:
    """Fills model, optimiser and average from `folder`, whatever the number of ranks that wrote it.

    CheckpointError for one that is not split or was made for other parts.
    """
    if not (folder / SHARDS).is_dir():
        raise CheckpointError(f"{folder} is not split over ranks: go on with parallel=ddp, or start with init_from")
    tensors = _tensors(model, optimizer, ema)
    try:
        load(tensors, storage_reader=FileSystemReader(folder / SHARDS))
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise CheckpointError(f"the shards in {folder} do not fit: {reason}") from error
    set_state_dict(model, optimizer, model_state_dict=tensors["model"], optim_state_dict=tensors["optimizer"])
    if ema is not None:
        set_model_state_dict(ema, tensors["ema"])


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    averaged = {} if ema is None else {"ema": get_model_state_dict(ema)}
    return {"model": weights, "optimizer": moments, **averaged}


def _gathered(model: nn.Module) -> dict[str, Tensor]:
    """All weights, on the CPU of rank 0; nothing on the others."""
    tensors: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return tensors
