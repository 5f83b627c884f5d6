"""Tensors that ranks hold in rows: each rank writes a safetensors file, whose header says which rows of which tensor it
has; they are put together again from any number of files.

Names have a kind and a weight in them: model/head.weight, ema/head.weight, exp_avg/head.weight. No pickle anywhere: the
index is JSON in the headers, and the checkpoint's manifest has the SHA-256 of each file.
"""

import json
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from spimm.files import parse_json
from spimm.manifest import OLD_VERSION, CheckpointError, Manifest
from spimm.train.typed import convert
from spimm.weights import read_tensors

SHARDS = "shards"
FORMAT = "spimm-shards-1"


class _Piece(NamedTuple):
    start: int
    rows: Tensor
    total: int
    """Rows of the whole tensor."""


def local_part(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor that is split, the tensor itself otherwise."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows_of(tensor: DTensor) -> tuple[int, int]:
    """First row of this rank's shard, and the one after its last."""
    total, mesh = tensor.shape[0], tensor.device_mesh
    each = -(-total // mesh.size())  # as FSDP cuts it: equal parts, the last ones shorter or empty
    start = min(mesh.get_local_rank() * each, total)
    stop = start + tensor.to_local().shape[0]
    assert stop == min(start + each, total)
    return start, stop


def write_pieces(folder: Path, tensors: Mapping[str, Tensor], *, rank: int) -> None:
    """Writes this rank's rows of what is split; rank 0 also what all have whole."""
    rows: dict[str, list[int]] = {}
    held: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor) and tensor.ndim:
            start, stop = rows_of(tensor)
            if start < stop:
                rows[name], held[name] = [start, tensor.shape[0]], local_part(tensor)
        elif rank == 0:
            held[name] = local_part(tensor)
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in held.items()}
    save_file(plain, folder / f"rank-{rank:05}.safetensors", metadata={"format": FORMAT, "rows": json.dumps(rows)})


class Pieces:
    """The tensors in the shards of a checkpoint.

    CheckpointError for files that are damaged, of the format of before, or that do not make up whole tensors.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._folder = manifest.folder / SHARDS
        names = sorted(name for name in manifest.files if name.startswith(f"{SHARDS}/"))
        if manifest.version == OLD_VERSION and names:
            raise CheckpointError(
                f"{self._folder} was written by an earlier spimm, its index as a pickle, which may run code and is no "
                "longer read; checkpoints/best of the run has the weights in one file as well: name that folder"
            )
        if not names:
            raise CheckpointError(f"{manifest.folder} has neither weights in one file nor shards")
        manifest.check(*names)
        self._pieces: dict[str, list[_Piece]] = {}
        try:
            for name in names:
                self._note(manifest.folder / name)
            self.outline = {name: self._outline(name) for name in self._pieces}
        except ValueError as error:
            raise CheckpointError(str(error)) from error

    outline: dict[str, Tensor]
    """Name -> a tensor of its shape and dtype that takes no memory."""

    def fetch(self, name: str, like: Tensor) -> Tensor:
        """The tensor of that name on the device of `like`; this rank's rows of it if `like` is split over ranks."""
        if not (isinstance(like, DTensor) and self.outline[name].ndim):
            return self._joined(name, 0, None).to(like.device)
        found = torch.empty_like(like, dtype=self.outline[name].dtype)
        local_part(found).copy_(self._joined(name, *rows_of(like)))
        return found

    def whole(self, kind: str) -> dict[str, Tensor]:
        """All tensors of a kind, without it in their names."""
        names = [name for name in self.outline if name.startswith(f"{kind}/")]
        return {name.partition("/")[2]: self._joined(name, 0, None) for name in names}

    def _note(self, path: Path) -> None:
        """Enters the pieces of a file, of which nothing is read before it is asked for."""
        tensors = read_tensors(path)
        with safe_open(path, "pt") as file:
            about: dict[str, str] = file.metadata() or {}
        if about.get("format") != FORMAT:
            raise ValueError(f"{path} is no shard of spimm: format is {about.get('format')!r:.40}, expected {FORMAT!r}")
        where = f"the index of {path}"
        rows: dict[str, Any] = convert(
            parse_json(about.get("rows", "").encode(), where), dict[str, tuple[int, int]], where
        )
        for name, tensor in tensors.items():
            start, total = rows.get(name, (0, tensor.shape[0] if tensor.ndim else 1))
            self._pieces.setdefault(name, []).append(_Piece(start, tensor, total))

    def _outline(self, name: str) -> Tensor:
        pieces = sorted(self._pieces[name], key=lambda piece: piece.start)
        lengths = [len(piece.rows) if piece.rows.ndim else 1 for piece in pieces]
        starts = list(accumulate(lengths, initial=0))
        alike = {(piece.rows.shape[1:], piece.rows.ndim, piece.rows.dtype, piece.total) for piece in pieces}
        first = pieces[0]
        if len(alike) > 1 or [piece.start for piece in pieces] + [first.total] != starts:
            raise ValueError(f"the shards in {self._folder} do not make up {name:.120}: rows are missing or doubled")
        self._pieces[name] = pieces
        shape = (first.total, *first.rows.shape[1:]) if first.rows.ndim else ()
        return torch.empty(shape, dtype=first.rows.dtype, device="meta")

    def _joined(self, name: str, start: int, stop: int | None) -> Tensor:
        """Rows `start` to `stop`, or all of them."""
        pieces = self._pieces[name]
        if not pieces[0].rows.ndim:
            return pieces[0].rows.clone()
        last = pieces[0].total if stop is None else stop
        parts = [piece.rows[max(start - piece.start, 0) : max(last - piece.start, 0)] for piece in pieces]
        return torch.cat(parts)
