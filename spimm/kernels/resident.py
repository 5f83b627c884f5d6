"""Resident memory of this process and its peak, read from Linux's /proc: VmHWM is the peak of one address space.

getrusage's ru_maxrss is not used, since Linux hands a parent's peak on to the child that it starts.
"""

import ctypes
import sys
from pathlib import Path


def resident() -> tuple[float, float]:
    """Resident memory of this process in MiB: now, and its peak since the start or the last `forget_peak`."""
    status = dict(line.split(":", 1) for line in proc("status").read_text().splitlines())
    now, peak = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def give_back_freed_memory() -> None:
    """Returns to the system what the C library keeps, so that what preparations freed does not hide what steps need."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def forget_peak() -> None:
    """Sets the peak of this process to what is resident now."""
    proc("clear_refs").write_text("5")


def proc(name: str) -> Path:
    """A file of this process. Raises RuntimeError where there is none."""
    path = Path("/proc/self") / name
    if not path.exists():
        raise RuntimeError(f"peak memory is read from {path}, which only Linux has; this is {sys.platform}")
    return path
