"""A chip of many cores on a mesh: where the neurons of a trace sit, what their spikes cost on the way."""

from spimm.hardware.cost import EnergyCosts, FrameEnergy, TimeCosts, frame_energy
from spimm.hardware.mapping import NEURONS_PER_CORE, Core, CoreMap, CutLayer, map_layers
from spimm.hardware.mesh import Delivery, Loads, Mesh, Spread, Tile
from spimm.hardware.mesh_plot import plot_mesh
from spimm.hardware.noc import Congestion, Latency, StageTraffic, Traffic, congestion, latency, send
from spimm.hardware.placement import Placement, place
from spimm.hardware.simulate import LayerTraffic, Simulation, simulate

__all__ = [
    "NEURONS_PER_CORE",
    "Congestion",
    "Core",
    "CoreMap",
    "CutLayer",
    "Delivery",
    "EnergyCosts",
    "FrameEnergy",
    "Latency",
    "LayerTraffic",
    "Loads",
    "Mesh",
    "Placement",
    "Simulation",
    "Spread",
    "StageTraffic",
    "Tile",
    "TimeCosts",
    "Traffic",
    "congestion",
    "frame_energy",
    "latency",
    "map_layers",
    "place",
    "plot_mesh",
    "send",
    "simulate",
]
