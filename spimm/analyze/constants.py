"""What an operation, a step and a spike cost. The only place for such numbers; each has a unit and a source."""

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


@dataclass(frozen=True)
class Platform:
    """A neuromorphic processor: how its energy divides into what runs with time and what runs with spikes."""

    name: str
    static: float
    """Share of the static energy of the reference, without a unit."""
    dynamic: float
    """Share of its spikes."""
    source: str


_SHARES = "shares after S. Park et al., T2FSNN, DAC 2020, as W. Wei et al., ICCV 2023, section 4.4.1 gives them"
TRUENORTH = Platform("TrueNorth", 0.6, 0.4, f"P. Merolla et al., Science 345, 2014; {_SHARES}")
SPINNAKER = Platform("SpiNNaker", 0.36, 0.64, f"S. Furber et al., Proc. IEEE 102, 2014; {_SHARES}")
