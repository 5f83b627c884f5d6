"""The C library's memory allocator, told to keep what is freed."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Keeps freed memory in this process instead of giving it back to the system; False where that is not glibc's.

    A training step frees and allocates the same large tensors again and again. By default glibc maps each anew, and the
    system fills it with zeros first: for ops that run near the memory's speed that is up to half of their time. The
    process then stays as large as its peak. Call it once, before the first step; the command line does.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(option, value) for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))
    )
