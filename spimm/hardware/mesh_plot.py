"""Picture of a network on a mesh: which layer sits where, and how many packets cross each link."""

import math
from typing import TYPE_CHECKING

import numpy as np

from spimm.hardware.mapping import CutLayer
from spimm.hardware.simulate import Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

INK, EMPTY = "#222222", "#f2f2f2"
IDLE_TO_FULL = ("#dddddd", "#f2b263", "#d1495b", "#5c0a1e")
SIDE = 0.52
"""Of a core, in tiles."""
LANE = 0.13
"""From the middle of a tile to the link in one direction; packets keep to the right."""
WIDEST, THINNEST = 4.5, 0.5  # points
LEGIBLE = 0.25
"""Least width of a tile, in inches, with the number of its layer."""
LINE, LETTER = 0.19, 0.068
"""Of the legend, in inches."""


def plot_mesh(simulation: Simulation) -> "Figure":
    """Cores coloured and numbered by layer; links as wide and dark as their packets per frame. Needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mesh, chip = simulation.mesh, simulation.chip
    tile = min(0.62, 12 / max(mesh.columns, mesh.rows))
    height = max(tile * mesh.rows, 3.5) + 0.9
    labels = [f"{number}  {_label(layer)}" for number, layer in enumerate(chip.layers)]
    columns = math.ceil(len(labels) * LINE / height)
    legend = columns * (0.6 + LETTER * max(map(len, labels)))
    figure = Figure(figsize=(max(tile * mesh.columns, 3.5) + 1.2 + legend, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    links = _draw_links(axes, simulation)
    _draw_cores(axes, simulation, labels, tile)
    axes.set_xlim(-0.6, mesh.columns - 0.4)
    axes.set_ylim(mesh.rows - 0.4, -0.6)
    axes.set_aspect("equal")
    axes.set_axis_off()
    figure.colorbar(links, ax=axes, label="packets over a link per frame", fraction=0.05, pad=0.02, aspect=35)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside right center", ncols=columns, frameon=False, fontsize=8
    )
    axes.set_title(
        f"{chip.model}, {mesh} cores, {simulation.placement}, {simulation.delivery}\n"
        f"{simulation.hops_per_spike:.1f} hops a spike, {simulation.energy.total:.3g} µJ a frame",
        loc="left",
        fontsize=10,
        color=INK,
    )
    return figure


def _label(layer: CutLayer) -> str:
    cores = len(layer.cores)
    return f"{layer.name.removesuffix('.neuron')}: {cores} core{'s' * (cores > 1)}"


def _draw_links(axes: "Axes", simulation: Simulation) -> "LineCollection":
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap

    links = simulation.traffic.loads().links()
    order = sorted(links, key=links.__getitem__)  # full ones on top
    loads = np.array([links[link] for link in order])
    most = loads.max(initial=0) or 1.0
    lanes = []
    for start, end in order:
        towards = np.array(end) - np.array(start)
        aside = LANE * np.array([-towards[1], towards[0]])
        lanes.append([np.array(start) + aside, np.array(end) + aside])
    colours = LinearSegmentedColormap.from_list("packets", IDLE_TO_FULL)
    drawn = LineCollection(lanes, cmap=colours, linewidths=THINNEST + (WIDEST - THINNEST) * loads / most, zorder=1)
    drawn.set_array(loads)
    drawn.set_clim(0, most)
    axes.add_collection(drawn)
    return drawn


def _draw_cores(axes: "Axes", simulation: Simulation, labels: list[str], tile: float) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    layers, used = simulation.chip.layers, iter(simulation.tiles)

    def square(x: int, y: int, colour: object, label: str | None = None) -> None:
        corner = x - SIDE / 2, y - SIDE / 2
        axes.add_patch(
            Rectangle(corner, SIDE, SIDE, facecolor=colour, edgecolor=INK, linewidth=0.5, label=label, zorder=2)
        )

    for x, y in set(simulation.mesh.tiles()) - set(simulation.tiles):
        square(x, y, EMPTY)
    for number, layer in enumerate(layers):
        colour = colormaps["viridis"](number / max(len(layers) - 1, 1))
        ink = "white" if number < 0.6 * len(layers) else INK
        for core, (x, y) in zip(range(len(layer.cores)), used, strict=False):
            square(x, y, colour, labels[number] if core == 0 else None)
            if tile >= LEGIBLE:
                axes.text(x, y, str(number), ha="center", va="center", fontsize=min(8, 13 * tile), color=ink, zorder=3)
