"""Checkpoints of torch (.pth, .pt) from strangers: tensors and plain values, nothing that runs, nothing unbounded.

Only torch's own unpickler of tensors is used, and only for files in torch's zip format, whose tensors are mapped: a
size that a file states takes no memory, and one that leads out of the file is an error.
"""

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spimm.reading import require_regular, short

LARGEST_PICKLE = 2**22
"""Bytes of all that is no tensor, at most: the names of 20,000 tensors."""
# What torch's unpickler raises for a file that is not whole, beside RuntimeError.
_DAMAGED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    MemoryError,
    RuntimeError,
    NotImplementedError,
)


def read_torch_file(path: Path) -> Mapping[str, Any]:
    """The dict with text keys that `torch.save` wrote, on the CPU; its tensors are mapped from the file.

    Raises FileNotFoundError, or ValueError for what is no regular file, is not whole, was written by torch before 1.6,
    holds objects other than tensors and plain values, or is no such dict.
    """
    require_regular(path)
    if not _is_zip(path):
        raise ValueError(
            f"{path} is no whole checkpoint of tensors: expected torch's zip format, which torch.save writes since "
            "1.6; load an older file with the torch that wrote it and save it again"
        )
    try:
        _check_sizes(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if isinstance(found, Mapping):
            _check_tensors(found)
    except _DAMAGED as error:
        reason = short((str(error) or type(error).__name__).splitlines()[0], 300)
        raise ValueError(f"{path} is no whole checkpoint of tensors that torch can load: {reason}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected a dict of tensors")
    foreign = next((key for key in found if not isinstance(key, str)), None)
    if foreign is not None:
        raise ValueError(f"{path} holds the key {foreign!r:.40}; expected a dict of tensors by their names")
    return found


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # of archives in several files, which torch does not write
        return False


def _check_sizes(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("it is compressed, as torch writes none")
    size = sum(member.file_size for member in members if "/data/" not in member.filename)
    if size > LARGEST_PICKLE:
        raise ValueError(f"it holds {size} bytes beside its tensors, at most {LARGEST_PICKLE}")


def _check_tensors(found: Mapping[Any, Any], depth: int = 4) -> None:
    """Raises ValueError for tensors that are not plain or state more numbers than the file holds."""
    for key, value in found.items():
        if isinstance(value, Mapping) and depth:
            _check_tensors(value, depth - 1)
        elif isinstance(value, Tensor):
            plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError(f"{key!r:.80} is not a plain tensor with all of its {value.numel()} numbers")
