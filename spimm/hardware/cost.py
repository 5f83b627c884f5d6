"""What a frame costs on a chip: energy by Eq. 12 of Wei et al., ICCV 2023, and the coefficients of energy and time."""

from dataclasses import dataclass

PICOJOULES_PER_MICROJOULE = 1e6


@dataclass(frozen=True)
class EnergyCosts:
    """Coefficients of Eq. 12. The defaults are those of Wei et al., ICCV 2023, sec. 4.4.2, for 22 nm CMOS."""

    sop_pj: float = 20.0
    """energy that a spike costs the cores, pJ; called that of a synaptic operation, but multiplied by spikes"""
    hop_pj: float = 100.0
    """energy of one spike on one link between routers, pJ"""
    static_uj: float = 3.52
    """static energy per frame, uJ"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"{name} is {value}; wanted at least 0")


@dataclass(frozen=True)
class TimeCosts:
    """Coefficients of latency and congestion. Round numbers without a source: set them to your chip's."""

    window_us: float = 100.0
    """time in which a layer works off one time step, or its window of single spikes, us"""
    link_capacity: float = 10_000.0
    """packets that a link carries in one direction in such a window"""
    hop_ns: float = 10.0
    """time in which a packet passes a router and a link, ns"""

    def __post_init__(self) -> None:
        if not (self.window_us > 0 and self.link_capacity > 0 and self.hop_ns >= 0):
            raise ValueError(f"times are {self}; wanted a window and a capacity above 0 and a hop of at least 0")


@dataclass(frozen=True)
class FrameEnergy:
    """Parts of the energy of a frame, in uJ."""

    spikes: float
    hops: float
    static: float

    @property
    def total(self) -> float:
        return self.spikes + self.hops + self.static


def frame_energy(spikes: float, hops: float, costs: EnergyCosts | None = None) -> FrameEnergy:
    """E = E_SOP spikes + E_hop hops + E_static (Eq. 12), from counts per frame.

    In print 71M spikes and 45.4M hops make 50.36 uJ, but by the formula they make 5963.52 uJ. 71 thousand and
    454 thousand make 50.34 uJ, and 71 thousand is what the paper's Table 2 has: the units slipped.
    """
    costs = costs or EnergyCosts()
    return FrameEnergy(
        costs.sop_pj * spikes / PICOJOULES_PER_MICROJOULE,
        costs.hop_pj * hops / PICOJOULES_PER_MICROJOULE,
        costs.static_uj,
    )
