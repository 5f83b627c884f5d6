"""Random state and deterministic algorithms of a run."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds python, numpy and torch (CPU and every GPU)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds them all for a step of a rank, apart from those of other steps and ranks."""
    words = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)
    seed_everything(int(words[0]) >> 1)


def rng_state() -> dict[str, Any]:
    """The generators' state as tensors and plain values, so that it loads with `weights_only=True`."""
    numpy_state: Any = np.random.get_state(legacy=False)
    twister = {
        "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        "pos": int(numpy_state["state"]["pos"]),
        "has_gauss": int(numpy_state["has_gauss"]),
        "gauss": float(numpy_state["gauss"]),
    }
    return {
        "python": random.getstate(),
        "numpy": twister,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Puts back what `rng_state` gave. The GPUs' part is left out where their number differs."""
    random.setstate(state["python"])
    twister = state["numpy"]
    key = twister["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, twister["pos"], twister["has_gauss"], twister["gauss"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms wherever torch has them, a warning where it has none; the old settings come back after.

    Sets the environment variable CUBLAS_WORKSPACE_CONFIG, which cuBLAS needs for it, unless it is set already.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill, benchmark = memory.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # would write every torch.empty twice
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark
