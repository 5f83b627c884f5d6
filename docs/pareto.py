"""Accuracy against energy under one budget of training, of the records cifar10_jpeg_budget_*: `python docs/pareto.py`.

Prints the table of docs/results/README.md and draws docs/figures/pareto.png.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

import spimm
from spimm.analyze import Trace, energy, save_plot
from spimm.analyze.plots import new_figure, tidy
from spimm.reproduce import Result, load_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS = Path(__file__).parent
RESULTS = DOCS / "results"
FIGURE = DOCS / "figures" / "pareto.png"
PREFIX = "cifar10_jpeg_budget_"
FAMILIES = {
    "qkformer": ("QKFormer", "#3b6fb6"),
    "metaspikeformer": ("Meta-SpikeFormer", "#2a9d8f"),
    "spikeatconv": ("SpikeAtConv", "#e9a23b"),
    "ttfs": ("TTFS-VGG11", "#c8553d"),
}
ORDINARY = {
    "qkformer": "ResNet-18, 12 channels",
    "metaspikeformer": "ResNet-18, 24 channels",
    "spikeatconv": "spike-free SpikeAtConv",
    "ttfs": "ReLU1 twin",
}
START = {"ttfs": "ttfs_start"}
"""The run whose weights another goes on from, and whose minutes count as well."""


class Point(NamedTuple):
    """A network and what its training came to."""

    family: str
    label: str
    spiking: bool
    parameters: int
    num_steps: int
    top1: float
    """After the last epoch, %."""
    spikes: float | None
    """A neuron and image."""
    microjoules: float
    """Of an image, each value that is not 0 one spike."""
    integer_microjoules: float
    """Each value of n as n spikes."""
    minutes: float


def points(results: Iterable[Result]) -> list[Point]:
    """Each family and the ordinary network beside it, in the order of FAMILIES."""
    found = {
        result.record.name.removeprefix(PREFIX): result for result in results if result.record.name.startswith(PREFIX)
    }
    made = []
    for family, (label, _) in FAMILIES.items():
        before = found[START[family]].minutes if family in START else 0.0
        made.append(_point(family, label, found[family], before))
        made.append(_point(family, ORDINARY[family], found[f"{family}_ann"]))
    return made


def _point(family: str, label: str, result: Result, minutes_before: float = 0.0) -> Point:
    recipe, figures = result.recipe, result.figures
    spiking, microjoules = "sparsity" in figures, 1000 * figures["energy"]
    with torch.device("meta"):
        model = spimm.create_model(recipe.model, num_classes=10, **recipe.model_options)
    return Point(
        family=family,
        label=label,
        spiking=spiking,
        parameters=sum(weight.numel() for weight in model.parameters()),
        num_steps=model.num_steps,
        top1=figures["top1"],
        spikes=figures.get("sparsity"),
        microjoules=microjoules,
        integer_microjoules=_integer_microjoules(result) if spiking else microjoules,
        minutes=result.minutes + minutes_before,
    )


def _integer_microjoules(result: Result) -> float:
    (entry,) = result.record.entries
    trace = Trace.from_json((RESULTS / str(entry.files.trace)).read_text(encoding="utf-8"))
    return 1000 * energy(trace, count_integers=True).millijoules


def frontier(measured: Iterable[Point]) -> list[Point]:
    """Those that no other beats at no more energy, by energy."""
    best: list[Point] = []
    for point in sorted(measured, key=lambda point: (point.microjoules, -point.top1)):
        if not best or point.top1 > best[-1].top1:
            best.append(point)
    return best


def table(measured: Sequence[Point]) -> Iterable[str]:
    """Lines of markdown, a row for each network."""
    yield "| network | parameters | T | top-1, % | spikes a neuron | firing rate | energy, µJ | integers | minutes |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for point in measured:
        rates = ("", "") if point.spikes is None else (f"{point.spikes:.3f}", f"{point.spikes / point.num_steps:.3f}")
        joules = (f"{point.microjoules:.3g}", f"{point.integer_microjoules:.3g}" if point.spiking else "")
        numbers = (f"{point.top1:.2f}", *rates, *joules, f"{point.minutes:.1f}")
        yield f"| {point.label} | {point.parameters:,} | {point.num_steps} | {' | '.join(numbers)} |"


def draw(measured: Sequence[Point]) -> "Figure":
    """Filled marks fire, open ones do not; the line joins those that none beats."""
    figure = new_figure(7.5, 4.6)
    axes = figure.subplots()
    tidy(axes)
    best = frontier(measured)
    axes.plot([point.microjoules for point in best], [point.top1 for point in best], color="#999999", zorder=1)
    for point in measured:
        colour = FAMILIES[point.family][1]
        face = colour if point.spiking else "white"
        axes.scatter(point.microjoules, point.top1, s=70, color=face, edgecolors=colour, linewidths=1.8, zorder=2)
        axes.annotate(
            point.label, (point.microjoules, point.top1), xytext=(7, -11), textcoords="offset points", fontsize=8
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.22, y=0.1)
    axes.set(xlabel="energy of an image at 45 nm, µJ", ylabel="top-1, %")
    return figure


if __name__ == "__main__":
    shown = points(load_results(RESULTS))
    print(*table(shown), sep="\n")
    save_plot(draw(shown), FIGURE, dpi=130, colours=64)
