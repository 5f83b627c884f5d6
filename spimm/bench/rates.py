"""Bytes and operations per second of a side, beside what the machine does of them in the same rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spimm.bench.registry import Work
from spimm.bench.timing import Summary

MILLISECONDS = 1e3


@dataclass(frozen=True)
class Rate:
    """`amount` bytes or operations a call; the median call does `per_second`; `share` of the limit, round by round."""

    side: str
    amount: float
    unit: str
    per_second: float
    limit: str
    share: Summary

    @property
    def readable(self) -> str:
        return readable(self.per_second, self.unit)


def readable(per_second: float, unit: str) -> str:
    """E.g. `31.2 GB/s`."""
    return f"{per_second / 1e9:.3g} G{unit}/s"


def rates_of(work: Mapping[str, Work], samples: Mapping[str, Sequence[float]]) -> list[Rate]:
    """A rate for each side with work. samples: milliseconds of every side."""
    return [_rate(side, item, work[item.limit], samples) for side, item in work.items()]


def _rate(side: str, item: Work, limit: Work, samples: Mapping[str, Sequence[float]]) -> Rate:
    taken, of_limit = samples[side], samples[item.limit]
    shares = [item.amount / mine / (limit.amount / its) for mine, its in zip(taken, of_limit, strict=True)]
    per_second = item.amount / Summary.of(taken).median * MILLISECONDS
    return Rate(side, item.amount, item.unit, per_second, item.limit, Summary.of(shares))
