"""Pictures of networks of spike times: who fires when, who stays silent, potentials against the falling threshold.

Wei et al. 2023 (DTA-TTFS), Figs. 3, 5 and 6; T_w is the length of a layer's window.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from spimm.analyze.plots import INK, new_figure, tidy
from spimm.analyze.trace import Layer, Trace
from spimm.kernels import rel_psp
from spimm.neurons import spike_times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SPIKES = 2000
"""Of a layer that are drawn, evenly chosen; more would cover one another."""
SERIES = ("#9d9d9d", "#3b6fb6", "#d55e00", "#2a9d8f")
AT_START, WITHIN = "#20446f", "#7fa6d6"
CURVES = ("#3b6fb6", "#2a9d8f", "#7a5195", "#c8553d", "#e9a23b", "#6c757d")
THRESHOLD, CLOSED_OFF = "#d55e00", "#f0f0f0"
OUTCOMES = ("fires at the start", "fires within the window", "stays silent")


class Raster(Protocol):
    """The spikes of a layer for one image, each [S]."""

    @property
    def layer(self) -> str: ...
    @property
    def times(self) -> Tensor:
        """From the image on."""
        ...

    @property
    def neurons(self) -> Tensor:
        """Index scaled to [0, 1]."""
        ...


def plot_raster(panels: Mapping[str, Sequence[Raster]]) -> "Figure":
    """Neurons against the times at which they fire, a colour for each layer; a panel for each network by its title.

    All panels have the same layers and the time axis of the first; how many spikes come later is said. Raises
    ValueError for other layers, and where there is no panel, no layer or no spike in the first.
    """
    names = _common({title: [raster.layer for raster in rasters] for title, rasters in panels.items()})
    until = max((float(raster.times.max()) for raster in next(iter(panels.values())) if len(raster.times)), default=0.0)
    if not until:
        raise ValueError(f"{next(iter(panels))!r} has no spike behind time 0; wanted a time axis for all networks")
    figure = new_figure(5.2 * len(panels), 3.6 + 0.17 * math.ceil(len(names) / (3 * len(panels))))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, rasters) in zip(grid, panels.items(), strict=True):
        for raster, colour in zip(rasters, _colours(len(names)), strict=True):
            some = slice(None, None, math.ceil(len(raster.times) / MOST_SPIKES) or 1)
            times, neurons = raster.times[some].cpu(), raster.neurons[some].cpu()
            axes.scatter(times, neurons, s=1.6, color=colour, linewidths=0, alpha=0.7, label=raster.layer, zorder=2)
        late, count = (
            sum(int(part) for part in parts)
            for parts in (
                [(raster.times > until).sum() for raster in rasters],
                [len(raster.times) for raster in rasters],
            )
        )
        later = f", {late / count:.0%} of them later" if late else ""
        axes.set_title(f"{title}: {count:,} spikes{later}", loc="left", fontsize=10, color=INK)
        axes.set_xlim(-0.02 * until, 1.02 * until)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("time since the image", fontsize=9)
        tidy(axes)
    grid[0].set_ylabel("neuron of its layer, scaled", fontsize=9)
    legend = {"loc": "outside lower center", "ncols": 3 * len(panels), "frameon": False, "fontsize": 8}
    figure.legend(*grid[0].get_legend_handles_labels(), markerscale=6, **legend)
    return figure


def plot_inactive(shares: Mapping[str, Mapping[str, float]]) -> "Figure":
    """Bars of the share of neurons that stay silent, in [0, 1], by network and layer.

    All networks have the same layers. Raises ValueError for others, where there is no network or layer, and for more
    networks than there are colours.
    """
    names = _common(shares)
    if len(shares) > len(SERIES):
        raise ValueError(f"there are {len(shares)} networks; wanted at most {len(SERIES)}")
    figure = new_figure(max(6.0, 0.75 * len(names) + 1), 3.6)
    axes = figure.subplots()
    width = 0.8 / len(shares)
    places = np.arange(len(names))
    for i, ((title, layers), colour) in enumerate(zip(shares.items(), SERIES, strict=False)):
        heights = [100 * share for share in layers.values()]
        axes.bar(places + (i - (len(shares) - 1) / 2) * width, heights, width, color=colour, label=title, zorder=2)
    axes.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_ylabel("inactive neurons, %", fontsize=9)
    axes.set_ylim(0, 102)
    tidy(axes)
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def plot_spike_times(trace: Trace) -> "Figure":
    """When the neurons of each layer fire, in parts of its window: bars of the share of all its neurons.

    Raises ValueError for a trace without spike times.
    """
    layers = [layer for layer in trace.layers if layer.times]
    if not layers:
        raise ValueError(f"the trace of {trace.model} has no spike times")
    columns = min(4, len(layers))
    rows = math.ceil(len(layers) / columns)
    figure = new_figure(2.6 * columns, 1.5 * rows + 0.8)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, layer in zip(grid.flat, layers, strict=False):
        _draw_times(axes, layer)
    for i in range(len(layers), grid.size):
        grid.flat[i].set_visible(False)
        grid.flat[i - columns].tick_params(labelbottom=True)
    figure.supxlabel("spike time from the start of the layer's window, in windows", fontsize=9)
    figure.supylabel("neurons, %", fontsize=9)
    handles = grid.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=2, frameon=False, fontsize=8.5)
    return figure


def _draw_times(axes: "Axes", layer: Layer) -> None:
    assert layer.times
    parts = len(layer.times.histogram)
    at_start = 100 * layer.rate * layer.times.at_start
    heights = 100 * layer.rate * np.array(layer.times.histogram)
    heights[0] -= at_start
    bottoms = np.array([at_start, *[0.0] * (parts - 1)])
    places = (np.arange(parts) + 0.5) / parts
    axes.bar(places[:1], [at_start], 0.9 / parts, color=AT_START, label="at the very start", zorder=2)
    axes.bar(places, heights, 0.9 / parts, bottoms, color=WITHIN, label="later in the window", zorder=2)
    axes.set_title(layer.name.removesuffix(".neuron"), loc="left", fontsize=9, color=INK)
    silent = {"transform": axes.transAxes, "ha": "right", "va": "top", "fontsize": 8, "color": INK}
    axes.text(0.97, 0.95, f"{1 - layer.rate:.0%} silent", **silent)
    axes.set_xlim(0, 1)
    tidy(axes)


def plot_potentials(times: Tensor, weights: Tensor, *, window: float = 1.0) -> "Figure":
    """Potentials of neurons on the same input, and where they meet the falling threshold: a panel for each outcome.

    times: [I], of the inputs from the start of their window, infinite for silent ones; weights: [J, I]. The layer's own
    window starts at 0. Raises ValueError for other shapes and for times outside the window.
    """
    if times.dim() != 1 or weights.dim() != 2 or weights.shape[1] != len(times):
        raise ValueError(f"times are {tuple(times.shape)} and weights {tuple(weights.shape)}; wanted [I] and [J, I]")
    sent = times[times != math.inf]
    if not ((sent >= 0) & (sent <= window)).all():
        raise ValueError(f"times are {times.tolist()}; wanted 0 to {window}, the window, or infinity")
    left = torch.where(times == math.inf, 0, window - times)
    drive = torch.stack([weights @ left, weights @ (times != math.inf).to(weights.dtype)])
    fires = spike_times(rel_psp(drive, window=window, backend="reference"), window)
    clock = torch.linspace(-window, window, 401, dtype=weights.dtype)
    potentials = weights @ (clock - (times - window).unsqueeze(1)).clamp(min=0)
    outcome = torch.where(fires == 0, 0, torch.where(fires < math.inf, 1, 2))
    figure = new_figure(10.5, 3.3)
    low, high = float(potentials.min()), max(float(potentials[:, :201].max()), window)
    for number, axes in enumerate(figure.subplots(1, 3, sharey=True)):
        axes.set_ylim(1.1 * min(low, -0.2 * window), 1.15 * high)
        chosen = (outcome == number).nonzero().flatten().tolist()
        for place, neuron in enumerate(chosen):
            colour = CURVES[place % len(CURVES)]
            _draw_potential(axes, clock, potentials[neuron], float(fires[neuron]), colour)
        _draw_threshold(axes, sent - window, window)
        axes.set_title(OUTCOMES[number], loc="left", fontsize=10, color=INK)
    figure.axes[0].set_ylabel("potential", fontsize=9)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=3, frameon=False)
    return figure


def _draw_potential(axes: "Axes", clock: Tensor, potential: Tensor, fires: float, colour: str) -> None:
    until = clock <= fires
    axes.plot(clock[until], potential[until], color=colour, linewidth=1.6, zorder=3)
    axes.plot(clock[~until], potential[~until], color=colour, linewidth=0.8, linestyle=":", zorder=3)
    if fires < math.inf:
        at = np.interp(fires, clock, potential)
        axes.plot(fires, at, "o", color=colour, markersize=5, zorder=4, clip_on=False)


def _draw_threshold(axes: "Axes", inputs: Tensor, window: float) -> None:
    axes.axvspan(-window, 0, color=CLOSED_OFF, zorder=0, label="threshold infinite")
    axes.plot([0, window], [window, 0], color=THRESHOLD, linewidth=2, zorder=2, label="threshold")
    axes.plot(inputs, [0.02] * len(inputs), "|", color=INK, markersize=8, transform=axes.get_xaxis_transform(),
              clip_on=False, zorder=4, label="spikes of the input")  # fmt: skip
    axes.set_xlim(-window, window)
    axes.set_xticks([-window, -window / 2, 0, window / 2, window])
    axes.set_xlabel("time from the start of the layer's window", fontsize=9)
    tidy(axes)


def _common(layers: Mapping[str, Sequence[str] | Mapping[str, float]]) -> list[str]:
    """The layers that all networks have in common, which must be all layers."""
    lists = {title: list(names) for title, names in layers.items()}
    first = next(iter(lists.values()), [])
    if not first:
        raise ValueError("there is no layer; wanted one or more of each network")
    for title, names in lists.items():
        if names != first:
            raise ValueError(f"{title!r} has the layers {names}; wanted those of the others, {first}")
    return first


def _colours(count: int) -> list[tuple[float, ...]]:
    """One for each layer, from blue over green to red."""
    from matplotlib import colormaps

    return [tuple(colour) for colour in colormaps["turbo"](np.linspace(0.06, 0.94, count))]
