"""Measurements turn by turn in one process, and what is told of them: median and spread."""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Summary:
    """Samples in the order they were taken, their median, quartiles and extremes."""

    samples: tuple[float, ...]
    median: float
    min: float
    q1: float
    q3: float
    max: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Summary":
        """Raises ValueError for no samples."""
        if not samples:
            raise ValueError("there are no samples; wanted at least one")
        if len(samples) == 1:
            return cls(tuple(samples), *[samples[0]] * 5)
        q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(tuple(samples), median, min(samples), q1, q3, max(samples))


def stopwatch(run: Callable[[], object]) -> Callable[[], float]:
    """A function that runs `run` once and returns the milliseconds it took."""

    def sample() -> float:
        started = time.perf_counter_ns()
        run()
        return (time.perf_counter_ns() - started) / 1e6

    return sample


def take_turns(
    sides: Mapping[str, Callable[[], float]],
    *,
    warmup: int,
    repeats: int,
    on_round: Callable[[int], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Samples of every side: rounds of one call each (A B A B ...), the first `warmup` rounds thrown away.

    What slows the machine for a while so meets all sides alike. `on_round` is told the number of each round kept.
    """
    samples: dict[str, list[float]] = {name: [] for name in sides}
    with no_collection():
        for turn in range(-warmup, repeats):
            if turn >= 0:
                on_round(turn)
            taken = {name: sample() for name, sample in sides.items()}
            if turn >= 0:
                for name, value in taken.items():
                    samples[name].append(value)
    return samples


def pairwise(slower: Sequence[float], faster: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [a / b for a, b in zip(slower, faster, strict=True)]


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Collects garbage once, then keeps the collector off within the context."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def fixed_threads(count: int | None) -> Iterator[int]:
    """Within the context torch and our kernels use `count` threads, torch's own choice for None. Gives the number."""
    if count is not None and count < 1:
        raise ValueError(f"threads is {count}; wanted at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)
