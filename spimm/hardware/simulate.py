"""A trace in, the traffic, energy and latency of its network on a mesh of cores out."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from spimm.analyze.trace import Trace
from spimm.files import write_text
from spimm.hardware.cost import EnergyCosts, FrameEnergy, TimeCosts, frame_energy
from spimm.hardware.mapping import NEURONS_PER_CORE, CoreMap, map_layers
from spimm.hardware.mesh import Delivery, Mesh, Tile
from spimm.hardware.noc import Congestion, Latency, Traffic, congestion, latency, send
from spimm.hardware.placement import Placement, place
from spimm.words import counted


@dataclass(frozen=True)
class LayerTraffic:
    """One layer on the chip. Counts are those of one frame."""

    stage: int
    """Layers of one stage send side by side; -1: the input."""
    layer: str
    neurons: int
    cores: int
    steps: int
    spikes: float
    hops: float
    """Links that they cross."""
    busiest: float
    """Packets over the most loaded link in one window of the stage."""

    @property
    def hops_per_spike(self) -> float:
        """0 without spikes."""
        return self.hops / self.spikes if self.spikes else 0.0


@dataclass(frozen=True, eq=False)
class Simulation:
    """A network on a mesh, and what a frame costs."""

    chip: CoreMap
    tiles: tuple[Tile, ...]
    """Of each core."""
    traffic: Traffic
    placement: Placement
    delivery: Delivery
    neurons_per_core: int
    seed: int
    energy_costs: EnergyCosts
    time_costs: TimeCosts

    @property
    def mesh(self) -> Mesh:
        return self.traffic.mesh

    @property
    def spikes(self) -> float:
        """Of all neurons, and of the input if that is counted, per frame."""
        return self.chip.input_spikes + sum(layer.spikes for layer in self.chip.layers)

    @property
    def hops_per_spike(self) -> float:
        """Links that a spike crosses, all packets together; 0 without spikes."""
        return self.traffic.hops / self.spikes if self.spikes else 0.0

    @property
    def energy(self) -> FrameEnergy:
        return frame_energy(self.spikes, self.traffic.hops, self.energy_costs)

    @property
    def energy_to_one(self) -> FrameEnergy:
        """The energy if each spike went to one of its receivers alone.

        The 6.4 hops a spike of Wei et al. are of this size; to reach every core of the next layer takes more.
        """
        return frame_energy(self.spikes, self.traffic.hops_to_one, self.energy_costs)

    @property
    def latency(self) -> Latency:
        return latency(self.chip, self.traffic, self.time_costs)

    @property
    def congestion(self) -> Congestion:
        return congestion(self.traffic, self.time_costs)

    def layers(self) -> tuple[LayerTraffic, ...]:
        """Layer by layer, in the order in which they send."""
        sent, found = {stage.stage: stage for stage in self.traffic.stages}, []
        if self.chip.input_spikes:
            port = sent[-1]
            row = (self.chip.input_spikes, port.hops, port.busiest())
            found.append(LayerTraffic(-1, "input", 0, 0, port.steps, *row))
        for number, stage in enumerate(self.chip.stages):
            traffic, first = sent.get(number), 0
            for layer in stage:
                own = slice(first, first := first + len(layer.cores))
                hops = float(traffic.spikes[own] @ traffic.hops_per_spike[own]) if traffic else 0.0
                row = (layer.spikes, hops, traffic.busiest() if traffic else 0.0)
                found.append(LayerTraffic(number, layer.name, layer.neurons, len(layer.cores), layer.steps, *row))
        return tuple(found)

    def to_json(self) -> str:
        """JSON text of everything: settings, layers, cores, links, totals."""
        data = {
            "model": self.chip.model,
            "samples": self.chip.samples,
            "mesh": asdict(self.mesh),
            "placement": self.placement,
            "delivery": self.delivery,
            "neurons_per_core": self.neurons_per_core,
            "seed": self.seed,
            "energy_costs": asdict(self.energy_costs),
            "time_costs": asdict(self.time_costs),
            "spikes": self.spikes,
            "synaptic_operations": self.chip.synaptic_operations,
            "hops": self.traffic.hops,
            "hops_per_spike": self.hops_per_spike,
            "mean_distance": self.traffic.mean_distance,
            "energy_uj": {**asdict(self.energy), "total": self.energy.total},
            "energy_to_one_uj": {**asdict(self.energy_to_one), "total": self.energy_to_one.total},
            "latency_us": {**asdict(self.latency), "total": self.latency.total},
            "congestion": asdict(self.congestion),
            "layers": [{**asdict(layer), "hops_per_spike": layer.hops_per_spike} for layer in self.layers()],
            "spikes_by_hops": self.traffic.hop_histogram(),
            "deliveries_by_distance": self.traffic.distance_histogram(),
            "cores": [
                {"layer": name, "tile": tile, "neurons": core.neurons, "spikes": core.spikes}
                for (name, core), tile in zip(self.chip.named_cores(), self.tiles, strict=True)
            ],
            "links": [
                {"from": start, "to": end, "packets": load}
                for (start, end), load in self.traffic.loads().links().items()
            ],
        }
        return json.dumps(data, allow_nan=False, indent=1)

    def save(self, path: str | Path) -> Path:
        """Writes the JSON text, whole or not at all. Returns the path."""
        return write_text(path, self.to_json())

    def table(self) -> Table:
        """One row a layer, for a terminal."""
        title = f"{self.chip.model} on {self.mesh} cores, {counted(self.chip.samples, 'sample')}: one frame"
        table = Table(title=title, caption="busiest link: packets in one window")
        table.add_column("layer", no_wrap=True)
        for heading in ("neurons", "cores", "steps", "spikes", "hops", "hops / spike", "busiest link"):
            table.add_column(heading, justify="right")
        for layer in self.layers():
            table.add_row(
                layer.layer,
                f"{layer.neurons:,}",
                str(layer.cores),
                str(layer.steps),
                f"{layer.spikes:,.1f}",
                f"{layer.hops:,.1f}",
                f"{layer.hops_per_spike:.2f}",
                f"{layer.busiest:,.1f}",
            )
        return table

    def totals(self) -> Table:
        """Energy, latency and congestion, for a terminal."""
        energy, time, full, used = self.energy, self.latency, self.congestion, len(self.tiles)
        table = Table(title=f"placement {self.placement}, {self.delivery}", show_header=False)
        table.add_column("what")
        table.add_column("value", justify="right")
        table.add_column("parts")
        rows = {
            "cores": (f"{used}", f"of {self.mesh.columns * self.mesh.rows}"),
            "spikes per frame": (f"{self.spikes:,.1f}", f"synaptic operations {self.chip.synaptic_operations:,.0f}"),
            "hops per frame": (
                f"{self.traffic.hops:,.1f}",
                f"{self.hops_per_spike:.2f} a spike; sender to receiver {self.traffic.mean_distance:.2f}",
            ),
            "energy": (
                f"{energy.total:.4g} uJ",
                f"spikes {energy.spikes:.4g}, hops {energy.hops:.4g}, static {energy.static:.4g}",
            ),
            "energy, each spike to one core": (
                f"{self.energy_to_one.total:.4g} uJ",
                f"hops {self.energy_to_one.hops:.4g}, at {self.traffic.mean_distance:.2f} a spike",
            ),
            "latency": (
                f"{time.total:.4g} us",
                f"windows {time.windows:.4g}, drain {time.drain:.4g}, longest routes {time.path:.4g}",
            ),
            "congestion": (
                f"{full.peak:.1%}",
                f"of the capacity of the busiest link; mean {full.mean:.2%}; {full.overloaded} links overloaded",
            ),
        }
        for what, (value, parts) in rows.items():
            table.add_row(what, value, parts)
        return table


def simulate(
    trace: Trace,
    mesh: Mesh | None = None,
    *,
    placement: Placement = "hops",
    delivery: Delivery = "multicast",
    neurons_per_core: int = NEURONS_PER_CORE,
    count_input: bool = False,
    seed: int = 0,
    energy_costs: EnergyCosts | None = None,
    time_costs: TimeCosts | None = None,
) -> Simulation:
    """Maps the neurons of a trace to cores, places these on a mesh, by default the smallest square, and sends a frame.

    `seed` is that of the placement `hops`. Raises ValueError if the mesh has too few cores.
    """
    chip = map_layers(trace, neurons_per_core=neurons_per_core, count_input=count_input)
    mesh = mesh or Mesh.fitting(len(chip.cores))
    tiles = place(chip, mesh, placement, delivery=delivery, seed=seed)
    return Simulation(
        chip,
        tiles,
        send(chip, mesh, tiles, delivery),
        placement,
        delivery,
        neurons_per_core,
        seed,
        energy_costs or EnergyCosts(),
        time_costs or TimeCosts(),
    )
