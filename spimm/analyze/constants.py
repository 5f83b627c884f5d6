"""What an operation costs. The only place for such numbers; each has a unit and a source."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Constants:
    """Energy of one operation, in pJ."""

    name: str
    mac: float
    """Multiply and accumulate."""
    ac: float
    """Accumulate: an addition."""
    source: str


HOROWITZ_45NM = Constants(
    "45 nm CMOS, 32-bit floating point",
    mac=4.6,
    ac=0.9,
    source="M. Horowitz, Computing's energy problem, ISSCC 2014: multiplication 3.7 pJ, addition 0.9 pJ",
)
