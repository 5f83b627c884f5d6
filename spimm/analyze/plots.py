"""One picture of a trace: firing rate of every neuron layer, and energy of every part of the network."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from spimm.analyze.energy_report import PICOJOULES_PER_MILLIJOULE, EnergyReport
from spimm.analyze.trace import Trace
from spimm.files import write_whole
from spimm.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PART_COLOURS = ("#3b6fb6", "#2a9d8f", "#e9a23b", "#c8553d", "#7a5195", "#6c757d")
"""One a part of the network, in the order of the layers; more parts start over."""
GROUP_COLOURS = {
    "input": "#b23a48",
    "conv": "#4c78a8",
    "linear": "#72b7b2",
    "attention": "#eeca3b",
    "classifier": "#8f5d9b",
}
OTHER_GROUP = "#9d9d9d"
INK, FAINT = "#222222", "#dddddd"
FIRST_STEP, LAST_STEP = 0.72, 0.1  # greys


def plot(trace: Trace, energy: EnergyReport) -> "Figure":
    """Bars for the rates with a dot for each time step, stacked bars for the energy. Needs no display."""
    rows = max(len(trace.firing_rates()), 12)
    figure = new_figure(13, 1.7 + 0.2 * rows)
    rates, joules = figure.subplots(1, 2, width_ratios=(1.5, 1))
    figure.get_layout_engine().set(wspace=0.06, w_pad=0.1, h_pad=0.08)  # type: ignore[union-attr]
    unit, per_millijoule = _unit(energy)
    total = f"{energy.millijoules * per_millijoule:.4g} {unit} per sample"
    title = f"{trace.model}: {counted(trace.num_steps, 'step')}, {counted(trace.samples, 'sample')}, {total}"
    figure.suptitle(title, fontsize=13, color=INK)
    _draw_rates(rates, trace)
    _draw_energy(joules, energy)
    figure.legend(*joules.get_legend_handles_labels(), loc="outside lower right", ncols=6, frameon=False, fontsize=8)
    return figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of that size in inches. Needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: "Axes") -> None:
    """A faint grid behind what is drawn, and no frame but on the left and below."""
    axes.grid(color=FAINT, linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def save_plot(figure: "Figure", path: str | Path, *, dpi: int = 150, colours: int | None = None) -> Path:
    """Writes the figure, whole or not at all, in the format of the suffix (.png, .svg, .pdf). Returns the path.

    `colours` reduces a PNG to so many of them, which makes it a few times smaller; ValueError for another format.
    """
    if colours is None:
        return write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=dpi))
    if Path(path).suffix != ".png":
        raise ValueError(f"colours is {colours} for {path}; only a .png can have fewer colours")
    drawn = BytesIO()
    figure.savefig(drawn, dpi=dpi)
    image = Image.open(drawn).convert("RGB").quantize(colours)
    return write_whole(path, lambda unfinished: image.save(unfinished, optimize=True))


def _part(name: str, depth: int = 1) -> str:
    """Leading `depth` words of a layer's name, each with its index: stages.0, at depth 2 stages.0.blocks.1."""
    kept: list[str] = []
    words = name.split(".")
    for _ in range(depth):
        kept, words = kept + words[:1], words[1:]
        if words and words[0].isdigit():
            kept, words = kept + words[:1], words[1:]
    return ".".join(kept)


def _unit(energy: EnergyReport) -> tuple[str, float]:
    """A unit that suits the total, and how many of it are 1 mJ."""
    return ("mJ", 1.0) if energy.millijoules >= 1 else ("µJ", 1e3)


def _draw_rates(axes: "Axes", trace: Trace) -> None:
    layers = [layer for layer in trace.layers if layer.step_rates]
    parts = list(dict.fromkeys(_part(layer.name) for layer in layers))
    for row, layer in enumerate(layers):
        colour = PART_COLOURS[parts.index(_part(layer.name)) % len(PART_COLOURS)]
        axes.barh(row, layer.rate, height=0.76, color=colour, alpha=0.8, zorder=2)
        steps = layer.step_rates
        if len(steps) > 1:
            greys = [str(FIRST_STEP + (LAST_STEP - FIRST_STEP) * step / (len(steps) - 1)) for step in range(len(steps))]
            axes.hlines(row, min(steps), max(steps), color=INK, alpha=0.5, linewidth=0.7, zorder=3)
            at = [row] * len(steps)
            axes.scatter(steps, at, s=14, c=greys, linewidths=0.4, edgecolors=INK, zorder=4, clip_on=False)
    axes.set_yticks(range(len(layers)), [layer.name.replace(".neuron", "") for layer in layers], fontsize=7.5)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("spikes per neuron and step")
    axes.set_title("Firing rate (bar: mean; dots: single steps, darker is later)", loc="left", color=INK, fontsize=10)
    _tidy_bars(axes)


def _draw_energy(axes: "Axes", energy: EnergyReport) -> None:
    parts = list(dict.fromkeys(_part(line.layer, 2) for line in energy.counted))
    unit, per_millijoule = _unit(energy)
    scale = per_millijoule / PICOJOULES_PER_MILLIJOULE
    left = [0.0] * len(parts)
    for group in energy.groups():
        lines = [line for line in energy.counted if line.group == group]
        widths = [scale * sum(line.picojoules for line in lines if _part(line.layer, 2) == part) for part in parts]
        label = f"{group} ({', '.join(sorted({line.operation for line in lines}))})"
        axes.barh(parts, widths, 0.6, left, color=GROUP_COLOURS.get(group, OTHER_GROUP), label=label, zorder=2)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for part, total in zip(parts, left, strict=True):
        axes.annotate(f"{total:.3g}", (total, part), (4, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.set_xlim(0, 1.15 * max(left) or 1)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel(f"{unit} per sample")
    axes.set_title("Energy", loc="left", color=INK, fontsize=10)
    _tidy_bars(axes)


def _tidy_bars(axes: "Axes") -> None:
    axes.grid(axis="x", color=FAINT, linewidth=0.6, zorder=0)
    axes.tick_params(length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
