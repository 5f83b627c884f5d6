"""Checkpoints of a model that is split over ranks: each writes and reads its own shards, on any number of ranks.

Beside the files of every checkpoint a folder `shards` (train/pieces.py) holds weights, averaged weights and what the
optimiser carries. The folder must be one that all machines see.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from spimm.manifest import read_manifest
from spimm.train.checkpoint import Checkpoint, CheckpointError, begin, publish
from spimm.train.distributed import Ranks
from spimm.train.moments import moments, named_weights, set_moments
from spimm.train.pieces import SHARDS, Pieces, local_part, write_pieces
from spimm.weights import check_finite, check_fits


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
    shards = folder.with_name(f"{folder.name}.new") / SHARDS
    if ranks.leads:
        begin(folder)
        shards.mkdir()
    ranks.wait()
    weights = {f"{kind}/{name}": tensor for kind, part in _parts(model, ema) for name, tensor in part.items()}
    write_pieces(shards, {**weights, **moments(model, optimizer)}, rank=ranks.rank)
    gathered = {kind: _gathered(part, ranks) if whole else {} for kind, part in _parts(model, ema)}
    ranks.wait()
    if ranks.leads:
        publish(shards.parent, folder, Checkpoint(model=gathered["model"], ema=gathered.get("ema", {}), state=state))
    ranks.wait()


def read_shards(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: nn.Module | None,
    kind: str,
    steps: list[float],
) -> None:
    """Fills model, optimiser (of the name `kind`, its groups after `steps`) and average from `folder`, whatever the
    number of ranks that wrote it.

    CheckpointError for one that is not split or was made for other parts.
    """
    manifest = read_manifest(folder)
    if not any(name.startswith(f"{SHARDS}/") for name in manifest.files):
        raise CheckpointError(f"{folder} is not split over ranks: go on with parallel=ddp, or start with init_from")
    pieces = Pieces(manifest)
    stored = dict(pieces.outline)
    for part, own in _parts(model, ema):
        names = [name for name in stored if name.startswith(f"{part}/")]
        check_fits(own, {name.partition("/")[2]: stored.pop(name) for name in names}, str(folder), type(model).__name__)
        _fill(own, {name: pieces.fetch(f"{part}/{name}", tensor) for name, tensor in own.items()}, str(folder))
    carried = {"stored": stored, "fetch": pieces.fetch, "steps": steps, "source": str(folder)}
    set_moments(model, optimizer, kind=kind, **carried)


def _parts(model: nn.Module, ema: nn.Module | None) -> list[tuple[str, dict[str, Tensor]]]:
    averaged = [] if ema is None else [("ema", named_weights(ema))]
    return [("model", named_weights(model)), *averaged]


@torch.no_grad()
def _fill(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    check_finite({name: local_part(tensor) for name, tensor in tensors.items()}, source)
    for name, tensor in own.items():
        local_part(tensor).copy_(local_part(tensors[name]))


def _gathered(weights: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """All weights, on the CPU of rank 0; nothing on the others."""
    found = {}
    for name, tensor in weights.items():
        whole = tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor
        if ranks.leads:
            found[name] = whole.cpu()
    return found
