"""Decompression that stops at a limit. LZ4 and Zstandard need the extra `events`."""

import importlib
from collections.abc import Callable
from typing import Any

# Bytes made at a time, so that a length that a file states reserves nothing.
_PIECE = 2**20


class Compressed(ValueError):
    """Data that cannot be decompressed, or that grow beyond the limit."""


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this file's compression needs {name}: pip install 'spimm[events]' ({error})") from error


def none(data: memoryview, limit: int) -> bytes | memoryview:
    return data


def lz4(data: memoryview, limit: int) -> bytes:
    """An LZ4 frame."""
    frame = _optional("lz4.frame").LZ4FrameDecompressor()
    try:
        return _collect(lambda fed: frame.decompress(data if not fed else b"", _PIECE), limit, lambda: frame.eof)
    except RuntimeError as error:
        raise Compressed(f"expected an LZ4 frame: {error}") from error


def zstandard(data: memoryview, limit: int) -> bytes:
    """A Zstandard frame, with a window of at most 128 MiB."""
    library = _optional("zstandard")
    try:
        reader = library.ZstdDecompressor(max_window_size=2**27).stream_reader(bytes(data))
        return _collect(lambda _: reader.read(_PIECE), limit, lambda: False)
    except library.ZstdError as error:
        raise Compressed(f"expected a Zstandard frame: {error}") from error


def _collect(read: Callable[[bool], bytes], limit: int, ended: Callable[[], bool]) -> bytes:
    """All pieces that `read` gives up to an empty one; it is told whether it gave one before."""
    pieces, total = [], 0
    while piece := read(bool(pieces)):
        pieces.append(piece)
        total += len(piece)
        if total > limit:
            raise Compressed(f"decompresses to more than the {limit} bytes that this file may hold")
        if ended():
            break
    return b"".join(pieces)


# By the number that an AEDAT 4 header states: none, LZ4, LZ4 high, Zstandard, Zstandard high.
COMPRESSIONS: tuple[Callable[[memoryview, int], bytes | memoryview], ...] = (none, lz4, lz4, zstandard, zstandard)
