"""Files that appear whole or not at all, their checksums, and JSON from files of unknown origin."""

import errno
import functools
import hashlib
import json
import logging
import math
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spimm.reading import read_bytes

logger = logging.getLogger(__name__)
LONGEST_JSON = 2**26
"""Bytes of a JSON file, at most: a recipe has 3 kB, the names of 21,000 classes 400 kB."""
NO_FLUSH = {"EINVAL", "EBADF", "EACCES", "EPERM", "EISDIR", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOTTY"}
"""How file systems and Windows say that a folder cannot be flushed."""
_SURROGATE = re.compile(r"\\u[dD][89abAB]")


def write_whole(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Calls `write` with a temporary name beside `path`, in a folder made if missing, and renames. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{secrets.token_hex(8)}.{path.name}")  # no link can lie in wait under that name
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Writes UTF-8 text by way of `write_whole`."""
    return write_whole(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """The value in a JSON file. FileNotFoundError for none; ValueError as `parse_json`, for what is no regular file,
    and for one of more than LONGEST_JSON bytes.
    """
    return parse_json(read_bytes(path, limit=LONGEST_JSON), str(path))


def parse_json(content: bytes, where: str) -> Any:
    """The value of one JSON text in UTF-8. ValueError, which names `where`, for any other text, for numbers that are
    not finite, for a key that comes twice, and for values nested too deep to be read.
    """
    try:
        text = content.decode("utf-8")
        value = json.loads(text, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_each_once)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # half a character cannot be printed
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is cut short or is not JSON: {error}") from error
    return value


def open_own(path: str | Path, flags: int) -> int:
    """A descriptor, as of `os.open`, of a regular file that a run writes to. OSError for a symbolic link, which would
    lead out of the run's folder, and for anything else that is no file.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return descriptor


def has_stated_size(path: Path) -> bool:
    """Whether a .safetensors file is as long as its header says, which is looked at before terabytes are read."""
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > LONGEST_JSON:
            return False
        try:
            header = parse_json(file.read(length), str(path))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return path.stat().st_size == 8 + length + max(ends, default=0)
        except (ValueError, TypeError, LookupError, AttributeError):
            return False


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Returns once the disk has the file or folder. OSError where it has not; for a folder that cannot be flushed on
    its file system (CIFS, some of FUSE, Windows) one warning, as a crash of the machine may lose its last changes.
    """
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not folder or errno.errorcode.get(error.errno or 0) not in NO_FLUSH:
            raise
        _warn_of_folders(os.strerror(error.errno or 0))


@functools.cache
def _warn_of_folders(reason: str) -> None:
    logger.warning(
        "folders cannot be flushed to this disk (%s): files are, but a power failure may lose the last checkpoint",
        reason,
    )


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:40]!r} comes twice")
    return values
