"""What the machine can do, measured as a side among the others: bytes copied and operations of a large product."""

from collections.abc import Callable

import torch

from spimm.bench.precision import PRECISIONS
from spimm.bench.registry import Work
from spimm.bench.timing import stopwatch

COPY = "copy"
COPY_BYTES = 400 * 2**20
"""Of the buffer that is copied: far more than the last level of cache holds."""
MATRIX_SIDE = 2048
QUICK_COPY_BYTES = 2**16
QUICK_MATRIX_SIDE = 32


def copy_limit(quick: bool) -> tuple[Callable[[], float], Work]:
    """The side named COPY and its work: torch copies a buffer, each byte read once and written once."""
    count = (QUICK_COPY_BYTES if quick else COPY_BYTES) // 4
    source, target = torch.ones(count), torch.empty(count)
    return stopwatch(lambda: target.copy_(source)), Work(8 * count, "B", COPY)


def matmul(precision: str) -> str:
    """Name of the side that multiplies matrices in this precision."""
    return f"matmul {precision}"


def matmul_limit(precision: str, quick: bool) -> tuple[Callable[[], float], Work]:
    """The side of that name and its work: one product of square matrices."""
    n = QUICK_MATRIX_SIDE if quick else MATRIX_SIDE
    a, b = (torch.ones(n, n, dtype=PRECISIONS[precision]) for _ in range(2))
    target = torch.empty_like(a)
    return stopwatch(lambda: torch.mm(a, b, out=target)), Work(2 * n**3, "FLOP", matmul(precision))
