"""The folder of a run: writable, with room for what training writes, and one training at a time."""

import errno
import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from spimm.files import open_own

logger = logging.getLogger(__name__)
LOCK_FILE = ".lock"
COPIES = 5
"""Checkpoints on disk at once: last and best, the one before each, and the one that is being written."""
STATE_BYTES = 2**16
"""Of a checkpoint beside its tensors: random states, recipe, manifest, names."""
RECORD_BYTES = 1024
"""Of a record of the log, with its TensorBoard points."""


NO_LOCKS = {"ENOLCK", "ENOSYS", "EINVAL", "ENOTSUP", "EOPNOTSUPP"}
"""How file systems (NFS without its daemon, some of FUSE) say that they have no locks."""


class FolderInUse(RuntimeError):
    """Another process trains into the folder."""


@contextmanager
def claim_folder(out: Path) -> Iterator[None]:
    """Within it no other process claims `out`, which is made if missing.

    FolderInUse names the process that has it, OSError the reason why nothing can be written there. The claim is a POSIX
    record lock on `.lock`: it ends with the process, however that ends, and forked workers have no part in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = open_own(out / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise type(error)(f"the run's folder {out} must be writable: {error.strerror or error}") from error
    try:
        _lock(descriptor, out)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, out: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        raise FolderInUse(f"{owner} trains into {out}: wait for it, or give another folder") from error
    except OSError as error:
        if errno.errorcode.get(error.errno or 0) not in NO_LOCKS:
            raise
        logger.warning("%s has no locks (%s): see to it that one training at a time writes there", out, error.strerror)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def checkpoint_bytes(model: nn.Module, *, averaged: bool) -> int:
    """About the size of a checkpoint of `model`, with its average if `averaged` and two moments a trained weight."""
    state = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    return state * (2 if averaged else 1) + 2 * trained + STATE_BYTES


def check_room(out: Path, *, checkpoint: int, records: int) -> None:
    """OSError, naming the bytes that are free and those wanted, if `out` has no room for a run.

    checkpoint: bytes of one. records: lines of the log still to come. Checkpoints that are there already make room.
    """
    present = sum(path.stat().st_size for path in (out / "checkpoints").rglob("*") if path.is_file())
    wanted = max(COPIES * checkpoint - present, checkpoint) + records * RECORD_BYTES
    total, _, free = shutil.disk_usage(out)
    if total and free < wanted:  # some file systems of FUSE do not say how large they are
        raise OSError(
            f"the run's folder {out} has {free:,} bytes free, training wants {wanted:,}: "
            f"{COPIES} checkpoints of {checkpoint:,} bytes and a log of {records:,} records"
        )
