"""Time or memory against one number: the fitted power law and a log-log picture."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from spimm.bench.registry import Sweep
from spimm.bench.timing import Summary
from spimm.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#3b6fb6", "#c8553d", "#2a9d8f", "#e9a23b", "#7a5195", "#6c757d")


@dataclass(frozen=True)
class Curve:
    """Medians `y` at the numbers `x`, ascending. y is about c x^slope; `steepest` is the slope of the worst interval.

    A cliff shows as a `steepest` far above `slope`; fixed costs show as a slope below the expected one.
    """

    name: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    slope: float
    steepest: float
    expected: float | None


def curves_of(sweep: Sweep | None, sides: Mapping[str, Summary]) -> list[Curve]:
    """One curve a series; none without a sweep. A series needs two numbers or more."""
    curves = []
    for series in sweep.series if sweep else ():
        points = [(number, sides[series.sides[number]].median) for number in sorted(series.sides)]
        logs = [(math.log(x), math.log(y)) for x, y in points]
        slope = statistics.linear_regression(*zip(*logs, strict=True)).slope
        steepest = max((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(logs))
        x, y = zip(*points, strict=True)
        curves.append(Curve(series.name, sweep.label if sweep else "", x, y, slope, steepest, series.expected))
    return curves


def draw(curves: list[Curve], *, title: str, unit: str) -> "Figure":
    """Log-log, a line a curve with its slope in the legend. Needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, curve in enumerate(curves):
        expected = "" if curve.expected is None else f" (expected {curve.expected:g})"
        text = f"{curve.name}: slope {curve.slope:.2f}{expected}, steepest {curve.steepest:.2f}"
        axes.plot(curve.x, curve.y, "o-", color=COLOURS[index % len(COLOURS)], label=text)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted({x for curve in curves for x in curve.x}))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1e5 else f"{value / 1000:.0f}k")
    axes.tick_params("x", rotation=45 if any(x >= 1e5 for x in axes.get_xticks()) else 0)
    axes.set_xlabel(curves[0].label)
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10, wrap=True)
    axes.grid(True, which="both", color="#dddddd", linewidth=0.5)
    axes.legend(fontsize=8, frameon=False)
    return figure


def save(figure: "Figure", path: Path) -> Path:
    """Writes a .png, whole or not at all."""
    return write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=120, format="png"))
