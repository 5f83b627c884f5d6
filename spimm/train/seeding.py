"""Random state and deterministic algorithms of a run."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORDS = 624
"""Of the state of a Mersenne twister."""


def seed_everything(seed: int) -> None:
    """Seeds python, numpy and torch (CPU and every GPU)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds them all for a step of a rank, apart from those of other steps and ranks."""
    words = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)
    seed_everything(int(words[0]) >> 1)


@dataclass(frozen=True)
class RandomState:
    """The state of all generators as plain values for JSON; words of 32 bits and bytes as hexadecimal digits."""

    python: str
    """624 words and the position among them"""
    python_gauss: float | None
    """the second of a pair of normal numbers, where it waits"""
    numpy: str
    """624 words"""
    numpy_position: int
    numpy_gauss: float | None
    torch: str
    """bytes"""
    cuda: tuple[str, ...] = ()
    """bytes, of each GPU"""


def rng_state() -> RandomState:
    """The state of the generators of python, numpy and torch."""
    _, python, python_gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    return RandomState(
        python=np.array(python, "<u4").tobytes().hex(),
        python_gauss=python_gauss,
        numpy=numpy_state["state"]["key"].astype("<u4").tobytes().hex(),
        numpy_position=int(numpy_state["state"]["pos"]),
        numpy_gauss=float(numpy_state["gauss"]) if numpy_state["has_gauss"] else None,
        torch=_hex(torch.get_rng_state()),
        cuda=tuple(map(_hex, torch.cuda.get_rng_state_all())) if torch.cuda.is_available() else (),
    )


def set_rng_state(state: RandomState) -> None:
    """Puts back what `rng_state` returned. The GPUs' part is left out where their number differs.

    ValueError for a state that no generator can be in; then none has changed.
    """
    python, numpy_words = _words(state.python, WORDS + 1), _words(state.numpy, WORDS)
    for name, position in (("python", int(python[-1])), ("numpy", state.numpy_position)):
        if not 0 <= position <= WORDS:
            raise ValueError(f"the random state of {name} is at word {position}, expected 0 to {WORDS}")
    torch_state = _bytes(state.torch)
    try:
        torch.Generator().set_state(torch_state)
    except RuntimeError as error:
        raise ValueError(f"the random state of torch is none of its generator: {str(error).splitlines()[0]}") from error
    random.setstate((3, tuple(python.tolist()), state.python_gauss))
    gauss = state.numpy_gauss
    np.random.set_state(("MT19937", numpy_words, state.numpy_position, int(gauss is not None), gauss or 0.0))
    torch.set_rng_state(torch_state)
    if state.cuda and len(state.cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_bytes(part) for part in state.cuda])


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _bytes(digits: str) -> Tensor:
    return torch.frombuffer(bytearray(bytes.fromhex(digits) or b"0"), dtype=torch.uint8)


def _words(digits: str, count: int) -> np.ndarray:
    content = bytes.fromhex(digits)
    if len(content) != 4 * count:
        raise ValueError(f"a random state has {len(content)} bytes, expected {4 * count}")
    return np.frombuffer(content, "<u4").astype(np.uint32)


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
